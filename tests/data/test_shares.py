"""Parts of a batch: those of several processes, and micro-batches."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from dynconv.data import Augmentation, Batch, Domain, DomainBatches, Protocol, Split, TargetSelection


def make_protocol(*sizes: int) -> Protocol:
    generator = torch.Generator().manual_seed(0)
    domains = []
    for index, size in enumerate(sizes):
        images = torch.randint(0, 256, (size, 3, 12, 12), generator=generator, dtype=torch.uint8)
        domains.append(Domain(f"d{index}", ("a", "b", "c"), Split(images, torch.arange(size) % 3), None))
    return Protocol("test", tuple(domains[:-1]), domains[-1])


def fields(batch: Batch) -> list[Tensor]:
    source, target = batch.source, batch.target
    return [source.images, source.labels, source.domains, target.images, target.indices]


@pytest.mark.parametrize("augmentation", ["none", "flip", "crop-flip"])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_processes_together_see_the_batches_of_one(
    augmentation: Augmentation, world_size: int, balanced: bool
) -> None:
    protocol = make_protocol(7, 11, 5, 9)
    selection = TargetSelection(torch.tensor([1, 4, 5, 8]), torch.tensor([0, 0, 1, 2]))
    streams = [
        DomainBatches(
            protocol,
            batch_size=6,
            seed=3,
            class_balanced=balanced,
            augmentation=augmentation,
            rank=rank,
            world_size=size,
        )
        for size in (1, world_size)
        for rank in range(size)
    ]
    for step in range(6):
        if step == 3:
            for stream in streams:
                stream.select_target(selection)
        whole, *parts = (fields(next(stream)) for stream in streams)
        for expected, *found in zip(whole, *parts, strict=True):
            assert all(len(part) == 6 // world_size for part in found)
            assert torch.equal(torch.cat(found), expected)
    # A run may go on with another number of processes.
    states = [stream.state_dict() for stream in streams]
    for state in states[1:]:
        assert state["step"] == states[0]["step"] and torch.equal(
            state["selection"]["indices"], states[0]["selection"]["indices"]
        )
        streams[0].load_state_dict(state)


def test_a_batch_splits_into_consecutive_parts() -> None:
    batch = next(DomainBatches(make_protocol(8, 9), batch_size=7, seed=0))
    parts = batch.split(3)
    assert [len(part.source.images) for part in parts] == [2, 2, 3]
    for expected, *found in zip(fields(batch), *map(fields, parts), strict=True):
        assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"world_size": 4}, "batch_size: expected a multiple of the 4 processes, got 6"),
        ({"prefetch": -1}, "prefetch: expected 0 or more, got -1"),
    ],
)
def test_shares_that_do_not_divide_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DomainBatches(make_protocol(8, 9), batch_size=6, seed=0, **wrong)


def test_batches_ahead_are_those_of_the_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = make_protocol(8, 9)
    plain = DomainBatches(protocol, batch_size=4, seed=0, augmentation="flip")
    expected = list(islice(plain, 8))
    ahead = DomainBatches(protocol, batch_size=4, seed=0, augmentation="flip", prefetch=3)
    # As for images in files: a thread draws, up to three batches ahead.
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(ahead, "_reader", ThreadPoolExecutor(1))
    monkeypatch.setattr(ahead, "_prefetch", 3)
    for number, batch in enumerate(expected):
        if number == 4:
            state = ahead.state_dict()
            next(ahead)
            ahead.load_state_dict(state)
        for wanted, found in zip(fields(batch), fields(next(ahead)), strict=True):
            assert torch.equal(wanted, found)
        assert len(ahead._ahead) == 3
