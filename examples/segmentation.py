"""A segmentation network of torchvision with dynamic convolutions.

pip install ".[train]"
python examples/segmentation.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50

from dynconv.nn import DynamicConv2d, to_dynamic


def spatial(name: str, conv: nn.Conv2d) -> bool:
    """Every 3x3 of the network, the dilated ones of the head too.

    By default `to_dynamic` takes the 3x3 of each Bottleneck of the backbone alone, as DRT does.
    """
    return conv.kernel_size == (3, 3)


def main(size: int = 64, classes: int = 5) -> float:
    """Convert the network, check that it computes what it did, and take one training step on labels per pixel.

    Returns the largest difference of the scores before and after the conversion.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(2, 3, size, size), torch.randint(classes, (2, size, size))
    labels[:, :4] = 255  # pixels without a label
    # weights=..., weights_backbone=... start from a trained network.
    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes).eval()
    with torch.no_grad():
        before = model(images)["out"]
        to_dynamic(model, spatial)
        difference = (model(images)["out"] - before).abs().max().item()
    dynamic = {name: module for name, module in model.named_modules() if isinstance(module, DynamicConv2d)}
    dilated = sum(layer.dilation != (1, 1) for layer in dynamic.values())
    of_head = sum(name.startswith("classifier") for name in dynamic)
    print(f"{len(dynamic)} dynamic convolutions, {dilated} of them dilated, {of_head} in the head")
    print(f"scores differ by {difference:.1e} at the start")

    model.train()
    # The static part starts from trained weights, what is new learns ten times as fast (DRT's recipe).
    new = [p for layer in dynamic.values() for name, p in layer.named_parameters() if name not in ("weight", "bias")]
    is_new = set(new)
    rest = [p for p in model.parameters() if p not in is_new]
    optimiser = torch.optim.SGD([{"params": rest, "lr": 1e-3}, {"params": new, "lr": 1e-2}], momentum=0.9)
    loss = F.cross_entropy(model(images)["out"], labels, ignore_index=255)
    loss.backward()
    optimiser.step()
    print(f"one step on {labels.ne(255).sum()} labelled pixels: loss {loss.item():.3f}")
    return difference


if __name__ == "__main__":
    main()
