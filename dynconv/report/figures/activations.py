"""What every layer of a run's network gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from dynconv.engine.scoring import evaluating
from dynconv.methods.calibrator import CalibratorMethod
from dynconv.methods.encoders import Encoders
from dynconv.metrics.errors import check_finite_values
from dynconv.models import domain_norms
from dynconv.models.segmentation import SegmentationHead
from dynconv.models.taps import SCORES, layer_names, tapped

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dynconv.data import Split
    from dynconv.engine.evaluation import Evaluation
    from dynconv.engine.loaded_run import LoadedRun
    from dynconv.methods import Method
    from dynconv.models import DomainName, Features

Whose = Literal["source", "own"]


@dataclass(frozen=True)
class Watched:
    """A run's network, whose activations are looked at."""

    loaded: LoadedRun
    evaluation: Evaluation
    whose: Whose

    @torch.no_grad()
    def activations(self, split: Split, domain: DomainName) -> Iterator[dict[str, Tensor]]:
        """Of the images of a split, chunk by chunk, what every layer gives, by name and in order: (B, C, places), in
        evaluation mode. Of scenes the network sees what it is given at once, as the validators do.

        Raises:
            NonFiniteError: An activation is not finite.
        """
        method = self.loaded.method
        own = self.whose == "own"
        for images in self.evaluation.images(split):
            # Within the chunk: what asks for chunks may do something else with the network in between.
            with evaluating(method), method.evaluating_domain(domain if own else "source"):
                features = _encoder(method)
                with self.loaded.scoring.autocast(), tapped(features, features.taps) as found:
                    seen = method.embed(images) if own else method.features(images)
                    found.note(SCORES, torch.stack([_low(head, seen) for head in method.scoring_heads]).sum(dim=0))
                layers = {name: _flat(found[name]) for name in layer_names(features)}
            check_finite_values(**{f"activations of {name}": values for name, values in layers.items()})
            yield layers

    def kinds(self) -> dict[str, str]:
        """What every layer is, by name and in order: the type of its module, such as MaxPool2d."""
        features = _encoder(self.loaded.method)
        found = {name: type(features.get_submodule(name)).__name__ for name in features.taps}
        return {**found, SCORES: type(self.loaded.method.scoring_heads[0]).__name__}

    def described(self) -> str:
        """Which network the images go through, in words."""
        name, own = self.loaded.config.method, self.whose == "own"
        if keeps_source(self.loaded.method):
            return "each through its own domain's network" if own else "through the source's network"
        network = "the source's network" if name == "source-only" else f"the one network of {name}"
        if not domain_norms(self.loaded.method.features):
            return f"through {network}"
        return f"through {network}, normalised by the statistics of {'its own domain' if own else 'the source'}"


def keeps_source(method: Method) -> bool:
    """Whether adaptation leaves the source's network as it was."""
    return isinstance(method, CalibratorMethod) or isinstance(method.features, Encoders)


def _encoder(method: Method) -> Features:
    """The features that the next images go through."""
    features = method.features
    if not isinstance(features, Encoders):
        return features
    return features.source if features.domain == "source" else features.target


def _low(head: nn.Module, features: Tensor) -> Tensor:
    """Scores of features; of maps those before the upsampling to the images' size, which adds nothing to them."""
    return head.low(features) if isinstance(head, SegmentationHead) else head(features)


def _flat(output: Tensor) -> Tensor:
    """Maps (B, C, h, w) as (B, C, h w), features (B, C) as (B, C, 1), float32."""
    return output.float().flatten(2) if output.dim() == 4 else output.float()[..., None]
