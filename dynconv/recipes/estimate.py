"""What a recipe says of its cost where nobody has run it here."""

from __future__ import annotations

GPU = "one GPU of the A100's class"
# How a cost begins that nobody has measured.
ESTIMATED = "not run here; estimate: "


def estimate(runs: int, minutes: float, work: str) -> str:
    """The cost of `runs` runs of `minutes` minutes each, of which `work` says why.

    The minutes take a sustained 30 TFLOP/s in TF32 and, for images of 224 pixels, 720 a second read, cropped and
    mirrored.
    """
    hours = runs * minutes / 60
    total = f"{hours:.0f} hours" if hours >= 2 else f"{60 * hours:.0f} minutes"
    return f"{ESTIMATED}{runs} runs of {minutes:g} minutes on {GPU} ({work} a run), {total}"
