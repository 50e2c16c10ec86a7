"""torchvision's residual blocks with the block's input as context of ``conv2``.

``to_dynamic`` changes the class of a block to these, in place. A subclass needs no hook and holds no tensor between
calls, so ``torch.compile(fullgraph=True)``, pickle, deepcopy, DDP and activation checkpointing see an ordinary module;
names, state_dict and ``isinstance`` stay as they are. Imported only where a model already has torchvision's blocks.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


class ContextBottleneck(Bottleneck):
    """``Bottleneck`` whose 3x3 convolution is a ``DynamicConv2d`` that reads the block's input (DRT, figure 3)."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y, context=x)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ContextBasicBlock(BasicBlock):
    """``BasicBlock`` whose second convolution is a ``DynamicConv2d`` that reads the block's input."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y, context=x))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


CONTEXT_BLOCKS: dict[type[nn.Module], type[nn.Module]] = {Bottleneck: ContextBottleneck, BasicBlock: ContextBasicBlock}
