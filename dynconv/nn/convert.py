"""``to_dynamic``: make the convolutions of a model dynamic, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Literal, TypeVar, cast

from torch import nn

from dynconv.nn.coefficient_branch import BranchInit, ScaleActivation
from dynconv.nn.dynamic_conv2d import DynamicConv2d, Residual, Start

Model = TypeVar("Model", bound=nn.Module)
Where = Callable[[str, nn.Conv2d], bool] | Iterable[str]


def to_dynamic(
    model: Model,
    where: Where | None = None,
    *,
    start: Start = "static",
    residual: Residual = "subspace",
    num_bases: int = 4,
    basis_kernel_size: Literal[1] | None = 1,
    reduction: int = 16,
    temperature: float = 1.0,
    scale_activation: ScaleActivation = "sigmoid",
    branch_init: BranchInit = "normal",
) -> Model:
    """Replace convolutions of ``model`` by :class:`DynamicConv2d`, in place, and return ``model``.

    The new modules take over the Parameters they replace, so pretrained weights, ties between weights and optimisers
    that already hold them stay valid (add the new parameters to the optimiser). With ``start="static"`` the converted
    model computes what it computed before. Frozen weights stay frozen; bases and branches can always learn.

    Args:
        model: Any module; a single ``nn.Conv2d`` goes through ``DynamicConv2d.from_conv2d``.
        where: Which convolutions. A predicate ``(name, conv) -> bool``, or glob patterns on module names ("*" spans
            dots). Offered are plain ``nn.Conv2d``; a subclass of it may compute something else (timm's ``Conv2dSame``),
            and so does a parametrised one: they stay as they are.
            Default: in torchvision's ResNets the 3x3 of each Bottleneck (DRT's choice) or both 3x3 of each BasicBlock;
            in any other model every convolution with a kernel larger than 1x1 (of odd size, for a 1x1 basis).
        start: ``"static"`` or ``"random"``: see ``DynamicConv2d.reset_residual``.
        residual, num_bases, basis_kernel_size, reduction, temperature, scale_activation, branch_init: See
            ``DynamicConv2d``.

    In a block that is exactly torchvision's Bottleneck or BasicBlock, the branch of ``conv2`` reads the block's input,
    as in DRT's release. Everywhere else a branch reads its convolution's own input; a block of your own passes another
    context by ``conv(y, context=x)`` after ``DynamicConv2d(..., context_channels=C)``.

    Raises:
        TypeError: ``model`` is no module, ``where`` neither a function nor patterns, or a number of the wrong kind.
        ValueError: Nothing matched, a pattern matched nothing, an option does not fit a matched convolution (the model
            is then left as it was), or ``model`` is itself a convolution.
    """
    if not isinstance(model, nn.Module):
        given = f"{type(model).__name__} {getattr(model, '__name__', '')}".rstrip()
        raise TypeError(f"to_dynamic: model must be an nn.Module, got {given}.")
    if isinstance(model, nn.Conv2d):
        raise ValueError(
            "to_dynamic: model is itself a convolution and cannot be replaced in place; "
            "use DynamicConv2d.from_conv2d(model)."
        )
    names: dict[nn.Conv2d, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Conv2d:
            names.setdefault(module, []).append(name)
    blocks = _torchvision_blocks(model)
    pointwise = residual != "channel" and basis_kernel_size == 1
    chosen = _default(names, blocks, pointwise) if where is None else _chosen(model, names, where)
    if not chosen:
        left_out = _left_out(blocks, pointwise) if where is None and names else ""
        raise ValueError(f"to_dynamic: no convolution matched. {_offer(model, names)}{left_out}")

    replacements: dict[nn.Conv2d, DynamicConv2d] = {}
    for conv in chosen:
        try:
            replacements[conv] = DynamicConv2d.from_conv2d(
                conv,
                start=start,
                residual=residual,
                num_bases=num_bases,
                basis_kernel_size=basis_kernel_size,
                reduction=reduction,
                temperature=temperature,
                scale_activation=scale_activation,
                branch_init=branch_init,
                context_channels=_context_channels(model, conv, blocks),
            )
        except ValueError as error:
            raise ValueError(f"to_dynamic: {names[conv][0]}: {error}") from error

    for conv, dynamic in replacements.items():
        for name in names[conv]:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, dynamic)
    converted = set(replacements.values())
    for block, context_block in blocks.items():
        if block.conv2 in converted:
            block.__class__ = context_block
    return model


def _torchvision_blocks(model: nn.Module) -> dict[nn.Module, type[nn.Module]]:
    """The blocks of torchvision's ResNets in ``model``, each with the class that hands its input to ``conv2``."""
    if not any(type(module).__module__ == "torchvision.models.resnet" for module in model.modules()):
        return {}
    from dynconv.nn.torchvision_blocks import CONTEXT_BLOCKS

    # With those converted before: a second call must not take the model for one without such blocks.
    known = CONTEXT_BLOCKS | {block: block for block in CONTEXT_BLOCKS.values()}
    return {module: known[type(module)] for module in model.modules() if type(module) in known}


def _context_channels(model: nn.Module, conv: nn.Conv2d, blocks: dict[nn.Module, type[nn.Module]]) -> int | None:
    """Channels of the block's input where ``conv`` is its ``conv2``, else None."""
    places: set[int | None] = set()
    for module in model.modules():
        for name, child in module._modules.items():  # named_children() leaves out repetitions
            if child is conv:
                inner = module in blocks and name == "conv2"
                places.add(cast(nn.Conv2d, module.conv1).in_channels if inner else None)
    if len(places) > 1:
        raise ValueError(f"shared between places whose contexts differ (channels, None = its own input: {places}).")
    return places.pop()


def _default(
    names: dict[nn.Conv2d, list[str]], blocks: dict[nn.Module, type[nn.Module]], pointwise: bool
) -> list[nn.Conv2d]:
    spatial = [conv for conv in names if max(conv.kernel_size) > 1]
    if pointwise:
        # Patch embeddings and the like: an even kernel has no centre tap for a 1x1 basis.
        spatial = [conv for conv in spatial if all(size % 2 for size in conv.kernel_size)]
    if not blocks:
        return spatial
    of_blocks = {module for block in blocks for module in (block.conv1, block.conv2)}
    return [conv for conv in spatial if conv in of_blocks]


def _chosen(model: nn.Module, names: dict[nn.Conv2d, list[str]], where: Where) -> list[nn.Conv2d]:
    if callable(where) and not isinstance(where, (type, nn.Module)):
        return [conv for conv, own in names.items() if any(where(name, conv) for name in own)]
    given: list[object] = [where] if isinstance(where, str) or not isinstance(where, Iterable) else list(where)
    patterns: list[str] = []
    for pattern in given:
        if not isinstance(pattern, str):
            raise TypeError(
                "to_dynamic: where must be a function (name, conv) -> bool or patterns on the names of modules, "
                f"got {pattern!r}. {_offer(model, names)}"
            )
        if not any(fnmatchcase(name, pattern) for own in names.values() for name in own):
            raise ValueError(
                f"to_dynamic: where: {pattern!r} matches no nn.Conv2d. {_what(model, names, pattern)}"
                f"{_offer(model, names)}"
            )
        patterns.append(pattern)
    return [conv for conv, own in names.items() if any(fnmatchcase(name, p) for name in own for p in patterns)]


def _what(model: nn.Module, names: dict[nn.Conv2d, list[str]], pattern: str) -> str:
    """What a pattern without a convolution names instead, if anything."""
    for name, module in model.named_modules(remove_duplicate=False):
        if name and fnmatchcase(name, pattern):
            inside = any(own.startswith(f"{name}.") for places in names.values() for own in places)
            below = f"; {f'{pattern}.*'!r} matches what is in it" if inside else ""
            return f"{name!r} is a {type(module).__name__}{below}. "
    return ""


def _left_out(blocks: dict[nn.Module, type[nn.Module]], pointwise: bool) -> str:
    """What the default of ``where`` does not take, where it took nothing."""
    if blocks:
        return " Of torchvision's ResNets only the 3x3 of the blocks are taken where none are named."
    even = ", nor even ones (basis_kernel_size=None converts those)" if pointwise else ""
    return f" Kernels of 1x1 are taken only where named{even}."


def _offer(model: nn.Module, names: dict[nn.Conv2d, list[str]]) -> str:
    dynamic = sum(isinstance(module, DynamicConv2d) for module in model.modules())
    already = f" {dynamic} convolution{' is' if dynamic == 1 else 's are'} dynamic already." if dynamic else ""
    if not names:
        return f"The model has no plain nn.Conv2d (subclasses and parametrised ones are not converted).{already}"
    shown = ", ".join(own[0] for own in list(names.values())[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"The model's plain nn.Conv2d are: {shown}{more}.{already}"
