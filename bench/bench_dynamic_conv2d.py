"""Forward + backward of `dynamic_conv2d` on the CPU, as ratios to the static convolution in one interleaved run.

    python bench/bench_dynamic_conv2d.py [--threads N] [--rounds N] [--csv FILE]

Every provider is checked against the oracle before it is timed. `grouped` is the usual way elsewhere: aggregate a
kernel for every sample, then one convolution with as many groups. Ratios are of the fastest of all rounds, to
`nn.Conv2d`'s convolution in NCHW; `static NHWC` is the same convolution in channels_last.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dynconv import reference
from dynconv.functional import dynamic_conv2d

NUM_BASES = 4
# batch, input channels, output channels, side, kernel: the four stages of ResNet, and LeNet's two 5x5 layers.
SHAPES = {
    "resnet 64 @56": (16, 64, 64, 56, 3),
    "resnet 128 @28": (16, 128, 128, 28, 3),
    "resnet 256 @14": (16, 256, 256, 14, 3),
    "resnet 512 @7": (16, 512, 512, 7, 3),
    "lenet 64 @16": (128, 64, 64, 16, 5),
    "lenet 128 @8": (128, 64, 128, 8, 5),
}
Problem = dict[str, Tensor]


def problem(shape: tuple[int, ...], memory_format: torch.memory_format) -> Problem:
    """Leaf tensors of one shape, and an incoming gradient `dy`."""
    batch, inputs, outputs, side, kernel = shape
    fan = inputs * kernel**2
    tensors = {
        "x": torch.randn(batch, inputs, side, side).contiguous(memory_format=memory_format),
        "weight": (torch.randn(outputs, inputs, kernel, kernel) / fan**0.5).contiguous(memory_format=memory_format),
        "basis": torch.randn(NUM_BASES * outputs, inputs, 1, 1) / inputs**0.5,
        "coefficients": torch.softmax(torch.randn(batch, NUM_BASES), dim=1),
        "scale": 1 + torch.rand(batch, outputs),
    }
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    return {**leaves, "dy": torch.randn(batch, outputs, side, side).contiguous(memory_format=memory_format)}


def static(p: Problem) -> tuple[Tensor, list[Tensor]]:
    return torch.conv2d(p["x"], p["weight"], padding=p["weight"].shape[2] // 2), [p["x"], p["weight"]]


def ours(p: Problem, backend: str = "auto", scale: bool = False) -> tuple[Tensor, list[Tensor]]:
    names = ("x", "weight", "basis", "coefficients", *(("scale",) if scale else ()))
    options = {"scale": p["scale"] if scale else None, "padding": p["weight"].shape[2] // 2, "backend": backend}
    y = dynamic_conv2d(p["x"], p["weight"], basis=p["basis"], coefficients=p["coefficients"], **options)
    return y, [p[name] for name in names]


NCHW, NHWC = torch.contiguous_format, torch.channels_last
PROVIDERS: dict[str, tuple[torch.memory_format, Callable[[Problem], tuple[Tensor, list[Tensor]]], bool]] = {
    "static": (NCHW, static, False),
    "static NHWC": (NHWC, static, False),
    "dynconv NHWC": (NHWC, ours, False),
    "dynconv NHWC, scaled": (NHWC, lambda p: ours(p, scale=True), True),
    "dynconv NCHW": (NCHW, ours, False),
    "grouped": (NCHW, lambda p: ours(p, backend="aggregate"), False),
}


def check(name: str, shape: tuple[int, ...]) -> None:
    """Exit where a dynamic provider is off the oracle by more than float32's rounding."""
    memory_format, provider, scaled = PROVIDERS[name]
    batch, inputs, outputs, side, kernel = shape
    p = problem((2, inputs, outputs, side, kernel), memory_format)
    double = {key: tensor.detach().double() for key, tensor in p.items()}
    padding = (kernel // 2, kernel // 2)
    mixing = {key: double[key] for key in ("basis", "coefficients")} | ({"scale": double["scale"]} if scaled else {})
    expected = reference.dynamic_conv2d(double["x"], double["weight"], padding=padding, **mixing)
    error = ((provider(p)[0].double() - expected).norm() / expected.norm()).item()
    if not error < 1e-5:
        sys.exit(f"{name} at {shape}: relative error {error:.2g} against the oracle; not timed")


def commit() -> str:
    """The checkout's commit, with a mark where files differ from it."""
    root = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def measure(shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every provider; they take turns, so that a drifting machine drifts for all."""
    problems = {name: problem(shape, memory_format) for name, (memory_format, _, _) in PROVIDERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in PROVIDERS}
    for turn in range(rounds + 2):
        for name, (_, provider, _) in PROVIDERS.items():
            start = time.perf_counter()
            y, leaves = provider(problems[name])
            torch.autograd.grad(y, leaves, problems[name]["dy"])
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    origin = {"processor": processor(), "threads": options.threads, "torch": torch.__version__, "commit": commit()}
    rows = []
    dynamic = [name for name in PROVIDERS if not name.startswith("static")]
    print("| shape | static, ms | " + " | ".join(list(PROVIDERS)[1:]) + " |\n|" + "---|" * (len(PROVIDERS) + 1))
    for label, shape in SHAPES.items():
        for name in dynamic:
            check(name, shape)
        seconds = measure(shape, options.rounds)
        fastest = min(seconds["static"])
        ratios = {name: min(values) / fastest for name, values in seconds.items()}
        cells = [f"{ratios[name]:.2f}" for name in list(PROVIDERS)[1:]]
        print(f"| {label} | {fastest * 1e3:.1f} | {' | '.join(cells)} |")
        for name, values in seconds.items():
            low, middle, high = statistics.quantiles(values, n=10)[1::3]
            row = {"shape": label, "provider": name, "ratio_of_fastest": round(ratios[name], 3)}
            rows.append(row | {"p20_ms": low * 1e3, "p50_ms": middle * 1e3, "p80_ms": high * 1e3} | origin)
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
