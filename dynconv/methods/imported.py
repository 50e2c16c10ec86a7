"""A published network, taken whole as the one that learnt the source: what other methods start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynconv.data.scenes.label_maps import CLASS_SETTINGS
from dynconv.methods.base import Method
from dynconv.methods.checks import check_unused
from dynconv.methods.config import MethodConfig
from dynconv.methods.records import About, Update
from dynconv.methods.source_only import check_source_policy
from dynconv.models import NormalisationPolicy
from dynconv.models.network import weights_of
from dynconv.models.released_scores import load_scores
from dynconv.models.weights import words

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class ImportedConfig(MethodConfig):
    """A published network with its scores, as a run that others start from; nothing is trained."""

    weight_classes: tuple[str, ...] = ()
    """The classes that the FILE of `weights` scores, by name, in the order of its scores; those that the run has not
    are left out. 22, 19, 16, 13 and 11 stand for the published orders of SYNTHIA's classes, of Cityscapes' trainIds, of
    those among them that SYNTHIA has, and of CamVid's: "19 ignore" is released ERFNet's."""

    normalisation_policy: NormalisationPolicy = "source-only"
    """How batch normalisation treats the domains: "source-only", by the statistics that came with the file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_policy(self.normalisation_policy, ("source-only",), "imported")
        check_unused(self, ("bottleneck",), "imported, whose classifier is the file's", "train with source-only")
        names = self.file_classes
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"weight_classes: {', '.join(doubled)} stand there more than once; name each class of the file once, "
                "in the order of its scores"
            )

    @property
    def file_classes(self) -> tuple[str, ...]:
        """`weight_classes` with the names that a number stands for."""
        return tuple(name for given in self.weight_classes for name in CLASS_SETTINGS.get(given, (given,)))


class Imported(Method):
    """The network of a FILE, its layers that make scores too, as the source's: a run of one step that changes nothing,
    whose two evaluations are the network's as it came. `source_checkpoint RUN/checkpoints/last.pt` of the methods that
    start from a run, and `dynconv match RUN`, go on from it, so that they adapt or fine-tune a published baseline (GAM,
    Table 4, last row).

    Which of the file's scores are the run's classes its names decide (`weight_classes`), for a number of scores does
    not tell them. Of a network that learnt from the target's labels nothing here can know.
    """

    config_class = ImportedConfig
    takes_scores = True
    about = About("none: a published network that adaptation starts from (GAM, ECCV 2018, Table 4)", segmentation=True)
    config: ImportedConfig

    def __init__(self, config: ImportedConfig, num_classes: int) -> None:
        if weights_of(config.backbone, config.weights) in ("none", "imagenet"):
            raise ValueError(
                f"weights: imported takes a network with its scores from a file, got {config.weights!r}; give the FILE"
            )
        if not config.weight_classes:
            raise ValueError(
                "weight_classes: name the classes of the file in the order of its scores (19 stands for Cityscapes' "
                "trainIds), for the file does not tell them"
            )
        super().__init__(config, num_classes)
        self._taken = ""

    def check_classes(self, classes: Sequence[str]) -> None:
        names = self.config.file_classes
        spare = [name for name in names if name not in classes]
        if missing := [name for name in classes if name not in names]:
            others = f" (not of the run: {', '.join(spare)})" if spare else ""
            raise ValueError(
                f"weight_classes: the run's classes {', '.join(missing)} are not among them{others}; call each class "
                "of the file as the run does, or choose domains whose classes the file has"
            )
        load_scores(self.heads[0], self._scores, names, classes)
        self._taken = f"the scores of {len(classes)} classes came with the weights"
        if spare:
            self._taken += f"; left out: those of {words(spare)}"
        layers = dict.fromkeys(
            name.rpartition(".")[0] for name, _ in self.heads[0].named_parameters() if name not in self._scores
        )
        if layers:
            self._taken += f"; the file has no {words(list(layers))}, whose part of the scores stays zero"

    @property
    def notice(self) -> str | None:
        return "\n".join(line for line in (self._notice, self._taken) if line) or None

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        if max_steps != 1:
            raise ValueError(
                f"max_steps: imported trains nothing and has one step, got {max_steps}; give --max-steps 1"
            )

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield from ()
