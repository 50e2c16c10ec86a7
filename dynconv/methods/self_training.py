"""Self-training: the network's own sure predictions on the target are labels to train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.data import TargetSelection
from dynconv.losses import cross_entropy, probabilities
from dynconv.losses.precision import widened
from dynconv.methods.base import Method
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Refresh, Update
from dynconv.methods.selection import surest_of_each_class
from dynconv.methods.source_only import SOURCE_POLICIES

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class SelfTrainingConfig(MethodConfig):
    """Self-training: cross entropy on the sources and on pseudo-labelled target images."""

    selection: Literal["confident", "class-balanced"] = "confident"
    """Which target images have a pseudo label: those of at least `confidence` (DRT section 4.3), or of each predicted
    class the surest part (CBST), which starts at `class_share`."""
    confidence: float = 0.8
    """Least probability of the predicted class (DRT section 4.3: greater than 0.8; "confident" only)."""
    class_share: float = 0.2
    """Part of each predicted class that the first selection takes (CBST: 20 %; "class-balanced" only)."""
    class_share_growth: float = 0.05
    """Added to that part at every later selection (CBST: 5 %)."""
    class_share_limit: float = 0.5
    """Where that part stops (CBST: 50 %)."""
    selection_every: int = 0
    """Steps between two selections after the first; 0 for one selection alone, whose pseudo labels stay (DRT's are made
    once). `warmup_steps` must be a multiple of it."""
    warmup_steps: int = 500
    """Steps on the sources alone before the first selection (a choice of ours; the papers train to the end first)."""
    pseudo_labels: Literal["hard", "soft"] = "hard"
    """The predicted class as a label, or the probabilities of all classes as they were at the selection."""
    pseudo_weight: float = 1.0
    """Weight of the pseudo-labelled images' cross entropy beside the sources' (1 in DRT and CBST)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("warmup_steps",), least=1)
        check_range(self, ("selection_every", "class_share_growth"), least=0)
        check_range(self, ("class_share", "class_share_limit", "pseudo_weight"), above=0)
        if not 0 <= self.confidence < 1:
            raise ValueError(f"confidence: expected 0 to less than 1, got {self.confidence}")
        for name in ("class_share", "class_share_limit"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}: expected at most 1, got {getattr(self, name)}")
        if self.selection == "confident":
            unused = ("class_share", "class_share_growth", "class_share_limit")
            check_unused(self, unused, "selection 'confident'", "choose selection 'class-balanced'")
        else:
            check_unused(self, ("confidence",), "selection 'class-balanced'", "choose selection 'confident'")
            if self.class_share_limit < self.class_share:
                raise ValueError(
                    f"class_share_limit: expected at least class_share = {self.class_share}, got "
                    f"{self.class_share_limit}"
                )
        if self.selection_every and self.warmup_steps % self.selection_every:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} is no multiple of selection_every {self.selection_every}, so that "
                "no selection falls on its end"
            )


class SelfTraining(Method):
    """min over features and classifier of L_ce(source) + `pseudo_weight` * L_ce(selected target images, pseudo labels)
    (DRT section 4.3, after Lee 2013; class by class as in CBST, Zou et al., ECCV 2018, with images for its pixels).

    Where the papers begin each round with a network trained to its end, and DRT trains anew, the network here goes on
    from where it is. CBST also weighs the classes' probabilities by their thresholds before it takes the largest; the
    pseudo label here is the predicted class. The selected images of every pseudo class are drawn equally often. A
    selection that takes no image leaves the sources alone.
    """

    config_class = SelfTrainingConfig
    about = About(
        "Lee, ICML workshop 2013; Zou et al., ECCV 2018 (CBST); in DRT, CVPR 2021", variants=("pseudo labels", "CBST")
    )
    config: SelfTrainingConfig
    steps_begun: Tensor
    selections: Tensor

    def __init__(self, config: SelfTrainingConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        # `step` is 0 before the first step as well as after it.
        self.register_buffer("steps_begun", torch.zeros((), dtype=torch.int64))
        self.register_buffer("selections", torch.zeros((), dtype=torch.int64))

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.steps_begun.fill_(step + 1)

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        if self.config.warmup_steps >= max_steps:
            raise ValueError(
                f"warmup_steps {self.config.warmup_steps}: the run has {max_steps} steps, so nothing is ever selected; "
                "give fewer or more steps"
            )

    @property
    def notice(self) -> str:
        own = f"pseudo labels: the first selection comes after step {self.config.warmup_steps}"
        return "\n".join(filter(None, (super().notice, own)))

    def refresh_interval(self, steps_per_pass: int) -> int:
        return self.config.selection_every or self.config.warmup_steps

    def refresh_due(self) -> bool:
        """Once the warm-up is over: again and again, or once."""
        over = int(self.steps_begun) >= self.config.warmup_steps
        return over and (self.config.selection_every > 0 or not int(self.selections))

    def refresh(self, scores: Tensor) -> Refresh:
        """Choose the target images to train on."""
        config, made = self.config, int(self.selections)
        probability, label = probabilities(scores).max(dim=1)
        if config.selection == "confident":
            chosen = torch.nonzero(probability > config.confidence).flatten()
        else:
            share = min(config.class_share + made * config.class_share_growth, config.class_share_limit)
            chosen = surest_of_each_class(probability, label, share)
        self.selections.fill_(made + 1)
        return self._selected(scores, chosen, label)

    def updates(self, batch: Batch) -> Iterator[Update]:
        config, target = self.config, batch.target
        if target.pseudo_labels is None:
            # The target's images are in the statistics from the first step where the policy has them there.
            by_source = config.normalisation_policy in SOURCE_POLICIES
            features = self.encode_source(batch.source.images) if by_source else self.encode(batch)[0]
            loss = self.source_loss(features, batch.source.labels)
            yield Update(loss, of=("features", "heads"), logs={"cross_entropy": loss.detach()})
            return
        source, selected = self.encode(batch)
        learning = self.source_loss(source, batch.source.labels)
        own = self.pseudo_loss(self.scores(selected), target.pseudo_labels, target.pseudo_probabilities)
        logs = {"cross_entropy": learning.detach(), "pseudo_cross_entropy": own.detach()}
        yield Update(learning + config.pseudo_weight * own, of=("features", "heads"), logs=logs)

    def pseudo_loss(self, scores: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
        """Mean cross entropy of scores (B, C) against pseudo labels (B,), or against probabilities (B, C) where these
        are given; `label_smoothing` is for the sources' true labels alone."""
        if soft is None:
            return cross_entropy(scores, labels)
        scores = widened(scores)
        return F.cross_entropy(scores, soft.to(scores.dtype))

    def _selected(self, scores: Tensor, chosen: Tensor, label: Tensor) -> Refresh:
        """The images `chosen` (n,) with their pseudo labels of all images' `label` (N,), and what to log of them."""
        counts = torch.bincount(label[chosen], minlength=self.num_classes)
        logs = {
            "selected/images": float(len(chosen)),
            "selected/share": len(chosen) / max(1, len(scores)),
            "selected/classes": float((counts > 0).sum()),
            "selected/smallest-class": float(counts.min()),
            "selected/largest-class": float(counts.max()),
        }
        spread = f"{int(counts.min())} to {int(counts.max())} in each of {self.num_classes} classes"
        message = f"pseudo labels: {len(chosen)} of {len(scores)} target images, {spread}"
        if len(chosen) == 0:
            return Refresh(True, None, logs, f"{message}; training goes on with the sources alone")
        soft = probabilities(scores[chosen]).float().cpu() if self.config.pseudo_labels == "soft" else None
        return Refresh(True, TargetSelection(chosen.cpu(), label[chosen].cpu(), soft), logs, message)
