"""The released dynamic ResNet: the names of its checkpoint, brought to those of `to_dynamic`'s networks.

Per bottleneck of inplanes channels in and planes in its 3x3 the file has, beside torchvision's names, `fc.0.weight`
(max(inplanes // 16, 4), inplanes) and `fc.2.weight` (K, ...), which make softmax coefficients of the block's input, and
`conv_s1.weight` to `conv_sK.weight` (planes, planes, 1, 1), the bases Phi_1 to Phi_K. None has a bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dynconv.models.dynamic import DynamicSpec
from dynconv.models.weights import words
from dynconv.nn import DynamicConv2d

_BASIS = re.compile(r"layer\d+\.\d+\.conv_s(\d+)\.weight")
_BRANCH = re.compile(r"layer\d+\.\d+\.fc\.[02]\.weight")


def num_bases_of(state: Mapping[str, Tensor], where: str) -> int:
    """K of a state_dict with the released names; 0 for one without dynamic convolutions.

    Args:
        state: Names to tensors.
        where: Where it is from, for the message.

    Raises:
        ValueError: It has branches and no basis.
    """
    found = max((int(found[1]) for found in map(_BASIS.fullmatch, state) if found), default=0)
    if found == 0 and (branches := [name for name in state if _BRANCH.fullmatch(name)]):
        raise ValueError(
            f"{where} holds the branches of released DRT's dynamic network ({words(branches)}) and none of its bases "
            "(conv_s1 to conv_sK): it is damaged; give the whole file, or one of a static network"
        )
    return found


def check_fits(state: Mapping[str, Tensor], dynamic: DynamicSpec | None, where: str) -> None:
    """Check that a state_dict with the released names is of the network that `dynamic` describes.

    Raises:
        ValueError: It is not: which fields must be given.
    """
    bases = num_bases_of(state, where)
    # The release divides by no temperature.
    wanted = {
        "residual": "subspace",
        "num_bases": bases,
        "basis_kernel_size": 1,
        "reduction": 16,
        "temperature": 1.0,
    }
    if dynamic is None:
        given = "residual 'none'"
    else:
        given = ", ".join(f"{k} {getattr(dynamic, k)!r}" for k, v in wanted.items() if getattr(dynamic, k) != v)
    if given:
        options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in wanted.items())
        raise ValueError(
            f"{where} holds released DRT's dynamic network, and this one is another ({given}); give {options}, or a "
            "file of a static network"
        )


def renamed(state: Mapping[str, Tensor], trunk: nn.Module, where: str) -> dict[str, Tensor]:
    """`state` with the names that the bases and branches of `trunk` have; all other names as they are.

    Args:
        state: With the released names, prefixes cut.
        trunk: torchvision's ResNet after `to_dynamic` with a description that passed `check_fits`.
        where: Where the state is from, for the message.

    Raises:
        ValueError: A block's parts are missing or of other shapes (each is listed by its name in the file).
    """
    found = dict(state)
    missing, shapes = [], []
    for name, layer in trunk.named_modules():
        if not isinstance(layer, DynamicConv2d):
            continue
        block = name.removesuffix("conv2")
        hidden, context = layer.branch.w1.shape
        kernel = (layer.out_channels, layer.in_channels, 1, 1)
        bases = [f"{block}conv_s{index}.weight" for index in range(1, layer.num_bases + 1)]
        squeeze, excite = f"{block}fc.0.weight", f"{block}fc.2.weight"
        parts = {squeeze: (hidden, context), excite: (layer.num_bases, hidden), **dict.fromkeys(bases, kernel)}
        missing += [part for part in parts if part not in state]
        shapes += [
            f"{part} {tuple(state[part].shape)} for {shape}"
            for part, shape in parts.items()
            if part in state and state[part].shape != shape
        ]
        if missing or shapes:
            continue
        found[f"{name}.basis"] = torch.cat([found.pop(basis) for basis in bases])
        found[f"{name}.branch.w1"], found[f"{name}.branch.w2"] = found.pop(squeeze), found.pop(excite)
        # The release has no temperature: it stays 1, as `check_fits` asks.
        found[f"{name}.branch.temperature"] = layer.branch.temperature
    faults = {"missing": missing, "other shapes": shapes}
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {words(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"{where} holds released DRT's dynamic network, and its blocks do not fit: {listed}")
    return found
