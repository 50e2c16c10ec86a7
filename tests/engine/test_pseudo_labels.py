"""Self-training from a finished run: which target images are taken as what, and that nothing else knows of them."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import forked
from rich.console import Console
from same_run import assert_same_run, call_at_step, flat, without_seconds

from dynconv import cli
from dynconv.engine import pseudo_label_file
from dynconv.engine import pseudo_labels as module
from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.loaded_run import dump, load_run
from dynconv.engine.loading import load_domains
from dynconv.engine.measure import measure_run
from dynconv.engine.options import parse_train
from dynconv.engine.pseudo_label_file import read_pseudo_labels
from dynconv.engine.pseudo_labels import guessed, pseudo_labels, select
from dynconv.engine.run import Run
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import RunOptions
from dynconv.engine.train import make_fabric, open_folder, prepare, train
from dynconv.methods import METHODS, M3SDAConfig, SourceOnlyConfig

Make = Callable[..., TrainConfig]
# Of three classes: above it are some of the target's 60 images and not all (the tests say so where it matters).
THRESHOLD = 0.5


def options(domains: Path, out: Path, **run: Any) -> RunOptions:
    values: dict[str, Any] = {"max_steps": 16, "batch_size": 16, "eval_every": 8, "device": "cpu", "out": out}
    values["source"] = (f"one={domains / 'one'}", f"two={domains / 'two'}")
    values["target"] = f"three={domains / 'three'}"
    return RunOptions(**{**values, **run})


@pytest.fixture(scope="module")
def first(domains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run from one and two to three."""
    out = tmp_path_factory.mktemp("first") / "run"
    train(
        TrainConfig("source-only", options(domains, out, seed=1), SourceOnlyConfig(lr=1e-4)),
        console=Console(quiet=True),
    )
    return out


@pytest.fixture
def second(first: Path, tiny: type, make_config: Make, tmp_path: Path) -> Make:
    """A run of 12 steps that learns the first one's pseudo labels; keywords are fields of `RunOptions`."""

    def make(name: str = "second", method: str = "tiny", own: Any = None, **run: Any) -> TrainConfig:
        values = {"pseudo_labels_from": first, "pseudo_confidence": THRESHOLD, **run}
        return make_config(tmp_path / name, method, own, **values)

    return make


def prepared(config: TrainConfig) -> Run:
    return prepare(config, open_folder(config), make_fabric(config.run))


def plain_selection(run: Path, threshold: float, checkpoint: Any = "last") -> list[tuple[int, int, float]]:
    """Place, class and confidence of every image that is sure enough, one by one."""
    loaded = load_run(run, checkpoint=checkpoint, device="cpu")
    found = []
    for place, scores in enumerate(dump(loaded, loaded.domains()[0].target.train).scores):
        probabilities = (scores.double() - scores.double().max()).exp()
        probabilities = probabilities / probabilities.sum()
        best = max(range(len(scores)), key=lambda label: float(probabilities[label]))
        if float(probabilities[best]) > threshold:
            found.append((place, best, float(probabilities[best])))
    return found


def test_the_selection_is_that_of_a_plain_loop() -> None:
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 2
    found = [each.tolist() for each in select(*guessed(scores), 0.7)]
    expected = []
    for place, row in enumerate(scores.double()):
        sure, label = (row.exp() / row.exp().sum()).max(dim=0)
        if sure > 0.7:
            expected.append((place, int(label), float(sure)))
    assert 5 < len(expected) < 45
    assert found[:2] == [[each[0] for each in expected], [each[1] for each in expected]]
    assert found[2] == pytest.approx([each[2] for each in expected], abs=1e-12)


def test_a_confidence_equal_to_the_threshold_is_not_enough() -> None:
    # Probabilities of exactly a half, and a little more.
    scores = torch.tensor([[0.0, 0.0], [0.0, 1e-3], [0.0, 0.0]])
    indices, labels, _ = select(*guessed(scores), 0.5)
    assert indices.tolist() == [1] and labels.tolist() == [1]


def test_what_cannot_be_selected_from_is_refused_with_the_highest_confidence() -> None:
    scores = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    with pytest.raises(
        ValueError, match=r"so sure of none of the target's 2 images; its highest confidence is 0\.7311"
    ):
        select(*guessed(scores), 0.8)
    # The softmax of the second is finite.
    for broken in (float("nan"), -float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            select(*guessed(torch.tensor([[0.0, 1.0], [0.0, broken]])), 0.1)


def test_what_is_gathered_are_classes_and_confidences_and_not_scores(
    first: Path, second: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def gathered(rows: torch.Tensor, total: int) -> torch.Tensor:
        shapes.append(tuple(rows.shape))
        return rows

    monkeypatch.setattr(module, "gather_rows", gathered)
    prepared(second()).folder.lock.release()
    assert shapes == [(60,), (60,)]


def test_a_target_by_another_path_to_the_same_folder_is_the_same(second: Make, domains: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(domains, target_is_directory=True)
    run = prepared(second(target=f"three={link}/two/../three"))
    run.folder.lock.release()
    assert read_pseudo_labels(run.folder) is not None


@pytest.mark.parametrize(("checkpoint", "threshold"), [("last", THRESHOLD), ("source-val", 0.36)])
def test_sure_target_images_join_the_sources_and_no_measure(
    checkpoint: str, threshold: float, first: Path, second: Make
) -> None:
    expected = plain_selection(first, threshold, checkpoint)
    assert 0 < len(expected) < 60
    run = prepared(second(pseudo_checkpoint=checkpoint, pseudo_confidence=threshold))
    run.folder.lock.release()
    found = read_pseudo_labels(run.folder)
    assert found is not None and found.checkpoint == checkpoint
    assert list(zip(found.indices.tolist(), found.labels.tolist(), strict=True)) == [each[:2] for each in expected]
    assert found.confidences.tolist() == pytest.approx([each[2] for each in expected], abs=1e-6)
    target = run.evaluation.protocol.target.train
    right = [int(target.labels[place]) == label for place, label, _ in expected]
    assert found.oracle_accuracy == pytest.approx(sum(right) / len(right))
    # A third of the source images of every three: the pictures of the target, as what they are taken for.
    pictures = {target.images[place].numpy().tobytes(): label for place, label, _ in expected}
    seen = set()
    for batch in islice(run.batches, 60):
        assert sorted(torch.bincount(batch.source.domains, minlength=3).tolist()) == [2, 3, 3]
        for image, label, domain in zip(batch.source.images, batch.source.labels, batch.source.domains, strict=True):
            if int(domain) == 2:
                picture = ((image + 1) * 127.5).round().to(torch.uint8).contiguous().numpy().tobytes()
                assert pictures[picture] == int(label)
                seen.add(picture)
    assert len(seen) == len(pictures)
    # The target itself stays whole and unlabelled.
    assert {int(index) for batch in islice(run.batches, 20) for index in batch.target.indices} == set(range(60))
    assert not any("pseudo" in name for name in run.evaluation.measure(run.method))
    assert [domain.name for domain in run.evaluation.protocol.sources] == ["one", "two"]


def test_the_log_tells_counts_threshold_and_the_oracle(first: Path, second: Make) -> None:
    told = io.StringIO()
    folder = train(second(), console=Console(file=told, width=400))
    found = read_pseudo_labels(folder)
    assert found is not None
    counts = torch.bincount(found.labels, minlength=3)
    line = (
        f"pseudo labels of {first}: {len(found.indices)} of 60 training images of three above 0.5, {min(counts)} to "
        f"{max(counts)} in each of 3 classes (oracle: {100 * found.oracle_accuracy:.1f} % of them are right)"
    )
    assert told.getvalue().count(line) == 1
    rows = folder.training_rows()
    assert {name: value for name, value in rows[0].items() if name.startswith("pseudo-labels/")} == {
        "pseudo-labels/images": len(found.indices),
        "pseudo-labels/share": len(found.indices) / 60,
        "pseudo-labels/threshold": THRESHOLD,
        "pseudo-labels/smallest-class": int(min(counts)),
        "pseudo-labels/largest-class": int(max(counts)),
        "pseudo-labels/oracle-accuracy": found.oracle_accuracy,
    }
    assert len(rows) == 4 and not any(name.startswith("pseudo") for row in rows[1:] for name in row)


@pytest.mark.parametrize("step", [2, 9])
def test_a_killed_run_ends_bit_identical_without_the_other_run(
    step: int, first: Path, second: Make, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        raise RuntimeError("killed")

    moved = shutil.copytree(first, tmp_path / "first")
    whole = train(second("whole", pseudo_labels_from=moved), console=quiet)
    # The same as without the file: the first checkpoint comes after step 4.
    run = prepared(second(pseudo_labels_from=moved))
    call_at_step(run, step, kill)
    with pytest.raises(RuntimeError, match="killed"):
        run.fit(quiet)
    shutil.rmtree(moved)
    monkeypatch.setattr(module, "load_run", lambda *_, **__: pytest.fail("it predicted again"))
    assert_same_run(whole, train(second(pseudo_labels_from=moved), console=quiet))
    assert (whole.path / "pseudo_labels.json").read_text() == (tmp_path / "second/pseudo_labels.json").read_text()


def test_target_labels_change_nothing_but_what_is_called_oracle(
    domains: Path, first: Path, second: Make, make_config: Make, tmp_path: Path, quiet: Console
) -> None:
    listing = tmp_path / "three.txt"
    files = [domains / "three" / f"class{label}" / f"{index}.png" for label in range(3) for index in range(20)]

    before = make_config(tmp_path / "before", "tiny", max_steps=2, target=f"three={listing}")
    made = {"pseudo_labels_from": before.out, "pseudo_confidence": 0.34, "target": f"three={listing}", "max_steps": 3}

    def trained(name: str, shift: int) -> RunFolder:
        labels = [(place + shift * (place % 7)) % 3 for place in range(len(files))]
        listing.write_text("".join(f"{file} class{label}\n" for file, label in zip(files, labels, strict=True)))
        train(before, console=quiet)
        return train(second(name, "drt", **made), console=quiet)

    one, other = trained("one", 0), trained("other", 1)
    states = [flat(load_checkpoint(folder.last)) for folder in (one, other)]
    differing = [
        key
        for key, value in states[0].items()
        if not (torch.equal(value, states[1][key]) if isinstance(value, torch.Tensor) else value == states[1][key])
    ]
    assert set(differing) <= {"/seconds", "/meter/sums/pseudo-labels/oracle-accuracy"}
    files_of = [json.loads(folder.pseudo_labels.read_text()) for folder in (one, other)]
    assert {key for key in files_of[0] if files_of[0][key] != files_of[1][key]} == {"oracle_accuracy", "sha256"}
    # Of the images with other labels those that are right.
    labels = torch.tensor([(place + place % 7) % 3 for place in range(len(files))])
    found = read_pseudo_labels(other)
    assert found is not None and 0 < found.oracle_accuracy < 1
    assert found.oracle_accuracy == pytest.approx(float((labels[found.indices] == found.labels).double().mean()))
    for left, right in zip(without_seconds(one.rows()), without_seconds(other.rows()), strict=True):
        assert all(name.startswith("target-test/") for name in left if left[name] != right.get(name))


def test_it_is_one_more_source_for_a_method_that_counts_them(second: Make, quiet: Console) -> None:
    folder = train(second(method="m3sda", own=M3SDAConfig(), max_steps=2), console=quiet)
    # A pair of classifiers for each of three.
    loaded = load_run(folder.path, device="cpu")
    assert len(loaded.method.heads) == 6
    assert len(measure_run(folder.path, device="cpu")) == len(folder.rows()[-1]) - 4 + 4


def test_bounds_and_a_run_of_its_own_are_refused(second: Make, first: Path, quiet: Console) -> None:
    with pytest.raises(ValueError, match="target-only is a bound"):
        train(second(method="target-only"), console=quiet)
    with pytest.raises(ValueError, match="the folder of this very run"):
        train(second(str(first)), console=quiet)


def test_other_runs_that_do_not_fit_are_refused(
    first: Path, second: Make, make_config: Make, domains: Path, tmp_path: Path, quiet: Console
) -> None:
    def refused(words: str, **run: Any) -> None:
        with pytest.raises(ValueError, match=words) as error:
            prepared(second(**run))
        assert "--pseudo-labels-from" in str(error.value)
        assert not (tmp_path / "second").exists()

    refused("there is no run", pseudo_labels_from=tmp_path / "nowhere")
    unfinished = shutil.copytree(first, tmp_path / "unfinished")
    (unfinished / "done").unlink()
    refused("is not finished", pseudo_labels_from=unfinished)
    shutil.copy(first / "done", unfinished / "done")
    (unfinished / "checkpoints" / "last.pt").unlink()
    refused("last.pt is not there", pseudo_labels_from=unfinished)
    refused(
        "of the target three=.*, this one of one=.*; give a run of the same target, or .* same NAME and the same DIR",
        source=(f"two={domains / 'two'}",),
        target=f"one={domains / 'one'}",
    )
    # Images of 64 x 64.
    own = METHODS["source-only"].config_class(backbone="resnet-small")
    refused("lenet-small takes images of 32 x 32, this one's resnet-small of 64 x 64", method="source-only", own=own)
    refused("so sure of none of the target's 60 images; its highest confidence is 0", pseudo_confidence=0.9999)
    for domain in ("one", "two", "three"):
        shutil.copytree(domains / domain, tmp_path / "data" / domain)
    places = {"source": (f"one={tmp_path}/data/one",), "target": f"three={tmp_path}/data/three"}
    other = train(make_config(tmp_path / "other", "tiny", max_steps=1, **places), console=quiet)
    for domain in ("one", "three"):
        (tmp_path / "data" / domain / "class2").rename(tmp_path / "data" / domain / "klass")
    refused("tells 3 classes apart .*class2.* 3 .*klass", pseudo_labels_from=other.path, **places)


def test_what_is_in_the_other_folder_counts_and_not_where_it_is(
    first: Path, second: Make, domains: Path, tmp_path: Path, quiet: Console
) -> None:
    moved = shutil.copytree(first, tmp_path / "moved")
    other = tmp_path / "other"
    own = TrainConfig("source-only", options(domains, other, seed=2, max_steps=16), SourceOnlyConfig(lr=1e-4))
    train(own, console=quiet)
    config = second()
    assert second(pseudo_labels_from=moved).hash == config.hash
    hashes = {
        config.hash,
        second(pseudo_confidence=0.7).hash,
        second(pseudo_checkpoint="source-val").hash,
        second(pseudo_labels_from=other).hash,
        second(pseudo_labels_from=None, pseudo_confidence=0.8).hash,
    }
    assert len(hashes) == 5
    # Another seed is another run, and the same kind of run.
    kinds = {second(pseudo_labels_from=path).run.pseudo_labels_kind for path in (first, other)}
    assert len(kinds) == 1 and str(kinds.pop()).startswith("source-only ")
    train(second(max_steps=2), console=quiet)
    assert train(second(max_steps=2, pseudo_labels_from=moved), console=quiet).read_done() is not None
    with pytest.raises(ValueError, match="another configuration.*\n *pseudo_labels_of: "):
        train(second(max_steps=2, pseudo_labels_from=other), console=quiet)
    # A configuration that was read goes with the folder that it names, until the option is given again.
    words = ["--config", str(tmp_path / "second" / "config.yaml")]
    assert parse_train("tiny", words).run.pseudo_labels_of == config.run.pseudo_labels_of
    again = parse_train("tiny", [*words, "--pseudo-labels-from", str(other)])
    assert again.run.pseudo_labels_of == own.described()
    shutil.rmtree(moved)
    shutil.copytree(other, moved)
    stale = dataclasses.replace(config.run, out=tmp_path / "new", pseudo_labels_from=moved)
    with pytest.raises(ValueError, match="it holds the run .* now"):
        prepared(dataclasses.replace(config, run=stale))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "is damaged: its contents do not fit its SHA-256"),
        ({"seal": True, "labels": [5] * 3, "indices": [1, 2, 3], "confidences": [0.9] * 3}, "expected 0 to 2"),
        ({"seal": True, "labels": [0] * 2, "indices": [3, 2], "confidences": [0.9] * 2}, "expected ascending"),
        ({"seal": True, "labels": [0], "indices": [1], "confidences": [THRESHOLD]}, "expected more than 0.5"),
        ({"seal": True, "labels": [], "indices": [], "confidences": []}, "of n > 0"),
        ({"seal": True, "threshold": 0.4}, "is not this run's .*threshold: 0.4 -> 0.5"),
        ({"seal": True, "of": "drt 1 2"}, "is not this run's .*of: 'drt 1 2' -> 'source-only "),
        ({"seal": True, "images": 600}, "is not this run's .*images: 600 -> 60"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(
    change: dict[str, Any], words: str, second: Make, quiet: Console, tmp_path: Path
) -> None:
    run = prepared(second())
    run.folder.lock.release()
    file = run.folder.pseudo_labels
    plain = json.loads(file.read_text())
    change = dict(change)
    if change.pop("seal", False):
        plain |= change
        del plain["sha256"]
        plain["sha256"] = pseudo_label_file._digest(plain)
    file.write_text(json.dumps({**plain, **change}))
    with pytest.raises(ValueError, match=words):
        prepared(second())
    file.write_text("{")
    with pytest.raises(ValueError, match=r"pseudo_labels\.json is damaged"):
        prepared(second())


def test_a_file_that_a_trained_run_lost_is_asked_for(second: Make, quiet: Console) -> None:
    run = prepared(second())
    call_at_step(run, 6, lambda: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        run.fit(quiet)
    run.folder.pseudo_labels.unlink()
    with pytest.raises(ValueError, match="is missing, and the run has trained on what was in it"):
        prepared(second())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pseudo_confidence": 0.7}, "--pseudo-confidence 0.7 has no use without --pseudo-labels-from"),
        ({"pseudo_checkpoint": "source-val"}, "--pseudo-checkpoint source-val has no use"),
        (
            {"pseudo_labels_from": Path("a"), "pseudo_confidence": 1.0},
            r"--pseudo-confidence must be in \[0, 1\), got 1.0",
        ),
        ({"pseudo_labels_from": Path("a"), "pseudo_confidence": -0.1}, "--pseudo-confidence must be in"),
    ],
)
def test_options_that_say_nothing_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunOptions(**values)


def test_the_command_line_trains_on_pseudo_labels(
    first: Path, domains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(first.parent)
    data = ["--source", f"one={domains / 'one'}", "--target", f"three={domains / 'three'}"]
    words = ["--max-steps", "2", "--batch-size", "8", "--device", "cpu", "--out", str(tmp_path / "run")]
    command = ["train", "drt", *data, *words, "--pseudo-labels-from", first.name]
    assert cli.main([*command, "--pseudo-confidence", "0.9999"]) == 2
    assert "its highest confidence is" in capsys.readouterr().err
    assert cli.main([*command, "--pseudo-confidence", str(THRESHOLD)]) == 0
    assert "oracle: " in capsys.readouterr().err
    # From anywhere, once it is done: the path was made absolute.
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "drt", "--config", "run/config.yaml", "--out", "run"]) == 0


def test_two_processes_agree_with_one(second: Make, tmp_path: Path) -> None:
    config = second()
    target = load_domains(config).target

    def found() -> dict[str, Any]:
        made = pseudo_labels(config, RunFolder(tmp_path / "second"), target, make_fabric(config.run))
        assert made is not None
        return dataclasses.asdict(made)

    def process(rank: int, folder: Path) -> None:
        torch.save(found(), folder / f"rank{rank}.pt")

    forked(process, tmp_path)
    whole = found()
    for rank in range(2):
        part = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert torch.equal(part["indices"], whole["indices"]) and torch.equal(part["labels"], whole["labels"])
        torch.testing.assert_close(part["confidences"], whole["confidences"], rtol=0, atol=1e-6)
