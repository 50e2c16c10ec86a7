"""Images in the frequency domain: where their energy lies, and their log spectra (Calibrator, section 5.1, Fig. 6).

Frequencies are in cycles per pixel, so that the sampling frequency is 1 and half of it (Nyquist's) the highest along an
axis. A spectrum is shifted: frequency 0, the mean of the image, is at (H // 2, W // 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

# A quarter of the sampling frequency: halfway from 0 to Nyquist's. A choice of ours, for the paper names no radius.
RADIUS = 0.25
# Of all energy: rounding leaves 1e-33 of a constant image's beside frequency 0, and a single pixel that is off by 1/255
# has 1e-10 of it at 224 x 224.
_NOTHING = 1e-20


def radial_frequency(height: int, width: int) -> Tensor:
    """Distance from frequency 0, float64 (H, W), of each entry of a shifted spectrum: from 0 to 0.71 in the corners."""
    down = torch.fft.fftshift(torch.fft.fftfreq(height, dtype=torch.float64))
    across = torch.fft.fftshift(torch.fft.fftfreq(width, dtype=torch.float64))
    return torch.hypot(down[:, None], across[None, :])


def magnitudes(images: Tensor) -> Tensor:
    """|F| of the two-dimensional Fourier transform F of each channel: float64 (B, C, H, W), shifted, not normalised.

    Args:
        images: (B, C, H, W), float, in any unit; no window is laid over them.

    Raises:
        ValueError: Another shape.
    """
    if images.ndim != 4:
        raise ValueError(f"images: expected (B, C, H, W), got {tuple(images.shape)}")
    return torch.fft.fftshift(torch.fft.fft2(images.double()), dim=(-2, -1)).abs()


def high_frequency_share(images: Tensor, radius: float = RADIUS) -> Tensor:
    """Share of an image's energy at frequencies above `radius`: sum |F|^2 over these, by the sum over all but frequency
    0, both over the channels too.

    Args:
        images: (B, C, H, W), float, in any unit: the share does not depend on it, nor on the image's mean.
        radius: In cycles per pixel; energy at the radius itself counts as below it.

    Returns:
        float64 (B,), from 0 to 1; NaN for an image of one colour, which has no energy to share.

    Raises:
        ValueError: `radius` outside of 0 to 0.5 (Nyquist's frequency); another shape.
    """
    if not 0 <= radius < 0.5:
        raise ValueError(f"radius: expected cycles per pixel, from 0 to below 0.5, got {radius}")
    energy = magnitudes(images).square().sum(dim=1)
    distance = radial_frequency(*images.shape[-2:]).to(images.device)
    whole = energy.sum(dim=(-2, -1))
    varying = energy[:, distance > 0].sum(dim=1)
    # Not above the radius by a rounding: sqrt(a^2 + b^2) of frequencies that lie on it may exceed it by 1e-16.
    high = energy[:, distance > radius + 1e-9].sum(dim=1)
    return torch.where(varying > _NOTHING * whole, high / varying, torch.nan)


def log_spectra(images: Tensor) -> Tensor:
    """log(1 + |F|), the mean over the channels: float64 (B, H, W), shifted.

    Args:
        images: (B, C, H, W) in [0, 1]; taken in steps of 1/255, for 1 beside |F| depends on the unit.
    """
    return magnitudes(255 * images).log1p().mean(dim=1)


def radial_mean(spectra: Tensor) -> tuple[Tensor, Tensor]:
    """Means over rings around frequency 0, each as wide as the distance of two frequencies of the shorter side.

    Args:
        spectra: (B, H, W), shifted.

    Returns:
        Frequencies float64 (R,), the middles of the rings, from 0 to Nyquist's, and means (B, R).
    """
    height, width = spectra.shape[-2:]
    side = min(height, width)
    ring = (radial_frequency(height, width) * side).round().long().to(spectra.device)
    # Rings beyond Nyquist's lie in the corners alone.
    rings = range(side // 2 + 1)
    means = torch.stack([spectra[:, ring == place].mean(dim=1) for place in rings], dim=1)
    return torch.arange(len(rings), dtype=torch.float64) / side, means
