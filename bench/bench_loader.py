"""The images per second that the loader gives, beside those that a training step takes.

The images are JPEGs of 500 x 375 in a folder of the moment, textures with the spectrum of photographs, 100 KB each. A
call of `batches` draws some batches as `dynconv train` does: decoded, squeezed to 256 x 256, cropped at random to
224 x 224, mirrored, normalised. `DataLoader` does the same work as one would write it with torch's DataLoader and
torchvision's transforms v2. bench/README.md explains the rows.
"""

from __future__ import annotations

import functools
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynconv.bench.harness import CommonOptions, Entry, attempt, chosen, parse, relative_error, time_entries
from dynconv.bench.rows import Row
from dynconv.bench.session import Plan, Session, run
from dynconv.data import Batch, DomainBatches, Protocol, SourceBatch, TargetBatch, load_protocol
from dynconv.data.files import CACHE_MODES, CacheMode
from dynconv.data.normalise import IMAGENET_DEVIATION, IMAGENET_MEAN
from dynconv.methods import DANN, DANNConfig

WIDTH, HEIGHT, STORED, SIDE = 500, 375, 256, 224
QUALITY = 90
CLASSES = 2
BATCHES, DEVICE, STEP = "batches", "batches beside a device", "training step"
DATALOADER = "DataLoader"
CACHES: tuple[CacheMode, ...] = tuple(mode for mode in CACHE_MODES if mode != "auto")
MODELS = ("lenet-small", "resnet-small", "resnet50")
# Textures that are computed; the other files are these, rolled and mirrored.
_TEXTURES = 16


@dataclass(frozen=True)
class Options(CommonOptions):
    """Measure the loader and the training steps that it has to feed."""

    images: int | None = None
    """Image files of each of the two domains, at least 4. Default: 160, with --quick 40."""
    batch: int = 32
    """Images of the source, and of the target."""
    decoders: tuple[int, ...] = ()
    """Threads that decode (and of torch). Default: 1 and 2, with --quick 1."""
    caches: tuple[str, ...] = ()
    """memory, disk, none. Default: all."""
    workers: int = 2
    """Processes of torch's DataLoader."""
    models: tuple[str, ...] = ()
    """Of the training steps: lenet-small (32 x 32), resnet-small (64 x 64), resnet50 (224 x 224). Default: all; with
    --quick the first two."""


def texture(generator: np.random.Generator) -> Tensor:
    """A picture uint8 (3, HEIGHT, WIDTH) whose amplitudes fall with the frequency as those of photographs do."""
    picture = torch.zeros(3, HEIGHT, WIDTH)
    for scale in (1, 2, 4, 8, 16, 32, 64, 128):
        shape = (1, 3, max(HEIGHT // scale, 2), max(WIDTH // scale, 2))
        noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        # The same for all channels, mostly: colours vary less than brightness.
        noise = 0.3 * noise + 0.7 * noise.mean(dim=1, keepdim=True)
        picture += scale**0.25 * F.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic")[0]
    return (128 + 50 * (picture - picture.mean()) / picture.std()).clamp(0, 255).to(torch.uint8)


def write_images(folder: Path, count: int) -> tuple[Path, Path]:
    """Two domains of `count` JPEGs each, in folders of `CLASSES` classes."""
    from PIL import Image

    generator = np.random.default_rng(0)
    textures = [texture(generator) for _ in range(min(_TEXTURES, count))]
    for place in range(2 * count):
        picture = textures[place % len(textures)].roll(37 * place, dims=2)
        content = io.BytesIO()
        pixels = (picture.flip(1) if place // len(textures) % 2 else picture).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
        file = folder / "st"[place // count] / f"class{place % CLASSES}" / f"{place}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
    return folder / "s", folder / "t"


def steps_of(options: Options) -> int:
    """Batches of a call."""
    return 3 if options.quick else 8


class Stretch:
    """A call draws some batches from the loader, pausing after each, and gives the last one.

    A stream of its own for each call: one that had prepared batches while others were timed would seem to be fast.
    """

    def __init__(self, protocol: Protocol, options: Options, device: torch.device, **more: Any) -> None:
        self.protocol, self.device, self.batch = protocol, device, options.batch
        self.steps = steps_of(options)
        self.more: dict[str, Any] = {"prefetch": 0, **more}
        self.pause = 0.0

    @property
    def images(self) -> int:
        """That a call gives."""
        return 2 * self.batch * self.steps

    def __call__(self) -> Tensor:
        batches = DomainBatches(
            self.protocol,
            batch_size=self.batch,
            seed=0,
            device=self.device,
            augmentation="crop-flip",
            normalisation="imagenet",
            **self.more,
        )
        for _ in range(self.steps):
            batch = next(batches)
            time.sleep(self.pause)
        # What is being prepared beyond the last is no part of it, and must not disturb the next call.
        batches.select_target(None)
        return torch.cat([batch.source.images, batch.target.images])


class Files(torch.utils.data.Dataset[Tensor]):
    """The same images as one would read them for torch's DataLoader."""

    def __init__(self, files: Sequence[Path]) -> None:
        from torchvision.transforms import v2

        self.files = list(files)
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize((STORED, STORED), antialias=True),
                v2.RandomResizedCrop(SIDE, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_DEVIATION),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        with Image.open(self.files[index]) as picture:
            return self.transform(picture.convert("RGB"))


def by_data_loader(files: Sequence[Path], options: Options, device: torch.device) -> Callable[[], Tensor]:
    """As many batches of torch's DataLoader, whose processes stay; a call gives the last one."""
    data = Files(files)
    size = 2 * options.batch
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=steps_of(options) * size)
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=size,
        sampler=sampler,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=device.type == "cuda",
    )

    def stretch() -> Tensor:
        last = torch.empty(0)
        for images in loader:
            last = images.to(device, memory_format=torch.channels_last)
        return last

    return stretch


def with_threads(call: Callable[[], Tensor], threads: int) -> Callable[[], Tensor]:
    """`call` with so many threads of torch."""

    def limited() -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return call()
        finally:
            torch.set_num_threads(before)

    return limited


def measure_loader(options: Options, session: Session) -> None:
    """Rows of the loader with each cache and number of threads, and of torch's DataLoader."""
    with tempfile.TemporaryDirectory(prefix="dynconv-bench-") as folder:
        count = options.images or (40 if options.quick else 160)
        source, target = write_images(Path(folder), count)
        threads = chosen("--decoders", options.decoders, [1] if options.quick else [1, 2])

        def stretch(cache: CacheMode, workers: int, **more: Any) -> Stretch:
            protocol = load_protocol(
                None,
                source=[f"s={source}"],
                target=f"t={target}",
                image_size=SIDE,
                threads=workers,
                cache=cache,
                cache_dir=Path(folder) / "cache",
            )
            return Stretch(protocol, options, session.device, **more)

        plain = stretch("none", 1)
        expected = plain().double()
        columns = columns_of(f"{WIDTH} x {HEIGHT} JPEG", plain.images, BATCHES)

        def check(result: Tensor) -> tuple[float, str]:
            return relative_error(result, expected), "a batch"

        entries: list[Entry] = []
        for workers in threads:
            for cache in chosen("--caches", options.caches, CACHES, CACHES):
                row = columns | {"provider": f"{cache}, {workers} threads"}
                made = functools.partial(_built, functools.partial(stretch, cache, workers), workers)
                entries += attempt(row, made, check, session.device, is_ours=True, allowed=0.0)
        files = sorted(file for place in (source, target) for file in place.rglob("*.jpg"))
        row = columns | {"provider": f"{DATALOADER}, {options.workers} workers"}
        peer = functools.partial(by_data_loader, files, options, session.device)
        entries += attempt(row, peer, None, session.device)
        # A device that computes for as long as a batch takes to load: what is prepared meanwhile costs nothing.
        alone = with_threads(plain, 1)
        began = time.perf_counter()
        alone()
        pause = (time.perf_counter() - began) / plain.steps
        for ahead in (0, 2):
            beside = stretch("none", 1, prefetch=ahead)
            beside.pause = pause
            row = columns | {"mode": DEVICE, "provider": f"none, 1 threads, prefetch {ahead}"}
            build = functools.partial(with_threads, beside, 1)
            entries += attempt(row, build, check, session.device, is_ours=True, allowed=0.0)
        time_entries(entries, session.device, options)
        for entry in entries:
            session.recorder.add(entry.row)


def _built(make: Callable[[], Stretch], threads: int) -> Callable[[], Tensor]:
    return with_threads(make(), threads)


def columns_of(shape: str, images: int, mode: str) -> Row:
    return {"op": "loader", "shape": shape, "size": SIDE, "batch": images, "dtype": "fp32", "mode": mode}


def training_step(model: str, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """A step of DANN on random images of the model's size; gives the losses."""
    torch.manual_seed(0)
    # No number of steps on random labels may diverge.
    config = DANNConfig(backbone=model, weights="none", lr=1e-5)  # type: ignore[arg-type]  # checked by `plan`
    method = DANN(config, CLASSES).to(device).to(memory_format=torch.channels_last).train()
    size = method.image_size
    generator = torch.Generator().manual_seed(1)
    source, target = (
        each.to(device).contiguous(memory_format=torch.channels_last)
        for each in torch.randn(2, batch, 3, size, size, generator=generator)
    )
    labels = (torch.arange(batch) % CLASSES).to(device)
    drawn = Batch(SourceBatch(source, labels, torch.zeros_like(labels)), TargetBatch(target, torch.arange(batch)))
    optimisers = method.optimisers()

    def step() -> Tensor:
        losses = []
        method.begin_step(1, 1000)
        for update in method.updates(drawn):
            update.loss.backward()
            for name in update.of:
                optimisers[name].step()
            for optimiser in optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            losses.append(update.loss.detach())
        return torch.stack(losses)

    return step


def measure_steps(models: Sequence[str], options: Options, session: Session) -> None:
    """Rows of the training steps: `images_per_s` is what a loader has to give."""
    entries: list[Entry] = []
    for model in models:
        row = columns_of("random images", 2 * options.batch, STEP) | {"provider": model}
        build = functools.partial(training_step, model, options.batch, session.device)
        entries += attempt(row | {"size": ""}, build, None, session.device, is_ours=True)
    time_entries(entries, session.device, options)
    for entry in entries:
        session.recorder.add(entry.row)


def plan(options: Options, device: torch.device) -> Plan[str]:
    """What the options describe; ValueError for an unknown word or a number out of range."""
    for name, value, least in (
        # Two of each class: one is held out for the test.
        ("images", options.images, 2 * CLASSES),
        ("batch", options.batch, 1),
        *(("decoders", n, 1) for n in options.decoders),
    ):
        if value is not None and value < least:
            raise ValueError(f"--{name}: expected at least {least}, got {value}")
    if options.workers < 0:
        raise ValueError(f"--workers: expected at least 0, got {options.workers}")
    chosen("--caches", options.caches, CACHES, CACHES)
    models = chosen("--models", options.models, MODELS[:2] if options.quick else MODELS, MODELS)

    def measure(what: str, session: Session) -> None:
        if what == BATCHES:
            measure_loader(options, session)
        else:
            measure_steps(models, options, session)

    return Plan([BATCHES, STEP], ["fp32"], lambda what: f"{what}, batch {options.batch} + {options.batch}", measure)


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, 1 where a provider was refused, 2 for wrong use, 130 when interrupted."""
    options = parse(Options, "loader", __doc__, args)
    return run(options, functools.partial(plan, options))


if __name__ == "__main__":
    sys.exit(main())
