"""The names of protocols of driving scenes."""

from __future__ import annotations

import pytest

from dynconv.data.catalogue import known_protocols, protocol_named
from dynconv.data.errors import DataError
from dynconv.data.manifest import needed, published
from dynconv.data.scenes.listing import SCENE_SETS
from dynconv.data.specs import known_domains, parse_spec


@pytest.mark.parametrize(
    ("spec", "sources", "target", "setting"),
    [
        ("gta5-cityscapes", ("gta5",), "cityscapes", "19"),
        ("gta5-cityscapes@13", ("gta5",), "cityscapes", "13"),
        ("synthia-cityscapes", ("synthia",), "cityscapes", "16"),
        ("synthia-cityscapes@22", ("synthia",), "cityscapes", "22"),
        ("synthia-cityscapes@19", ("synthia",), "cityscapes", "19"),
        ("gta5+synthia-cityscapes", ("gta5", "synthia"), "cityscapes", "19"),
        ("cityscapes-synthia", ("cityscapes",), "synthia", "16"),
        ("camvid_day-camvid_dusk", ("camvid_day",), "camvid_dusk", "11"),
    ],
)
def test_the_names_mean_domains_and_a_class_setting(
    spec: str, sources: tuple[str, ...], target: str, setting: str
) -> None:
    assert parse_spec(spec) == (sources, target, setting)
    protocol = protocol_named(spec)
    assert protocol.counts == {name: SCENE_SETS[name].splits for name in (*sources, target)}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnist-cityscapes", "mnist is no set of driving scenes"),
        ("gta5-usps", "usps is no set of driving scenes"),
        ("camvid_day-cityscapes", "cityscapes has other classes than camvid_day"),
        ("gta5-cityscapes@22", "unknown class setting '22'; its domains share 19, 16, 13"),
        ("synthia-cityscapes@full", "unknown class setting 'full'; its domains share 19, 16, 13, 22"),
        ("synthia-cityscapes@", "unknown class setting ''"),
    ],
)
def test_what_has_no_classes_in_common_is_refused(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_spec(spec)


def test_the_sets_are_known_with_their_published_counts() -> None:
    assert set(SCENE_SETS) < set(known_domains())
    printed = {"gta5": (24_966,), "synthia": (9_400,), "cityscapes": (2_975, 500)}
    printed |= {"camvid_day": (305, 171), "camvid_dusk": (62, 62)}
    assert {name: tuple(published(name).splits.values()) for name in SCENE_SETS} == printed
    assert ("gta5/images",) in needed("gta5")
    names = {protocol.name for protocol in known_protocols()}
    assert {"gta5-cityscapes", "synthia-cityscapes", "synthia-cityscapes@13", "camvid_dusk-camvid_day"} < names
