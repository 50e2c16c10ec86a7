"""Adaptive batch normalisation (Li et al., 2016): source-only training, the target's own statistics at test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from dynconv.methods.checks import check_range
from dynconv.methods.records import About
from dynconv.methods.source_only import SourceOnly, SourceOnlyConfig
from dynconv.models import NormalisationPolicy, domain_norms, set_target_statistics


@dataclass(frozen=True)
class AdaBNConfig(SourceOnlyConfig):
    """AdaBN: source-only training, and the target's own batch statistics when it is judged."""

    statistics_images: int = 2000
    """Target training images, evenly spread over all, that the statistics are taken from; 0 for all. The paper takes
    all, and in its section on the size of the target domain fewer; 2000 is this engine's choice for every method."""
    adapted_layers: int = 0
    """So many batch normalisations, from the input on, take the target's statistics, and those after them keep the
    source's; 0 for all (the paper's section on the effect of adapting different layers)."""

    normalisation_policy: NormalisationPolicy = "adabn"
    """What the method consists of; "adabn" alone (see `MethodConfig`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("statistics_images", "adapted_layers"), least=0)
        if self.normalisation_policy != "adabn":
            raise ValueError(
                f"normalisation_policy: {self.normalisation_policy!r} is not AdaBN, which is the policy 'adabn'; for "
                "another one choose the method source-only"
            )
        if self.norm == "none":
            raise ValueError(
                "norm: 'none' leaves AdaBN nothing to adapt; choose norm 'batch', or the method source-only"
            )


class AdaBN(SourceOnly):
    """Algorithm 1: each batch normalisation's mean and variance are replaced by those of the target's images; weights
    stay as the source trained them."""

    config_class = AdaBNConfig
    about = About("Li et al., 2016 (arXiv 1603.04779)")
    config: AdaBNConfig

    def __init__(self, config: AdaBNConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        number = len(domain_norms(self.features))
        if config.adapted_layers > number:
            raise ValueError(
                f"adapted_layers: {config.backbone} has {number} batch normalisations, got {config.adapted_layers}; 0 "
                "adapts all"
            )

    @property
    def observed_images(self) -> int | None:
        return self.config.statistics_images

    def observe_target(self, batches: Callable[[], Iterable[Tensor]]) -> None:
        if not self.config.adapted_layers:
            super().observe_target(batches)
            return
        self.require_evaluation()
        set_target_statistics(self.features, batches, layers=self.config.adapted_layers)
