"""Fine-tuning: which network of another run's checkpoint a method begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv.methods import (
    ADDA,
    GAM,
    METHODS,
    ADDAConfig,
    CalibratorConfig,
    GAMConfig,
    Gaussian,
    GaussianConfig,
    MCDConfig,
    Method,
    MethodConfig,
    SourceOnlyConfig,
    TargetOnly,
    TargetOnlyConfig,
)
from dynconv.methods.source_first import Started, network_of
from dynconv.models.weights import weights_left_out

CLASSES = 3


def changed(method: Method) -> Method:
    """Every weight and statistic another, so that none is taken for another's."""
    generator = torch.Generator().manual_seed(0)
    for value in method.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator))
    return method


def written(method: Method, name: str, file: Path, **config: Any) -> str:
    """The path of what a run of `method` would write, as far as a start looks at it."""
    torch.save({"method": method.state_dict(), "classes": ["a", "b", "c"], "config": {"method": name, **config}}, file)
    return str(file)


def parts(method: Method, encoder: str, heads: str) -> dict[str, Tensor]:
    state = method.state_dict()
    named = {
        f"features.{name.removeprefix(encoder)}": value for name, value in state.items() if name.startswith(encoder)
    }
    return named | {
        f"heads.{name.removeprefix(heads)}": value for name, value in state.items() if name.startswith(heads)
    }


def same(method: Method, expected: dict[str, Tensor]) -> bool:
    state = method.state_dict()
    own = {name: value for name, value in state.items() if name.startswith(("features.", "heads."))}
    return own.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in own.items())


@pytest.mark.parametrize(
    ("name", "config", "encoder", "heads"),
    [
        ("gam", GAMConfig(), "features.target.", "target_heads."),
        ("adda", ADDAConfig(), "features.target.", "heads."),
        ("adda", ADDAConfig(weight_sharing="shared"), "features.", "heads."),
        ("source-only", SourceOnlyConfig(), "features.", "heads."),
        ("gaussian", GaussianConfig(), "features.", "heads."),
    ],
)
def test_fine_tuning_begins_with_the_network_that_judges_target_images(
    name: str, config: MethodConfig, encoder: str, heads: str, tmp_path: Path
) -> None:
    method = METHODS[name](config, CLASSES)
    expected = parts(changed(method).eval(), encoder, heads)
    assert expected
    made = TargetOnly(TargetOnlyConfig(source_checkpoint=written(method, name, tmp_path / "last.pt")), CLASSES)
    assert same(made, expected)
    images = torch.randn(2, 3, made.image_size, made.image_size)
    with torch.no_grad(), method.evaluating_domain("target"):
        assert torch.equal(made.eval().predict(images), method.predict(images))


@pytest.mark.parametrize(("name", "config"), [("gam", GAMConfig()), ("adda", ADDAConfig())])
def test_what_adapts_begins_with_the_sources_network(name: str, config: MethodConfig, tmp_path: Path) -> None:
    method = METHODS[name](config, CLASSES)
    checkpoint = written(changed(method), name, tmp_path / "last.pt")
    expected = parts(method, "features.source.", "heads.")
    assert same(Gaussian(GaussianConfig(source_checkpoint=checkpoint), CLASSES), expected)
    again = ADDA(ADDAConfig(source_checkpoint=checkpoint), CLASSES).state_dict()
    for which in ("source", "target"):
        found = {key: value for key, value in again.items() if key.startswith(f"features.{which}.")}
        assert found and all(
            torch.equal(value, expected[key.replace(f".{which}.", ".", 1)]) for key, value in found.items()
        )


def test_what_adapts_does_not_begin_with_a_network_matched_to_a_target(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    checkpoint = written(
        Gaussian(GaussianConfig(), CLASSES), "gaussian", file, **{"gaussian.source_checkpoint": "S.pt"}
    )
    kinds = {name: kind for name, kind in METHODS.items() if issubclass(kind, Started) and kind.starts_as == "source"}
    assert {"adda", "gam", "calibrator", "gaussian"} <= kinds.keys()
    for kind in kinds.values():
        with pytest.raises(ValueError) as told:
            kind(kind.config_class(source_checkpoint=checkpoint), CLASSES)
        assert str(told.value) == (
            f"source_checkpoint {file} is of a run of gaussian, whose network is matched to its target and no longer "
            "the source's; give the run that it was matched from (its checkpoint S.pt)"
        )
    # That learnt the source itself, in the steps before the matching.
    whole = written(Gaussian(GaussianConfig(), CLASSES), "gaussian", file)
    with pytest.raises(ValueError, match="and no longer the source's; give one of source-only"):
        GAM(GAMConfig(source_checkpoint=whole), CLASSES)


@pytest.mark.parametrize(("name", "config"), [("calibrator", CalibratorConfig()), ("mcd", MCDConfig())])
def test_fine_tuning_does_not_begin_with_a_part_of_what_judges_target_images(
    name: str, config: MethodConfig, tmp_path: Path
) -> None:
    method = METHODS[name](config, CLASSES)
    file = tmp_path / "last.pt"
    for before, start in (
        ({}, "one of source-only"),
        ({f"{name}.source_checkpoint": "S.pt"}, "the run that it started from (its checkpoint S.pt)"),
    ):
        with pytest.raises(ValueError) as told:
            TargetOnly(TargetOnlyConfig(source_checkpoint=written(method, name, file, **before)), CLASSES)
        assert str(told.value) == (
            f"source_checkpoint {file} is of a run of {name}, which judges the target's images by more than features "
            f"and one classifier, and these alone would be taken; give {start}"
        )


def test_the_classifier_of_a_calibrated_network_is_the_sources(tmp_path: Path) -> None:
    method = changed(METHODS["calibrator"](CalibratorConfig(), CLASSES))
    checkpoint = written(method, "calibrator", tmp_path / "last.pt")
    made = Gaussian(GaussianConfig(backbone="dtn", source_checkpoint=checkpoint), CLASSES)
    assert same(made, parts(method, "features.", "heads."))


def test_a_network_is_plain_unless_it_predicts_in_a_way_of_its_own() -> None:
    assert {name for name, kind in METHODS.items() if not kind.is_plain()} == {"calibrator", "mcd", "m3sda", "drt"}


def test_a_few_labels_are_the_configurations_own() -> None:
    assert (TargetOnlyConfig().few_labels, TargetOnlyConfig(labelled_images=7).few_labels) == (0, 7)
    assert all(kind.config_class().few_labels == 0 for kind in METHODS.values())


def test_networks_are_named_as_where_one_serves_both_domains() -> None:
    own = {"features.source.a": 1, "features.target.a": 2, "heads.0.b": 3, "target_heads.0.b": 4, "discriminators.c": 5}
    state = {name: torch.tensor(value) for name, value in own.items()}
    assert network_of(state, "source") == {"features.a": 1, "heads.0.b": 3}
    assert network_of(state, "target") == {"features.a": 2, "heads.0.b": 4}
    # A layer may be called like a domain.
    layer = {"features.norm.source.weight": torch.tensor(6), "heads.0.b": torch.tensor(3)}
    assert network_of(layer, "source") == network_of(layer, "target") == layer


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    def refused(method: Method, name: str, **fields: Any) -> str:
        checkpoint = written(method, name, tmp_path / "last.pt")
        with pytest.raises(ValueError) as told:
            TargetOnly(TargetOnlyConfig(source_checkpoint=checkpoint, **fields), CLASSES)
        return str(told.value)

    whole = GAM(GAMConfig(), CLASSES)
    assert "a run of gam with another network: " in refused(whole, "gam", norm="none")
    told = refused(TargetOnly(TargetOnlyConfig(), CLASSES), "target-only")
    assert "last.pt is of a run of target-only, which has seen the target's labels" in told
    with pytest.raises(ValueError, match="none.pt: there is no such file"):
        TargetOnly(TargetOnlyConfig(source_checkpoint=str(tmp_path / "none.pt")), CLASSES)
    with pytest.raises(ValueError, match="labelled_images: expected at least 0, got -1"):
        TargetOnlyConfig(labelled_images=-1)
    made = TargetOnly(TargetOnlyConfig(source_checkpoint=written(whole, "gam", tmp_path / "last.pt")), CLASSES)
    with pytest.raises(ValueError, match="its classes are a, b, c, and this run's are a, c, b; give"):
        made.check_classes(["a", "c", "b"])


def test_a_run_that_is_opened_again_does_not_need_the_checkpoint(tmp_path: Path) -> None:
    with weights_left_out():
        made = TargetOnly(TargetOnlyConfig(source_checkpoint=str(tmp_path / "gone.pt")), CLASSES)
    made.check_classes(["whatever"] * CLASSES)
    assert set(made.optimisers()) == {"features", "heads"}
