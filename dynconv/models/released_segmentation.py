"""Published weights of the segmentation networks: the names of their files, brought to those of our modules.

ERFNet (ours are the released names)
    The file of the whole network has `encoder.*` and `decoder.*`, each with an `output_conv` that makes scores. That of
    the encoder trained on ImageNet has `features.encoder.*` and `classifier.linear`.
DRN-26 (ours are the released names)
    The ImageNet file has `conv1`, `bn1`, `layer1` to `layer8` and `fc`. Networks for segmentation on it (DRN's own,
    CyCADA's and the Calibrator's) number the same modules, with the ReLU: `base.0`, `base.1`, `base.3` to `base.10`;
    their scores are `seg`, the bilinear upsampling is `up`.
FCN-8s
    torchvision's VGG16 has `features.0` to `features.28`, and linear layers `classifier.0`, `.3` and `.6`, of which the
    first two become convolutions. CyCADA's FCN-8s calls them `vgg.*` and `vgg_head.0`, `.3`, `.6`, beside `score_*` and
    `upscore*`.

What makes scores is left out, and a line says so: a network's heads start anew, for how many classes a file scores does
not tell which they are, and heads that started alike (MCD's) would stay alike. Where the classes are told (the method
`imported`) `released_scores` knows these layers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from dynconv.models.drn import DRN26
from dynconv.models.erfnet import ERFNet
from dynconv.models.fcn8s import FCN8s
from dynconv.models.segmentation import SegmentationFeatures
from dynconv.models.weights import load_state, words

_DRN26 = {"base.0.": "conv1.", "base.1.": "bn1."} | {f"base.{level + 2}.": f"layer{level}." for level in range(1, 9)}
_FCN8S = {
    f"{head}.{index}.": f"{layer}." for head in ("vgg_head", "classifier") for index, layer in ((0, "fc6"), (3, "fc7"))
}


def load_published(
    features: SegmentationFeatures, state: Mapping[str, Tensor], where: str, scores: Collection[str] = ()
) -> tuple[list[nn.Parameter], str | None]:
    """Copy `state`, with our names or published ones, into a static network.

    Args:
        features: A network of this package.
        state: Names to tensors, prefixes of wrappers cut.
        where: Where it is from, for the message.
        scores: Names of `state` that the caller takes for the head.

    Returns:
        The parameters that were in it, and a line for whoever watches the run where some of it was left out, or it was
        not the whole network.

    Raises:
        ValueError: Names are missing or unexpected, or shapes differ (each is listed by our name).
    """
    part: nn.Module = features
    told = []
    if isinstance(features, FCN8s):
        kept = _without(state, r"(vgg_head|classifier)\.6\.|(up)?score")
        found = _fcn8s(kept, features)
    elif isinstance(features, DRN26):
        kept = _without(state, r"(seg|up|fc)\.")
        found = _renamed(kept, _DRN26)
    else:
        kept = found = _without(state, r"(encoder|decoder)\.output_conv\.|classifier\.")
        if not isinstance(features, ERFNet):
            kept = found = _without(found, r"decoder\.")
            if scores and any(name.startswith("decoder.") for name in state):
                # train/main.py: the decoder's phase goes on with the encoder and never calls this layer.
                told.append(
                    "encoder.output_conv fits an encoder of ERFNet's first phase (model_encoder_best.pth): with the "
                    "decoder, in the second, the encoder has learnt further and this layer has not"
                )
        elif not any(name.startswith("decoder.") for name in found):
            part, found = features.encoder, _renamed(found, {"encoder.": ""})
            told.append("the file holds the encoder alone; the decoder starts at random")
    load_state(part, found, where)
    if left_out := [name for name in state if name not in kept and name not in scores]:
        anew = "" if scores else "; the network's own scores are learnt anew"
        told.append(f"left out: {words(left_out)}{anew}")
    return list(part.parameters()), f"{where}: {'; '.join(told)}" if told else None


def _fcn8s(state: Mapping[str, Tensor], features: FCN8s) -> dict[str, Tensor]:
    found = _renamed(state, _FCN8S)
    # `read_state` has cut "features.".
    found = {f"vgg.{name}" if name[0].isdigit() else name: value for name, value in found.items()}
    for name, layer in (("fc6.weight", features.fc6), ("fc7.weight", features.fc7)):
        # Of a linear layer; any other shape is for `load_state` to name.
        if name in found and found[name].shape == layer.weight.flatten(1).shape:
            found[name] = found[name].view(layer.weight.shape)
    return found


def _without(state: Mapping[str, Tensor], pattern: str) -> dict[str, Tensor]:
    """`state` without the names that begin with `pattern`."""
    return {name: value for name, value in state.items() if not re.match(pattern, name)}


def _renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """`state` with other prefixes."""
    found = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        found[prefixes.get(prefix, "") + name.removeprefix(prefix)] = value
    return found
