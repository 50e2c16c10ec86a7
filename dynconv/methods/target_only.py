"""The bound: supervised training on the target, and fine-tuning of another run's network on its labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dynconv.methods.checks import check_range
from dynconv.methods.records import About, Update
from dynconv.methods.source_first import Started, StartedConfig
from dynconv.methods.source_only import check_source_policy
from dynconv.models import DomainName, NormalisationPolicy

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class TargetOnlyConfig(StartedConfig):
    """Target only, a bound that is no adaptation: cross entropy on the target's own labelled training images, or on a
    few of them from another run's network on (fine-tuning; GAM, section 5.4)."""

    source_checkpoint: str = ""
    """FILE: a checkpoint of a run with the same classes and network (RUN/checkpoints/last.pt) that is fine-tuned: of
    one with a network for each domain (GAM, ADDA) the target's. Give that run's `weights`: they tell how its images
    were normalised, and are not read. Empty to train from the beginning."""
    labelled_images: int = 0
    """How many labelled images of the target are trained on; 0 for all but those held out for `source-val`. They are
    the same in every run, classes keep their shares, and fewer are among more. What is held out are others, so that
    `source-val` looks at more labels than these, and `last` does not."""

    normalisation_policy: NormalisationPolicy = "source-only"
    """How batch normalisation treats the domains: "source-only" or "frozen", as in `MethodConfig`. The one source is
    the target's labelled training split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_policy(self.normalisation_policy, ("source-only", "frozen"), "target-only")
        check_range(self, ("labelled_images",), least=0)

    @property
    def few_labels(self) -> int:
        return self.labelled_images


class TargetOnly(Started):
    """Cross entropy on the target's training split with its labels, judged on its test split: what a network of this
    kind reaches where nothing has to be adapted.

    The method itself sees a labelled source as any other does: by `supervised_by_target` the data are arranged so that
    this source is the target's training split, of which a fifth is held out as `source-val`. A target without a
    published test split is divided 80/20 by the fixed seed of all such divisions, so that no image is trained on and
    tested on. Of `labelled_images` the arrangement is `dynconv.data.few_labels`.

    With a `source_checkpoint` the evaluation before the first step is that run's network on the same test images: what
    no label gives.
    """

    config_class = TargetOnlyConfig
    about = About(
        "none: the supervised bound of GAM (ECCV 2018) and the Calibrator (CVPR 2020), and GAM's fine-tuning",
        segmentation=True,
    )
    supervised_by_target = True
    starts_as: ClassVar[DomainName] = "target"

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield self.source_update(batch)
