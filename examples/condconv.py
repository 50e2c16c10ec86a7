"""timm's EfficientNet with CondConv on dynconv's kernels: its layers' twins take over its weights.

pip install . timm
python examples/condconv.py
"""

from __future__ import annotations

import copy

import timm
import torch
from timm.layers import CondConv2d
from torch import nn

from dynconv.nn import from_condconv


def with_twins(model: nn.Module) -> int:
    """Replace every `CondConv2d` of timm in `model`, in place; the routers stay where they are. How many there were."""
    originals = [(name, module) for name, module in model.named_modules() if isinstance(module, CondConv2d)]
    for name, module in originals:
        model.set_submodule(name, from_condconv(module))
    return len(originals)


def main(name: str = "tf_efficientnet_cc_b0_4e", size: int = 64) -> tuple[float, float]:
    """Compare the model and its twin: scores, and the gradients of a loss.

    Returns the largest difference of the scores, relative to the largest score, and of the gradients, each relative to
    its own norm.
    """
    torch.manual_seed(0)
    images = torch.randn(4, 3, size, size)
    # pretrained=True loads the published weights.
    model = timm.create_model(name, num_classes=10, pretrained=False).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Untrained statistics let the signal die away; of this batch they keep it alive.
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    model.eval()

    twin = copy.deepcopy(model)
    count = with_twins(twin)
    scores, expected = twin(images), model(images)
    difference = ((scores - expected).abs().max() / expected.abs().max()).item()
    print(f"{name}: {count} CondConv2d replaced; scores differ by {difference:.1e} of the largest")

    scores.logsumexp(1).sum().backward()
    expected.logsumexp(1).sum().backward()
    pairs = zip(twin.parameters(), model.parameters(), strict=True)
    worst = max(((a.grad - b.grad).norm() / b.grad.norm()).item() for a, b in pairs if b.grad.norm() > 0)
    print(f"gradients of {len(list(model.parameters()))} parameters differ by at most {worst:.1e} of their norm")
    model.load_state_dict(twin.state_dict())
    print("the twin's state_dict loads into timm's model")
    return difference, worst


if __name__ == "__main__":
    main()
