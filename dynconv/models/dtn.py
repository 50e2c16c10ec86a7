"""The digits network of CyCADA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynconv.models.features import Features, relus
from dynconv.models.lenet import LeNet


class DTN(Features):
    """Features of 32 x 32 colour images: three 5x5 convolutions of stride 2 with 64, 128 and 256 channels, each with
    batch normalisation, dropout of whole channels and ReLU, and a linear layer of 512 features.

    Released CyCADA's network for SVHN -> MNIST (Hoffman et al., ICML 2018), after the domain transfer network (Taigman
    et al., ICLR 2017). The Calibrator calls it LeNet: with a classifier of 10 classes it has 3,133,962 parameters, its
    section 5.3 speaks of 3.1 million.

    Args:
        norm: Whether every layer is batch-normalised.

    `forward(images)` takes (B, 3, 32, 32) and gives (B, 512).
    """

    image_size = LeNet.image_size

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, dropout in ((64, 0.1), (128, 0.3), (256, 0.5)):
            layers.append(nn.Conv2d(before, channels, 5, stride=2, padding=2))
            layers += [nn.BatchNorm2d(channels)] * norm
            layers += [nn.Dropout2d(dropout), nn.ReLU()]
            before = channels
        self.convolutions = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.out_features = 512
        layers = [nn.Flatten(), nn.Linear(4 * 4 * before, self.out_features)]
        layers += [nn.BatchNorm1d(self.out_features)] * norm
        self.linear = nn.Sequential(*layers, nn.ReLU(), nn.Dropout())
        self.taps = relus(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 32, 32) to features (B, 512).

        Raises:
            ValueError: For images of another shape.
        """
        self.check_fixed_size(images)
        return self.linear(self.convolutions(self.laid_out(images)))
