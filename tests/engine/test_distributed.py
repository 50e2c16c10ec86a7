"""Two processes with half the batch each take the steps of one process with the whole batch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from processes import forked
from rich.console import Console
from torch import Tensor, nn

from dynconv import distributed
from dynconv.data import Domain, DomainBatches, Protocol, Split
from dynconv.engine import train as engine
from dynconv.engine.config import TrainConfig
from dynconv.engine.meter import Meter
from dynconv.engine.resume import check_same_step
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.step import Stepper
from dynconv.methods import METHODS, Method

CLASSES = 4
STEPS = 3
# Without batch statistics and dropout a sample's result is its own, so that only the order of sums differs.
SMALL = {"hidden_features": 8, "dropout": 0.0, "bottleneck": 16, "norm": "none", "lr": 0.05}
PLAIN = {"norm": "none", "lr": 0.05, "optimiser": "sgd"}
NETWORK = {"hidden_features": 8, "norm": "none", "lr": 0.05}
ALIGNED = {"bottleneck": 16, "norm": "none", "lr": 0.05}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "source-only": ("source-only", PLAIN | {"label_smoothing": 0.1}),
    "target-only": ("target-only", PLAIN),
    # A selection before every step but the first.
    "self-training": (
        "self-training",
        PLAIN | {"warmup_steps": 1, "selection_every": 1, "selection": "class-balanced", "pseudo_labels": "soft"},
    ),
    "mcd": ("mcd", PLAIN | {"class_balance": 0.3}),
    "mcd, reversal": ("mcd", PLAIN | {"form": "reversal", "class_balance": 0.3, "discrepancy_weight": 5.0}),
    "m3sda": ("m3sda", PLAIN | {"moment_weight": 0.5, "prediction": "weighted"}),
    # A third of the steps on the source, and a gate that some steps pass.
    "adda": ("adda", NETWORK | {"optimiser": "sgd", "pretrain": 0.3, "gate": 0.2}),
    "adda, shared": ("adda", NETWORK | {"weight_sharing": "shared", "mapping": "confusion", "pretrain": 0.3}),
    "adda, dynamic": ("adda", NETWORK | {"residual": "combined", "num_bases": 2, "pretrain": 0.3}),
    "adda, with the drift": ("adda", NETWORK | {"pretrain": 0.3, "drift_weight": 0.5, "drift": "mean"}),
    # Matching in closed form, which the engine calls, is held against one process in test_gaussian_matching.
    "gam": ("gam", NETWORK | {"pretrain": 0.3, "discriminator_steps": 0, "gaussian_start": False, "optimiser": "sgd"}),
    "gam, least squares of maps": (
        "gam",
        NETWORK
        | {"pretrain": 0.3, "discriminator_steps": 1, "gaussian_start": False, "optimiser": "sgd"}
        | {"gan": "least-squares", "order": "jointly", "taps": ("1", "convolutions.7", "scores")},
    ),
    # Patches and orders are drawn by each process for its own images.
    "calibrator": (
        "calibrator",
        PLAIN | {"backbone": "lenet-small", "width": 2, "blocks": 1, "patch": False, "shuffle": False, "pretrain": 0.3},
    ),
    # Both processes keep one pool, of the whole batch.
    "cyclegan": ("cyclegan", PLAIN | {"width": 2, "blocks": 1, "discriminator_width": 4, "pool_size": 7}),
    "drt": ("drt", PLAIN | {"num_bases": 2, "class_balance": 0.3}),
    "drt, mmd": ("drt", PLAIN | {"num_bases": 2, "loss": "mmd", "lr_schedule": "constant"}),
    # The weights of the kernels change before every step but the first.
    "dan": ("dan", ALIGNED | {"weights_every": 1}),
    "dan, all pairs": ("dan", ALIGNED | {"estimator": "unbiased", "kernel_weights": "equal"}),
    "jan": ("jan", ALIGNED | {"ramp": "none", "estimator": "ring"}),
    "jan-a": ("jan", ALIGNED | {"ramp": "none", "adversarial": True, "estimator": "biased"}),
    "dann": ("dann", SMALL | {"ramp": "none"}),
    "dann, alternating, entropy": ("dann", SMALL | {"form": "alternating", "entropy_weight": 0.5, "ramp": "none"}),
    "mada": ("mada", SMALL | {"ramp": "none"}),
    "cdan": ("cdan", SMALL | {"ramp": "none"}),
    "cdan+e": ("cdan", SMALL | {"ramp": "none", "entropy_conditioning": True}),
    "pada": ("pada", SMALL | {"ramp": "none", "weights_every": 1}),
    # The mean norm of a domain and the singular values of its features belong to the whole batch.
    "hafn": ("afn", PLAIN | {"width": 16, "dropout": 0.0, "form": "hard", "radius": 3.0}),
    "safn": ("afn", PLAIN | {"width": 16, "dropout": 0.0}),
    "bsp": ("bsp", SMALL | {"ramp": "none", "spectral_weight": 0.05, "num_singular_values": 2}),
    # Deep enough that the signs of the differences between levels are not the same in both halves.
    "gsda": ("gsda", SMALL | {"num_groups": (2, 3), "beta": 5.0}),
    "gsda, sum": ("gsda", SMALL | {"num_groups": (2, 3), "beta": 0.5, "loss_reduction": "sum", "lr": 1e-3}),
    "gsda, reversal": ("gsda", SMALL | {"num_groups": (2, 3), "beta": 5.0, "form": "reversal"}),
}


def protocol() -> Protocol:
    def split(seed: int, count: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(count) % CLASSES)

    names = tuple(f"class{index}" for index in range(CLASSES))
    domains = [
        Domain(name, names, split(index, 21 + index), None) for index, name in enumerate(("one", "two", "three"))
    ]
    return Protocol("one+two-three", tuple(domains[:2]), domains[2])


def train(case: str, rank: int, world_size: int, accumulate: int = 1, clip: float | None = 0.5) -> dict[str, Tensor]:
    """The parameters after `STEPS` steps, and the mean losses, in float64."""
    name, fields = CASES[case]
    torch.manual_seed(0)
    cls = METHODS[name]
    data = protocol()
    method: Method = cls.for_task(cls.config_class(**fields), CLASSES, len(data.sources)).double()
    batches = DomainBatches(
        data, batch_size=12, seed=0, class_balanced=method.class_balanced, augmentation="flip",
        rank=rank, world_size=world_size,
    )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=1)
    stepper = Stepper(fabric, method, method.optimisers(), accumulate=accumulate, clip_norm=clip)
    meter = Meter()
    method.train()
    for step in range(STEPS):
        if method.refresh_interval(1) and method.refresh_due():
            # The whole target's scores, as the engine gives them to every process.
            with torch.no_grad():
                scores = method.eval().predict(data.target.train.images.double() / 255)
            found = method.train().refresh(scores)
            if found.changed:
                batches.select_target(found.selection)
        batch = next(batches)
        batch.source.images = batch.source.images.double()
        batch.target.images = batch.target.images.double()
        stepper.advance(batch, step, STEPS, meter)
    # The accuracies of discriminators are means of what each process has, which need not be those of the whole batch.
    means = {f"log/{key}": torch.tensor(value) for key, value in meter.means().items() if "accuracy" not in key}
    return {**{key: value.detach().clone() for key, value in method.state_dict().items()}, **means}


def _train_all(rank: int, folder: Path) -> None:
    found = {case: train(case, rank, 2) for case in CASES}
    torch.save(found, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, dict[str, Tensor]]]]:
    folder = tmp_path_factory.mktemp("ranks")
    forked(_train_all, folder)
    yield [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(case: str, halves: list[dict[str, dict[str, Tensor]]]) -> None:
    whole = train(case, 0, 1)
    start = METHODS[CASES[case][0]]
    torch.manual_seed(0)
    initial = (
        start.for_task(start.config_class(**CASES[case][1]), CLASSES, len(protocol().sources)).double().state_dict()
    )
    moved = max(float((whole[key] - value).abs().max()) for key, value in initial.items() if value.is_floating_point())
    assert moved > 1e-3
    for half in halves:
        assert half[case].keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(
                half[case][key], value, rtol=0, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_the_methods_are_all_there() -> None:
    # AdaBN and Gaussian matching learn as source-only does; what they take from the target is held against one
    # process's in tests/models/test_normalisation.py and tests/models/test_gaussian_matching.py. `imported` learns
    # nothing.
    assert {name for name, _ in CASES.values()} == set(METHODS) - {"tiny", "adabn", "gaussian", "imported"}


def test_half_a_batch_has_other_sums_than_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the comparison above would miss if the processes did not add them up.
    monkeypatch.setattr(Stepper, "_step", lambda self, names, meter: None)
    whole, again, half = (
        train("gsda", rank, size)["log/synchronisation_loss"] for rank, size in ((0, 1), (0, 1), (0, 2))
    )
    assert whole == again and abs(float(whole - half)) > 1e-5


@pytest.mark.parametrize("case", ["source-only", "mcd, no balance", "dann, alternating, entropy"])
def test_micro_batches_take_the_step_of_the_whole_batch(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "mcd, no balance", ("mcd", PLAIN))
    whole, parts = (train(case, 0, 1, accumulate=count) for count in (1, 3))
    assert parts.keys() == whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def test_clipping_bounds_the_gradient_of_each_update() -> None:
    free, clipped = (train("mcd", 0, 1, clip=clip) for clip in (None, 1e-3))
    assert "log/gradient-norm/heads" not in free
    # Norms are logged as they were before the clipping.
    assert float(clipped["log/gradient-norm/heads"]) > 1e-3
    torch.manual_seed(0)
    start = METHODS["mcd"](METHODS["mcd"].config_class(**PLAIN), CLASSES).double().state_dict()
    # Of each group's three updates with momentum 0.9 the k-th goes 1 + 0.9 + 0.81 ... times as far at most; the
    # features take 1 + 4 of them a step.
    for group, updates in (("features", 15), ("heads", 6)):
        names = [key for key in start if key.startswith(group) and start[key].is_floating_point()]
        moved = torch.stack([(clipped[key] - start[key]).norm() for key in names]).norm()
        decay = torch.stack([start[key].norm() for key in names]).norm() * 5e-4
        assert float(moved) < 0.05 * updates * 10 * (1e-3 + float(decay))


def _collectives(rank: int, folder: Path) -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (rank, 2, rank == 0)
    share = distributed.my_share(5)
    assert share.tolist() == ([0, 1], [2, 3, 4])[rank]
    rows = torch.arange(10.0).view(5, 2)
    assert torch.equal(distributed.gather_rows(rows[share], 5), rows)
    with pytest.raises(ValueError, match="expected this process's share, . of 5 rows, got 0"):
        distributed.gather_rows(rows[:0], 5)
    assert distributed.any_process(rank == 1) and not distributed.any_process(False)
    # Each row has the sum of what the processes' losses, of weights 1 and 2, give it.
    own = torch.tensor([[1.0 + rank, 5.0]], requires_grad=True)
    everyone = distributed.gather_rows_with_gradient(own)
    assert everyone.tolist() == [[1.0, 5.0], [2.0, 5.0]]
    (everyone.square().sum() * (1 + rank)).backward()
    assert own.grad is not None and own.grad.tolist() == [[6.0 * (1 + rank), 30.0]]
    # A loss of both: (x0 + x1)^2 on each process has the gradient 2 * (2 * (x0 + x1)), whose mean is half of it.
    value = torch.tensor([1.0 + rank], requires_grad=True)
    distributed.all_sum(value).square().sum().backward()
    assert value.grad is not None and value.grad.item() == 12
    # One process has no gradient of the first parameter, none has one of the last.
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(3)]
    parameters[1].grad = torch.full((3,), 1.0 + rank)
    if rank == 0:
        parameters[0].grad = torch.full((3,), 4.0)
    distributed.average_gradients(parameters)
    assert parameters[0].grad is not None and parameters[0].grad.tolist() == [2.0] * 3
    assert parameters[1].grad.tolist() == [1.5] * 3 and parameters[2].grad is None
    meter = Meter()
    meter.add({"a": 1.0 + rank})
    assert meter.means() == {"a": 1.5}
    meter.add({"a": 3.0 + rank})
    assert meter.means() == {"a": 2.5}


def test_collectives_of_two_processes(tmp_path: Path) -> None:
    forked(_collectives, tmp_path)


def _other_steps(rank: int, folder: Path) -> None:
    check_same_step(7, folder, torch.device("cpu"))
    # One machine has the run folder with its checkpoint, the other an empty one of the same name.
    with pytest.raises(ValueError, match="from step 0 and from step 7 .* must see the same run folder"):
        check_same_step((7, 0)[rank], folder, torch.device("cpu"))


def test_processes_that_see_other_run_folders_are_told(tmp_path: Path) -> None:
    forked(_other_steps, tmp_path)


def test_in_one_process_collectives_do_nothing() -> None:
    value = torch.ones(2, requires_grad=True)
    assert distributed.all_sum(value) is value and distributed.all_mean(value) is value
    assert distributed.gather_rows_with_gradient(value) is value
    assert distributed.my_share(3).tolist() == [0, 1, 2]
    assert not distributed.any_process(False)
    parameter = nn.Parameter(torch.zeros(2))
    distributed.average_gradients([parameter])
    assert parameter.grad is None


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def train_command(config: TrainConfig, folder: Path, *words: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """`dynconv train` with the configuration, as a command of this Python."""
    file = folder.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    command = [sys.executable, *launcher, "-m", "dynconv", "train", config.method]
    return [*command, "--config", str(file), "--out", str(folder), *words]


def run_train(config: TrainConfig, folder: Path, *words: str, launcher: tuple[str, ...] = ()) -> str:
    """`dynconv train` in processes of its own; returns its standard error."""
    command = train_command(config, folder, *words, launcher=launcher)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stderr


def wait_for(path: Path) -> None:
    """Until a file has something in it."""
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def results(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(folder).rows()]


@pytest.fixture
def gsda_config(make_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    options = METHODS["gsda"].config_class(**SMALL, num_groups=(2,), selection_every=4, confidence=0.4)
    return lambda out, **run: make_config(out, "gsda", options, **{"max_steps": 12, **run})


def test_devices_2_ends_where_one_process_ends(gsda_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    # A selection of target images after four steps.
    short = {"max_steps": 6, "eval_every": 6}
    log = run_train(gsda_config(tmp_path / "two", **short), tmp_path / "two", "--devices", "2")
    engine.train(gsda_config(tmp_path / "one", **short), console=Console(quiet=True))
    assert log.count("step 6/6  accuracy") == 1
    assert "distributed" not in log.lower()
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert [row.keys() for row in one] == [row.keys() for row in two]
    for first, second in zip(one, two, strict=True):
        for key, value in first.items():
            assert second[key] == (pytest.approx(value, abs=2e-3) if isinstance(value, float) else value)
    one, two = (torch.load(RunFolder(tmp_path / name).last)["method"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-3, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow
def test_torchrun_goes_on_with_what_one_process_began(gsda_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run_train(gsda_config(tmp_path / "whole"), tmp_path / "whole")
    config = gsda_config(tmp_path / "two", checkpoint_every=2)
    command = train_command(config, tmp_path / "two")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=ENVIRONMENT)
    wait_for(RunFolder(tmp_path / "two").last)
    process.kill()
    process.communicate()
    assert RunFolder(tmp_path / "two").read_done() is None
    log = run_train(config, tmp_path / "two", launcher=torchrun)
    assert "resuming" in log and "12/12" in log and "dropout" in log
    for first, second in zip(results(tmp_path / "whole"), results(tmp_path / "two"), strict=True):
        assert first["step"] == second["step"]
        for key, value in first.items():
            if isinstance(value, float) and "accuracy" not in key:
                assert second[key] == pytest.approx(value, abs=5e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["joint", "source-only"])
def test_two_processes_told_to_stop_end_where_they_would_have(
    policy: str, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    # With batch statistics and dropout: each process has its own until they agree.
    options = METHODS["dann"].config_class(
        hidden_features=8, bottleneck=16, **({} if policy == "separate" else {"normalisation_policy": policy})
    )
    config = make_config(tmp_path / "whole", "dann", options, max_steps=60, eval_every=20, checkpoint_every=60)
    run_train(config, tmp_path / "whole", "--devices", "2")
    folder = RunFolder(tmp_path / "stopped")
    process = subprocess.Popen(
        train_command(config, folder.path, "--devices", "2"), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    wait_for(folder.results)
    process.terminate()
    _, log = process.communicate(timeout=120)
    assert process.returncode == 130 and log.count("interrupted after step") == 1 and "--devices 2" in log
    assert "Traceback" not in log
    run_train(config, folder.path, "--devices", "2")
    assert results(folder.path) == results(tmp_path / "whole")
    one, two = (torch.load(each.last)["method"] for each in (RunFolder(tmp_path / "whole"), folder))
    assert all(torch.equal(two[key], value) for key, value in one.items())


@pytest.mark.slow
def test_divergence_in_all_processes_is_told_once_with_its_step(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    options = METHODS["source-only"].config_class(optimiser="sgd", lr=1e30)
    config = make_config(tmp_path / "run", "source-only", options)
    command = train_command(config, tmp_path / "run", "--devices", "2")
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert "dynconv: error: training diverged at step" in done.stderr
    assert "ended with the exit code" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("image", ["class0/1.png", "class0/4.png", "class1/7.png"])
def test_an_unreadable_image_in_one_process_ends_all_with_one_message(
    image: str, domains: Path, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    shutil.copytree(domains / "one", tmp_path / "one")
    (tmp_path / "one" / image).write_bytes(b"no image")
    # Left in their files, so that a process meets them when their turn comes.
    config = make_config(tmp_path / "run", "source-only", source=(f"one={tmp_path / 'one'}",), cache="none")
    done = subprocess.run(
        train_command(config, tmp_path / "run", "--devices", "2"), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 2, done.stderr
    assert f"{image} cannot be read" in done.stderr and "Traceback" not in done.stderr
    if "(process 1)" in done.stderr:
        assert "process 1 ended with the exit code 2" in done.stderr


@pytest.mark.slow
def test_two_processes_go_without_the_same_bad_images_and_share_one_cache(
    domains: Path, make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "DYNCONV_CACHE", str(tmp_path / "cache"))
    shutil.copytree(domains / "one", tmp_path / "one")
    (tmp_path / "one" / "class0" / "1.png").write_bytes(b"no image")
    options = {"source": (f"one={tmp_path / 'one'}",), "skip_bad": True, "cache": "disk"}
    config = make_config(tmp_path / "run", "source-only", **options)
    told = run_train(config, tmp_path / "run", "--devices", "2")
    assert told.count("one: left out 1 of 60 images") == 1
    assert [row["path"] for row in json.loads((tmp_path / "run" / "skipped.json").read_text())] == ["class0/1.png"]
    assert len(list((tmp_path / "cache").glob("images-*.bin"))) == 3
    assert not list((tmp_path / "cache").glob("*.partial"))
