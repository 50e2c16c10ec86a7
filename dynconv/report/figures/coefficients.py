"""What the dynamic coefficients of a run say about domains and classes (DRT, section 4.5, Fig. 4 and 5)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynconv.engine.run_folder import write_atomically
from dynconv.engine.run_options import Device
from dynconv.methods.encoders import Encoders
from dynconv.nn import DynamicConv2d, collect_coefficients
from dynconv.plots.coefficients import Panel, save_coefficients, save_histograms
from dynconv.report.page.analysis import evenly, in_the_plane
from dynconv.report.table import counted

if TYPE_CHECKING:
    from dynconv.data import Split
    from dynconv.engine.loaded_run import LoadedRun
    from dynconv.engine.run_options import CheckpointName
    from dynconv.models import DomainName

Array = np.ndarray[Any, Any]

BINS = 40
TITLES = {"all": "all layers", "low": "lower half", "high": "upper half"}


@dataclass(frozen=True)
class Coefficients:
    """The coefficient vectors of N images of every domain of a run, and what the images are."""

    vectors: Array
    """float64 (N, D): for each image pi of all layers, the lowest first."""
    layers: Mapping[str, int]
    """Entries that each layer has in a vector, in the vectors' order."""
    domains: Array
    """int64 (N,): places in `domain_names`."""
    labels: Array
    """int64 (N,): places in `classes`; those of the target serve to look at, and for nothing else."""
    domain_names: tuple[str, ...]
    """The sources, in their order, and the target."""
    classes: tuple[str, ...]

    def by_layer(self) -> dict[str, Array]:
        """(N, K) of each layer."""
        ends = np.cumsum(list(self.layers.values()))
        return dict(zip(self.layers, np.split(self.vectors, ends[:-1], axis=1), strict=True))


def collect(loaded: LoadedRun, points: int) -> Coefficients:
    """The coefficients of `points` test images of each domain at most, spread evenly; in evaluation mode.

    Of a source without a test split the images held out of its training split are taken. Each domain passes through
    its own encoder, and its own batch statistics, where the method has such.

    Raises:
        ValueError: A static network, or one of channel attention alone; data missing; a domain without images.
    """
    _require_coefficients(loaded)
    protocol, held_out = loaded.domains()
    splits: list[tuple[str, DomainName, Split | None]] = [
        (source.name, "source", held if source.test is None else source.test)
        for source, held in zip(protocol.sources, held_out, strict=True)
    ]
    splits.append((protocol.target.name, "target", protocol.target.test))
    features = loaded.method.features
    vectors, labels, domains = [], [], []
    layers: dict[str, int] = {}
    for place, (name, side, split) in enumerate(splits):
        if split is None or len(split) == 0:
            raise ValueError(f"{loaded.folder.path}: {name} has no test images with labels")
        part = split.subset(evenly(len(split), points))
        with collect_coefficients(features) as collected, loaded.method.evaluating_domain(side):
            for _ in loaded.scoring.batches(loaded.method, part):
                pass
        # Of two encoders each domain has one, whose layers are the other's too.
        prefix = f"{side}." if isinstance(features, Encoders) else ""
        layers = {layer.removeprefix(prefix): width for layer, width in collected.dimensions.items()}
        vectors.append(collected.vectors().double().cpu())
        labels.append(part.labels)
        domains.append(torch.full_like(part.labels, place))
    found = torch.cat(vectors).numpy()
    if not np.isfinite(found).all():
        raise ValueError(f"{loaded.folder.path}: the coefficients hold values that are not finite")
    names = tuple(name for name, _, _ in splits)
    return Coefficients(found, layers, torch.cat(domains).numpy(), torch.cat(labels).numpy(), names, loaded.classes)


def _require_coefficients(loaded: LoadedRun) -> None:
    dynamic = [module for module in loaded.method.features.modules() if isinstance(module, DynamicConv2d)]
    if any(module.num_bases for module in dynamic):
        return
    what = "channel attention alone, which has scales and no coefficients" if dynamic else "a static network"
    raise ValueError(
        f"{loaded.folder.path} is a run of {what}; plot one that was trained with --residual subspace or combined "
        "(`dynconv train drt` is by default)"
    )


def parts(layers: Mapping[str, int]) -> dict[str, slice]:
    """Columns of a vector: "all" of them, and of two layers and more the "low" and the "high" half of the layers.

    The middle one of an odd number is of the high half: a choice of ours, for the paper, which halves the 33 layers of
    ResNet-101 (Fig. 5), leaves it open.
    """
    widths = list(layers.values())
    middle, end = sum(widths[: len(widths) // 2]), sum(widths)
    halves = {"low": slice(0, middle), "high": slice(middle, end)} if middle else {}
    return {"all": slice(0, end), **halves}


def silhouette(vectors: Array, groups: Array) -> float | None:
    """Mean silhouette of vectors (N, D) grouped by `groups` (N,), with Euclidean distances: near 1 where the groups lie
    apart, about 0 where they mix, below 0 where most vectors are nearer to another group's. None where it is not
    defined: of one group, or of groups of one vector each."""
    from sklearn.metrics import silhouette_score

    if not 2 <= len(np.unique(groups)) < len(groups):
        return None
    return float(silhouette_score(vectors, groups))


def silhouettes(found: Coefficients) -> dict[str, dict[str, float | None]]:
    """The silhouettes by domain and by class of each of `parts`, of the vectors as they are."""
    return {
        part: {
            "domain": silhouette(found.vectors[:, columns], found.domains),
            "class": silhouette(found.vectors[:, columns], found.labels),
        }
        for part, columns in parts(found.layers).items()
    }


def layer_statistics(found: Coefficients) -> dict[str, dict[str, Any]]:
    """Of each layer, by domain: mean and standard deviation of each coefficient over the images, and the mean entropy
    of pi in nats, which is log K (`most_entropy`) where all bases count alike and 0 where one is chosen."""
    from scipy.special import entr

    statistics = {}
    for layer, values in found.by_layer().items():
        own = {name: values[found.domains == place] for place, name in enumerate(found.domain_names)}
        statistics[layer] = {
            "mean": {name: rows.mean(axis=0).tolist() for name, rows in own.items()},
            "std": {name: rows.std(axis=0).tolist() for name, rows in own.items()},
            "entropy": {name: float(entr(rows).sum(axis=1).mean()) for name, rows in own.items()},
            "most_entropy": math.log(values.shape[1]),
        }
    return statistics


def deviation(vectors: Array) -> float:
    """Standard deviation of a coefficient over the images, the mean over the columns of (N, D)."""
    return float(vectors.std(axis=0).mean())


def histograms(found: Coefficients) -> tuple[dict[str, Array], Array]:
    """Counts int64 (K, BINS) of each layer's coefficients over all N images, and the edges float64 (BINS + 1,) of the
    bins, which all layers share; each row sums to N."""
    low = math.floor(100 * found.vectors.min()) / 100
    high = max(math.ceil(100 * found.vectors.max()) / 100, low + 0.01)
    edges = np.linspace(low, high, BINS + 1)
    counts = {
        # Of a value on the outermost edge a rounding must not lose the image.
        layer: np.stack([np.histogram(column.clip(low, high), edges)[0] for column in values.T])
        for layer, values in found.by_layer().items()
    }
    return counts, edges


def save_coefficient_figures(
    run: Path,
    out: Path | None = None,
    *,
    points: int,
    checkpoint: CheckpointName = "last",
    device: Device = "auto",
    data_root: Path | None = None,
) -> list[Path]:
    """Draw a run's coefficients in the plane and as histograms, and write their numbers.

    Args:
        run: The run folder.
        out: Picture of the planes; None for `RUN/coefficients.png`. Beside it lie `NAME-histograms` with its suffix and
            `NAME.json`.
        points: Test images of each domain, at most.
        checkpoint, device, data_root: As in `load_run`.

    Returns:
        The three files. In that of the numbers `hardly_dynamic` says of which layers the standard deviation over the
        images is below 0.001: their silhouettes and their plane say nothing.

    Raises:
        ValueError: As `load_run` and `collect`, too few images for t-SNE, or a file that cannot be written.
    """
    from dynconv.engine.loaded_run import check_whole_images, load_run

    loaded = load_run(run, checkpoint=checkpoint, device=device, data_root=data_root)
    # The plane is coloured by the images' classes too.
    check_whole_images(loaded, "plot coefficients")
    found = collect(loaded, points)
    scores = silhouettes(found)
    panels = []
    for part, columns in parts(found.layers).items():
        own = found.vectors[:, columns]
        # Where the branches of these layers tell no two images apart there is nothing to place.
        placed = in_the_plane(own - own.mean(axis=0)) if np.ptp(own, axis=0).max() > 0 else None
        title = f"{TITLES[part]}: {counted(own.shape[1], 'coefficient')}"
        scored = scores[part]["domain"], scores[part]["class"]
        # All layers of a network have as many bases.
        panels.append(Panel(title, placed, *scored, deviation(own), 1 / next(iter(found.layers.values()))))
    picture = run / "coefficients.png" if out is None else out
    others = picture.with_name(f"{picture.stem}-histograms{picture.suffix}"), picture.with_suffix(".json")
    # With the folder above it: that of a recipe's run is called after its seed.
    name = f"{Path(*run.resolve().parts[-2:])}, checkpoint {checkpoint} (step {loaded.step})"
    save_coefficients(
        panels,
        found.domains,
        found.labels,
        domain_names=found.domain_names,
        classes=found.classes,
        title=f"Dynamic coefficients of {name}",
        path=picture,
    )
    counts, edges = histograms(found)
    of = counted(len(found.vectors), "test image")
    save_histograms(
        counts,
        edges,
        others[0],
        deviations={layer: deviation(values) for layer, values in found.by_layer().items()},
        title=f"Dynamic coefficients of {name}: {of} of all domains",
    )
    numbers = {
        "run": str(run),
        "checkpoint": checkpoint,
        "step": loaded.step,
        "images": dict(zip(found.domain_names, np.bincount(found.domains).tolist(), strict=True)),
        "target": found.domain_names[-1],
        "silhouette": scores,
        "deviation": {part: panel.deviation for part, panel in zip(scores, panels, strict=True)},
        "hardly_dynamic": {part: panel.hardly_dynamic for part, panel in zip(scores, panels, strict=True)},
        "layers": layer_statistics(found),
    }
    try:
        write_atomically(others[1], json.dumps(numbers, indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"{others[1]} cannot be written: {error}") from error
    return [picture, *others]
