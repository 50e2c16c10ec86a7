"""Gaussian matching (GAM: Huang, Huang and Kraehenbuehl, ECCV 2018, section 4.1), without what the paper adds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from dynconv.methods.checks import check_range
from dynconv.methods.records import About, Matched, Update
from dynconv.methods.source_first import Started, StartedConfig
from dynconv.methods.source_only import check_source_policy
from dynconv.models import MatchedLayer, NormalisationPolicy, match_gaussian

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class GaussianConfig(StartedConfig):
    """Gaussian matching: the target's activations get the source's mean and variance, in closed form."""

    source_checkpoint: str = ""
    """FILE: a checkpoint of a run on the source with the same classes and network (RUN/checkpoints/last.pt) that is
    matched; the run is then nothing else and has one step (`dynconv match RUN`). Give that run's `weights`: they tell
    how its images were normalised, and are not read. Empty to learn the source in all steps of this run but the last,
    which is the matching."""
    layers: Literal["hidden", "all"] = "hidden"
    """Which convolutions and linear layers are matched, or the batch normalisations behind them: "hidden", all that a
    nonlinearity follows, or "all", the scores too (the paper numbers all L layers; whether its scores are among those
    matched it does not say)."""
    statistics_images: int | None = None
    """Training images of each side, evenly spread, that the moments are taken from; 0 for all (the paper's "entire
    source and target sets"), None for 2,000 images or 100 scenes, a choice of ours: every layer takes a pass."""

    normalisation_policy: NormalisationPolicy = "source-only"
    """How batch normalisation treats the source: "source-only" or "frozen", as in `MethodConfig`. The target is the
    matching's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_policy(self.normalisation_policy, ("source-only", "frozen"), "gaussian matching's training")
        check_range(self, ("statistics_images",), least=0)


class Gaussian(Started):
    """Section 4.1: every channel of every layer is shifted and scaled so that it has, on the target's images, the mean
    and the variance that it had on the source's (eq. 2).

    Scale and shift are folded into the weights, so that the adapted network is the source's with other numbers: what
    reads a run of source-only reads one of this method. That is why the matching is a run, the last step of one on the
    source or the only step of one that a checkpoint is given: the evaluation before it is the network's without
    adaptation, the one after it the matched network's, and selection, reports, resuming and export are those of all
    methods. The source is judged by the matched network too. Weights do not change but by the matching.
    """

    config_class = GaussianConfig
    matched_to_target = True
    about = About("Huang et al., ECCV 2018 (section 4.1)", segmentation=True)
    config: GaussianConfig
    matched: bool = False
    """Whether this step is the one after the matching, in which nothing is learnt."""

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        given = self.config.source_checkpoint
        if given and max_steps > 1:
            raise ValueError(
                f"max_steps: a run with a source_checkpoint is the matching alone and has one step, got {max_steps}; "
                "give --max-steps 1, or use `dynconv match RUN`"
            )
        if not given and max_steps < 2:
            raise ValueError(
                "max_steps: the last step is the matching, so that in a run of 1 nothing learns the source; give more "
                "steps, or the source_checkpoint of a run that has learnt it"
            )

    @property
    def observed_images(self) -> int | None:
        return self.config.statistics_images

    def matching_step(self, max_steps: int) -> int | None:
        return max_steps - 1

    def match(self, source: Callable[[], Iterable[Tensor]], target: Callable[[], Iterable[Tensor]]) -> Matched:
        return described(match_gaussian(self, None, source, target, layers=self.config.layers))

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.matched = step == self.matching_step(max_steps)

    def updates(self, batch: Batch) -> Iterator[Update]:
        if not self.matched:
            yield self.source_update(batch)


def described(layers: Sequence[MatchedLayer]) -> Matched:
    """What was matched, for whoever watches the run."""
    channels, unscaled = sum(len(layer.scale) for layer in layers), sum(layer.unscaled for layer in layers)
    logs = {"matching/layers": len(layers), "matching/channels": channels, "matching/unscaled": unscaled}
    message = f"Gaussian matching: {channels} channels of {len(layers)} layers have the source's mean and variance"
    if unscaled:
        message += f"; {unscaled} without variance in the target have its mean alone"
    return Matched({name: float(value) for name, value in logs.items()}, message)
