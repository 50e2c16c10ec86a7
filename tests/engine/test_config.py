from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynconv.engine.config import TrainConfig, differences, load_config
from dynconv.engine.run_options import RunOptions, absolute_paths
from dynconv.methods import METHODS
from dynconv.methods.checks import check_types


def config(method: str = "drt", **run: Any) -> TrainConfig:
    return TrainConfig(method, RunOptions(**{"protocol": "embedded:optical", **run}), METHODS[method].config_class())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "mnist-usps", "source": ("a=b",), "target": "c=d"}, ["--protocol", "--source"]),
        ({"protocol": "mnist-usps", "target": "c=d"}, ["--protocol", "--target"]),
        ({"source": ("a=b",)}, ["--target is missing"]),
        ({"target": "a=b"}, ["--source is missing"]),
        ({"epochs": 1, "max_steps": 1}, ["--epochs 1", "--max-steps 1"]),
        ({"batch_size": 0}, ["--batch-size", "0", "at least 1"]),
        ({"max_steps": -3}, ["--max-steps", "-3"]),
        ({"eval_every": 0}, ["--eval-every"]),
        ({"checkpoint_every": 0}, ["--checkpoint-every"]),
        ({"source_limit": 0}, ["--source-limit"]),
        ({"seed": -1}, ["--seed", "-1"]),
        ({"devices": 0}, ["--devices", "0"]),
        ({"accumulate": 0}, ["--accumulate", "0"]),
        ({"workers": 0}, ["--workers", "0"]),
        ({"prefetch": -1}, ["--prefetch", "-1"]),
        ({"clip_norm": 0.0}, ["--clip-norm", "0.0"]),
        ({"clip_norm": float("inf")}, ["--clip-norm", "inf"]),
    ],
)
def test_contradictions_and_impossible_numbers_are_named(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        RunOptions(**options)
    for word in words:
        assert word in str(error.value)


def test_no_data_named_says_what_to_give() -> None:
    with pytest.raises(ValueError, match="--protocol"):
        _ = RunOptions().task
    assert RunOptions(source=("a=x", "b=y"), target="c=z").task == "a+b-c"


@pytest.mark.parametrize("method", list(METHODS))
def test_a_configuration_read_from_its_yaml_is_the_same(method: str, tmp_path: Path) -> None:
    written = config(method, source_limit=100, data_root=tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(written.to_yaml())
    read = load_config(path)
    assert read == written
    assert read.hash == written.hash


def test_a_whole_number_is_the_float_that_the_yaml_brings_back(tmp_path: Path) -> None:
    own: dict[str, Any] = {"lr": 1, "residual_lr_factor": 5, "discrepancy_weight": 50}
    run = RunOptions(protocol="embedded:optical", clip_norm=2, pseudo_labels_from=None)
    written = TrainConfig("drt", run, METHODS["drt"].config_class(**own))
    path = tmp_path / "config.yaml"
    path.write_text(written.to_yaml())
    read = load_config(path)
    assert read.hash == written.hash and read.identity() == written.identity()
    assert [type(getattr(written.options, name)) for name in own] == [float] * 3
    assert type(written.run.clip_norm) is float
    confidence = RunOptions(pseudo_labels_from=tmp_path, pseudo_confidence=0).pseudo_confidence
    assert type(confidence) is float


def test_whole_numbers_in_a_tuple_of_floats_become_floats() -> None:
    @dataclasses.dataclass(frozen=True)
    class Weights:
        of: tuple[float, ...] = (1, 2)

    made = Weights()
    check_types(made)
    assert [type(each) for each in made.of] == [float, float]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{: :\n- x", "config.yaml is not valid YAML: "),
        ("method: nope\n", "config.yaml: unknown method 'nope'; known: "),
        ("- 1\n", "config.yaml is not a run's configuration: expected a mapping"),
    ],
)
def test_a_damaged_run_of_pseudo_labels_is_named_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        config(pseudo_labels_from=tmp_path)
    message = str(error.value)
    assert message.startswith(f"--pseudo-labels-from {tmp_path}: ") and words in message and "\n" not in message
    assert message.endswith("; put that run's config.yaml back as it was, or give another finished run")


def test_own_domains_survive_the_yaml_and_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = absolute_paths(RunOptions(source=("a=x", "b=y"), target="c=z", data_root=Path("data")))
    assert run.source == (f"a={tmp_path}/x", f"b={tmp_path}/y")
    assert run.target == f"c={tmp_path}/z"
    assert run.data_root == tmp_path / "data"
    path = tmp_path / "config.yaml"
    written = TrainConfig("mcd", run, METHODS["mcd"].config_class())
    path.write_text(written.to_yaml())
    assert load_config(path).run == written.run


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "dtr"}, ["unknown method 'dtr'", "drt"]),
        ({"method": None}, ["'method'"]),
        ({"batchsize": 3}, ["unknown field 'batchsize'", "batch_size"]),
        ({"batch_size": "three"}, ["batch_size", "int", "three"]),
        ({"batch_size": True}, ["batch_size", "int", "True"]),
        ({"batch_size": 0}, ["--batch-size"]),
        ({"device": "tpu"}, ["device", "cpu", "tpu"]),
        ({"source": "one"}, ["source", "one"]),
        ({"drt": {"lamda": 1}}, ["unknown field 'lamda'"]),
        ({"batch_size": "1e1"}, ["batch_size", "int", "1e1"]),
        ({"drt": {"lr": "nan"}}, ["lr", "finite"]),
        ({"drt": {"lr": "fast"}}, ["lr", "float", "fast"]),
        ({"drt": {"basis_kernel_size": 3}}, ["basis_kernel_size"]),
        ({"drt": [1]}, ["mapping"]),
    ],
)
def test_a_bad_config_file_is_refused_with_the_field(change: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config().to_dict(), **change}))
    with pytest.raises(ValueError) as error:
        load_config(path)
    for word in words:
        assert word in str(error.value)


def test_a_number_that_yaml_takes_for_a_string_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "method: mcd\nprotocol: embedded:optical\nmcd:\n  lr: 1e-3\n  lr_milestones: [5e-1]\n  lr_schedule: step\n"
    )
    own = load_config(path).options
    assert (own.lr, own.lr_milestones) == (1e-3, (0.5,))


@pytest.mark.parametrize("text", ["- 1", "a: [", "\tx: 1"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="config.yaml"):
        load_config(path)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.yaml"):
        load_config(tmp_path / "none.yaml")


def test_the_hash_follows_what_decides_the_results_and_nothing_else() -> None:
    same = [{"device": "cpu"}, {"log_every": 1}, {"checkpoint_every": 1}, {"out": Path("x")}, {"data_root": Path("y")}]
    other = [
        {"augmentation": "flip"},
        {"seed": 1},
        {"batch_size": 2},
        {"max_steps": 3},
        {"eval_every": 4},
        {"precision": "bf16-mixed"},
    ]
    assert {config(**change).hash for change in same} == {config().hash}
    hashes = {config(**change).hash for change in other} | {config("mcd").hash, config().hash}
    own = dataclasses.replace(METHODS["drt"].config_class(), lr=0.125)
    hashes.add(TrainConfig("drt", config().run, own).hash)
    assert len(hashes) == len(other) + 3


@dataclasses.dataclass(frozen=True)
class Older:
    lr: float = 0.1
    levels: tuple[int, ...] = (1, 2)
    backbone: str = "lenet-small"
    weights: str = "none"
    image_norm: str = "auto"


@dataclasses.dataclass(frozen=True)
class Newer(Older):
    added: float | None = 0.5


@dataclasses.dataclass(frozen=True)
class Changed(Older):
    lr: float = 0.2


def of(options: object) -> TrainConfig:
    return TrainConfig("drt", RunOptions(protocol="embedded:optical"), options)


def test_a_field_that_is_added_leaves_the_hashes_of_older_runs_alone() -> None:
    older, newer = of(Older(lr=0.3)), of(Newer(lr=0.3))
    assert older.hash == newer.hash
    assert newer.mismatches(older.identity()) == []
    other = of(Newer(lr=0.3, added=None))
    assert other.hash != newer.hash
    assert other.mismatches(older.identity()) == ["drt.added: 0.5 -> None"]
    # One that was taken away again.
    assert older.mismatches(newer.identity()) == ["drt.added: 0.5 -> None"]


def test_a_configuration_written_before_a_field_was_there_is_the_same_run(tmp_path: Path) -> None:
    written = config("gsda", seed=3)
    plain = written.to_dict()
    del plain["augmentation"], plain["gsda"]["beta"], plain["gsda"]["num_groups"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain))
    assert load_config(path).hash == written.hash


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "gam: {taps: [3, scores]}",
            "taps expects str, got 3, which YAML takes for no text; write it in quotes, as '3' is",
        ),
        ("gam: {weights: off}", "weights expects str, got False, which YAML takes for no text; write it in quotes"),
        (
            "protocol: 12",
            "protocol expects str | None, got 12, which YAML takes for no text; write it in quotes, as '12'",
        ),
        ("gam: {taps: 3}", "taps expects tuple, got 3$"),
        ("max_steps: many", "max_steps expects int | None, got 'many'$"),
        ("gam: {norm: [batch]}", "norm must be one of batch, none, got"),
    ],
)
def test_a_number_for_a_text_is_told_to_be_quoted(entry: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"method: gam\n{entry}\n")
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        load_config(path)
    path.write_text("method: gam\ngam: {taps: ['3', scores]}\n")
    assert load_config(path).options.taps == ("3", "scores")


def test_a_default_that_was_changed_is_seen_in_what_was_written_before(tmp_path: Path) -> None:
    before, now = of(Older()), of(Changed())
    assert now.mismatches(before.identity()) == ["drt.lr: 0.1 -> 0.2"]
    # As read from its config.yaml, which has every field.
    assert of(Changed(lr=0.1)).hash != now.hash
    assert of(Changed(lr=0.1)).mismatches(before.identity()) == []


def test_the_method_gives_the_batch_size_and_the_configuration_holds_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS["mcd"], "default_batch_size", 48)
    default = config("mcd")
    assert (default.run.batch_size, default.batch_size, default.to_dict()["batch_size"]) == (48, 48, 48)
    assert default.hash == config("mcd", batch_size=48).hash != config("mcd", batch_size=64).hash
    path = tmp_path / "config.yaml"
    path.write_text(default.to_yaml())
    # What a configuration means does not change with the default.
    monkeypatch.setattr(METHODS["mcd"], "default_batch_size", 50)
    assert load_config(path).batch_size == 48


@pytest.mark.parametrize(
    ("backbone", "weights", "augmentation", "expected"),
    [
        ("lenet-small", "auto", "auto", (32, "half", "none")),
        ("lenet-m3sda", "auto", "flip", (32, "half", "flip")),
        ("resnet-small", "auto", "auto", (64, "half", "crop-flip")),
        ("resnet50", "auto", "auto", (224, "imagenet", "crop-flip")),
        ("resnet101", "some.pth", "none", (224, "imagenet", "none")),
        ("resnet50", "none", "auto", (224, "half", "crop-flip")),
    ],
)
def test_the_backbone_decides_size_normalisation_and_augmentation(
    backbone: str, weights: str, augmentation: str, expected: tuple[object, ...]
) -> None:
    own = METHODS["source-only"].config_class(backbone=backbone, weights=weights)
    made = TrainConfig("source-only", RunOptions(protocol="a-b", augmentation=augmentation), own)
    size, normalisation, *_ = made.network_input
    assert (size, normalisation, made.augmentation) == expected


SCENES = RunOptions(protocol="camvid_day-camvid_dusk")


def of_pixels(method: str = "source-only", backbone: str = "erfnet-encoder", **fields: Any) -> TrainConfig:
    patch = {"patch_size": fields.pop("patch_size")} if "patch_size" in fields else {}
    own = METHODS[method].config_class(backbone=backbone, **patch)
    return TrainConfig(method, dataclasses.replace(SCENES, **fields), own)


def test_a_patch_that_windows_and_crops_hold_is_no_matter() -> None:
    assert of_pixels("calibrator", eval_window=(48, 64), crop_size=(48, 48), patch_size=48).options.patch_size == 48


def test_of_images_in_another_style_their_folders_name_counts_and_not_its_place() -> None:
    one, other = (of_pixels(stylised=Path(place) / "gta5_stylised") for place in ("/here", "/there"))
    assert one.hash == other.hash and one.mismatches(other.identity()) == []
    again = of_pixels(stylised=Path("/here/more"))
    assert len({one.hash, again.hash, of_pixels().hash}) == 3
    assert again.mismatches(one.identity()) == ["stylised: 'gta5_stylised' -> 'more'"]
    assert one.to_dict()["stylised"] == str(Path("/here/gta5_stylised"))


def test_a_batch_of_scenes_is_small_whatever_the_method() -> None:
    assert of_pixels("adda").batch_size == of_pixels().batch_size == 6
    assert of_pixels("adda", batch_size=3).batch_size == 3
    assert of_pixels("adda", "lenet-small").batch_size == METHODS["adda"].default_batch_size


def test_scenes_are_mirrored_and_cropped_where_a_size_of_crops_is_given() -> None:
    assert of_pixels().augmentation == "flip"
    assert of_pixels(crop_size=[96, 128]).augmentation == "crop-flip"
    assert of_pixels(crop_size=[96, 128]).run.crop_size == (96, 128)
    assert of_pixels(augmentation="none").augmentation == "none"


def test_the_sizes_of_scenes_come_back_from_a_file(tmp_path: Path) -> None:
    made = of_pixels(image_size=(240, 320), crop_size=(96, 128), eval_window=(120, 160), full_resolution=True)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(made.to_dict()))
    read = load_config(path)
    assert (read.run, read.hash) == (made.run, made.hash)
    assert made.hash != of_pixels(image_size=(240, 320)).hash


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"backbone": "lenet-small", "crop_size": (8, 8)}, "--crop-size 8 8: lenet-small labels whole images"),
        ({"backbone": "lenet-small", "full_resolution": True}, "--full-resolution True: lenet-small labels whole"),
        ({"ten_crop": True}, "--ten-crop True: erfnet-encoder labels every pixel and has no use for it"),
        ({"classes": "common"}, "contradict|--classes"),
        ({"method": "drt"}, "backbone: erfnet-encoder labels every pixel, and DRT .* source-only.*calibrator"),
        ({"validator": "deep-embedded-validation"}, "--validator deep-embedded-validation weights whole images"),
        ({"augmentation": "crop-flip"}, "give the size of the crops with --crop-size H W"),
        ({"crop_size": (100, 128)}, "--crop-size 100 128: erfnet-encoder takes multiples of 8"),
        ({"backbone": "fcn8s", "eval_window": (40, 64)}, "--eval-window 40 64: fcn8s takes multiples of 32"),
        (
            {"method": "calibrator", "crop_size": (96, 128), "eval_window": (40, 64), "patch_size": 48},
            "patch_size: expected at most 40 with --eval-window 40 64, got 48",
        ),
        (
            {"method": "calibrator", "crop_size": (40, 64), "patch_size": 48},
            "patch_size: expected at most 40 with --crop-size 40 64, got 48",
        ),
        ({"image_size": (0, 64)}, "--image-size: expected a height and a width above 0, got 0 64"),
    ],
)
def test_options_of_the_other_kind_of_labels_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        of_pixels(**fields)


def test_ten_crops_are_for_images_that_have_a_margin() -> None:
    with pytest.raises(ValueError, match="--ten-crop is for images of 224 x 224; lenet-small takes 32 x 32"):
        config("source-only", ten_crop=True)
    own = METHODS["source-only"].config_class(backbone="resnet50")
    assert TrainConfig("source-only", RunOptions(protocol="a-b", ten_crop=True), own).run.ten_crop


def test_the_default_folder_is_named_after_task_method_and_seed() -> None:
    assert config(seed=3).out == Path("runs/embedded-optical_drt_seed3")
    assert config(out=Path("x")).out == Path("x")
    name = config(protocol="office31:amazon+dslr-webcam@pda").out.name
    assert name == "office31-amazon+dslr-webcam@pda_drt_seed0"


def test_differences_name_each_field_once() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 2 -> 3", "c: None -> 4"]
