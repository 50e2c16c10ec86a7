"""The calibrator: a small generator whose bounded perturbation fits images to a frozen classifier (Ye et al., CVPR
2020), and the ResNet generator that it is made of."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

PerturbationForm = Literal["tanh", "nonnegative"]
FORMS: tuple[PerturbationForm, ...] = get_args(PerturbationForm)


class ResnetGenerator(nn.Module):
    """CycleGAN's generator (Zhu et al., ICCV 2017, appendix 7.2, after Johnson et al., ECCV 2016): a 7x7 convolution,
    two of stride 2, residual blocks, two transposed ones, and a 7x7 convolution to colours. Reflection pads, instance
    normalisation without parameters; weights start from N(0, 0.02), biases at 0.

    Args:
        width: Channels of the first layer, doubled at each of the two downsamplings (64 in CycleGAN, 8 and 4 in the
            calibrators).
        blocks: Residual blocks (9 in the calibrators).
        dropout: Probability of dropping a value of the output (0.05 in the calibrator's released code); 0 for none.

    `forward(images)` takes (B, 3, H, W) in [-1, 1], H and W multiples of 4 and at least 16, and gives what goes into
    the tanh, of the same shape.
    """

    def __init__(self, *, width: int, blocks: int, dropout: float = 0.0) -> None:
        super().__init__()
        for name, value in (("width", width), ("blocks", blocks)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability below 1, got {dropout}")
        layers = [nn.ReflectionPad2d(3), *_normalised(nn.Conv2d(3, width, 7))]
        for channels in (width, 2 * width):
            layers += _normalised(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1))
        layers += [_Block(4 * width) for _ in range(blocks)]
        for channels in (4 * width, 2 * width):
            up = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
            layers += _normalised(up)
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7)]
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        # Not in the words of what is exported: there the sizes are symbols, and the constraints are its own.
        if not torch.compiler.is_compiling():
            _check_images(images)
        return self.dropout(self.layers(images))


class _Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_normalised(nn.Conv2d(channels, channels, 3)),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.layers(inputs)


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU()]


def _check_images(images: Tensor) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or any(side < 16 or side % 4 for side in shape[2:]):
        raise ValueError(
            f"images: expected (B, 3, H, W) with H and W multiples of 4 and at least 16, got {shape}; resize or pad "
            "the images"
        )


class Calibrator(nn.Module):
    """G_c = I + G'_c (section 3.1): images with a bounded perturbation, which a generator G' finds.

    `forward(images)` takes (B, 3, H, W) in [0, 1], H and W multiples of 4 and at least 16, and gives calibrated images
    of the same shape, clamped to [0, 1]: what comes out goes into the classifier in the place of what came in.

    Args:
        width: Channels of the generator's first layer (8 for the paper's 0.18 M parameters on digits, 4 for its 0.05 M
            on driving scenes, by the count).
        blocks: Its residual blocks (9 by the same count).
        epsilon: The perturbation's L-infinity bound, above 0 and at most 1, in units of the whole range from black to
            white (section 5.2; its best on driving scenes is 0.01).
        form: "tanh": epsilon * tanh(G'), of both signs. "nonnegative" (released code): (tanh(G') + 1) / 4 clamped to
            [0, epsilon]; there images are in [-1, 1], so that its 0.4, 0.8 and 0.9 are 0.2, 0.4 and 0.45 here.
        dropout: Probability of dropping a value of the generator's output, at least 0 and below 1.

    Raises:
        ValueError: A number out of its range, or an unknown form; of `forward`, images of another shape.
    """

    def __init__(
        self,
        *,
        width: int = 8,
        blocks: int = 9,
        epsilon: float = 0.4,
        form: PerturbationForm = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < epsilon <= 1:
            raise ValueError(f"epsilon: expected more than 0 and at most 1, from black to white, got {epsilon}")
        if form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(map(repr, FORMS))}, got {form!r}")
        self.generator = ResnetGenerator(width=width, blocks=blocks, dropout=dropout)
        self.epsilon = float(epsilon)
        self.form: PerturbationForm = form
        self._options = {"width": width, "blocks": blocks, "epsilon": self.epsilon, "form": form, "dropout": dropout}

    def options(self) -> dict[str, Any]:
        """The arguments of a calibrator like this one."""
        return dict(self._options)

    def start_as_identity(self) -> None:
        """Set the generator's last layer to 0: with the form "tanh" there is no perturbation then, until it learns.

        Raises:
            ValueError: For the form "nonnegative", which brightens by a quarter there.
        """
        if self.form != "tanh":
            raise ValueError(f"form: {self.form!r} brightens by a quarter with the last layer at 0; expected 'tanh'")
        last = self.generator.layers[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def perturbation(self, images: Tensor) -> Tensor:
        """What is added to images (B, 3, H, W) in [0, 1] before the clamp: of the same shape, within `epsilon`."""
        # Under autocast the tanh is in bfloat16, in which epsilon * tanh would exceed epsilon: 0.4 becomes 0.4004.
        bounded = torch.tanh(self.generator(2 * images - 1)).to(images.dtype)
        if self.form == "tanh":
            return self.epsilon * bounded
        return ((bounded + 1) / 4).clamp(max=self.epsilon)

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.perturbation(images)).clamp(0, 1)
