"""The one training loop: every method, device and precision goes through it."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.console import Console

from dynconv.data import DomainBatches
from dynconv.distributed import any_process, barrier, world_size
from dynconv.engine.checkpoint import (
    check_configuration,
    check_optimisers,
    check_weights,
    random_states,
    set_random_states,
)
from dynconv.engine.config import TrainConfig, load_config
from dynconv.engine.evaluation import Evaluation
from dynconv.engine.interrupt import Interrupted, InterruptGuard
from dynconv.engine.journal import Journal, NotWritten
from dynconv.engine.meter import CURES, Diverged, Meter, not_finite
from dynconv.engine.processes import AGREE_EVERY, average, running_statistics, under_torchrun
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.run_options import DEFAULT_EPOCHS, EVALUATIONS_PER_RUN, LOG_EVERY
from dynconv.engine.scoring import evaluating
from dynconv.engine.selection import KEPT, merit
from dynconv.engine.step import Stepper
from dynconv.methods import Method
from dynconv.metrics import NonFiniteError


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
        self.stepper = Stepper(
            self.fabric, self.method, self.optimisers, accumulate=run.accumulate, clip_norm=run.clip_norm
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.max_steps = run.max_steps or (run.epochs or DEFAULT_EPOCHS) * self.steps_per_epoch
        self.eval_every = run.eval_every or math.ceil(self.max_steps / EVALUATIONS_PER_RUN)
        self.checkpoint_every = run.checkpoint_every or self.eval_every
        # Of a short run too there are curves to look at.
        self.log_every = run.log_every or min(LOG_EVERY, math.ceil(self.max_steps / EVALUATIONS_PER_RUN))
        self.refresh_every = self.method.refresh_interval(self.batches.steps_per_pass)
        self.meter = Meter(self.fabric.device)
        self.running = running_statistics(self.method)
        self.step = 0
        self.seconds = 0.0
        # The best so far by each rule whose weights are kept, as `merit` compares them.
        self.best: dict[str, float] = {}
        self.checkpoint_step: int | None = None
        # What whoever watches must know of the checkpoint that the run goes on from.
        self.notes: list[str] = []
        # What must be known of how it begins, beside what its method says.
        self.notices: list[str] = []

    @property
    def notice(self) -> str | None:
        """Lines for whoever watches the run, before its first step; None for nothing."""
        return "\n".join(filter(None, (self.method.notice, *self.notices))) or None

    def state(self) -> dict[str, Any]:
        """What last.pt holds; every process must call this."""
        return {
            **self.weights(),
            "seconds": self.seconds,
            "best": dict(self.best),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "precision": self.fabric.strategy.precision.state_dict(),
            "batches": self.batches.state_dict(),
            "meter": self.meter.state_dict(),
            "random": random_states(),
        }

    def weights(self) -> dict[str, Any]:
        """What source-val.pt and label-free.pt hold: enough to evaluate."""
        return {
            "config_hash": self.config.hash,
            "config": self.config.identity(),
            "classes": list(self.evaluation.protocol.classes),
            "image_size": list(self.evaluation.protocol.target.train.image_shape[1:]),
            "step": self.step,
            "method": self.method.state_dict(),
        }

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        """Go back to what `state` gave, which was read from `path`.

        Raises:
            UnusableCheckpoint: A ValueError: the state is of another configuration, or of other networks; nothing of
                it is loaded.
            ValueError: It is of other data.
        """
        check_configuration(path, state, self.config)
        check_weights(path, state["method"], self.method)
        check_optimisers(path, state["optimisers"], self.optimisers)
        self.step = self.checkpoint_step = state["step"]
        self.seconds = state["seconds"]
        self.best = dict(state["best"])
        self.method.load_state_dict(state["method"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.batches.load_state_dict(state["batches"])
        self.meter.load_state_dict(state["meter"])
        self.notes += set_random_states(state["random"], self.fabric.device)

    def fit(self, console: Console | None = None) -> None:
        """Train to the last step and write `done`; progress goes to `console` (default: standard error).

        Raises:
            Interrupted: On Ctrl-C or SIGTERM, after a checkpoint.
            Diverged: A loss, a parameter or a score is no longer finite.
            NotWritten: The run folder cannot be written to any more.
        """
        journal = Journal(self.folder, console, start=self.step, max_steps=self.max_steps)
        # `prepare` took the lock; from here on it is given back however the training ends.
        with self.folder.lock, journal, InterruptGuard() as guard:
            if self.step:
                journal.line(f"resuming {self.folder.path} after step {self.step}")
            for note in self.notes:
                journal.line(note)
            try:
                self._loop(guard, journal)
            except Diverged as error:
                # That the folder takes no more is the lesser news.
                with contextlib.suppress(NotWritten):
                    journal.diverged(str(error))
                raise
            journal.finish(self.config.hash, self.config.run.validator)

    def _loop(self, guard: InterruptGuard, journal: Journal) -> None:
        began = time.monotonic() - self.seconds
        self.method.train()
        if self.step == 0:
            self.evaluate(journal)
            if self.notice is not None:
                journal.line(self.notice)
        while self.step < self.max_steps:
            if self.refresh_every and self.step % self.refresh_every == 0 and self.method.refresh_due():
                self.refresh(journal)
            if self.step == self.method.matching_step(self.max_steps):
                self.match(journal)
            try:
                self.stepper.advance(next(self.batches), self.step, self.max_steps, self.meter)
            except ValueError as error:
                # An operator may refuse what a diverged network gives it before its loss is looked at.
                self.check_parameters(error)
                raise
            # At every step, so that what a run computes does not depend on when it is looked at or stopped.
            average(self.running)
            self.step += 1
            self.seconds = time.monotonic() - began
            last = self.step == self.max_steps
            stop = self.asked_to_stop(guard)
            log = last or self.step % self.log_every == 0
            evaluate = last or self.step % self.eval_every == 0
            checkpoint = last or stop or self.step % self.checkpoint_every == 0
            if log or evaluate or checkpoint:
                means = self.meter.means()
                self.check_losses(means)
                journal.losses(self.step, self.epoch, means)
            if log:
                self.meter.clear()
                seconds = round(self.seconds, 2)
                journal.training({"step": self.step, "epoch": self.epoch, "seconds": seconds, **means})
            if evaluate or checkpoint:
                self.check_parameters()
            if evaluate:
                self.evaluate(journal)
            if checkpoint:
                self.seconds = time.monotonic() - began
                journal.checkpoint("last", self.state())
                self.checkpoint_step = self.step
            if stop and not last:
                # Until the main process has written its checkpoint; the end of another would end it too.
                barrier()
                raise Interrupted(self.step, self.max_steps, self.resume_command())

    def asked_to_stop(self, guard: InterruptGuard) -> bool:
        """Whether this or, at steps where they agree on it, another process was told to stop."""
        if world_size() == 1:
            return guard.requested
        due = self.fabric.device.type == "cpu" or self.step % AGREE_EVERY == 0
        return due and any_process(guard.requested, self.fabric.device)

    def refresh(self, journal: Journal) -> None:
        """Show the method its scores of all target training images, and draw from what it selects.

        A run resumed at a step where this is due asks again: the scores, and with them the selection, are the same.
        """
        with evaluating(self.method), torch.no_grad():
            scores = self.evaluation.target_scores(self.method)
            if not scores.isfinite().all():
                raise self.diverged("the target's scores are not finite")
            found = self.method.refresh(scores)
        if found.changed:
            self.batches.select_target(found.selection)
        self.meter.add(found.logs)
        if found.message is not None:
            journal.line(found.message)

    def match(self, journal: Journal) -> None:
        """Show the method images of both domains for its matching. A run resumed at this step, whose checkpoint is from
        before it, asks again, with the same result."""
        with evaluating(self.method), torch.no_grad():
            found = self.evaluation.match(self.method)
        self.meter.add(found.logs)
        if found.message is not None:
            journal.line(found.message)

    @property
    def epoch(self) -> float:
        """Passes over the sources so far; one is the fewest steps after which every source image was seen."""
        return round(self.step / self.steps_per_epoch, 4)

    def evaluate(self, journal: Journal) -> dict[str, Any]:
        """Measure, append the row, and keep the weights if they are the best by a rule that sees no target label.

        Raises:
            Diverged: A feature or a score is not finite.
        """
        try:
            measured = self.evaluation.measure(self.method)
        except NonFiniteError as error:
            raise self.diverged(str(error)) from error
        row = {
            "step": self.step,
            "epoch": self.epoch,
            "seconds": round(self.seconds, 2),
            "config_hash": self.config.hash,
            **measured,
        }
        journal.evaluation(row, self.config.run.validator)
        if (remark := self.method.remark(row)) is not None:
            journal.line(remark)
        # The network as it starts is never selected.
        for rule in KEPT if self.step else ():
            value = merit(row, rule, self.config.run.validator)
            if value is not None and value > self.best.get(rule, -math.inf):
                self.best[rule] = value
                journal.checkpoint(rule, self.weights())
        return row

    def check_losses(self, means: dict[str, float]) -> None:
        """Raise Diverged, with the first bad step, where a mean of the last steps is not finite."""
        if bad := not_finite(means):
            found = self.stepper.first_bad_step()
            raise self.diverged(", ".join(bad), self.step if found is None else found)

    def check_parameters(self, error: Exception | None = None) -> None:
        """Raise Diverged where a parameter is not finite: neither a checkpoint nor a figure is made of such."""
        for name, parameter in self.method.named_parameters():
            if not parameter.isfinite().all():
                raise self.diverged(f"{name} is not finite") from error

    def diverged(self, what: str, step: int | None = None) -> Diverged:
        """What happened, at which step (counted from 1; the last one where it is not known), and where to go on."""
        kept = f"The last good checkpoint is {self.folder.last} (step {self.checkpoint_step})."
        if self.checkpoint_step is None:
            kept = "There was no checkpoint yet."
        return Diverged(f"training diverged at step {self.step if step is None else step}: {what}. {kept} {CURES}")

    def resume_command(self) -> str:
        """The words that go on with this run from its last checkpoint, as it was started or last resumed."""
        run, stored = self.config.run, load_config(self.folder.config).run
        words = ["dynconv", "train", self.config.method, "--config", str(self.folder.config)]
        words += ["--out", str(self.folder.path)]
        if run.devices > 1:
            words += ["--devices", str(run.devices)]
        if run.device != stored.device:
            words += ["--device", run.device]
        if run.data_root is not None and run.data_root != stored.data_root:
            words += ["--data-root", str(run.data_root)]
        command = shlex.join(words)
        return f"torchrun ... -m {command}" if under_torchrun() else command
