"""The closed form of the norms ||dz/df|| of ReLU perceptrons in batched matrix products, forward and backward.

With h_0 = f and h_{l+1} = m_{l+1} (W_l h_l + b_l), where the mask m is the activation's derivative times dropout, and
v_L = 1::

    v_l = m_l W_l^T v_{l+1},  v_0 = dz/df,  g = ||v_0||

For upstream gradients dz and dg let t_0 = dg v_0 / g (0 where g is 0) and t_{l+1} = m_{l+1} W_l t_l. Then::

    df = sum_m dz v_0,  dW_l = sum_i v_{l+1} (dz h_l + t_l)^T,  db_l = sum_i dz v_{l+1}

so the products of the backward are as many as those of the forward, and the features' gradient needs none.

There is no C++ form: on two cores 79 discriminators on 256 features, no pair void, took 540 ms with their dropout masks
where the products alone take 430 ms at the machine's measured rate, so that there is little to gain outside of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynconv.ops.discriminators import Discriminators
from dynconv.ops.eager.discriminator_groups import Group, Plan, groups, kept_like, kept_widths, plan
from dynconv.ops.gradient_memory import gradient_like


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a (1 or c, n, K) times b (1 or c, K, J), in ``out`` where there is one."""
    if b.shape[0] > 1:
        return torch.bmm(a.expand(b.shape[0], -1, -1), b, out=out)
    if a.shape[0] == 1:
        return torch.mm(a[0], b[0], out=None if out is None else out[0])[None]
    product = torch.mm(a.flatten(0, 1), b[0]).unflatten(0, a.shape[:2])
    return product if out is None else out.copy_(product)


def _ascend(
    group: Group,
    h: Tensor,
    first: int,
    end: int,
    masks: Sequence[Tensor | None],
    into: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """h_{first + 1} to h_end from h = h_first, in the tensors of ``into``; the last layer's is the logit."""
    problem, results = group.problem, []
    for layer in range(first, end):
        bias, weight = problem.biases[layer], group.of(problem.weights[layer])
        out = into[layer - first] if into and layer < problem.depth - 1 else None
        if layer == problem.depth - 1:
            # The logit is one number, whose rounding to half precision would be the loss's.
            h, weight = h.to(problem.accumulation_dtype), weight.to(problem.accumulation_dtype)
        mask = masks[layer] if layer < problem.depth - 1 else None
        if mask is not None and mask.shape[0] > h.shape[0]:
            # A shared weight below a mask of each discriminator's own.
            h = h.expand(mask.shape[0], -1, -1)
        h = _product(h, weight.mT, out)
        h = h if bias is None else h.add_(group.of(bias)[:, None])
        if layer < problem.depth - 1:
            h = torch.nn.functional.leaky_relu_(h, problem.negative_slope)
            h = h if mask is None else h.mul_(mask)
        results.append(h)
    return results


def _masked(problem: Discriminators, v: Tensor, h: Tensor, mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """v times the activation's derivative and dropout, told from the layer's result h: a dropped unit is exactly 0, and
    so is its mask. ``out`` may be v."""
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device) if out is None else out
    if problem.negative_slope == 0:
        torch.ops.aten.threshold_backward.grad_input(v, h, 0, grad_input=out)
    else:
        torch.ops.aten.leaky_relu_backward.grad_input(v, h, problem.negative_slope, True, grad_input=out)
    return out if mask is None else out.mul_(mask)


def _top(group: Group, hidden: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
    """v of the last hidden layer; of the features, which have no mask, where there is none."""
    last = group.of(group.problem.weights[-1])
    v = last.expand(group.high - group.low, group.count, -1)
    return _masked(group.problem, v, hidden[-1], masks[-1]) if hidden else v


def _descend(
    group: Group, hidden: Sequence[Tensor], masks: Sequence[Tensor | None], into: Sequence[Tensor | None] | None = None
) -> list[Tensor]:
    """v_0 to v_{L-1}, from h_1 to h_{L-1} at the group's rows, in the tensors of ``into``, of v_0 to v_{L-2}."""
    problem = group.problem
    v = _top(group, hidden, masks)
    results = [v]
    for layer in range(problem.depth - 2, -1, -1):
        v = _product(v, group.of(problem.weights[layer]), into[layer] if into else None)
        if layer > 0:
            v = _masked(problem, v, hidden[layer - 1], masks[layer - 1], out=v)
        results.insert(0, v)
    return results


def _shared(problem: Discriminators) -> list[Tensor]:
    """h_0 to the last h that all discriminators have in common, (1, N, H_l) each."""
    features = problem.features[None]
    everywhere = Group(problem, 0, 1, None)
    return [features, *_ascend(everywhere, features, 0, problem.num_shared, problem.masks)]


def forward(
    problem: Discriminators, active: Tensor | None, keep: str, logits_everywhere: bool, workspace: int | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits (M, N), gains ||dz/df|| (M, N) and what is kept for the backward.

    ``active`` (M, N) tells which gains are wanted; logits are given there alone unless ``logits_everywhere``.
    """
    logits = torch.zeros((problem.num, problem.batch), dtype=problem.accumulation_dtype, device=problem.features.device)
    gains = torch.zeros_like(logits)
    kept = kept_like(problem, keep, workspace)
    if problem.batch == 0:
        return logits, gains, kept
    chosen = plan(problem, keep, workspace)
    shared = _shared(problem)
    for group in groups(problem, chosen, active):
        if group.count == 0 and not logits_everywhere:
            continue
        of_v, of_h = _places(group, kept if group.high <= chosen.kept else (), keep)
        hidden, masks = _hidden(group, shared, logits, of_h, everywhere=logits_everywhere)
        v = _descend(group, hidden, masks, of_v)
        group.put(gains, torch.linalg.vector_norm(v[0], dim=2, dtype=gains.dtype))
    return logits, gains, kept


def _places(group: Group, kept: Sequence[Tensor], keep: str) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Where a group's v_0 to v_{L-2} and its h (of layers that are not shared) are kept; None where they are not."""
    problem = group.problem
    if not kept:
        return [], []
    found: dict[str, list[Tensor | None]] = {"v": [], "h": []}
    for (name, _), tensor in zip(kept_widths(problem, keep), kept, strict=True):
        found[name].append(tensor[group.low : group.high, : group.count])
    if keep == "features":
        found["v"] += [None] * (problem.depth - 2)
    return found["v"], found["h"]


def _hidden(
    group: Group, shared: Sequence[Tensor], logits: Tensor | None, into: Sequence[Tensor | None], *, everywhere: bool
) -> tuple[list[Tensor], list[Tensor | None]]:
    """h_1 to h_{L-1} and the dropout masks at the group's rows, those that are not shared in the tensors of ``into``;
    the logits of these rows, or ``everywhere``, go to ``logits``."""
    problem, first = group.problem, group.problem.num_shared
    masks = group.masks()
    below = [group.take(h) for h in shared[1:]]
    if everywhere and group.rows is not None:
        whole = group.everywhere()
        *own, z = _ascend(whole, shared[-1], first, problem.depth, whole.masks())
        own = [group.take(h) for h in own]
        for h, place in zip(own, into, strict=False):
            if place is not None:
                place.copy_(h)
    else:
        whole = group
        base = below[-1] if below else group.take(shared[0])
        *own, z = _ascend(group, base, first, problem.depth, masks, into)
    if logits is not None:
        whole.put(logits, z[..., 0])
    return [*below, *own], masks


class Gradients(NamedTuple):
    """Of the features and of each layer's weight and bias, None where not asked for."""

    features: Tensor | None
    weights: list[Tensor | None]
    biases: list[Tensor | None]


def backward(
    problem: Discriminators,
    active: Tensor | None,
    kept: Sequence[Tensor],
    gains: Tensor,
    grad_logits: Tensor,
    grad_gains: Tensor | None,
    *,
    keep: str,
    workspace: int | None,
    needs_features: bool,
    needs_weights: Sequence[bool],
    needs_biases: Sequence[bool],
) -> Gradients:
    """The gradients for upstream gradients (M, N) of the forward's first two results; None where no one asked for the
    gains'."""
    dtype = problem.accumulation_dtype
    wanted = Gradients(
        torch.zeros(problem.features.shape, dtype=dtype, device=problem.features.device) if needs_features else None,
        [_buffer(problem, w) if needed else None for w, needed in zip(problem.weights, needs_weights, strict=True)],
        [
            None if b is None or not needed else _buffer(problem, b)
            for b, needed in zip(problem.biases, needs_biases, strict=True)
        ],
    )
    if problem.batch == 0:
        for gradient in (*wanted.weights, *wanted.biases):
            if gradient is not None:
                gradient.zero_()
        return wanted
    chosen = plan(problem, keep, workspace)
    if active is not None and bool((grad_logits * ~active).any()):
        # Someone asked for the gradient of a logit whose norm is void: all rows, from the beginning.
        active, chosen = None, Plan(chosen.group, 0)
    has_parameters = any(needs_weights) or any(needs_biases)
    shared = _shared(problem) if has_parameters or chosen.kept < problem.num else []
    for group in groups(problem, chosen, active):
        v, hidden, masks = _recalled(group, shared, kept if group.high <= chosen.kept else (), keep)
        dz = group.take(group.of(grad_logits)[..., None])
        if wanted.features is not None:
            _add_features(wanted.features, group, dz, v[0])
        if has_parameters:
            t = None
            if grad_gains is not None:
                gain = group.take(group.of(gains)[..., None])
                scale = torch.where(gain > 0, group.take(group.of(grad_gains)[..., None]) / gain, 0.0)
                t = (v[0] * scale).to(v[0].dtype)
            _add_parameters(wanted, group, dz, t, v, [group.take(shared[0]), *hidden], masks)
    return wanted


def _buffer(problem: Discriminators, parameter: Tensor) -> Tensor:
    """Where a parameter's gradient goes: summed up in the accumulation dtype if shared, else written once."""
    if parameter.shape[0] < problem.num:
        return torch.zeros(parameter.shape, dtype=problem.accumulation_dtype, device=parameter.device)
    return gradient_like(parameter, torch.contiguous_format)


def _recalled(
    group: Group, shared: Sequence[Tensor], kept: Sequence[Tensor], keep: str
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """v_0 to v_{L-1}, h_1 to h_{L-1} and the masks of a group, as far as the backward needs them."""
    if not kept:
        hidden, masks = _hidden(group, shared, None, (), everywhere=False)
        return _descend(group, hidden, masks), hidden, masks
    v, own = ([t for t in places if t is not None] for places in _places(group, kept, keep))
    if keep == "features":
        return v, [], []
    masks = group.masks()
    hidden = [*(group.take(h) for h in shared[1:]), *own]
    return [*v, _top(group, hidden, masks)], hidden, masks


def _add_features(gradient: Tensor, group: Group, dz: Tensor, v: Tensor) -> None:
    if group.rows is not None:
        gradient.index_add_(0, group.rows.flatten(), (v * dz).flatten(0, 1))
    elif len(v) == 1:
        gradient.addcmul_(v[0], dz[0])
    else:
        gradient.add_((v * dz).sum(dim=0))


def _add_parameters(
    wanted: Gradients,
    group: Group,
    dz: Tensor,
    t: Tensor | None,
    v: Sequence[Tensor],
    h: Sequence[Tensor],
    masks: Sequence[Tensor | None],
) -> None:
    """dW_l and db_l of a group, from dz (c, n, 1), t_0, v_0 to v_{L-1} and h_0 to h_{L-1}."""
    problem = group.problem
    dz = dz.to(problem.features.dtype)
    for layer in range(problem.depth):
        is_last = layer == problem.depth - 1
        following = None
        if t is not None and any(weight is not None for weight in wanted.weights[layer + 1 :]):
            following = _product(t, group.of(problem.weights[layer]).mT)
            following = _masked(problem, following, h[layer + 1], masks[layer], out=following)
        weight, bias = wanted.weights[layer], wanted.biases[layer]
        if weight is not None:
            below = dz * h[layer] if t is None else t.addcmul_(dz, h[layer])
            if is_last:
                _put(group, weight, below.sum(dim=1, keepdim=True, dtype=weight.dtype))
            else:
                _put_product(group, weight, v[layer + 1], below)
        if bias is not None:
            _put(group, bias, dz.sum(dim=1, dtype=bias.dtype) if is_last else torch.bmm(dz.mT, v[layer + 1])[:, 0])
        t = following


def _put(group: Group, gradient: Tensor, value: Tensor) -> None:
    """A group's part of a parameter's gradient, or its contribution to a shared one's."""
    if gradient.shape[0] < group.problem.num:
        gradient += value.sum(dim=0, keepdim=True, dtype=gradient.dtype)
    else:
        gradient[group.low : group.high] = value


def _put_product(group: Group, gradient: Tensor, above: Tensor, below: Tensor) -> None:
    """As :func:`_put` of sum_i above_i below_i^T, for above (c, n, J) and below (c, n, K)."""
    if gradient.shape[0] < group.problem.num:
        gradient[0] += above.flatten(0, 1).mT @ below.flatten(0, 1)
    else:
        torch.bmm(above.mT, below, out=gradient[group.low : group.high])
