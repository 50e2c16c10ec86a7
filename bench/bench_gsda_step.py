"""A whole training step of GSDA with gradient synchronisation, beside the same step without it.

`static` is the step without synchronisation (the row "+ group" of GSDA's Table 1) as `dynconv train` takes it, `plain`
the same with the discriminators' logits and their cross entropy by autograd alone. `dynconv` adds the synchronisation
through `feature_gradient_norms`, and `loop` adds it as one would write it down: `autograd.grad(create_graph=True)` for
one discriminator after another. Before a step is timed, its losses and the gradients of its features, classifier and
discriminators are held against the loop's in float64. bench/README.md explains the rows.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dynconv.bench.harness import (
    CommonOptions,
    Entry,
    attempt,
    chosen,
    memory_columns,
    parse,
    relative_error,
    time_entries,
)
from dynconv.bench.rows import Row
from dynconv.bench.session import Plan, Session, run
from dynconv.data import Batch, SourceBatch, TargetBatch
from dynconv.losses import domain_losses
from dynconv.methods import GSDA, GSDAConfig
from dynconv.methods.adversarial import Alignment, Encoded
from dynconv.nn import DiscriminatorBank

STATIC, PLAIN, OURS, LOOP = "static", "plain", "dynconv", "loop"
# Classes and groups: digits; Office-31 and Office-Home as in the paper (section 3.1).
TASKS = {"digits": (10, 3), "office-31": (31, 6), "office-home": (65, 13)}
MODELS = ("lenet-small", "resnet-small", "resnet50")


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure training steps. Every selection left out takes a default that suits the device."""

    models: tuple[str, ...] = ()
    """lenet-small, resnet-small, resnet50. Default: the first two on a CPU, the last two on a GPU."""
    task: tuple[str, ...] = ()
    """digits (10 classes, 3 groups), office-31 (31, 6), office-home (65, 13). Default: digits for lenet-small,
    office-31 for the others."""
    batch: int = 36
    """Images of the source, and of the target."""
    hidden: int = 1024
    """Width of the discriminators' hidden layers."""
    bottleneck: int = 256
    """Width of what the discriminators see."""
    providers: tuple[str, ...] = ()
    """static (always), plain, dynconv, loop. Default: all."""


@dataclass(frozen=True)
class Step:
    """What one row's step is."""

    model: str
    task: str
    batch: int
    hidden: int
    bottleneck: int
    device: str

    def columns(self) -> Row:
        classes, groups = TASKS[self.task]
        return {
            "op": "gsda-step",
            "shape": f"{self.model}, {self.task}, {1 + groups + classes} x {self.bottleneck}-{self.hidden}",
            "batch": 2 * self.batch,
            "in_channels": self.bottleneck,
            "out_channels": self.hidden,
            "dtype": "fp32",
            "mode": "training step",
        }


class Separate(nn.ModuleList):
    """Discriminators as modules of their own."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([module(features) for module in self], dim=1)


class LoopGSDA(GSDA):
    """GSDA whose discriminators are modules of their own and whose norms come from one after the other."""

    def make_discriminators(self) -> nn.Module:
        bank = cast(DiscriminatorBank, super().make_discriminators())
        return Separate(bank.discriminator(index) for index in range(bank.num))

    def alignment(self, encoded: Encoded, reverse: float | None) -> Alignment:
        return self.losses(encoded.features, encoded)

    def judge(
        self, features: Tensor, domains: Tensor, weights: Tensor, masks: list[Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not features.requires_grad:
            features = features.detach().requires_grad_()
        norms, logits, losses = [], [], []
        for index, module in enumerate(cast(Separate, self.discriminators)):
            found = module(features)
            loss = domain_losses(found, domains, weights[:, index : index + 1])[0]
            (gradient,) = torch.autograd.grad(loss, features, create_graph=True)
            norms.append(gradient.norm(dim=1))
            logits.append(found)
            losses.append(loss)
        return torch.stack(norms, dim=1), torch.cat(logits, dim=1), torch.stack(losses)


class PlainGSDA(GSDA):
    """GSDA without synchronisation and without norms: the bank's logits and their cross entropy, by autograd."""

    def losses(self, features: Tensor, encoded: Encoded, masks: list[Tensor] | None = None) -> Alignment:
        weights = encoded.probabilities @ self.membership.t()
        opposed = domain_losses(self.discriminators(features), encoded.domains, weights).sum() / len(features)
        return Alignment(opposed, None, {"domain_loss": opposed.detach()})


_CLASSES = {STATIC: GSDA, PLAIN: PlainGSDA, OURS: GSDA, LOOP: LoopGSDA}
_WITHOUT = (STATIC, PLAIN)


@dataclass
class Training:
    """A method, its optimisers and one batch; a call is one step and gives the losses of its updates."""

    method: GSDA
    batch: Batch
    optimisers: dict[str, torch.optim.Optimizer]

    def updates(self, *, steps: bool) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """Losses, and the gradients by group, of the updates of one step, which are taken where `steps` says so."""
        losses, gradients = [], {}
        self.method.begin_step(1, 1000)
        for update in self.method.updates(self.batch):
            parameters = {
                name: [p for group in self.optimisers[name].param_groups for p in group["params"]] for name in update.of
            }
            update.loss.backward(inputs=[p for each in parameters.values() for p in each])
            for name, members in parameters.items():
                if steps:
                    self.optimisers[name].step()
                else:
                    gradients[name] = [p.grad.flatten().clone() for p in members if p.grad is not None]
                self.optimisers[name].zero_grad(set_to_none=True)
            losses.append(update.loss.detach())
        return losses, gradients

    def __call__(self) -> list[Tensor]:
        return self.updates(steps=True)[0]

    @property
    def standing_mb(self) -> float:
        """MB that lie there between two steps: parameters, buffers, momentum and the batch."""
        parameters = sum(2 * p.numel() * p.element_size() for p in self.method.parameters())
        buffers = sum(b.numel() * b.element_size() for b in self.method.buffers())
        images = (self.batch.source.images, self.batch.target.images)
        return (parameters + buffers + sum(each.numel() * each.element_size() for each in images)) / 1e6


def training(step: Step, provider: str, *, dtype: torch.dtype = torch.float32) -> Training:
    """The provider's training before its first step; the network, the discriminators and the batch are the same."""
    torch.manual_seed(0)
    classes, groups = TASKS[step.task]
    config = GSDAConfig(
        backbone=step.model,  # type: ignore[arg-type]  # checked by `steps`
        weights="none",
        bottleneck=step.bottleneck,
        hidden_features=step.hidden,
        num_groups=(groups,),
        group_seed=0,
        # No number of steps on random labels may diverge.
        lr=1e-5,
        synchronisation=provider not in _WITHOUT,
    )
    method = _CLASSES[provider](config, classes).to(step.device, dtype).to(memory_format=torch.channels_last).train()
    generator = torch.Generator().manual_seed(1)
    size = method.image_size
    images = torch.randn(2, step.batch, 3, size, size, generator=generator).to(step.device, dtype)
    labels = torch.randint(classes, (step.batch,), generator=generator).to(step.device)
    source, target = (each.contiguous(memory_format=torch.channels_last) for each in images)
    indices = torch.arange(step.batch, device=step.device)
    batch = Batch(SourceBatch(source, labels, torch.zeros_like(labels)), TargetBatch(target, indices))
    return Training(method, batch, method.optimisers())


def prepare(step: Mapping[str, Any], provider: str) -> Callable[[], Any]:
    """A step, for the process that measures memory; momentum is there from the first one on."""
    return training(Step(**step), provider)


def distance(step: Step, provider: str) -> tuple[float, str]:
    """The largest relative error of losses and gradients against the loop in float64, and whose it is.

    At two images of each domain with the running statistics in batch normalisation: those of a small batch multiply
    rounding.
    """
    small = dataclasses.replace(step, batch=2)
    results = []
    for name, dtype in ((provider, torch.float32), (LOOP, torch.float64)):
        own = training(small, name, dtype=dtype)
        # Without dropout, whose masks the twins would draw in different orders, and with the running statistics.
        own.method.eval()
        losses, gradients = own.updates(steps=False)
        results.append({"losses": torch.stack(losses)} | _joined(gradients, own.method.discriminators))
    found = {name: relative_error(results[0][name], wanted) for name, wanted in results[1].items()}
    worst = max(found, key=lambda name: found[name])
    return found[worst], f"the {worst}"


def _joined(gradients: Mapping[str, list[Tensor]], discriminators: nn.Module) -> dict[str, Tensor]:
    """The gradients of each group as one vector; those of separate discriminators in the order of stacked ones."""
    members = dict(gradients)
    if isinstance(discriminators, Separate):
        each = len(members["discriminators"]) // len(discriminators)
        members["discriminators"] = [torch.cat(members["discriminators"][place::each]) for place in range(each)]
    return {f"gradient of the {name}": torch.cat(grads) for name, grads in members.items()}


def steps(options: Options, device: torch.device) -> list[Step]:
    """The steps that the options describe; ValueError for unknown words or sizes."""
    on_cpu = device.type == "cpu"
    default = ["lenet-small"] if options.quick else ["lenet-small", "resnet-small"] if on_cpu else MODELS[1:]
    models = chosen("--models", options.models, default, MODELS)
    tasks = chosen("--task", options.task, [], TASKS)
    for name in ("batch", "hidden", "bottleneck"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {getattr(options, name)}")
    return [
        Step(model, task, options.batch, options.hidden, options.bottleneck, device.type)
        for model in models
        for task in tasks or ["digits" if model == "lenet-small" else "office-31"]
    ]


def measure(names: Sequence[str], options: Options, step: Step, session: Session) -> None:
    """Check, time and record the step of every provider."""
    entries: list[Entry] = []
    standing: dict[str, float] = {}

    def build(name: str) -> Callable[[], Any]:
        own = training(step, name)
        standing[name] = own.standing_mb
        return own

    def check(name: str, _: Any) -> tuple[float, str]:
        return distance(step, name)

    for name in (STATIC, *names):
        row = step.columns() | {"provider": name}
        is_checked = None if name in _WITHOUT else functools.partial(check, name)
        # The network's own rounding is in it: 2e-4 for resnet-small.
        entries += attempt(
            row, functools.partial(build, name), is_checked, session.device, is_ours=name != LOOP, allowed=1e-2
        )
    time_entries(entries, session.device, options)
    for entry in entries:
        if entry.run is not None and session.meter is not None:
            name = entry.row["provider"]
            arguments = {"step": asdict(step), "provider": name}
            entry.row |= memory_columns(
                session.meter, "dynconv.bench.bench_gsda_step:prepare", arguments, standing[name]
            )
        session.recorder.add(entry.row)


def plan(options: Options, device: torch.device) -> Plan[Step]:
    """What the options describe; ValueError for an unknown word or a size out of range."""
    found = steps(options, device)
    others = [PLAIN, OURS, LOOP]
    names = chosen("--providers", options.providers, others, [STATIC, *others])
    selected = [name for name in others if name in names]
    return Plan(
        found,
        ["fp32"],
        lambda step: f"{step.model} {step.task} batch {step.batch} + {step.batch}",
        functools.partial(measure, selected, options),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = parse(Options, "gsda-step", __doc__, args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())
