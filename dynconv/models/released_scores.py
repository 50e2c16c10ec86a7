"""What makes scores in published files: the names of these layers, brought to those of our heads, and their classes,
chosen by name.

ERFNet
    `decoder.output_conv`, a transposed convolution, or of the encoder alone `encoder.output_conv`, 1x1. Its released
    files score 20 classes, Cityscapes' 19 and "ignore".
DRN-26
    `seg` of DRN's own networks for segmentation, or `fc` of CyCADA's, 1x1; the upsampling after them is fixed.
FCN-8s
    CyCADA's `vgg_head.6`, `score_pool4` and `score_pool3`, 1x1; or of a VGG16 for whole images `classifier.6`.
Networks that label whole images
    `fc` or `classifier`, one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dynconv.models.drn import DRN26
from dynconv.models.erfnet import ERFNet
from dynconv.models.fcn8s import FCN8s
from dynconv.models.features import Features
from dynconv.models.segmentation import SegmentationFeatures
from dynconv.models.weights import words

# Published layers by those of our heads, the likelier of two first; "" is a head that is one layer.
_LINEAR = {"": ("fc", "classifier")}
_ENCODER = {"score": ("encoder.output_conv",)}
_DECODER = {"score": ("decoder.output_conv",)}
_DRN26 = {"score": ("seg", "fc")}
_FCN8S = {
    "score": ("vgg_head.6", "classifier.6"),
    "score_pool4": ("score_pool4",),
    "score_pool3": ("score_pool3",),
}
# Those of our heads that start at zero, as networks do that were trained without them.
_ZERO_WITHOUT = ("score_pool4", "score_pool3")
_PARTS = ("weight", "bias")


def published_scores(features: Features, state: Mapping[str, Tensor], where: str) -> dict[str, str]:
    """Which of a file's tensors make the scores that a head of `features` makes.

    Args:
        features: The network that the head is for.
        state: Names to tensors of the file, prefixes of wrappers cut.
        where: Where it is from, for the message.

    Returns:
        Names of the head's parameters to names in `state`. FCN-8s' scores of pool4 and pool3 may be missing.

    Raises:
        ValueError: `state` has no such layers.
    """
    found: dict[str, str] = {}
    layers = _layers_of(features)
    for own, published in layers.items():
        layer = next((each for each in published if f"{each}.weight" in state), None)
        if layer is None and own in _ZERO_WITHOUT:
            continue
        missing = [f"{layer or published[0]}.{part}" for part in _PARTS if f"{layer}.{part}" not in state]
        if missing:
            others = f" (or {' or '.join(published[1:])})" if len(published) > 1 and layer is None else ""
            raise ValueError(
                f"{where} holds no layer of scores that {type(features).__name__} has a place for: expected "
                f"{' and '.join(missing)}{others}, among its names are {words(list(state)[::-1], 4)}; give a file of a "
                "whole network, or another backbone"
            )
        found |= {f"{own}.{part}".removeprefix("."): f"{layer}.{part}" for part in _PARTS}
    return found


def load_scores(head: nn.Module, scores: Mapping[str, Tensor], names: Sequence[str], classes: Sequence[str]) -> None:
    """Make `head` score as a file's layers do, in another order of classes, or only some of them.

    Args:
        head: A classifier of `classes`.
        scores: The file's tensors by the names of the head's parameters, of as many classes as `names`; what the head
            has beside them stays.
        names: The file's classes, in the order of its scores.
        classes: Those of `head`, each one of `names`, in the order that it is to score them in.

    Raises:
        ValueError: The layers score another number of classes, or maps of other widths than `head`.
    """
    own = head.state_dict()
    places = torch.tensor([names.index(each) for each in classes])
    chosen = {}
    for name, value in scores.items():
        axis = _class_axis(head, name)
        if value.dim() <= axis or value.shape[axis] != len(names):
            given = value.shape[axis] if value.dim() > axis else 0
            raise ValueError(
                f"weight_classes: {len(names)} are named ({words(list(names), 30)}), and {name or 'the layer'} in the "
                f"file, {tuple(value.shape)}, scores {given}; name every class of the file in the order of its scores, "
                "those too that the run has no use for (the last of ERFNet's 20: ignore)"
            )
        rows = value.index_select(axis, places)
        # A linear layer is a 1x1 convolution.
        chosen[name] = rows[..., None, None] if rows.dim() == 2 and own[name].dim() == 4 else rows
        if chosen[name].shape != own[name].shape:
            raise ValueError(
                f"weights: the scores' {name} of {len(classes)} classes is {tuple(rows.shape)}, and the backbone's is "
                f"{tuple(own[name].shape)}; give a file of this backbone"
            )
    head.load_state_dict({**own, **chosen})


def _layers_of(features: Features) -> Mapping[str, tuple[str, ...]]:
    if isinstance(features, ERFNet):
        return _DECODER
    if isinstance(features, DRN26):
        return _DRN26
    if isinstance(features, FCN8s):
        return _FCN8S
    return _ENCODER if isinstance(features, SegmentationFeatures) else _LINEAR


def _class_axis(head: nn.Module, name: str) -> int:
    """The dimension of a parameter of `head` that counts the classes."""
    layer, _, part = name.rpartition(".")
    return int(part == "weight" and isinstance(head.get_submodule(layer), nn.ConvTranspose2d))
