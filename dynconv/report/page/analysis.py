"""What a trained network makes of its domains: confusion, features in the plane, their distance, samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynconv.data import Split

if TYPE_CHECKING:
    from dynconv.engine.loaded_run import LoadedRun

Array = np.ndarray[Any, Any]

# Of each side, spread evenly: t-SNE of 2 x 1,000 points took 14 s on a busy CPU core, and more would hide each other.
POINTS = 1000
# t-SNE of wide features looks for neighbours among their first principal components (van der Maaten and Hinton, 2008).
COMPONENTS = 50
FEWEST_POINTS = 10
RANDOM_SAMPLES = 16
WRONG_SAMPLES = 8


@dataclass(frozen=True)
class Analysis:
    """Numbers of one checkpoint; everything that the figures of a run are drawn from."""

    step: int
    """Training steps that the checkpoint has seen."""
    classes: tuple[str, ...]
    """C names."""
    confusion: Array
    """int64 (C, C): target test images by class (row) and prediction (column); zeros where the target has no labels."""
    points: Array
    """float32 (N, 2): t-SNE of the features."""
    point_domains: Array
    """int64 (N,): places in `domains`."""
    point_labels: Array
    """int64 (N,): classes; `UNLABELLED` of a target without labels."""
    domains: tuple[str, ...]
    """Names of the sources, in their order, and of the target."""
    a_distance: float
    """Proxy A-distance of sources and target; see `a_distance`."""
    a_error: float
    """The held-out error it comes from."""
    samples: Array
    """uint8 (M, H, W, 3): target test images, drawn at random first, then wrong ones of which the network is sure. None
    of a target without labels."""
    sample_labels: Array
    """int64 (M,)."""
    sample_predictions: Array
    """int64 (M,)."""
    sample_confidences: Array
    """float32 (M,): the highest probability."""
    random_samples: int
    """How many of the M were drawn at random."""

    @property
    def labelled(self) -> bool:
        """Whether the target's images have labels."""
        return bool(self.confusion.any())

    @property
    def accuracy(self) -> float:
        """Share of target test images whose prediction is right.

        Raises:
            ValueError: They have no labels.
        """
        if not self.labelled:
            raise ValueError(f"{self.domains[-1]}: its images have no labels, so that their accuracy is undefined")
        return float(np.trace(self.confusion) / self.confusion.sum())


def analyse(loaded: LoadedRun) -> Analysis:
    """Measure a checkpoint on its run's own domains.

    Test splits are used; of a source without one, the images held out of its training split; of a target without
    labels its training images.

    Raises:
        ValueError: Data missing, no target images, too few images for t-SNE, or features that are not finite.
    """
    from dynconv.engine.loaded_run import dump

    protocol, held_out = loaded.domains()
    seen = protocol.target.train if protocol.target.test is None else protocol.target.test
    if len(seen) == 0:
        raise ValueError(f"{protocol.target.name} has no test images")
    target = dump(loaded, seen, domain="target")
    names = (*(source.name for source in protocol.sources), protocol.target.name)
    features, domains, labels = [], [], []
    for place, (source, held) in enumerate(zip(protocol.sources, held_out, strict=True)):
        split = held if source.test is None else source.test
        part = dump(loaded, split.subset(evenly(len(split), POINTS // len(held_out))), domain="source")
        features.append(part.features)
        labels.append(part.labels)
        domains.append(torch.full_like(part.labels, place))
    chosen = evenly(len(target.labels), POINTS)
    features.append(target.features[chosen])
    labels.append(target.labels[chosen])
    domains.append(torch.full_like(target.labels[chosen], len(held_out)))
    of_points, of_domains = torch.cat(features).numpy(), torch.cat(domains).numpy()
    if not np.isfinite(of_points).all():
        raise ValueError("the features hold values that are not finite")
    error = domain_error(of_points, of_domains == len(held_out))
    confidences, predictions = target.scores.softmax(dim=1).max(dim=1)
    counts = torch.zeros(len(loaded.classes), len(loaded.classes), dtype=torch.int64)
    samples, random_samples = torch.empty(0, dtype=torch.int64), 0
    if protocol.target.test is not None:
        counts.index_put_((target.labels, predictions), torch.ones_like(predictions), accumulate=True)
        samples, random_samples = _samples(target.labels, predictions, confidences)
    return Analysis(
        step=loaded.step,
        classes=loaded.classes,
        confusion=counts.numpy(),
        points=in_the_plane(of_points),
        point_domains=of_domains,
        point_labels=torch.cat(labels).numpy(),
        domains=names,
        a_distance=a_distance(error),
        a_error=error,
        samples=_pictures(seen, samples),
        sample_labels=target.labels[samples].numpy(),
        sample_predictions=predictions[samples].numpy(),
        sample_confidences=confidences[samples].numpy(),
        random_samples=random_samples,
    )


def a_distance(error: float) -> float:
    """The proxy A-distance 2 (1 - 2 `error`) of two domains that a classifier tells apart with that held-out error: 0
    where they look the same to it, 2 where it never errs, a little below 0 by chance (Ben-David et al., NIPS 2006)."""
    return 2 * (1 - 2 * error)


def domain_error(features: Array, is_target: Array) -> float:
    """Held-out error of a linear classifier that tells the domains of features (N, F) apart by `is_target` (N,).

    Logistic regression on standardised features, as many of either side (so that 0.5 is chance), a random half to learn
    from and the other to be judged on.

    Raises:
        ValueError: Fewer than four images of one side.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    sides = [generator.permutation(np.flatnonzero(is_target == side)) for side in (False, True)]
    count = min(map(len, sides))
    if count < 4:
        raise ValueError(f"the domains' distance needs 4 images of each side, there are {count}")
    chosen = np.concatenate([side[:count] for side in sides])
    learn, judge = train_test_split(chosen, test_size=0.5, stratify=is_target[chosen], random_state=0)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(features[learn], is_target[learn])
    return float(1 - classifier.score(features[judge], is_target[judge]))


def in_the_plane(features: Array) -> Array:
    """t-SNE of features (N, F) as float32 (N, 2). ValueError for fewer than FEWEST_POINTS."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count, width = features.shape
    if count < FEWEST_POINTS:
        raise ValueError(f"t-SNE needs {FEWEST_POINTS} images or more, there are {count}")
    if width > COMPONENTS:
        features = PCA(min(COMPONENTS, count), random_state=0).fit_transform(features)
    perplexity = min(30.0, (count - 1) / 4)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    return np.asarray(placed, dtype=np.float32)


def evenly(total: int, most: int) -> torch.Tensor:
    """At most `most` of `total` places, evenly spread: a list sorted by class would show its first classes only."""
    return torch.linspace(0, total - 1, min(most, total)).round().long()


def _samples(labels: torch.Tensor, predictions: torch.Tensor, confidences: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Places of images drawn at random, then of the wrong ones with the highest confidence; how many are the first."""
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:RANDOM_SAMPLES]
    order = confidences.argsort(descending=True, stable=True)
    wrong = order[(predictions != labels)[order]][:WRONG_SAMPLES]
    return torch.cat([drawn, wrong]), len(drawn)


def _pictures(split: Split, places: torch.Tensor) -> Array:
    images = split.images_at(places)
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
