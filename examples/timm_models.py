"""timm's MobileNetV3 and EfficientNet with dynamic convolutions: depthwise ones, mostly.

pip install ".[train]" timm
python examples/timm_models.py
"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import nn

from dynconv.models.cost import count_cost
from dynconv.nn import DynamicConv2d, to_dynamic


def main(names: tuple[str, ...] = ("mobilenetv3_small_100", "efficientnet_b0"), size: int = 64) -> list[float]:
    """Convert each model, check that it computes what it did, and take one training step.

    Returns the largest difference of the outputs by the conversion, one per model, relative to the largest output.
    """
    differences = []
    for name in names:
        torch.manual_seed(0)
        images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 3])
        # pretrained=True loads ImageNet's weights: the converted model then starts as good as they are.
        model = timm.create_model(name, num_classes=4, pretrained=False, drop_rate=0.0).eval()
        with torch.no_grad():
            before = model(images)
            to_dynamic(model)
            differences.append(((model(images) - before).abs().max() / before.abs().max()).item())

        layers = [module for module in model.modules() if isinstance(module, DynamicConv2d)]
        depthwise = sum(layer.groups == layer.in_channels for layer in layers)
        print(f"{name}: {len(layers)} dynamic convolutions, {depthwise} of them depthwise")
        print(f"  outputs differ by {differences[-1]:.1e} of the largest at the start")
        cost = count_cost(model, images[:1])
        share = 100 * cost.added_macs("one-kernel") / cost.static_macs
        print(f"  {cost.parameters - cost.added_parameters:,} parameters, {cost.added_parameters:,} more")
        print(f"  {cost.static_macs / 1e6:.1f} M multiply-adds per image, {share:.1f} % more")
        print(f"  loss {' -> '.join(f'{loss:.3f}' for loss in train_step(model, images, labels))}")
    return differences


def train_step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """One step of SGD, bases and branches with the rest; the loss before and after it."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.003)
    before = F.cross_entropy(model(images), labels)
    before.backward()
    optimiser.step()
    with torch.no_grad():
        return before.item(), F.cross_entropy(model(images), labels).item()


if __name__ == "__main__":
    main()
