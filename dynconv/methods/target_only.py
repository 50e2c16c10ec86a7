"""The bound: supervised training on the target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynconv.methods.base import About, Method, Update
from dynconv.methods.config import MethodConfig
from dynconv.methods.source_only import check_source_policy
from dynconv.models import NormalisationPolicy

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class TargetOnlyConfig(MethodConfig):
    """Target only, a bound that is no adaptation: cross entropy on the target's own labelled training images."""

    normalisation_policy: NormalisationPolicy = "source-only"
    """How batch normalisation treats the domains: "source-only" or "frozen", as in `MethodConfig`. The one source is
    the target's labelled training split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_policy(self.normalisation_policy, ("source-only", "frozen"), "target-only")


class TargetOnly(Method):
    """Cross entropy on the target's training split with its labels, judged on its test split: what a network of this
    kind reaches where nothing has to be adapted.

    The method itself sees a labelled source as any other does: by `supervised_by_target` the data are arranged so that
    this source is the target's training split, of which a fifth is held out as `source-val`. A target without a
    published test split is divided 80/20 by the fixed seed of all such divisions, so that no image is trained on and
    tested on.
    """

    config_class = TargetOnlyConfig
    about = About("none: the supervised bound of GAM (ECCV 2018) and the Calibrator (CVPR 2020)", segmentation=True)
    supervised_by_target = True

    def updates(self, batch: Batch) -> Iterator[Update]:
        yield self.source_update(batch)
