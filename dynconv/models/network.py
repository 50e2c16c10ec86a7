"""Which backbones there are, and how one is built: static or dynamic, from scratch or from weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor, nn

from dynconv.models.drn import DRN26
from dynconv.models.dtn import DTN
from dynconv.models.dynamic import DynamicSpec
from dynconv.models.erfnet import ERFNet, ERFNetEncoder
from dynconv.models.fcn8s import FCN8s
from dynconv.models.features import Features, WithBottleneck
from dynconv.models.lenet import LeNet, Stage, static_convolution
from dynconv.models.released_drt import check_fits, num_bases_of, renamed
from dynconv.models.released_scores import published_scores
from dynconv.models.released_segmentation import load_published
from dynconv.models.resnet import ResNet, SmallResNet
from dynconv.models.segmentation import SegmentationFeatures
from dynconv.models.weights import are_left_out, imagenet_state, load_state, read_state, words
from dynconv.nn import to_dynamic
from dynconv.nn.dynamic_conv2d import Start

Norm = Literal["batch", "none"]
Normalisation = Literal["half", "imagenet", "unit"]
NormalisationChoice = Literal["auto", "half", "imagenet", "unit"]
Labels = Literal["image", "pixel"]


class Network(NamedTuple):
    """A backbone and the recipe of its classifiers."""

    features: Features
    """Images (B, 3, image_size, image_size) to features (B, features.out_features), or, for labels of pixels, images
    (B, 3, H, W) to maps (B, features.out_features, h, w)."""
    make_head: Callable[[], nn.Module]
    """A new classifier, features to scores (B, num_classes), or maps to scores (B, num_classes, H, W), with its own
    random start."""
    image_size: int
    """Side of the images; 0 where they may have any that `NetworkInput.multiple` allows."""
    normalisation: Normalisation
    """What the images must be normalised by: "half" ([-1, 1]), "imagenet" (its mean and deviation per channel) or
    "unit" ([0, 1])."""
    pretrained: list[nn.Parameter]
    """The parameters of the features that came with the weights; none from scratch."""
    notice: str | None = None
    """What was taken of a file that holds more or less than the features; None where that is nothing to tell."""
    scores: Mapping[str, Tensor] = MappingProxyType({})
    """By the names of a head's parameters, what makes scores in the file, of the file's classes; empty where it was not
    asked for, and where no file is read."""


class NetworkInput(NamedTuple):
    """What a backbone wants to be fed, known before it is built."""

    image_size: int
    """Side of the square images; 0 for images (H, W) of any size that `multiple` allows."""
    normalisation: Normalisation
    """As in `Network`."""
    labels: Labels = "image"
    """What it labels: the whole image, or each of its pixels (segmentation)."""
    multiple: int = 1
    """What the images' height and width must be multiples of, where `image_size` is 0."""


@dataclass(frozen=True)
class _Layout:
    stages: tuple[Stage, ...]
    linear: tuple[int, ...]
    dropout: float = 0.0
    image_size: int = LeNet.image_size
    grey: bool = False
    norm: bool = True
    """Whether it can be batch-normalised."""


_LENETS = {
    # 264 k parameters, 5.2 MMAC per image forward: 0.09 s for a training step of 128 images on one CPU core.
    "lenet-small": _Layout((Stage(24, 5, 0, (2, 2, 0)), Stage(48, 5, 0, (2, 2, 0)), Stage(64, 3, 1)), (128,)),
    # The digits network of M3SDA (Peng et al., ICCV 2019), which DRT calls LeNet.
    "lenet-m3sda": _Layout(
        (Stage(64, 5, 2, (3, 2, 1)), Stage(64, 5, 2, (3, 2, 1)), Stage(128, 5, 2)), (3072, 2048), dropout=0.5
    ),
    # Caffe's LeNet on grey images, the digits network of ADDA and GAM (their released code): 431,080 parameters with a
    # classifier of 10 classes.
    "lenet-gam": _Layout(
        (Stage(20, 5, 0, (2, 2, 0)), Stage(50, 5, 0, (2, 2, 0))), (500,), image_size=28, grey=True, norm=False
    ),
}
# torchvision's networks by their depth.
_DEPTHS: dict[str, Literal[50, 101]] = {"resnet50": 50, "resnet101": 101}
_SEGMENTATION: dict[str, type[SegmentationFeatures]] = {
    "erfnet-encoder": ERFNetEncoder,
    "erfnet": ERFNet,
    "drn26": DRN26,
    "fcn8s": FCN8s,
}
# What labels every pixel.
SEGMENTATION = tuple(_SEGMENTATION)
NAMES = (*_LENETS, "dtn", "resnet-small", *_DEPTHS, *SEGMENTATION)
# What is made for batch normalisation.
_NORMED = ("resnet-small", *_DEPTHS)


def input_of(name: str, weights: str = "auto", image_norm: NormalisationChoice = "auto") -> NetworkInput:
    """Size and normalisation of the images that `build` with the same arguments gives a network for.

    Args:
        name, weights, image_norm: As of `build`; no file is read.

    Raises:
        ValueError: An unknown name, or ImageNet weights of a network that has none.
    """
    found = _usual_input(name, weights)
    return found if image_norm == "auto" else found._replace(normalisation=image_norm)


def _usual_input(name: str, weights: str) -> NetworkInput:
    if name not in NAMES:
        raise ValueError(f"backbone: expected one of {', '.join(NAMES)}, got {name!r}")
    if name in _LENETS:
        return NetworkInput(_LENETS[name].image_size, "half")
    if name == "dtn":
        return NetworkInput(DTN.image_size, "half")
    if name == "resnet-small":
        return NetworkInput(SmallResNet.image_size, "half")
    # A file is taken for what nearly all such files are: trained on ImageNet, or on images normalised like it.
    normalisation: Normalisation = "half" if weights_of(name, weights) == "none" else "imagenet"
    if name in _SEGMENTATION:
        return NetworkInput(0, normalisation, "pixel", _SEGMENTATION[name].multiple)
    return NetworkInput(ResNet.image_size, normalisation)


def build(
    name: str,
    *,
    num_classes: int,
    dynamic: DynamicSpec | None = None,
    norm: Norm = "batch",
    bottleneck: int = 0,
    weights: str = "auto",
    image_norm: NormalisationChoice = "auto",
    with_scores: bool = False,
) -> Network:
    """A backbone and the recipe of its classifiers.

    Args:
        name: `lenet-small`, `lenet-m3sda` (64-64-128 convolutions, 3072-2048 linear) or `dtn` (64-128-256, 512) for 32
            x 32 images, `lenet-gam` (20-50, 500) for 28 x 28, `resnet-small` for 64 x 64, or torchvision's `resnet50`
            or `resnet101` for 224 x 224; for labels of pixels `erfnet-encoder` (with bilinear upsampling, as GAM's),
            `erfnet`, `drn26` or `fcn8s`.
        num_classes: Width of each head.
        dynamic: Makes the convolutions `DynamicConv2d` of this description: all of a LeNet's or the DTN's; of a ResNet
            the 3x3 in its blocks, of a network for segmentation all whose longer side is 3, starting exactly at the
            static weights where there are any. None for the static network.
        norm: "none" leaves out every batch normalisation of a LeNet, the DTN, ERFNet or DRN-26; FCN-8s and `lenet-gam`
            have none anyway.
        bottleneck: Width of a linear layer after the backbone (CDAN: 256); 0 for none.
        weights: "imagenet" (torchvision's IMAGENET1K_V1, for `resnet50` and `resnet101`), "none", the path of a file
            with a state_dict (torchvision's names for those two, with or without a classifier; with the names of
            released DRT's dynamic ResNet its bases and branches are taken too; for segmentation with our names or those
            of `released_segmentation`), or "auto": ImageNet where there is such a set of weights, none elsewhere.
        image_norm: What its images are normalised by; "auto": "imagenet" for a ResNet or a network for
            segmentation with weights, else "half".
        with_scores: Whether a file's layers that make scores (`released_scores`) are given as `Network.scores`; without
            it they are left out.

    Raises:
        ValueError: For an unknown name or norm, fewer than two classes, a negative bottleneck, weights that are not
            there, cannot be read or do not fit (`with_scores`: have no such layers), or a description that cannot start
            at given weights (channel attention whose scale is a sigmoid; any but its own beside released DRT's).
    """
    image_size, normalisation, *_ = input_of(name, weights, image_norm)
    features: Features
    if norm not in ("batch", "none"):
        raise ValueError(f"norm: expected 'batch' or 'none', got {norm!r}")
    if norm == "none" and name in _NORMED:
        able = ", ".join(each for each in NAMES if each not in _NORMED)
        raise ValueError(f"norm: 'none' is for {able}; {name} is made for batch normalisation")
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    if bottleneck < 0:
        raise ValueError(f"bottleneck: expected the width of a layer, or 0 for none, got {bottleneck}")
    if bottleneck and name in _SEGMENTATION:
        raise ValueError(
            f"bottleneck: it is a linear layer on features, and {name} gives maps; give 0, got {bottleneck}"
        )
    file = weights_of(name, weights)
    from_scratch = file == "none"
    pretrained, notice = list[nn.Parameter](), None
    scores: Mapping[str, Tensor] = {}
    if name in _LENETS:
        features = _lenet(name, norm, dynamic if from_scratch else None)
    elif name == "dtn":
        features = DTN(norm=norm == "batch")
    elif name == "fcn8s":
        features = FCN8s()
    elif name in _SEGMENTATION:
        features = _SEGMENTATION[name](norm=norm == "batch")
    else:
        features = ResNet(_DEPTHS[name]) if name in _DEPTHS else SmallResNet()
    head: Callable[[], nn.Module]
    if not from_scratch:
        pretrained, notice, scores = _take_weights(features, name, file, dynamic, with_scores=with_scores)
    elif dynamic is not None and name not in _LENETS:
        _make_dynamic(features, dynamic, "random")
    if bottleneck:
        features = WithBottleneck(features, bottleneck)
    if isinstance(features, SegmentationFeatures):
        head = functools.partial(features.make_head, num_classes)
    else:
        head = functools.partial(nn.Linear, features.out_features, num_classes)
    return Network(features, head, image_size, normalisation, pretrained, notice, scores)


def weights_of(name: str, weights: str) -> str:
    """ "none", "imagenet" or the path of a file: what `weights` means for the backbone `name`.

    Raises:
        ValueError: ImageNet weights of a backbone that has none.
    """
    if weights == "auto":
        return "imagenet" if name in _DEPTHS else "none"
    if weights == "imagenet" and name not in _DEPTHS:
        raise ValueError(f"weights: there are ImageNet weights of {' and '.join(_DEPTHS)}, not of {name}; use 'none'")
    return weights


def _take_weights(
    features: Features, name: str, file: str, dynamic: DynamicSpec | None, *, with_scores: bool
) -> tuple[list[nn.Parameter], str | None, dict[str, Tensor]]:
    """Give a static backbone its weights, and make it dynamic: `pretrained`, `notice` and `scores` of the `Network`."""
    state = None if are_left_out() else imagenet_state(name) if file == "imagenet" else read_state(Path(file))
    trunk, where = features.trunk if isinstance(features, ResNet) else features, f"--weights {file}"
    released = isinstance(features, ResNet) and state is not None and num_bases_of(state, where) > 0
    pretrained, notice = list(features.parameters()), None
    taken = published_scores(features, state, where) if with_scores and state is not None else {}
    scores = {} if state is None else {own: state[published] for own, published in taken.items()}
    if state is not None and released:
        check_fits(state, dynamic, where)
    elif state is not None and isinstance(features, SegmentationFeatures):
        pretrained, notice = load_published(features, state, where, taken.values())
    elif state is not None:
        load_state(trunk, state, where)
    if dynamic is not None:
        _make_dynamic(features, dynamic, "static")
    if state is None or not released:
        return pretrained, notice, scores
    left_out = [name for name in load_state(trunk, renamed(state, trunk, where), where) if name not in taken.values()]
    without = f"; its classifier is left out ({words(left_out)})" if left_out else ""
    return list(features.parameters()), f"{where}: bases and branches came with the weights{without}", scores


def _make_dynamic(features: Features, dynamic: DynamicSpec, start: Start) -> None:
    """Make the convolutions of a backbone that is no LeNet dynamic."""
    # In segmentation all 3x3, 3x1 and 1x3: four full bases of VGG16's 7x7 would have 411 M weights.
    where = (lambda _name, conv: max(conv.kernel_size) == 3) if isinstance(features, SegmentationFeatures) else None
    to_dynamic(features, where, start=start, **dynamic.options())


def _lenet(name: str, norm: Norm, dynamic: DynamicSpec | None) -> LeNet:
    layout = _LENETS[name]
    return LeNet(
        layout.stages,
        layout.linear,
        dropout=layout.dropout,
        norm=norm == "batch" and layout.norm,
        convolution=static_convolution if dynamic is None else dynamic.convolution,
        image_size=layout.image_size,
        grey=layout.grey,
    )
