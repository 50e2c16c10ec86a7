"""Dynamic residual transfer (Li et al., CVPR 2021): a network whose convolutions follow the sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dynconv.distributed import gather_rows_with_gradient
from dynconv.losses.mmd import Estimator, GaussianKernels, fewest_samples, mk_mmd
from dynconv.methods.checks import check_range, check_unused
from dynconv.methods.kernel_alignment import check_images, mixed_order
from dynconv.methods.mcd import MCD, MCDConfig, risen
from dynconv.methods.records import About, Update
from dynconv.methods.source_only import SOURCE_POLICIES, check_source_policy
from dynconv.models import NormalisationPolicy

if TYPE_CHECKING:
    from dynconv.data import Batch


@dataclass(frozen=True)
class DRTConfig(MCDConfig):
    """DRT: another method's loss on a network with dynamic residuals on every convolution."""

    loss: Literal["mcd", "mmd", "source-only"] = "mcd"
    """What trains the dynamic network: MCD as H of eq. 8 (the paper's default), "mmd" of the features as H (named with
    eq. 8, no result in the paper), or cross entropy alone (section 4.2)."""
    mmd_weight: float = 1.0
    """Weight of the discrepancy with "mmd" (lambda of eq. 6; the paper has none for it: 1 is DAN's), which rises as
    `ramp` says."""
    mmd_estimator: Estimator = "linear"
    """Which pairs of samples "mmd" compares, as in DAN, with DAN's family of kernels in equal parts."""

    residual: Literal["subspace", "channel", "combined"] = "subspace"
    """Dynamic residual of the convolutions: "subspace" routing (eq. 4), "channel" attention (eq. 3) or both "combined"
    (eq. 5); compared in Table 1. Without one this is another method: `mcd`, `dan` or `source-only`."""
    form: Literal["three-step", "reversal"] = "reversal"
    """All at once through gradient reversal (as released DRT trains), or MCD's steps A, B and C."""
    discrepancy_weight: float = 50.0
    """Weight of the discrepancy (lambda of eq. 6: 50, with MCD)."""
    normalisation_policy: NormalisationPolicy = "joint"
    """How batch normalisation treats the two domains: one "joint" pass in released DRT, of the source alone with loss
    "source-only"; all choices as in `MethodConfig`."""
    optimiser: Literal["adam", "sgd"] = "sgd"
    """SGD in section 4.1."""
    lr: float = 2e-3
    """Learning rate (section 4.1, digits: 0.002)."""
    lr_schedule: Literal["constant", "step"] = "step"
    """"step" multiplies the learning rate by `lr_decay` at each of `lr_milestones` (section 4.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("mmd_weight",), least=0)
        game = ("distance", "discrepancy_steps", "reversal_weight")
        if self.loss != "mmd":
            choice = f"loss {self.loss!r}, which estimates no MMD"
            check_unused(self, ("mmd_weight", "mmd_estimator"), choice, "choose loss 'mmd'")
        else:
            choice = "loss 'mmd', which has one classifier and no game"
            check_unused(self, (*game, "form", "prediction"), choice, "choose loss 'mcd'")
            choice = "loss 'mmd', whose weight is mmd_weight"
            check_unused(self, ("discrepancy_weight",), choice, "choose loss 'mcd'")
        if self.loss == "source-only":
            unused = (*game, "discrepancy_weight", "class_balance", "ramp_steps")
            check_unused(self, unused, "loss 'source-only', which looks at no target", "choose loss 'mcd'")
            check_source_policy(self.normalisation_policy, ("joint", *SOURCE_POLICIES), "loss 'source-only'")


class DRT(MCD):
    """min Lce + lambda Ld (eq. 6) over a dynamic network, with Ld by MCD's game, by MMD, or left out."""

    config_class = DRTConfig
    config: DRTConfig
    about = About("Li et al., CVPR 2021")

    def __init__(self, config: DRTConfig, num_classes: int) -> None:
        num_heads = 2 if config.loss == "mcd" else 1
        super().__init__(config, num_classes, num_heads=num_heads)
        self.mmd_weight = config.mmd_weight * risen(config, 0)
        self.order_seed = 0

    def check_run(self, *, max_steps: int, micro_batch: int) -> None:
        super().check_run(max_steps=max_steps, micro_batch=micro_batch)
        if self.config.loss == "mmd":
            estimator = self.config.mmd_estimator
            check_images(micro_batch, fewest_samples(estimator), f"mmd_estimator {estimator!r}")

    def begin_step(self, step: int, max_steps: int) -> None:
        super().begin_step(step, max_steps)
        self.mmd_weight = self.config.mmd_weight * risen(self.config, step)
        self.order_seed = step

    def updates(self, batch: Batch) -> Iterator[Update]:
        if self.config.loss == "source-only":
            yield self.source_update(batch)
        elif self.config.loss == "mmd":
            yield self.mmd_update(batch)
        else:
            yield from super().updates(batch)

    def mmd_update(self, batch: Batch) -> Update:
        """eq. 6 with the squared MMD between the features of all sources and of the target as H of eq. 8."""
        source, target = self.encode(batch)
        learning = self.source_loss(source, batch.source.labels)
        order = mixed_order(batch.source.domains, self.order_seed)
        everyone = gather_rows_with_gradient(source)[order], gather_rows_with_gradient(target)
        mmd = mk_mmd(*everyone, kernels=GaussianKernels(), estimator=self.config.mmd_estimator)
        loss = learning + self.balance_loss(target) + self.mmd_weight * mmd
        logs = {"cross_entropy": learning.detach(), "mmd": mmd.detach()}
        return Update(loss, of=("features", "heads"), logs=logs | {"mmd_weight": self.mmd_weight})
