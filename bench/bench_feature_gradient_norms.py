"""The operator feature_gradient_norms, through a bank of discriminators, beside the ways one would write it.

`static` is the bank's logits and losses without norms: what adversarial training costs without them. `loop` takes
`autograd.grad(create_graph=True)` of one discriminator after another, modules of their own; `vmap` is
`torch.func.vmap(grad)` over stacked weights. Before a provider is timed, its results and gradients are held against the
float64 reference, for the problem's first discriminators without dropout. bench/README.md explains the rows.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from dynconv import reference
from dynconv.bench.harness import (
    CannotRun,
    CommonOptions,
    Entry,
    Row,
    attempt,
    chosen,
    megabytes,
    memory_columns,
    relative_error,
    roofline_columns,
    time_entries,
)
from dynconv.bench.machine import DTYPES, Rates, free_bytes
from dynconv.bench.session import Plan, Session, run
from dynconv.nn import DiscriminatorBank

STATIC, OURS, LOOP, VMAP = "static", "dynconv", "loop", "vmap"
MODES = ("forward", "forward+backward")
WEIGHTS = ("gsda", "dense")
# Discriminators: the domain, groups and classes of Office-31, Office-Home and DomainNet.
GROUPS = {38: 6, 79: 13, 415: 69}
# Discriminators, by the kind of weights, and samples that are held against the reference: six have a group and four
# classes, so that some pairs are void. Of 72 samples one has a hidden unit so near to 0 that
# float32 and float64 see it on two sides, and each then has its own derivative there.
CHECKED, CHECKED_BATCH = {"gsda": 6, "dense": 3}, 8
# In bf16 a unit in 200 is on the other side.
ALLOWED = {"fp32": None, "bf16": 0.1}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure feature-gradient norms. Every selection left out takes a default that suits the device."""

    num: tuple[int, ...] = ()
    """Discriminators, of 38 (Office-31), 79 (Office-Home), 415 (DomainNet) or any number from 4 on. Default: all three;
    38 with --quick."""
    batch: int = 72
    """Samples, half of them of the source."""
    features: tuple[int, ...] = ()
    """Width of the features. Default: 256, 2048; 256 with --quick."""
    hidden: int = 1024
    """Width of the discriminators' hidden layers."""
    layers: int = 3
    """Linear layers of a discriminator."""
    dropout: float = 0.5
    """Rate, while timed."""
    weights: tuple[str, ...] = ()
    """gsda (a source sample counts for its class, its group and the domain), dense (no pair has weight 0). Default:
    both; gsda with --quick."""
    dtype: tuple[str, ...] = ()
    """fp32, bf16 (autocast). Default: fp32 on a CPU, both on a GPU."""
    mode: tuple[str, ...] = ()
    """forward, forward+backward (features and all parameters). Default: both."""
    providers: tuple[str, ...] = ()
    """static (always), dynconv, dynconv:triton, loop, vmap. Default: all, on a CPU without Triton."""


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


def prepare(spec: Mapping[str, Any], provider: str) -> Callable[[], Any]:
    """The timed call of a row, for the process that measures memory."""
    own = Spec(**spec)
    return timed(own, tensors(own), provider)


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


def grid(options: Options, device: torch.device) -> list[Spec]:
    """The problems that the options describe; ValueError for unknown words or sizes out of range."""
    numbers = chosen("--num", options.num, [38] if options.quick else list(GROUPS))
    features = chosen("--features", options.features, [256] if options.quick else [256, 2048])
    weights = chosen("--weights", options.weights, ["gsda"] if options.quick else WEIGHTS, WEIGHTS)
    dtypes = chosen("--dtype", options.dtype, ["fp32"] if device.type == "cpu" else list(DTYPES), DTYPES)
    modes = chosen("--mode", options.mode, MODES, MODES)
    for flag, values, least in (
        ("--num", numbers, 4),
        ("--batch", [options.batch], 2),
        ("--features", features, 1),
        ("--hidden", [options.hidden], 1),
        ("--layers", [options.layers], 1),
    ):
        if min(values) < least:
            raise ValueError(f"{flag}: expected at least {least}, got {min(values)}")
    if not 0 <= options.dropout < 1:
        raise ValueError(f"--dropout: expected at least 0 and less than 1, got {options.dropout}")
    return [
        Spec(
            num,
            options.batch,
            width,
            options.hidden,
            options.layers,
            options.dropout,
            kind,
            dtype,
            mode,
            device.type,
        )
        for num, width, kind, dtype, mode in itertools.product(numbers, features, weights, dtypes, modes)
    ]


def timed_rows(names: Sequence[str], options: Options, spec: Spec, session: Session) -> list[Row]:
    """Check and time every provider on one problem, whose tensors are gone when memory is measured in another process:
    the largest bank and its gradients take half of a machine of 24 GB."""
    given = tensors(spec)
    active, inputs = int((given.weights != 0).sum()), megabytes(given.leaves)
    entries: list[Entry] = []

    def build(name: str) -> Callable[[], Any]:
        needed, free = least_bytes(spec, name), free_bytes(session.device)
        if needed > free:
            raise CannotRun(f"needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
        return timed(spec, given, name)

    def check(name: str, _: Any) -> tuple[float, str]:
        return distance(spec, name)

    for name in (STATIC, *names):
        row = spec.columns() | {"provider": name}
        entries += attempt(
            row,
            functools.partial(build, name),
            functools.partial(check, name),
            session.device,
            is_ours=name.startswith(OURS),
            allowed=ALLOWED[spec.dtype],
        )
    time_entries(entries, session.device, options)
    for entry in entries:
        if entry.run is not None:
            row, name = entry.row, entry.row["provider"]
            work = floor(spec, name, active, session.rates)
            row |= roofline_columns(*work, row["p50_ms"], session.rates, spec.dtype)
            row["peak_mb"] = inputs
    return [entry.row for entry in entries]


def measure(names: Sequence[str], options: Options, spec: Spec, session: Session) -> None:
    """Check, time and record every provider on one problem."""
    for row in timed_rows(names, options, spec, session):
        inputs = row.pop("peak_mb", 0.0)
        if row["status"] == "ok" and session.meter is not None:
            arguments = {"spec": asdict(spec), "provider": row["provider"]}
            function = "dynconv.bench.bench_feature_gradient_norms:prepare"
            row |= memory_columns(session.meter, function, arguments, inputs)
        session.recorder.add(row)


def plan(options: Options, device: torch.device) -> Plan[Spec]:
    """What the options describe; ValueError for an unknown word or a size out of range."""
    specs = grid(options, device)
    default = [name for name in PROVIDERS if device.type == "cuda" or not name.endswith("triton")]
    names = chosen("--providers", options.providers, default, PROVIDERS)
    selected = [name for name in PROVIDERS if name in names and name != STATIC]

    def label(spec: Spec) -> str:
        return f"{spec.num} x {spec.features}-{spec.hidden} {spec.weights} {spec.dtype} {spec.mode}"

    return Plan(
        specs,
        ["fp32", *(spec.dtype for spec in specs)],
        label,
        functools.partial(measure, selected, options),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = tyro.cli(Options, prog="dynconv bench feature_gradient_norms", description=__doc__, args=args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())
