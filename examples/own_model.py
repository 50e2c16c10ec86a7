"""`DynamicConv2d` in a model of one's own, where `nn.Conv2d` was.

pip install .
python examples/own_model.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynconv.models import dynamic_parameters
from dynconv.nn import DynamicConv2d


class Block(nn.Module):
    """Two convolutions around a shortcut; the second one's coefficients come from the block's input, as in DRT."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = DynamicConv2d(channels, channels, 3, padding=1, num_bases=4)
        self.conv2 = DynamicConv2d(channels, channels, 3, padding=1, residual="combined", context_channels=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)), context=x)


def main(steps: int = 60) -> list[float]:
    """Teach a small network to tell checks from stripes in noise. Returns the loss of each step."""
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), Block(16), *head)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    stripes = torch.arange(16)[:, None].remainder(2).expand(16, 16).float()
    patterns = torch.stack([stripes, (stripes + stripes.T).remainder(2)])
    losses = []
    for _ in range(steps):
        labels = torch.randint(2, (16,))
        loss = F.cross_entropy(model(patterns[labels, None] + torch.randn(16, 1, 16, 16)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    pi, scale = model[2].conv2.branch(model[:2](patterns[:, None]))
    dynamic = dynamic_parameters(model)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {sum(p.numel() for p in dynamic)} of them dynamic")
    print(f"per image {pi.shape[1]} coefficients, which sum to {pi[0].sum():.1f}, and {scale.shape[1]} scales")
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
