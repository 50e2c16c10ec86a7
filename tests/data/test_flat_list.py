"""A flat list of source images: which domain each is of need not be known. And target images as one more source."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from dynconv import cli
from dynconv.data import Domain, DomainBatches, Protocol, Split, load_domain, load_protocol
from dynconv.data.arrangements import with_pseudo_labels
from dynconv.engine.run_folder import RunFolder

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
# Of each domain, class and list.
COUNT = 4


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all.txt: images of two embedded domains, mixed; target.txt: those of a third."""
    from PIL import Image

    root = tmp_path_factory.mktemp("lists")
    lines: dict[str, list[str]] = {"all": [], "target": []}
    for name, listing in (("plain", "all"), ("textured", "all"), ("optical", "target")):
        split = load_domain(f"embedded:{name}", classes=CLASSES).test
        assert split is not None
        for label in range(10):
            for place in torch.nonzero(split.labels == label).flatten()[:COUNT].tolist():
                file = root / f"{name}-{label}-{place}.png"
                Image.fromarray(split.images[place].permute(1, 2, 0).numpy()).save(file)
                lines[listing].append(f"{file.name} {label}\n")
    for listing, rows in lines.items():
        (root / f"{listing}.txt").write_text("".join(rows))
    return root


def test_a_flat_list_is_one_source_of_all_its_domains(lists: Path) -> None:
    protocol = load_protocol(None, source=[f"all={lists}/all.txt"], target=f"t={lists}/target.txt")
    (source,) = protocol.sources
    assert source.test is not None
    assert len(source.train) + len(source.test) == 2 * 10 * COUNT
    rows = [line.split() for line in (lists / "all.txt").read_text().splitlines()]
    assert {name.partition("-")[0] for name, _ in rows} == {"plain", "textured"}
    batches = DomainBatches(protocol, batch_size=16, seed=0)
    for batch in islice(batches, 8):
        assert batch.source.domains.tolist() == [0] * 16
    labels = torch.cat([batch.source.labels for batch in islice(batches, 8)])
    assert set(labels.tolist()) == set(range(10))


def test_drt_trains_and_is_measured_on_a_flat_list(lists: Path, tmp_path: Path) -> None:
    words = ["--source", f"all={lists}/all.txt", "--target", f"t={lists}/target.txt"]
    short = ["--max-steps", "2", "--batch-size", "16", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert cli.main(["train", "drt", *words, *short]) == 0
    last = RunFolder(tmp_path / "run").rows()[-1]
    assert last["step"] == 2
    assert {"source-val/all/accuracy", "source-test/all/accuracy", "target-test/t/accuracy"} <= set(last)


def protocol() -> Protocol:
    def domain(name: str, value: int, size: int) -> Domain:
        images = torch.full((size, 3, 4, 4), value, dtype=torch.uint8) + torch.arange(size).view(-1, 1, 1, 1).byte()
        return Domain(name, ("a", "b"), Split(images, torch.arange(size) % 2), None)

    return Protocol("s+t", (domain("s", 0, 10),), domain("t", 100, 20))


def test_pseudo_labelled_images_are_a_source_and_the_target_stays_whole() -> None:
    before = protocol()
    # Each with the label that it does not have.
    indices = torch.tensor([3, 4, 11])
    found = with_pseudo_labels(before, indices, 1 - before.target.train.labels[indices])
    assert [source.name for source in found.sources] == ["s", "t (pseudo-labelled)"]
    added = found.sources[-1]
    assert added.test is None and added.classes == ("a", "b")
    assert added.train.images[:, 0, 0, 0].tolist() == [103, 104, 111]
    assert added.train.labels.tolist() == [0, 1, 0]
    assert found.target is before.target and found.sources[0] is before.sources[0]
    for batch in islice(DomainBatches(found, batch_size=4, seed=0), 3):
        assert batch.source.domains.tolist() == [0, 1, 0, 1]


def test_pseudo_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: expected int64"):
        with_pseudo_labels(protocol(), torch.tensor([1, 2]), torch.tensor([1]))
