"""One training step: a method's updates, over micro-batches and processes, with the scaling of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import Tensor, nn

from dynconv.data import Batch
from dynconv.distributed import all_min, average_gradients
from dynconv.engine.meter import Meter
from dynconv.methods import Method, Update


class Stepper:
    """Takes a method's updates, each with its own backward pass and step of the optimisers it names.

    Args:
        fabric: Precision.
        method: Whose updates.
        optimisers: By name, as `Method.optimisers` gives them.
        accumulate: Micro-batches of each batch. One generator of updates runs for each of them, in lockstep, so that
            an update's gradient is that of all micro-batches before its step is taken.
        clip_norm: Greatest norm of an update's gradient; None for any.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        optimisers: Mapping[str, torch.optim.Optimizer],
        *,
        accumulate: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        self.fabric = fabric
        self.method = method
        self.optimisers = optimisers
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.parameters: dict[str, list[nn.Parameter]] = {
            name: [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
            for name, optimiser in optimisers.items()
        }
        precision = fabric.strategy.precision
        self.scaler = precision.scaler if isinstance(precision, MixedPrecision) else None
        # On the device: looking at every loss on the host would wait for the GPU at every step.
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=fabric.device)

    def advance(self, batch: Batch, step: int, max_steps: int, meter: Meter) -> None:
        """Step number `step`, counted from 0, on this process's share of the batch; losses and logs go to `meter`.

        Raises:
            RuntimeError: The method's updates differ from one micro-batch to another.
        """
        self.method.begin_step(step, max_steps)
        generators = [self.method.updates(part) for part in batch.split(self.accumulate)]
        while True:
            updates: list[tuple[str, ...]] = []
            for generator in generators:
                with self.fabric.autocast():
                    update = next(generator, None)
                if update is None:
                    break
                self._backward(update, clear=not updates)
                # Losses of different groups are different things, and their mean is none.
                name = "loss" if len(update.of) == len(self.optimisers) else f"loss_{'_'.join(update.of)}"
                loss = update.loss.detach()
                self._look_at(loss, step)
                meter.add({name: loss, **update.logs})
                updates.append(update.of)
            if not updates:
                return
            if len(updates) < self.accumulate or len(set(updates)) > 1:
                raise RuntimeError(
                    f"updates of {updates} in {self.accumulate} micro-batches: expected the same in each"
                )
            self._step(updates[0], meter)

    def first_bad_step(self) -> int | None:
        """The first step, counted from 1, with a loss that was not finite on any process; None where all were."""
        found = self._first_bad.new_full((), torch.iinfo(torch.int64).max)
        step = int(all_min(torch.where(self._first_bad < 0, found, self._first_bad)))
        return None if step == torch.iinfo(torch.int64).max else step + 1

    def _look_at(self, loss: Tensor, step: int) -> None:
        bad = ~loss.isfinite() & (self._first_bad < 0)
        self._first_bad.masked_fill_(bad, step)

    def _backward(self, update: Update, *, clear: bool) -> None:
        if clear:
            for name in update.of:
                self.optimisers[name].zero_grad(set_to_none=True)
        loss = update.loss if self.accumulate == 1 else update.loss / self.accumulate
        # Gradients of the other groups are not even computed: MCD's step B ends at the classifiers.
        self.fabric.backward(loss, inputs=[p for name in update.of for p in self.parameters[name]])

    def _step(self, names: Sequence[str], meter: Meter) -> None:
        chosen = [self.optimisers[name] for name in names]
        parameters = [p for name in names for p in self.parameters[name]]
        average_gradients(parameters)
        if self.clip_norm is not None:
            if self.scaler is not None:
                for optimiser in chosen:
                    self.scaler.unscale_(optimiser)
            norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            # A scaled gradient may overflow: the scaler then takes no step and a smaller scale, and nothing is wrong.
            # (It waits for the device all the same.)
            if self.scaler is None or norm.isfinite():
                meter.add({f"gradient-norm/{'+'.join(names)}": norm})
        for optimiser in chosen:
            if self.scaler is None:
                optimiser.step()
            else:
                self.scaler.step(optimiser)
        # Once for all optimisers of the update: their gradients share the scale of one backward pass.
        if self.scaler is not None:
            self.scaler.update()
        for optimiser in chosen:
            optimiser.zero_grad(set_to_none=True)
