"""A run that another one starts from must not have seen the labels of that one's target."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynconv.engine.config import TrainConfig
from dynconv.engine.run_folder import RunFolder
from dynconv.engine.source_run import check_source_run
from dynconv.engine.train import make_fabric, prepare
from dynconv.methods import ADDAConfig, SourceOnly, SourceOnlyConfig

Make = Callable[..., TrainConfig]
CLASSES = ["class0", "class1", "class2"]


@pytest.fixture
def adapting(make_config: Make, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run that takes the network of one that was trained on data of other keywords."""

    def make(trained_on: dict[str, object], **data: object) -> TrainConfig:
        trained = make_config(tmp_path / "source", "source-only", SourceOnlyConfig(), **trained_on)
        path = tmp_path / "last.pt"
        state = SourceOnly(SourceOnlyConfig(), len(CLASSES)).state_dict()
        torch.save({"classes": CLASSES, "config": trained.identity(), "method": state}, path)
        return make_config(tmp_path / "adda", "adda", ADDAConfig(source_checkpoint=str(path)), **data)

    return make


def known(protocol: str) -> dict[str, object]:
    return {"protocol": protocol, "source": (), "target": None}


def test_a_run_is_refused_whose_start_was_trained_on_its_target(adapting: Make, domains: Path) -> None:
    one, three = f"one={domains / 'one'}", f"other_name={domains / 'three'}"
    config = adapting({"source": (one, three), "target": f"two={domains / 'two'}"})
    root = domains.resolve()
    message = f"last.pt is of a run of source-only with the sources {root / 'one'}, {root / 'three'}, and "
    message += f"{root / 'three'} is this run's target: that run has seen its labels; give one of a run on"
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(config, RunFolder(config.out), make_fabric(config.run))
    # The same with the link of another folder.
    (config.out.parent / "link").symlink_to(domains / "three")
    run = dataclasses.replace(config.run, target=f"linked={config.out.parent / 'link'}")
    with pytest.raises(ValueError, match="that run has seen its labels"):
        check_source_run(dataclasses.replace(config, run=run))


@pytest.mark.parametrize(
    ("trained_on", "data", "fits"),
    [
        ("usps+svhn-mnist_m", "mnist-usps", False),
        ("usps-mnist", "mnist-usps@adda", False),
        ("mnist-svhn", "mnist-usps", True),
        ("mnist-usps", "mnist-usps", True),
        ("office31:webcam-dslr", "office31:amazon-webcam", False),
        ("office31:amazon-dslr", "office31:amazon-webcam", True),
    ],
)
def test_known_domains_are_told_by_name(adapting: Make, trained_on: str, data: str, fits: bool) -> None:
    config = adapting(known(trained_on), **known(data))
    if fits:
        check_source_run(config)
    else:
        with pytest.raises(ValueError, match=r"(usps|office31:webcam) is this run's target: that run has seen"):
            check_source_run(config)


def test_known_domains_among_own_ones_count_and_what_cannot_be_told_passes(adapting: Make, domains: Path) -> None:
    own = {"source": ("embedded:optical", f"one={domains / 'one'}"), "target": f"two={domains / 'two'}"}
    with pytest.raises(ValueError, match="embedded:optical is this run's target"):
        check_source_run(adapting(own, **known("embedded:plain-optical")))
    check_source_run(adapting({"source": (f"usps={domains / 'one'}",)}, **known("mnist-usps")))
    config = adapting(own)
    torch.save({"config": {"method": "source-only"}}, config.options.source_checkpoint)
    check_source_run(config)
