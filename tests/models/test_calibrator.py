"""The calibrator's networks: their sizes, their bound, and what the pixel discriminator is shown."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynconv.models.calibrator import Calibrator, PerturbationForm, ResnetGenerator
from dynconv.models.pixel_discriminator import PixelDiscriminator, group_discriminator


@pytest.mark.parametrize(("width", "count"), [(8, 180_419), (4, 45_859)])
def test_the_parameters_are_those_of_the_paper(width: int, count: int) -> None:
    # 0.18 M on digits and 0.05 M on driving scenes (section 5.3).
    assert sum(parameter.numel() for parameter in Calibrator(width=width).parameters()) == count


def test_the_generator_is_cyclegans() -> None:
    made = ResnetGenerator(width=8, blocks=2)
    kinds = [type(m) for m in made.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.ReflectionPad2d)]
    first = [nn.ReflectionPad2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]
    blocks = [nn.ReflectionPad2d, nn.Conv2d] * 4
    assert kinds == [*first, *blocks, nn.ConvTranspose2d, nn.ConvTranspose2d, nn.ReflectionPad2d, nn.Conv2d]
    for shape in ((2, 3, 16, 20), (1, 3, 64, 32)):
        assert made(torch.rand(shape) * 2 - 1).shape == shape


def test_a_calibrated_image_is_the_image_and_a_bounded_perturbation() -> None:
    torch.manual_seed(0)
    made = Calibrator(width=4, blocks=1, epsilon=0.3).double()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    perturbation = made.perturbation(images).detach()
    torch.testing.assert_close(perturbation, 0.3 * torch.tanh(made.generator(2 * images - 1)).detach())
    assert torch.equal(made(images), (images + perturbation).clamp(0, 1))
    assert float(perturbation.abs().max()) > 0


@pytest.mark.parametrize("form", ["tanh", "nonnegative"])
def test_the_bound_holds_under_autocast_too(form: PerturbationForm) -> None:
    torch.manual_seed(0)
    made = Calibrator(width=2, blocks=1, epsilon=0.4 if form == "tanh" else 0.2, form=form)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for parameter in made.generator.parameters():
            parameter.mul_(100)
        with torch.autocast("cpu", torch.bfloat16):
            perturbation, calibrated = made.perturbation(images), made(images)
    assert perturbation.dtype == calibrated.dtype == torch.float32
    # bfloat16 would round 0.4 to 0.4004 and 0.2 to 0.2002.
    assert float(perturbation.abs().max()) == pytest.approx(made.epsilon, abs=1e-7)
    assert float((calibrated - images).abs().max()) <= made.epsilon + 1e-6


def test_the_released_form_only_brightens() -> None:
    torch.manual_seed(0)
    made = Calibrator(width=4, blocks=1, epsilon=0.2, form="nonnegative").double()
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    # There, of images in [-1, 1]: clamp((tanh + 1) / 2, 0, 0.4) is added and the sum clamped to [-1, 1].
    bounded = torch.tanh(made.generator(2 * images - 1))
    wanted = ((2 * images - 1) + ((bounded + 1) / 2).clamp(0, 0.4)).clamp(-1, 1)
    torch.testing.assert_close(2 * made(images) - 1, wanted)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 3, 30, 32), (2, 3, 12, 12)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 4 and at least 16, got "):
        Calibrator(width=2, blocks=1)(torch.rand(shape))


def test_no_image_gives_no_image() -> None:
    assert Calibrator(width=2, blocks=1)(torch.rand(0, 3, 32, 32)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: expected more than 0 and at most 1"),
        ({"epsilon": 1.01}, "epsilon: expected more than 0 and at most 1"),
        ({"form": "sigmoid"}, "form: expected one of 'tanh', 'nonnegative', got 'sigmoid'"),
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"blocks": 0}, "blocks: expected at least 1, got 0"),
        ({"dropout": 1.0}, "dropout: expected a probability below 1, got 1.0"),
    ],
)
def test_wrong_arguments_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibrator(**fields)  # type: ignore[arg-type]


def test_a_calibrator_like_it_can_be_made_of_its_options() -> None:
    made = Calibrator(width=3, blocks=2, epsilon=0.1, form="nonnegative", dropout=0.05)
    other = Calibrator(**made.options())
    other.load_state_dict(made.state_dict())
    assert other.options() == made.options()


def places(size: int, count: int = 1) -> torch.Tensor:
    """Images whose pixels say where they are, (count, 3, size, size): 3 * place + colour."""
    values = torch.arange(size * size * 3).view(size, size, 3).permute(2, 0, 1)
    return values[None].expand(count, -1, -1, -1).float().contiguous()


def seer(patch_size: int | None, *, shuffle: bool, size: int = 8) -> PixelDiscriminator:
    return PixelDiscriminator(patch_size or size, shuffle=shuffle, hidden_features=(4,), groups=4)


def test_patches_come_from_the_whole_image_one_place_each() -> None:
    torch.manual_seed(0)
    found = seer(3, shuffle=False).patches(places(8, 600))
    assert found.shape == (600, 3, 9)
    corners = set()
    for patch in found:
        assert torch.equal(patch % 3, torch.tensor([[0.0], [1], [2]]).expand(3, 9))
        pixels = (patch[0] / 3).long()
        corner = int(pixels[0])
        wanted = torch.tensor([corner + 8 * row + column for row in range(3) for column in range(3)])
        assert torch.equal(pixels, wanted)
        corners.add(corner)
    # All 36 of them: also those in the lower rows, which released code never shows.
    assert corners == {8 * row + column for row in range(6) for column in range(6)}


def test_pixels_are_shuffled_with_their_colours_and_anew_for_each_image() -> None:
    torch.manual_seed(0)
    found = seer(None, shuffle=True, size=4).patches(places(4, 50))
    orders = set()
    for patch in found:
        pixels = (patch[0] / 3).long()
        assert torch.equal(patch, 3.0 * pixels + torch.tensor([[0.0], [1], [2]]))
        assert sorted(pixels.tolist()) == list(range(16))
        orders.add(tuple(pixels.tolist()))
    assert len(orders) == 50


def test_whole_images_in_order_are_shown_as_they_are() -> None:
    images = torch.rand(3, 3, 8, 8)
    made = seer(None, shuffle=False)
    assert torch.equal(made.patches(images), images.flatten(2))
    torch.testing.assert_close(made(images), made.layers(images.flatten(1)))


def test_a_generator_of_ones_own_draws_the_same_again() -> None:
    images, made = torch.rand(5, 3, 8, 8), seer(3, shuffle=True)
    first, second = (made.patches(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, made.patches(images, torch.Generator().manual_seed(4)))


def test_discriminators_are_two_linear_layers_by_default() -> None:
    made = group_discriminator(6, (5,), 4)
    assert [type(layer) for layer in made] == [nn.Linear, nn.ReLU, nn.Linear]
    deeper = group_discriminator(6, (5, 7), 4, dropout=0.5)
    assert [type(layer) for layer in deeper] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert deeper(torch.rand(2, 6)).shape == (2, 4)
