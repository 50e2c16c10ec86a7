"""What a calibrator does to images in the frequency domain (Calibrator, section 5.1, Fig. 6)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynconv.metrics.spectra import high_frequency_share, log_spectra, radial_mean
from dynconv.plots.spectra import DomainSpectra, save_spectra
from dynconv.report.figures.calibrated import CalibratedRun, Part
from dynconv.report.figures.training import write_beside
from dynconv.report.page.analysis import evenly
from dynconv.report.table import counted

Array = np.ndarray[Any, Any]

LOG_SPECTRUM = "log(1 + |F|) of values from 0 to 255, mean over channels and images"


@dataclass(frozen=True)
class Seen:
    """What was measured of one domain's N images, either before or after calibration."""

    shares: Tensor
    """float64 (N,): share of each image's energy at high frequencies; NaN for an image of one colour."""
    spectrum: Tensor
    """float64 (H, W): the mean of the log spectra."""
    samples: Tensor
    """float32 (M, 3, H, W): some of the images."""

    def curve(self) -> tuple[Tensor, Tensor]:
        """Frequencies float64 (R,), cycles per pixel, and means of the log spectrum over rings (R,)."""
        frequencies, means = radial_mean(self.spectrum[None])
        return frequencies, means[0]


def measure_spectra(run: CalibratedRun, part: Part, *, radius: float, samples: int) -> tuple[Seen, Seen]:
    """A domain's images before and after calibration.

    Args:
        run: The run.
        part: The domain's images, all of which count.
        radius: As in `high_frequency_share`.
        samples: How many images to keep, at most, evenly spread.
    """
    chosen = torch.zeros(len(part.split), dtype=torch.bool)
    chosen[evenly(len(part.split), samples)] = True
    sums = (_Sums(), _Sums())
    count = 0
    for images, _ in run.batches(part):
        own = chosen[count : count + len(images)]
        count += len(images)
        for found, batch in zip(sums, (images, run.calibrate(images)), strict=True):
            found.add(high_frequency_share(batch, radius).cpu(), log_spectra(batch).sum(dim=0).cpu(), batch.cpu()[own])
    before, after = (found.seen(count) for found in sums)
    return before, after


@dataclass
class _Sums:
    """What was measured so far."""

    shares: list[Tensor] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    # The sum, whatever the number of images: those of 1,000 scenes of 512 x 1024 pixels would be 4 GB.
    spectrum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, shares: Tensor, spectrum: Tensor, samples: Tensor) -> None:
        self.shares.append(shares)
        self.samples.append(samples)
        self.spectrum = self.spectrum + spectrum

    def seen(self, count: int) -> Seen:
        return Seen(torch.cat(self.shares), self.spectrum / count, torch.cat(self.samples))


def share_of(before: Seen, after: Seen, name: str) -> dict[str, Any]:
    """Mean and standard deviation of the share before, after and of each image's change, over the images that are not
    of one colour, and how many those and the others are. ValueError where all of the domain `name` are."""
    defined = before.shares.isfinite() & after.shares.isfinite()
    if not defined.any():
        raise ValueError(f"{name}: all test images are of one colour, which has no frequencies to share energy between")
    named = {"before": before.shares, "after": after.shares, "change": after.shares - before.shares}
    found: dict[str, Any] = {
        key: {"mean": values[defined].mean().item(), "std": values[defined].std(correction=0).item()}
        for key, values in named.items()
    }
    return {**found, "images": int(defined.sum()), "images_of_one_colour": int((~defined).sum())}


def save_spectra_figure(run: CalibratedRun, out: Path, *, images: int, samples: int, radius: float) -> list[Path]:
    """Draw a run's images and spectra before and after calibration, and write the numbers beside them.

    Args:
        run: The run.
        out: Image file to write; the numbers are beside it, with the suffix .json.
        images: Test images of each domain, at most; of a target without labels training images.
        samples: How many of them are drawn, at most.
        radius: From which frequency on energy counts as high, in cycles per pixel.

    Returns:
        Both files.

    Raises:
        ValueError: As `CalibratedRun.parts` and `share_of`; a file that cannot be written.
    """
    parts = run.parts(images, labelled=False)
    # As many columns for every domain.
    samples = min(samples, *(len(part.split) for part in parts))
    drawn, numbers = [], []
    frequencies = torch.empty(0)
    for part in parts:
        before, after = measure_spectra(run, part, radius=radius, samples=samples)
        share = share_of(before, after, part.name)
        frequencies, curve = before.curve()
        curves = (curve, after.curve()[1])
        pair = (before, after)
        drawn.append(
            DomainSpectra(
                f"{part.name} ({part.side}), {counted(len(part.split), part.kind)}\nshare of energy beyond "
                f"{radius:g} cycles per pixel {_percent(share['before'])} before, {_percent(share['after'])} after",
                images=_arrays(seen.samples.permute(0, 2, 3, 1) for seen in pair),
                image_spectra=_arrays(log_spectra(seen.samples) for seen in pair),
                mean_spectra=_arrays(seen.spectrum for seen in pair),
                curves=_arrays(curves),
            )
        )
        radial = {"frequency": frequencies, "before": curves[0], "after": curves[1]}
        numbers.append(
            {
                "name": part.name,
                "side": part.side,
                "images": len(part.split),
                "high_frequency_share": share,
                "radial_log_spectrum": {name: values.tolist() for name, values in radial.items()},
            }
        )
    save_spectra(drawn, frequencies.numpy(), radius, out, title=run.title())
    facts = {**run.described(), "radius": radius, "log_spectrum": LOG_SPECTRUM, "domains": numbers}
    numbers_file = write_beside(out, json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n", ".json")
    return [out, numbers_file]


def _arrays(pair: Iterable[Tensor]) -> tuple[Array, Array]:
    before, after = (one.numpy() for one in pair)
    return before, after


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['mean']:.1f} ± {100 * share['std']:.1f} %"
