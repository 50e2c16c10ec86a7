"""The one training loop: every method, device and precision goes through it."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from dynconv.data import Batch, DomainBatches
from dynconv.engine.checkpoint import random_state, save_checkpoint, set_random_state
from dynconv.engine.config import DEFAULT_EPOCHS, EVALUATIONS_PER_RUN, TrainConfig
from dynconv.engine.evaluation import Evaluation, evaluating
from dynconv.engine.interrupt import Interrupted, InterruptGuard
from dynconv.engine.progress import Meter, ProgressDisplay, check_finite, check_parameters
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.selection import OF_CLASS, mean_of
from dynconv.methods import Method


@dataclass
class Run:
    """A run's parts and how far it has come; `state` is all that is needed to go on exactly."""

    config: TrainConfig
    folder: RunFolder
    fabric: Fabric
    method: Method
    batches: DomainBatches
    evaluation: Evaluation

    def __post_init__(self) -> None:
        run = self.config.run
        self.optimisers = self.method.optimisers()
        self.parameters = {
            name: [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
            for name, optimiser in self.optimisers.items()
        }
        precision = self.fabric.strategy.precision
        self.scaler = precision.scaler if isinstance(precision, MixedPrecision) else None
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.max_steps = run.max_steps or (run.epochs or DEFAULT_EPOCHS) * self.steps_per_epoch
        self.eval_every = run.eval_every or math.ceil(self.max_steps / EVALUATIONS_PER_RUN)
        self.checkpoint_every = run.checkpoint_every or self.eval_every
        self.refresh_every = self.method.refresh_interval(self.batches.steps_per_pass)
        self.meter = Meter()
        self.step = 0
        self.seconds = 0.0
        self.best_source_val = -math.inf

    def state(self) -> dict[str, Any]:
        """What last.pt holds."""
        return {
            **self.weights(),
            "seconds": self.seconds,
            "best_source_val": self.best_source_val,
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "precision": self.fabric.strategy.precision.state_dict(),
            "batches": self.batches.state_dict(),
            "meter": self.meter.state_dict(),
            "random": random_state(),
        }

    def weights(self) -> dict[str, Any]:
        """What source-val.pt holds: enough to evaluate."""
        return {
            "config_hash": self.config.hash,
            "classes": list(self.evaluation.protocol.classes),
            "step": self.step,
            "method": self.method.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave.

        Raises:
            ValueError: The state is of another configuration, or of other data.
        """
        if state["config_hash"] != self.config.hash:
            raise ValueError(
                f"{self.folder.last} is of the configuration {state['config_hash']}, this run is {self.config.hash}; "
                "give another --out"
            )
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.best_source_val = state["best_source_val"]
        self.method.load_state_dict(state["method"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.batches.load_state_dict(state["batches"])
        self.meter.load_state_dict(state["meter"])
        set_random_state(state["random"])

    def fit(self, console: Console | None = None) -> None:
        """Train to the last step and write `done`; progress goes to `console` (default: standard error)."""
        console = console or Console(stderr=True)
        progress = ProgressDisplay(console, start=self.step, max_steps=self.max_steps)
        if self.step:
            progress.line(f"resuming {self.folder.path} after step {self.step}")
        writer = SummaryWriter(str(self.folder.tensorboard), purge_step=self.step + 1)
        with writer, InterruptGuard() as guard, progress:
            self._loop(guard, progress, writer)
        self.folder.finish(self.config.hash)

    def _loop(self, guard: InterruptGuard, progress: ProgressDisplay, writer: SummaryWriter) -> None:
        began = time.monotonic() - self.seconds
        self.method.train()
        while self.step < self.max_steps:
            if self.refresh_every and self.step % self.refresh_every == 0:
                self.refresh(progress)
            try:
                self.advance(next(self.batches), self.meter)
            except ValueError as error:
                # An operator may refuse what a diverged network gives it before its loss is looked at.
                check_parameters(self.method, self.step, error)
                raise
            self.step += 1
            self.seconds = time.monotonic() - began
            last = self.step == self.max_steps
            stop = guard.requested
            log = last or self.step % self.config.run.log_every == 0
            evaluate = last or self.step % self.eval_every == 0
            checkpoint = last or stop or self.step % self.checkpoint_every == 0
            if log or evaluate or checkpoint:
                means = self.meter.means()
                check_finite(means, self.step)
                progress.losses(self.step, self.epoch, means)
            if log:
                self.meter.clear()
                self.folder.append_training(
                    {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 2), **means}
                )
                for name, value in means.items():
                    writer.add_scalar(name if "/" in name else f"loss/{name}", value, self.step)
            if evaluate:
                row = self.evaluate()
                progress.evaluation(row)
                for name, value in row.items():
                    # A curve for each of Office-Home's 65 classes would bury the others; training.png has them.
                    if "/" in name and OF_CLASS not in name:
                        writer.add_scalar(name, value, self.step)
            if checkpoint:
                self.seconds = time.monotonic() - began
                save_checkpoint(self.folder.last, self.state())
            if stop and not last:
                raise Interrupted(self.step, self.max_steps, self.resume_command())

    def refresh(self, progress: ProgressDisplay) -> None:
        """Show the method its scores of all target training images, and draw from what it selects.

        A run resumed at a step where this is due asks again: the scores, and with them the selection, are the same.
        """
        with evaluating(self.method), torch.no_grad():
            scores = self.evaluation.target_scores(self.method)
            check_finite({"target scores": float(scores.sum())}, self.step)
            found = self.method.refresh(scores)
        if found.changed:
            self.batches.select_target(found.selection)
        self.meter.add(found.logs)
        if found.message is not None:
            progress.line(found.message)

    def advance(self, batch: Batch, meter: Meter) -> None:
        """One step: the method's updates on a batch, one after the other."""
        self.method.begin_step(self.step, self.max_steps)
        updates: Iterator[Any] = self.method.updates(batch)
        while True:
            with self.fabric.autocast():
                update = next(updates, None)
            if update is None:
                break
            chosen = [self.optimisers[name] for name in update.of]
            for optimiser in chosen:
                optimiser.zero_grad(set_to_none=True)
            # Gradients of the other groups are not even computed: MCD's step B ends at the classifiers.
            self.fabric.backward(update.loss, inputs=[p for name in update.of for p in self.parameters[name]])
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
            # Losses of different groups are different things, and their mean is none.
            name = "loss" if len(update.of) == len(self.optimisers) else f"loss_{'_'.join(update.of)}"
            meter.add({name: update.loss, **update.logs})

    @property
    def epoch(self) -> float:
        """Passes over the sources so far; one is the fewest steps after which every source image was seen."""
        return round(self.step / self.steps_per_epoch, 4)

    def evaluate(self) -> dict[str, Any]:
        """Measure, append the row, and keep the weights if they are the best by source validation."""
        row = {
            "step": self.step,
            "epoch": self.epoch,
            "seconds": round(self.seconds, 2),
            "config_hash": self.config.hash,
            **self.evaluation.measure(self.method),
        }
        self.folder.append(row)
        score = mean_of(row, "source-val")
        if score is not None and score > self.best_source_val:
            self.best_source_val = score
            save_checkpoint(self.folder.checkpoint("source-val"), self.weights())
        return row

    def resume_command(self) -> str:
        """The words that go on with this run from its last checkpoint."""
        config, out = str(self.folder.config), str(self.folder.path)
        return shlex.join(["dynconv", "train", self.config.method, "--config", config, "--out", out])
