from __future__ import annotations

import json
from itertools import islice

import pytest
import torch

from dynconv.data import Batch, Domain, DomainBatches, Protocol, Split, normalise


def make_domain(name: str, size: int, offset: int) -> Domain:
    """Image n is filled with the value offset + n; its label is n mod 10."""
    values = torch.arange(offset, offset + size, dtype=torch.uint8)
    split = Split(values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), torch.arange(size) % 10)
    return Domain(name, tuple("0123456789"), split, None)


def make_protocol(*sizes: int, target: int = 20) -> Protocol:
    sources = tuple(make_domain(f"s{i}", size, 60 * i) for i, size in enumerate(sizes))
    return Protocol("test", sources, make_domain("t", target, 200))


def identities(images: torch.Tensor) -> torch.Tensor:
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().long()


def take(batches: DomainBatches, count: int) -> list[Batch]:
    return list(islice(batches, count))


def fields(batch: Batch) -> list[torch.Tensor]:
    source, target = batch.source, batch.target
    return [source.images, source.labels, source.domains, target.images, target.indices]


def test_a_batch_holds_normalised_images_with_their_labels_domains_and_target_indices() -> None:
    protocol = make_protocol(30, 50)
    for batch in take(DomainBatches(protocol, batch_size=7, seed=0, device="cpu"), 9):
        seen = identities(batch.source.images)
        assert torch.equal(seen >= 60, batch.source.domains == 1)
        assert torch.equal((seen - 60 * batch.source.domains) % 10, batch.source.labels)
        assert torch.equal(batch.target.images, normalise(protocol.target.train.images[batch.target.indices]))
        assert batch.source.images.shape == batch.target.images.shape == (7, 3, 4, 4)
        assert batch.source.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.target.images.is_contiguous(memory_format=torch.channels_last)


def test_a_target_batch_carries_nothing_but_images_and_indices() -> None:
    batch = next(DomainBatches(make_protocol(30), batch_size=4, seed=0, device="cpu"))
    assert set(vars(batch.target)) == {"images", "indices"}


def test_every_pass_over_a_domain_holds_each_image_once_in_a_new_order() -> None:
    batches = DomainBatches(make_protocol(12, target=20), batch_size=5, seed=0, device="cpu")
    drawn = take(batches, 24)
    source = torch.cat([identities(batch.source.images) for batch in drawn]).view(-1, 12)
    target = torch.cat([batch.target.indices for batch in drawn]).view(-1, 20)
    for passes, size in ((source, 12), (target, 20)):
        assert torch.equal(passes.sort(dim=1).values, torch.arange(size).expand_as(passes))
        assert not torch.equal(passes[0], passes[1])


def test_sources_are_drawn_equally_often_whatever_their_size_and_the_batch_size() -> None:
    batches = DomainBatches(make_protocol(5, 50, 11), batch_size=8, seed=0, device="cpu")
    counts = torch.bincount(torch.cat([batch.source.domains for batch in take(batches, 6)]))
    assert counts.tolist() == [16, 16, 16]


def test_a_batch_may_be_larger_than_a_domain() -> None:
    batch = next(DomainBatches(make_protocol(3, target=2), batch_size=10, seed=0, device="cpu"))
    assert torch.bincount(identities(batch.source.images)).tolist() in ([3, 3, 4], [3, 4, 3], [4, 3, 3])
    assert torch.bincount(batch.target.indices).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("sizes", "batch_size"), [((30,), 7), ((30,), 10), ((30, 50), 16), ((5, 50, 11), 8), ((3,), 64)]
)
def test_steps_per_epoch_is_the_smallest_number_that_shows_every_source_image(
    sizes: tuple[int, ...], batch_size: int
) -> None:
    batches = DomainBatches(make_protocol(*sizes), batch_size=batch_size, seed=1, device="cpu")
    drawn = take(batches, batches.steps_per_epoch)

    def seen(some: list[Batch]) -> int:
        pairs = {
            (int(d), int(i)) for b in some for d, i in zip(b.source.domains, identities(b.source.images), strict=True)
        }
        return len(pairs)

    assert seen(drawn) == sum(sizes)
    assert len(drawn) == 1 or seen(drawn[:-1]) < sum(sizes)


def test_a_restored_iterator_goes_on_bit_for_bit() -> None:
    protocol = make_protocol(12, 50)
    whole = DomainBatches(protocol, batch_size=7, seed=3, device="cpu")
    take(whole, 5)
    state = json.loads(json.dumps(whole.state_dict()))
    expected = take(whole, 12)
    resumed = DomainBatches(protocol, batch_size=7, seed=3, device="cpu")
    take(resumed, 2)
    resumed.load_state_dict(state)
    for before, after in zip(expected, take(resumed, 12), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(fields(before), fields(after), strict=True))


def test_the_seed_fixes_the_order() -> None:
    protocol = make_protocol(30, 50)

    def order(seed: int) -> torch.Tensor:
        drawn = take(DomainBatches(protocol, batch_size=8, seed=seed, device="cpu"), 3)
        return torch.cat([torch.cat([identities(b.source.images), b.target.indices]) for b in drawn])

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = next(DomainBatches(make_protocol(30), batch_size=8, seed=0, device="cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second = next(DomainBatches(make_protocol(30), batch_size=8, seed=0, device="cpu"))
    assert torch.equal(first.source.images, second.source.images)


@pytest.mark.parametrize(
    ("size", "batch_size", "seed", "message"),
    [
        (30, 9, 0, "batch_size: 8 in the state, 9 here"),
        (30, 8, 1, "seed: 0 in the state, 1 here"),
        (31, 8, 0, "sizes"),
    ],
)
def test_a_state_of_other_data_is_refused(size: int, batch_size: int, seed: int, message: str) -> None:
    state = DomainBatches(make_protocol(30), batch_size=8, seed=0, device="cpu").state_dict()
    other = DomainBatches(make_protocol(size), batch_size=batch_size, seed=seed, device="cpu")
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(state)


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        DomainBatches(make_protocol(30), batch_size=0, seed=0, device="cpu")
    with pytest.raises(ValueError, match="seed"):
        DomainBatches(make_protocol(30), batch_size=1, seed=-1, device="cpu")
    with pytest.raises(ValueError, match="no training images in t"):
        DomainBatches(make_protocol(30, target=0), batch_size=1, seed=0, device="cpu")
