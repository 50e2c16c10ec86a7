from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dynconv.data import Split, normalise
from dynconv.data.augment import ten_crops
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import LoadedRun, dump, load_run
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import train
from dynconv.methods import METHODS

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def run(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps from one and two to three."""
    own = METHODS["source-only"].config_class(lr=1e-3)
    sources = tuple(f"{name}={domains / name}" for name in ("one", "two"))
    options = RunOptions(
        source=sources,
        target=f"three={domains / 'three'}",
        out=tmp_path_factory.mktemp("runs") / "run",
        max_steps=6,
        eval_every=6,
        batch_size=8,
        device="cpu",
    )
    return train(TrainConfig("source-only", options, own), console=Console(quiet=True)).path


@pytest.fixture
def loaded(run: Path) -> LoadedRun:
    return load_run(run, device="cpu")


def test_a_dump_is_what_the_evaluation_sees(loaded: LoadedRun) -> None:
    protocol, held_out = loaded.domains()
    assert (loaded.step, loaded.checkpoint, loaded.classes) == (6, "last", ("class0", "class1", "class2"))
    assert not loaded.method.training
    split = protocol.target.test
    assert split is not None and len(held_out) == 2
    found = dump(loaded, split)
    images = normalise(split.images_at(torch.arange(len(split))))
    with torch.no_grad():
        features = loaded.method.features(images)
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.scores, loaded.method.heads[0](features).detach())
    assert torch.equal(found.labels, split.labels) and torch.equal(found.indices, torch.arange(60))
    last = loaded.folder.read_done()["selected"]["last"]
    assert (found.scores.argmax(dim=1) == found.labels).double().mean() == last["target-test/three/accuracy"]
    held = torch.cat([dump(loaded, each).scores.argmax(dim=1) == each.labels for each in held_out])
    expected = [last[f"source-val/{name}/accuracy"] for name in ("one", "two")]
    assert held.double().mean() == pytest.approx(sum(expected) / 2)


def test_a_dump_leaves_the_method_as_it_was(loaded: LoadedRun) -> None:
    split = loaded.domains()[0].target.train
    with pytest.raises(ValueError, match="holds no image"):
        dump(loaded, split.subset(torch.tensor([], dtype=torch.int64)))
    dump(loaded, split)
    assert not loaded.method.features._forward_hooks


def test_a_run_judged_by_ten_crops_is_dumped_so(loaded: LoadedRun) -> None:
    pixels = torch.randint(0, 256, (13, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    # No backbone that can be trained here in a second has a margin to crop from.
    object.__setattr__(loaded.config.run, "ten_crop", True)
    found = dump(loaded, Split(pixels, torch.zeros(13, dtype=torch.int64), 32))
    crops = normalise(ten_crops(pixels, (32, 32)).flatten(0, 1))
    with torch.no_grad():
        features = loaded.method.features(crops)
        mean = loaded.method.heads[0](features).softmax(dim=1).unflatten(0, (13, 10)).mean(dim=1)
    torch.testing.assert_close(found.features, features.unflatten(0, (13, 10)).mean(dim=1))
    torch.testing.assert_close(found.scores.softmax(dim=1), mean)


def test_another_place_of_the_data_and_another_precision(loaded: LoadedRun, tmp_path: Path) -> None:
    moved = load_run(loaded.folder.path, device="cpu", precision="bf16-mixed", data_root=tmp_path)
    assert moved.root == tmp_path
    assert moved.config.hash == loaded.config.hash
    found = dump(moved, moved.domains()[0].target.train)
    assert found.features.dtype == found.scores.dtype == torch.float32
    exact = dump(loaded, loaded.domains()[0].target.train)
    assert not torch.equal(found.scores, exact.scores)
    torch.testing.assert_close(found.scores, exact.scores, rtol=0.1, atol=0.1)


def test_each_domain_is_seen_by_its_own_statistics(tmp_path: Path, make_config: Make, quiet: Console) -> None:
    own = METHODS["source-only"].config_class(normalisation_policy="adabn")
    train(make_config(tmp_path / "run", "source-only", own, max_steps=2, eval_every=2), console=quiet)
    loaded = load_run(tmp_path / "run", device="cpu")
    split = loaded.domains()[0].target.train
    images = normalise(split.images_at(torch.arange(len(split))))
    for domain in ("source", "target"):
        with torch.no_grad(), loaded.method.evaluating_domain(domain):
            expected = loaded.method.features(images)
        torch.testing.assert_close(dump(loaded, split, domain=domain).features, expected)
    assert not torch.allclose(dump(loaded, split, domain="source").features, expected, atol=1e-2)
    torch.testing.assert_close(dump(loaded, split).features, expected)
