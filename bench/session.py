"""A benchmark from its options to its exit code, the same for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from dynconv.bench.harness import CommonOptions
from dynconv.bench.machine import Rates, identity, measure_rates
from dynconv.bench.memory import MemoryMeter
from dynconv.bench.recorder import OutputFailed, Recorder
from dynconv.bench.report import print_results

Problem = TypeVar("Problem")


@dataclass(frozen=True)
class Session:
    """What measuring a problem needs; ``meter`` is None where peak memory was not asked for."""

    device: torch.device
    rates: Rates
    recorder: Recorder
    meter: MemoryMeter | None


@dataclass(frozen=True)
class Plan(Generic[Problem]):
    """The problems, the dtypes whose rates their floors need, what each is called, and how one is measured."""

    problems: Sequence[Problem]
    dtypes: Sequence[str]
    label: Callable[[Problem], str]
    measure: Callable[[Problem, Session], None]


def run(options: CommonOptions, plan: Callable[[torch.device], Plan[Problem]]) -> int:
    """Measure what ``plan`` gives for the device; 0, 1 where a provider was refused, 2 for wrong use, 130 interrupted.

    ``plan`` answers wrong use by a ValueError. The CSV is opened before anything is measured.
    """
    try:
        device = options.torch_device()
        found = plan(device)
        recorder = Recorder(options.out, len(found.problems))
    except (ValueError, OutputFailed) as error:
        return _fail(error)
    try:
        with recorder:
            rates = measure_rates(device, tuple(dict.fromkeys(found.dtypes)))
            machine = identity(device) | {"gbytes_per_s": rates.bytes_per_second / 1e9}
            recorder.begin(machine)
            with MemoryMeter(device, machine["threads"]) as meter:
                session = Session(device, rates, recorder, meter if options.memory else None)
                for problem in found.problems:
                    recorder.group(found.label(problem))
                    found.measure(problem, session)
        print_results(recorder.rows)
        recorder.ended()
    except OutputFailed as error:
        return _fail(error)
    except KeyboardInterrupt:
        return recorder.interrupted()
    return recorder.exit_code()


def _fail(error: Exception) -> int:
    print(f"dynconv: error: {error}", file=sys.stderr)
    return 2
