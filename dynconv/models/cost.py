"""What dynamic convolutions cost: parameters, and multiply-adds of an image's forward pass, beside the static network.

Nothing is timed here, and on the meta device nothing is computed: shapes alone are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dynconv.models.dynamic import DynamicSpec, dynamic_parameters
from dynconv.models.network import build
from dynconv.nn import CoefficientBranch, DynamicConv2d

Form = Literal["one-kernel", "split", "linear"]
FORMS: tuple[Form, ...] = ("one-kernel", "split", "linear")
# Section 3.3 of DRT: "the extra FLOPs caused by dynamic coefficient generation and residual aggregation of dynamic
# transfer is negligible (less than 0.1% in our implementation) compared to the static model".
PAPERS_PERCENT = 0.1
# Height and width at which networks for segmentation are counted: driving scenes, as in GAM (section 5.3).
PIXELS = (512, 1024)


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and multiply-adds (MACs; one MAC is two FLOPs) of its forward pass of one image.

    Normalisations (those of instances too), activations, poolings of the static network and the softmax are not
    counted, as is usual.
    """

    parameters: int
    added_parameters: int
    """Those of them that bases and branches add."""
    static_macs: int
    """Convolutions, with W0 alone, transposed ones and linear layers."""
    pooling_macs: int
    """Of the branches: one addition, counted as a MAC, per element that they read."""
    branch_macs: int
    """Of the branches: their two linear layers."""
    aggregation_macs: int
    """K |Phi_i|: the sum of pi_bi Phi_i, made anew for every image."""
    kernel_scale_macs: int
    """|W0|: the kernel s_b W0, made anew for every image."""
    output_scale_macs: int
    """Cout P: the scale on the static convolution's output instead; P is its number of places."""
    product_macs: int
    """P |Phi_i|: the input times the aggregated residual, where it is a product apart from the static one."""
    basis_macs: int
    """K P |Phi_i| + K Cout P: the input times every Phi_i, and the weighted sum of those K outputs."""

    @property
    def coefficient_macs(self) -> int:
        """What it takes to get pi and s."""
        return self.pooling_macs + self.branch_macs

    def added_macs(self, form: Form) -> int:
        """MACs per image on top of ``static_macs``, in one of the three exact ways to compute a dynamic convolution.

        ``"one-kernel"``: the kernel s_b W0 + sum pi_bi Phi_i is formed, then one convolution as in the static network.
        ``"split"``: the static convolution, and one product with the aggregated residual.
        ``"linear"``: K + 1 convolutions, the form that DRT's release computes.
        """
        by_form = {
            "one-kernel": self.aggregation_macs + self.kernel_scale_macs,
            "split": self.aggregation_macs + self.product_macs + self.output_scale_macs,
            "linear": self.basis_macs + self.output_scale_macs,
        }
        return self.coefficient_macs + by_form[form]

    def to_dict(self) -> dict[str, int | dict[str, int]]:
        """The counts, and ``added_macs`` by form, for JSON."""
        return vars(self) | {"added_macs": {form: self.added_macs(form) for form in FORMS}}


class KindCost(NamedTuple):
    """One row of the table of a backbone."""

    kind: str
    dynamic: DynamicSpec | None
    """How its convolutions are dynamic; None for the static network."""
    cost: Cost


def count_cost(model: nn.Module, *inputs: Any) -> Cost:
    """Count a model by one forward pass without gradients, in eval mode; modes are put back.

    Args:
        model: Any module. A convolution, linear layer or branch that runs twice counts twice.
        inputs: What the forward pass takes, with a batch of one; on the meta device where the model is.

    Returns:
        The cost of a forward pass of one image. What is neither ``nn.Conv2d``, ``nn.ConvTranspose2d``, ``nn.Linear``
        nor a module of dynconv (an attention written in functions) is not counted.

    Raises:
        ValueError: ``inputs`` hold no tensor, or their batch is not one.
    """
    static_macs, layers = _run(model, *inputs)
    cost = _cost([(layer, layer.residual) for layer in layers], static_macs)
    added = sum(parameter.numel() for parameter in dynamic_parameters(model))
    return replace(cost, parameters=sum(p.numel() for p in model.parameters()), added_parameters=added)


def costs_of_kinds(
    backbone: str, num_classes: int | None = None, image_size: tuple[int, int] | None = None
) -> list[KindCost]:
    """A backbone static and with each kind of dynamic convolution, counted on the meta device: no weights are made.

    Args:
        backbone: One of :data:`dynconv.models.NAMES`.
        num_classes: Count one head of this width too; None for the features alone.
        image_size: Height and width of the images of a network for segmentation, ``PIXELS`` by default; the others
            have their own.

    Raises:
        ValueError: An unknown backbone, fewer than two classes, or a size that is not the backbone's.
    """
    kinds: list[tuple[str, DynamicSpec | None]] = [
        ("static", None),
        ("channel attention", DynamicSpec(residual="channel")),
        *((f"subspace, K = {k}", DynamicSpec(num_bases=k)) for k in (2, 4, 6, 8)),
        ("subspace, K = 4, full bases", DynamicSpec(basis_kernel_size=None)),
        ("combination, K = 4", DynamicSpec(residual="combined")),
    ]
    # One forward pass serves all kinds: the same layers are dynamic, and their branches read the same. Eight cost 10 s.
    with torch.device("meta"):
        # A width must be given, though the head may not be built.
        network = build(backbone, num_classes=num_classes or 2, dynamic=DynamicSpec(), weights="none")
        size = (network.image_size,) * 2 if network.image_size else image_size or PIXELS
        if image_size not in (None, size):
            raise ValueError(f"image_size: {backbone} takes images of {size[0]} x {size[1]}, got {image_size}")
        images = torch.empty(1, 3, *size)
        features = network.features
        model = features if num_classes is None else nn.Sequential(features, network.make_head())
    static_macs, layers = _run(model, images)
    parameters = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in dynamic_parameters(model))
    rows = []
    for kind, dynamic in kinds:
        residuals = [] if dynamic is None else [(layer, layer.residual_of(dynamic)) for layer in layers]
        cost = _cost(residuals, static_macs)
        rows.append(KindCost(kind, dynamic, replace(cost, parameters=parameters + cost.added_parameters)))
    return rows


class _Residual(NamedTuple):
    """What a dynamic convolution adds to its static twin."""

    num_bases: int
    num_scales: int
    basis: int
    """|Phi_i|, the elements of one basis."""


class _Layer(NamedTuple):
    """A dynamic convolution as it ran on one image."""

    kernel: int
    """|W0|."""
    taps: int
    """kh kw."""
    out_channels: int
    places: int
    """P = Hout Wout."""
    read: int
    """Elements that the branch read."""
    branch_inputs: int
    hidden: int
    residual: _Residual

    def residual_of(self, dynamic: DynamicSpec) -> _Residual:
        """The layer's residual were it of another description (of the same reduction)."""
        num_bases = 0 if dynamic.residual == "channel" else dynamic.num_bases
        num_scales = 0 if dynamic.residual == "subspace" else self.out_channels
        return _Residual(num_bases, num_scales, self.kernel // self.taps if dynamic.basis_kernel_size else self.kernel)


def _run(model: nn.Module, *inputs: Any) -> tuple[int, list[_Layer]]:
    """MACs of convolutions, with W0 alone, transposed ones and linear layers of a forward pass; and its dynamic
    convolutions."""
    images = next((value for value in inputs if isinstance(value, Tensor)), None)
    if images is None or images.dim() == 0 or len(images) != 1:
        got = "no tensor" if images is None else f"shape {tuple(images.shape)}"
        raise ValueError(f"inputs: expected images with a batch of one, (1, C, H, W), got {got}")
    macs: list[int] = []
    read: dict[nn.Module, int] = {}
    layers: list[_Layer] = []

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, CoefficientBranch):
            read[module] = args[0].numel()
        elif isinstance(module, nn.Linear):
            macs.append(output.numel() * module.in_features)
        elif isinstance(module, nn.ConvTranspose2d):
            # Every input place is multiplied by the whole kernel; what falls into the padding is counted too.
            macs.append(args[0].shape[-2] * args[0].shape[-1] * module.weight.numel())
        elif isinstance(module, nn.Conv2d):
            places = output.shape[-2] * output.shape[-1]
            macs.append(places * module.weight.numel())
            if isinstance(module, DynamicConv2d):
                layers.append(_layer(module, places, read.pop(module.branch, None)))

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with _in_eval_mode(model), torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sum(macs), layers


def _layer(conv: DynamicConv2d, places: int, read: int | None) -> _Layer:
    basis = 0 if conv.basis is None else conv.basis.numel() // conv.num_bases
    # Nothing was read where the coefficients were given: the branch did not run.
    hidden, branch_inputs = (0, 0) if read is None else conv.branch.w1.shape
    return _Layer(
        conv.weight.numel(),
        conv.weight[0, 0].numel(),
        conv.out_channels,
        places,
        read or 0,
        branch_inputs,
        hidden,
        _Residual(conv.num_bases, conv.branch.num_scales, basis),
    )


def _cost(residuals: Sequence[tuple[_Layer, _Residual]], static_macs: int) -> Cost:
    """The sum over the layers; `parameters` are left at 0."""
    branch_macs = sum(a.hidden * (a.branch_inputs + r.num_bases + r.num_scales) for a, r in residuals)
    # As many multiply-adds as elements: each of a branch's and of the bases is used once per image.
    aggregation_macs = sum(r.num_bases * r.basis for _, r in residuals)
    return Cost(
        parameters=0,
        added_parameters=branch_macs + aggregation_macs,
        static_macs=static_macs,
        pooling_macs=sum(a.read for a, _ in residuals),
        branch_macs=branch_macs,
        aggregation_macs=aggregation_macs,
        kernel_scale_macs=sum(a.kernel for a, r in residuals if r.num_scales),
        output_scale_macs=sum(a.out_channels * a.places for a, r in residuals if r.num_scales),
        product_macs=sum(a.places * r.basis for a, r in residuals if r.num_bases),
        basis_macs=sum(a.places * r.num_bases * (r.basis + a.out_channels) for a, r in residuals),
    )


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
