"""Moment matching for multi-source domain adaptation (Peng et al., ICCV 2019): the moments of all domains' features are
brought together, and a pair of classifiers for each source plays MCD's game."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dynconv.distributed import all_mean
from dynconv.losses import (
    MomentDistances,
    classifier_discrepancy,
    cross_entropy,
    moment_distances,
    released_moment_distance,
)
from dynconv.losses.moments import RELEASED_SOURCES
from dynconv.losses.precision import wide
from dynconv.methods.base import Method
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Update
from dynconv.models import NormalisationPolicy

if TYPE_CHECKING:
    from dynconv.data import Batch, SourceBatch

# The running mean of a distance keeps this much of what it was: about 100 steps count.
KEPT = 0.99


@dataclass(frozen=True)
class M3SDAConfig(MethodConfig):
    """M3SDA-beta; learning rate, decay and steps are those of released M3SDA, which are MCD's."""

    form: Literal["beta", "plain"] = "beta"
    """M3SDA-beta, where two classifiers for each source find and lose the target's doubtful samples (eq. 3 and 4), or
    "plain" M3SDA, with one classifier for each source (eq. 2)."""
    moment_weight: float = 5e-4
    """Weight of the moment distance (lambda of eq. 2; 0.0005 in the released code)."""
    moments: Literal["paper", "released"] = "paper"
    """The moment distance of eq. 1, or what the released code has in its place, for four sources: see
    `dynconv.losses.released_moment_distance`. Of several processes the first moment of "released" is of each one's
    share of the batch, so that it depends on their number."""
    num_moments: int | None = None
    """How many moments are matched; None for 2 (eq. 1), with "released" moments 5."""
    classifiers: Literal["by source", "released"] = "by source"
    """Classifiers for each source that learn it alone (section 3.2), or, as in the released code, two that learn all
    sources, but in step B one the first source alone and the other the second alone ("beta" only)."""
    discrepancy_steps: int = 4
    """How often the features step against the classifiers' discrepancy (eq. 4; 4 in the released code)."""
    prediction: Literal["average", "weighted"] = "average"
    """Scores at test: the mean over the classifiers, or the mean "weighted" by how near each source is to the target.
    The paper weighs by a classifier's accuracy on the target, which takes target labels; here by 1 / the running mean
    of the distance of its moments to the target's (a choice of ours)."""
    normalisation_policy: NormalisationPolicy = "separate"
    """How batch normalisation treats the domains: "separate" passes of the sources together and of the target (in the
    released code each source has a pass of its own); all choices as in `MethodConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("moment_weight",), least=0)
        check_range(self, ("discrepancy_steps", "num_moments"), least=1)
        if self.moment_weight == 0:
            choice = "moment_weight 0, which matches no moments"
            check_unused(self, ("moments",), choice, "give a moment_weight")
            # Weighted predictions look at the moments all the same.
            if self.prediction == "average":
                check_unused(self, ("num_moments",), choice, "give a moment_weight")
        if self.form == "plain":
            choice = "form 'plain', which has one classifier for each source"
            check_unused(self, ("discrepancy_steps", "classifiers"), choice, "choose form 'beta'")
        if self.classifiers == "released":
            choice = "classifiers 'released', which are of no source"
            check_unused(self, ("prediction",), choice, "choose classifiers 'by source'")

    @property
    def matched_moments(self) -> int:
        """`num_moments`, or its default."""
        return self.num_moments or (2 if self.moments == "paper" else 5)


class Nearness(nn.Module):
    """How near each of N sources is to the target by its moments: `forward()` gives weights (N,) that sum to 1."""

    distances: Tensor

    def __init__(self, num_sources: int) -> None:
        super().__init__()
        # Running means; 0 for a source of which nothing was seen yet.
        self.register_buffer("distances", torch.zeros(num_sources))

    @torch.no_grad()
    def observe(self, found: MomentDistances) -> None:
        """Take in the distances of a batch; a source without a sample stays as it is."""
        now = found.to_target.mean(dim=0).to(self.distances.dtype)
        kept = torch.where(self.distances > 0, KEPT * self.distances + (1 - KEPT) * now, now)
        self.distances.copy_(torch.where(found.has_target, kept, self.distances))

    def forward(self) -> Tensor:
        # Before the first step all distances are 0, and all sources as near as another.
        near = 1 / self.distances.clamp(min=1e-6)
        return near / near.sum()


class M3SDA(Method):
    """min over features and classifiers of the sources' cross entropies + lambda MD^2 (eq. 1 and 2); in the beta form
    also max over classifiers, min over features of the discrepancies on the target (eq. 3 and 4).

    Args:
        config: An instance of `M3SDAConfig`.
        num_classes: Classes to tell apart.
        num_sources: Sources, which `Batch.source.domains` numbers. Of one there are no distances between sources.

    Raises:
        ValueError: What is "released" in `config` is for another number of sources.
    """

    config_class: ClassVar[type[M3SDAConfig]] = M3SDAConfig
    about = About("Peng et al., ICCV 2019", variants=("M3SDA-beta",), multi_source="by domain")
    config: M3SDAConfig

    def __init__(self, config: M3SDAConfig, num_classes: int, *, num_sources: int = 1) -> None:
        if num_sources < 1:
            raise ValueError(f"num_sources: expected at least 1, got {num_sources}")
        if config.moments == "released" and num_sources != RELEASED_SOURCES:
            raise ValueError(
                f"moments: 'released' is written for {RELEASED_SOURCES} sources, here are {num_sources}; choose "
                f"moments 'paper'"
            )
        if config.classifiers == "released" and num_sources < 2:
            raise ValueError(
                "classifiers: 'released' has the first source for one and the second for the other, here is one; "
                "choose classifiers 'by source'"
            )
        pairs = 1 if config.classifiers == "released" else num_sources
        super().__init__(config, num_classes, num_heads=pairs * (1 if config.form == "plain" else 2))
        self.num_sources = num_sources
        self.nearness = Nearness(num_sources) if config.prediction == "weighted" else None

    @classmethod
    def for_task(cls, config: MethodConfig, num_classes: int, num_sources: int) -> Self:
        if not isinstance(config, M3SDAConfig):
            raise TypeError(f"config: expected an M3SDAConfig, got a {type(config).__name__}")
        return cls(config, num_classes, num_sources=num_sources)

    def classifiers(self, source: int) -> list[nn.Module]:
        """Those of the source: two in the beta form, one in the plain form."""
        if self.config.classifiers == "released":
            return list(self.heads)
        return list(self.heads)[source :: self.num_sources]

    def updates(self, batch: Batch) -> Iterator[Update]:
        """A: learn the sources and match the moments. B: the classifiers of each source, which keep it, disagree on the
        target. C: the features, `discrepancy_steps` times, make them agree. The plain form has A alone."""
        source, target = self.encode(batch)
        learning = self.domain_losses(source, batch.source)
        moments = self.moment_distance(source, batch.source.domains, target)
        logs = {"cross_entropy": learning.detach(), "moment_distance": moments.detach()}
        yield Update(learning + self.config.moment_weight * moments, of=("features", "heads"), logs=logs)
        if self.config.form == "plain":
            return

        with torch.no_grad():
            source, target = self.encode(batch)
        learning = self.domain_losses(source, batch.source, step_b=True)
        discrepancy = self.discrepancy(target)
        yield Update(learning - discrepancy, of=("heads",), logs={"discrepancy_before": discrepancy.detach()})

        for _ in range(self.config.discrepancy_steps):
            discrepancy = self.discrepancy(self.encode_target(batch))
            yield Update(discrepancy, of=("features",), logs={"discrepancy": discrepancy.detach()})

    def domain_losses(self, features: Tensor, source: SourceBatch, *, step_b: bool = False) -> Tensor:
        """The sum over sources of the mean cross entropy of its samples' features, summed over its classifiers (L_D of
        eq. 2); a source without a sample counts for nothing."""
        rows = [source.domains == index for index in range(self.num_sources)]
        dtype = wide(features.dtype)
        # The mean over the batch of all processes, whose shares of a source may differ.
        counts = all_mean(torch.stack([of.sum() for of in rows]).to(dtype))
        losses = [features.new_zeros((), dtype=dtype)]
        for index, own in enumerate(rows):
            heads = self.classifiers(index)
            if step_b and self.config.classifiers == "released":
                heads = heads[index : index + 1]
            labels = source.labels[own]
            if not len(labels):
                continue
            share = len(labels) / counts[index]
            for head in heads:
                loss = cross_entropy(head(features[own]), labels, smoothing=self.config.label_smoothing)
                losses.append(share * loss)
        return torch.stack(losses).sum()

    def moment_distance(self, source: Tensor, domains: Tensor, target: Tensor) -> Tensor:
        """MD^2 of features (B, F) of the sources and (B', F) of the target, a scalar; its parts are remembered where
        predictions are weighted."""
        count = self.config.matched_moments
        if self.config.moments == "released" and self.nearness is None:
            return released_moment_distance(source, domains, target, num_moments=count)
        found = moment_distances(source, domains, target, num_sources=self.num_sources, num_moments=count)
        if self.nearness is not None:
            self.nearness.observe(found)
        if self.config.moments == "released":
            return released_moment_distance(source, domains, target, num_moments=count)
        return found.total()

    def discrepancy(self, features: Tensor) -> Tensor:
        """How far the two classifiers of each source disagree on target features (B, F), summed over the sources."""
        pairs = 1 if self.config.classifiers == "released" else self.num_sources
        both = (self.classifiers(index) for index in range(pairs))
        return torch.stack([classifier_discrepancy(first(features), second(features)) for first, second in both]).sum()

    def scores(self, features: Tensor) -> Tensor:
        """Class scores (B, num_classes) of features (B, F): the mean over the classifiers, as `prediction` says."""
        scores = torch.stack([head(features) for head in self.heads])
        if self.nearness is None:
            return scores.mean(dim=0)
        weights = self.nearness().to(scores.dtype).repeat(len(self.heads) // self.num_sources)
        return (weights[:, None, None] * scores).sum(dim=0) / weights.sum()
