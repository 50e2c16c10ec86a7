from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from dynconv.data import DomainBatches, Protocol
from dynconv.engine.checkpoint import load_checkpoint
from dynconv.engine.config import TrainConfig
from dynconv.engine.evaluation import Evaluation
from dynconv.engine.meter import Diverged, Meter
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.train import Run, make_fabric, open_folder, prepare, train
from dynconv.methods import METHODS, Refresh, Update
from dynconv.metrics import VALIDATORS, ValidatorName

Make = Callable[..., TrainConfig]


def prepared(config: TrainConfig) -> Run:
    return prepare(config, open_folder(config), make_fabric(config.run))


def parameters(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_only_the_groups_of_an_update_step_and_before_the_next_update_is_asked_for(
    tmp_path: Path, tiny: type, make_config: Make
) -> None:
    run = prepared(make_config(tmp_path / "run"))
    seen: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []

    def updates(batch: Any) -> Iterator[Update]:
        for of in (("features",), ("heads",), ("features", "heads")):
            seen.append((parameters(run.method.features), parameters(run.method.head)))
            yield Update(run.method.predict(batch.source.images).square().sum(), of=of)
        seen.append((parameters(run.method.features), parameters(run.method.head)))

    run.method.updates = updates
    run.stepper.advance(next(run.batches), run.step, run.max_steps, Meter())
    steps = [(moved(seen[i][0], seen[i + 1][0]), moved(seen[i][1], seen[i + 1][1])) for i in range(3)]
    assert steps == [(True, False), (False, True), (True, True)]


def test_gradients_of_groups_outside_of_an_update_do_not_leak_into_the_next(
    tmp_path: Path, tiny: type, make_config: Make
) -> None:
    run = prepared(make_config(tmp_path / "run"))
    run.optimisers["heads"] = torch.optim.SGD(run.method.head.parameters(), lr=1.0)
    weight = run.method.head.weight
    start = weight.detach().clone()
    kept: list[torch.Tensor | None] = []

    def updates(batch: Any) -> Iterator[Update]:
        features = run.method.features[2].weight.sum() * 0
        yield Update(1000 * weight.sum() + features, of=("features",))
        kept.append(weight.grad)
        yield Update(weight.sum(), of=("heads",))

    run.method.updates = updates
    run.stepper.advance(next(run.batches), run.step, run.max_steps, Meter())
    torch.testing.assert_close(weight.detach(), start - 1.0)
    assert kept == [None]


def test_a_run_folder_holds_the_files_and_rows_of_the_contract(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    config = make_config(tmp_path / "run")
    folder = train(config, console=quiet)
    names = {path.name for path in folder.path.iterdir()}
    assert names == {
        "config.yaml", "env.json", "results.jsonl", "training.jsonl", "checkpoints", "tensorboard", "lock", "done",
    }  # fmt: skip
    checkpoints = {path.name for path in folder.checkpoints.iterdir()}
    assert checkpoints == {"last.pt", "previous.pt", "source-val.pt", "label-free.pt"}
    rows = [json.loads(line) for line in folder.results.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    # 48 training images per source, of which 9 or 10 are held out; with 8 per step the sources need 9 or 10 steps.
    assert list(rows[0]) == [
        "step",
        "epoch",
        "seconds",
        "config_hash",
        "source-val/one/accuracy",
        "source-val/two/accuracy",
        "source-test/one/accuracy",
        "source-test/two/accuracy",
        "target-test/three/accuracy",
        "target-test/three/class-mean-accuracy",
        "target-test/three/accuracy-of-class0",
        "target-test/three/accuracy-of-class1",
        "target-test/three/accuracy-of-class2",
        "target-train/three/entropy",
        "target-train/three/information-maximisation",
        "target-train/three/soft-neighbourhood-density",
        "target-train/three/nuclear-norm",
        "target-train/three/deep-embedded-validation",
    ]
    assert {row["config_hash"] for row in rows} == {config.hash}
    done = json.loads(folder.done.read_text())
    assert set(done) == {"config_hash", "label_free_validator", "selected", "validators"}
    assert done["label_free_validator"] == "information-maximisation"
    assert set(done["selected"]) == {"last", "source-val", "label-free", "oracle"}
    assert done["selected"]["last"] == rows[-1]
    assert list(done["validators"]) == list(VALIDATORS)
    assert all(row in rows[1:] for row in done["validators"].values())
    assert yaml.safe_load(folder.config.read_text())["method"] == "tiny"
    assert set(json.loads(folder.environment.read_text())[0]) >= {"versions", "git", "hardware", "command"}
    assert list(folder.tensorboard.glob("events.*"))


def test_the_training_log_has_the_means_of_everything_between_two_rows(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    run = prepared(make_config(tmp_path / "run", log_every=5, eval_every=4, checkpoint_every=3))
    losses: list[float] = []

    def updates(batch: Any) -> Iterator[Update]:
        loss = run.method.predict(batch.source.images).square().mean()
        losses.append(loss.item())
        yield Update(loss, of=("features", "heads"), logs={"gradient/level-0": losses[-1], "steps": len(losses)})

    run.method.updates = updates
    run.fit(quiet)
    rows = run.folder.training_rows()
    assert [list(row) for row in rows] == [["step", "epoch", "seconds", "loss", "gradient/level-0", "steps"]] * 3
    # Evaluations and checkpoints in between cut nothing off.
    assert [row["step"] for row in rows] == [5, 10, 12]
    assert [row["steps"] for row in rows] == [3, 8, 11.5]
    for row, part in zip(rows, (losses[:5], losses[5:10], losses[10:]), strict=True):
        assert row["gradient/level-0"] == pytest.approx(sum(part) / len(part))
        assert row["loss"] == pytest.approx(row["gradient/level-0"])


def test_a_method_sees_its_scores_of_the_target_and_draws_from_what_it_selects(
    tmp_path: Path, tiny: type, make_config: Make
) -> None:
    text = io.StringIO()
    run = prepared(make_config(tmp_path / "run", options=tiny.config_class(refresh_every=5), log_every=4))
    drawn: list[set[int]] = []
    updates = run.method.updates

    def watched(batch: Any) -> Iterator[Update]:
        drawn.append(set(batch.target.indices.tolist()))
        return updates(batch)

    run.method.updates = watched
    run.fit(Console(file=text))
    assert [step for step, _ in run.method.refreshed] == [0, 5, 10]
    scores = [scores for _, scores in run.method.refreshed]
    assert all(part.shape == (60, 3) for part in scores) and not torch.equal(scores[0], scores[1])
    for step, images in enumerate(drawn):
        chosen = scores[step // 5].softmax(dim=1).max(dim=1).values.argsort(descending=True, stable=True)[:30]
        assert images <= set(chosen.tolist()), step
    assert ["selected/share" in row for row in run.folder.training_rows()] == [True, True, True]
    assert text.getvalue().splitlines().count("half of the target") == 3
    assert run.method.training


def test_without_an_interval_no_method_is_asked(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    run = prepared(make_config(tmp_path / "run"))
    run.fit(quiet)
    assert run.method.refreshed == []
    assert all("selected/share" not in row for row in run.folder.training_rows())


def test_a_refresh_that_changes_nothing_keeps_the_selection(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(make_config(tmp_path / "run", options=tiny.config_class(refresh_every=5)))
    selected: list[Any] = []
    monkeypatch.setattr(run.batches, "select_target", selected.append)
    found = iter([Refresh(True, None), Refresh(), Refresh(logs={"x": 1.0})])
    run.method.refresh = lambda scores: next(found)
    run.fit(quiet)
    assert selected == [None]
    assert [row.get("x") for row in run.folder.training_rows()] == [None, None, None, 1.0]


def test_the_backbone_decides_what_the_batches_look_like(tmp_path: Path, tiny: type, make_config: Make) -> None:
    small = prepared(make_config(tmp_path / "small"))
    assert next(small.batches).source.images.shape == (8, 3, 32, 32)
    large = prepared(make_config(tmp_path / "large", options=tiny.config_class(backbone="resnet-small")))
    assert next(large.batches).target.images.shape == (8, 3, 64, 64)
    assert large.evaluation.scoring.network_input[:2] == (64, "half")
    huge = prepared(make_config(tmp_path / "huge", options=tiny.config_class(backbone="resnet50")))
    images = next(huge.batches).source.images
    assert images.shape == (8, 3, 224, 224)
    # Black, and the brightest red and blue there are, by ImageNet's mean and deviation.
    assert -2.12 < images.min() < -1 and 1 < images.max() < 2.65


def test_the_method_and_the_options_reach_the_sampler(
    tmp_path: Path, tiny: type, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Recorded(DomainBatches):
        def __init__(self, protocol: Protocol, **options: Any) -> None:
            given.update(options)
            super().__init__(protocol, **options)

    monkeypatch.setattr("dynconv.engine.train.DomainBatches", Recorded)
    monkeypatch.setattr(tiny, "class_balanced", True)
    prepared(make_config(tmp_path / "run", seed=4, augmentation="flip"))
    del given["device"]
    assert given == {
        "batch_size": 8, "seed": 4, "class_balanced": True, "augmentation": "flip", "normalisation": "half",
        "rank": 0, "world_size": 1, "prefetch": 2,
    }  # fmt: skip


def test_the_method_decides_the_batch_size_where_nobody_does(tmp_path: Path, tiny: type, make_config: Make) -> None:
    run = prepared(make_config(tmp_path / "run", batch_size=None))
    assert len(next(run.batches).source.images) == 12


@pytest.mark.parametrize("validator", ["information-maximisation", "entropy"])
def test_the_checkpoints_hold_the_weights_of_the_selected_rows(
    validator: ValidatorName, tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    folder = train(make_config(tmp_path / "run", eval_every=1, validator=validator), console=quiet)
    done = folder.read_done()
    selected = done["selected"]
    assert selected["source-val"]["step"] < selected["last"]["step"], "the choice of this seed should not be the last"
    assert done["label_free_validator"] == validator
    assert selected["label-free"] == done["validators"][validator]
    for name in ("last", "source-val", "label-free"):
        assert load_checkpoint(folder.checkpoint(name))["step"] == selected[name]["step"]


def test_the_first_row_is_the_network_as_it_starts(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    run = prepared(make_config(tmp_path / "run", max_steps=1))
    expected = run.evaluation.measure(run.method)
    run.fit(quiet)
    first, last = run.folder.rows()
    assert (first["step"], first["epoch"], last["step"]) == (0, 0.0, 1)
    assert {name: value for name, value in first.items() if "/" in name} == expected
    assert {row["step"] for row in run.folder.read_done()["selected"].values()} == {1}
    assert run.method.training


def test_no_checkpoint_is_of_the_network_as_it_starts(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = iter({"source-val/a/accuracy": x, "target-train/b/information-maximisation": x} for x in (0.9, 0.5))
    monkeypatch.setattr(Evaluation, "measure", lambda self, method: next(rows))
    folder = train(make_config(tmp_path / "run", max_steps=1), console=quiet)
    for name in ("source-val", "label-free"):
        assert load_checkpoint(folder.checkpoint(name))["step"] == 1


def test_scores_that_are_no_numbers_end_the_run(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    run = prepared(make_config(tmp_path / "run", eval_every=2))

    def break_statistics(step: int) -> None:
        if step == 1:
            run.method.features[3].running_var.fill_(float("nan"))

    run.method.on_step = break_statistics
    # Parameters and losses are sound: training takes the batch's statistics.
    with pytest.raises(Diverged, match="training diverged at step 2: scores: .* are not finite"):
        run.fit(quiet)
    assert [row["step"] for row in run.folder.rows()] == [0]


def test_schedules_see_every_step_once(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    run = prepared(make_config(tmp_path / "run", max_steps=5))
    run.fit(quiet)
    assert run.method.steps == [(step, 5) for step in range(5)]


def test_evaluating_more_often_changes_no_weight(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    often = train(make_config(tmp_path / "often", eval_every=1), console=quiet)
    once = train(make_config(tmp_path / "once", eval_every=12), console=quiet)
    left, right = (load_checkpoint(folder.last)["method"] for folder in (often, once))
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_seeds_decide_the_weights(tmp_path: Path, tiny: type, make_config: Make, quiet: Console) -> None:
    runs = [
        train(make_config(tmp_path / name, seed=seed), console=quiet) for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    ]
    weights = [load_checkpoint(folder.last)["method"]["head.weight"] for folder in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_default_is_ten_evaluations_and_epochs_count_passes_over_the_sources(
    tmp_path: Path, tiny: type, make_config: Make
) -> None:
    run = prepared(make_config(tmp_path / "run", epochs=3, eval_every=None))
    assert run.max_steps == 3 * run.batches.steps_per_epoch
    seen: set[int] = set()
    sizes = sum(len(source.train) for source in run.evaluation.protocol.sources)
    for _ in range(run.steps_per_epoch):
        batch = next(run.batches)
        seen |= {hash(image.numpy().tobytes()) for image in batch.source.images}
    assert len(seen) == sizes
    run.step = run.steps_per_epoch
    assert run.epoch == 1.0
    assert prepared(make_config(tmp_path / "hundred", max_steps=100, eval_every=None)).eval_every == 10
    assert prepared(make_config(tmp_path / "five", max_steps=5, eval_every=None)).eval_every == 1


def test_losses_are_logged_every_fifty_steps_and_ten_times_in_a_short_run(
    tmp_path: Path, tiny: type, make_config: Make
) -> None:
    for steps, given, every in ((5, None, 1), (101, None, 11), (2000, None, 50), (5, 50, 50)):
        assert prepared(make_config(tmp_path / f"{steps}", max_steps=steps, log_every=given)).log_every == every


def test_a_loss_that_is_no_number_ends_the_run_and_spares_the_checkpoint(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    own = METHODS["tiny"].config_class(fail_at=6)
    config = make_config(tmp_path / "run", options=own, log_every=100)
    with pytest.raises(Diverged, match="cross_entropy = nan"):
        train(config, console=quiet)
    state = load_checkpoint(RunFolder(config.out).last)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["method"].values())


def test_mixed_precision_reaches_the_method_in_training_and_evaluation(
    tmp_path: Path, tiny: type, make_config: Make, quiet: Console
) -> None:
    run = prepared(make_config(tmp_path / "run", precision="bf16-mixed", max_steps=2))
    seen = set()
    run.method.features[2].register_forward_hook(lambda m, i, output: seen.add((m.training, output.dtype)))
    run.fit(quiet)
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert all(p.dtype == torch.float32 for p in run.method.parameters())


def test_half_precision_on_a_cpu_and_a_missing_gpu_are_refused(
    tmp_path: Path, tiny: type, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="16-mixed needs CUDA"):
        prepared(make_config(tmp_path / "run", precision="16-mixed"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda"):
        prepared(make_config(tmp_path / "run", device="cuda"))
    assert not (tmp_path / "run").exists()


def test_missing_data_leave_no_run_folder(tmp_path: Path, tiny: type, make_config: Make) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        prepared(make_config(tmp_path / "run", target=f"three={tmp_path / 'nowhere'}"))
    assert not (tmp_path / "run").exists()


def test_a_console_that_is_no_terminal_gets_plain_lines(tmp_path: Path, tiny: type, make_config: Make) -> None:
    text = io.StringIO()
    train(make_config(tmp_path / "run"), console=Console(file=text))
    lines = text.getvalue().splitlines()
    losses = [line for line in lines if "cross_entropy" in line]
    assert [line.split()[1] for line in losses] == ["3/12", "4/12", "6/12", "8/12", "9/12", "12/12"]
    assert all("steps/s" in line and "ETA" in line and "certainty 1" in line for line in losses)
    evaluations = [line for line in lines if "source-val" in line and "target-test" in line]
    assert [line.split()[1] for line in evaluations] == ["0/12", "4/12", "8/12", "12/12"]
    assert all("information-maximisation 0." in line for line in evaluations)


def test_a_terminal_gets_a_bar(tmp_path: Path, tiny: type, make_config: Make) -> None:
    text = io.StringIO()
    train(make_config(tmp_path / "run"), console=Console(file=text, force_terminal=True, width=200))
    assert "12/12" in text.getvalue()
    assert "ETA 0:00:00" in text.getvalue()
