from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from dynconv.data import Augmentation, Batch, Domain, DomainBatches, Protocol, Split, TargetSelection, normalise


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
    assert {name for name, value in vars(batch.target).items() if value is not None} == {"images", "indices"}
    assert set(vars(batch.target)) == {"images", "indices", "pseudo_labels", "pseudo_probabilities"}


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


def lopsided(*sizes: int) -> Domain:
    """A domain whose class n has sizes[n] images; image i is filled with the value i."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    values = torch.arange(len(labels), dtype=torch.uint8)
    split = Split(values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), labels)
    return Domain("s", tuple(map(str, range(len(sizes)))), split, None)


def test_balanced_sources_show_every_class_of_each_equally_often() -> None:
    sources = (lopsided(40, 4, 1, 15), lopsided(2, 2, 60, 6))
    protocol = Protocol("p", sources, lopsided(30, 1, 1, 1))
    batches = DomainBatches(protocol, batch_size=16, seed=0, class_balanced=True)
    plain = DomainBatches(protocol, batch_size=16, seed=0)
    assert batches.steps_per_epoch == plain.steps_per_epoch
    drawn = take(batches, 20)
    labels, domains = (torch.cat([getattr(batch.source, name) for batch in drawn]) for name in ("labels", "domains"))
    for source in (0, 1):
        assert torch.bincount(labels[domains == source]).tolist() == [40, 40, 40, 40]
    images = torch.cat([identities(batch.source.images) for batch in drawn])
    assert torch.equal(sources[0].train.labels[images[domains == 0]], labels[domains == 0])
    assert images[(domains == 0) & (labels == 0)].unique().numel() == 40, "no image twice before all came once"
    assert all(torch.equal(a.target.indices, b.target.indices) for a, b in zip(drawn, take(plain, 20), strict=True))


def selection(*pairs: tuple[int, int]) -> TargetSelection:
    return TargetSelection(torch.tensor([place for place, _ in pairs]), torch.tensor([label for _, label in pairs]))


CHOSEN = selection((3, 7), (4, 7), (11, 7), (19, 2), (0, 5), (2, 5))


def test_a_selection_limits_the_target_from_the_next_batch_with_pseudo_classes_balanced() -> None:
    batches, plain = (DomainBatches(make_protocol(30), batch_size=6, seed=0) for _ in range(2))
    take(batches, 2)
    take(plain, 2)
    batches.select_target(CHOSEN)
    drawn = take(batches, 4)
    indices = torch.cat([batch.target.indices for batch in drawn])
    assert torch.bincount(indices, minlength=20)[[3, 4, 11]].sum() == 8
    assert torch.bincount(indices, minlength=20)[19] == 8
    assert torch.bincount(indices, minlength=20)[[0, 2]].tolist() == [4, 4]
    assert torch.equal(identities(drawn[0].target.images), 200 + drawn[0].target.indices)
    for ours, other in zip(drawn, take(plain, 4), strict=True):
        assert torch.equal(ours.source.images, other.source.images), "the sources go on as they were"
    batches.select_target(None)
    assert torch.equal(next(batches).target.indices, next(plain).target.indices)


def test_a_new_selection_of_the_same_images_brings_a_new_order() -> None:
    batches = DomainBatches(make_protocol(30), batch_size=60, seed=0)
    orders = []
    for _ in range(2):
        batches.select_target(CHOSEN)
        orders.append(next(batches).target.indices)
    assert not torch.equal(*orders)


@pytest.mark.parametrize("chosen", [CHOSEN, None])
def test_a_restored_iterator_goes_on_with_its_selection(chosen: TargetSelection | None, tmp_path: Path) -> None:
    options = {"batch_size": 7, "seed": 3, "class_balanced": True, "augmentation": "crop-flip"}
    protocol = make_protocol(12, 50)
    whole = DomainBatches(protocol, **options)
    take(whole, 2)
    whole.select_target(CHOSEN)
    take(whole, 3)
    whole.select_target(chosen)
    take(whole, 1)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    expected = take(whole, 12)
    resumed = DomainBatches(protocol, **options)
    resumed.select_target(selection((1, 1)))
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for before, after in zip(expected, take(resumed, 12), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(fields(before), fields(after), strict=True))


@pytest.mark.parametrize("soft", [False, True])
def test_pseudo_labels_come_with_their_images_into_every_part_and_through_a_checkpoint(
    soft: bool, tmp_path: Path
) -> None:
    sure = torch.rand(6, 10, generator=torch.Generator().manual_seed(0))
    chosen = TargetSelection(CHOSEN.indices, CHOSEN.labels, sure if soft else None)
    batches, resumed = (DomainBatches(make_protocol(30), batch_size=6, seed=0) for _ in range(2))
    batches.select_target(chosen)
    next(batches)
    torch.save(batches.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    batch, again = next(batches), next(resumed)
    places = [CHOSEN.indices.tolist().index(index) for index in batch.target.indices.tolist()]
    for drawn in (batch, again):
        parts = [part.target for part in drawn.split(2)]
        assert torch.equal(torch.cat([part.pseudo_labels for part in parts]), CHOSEN.labels[places])
        if soft:
            assert torch.equal(torch.cat([part.pseudo_probabilities for part in parts]), sure[places])
        else:
            assert drawn.target.pseudo_probabilities is None
    batches.select_target(None)
    assert next(batches).target.pseudo_labels is None


def test_a_selection_is_kept_as_it_was_given() -> None:
    given = selection((1, 0), (2, 1))
    batches = DomainBatches(make_protocol(30), batch_size=8, seed=0)
    batches.select_target(given)
    given.indices.fill_(9)
    assert set(next(batches).target.indices.tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (TargetSelection(*torch.zeros(2, 0, dtype=torch.int64)), "holds no image"),
        (selection((20, 0)), r"selection\.indices: expected 0 to 19, got 20"),
        (selection((-1, 0)), r"selection\.indices: expected 0 to 19, got -1"),
        (selection((0, 10)), r"selection\.labels: expected 0 to 9, got 10"),
        (
            TargetSelection(*torch.zeros(2, 1, dtype=torch.int64), torch.ones(1, 9)),
            r"selection\.probabilities: expected 10 columns, got 9",
        ),
    ],
)
def test_a_selection_that_does_not_fit_is_refused_and_changes_nothing(chosen: TargetSelection, message: str) -> None:
    batches, plain = (DomainBatches(make_protocol(30), batch_size=8, seed=0) for _ in range(2))
    with pytest.raises(ValueError, match=message):
        batches.select_target(chosen)
    assert torch.equal(next(batches).target.indices, next(plain).target.indices)


def test_a_malformed_selection_cannot_be_made() -> None:
    two = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="labels: expected int64"):
        TargetSelection(two, two[:1])
    with pytest.raises(ValueError, match="indices: expected int64"):
        TargetSelection(two.float(), two)
    with pytest.raises(ValueError, match="some of them twice"):
        TargetSelection(two * 0, two)
    with pytest.raises(ValueError, match=r"probabilities: expected float32 \(2, num_classes\), got .*\(1, 3\)"):
        TargetSelection(two, two, torch.ones(1, 3))


def noise(name: str, size: int, seed: int) -> Domain:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, 12, 12), dtype=torch.uint8, generator=random)
    return Domain(name, ("0", "1"), Split(images, torch.arange(size) % 2), None)


def test_augmentation_changes_pixels_by_seed_and_step_and_nothing_else() -> None:
    protocol = Protocol("p", (noise("a", 6, 0), noise("b", 6, 1)), noise("t", 6, 2))

    def drawn(seed: int = 0, augmentation: Augmentation = "crop-flip") -> list[Batch]:
        return take(DomainBatches(protocol, batch_size=12, seed=seed, augmentation=augmentation), 3)

    first, again, plain = drawn(), drawn(), drawn(augmentation="none")
    for one, two, bare in zip(first, again, plain, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(fields(one), fields(two), strict=True))
        assert torch.equal(one.source.labels, bare.source.labels)
        assert torch.equal(one.target.indices, bare.target.indices)
        assert not torch.equal(one.source.images, bare.source.images)
    # Every image comes twice in each batch here: nowhere twice with the same crop.
    every = torch.cat([batch.target.images for batch in first]).flatten(1)
    assert every.unique(dim=0).shape[0] == every.shape[0]


def test_source_and_target_are_cropped_each_in_its_own_way() -> None:
    plain = Split(torch.arange(144, dtype=torch.uint8).view(1, 1, 12, 12).expand(1, 3, 12, 12), torch.tensor([0]))
    one = Domain("one", ("0", "1"), plain, None)
    batch = next(DomainBatches(Protocol("p", (one,), one), batch_size=4, seed=0, augmentation="crop-flip"))
    assert not torch.equal(batch.source.images, batch.target.images)


def test_what_the_images_go_through_is_part_of_the_state() -> None:
    state = DomainBatches(make_protocol(30), batch_size=8, seed=0).state_dict()
    for options in ({"augmentation": "flip"}, {"class_balanced": True}):
        with pytest.raises(ValueError, match=next(iter(options))):
            DomainBatches(make_protocol(30), batch_size=8, seed=0, **options).load_state_dict(state)


def test_batches_are_normalised_as_asked() -> None:
    protocol = make_protocol(30)
    batch = next(DomainBatches(protocol, batch_size=4, seed=0, normalisation="imagenet"))
    plain = next(DomainBatches(protocol, batch_size=4, seed=0))
    images = (255 * (plain.source.images + 1) / 2).round().to(torch.uint8)
    assert torch.equal(batch.source.images, normalise(images, normalisation="imagenet"))


def test_unknown_words_are_refused() -> None:
    for name, value in (("augmentation", "crop"), ("normalisation", "none")):
        with pytest.raises(ValueError, match=f"{name}: expected one of .*got '{value}'"):
            DomainBatches(make_protocol(30), batch_size=1, seed=0, **{name: value})
