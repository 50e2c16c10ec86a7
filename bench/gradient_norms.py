"""The banks whose feature-gradient norms are measured, who computes them, the oracle, and the least work they take."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynconv import reference
from dynconv.bench.harness import CannotRun, relative_error
from dynconv.bench.machine import DTYPES, Rates
from dynconv.bench.rows import Row
from dynconv.nn import DiscriminatorBank

STATIC, OURS, LOOP, VMAP = "static", "dynconv", "loop", "vmap"
# Discriminators: the domain, groups and classes of Office-31, Office-Home and DomainNet.
GROUPS = {38: 6, 79: 13, 415: 69}
# Discriminators, by the kind of weights, and samples that are held against the reference: six have a group and four
# classes, so that some pairs are void. Of 72 samples one has a hidden unit so near to 0 that
# float32 and float64 see it on two sides, and each then has its own derivative there.
CHECKED, CHECKED_BATCH = {"gsda": 6, "dense": 3}, 8


@dataclass(frozen=True)
class Spec:
    """One problem: everything but the program that computes it."""

    num: int
    batch: int
    features: int
    hidden: int
    layers: int
    dropout: float
    weights: str
    dtype: str
    mode: str
    device: str

    def columns(self) -> Row:
        """The identity of a row."""
        return {
            "op": "feature_gradient_norms",
            "shape": f"{self.num} x {self.features}-{self.hidden}, {self.layers} layers, dropout {self.dropout:g}",
            "batch": self.batch,
            "in_channels": self.features,
            "out_channels": self.hidden,
            "groups": self.num,
            "dtype": self.dtype,
            "mode": self.mode,
            "residual": self.weights,
        }


@dataclass(frozen=True)
class Given:
    """The tensors of a problem. ``modules`` share the bank's memory, each with parameters of its own."""

    bank: DiscriminatorBank
    modules: list[nn.Sequential]
    features: Tensor
    targets: Tensor
    weights: Tensor
    upstream: tuple[Tensor, Tensor]
    """Incoming gradients of the norms (N, M) and the losses (M,)."""

    @property
    def leaves(self) -> list[Tensor]:
        return [self.features, *self.bank.weights, *self.bank.biases]


def sample_weights(spec: Spec, generator: torch.Generator) -> Tensor:
    """p (N, M): of the domain, groups and classes; a source sample's class is known, a target sample's is a softmax."""
    if spec.weights == "dense":
        return torch.rand(spec.batch, spec.num, generator=generator)
    groups = GROUPS.get(spec.num, max(1, spec.num // 6))
    classes = spec.num - 1 - groups
    p = torch.softmax(2 * torch.randn(spec.batch, classes, generator=generator), dim=1)
    source = spec.batch // 2
    p[:source] = F.one_hot(torch.randint(classes, (source,), generator=generator), classes).float()
    members = F.one_hot(torch.arange(classes) % groups, groups).float()
    return torch.cat([torch.ones(spec.batch, 1), p @ members, p], dim=1)


def tensors(spec: Spec) -> Given:
    """A bank, its discriminators as modules on the same memory, and a batch."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    bank = DiscriminatorBank(
        spec.num, spec.features, spec.hidden, spec.layers, spec.dropout, device=torch.device(spec.device)
    )
    modules = []
    for index in range(spec.num):
        layers: list[nn.Module] = []
        for weight, bias in zip(bank.weights, bank.biases, strict=True):
            linear = nn.utils.skip_init(nn.Linear, weight.shape[2], weight.shape[1], device="meta")
            linear.weight = nn.Parameter(weight.detach()[index])
            linear.bias = nn.Parameter(bias.detach()[index])
            layers += [linear, nn.ReLU(), nn.Dropout(spec.dropout)]
        modules.append(nn.Sequential(*layers[:-2]))
    drawn = (
        torch.randn(spec.batch, spec.features, generator=generator),
        (torch.arange(spec.batch) < spec.batch // 2).float(),
        sample_weights(spec, generator),
        torch.randn(spec.batch, spec.num, generator=generator),
        torch.randn(spec.num, generator=generator),
    )
    features, targets, weights, of_norms, of_losses = (t.to(spec.device) for t in drawn)
    return Given(bank, modules, features.requires_grad_(), targets, weights, (of_norms, of_losses))


Results = tuple[Tensor | None, Tensor, Tensor]
"""Norms (N, M), None where there are none, logits (N, M) and losses (M,)."""


def _losses(logits: Tensor, given: Given) -> Tensor:
    targets = given.targets[:, None].expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits.float(), targets, given.weights, reduction="none").sum(dim=0)


def _static(given: Given) -> Results:
    logits = given.bank(given.features)
    return None, logits, _losses(logits, given)


def _ours(backend: str, given: Given) -> Results:
    try:
        return given.bank.gradient_norms(
            given.features, given.targets, given.weights, logits_everywhere=False, backend=backend
        )
    except ValueError as error:
        if str(error).startswith(f'backend="{backend}" cannot run'):
            raise CannotRun(str(error)) from error
        raise


def _loop(given: Given) -> Results:
    """One discriminator after the other."""
    norms, logits, losses = [], [], []
    is_forward_only = not torch.is_grad_enabled()
    with torch.enable_grad():
        for m, module in enumerate(given.modules):
            z = module(given.features)[:, 0].float()
            loss = F.binary_cross_entropy_with_logits(z, given.targets, given.weights[:, m], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, given.features, create_graph=not is_forward_only)
            norms.append(gradient.norm(dim=1))
            logits.append(z)
            losses.append(loss)
    return torch.stack(norms, dim=1), torch.stack(logits, dim=1), torch.stack(losses)


def _vmap(given: Given) -> Results:
    """torch.func.grad of a functional discriminator, batched over stacked parameters."""
    dropout = given.bank.dropout if given.bank.training else 0.0

    def loss(features: Tensor, p: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Any:
        h = features
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = F.linear(h, weight, bias)
            if layer < len(weights) - 1:
                h = F.dropout(F.relu(h), dropout)
        z = h[:, 0].float()
        value = F.binary_cross_entropy_with_logits(z, given.targets, p, reduction="sum")
        return value, (z, value)

    batched = torch.func.vmap(torch.func.grad(loss, has_aux=True), in_dims=(None, 1, 0, 0), randomness="different")
    gradients, (logits, losses) = batched(given.features, given.weights, given.bank.weights, given.bank.biases)
    return torch.linalg.vector_norm(gradients, dim=2).t(), logits.t(), losses


PROVIDERS: dict[str, Callable[[Given], Results]] = {
    STATIC: _static,
    OURS: functools.partial(_ours, "auto"),
    f"{OURS}:triton": functools.partial(_ours, "triton"),
    LOOP: _loop,
    VMAP: _vmap,
}


def timed(spec: Spec, given: Given, provider: str) -> Callable[[], Any]:
    """The forward pass without autograd, or the forward pass and the gradients of features and all parameters."""
    function = PROVIDERS[provider]
    leaves = given.leaves
    if provider == LOOP:
        leaves = [given.features, *(p for module in given.modules for p in module.parameters())]

    def step() -> tuple[Results, tuple[Tensor, ...]]:
        is_forward_only = spec.mode == "forward"
        with torch.set_grad_enabled(not is_forward_only):
            with torch.autocast(spec.device, dtype=DTYPES[spec.dtype], enabled=spec.dtype != "fp32"):
                norms, logits, losses = function(given)
            if is_forward_only:
                return (norms, logits, losses), ()
            results, incoming = [losses], [given.upstream[1]]
            if norms is not None:
                results, incoming = [norms, losses], list(given.upstream)
            return (norms, logits, losses), torch.autograd.grad(results, leaves, incoming)

    return step


def distance(spec: Spec, provider: str) -> tuple[float, str]:
    """The largest relative error of a result or gradient against the reference in float64, and whose it is: of the
    problem's first discriminators, in evaluation mode."""
    small = replace(spec, num=CHECKED[spec.weights], batch=min(spec.batch, CHECKED_BATCH))
    given = tensors(small)
    given.bank.eval()
    for module in given.modules:
        module.eval()
    results, found = timed(small, given, provider)()
    if provider == LOOP and found:
        found = (found[0], *_stacked(found[1:], small.num))
    exact = [t.detach().double().requires_grad_() for t in given.leaves]
    weights, biases = exact[1 : 1 + spec.layers], exact[1 + spec.layers :]
    wanted = reference.feature_gradient_norms(exact[0], weights, biases, given.targets.double(), given.weights.double())
    incoming = [u.double() for u in given.upstream]
    picked = [wanted[0], wanted[2]]
    if provider == STATIC:
        picked, incoming = picked[1:], incoming[1:]
    expected = torch.autograd.grad(picked, exact, incoming) if spec.mode != "forward" else ()
    names = ["norms", "logits", "losses"] + [f"the gradient of leaf {index}" for index in range(len(expected))]
    norms, logits, losses = results
    # Ours is not asked for the logits of void pairs.
    counts = given.weights != 0
    logits = None if logits is None else logits * counts
    pairs = zip(
        names, (norms, logits, losses, *found), (wanted[0], wanted[1] * counts, wanted[2], *expected), strict=True
    )
    errors = {name: relative_error(a, b) for name, a, b in pairs if a is not None}
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst


def _stacked(gradients: Sequence[Tensor], num: int) -> list[Tensor]:
    """The gradients of modules, one after the other, in the order of a bank's: weights, then biases."""
    each = len(gradients) // num
    return [torch.stack(list(gradients[place::each])) for place in (*range(0, each, 2), *range(1, each, 2))]


def floor(spec: Spec, provider: str, active: int, rates: Rates) -> tuple[float, float, float]:
    """FLOPs, bytes and the floor in ms.

    A pair of weight above 0 takes two products with every weight, logit and direction, and two more in the backward;
    each weight is read once per pass, and its gradient written. ``static`` has no direction in its forward.
    """
    widths = [spec.features, *[spec.hidden] * (spec.layers - 1), 1]
    weights = sum(a * b for a, b in itertools.pairwise(widths))
    item = DTYPES[spec.dtype].itemsize
    pairs = spec.num * spec.batch if provider == STATIC else active
    forward = (2.0 if provider == STATIC else 4.0) * pairs * weights, float(item * spec.num * weights)
    backward = (4.0 * pairs * weights, (item + 4.0) * spec.num * weights) if spec.mode != "forward" else (0.0, 0.0)
    milliseconds = sum(rates.floor_ms(flops, moved, spec.dtype) for flops, moved in (forward, backward))
    return forward[0] + backward[0], forward[1] + backward[1], milliseconds


def least_bytes(spec: Spec, provider: str) -> int:
    """Bytes that a provider holds at its peak, as far as they can be told: parameters and, in a backward pass, their
    gradients; directions (N, D) and hidden layers of every discriminator for those who keep all of them."""
    widths = [spec.features, *[spec.hidden] * (spec.layers - 1), 1]
    weights = spec.num * sum(a * b for a, b in itertools.pairwise(widths))
    pairs = spec.num * spec.batch * (spec.features + 4 * spec.hidden * (spec.layers - 1))
    # vmap's backward adds a second gradient of each weight to the first.
    gradients = 0 if spec.mode == "forward" else 3 if provider == VMAP else 1
    return 4 * ((1 + gradients) * weights + (pairs if provider in (LOOP, VMAP) else 0))
