"""A CycleGAN's translations of its source, as a folder of images to train on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dynconv.data import Domain, Protocol, evaluation_batches
from dynconv.data.translated import translated_name
from dynconv.engine.loaded_run import LoadedRun
from dynconv.engine.programs import new_folder, provenance
from dynconv.engine.scoring import evaluating
from dynconv.methods import CycleGAN

# Images translated at a time: at 32 x 32 and width 32 some 300 MB.
BATCH_SIZE = 128


class ExportedStylised(NamedTuple):
    """What was written."""

    folder: Path
    """Of the images, with stylised.json among them."""
    images: int


def export_stylised(
    loaded: LoadedRun, out: Path, *, on_progress: Callable[[str, int, int], None] | None = None
) -> ExportedStylised:
    """Write every training image of the run's sources in the target's style as `out`/LABEL_ID_fake_B.png (the layout
    of the published CycleGAN digits), and `out`/stylised.json, which describes them.

    LABEL is the name of the class, ID the image's place in the source's training split; several sources are counted
    through. The images have the size that the run's network takes.

    Args:
        loaded: A run of cyclegan.
        out: A folder that is new or empty; it appears when everything in it is whole.
        on_progress: Called with what is done, images done and images in all.

    Raises:
        ValueError: The run is of another method, or `out` holds something or cannot be written.
        DataError: The run's sources are not there, or a class has a name that cannot be told from a file's (said
            before the first image is translated).
    """
    method = loaded.method
    if not isinstance(method, CycleGAN):
        raise ValueError(
            f"--part stylised: expected a run of cyclegan, and {loaded.folder.path} is one of {loaded.config.method}"
        )
    done = 0
    with new_folder(out) as folder, evaluating(method), torch.no_grad():
        protocol = loaded.protocol()
        for source in protocol.sources:
            for name in source.classes:
                # Refused now, and not after minutes of translating.
                translated_name(name, 0)
        total = sum(len(source.train) for source in protocol.sources)
        for source in protocol.sources:
            for pixels, labels in _translated(loaded, method, source):
                for image, label in zip(pixels, labels, strict=True):
                    Image.fromarray(image.numpy()).save(folder / translated_name(source.classes[label], done))
                    done += 1
                if on_progress is not None:
                    on_progress(f"{out.name}: translating", done, total)
        facts = _described(loaded, method, protocol)
        (folder / "stylised.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return ExportedStylised(out, total)


def _translated(loaded: LoadedRun, method: CycleGAN, source: Domain) -> Iterator[tuple[Tensor, list[int]]]:
    """Batches of translated images, uint8 (B, S, S, 3), and their labels, in the order of the training split."""
    scoring = loaded.scoring
    batches = evaluation_batches(
        source.train,
        batch_size=BATCH_SIZE,
        device=scoring.device,
        normalisation=scoring.network_input.normalisation,
    )
    for images, labels in batches:
        pixels = (method.translate(images) * 255).round().to(torch.uint8)
        yield pixels.permute(0, 2, 3, 1).cpu(), labels.tolist()


def _described(loaded: LoadedRun, method: CycleGAN, protocol: Protocol) -> dict[str, Any]:
    first, described = 0, []
    for source in protocol.sources:
        counts = torch.bincount(source.train.labels, minlength=len(source.classes)).tolist()
        described.append(
            {
                "name": source.name,
                "first_id": first,
                "images": len(source.train),
                "per_class": dict(zip(source.classes, counts, strict=True)),
            }
        )
        first += len(source.train)
    return {
        "files": "LABEL_ID_fake_B.png",
        "image_size": method.image_size,
        "sources": described,
        "target": protocol.target.name,
        "generator": method.generator_options,
        **provenance(loaded, None),
    }
