"""Launchers of `feature_gradient_norms` on a bank of M multilayer discriminators over one batch of features (N, D).

The inner operator: logits z and gains g = ||dz/df||, from which p and sigmoid(z) make norms and losses (GSDA eq. 6-12).
With s_l = act'(a_l) * dropout_l, K hidden layers and w the last layer's weights::

    a_l = W_l h_{l-1} + b_l,  h_l = act(a_l) * dropout_l,  z = w . h_K + b       h_0 = f
    v_K = s_K * w,  v_{l-1} = s_{l-1} * W_l^T v_l,  v_0 = W_1^T v_1,  g = ||v_0||

v_0 (M, N, D) ends as its rows' sums of squares in the product that forms it. Backward from dz and dg, where the
direction t_0 = v_0 / g carries no upstream gradient, so that no half type overflows in t_l = s_l * W_l t_{l-1}::

    df = sum_m dz v_0,  dW_l = v_l^T (dz h_{l-1} + dg t_{l-1}),  dw = sum_i dz h_K + dg t_K,  db_l = sum_i dz v_l

The directions are formed for a few discriminators at a time. Every sum has a fixed order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from dynconv.kernels import layout
from dynconv.kernels.bank_products import outer, product, sum_weighted

# What a forward leaves for its backward: "features" is enough where no parameter needs a gradient.
KEEP = ("nothing", "features", "all")
DEFAULT_WORKSPACE = 2**30

Masks = Sequence[Tensor | None]


def reasons(
    features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dropout_masks: Masks | None
) -> list[str]:
    """Why the kernels cannot run these tensors, one sentence each; empty where they can.

    Shapes are as `dynconv.functional.feature_gradient_norms` checks them.
    """
    found = layout.own_reasons("features", features)
    num, samples = weights[-1].shape[0], features.shape[0]
    for name, tensors in {"weights": weights, "biases": biases, "dropout_masks": dropout_masks or ()}.items():
        for index, tensor in enumerate(tensors):
            if tensor is None:
                continue
            label = f"{name}[{index}]"
            if tensor.device != features.device:
                found.append(f"{label} is on {tensor.device}, features on {features.device}")
            if tensor.shape[0] != num:
                found.append(f"{label} is shared by all discriminators; the kernels take one for each of {num}")
            if name != "dropout_masks" and tensor.dtype != features.dtype:
                found.append(f"{label} has dtype {tensor.dtype}, features have {features.dtype}")
            if tensor.dtype == torch.float64 and name == "dropout_masks":
                found.append(f"{label} has dtype float64; the kernels compute in float32")
            if tensor[0].numel() >= layout.LIMIT:
                found.append(f"{label} has {tensor[0].numel()} elements a discriminator, of fewer than {layout.LIMIT}")
    widest = max(features.shape[1], *(weight.shape[1] for weight in weights))
    if samples * widest >= layout.LIMIT:
        found.append(f"{samples} samples have {widest} units each; the kernels take fewer than {layout.LIMIT} in all")
    return found


def kept_like(
    features: Tensor, weights: Sequence[Tensor], keep: str, workspace_bytes: int | None = None
) -> list[Tensor]:
    """Empty tensors for what a forward keeps: words_1 .. words_K, h_1 .. h_K, v_1 .. v_K, for "features" v_1 alone.

    Words (M, N, ceil(H_l / 32)) are int32, a bit for each unit with a positive pre-activation; h_l and v_l (M, N, H_l)
    have the dtype of ``features`` (N, D). In place of M stand as many discriminators as half of the workspace holds;
    the other half is the backward's, which computes what the others need again.
    """
    if keep not in KEEP:
        raise ValueError(f"keep must be one of {', '.join(KEEP)}; got {keep!r}.")
    num, samples = weights[-1].shape[0], features.shape[0]
    widths = [weight.shape[1] for weight in weights[:-1]]
    if keep == "nothing" or not widths:
        return []
    floats = [widths[0]] if keep == "features" else widths * 2
    words = [] if keep == "features" else [(width + 31) // 32 for width in widths]
    if workspace_bytes is not None:
        each = samples * (sum(words) * 4 + sum(floats) * features.element_size())
        num = min(num, workspace_bytes // 2 // max(1, each))
    kept = [features.new_empty((num, samples, width), dtype=torch.int32) for width in words]
    return kept + [features.new_empty((num, samples, width)) for width in floats]


def forward(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    dropout_masks: Masks | None,
    negative_slope: float,
    *,
    keep: str,
    workspace_bytes: int | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits z (M, N) and gains g (M, N), both float32, and what `kept_like` lists.

    Args:
        features: (N, D), of any strides, as are the other tensors.
        weights: (M, H_l, H_{l-1}) for each layer, H_0 = D, the last (M, 1, H_K).
        biases: (M, H_l) for each layer, or None.
        dropout_masks: Factors (M, N, H_l) of any floating dtype for each hidden layer, or None.
        negative_slope: Of the leaky ReLU; 0 is ReLU.
        keep: "nothing", "features" or "all": see `kept_like`.
        workspace_bytes: Most bytes of temporaries and of what is kept, but for partial sums of 4 bytes for 64 units and
            copies of arguments that are not contiguous; temporaries of one discriminator are the least. None: no
            bound.
    """
    kept = kept_like(features, weights, keep, workspace_bytes)
    num, samples = weights[-1].shape[0], features.shape[0]
    logits, gains = (features.new_empty((num, samples), dtype=torch.float32) for _ in range(2))
    if samples == 0:
        return logits, gains, kept
    bank = _bank(features, weights, biases, dropout_masks, negative_slope)
    if bank.depth == 0:
        w = bank.weights[0][:, 0].float()
        torch.mm(w, bank.features.float().T, out=logits)
        if bank.biases[0] is not None:
            logits += bank.biases[0]
        gains.copy_(w.norm(dim=1)[:, None])
        return logits, gains, kept
    num_kept = kept[0].shape[0] if kept else 0
    each = _bytes(kept_like(features, weights, "all")) // num
    limit = None if workspace_bytes is None else workspace_bytes - _bytes(kept)
    first = _parts(0, num_kept, 0 if keep == "all" else each, limit)
    for part in itertools.chain(first, _parts(num_kept, num, each, limit)):
        own = bank.part(part)
        is_kept = part.start < num_kept
        filled = [tensor[part] for tensor in kept] if is_kept else []
        if not is_kept or keep != "all":
            # v_1, which a forward for the features alone keeps, comes after the words and the h_l of all layers.
            temporary = kept_like(features, own.weights, "all")
            filled = temporary[: 2 * bank.depth] + filled + temporary[2 * bank.depth + len(filled) :]
        _forward(own, filled, logits[part], gains[part], for_parameters=is_kept and keep == "all")
    return logits, gains, kept


def backward(
    grad_logits: Tensor,
    grad_gains: Tensor,
    gains: Tensor,
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    dropout_masks: Masks | None,
    negative_slope: float,
    kept: Sequence[Tensor],
    *,
    keep: str,
    needs_features: bool,
    needs_weights: Sequence[bool],
    needs_biases: Sequence[bool],
    workspace_bytes: int | None = None,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Gradients of features, weights and biases, those that are needed, each in the dtype of what it belongs to.

    Args:
        grad_logits, grad_gains: dz and dg, (M, N).
        gains: (M, N), the forward's. A zero gain has a zero subgradient.
        kept: What the forward returned with ``keep``; what it lacks is computed again.
        needs_weights, needs_biases: One for each layer; that of an absent bias is ignored.
        workspace_bytes: As in `forward`, for directions (M, N, D), t_l, what is kept and what is computed again; None:
            1 GiB.

    Raises:
        ValueError: ``keep`` is "features" and a parameter's gradient is needed.
    """
    needs = [need and bias is not None for need, bias in zip(needs_biases, biases, strict=True)]
    if keep == "features" and (any(needs_weights) or any(needs)):
        raise ValueError('keep="features" serves the gradient of features alone; forward with keep="all".')
    bank = _bank(features, weights, biases, dropout_masks, negative_slope)
    dz, dg, gains = (tensor.float().contiguous() for tensor in (grad_logits, grad_gains, gains))
    df = torch.zeros(bank.features.shape, dtype=torch.float32, device=features.device) if needs_features else None
    # Without samples no launch writes them.
    make = torch.zeros_like if features.shape[0] == 0 else torch.empty_like
    dws = [make(weight) if need else None for need, weight in zip(needs_weights, bank.weights, strict=True)]
    dbs = [None if bias is None or not need else make(bias) for need, bias in zip(needs, bank.biases, strict=True)]
    if features.shape[0] > 0:
        grads = _Gradients(df, dws, dbs)
        if bank.depth == 0:
            _linear_backward(bank, dz, dg, gains, grads)
        else:
            limit = DEFAULT_WORKSPACE if workspace_bytes is None else workspace_bytes
            _backward_in_parts(bank, dz, dg, gains, kept, grads, limit)
    return None if df is None else df.to(features.dtype), dws, dbs


@dataclass(frozen=True)
class _Bank:
    """The contiguous arguments of a call, or of some of its discriminators."""

    features: Tensor
    weights: list[Tensor]
    biases: list[Tensor | None]
    masks: list[Tensor | None]
    slope: float

    @property
    def depth(self) -> int:
        """Hidden layers."""
        return len(self.weights) - 1

    def part(self, part: slice) -> _Bank:
        """The discriminators of a slice."""
        biases, masks = ([None if t is None else t[part] for t in tensors] for tensors in (self.biases, self.masks))
        return replace(self, weights=[weight[part] for weight in self.weights], biases=biases, masks=masks)


@dataclass(frozen=True)
class _Gradients:
    """Where gradients go, None where none is needed; that of the features is float32."""

    features: Tensor | None
    weights: list[Tensor | None]
    biases: list[Tensor | None]

    def part(self, part: slice) -> _Gradients:
        """Those of a slice of the discriminators."""
        weights, biases = ([None if t is None else t[part] for t in tensors] for tensors in (self.weights, self.biases))
        return replace(self, weights=weights, biases=biases)

    @property
    def deepest(self) -> int:
        """The last t_l that a gradient needs; -1 where none does."""
        found = [index for index, weight in enumerate(self.weights) if weight is not None]
        return max(found, default=-1 if self.features is None else 0)


def _bank(
    features: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    dropout_masks: Masks | None,
    slope: float,
) -> _Bank:
    masks = [layout.contiguous(mask) for mask in dropout_masks or [None] * (len(weights) - 1)]
    dense = [weight.contiguous() for weight in weights]
    return _Bank(features.contiguous(), dense, [layout.contiguous(bias) for bias in biases], masks, float(slope))


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _parts(start: int, stop: int, each: int, limit: int | None) -> Iterator[slice]:
    """Slices of these discriminators whose ``each`` bytes of temporaries stay below the limit."""
    num = stop - start
    if num == 0:
        return
    size = num if limit is None or each == 0 else max(1, min(num, limit // each))
    # As even as they come: a small last part would leave multiprocessors idle.
    size = triton.cdiv(num, triton.cdiv(num, size))
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _forward(
    bank: _Bank, kept: Sequence[Tensor], logits: Tensor | None, gains: Tensor | None, *, for_parameters: bool
) -> None:
    """Fills ``kept``, all that `kept_like` lists, but without ``for_parameters`` not what only their gradients read."""
    depth, slope = bank.depth, bank.slope
    words, hidden, gates = kept[:depth], kept[depth : 2 * depth], kept[2 * depth :]
    for index in range(depth):
        is_last = index == depth - 1
        z = product(
            hidden[index - 1] if index else bank.features, bank.weights[index], "activate", slope, transposed=True,
            bias=bank.biases[index], drop=bank.masks[index],
            words=None if is_last and not for_parameters else words[index],
            out=None if is_last and not for_parameters else hidden[index],
            last=bank.weights[-1] if is_last else None, gated=gates[-1] if is_last else None,
        )  # fmt: skip
    if logits is not None:
        bias = bank.biases[-1]
        torch.add(z, 0 if bias is None else bias.float(), out=logits)
    for index in range(depth - 1, 0, -1):
        product(
            gates[index], bank.weights[index], "gate", slope, transposed=False,
            words=words[index - 1], drop=bank.masks[index - 1], out=gates[index - 1],
        )  # fmt: skip
    if gains is not None:
        torch.sqrt(product(gates[0], bank.weights[0], "norm", slope, transposed=False), out=gains)


def _backward_in_parts(
    bank: _Bank, dz: Tensor, dg: Tensor, gains: Tensor, kept: Sequence[Tensor], grads: _Gradients, limit: int
) -> None:
    num, num_kept = dz.shape[0], kept[0].shape[0] if kept else 0
    for_parameters = any(t is not None for t in (*grads.weights, *grads.biases))
    widths = [weight.shape[2] for weight in bank.weights[: grads.deepest + 1]]
    each = bank.features.shape[0] * sum(widths) * bank.features.element_size()
    again = each + _bytes(kept_like(bank.features, bank.weights, "all")) // num
    limit -= _bytes(kept)
    for part in itertools.chain(_parts(0, num_kept, each, limit), _parts(num_kept, num, again, limit)):
        own = bank.part(part)
        if part.start < num_kept:
            saved = [tensor[part] for tensor in kept]
        else:
            saved = kept_like(bank.features, own.weights, "all")
            _forward(own, saved, None, None, for_parameters=for_parameters)
        _backward(own, dz[part], dg[part], gains[part], saved, grads.part(part))


def _backward(bank: _Bank, dz: Tensor, dg: Tensor, gains: Tensor, kept: Sequence[Tensor], grads: _Gradients) -> None:
    """Adds to the features' gradient and writes the parameters' of the bank's discriminators."""
    direction = None
    if grads.deepest >= 0:
        # v_1 is the first of the last K, and for the features alone the only one.
        gate = kept[-bank.depth :][0]
        direction = bank.features.new_empty((dz.shape[0], *bank.features.shape))
        # Not for g > 0 alone, which would hide NaN.
        inverse = torch.where(gains == 0, 0.0, 1 / gains)
        product(gate, bank.weights[0], "scale", bank.slope, transposed=False, row_scale=inverse, out=direction)
    if grads.features is not None and direction is not None:
        # df_i sums over discriminators: batch entries are samples, and terms lie a discriminator apart.
        strides = (direction.stride(1), direction.stride(0), 1, direction.shape[1])
        sum_weighted(direction, None, dz * gains, None, grads.features, strides, accumulate=True)
    if any(t is not None for t in (*grads.weights, *grads.biases)):
        _parameter_gradients(bank, dz, dg, direction, kept, grads)


def _parameter_gradients(
    bank: _Bank, dz: Tensor, dg: Tensor, direction: Tensor | None, kept: Sequence[Tensor], grads: _Gradients
) -> None:
    """Writes them layer by layer, beside which the direction t_0 moves up to t_l; None where only biases are needed."""
    depth = bank.depth
    words, hidden, gates = kept[:depth], kept[depth : 2 * depth], kept[2 * depth :]
    for index in range(depth + 1):
        h = hidden[index - 1] if index else bank.features
        dw, db = grads.weights[index], grads.biases[index]
        if dw is not None:
            if index < depth:
                outer(gates[index], h, direction, dz, dg, dw)
            else:
                sum_weighted(h, direction, dz, dg, dw, _by_sample(h))
        if db is not None:
            if index < depth:
                sum_weighted(gates[index], None, dz, None, db, _by_sample(gates[index]))
            else:
                db.copy_(dz.sum(dim=1, keepdim=True))
        if direction is not None and index < grads.deepest:
            following = torch.empty_like(hidden[index])
            product(
                direction, bank.weights[index], "gate", bank.slope, transposed=True,
                words=words[index], drop=bank.masks[index], out=following,
            )  # fmt: skip
            direction = following


def _linear_backward(bank: _Bank, dz: Tensor, dg: Tensor, gains: Tensor, grads: _Gradients) -> None:
    """Without hidden layers v_0 is w for every sample."""
    w = bank.weights[0][:, 0].float()
    if grads.features is not None:
        torch.mm(dz.T, w, out=grads.features)
    if grads.weights[0] is not None:
        inverse = torch.where(gains == 0, 0.0, 1 / gains)
        dw = dz @ bank.features.float() + (dg * inverse).sum(dim=1, keepdim=True) * w
        grads.weights[0].copy_(dw[:, None])
    if grads.biases[0] is not None:
        grads.biases[0].copy_(dz.sum(dim=1, keepdim=True))


def _by_sample(tensor: Tensor) -> tuple[int, int, int, int]:
    """Strides of a `weighted_sum` over the samples of (M, N, H), with weights (M, N)."""
    return tensor.stride(0), tensor.stride(1), tensor.shape[1], 1
