"""Spectra of images whose frequencies are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dynconv.metrics.spectra import high_frequency_share, log_spectra, magnitudes, radial_frequency, radial_mean

SIDE = 32


def wave(down: int, across: int, amplitude: float = 0.2, side: int = SIDE) -> Tensor:
    """(1, 3, side, side) around 0: so many periods down and across the image."""
    at = torch.arange(side, dtype=torch.float64) / side
    phase = 2 * math.pi * (down * at[:, None] + across * at[None, :])
    return amplitude * phase.cos().expand(1, 3, side, side)


def test_one_frequency_is_above_the_radius_or_below_it() -> None:
    for down, across, high in ((3, 0, 0.0), (0, 7, 0.0), (0, 9, 1.0), (6, 6, 1.0), (-5, 5, 0.0), (16, 16, 1.0)):
        assert high_frequency_share(0.5 + wave(down, across)).item() == pytest.approx(high, abs=1e-12), (down, across)
    # On the radius: 8 periods over 32 pixels are a quarter; 3, 4 and 5 make a right angle.
    assert high_frequency_share(0.5 + wave(0, 8)).item() == pytest.approx(0, abs=1e-12)
    assert high_frequency_share(0.5 + wave(3, 4), radius=5 / 32).item() == pytest.approx(0, abs=1e-12)
    assert high_frequency_share(0.5 + wave(3, 4), radius=4.9 / 32).item() == pytest.approx(1, abs=1e-12)


def test_energies_go_by_the_square_and_the_mean_counts_for_nothing() -> None:
    # 0.1^2 high, 0.3^2 low: a tenth, whatever the brightness and the unit.
    image = wave(1, 2, 0.3) + wave(12, 3, 0.1)
    shares = high_frequency_share(torch.cat([image + 0.5, image, 255 * (image + 0.2)]))
    assert shares.dtype == torch.float64
    torch.testing.assert_close(shares, torch.full((3,), 0.1, dtype=torch.float64))
    # The high wave in one channel of three, the low one in all.
    mixed = wave(1, 2, 0.3).clone()
    mixed[:, 1] += wave(12, 3, 0.3)[:, 1]
    assert high_frequency_share(mixed).item() == pytest.approx(1 / 4)


def test_an_image_of_one_colour_has_no_share() -> None:
    flat = torch.tensor([0.0, 0.1, 1.0]).view(3, 1, 1, 1).expand(3, 3, 28, 28)
    assert high_frequency_share(flat).isnan().all()
    speck = flat.clone()
    speck[:, :, 3, 5] += 1 / 255
    # A pixel alone has the same energy at every frequency.
    distance = radial_frequency(28, 28)
    expected = ((distance > 0.25).sum() / (distance > 0).sum()).double()
    torch.testing.assert_close(high_frequency_share(speck), expected.expand(3), rtol=1e-5, atol=0)


def test_wrong_arguments_are_named() -> None:
    for radius in (-0.1, 0.5, math.nan):
        with pytest.raises(ValueError, match="radius: expected cycles per pixel"):
            high_frequency_share(wave(1, 1), radius)
    with pytest.raises(ValueError, match=r"images: expected \(B, C, H, W\), got \(3, 32, 32\)"):
        magnitudes(wave(1, 1)[0])


def test_a_shifted_spectrum_has_its_mean_in_the_middle_and_a_wave_on_both_sides() -> None:
    found = magnitudes(0.5 + wave(2, 5, 0.2))
    assert found.shape == (1, 3, SIDE, SIDE)
    peaks = {(16, 16): 0.5 * SIDE**2, (18, 21): 0.1 * SIDE**2, (14, 11): 0.1 * SIDE**2}
    expected = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    for place, value in peaks.items():
        expected[place] = value
    torch.testing.assert_close(found[0, 1], expected, atol=1e-9, rtol=0)
    # In steps of 1/255.
    torch.testing.assert_close(log_spectra(0.5 + wave(2, 5, 0.2))[0], (255 * expected).log1p(), atol=1e-9, rtol=0)
    assert radial_frequency(SIDE, SIDE)[18, 21].item() == pytest.approx(math.hypot(2, 5) / 32)
    assert radial_frequency(5, 4)[2, 2] == 0, "an odd side too"


def test_rings_are_means_by_distance() -> None:
    height, width = 24, 32
    distance = radial_frequency(height, width)
    frequencies, means = radial_mean(distance.expand(2, height, width))
    torch.testing.assert_close(frequencies, torch.arange(13, dtype=torch.float64) / 24)
    assert means.shape == (2, 13) and means[0, 0] == 0
    assert ((means - frequencies).abs() < 0.5 / 24).all()
    # Every entry of a ring counts alike: the ring at 1/32 of a square has its eight neighbours.
    spectrum = torch.zeros(1, SIDE, SIDE, dtype=torch.float64)
    spectrum[0, 15, 15], spectrum[0, 16, 17] = 1.0, 3.0
    assert radial_mean(spectrum)[1][0, 1].item() == pytest.approx(4 / 8)
    assert radial_mean(log_spectra(0.5 + wave(6, 8)))[1][0].argsort(descending=True)[:2].tolist() == [0, 10]
