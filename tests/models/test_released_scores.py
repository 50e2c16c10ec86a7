"""Published networks taken whole, what makes their scores too: our networks' scores against the publishers' own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from published_segmentation import PublishedDRN, PublishedERFNet, PublishedFCN8s
from segmentation_networks import images, make_narrow
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dynconv.data.scenes.label_maps import CITYSCAPES_13, CITYSCAPES_16, CITYSCAPES_19
from dynconv.methods import Imported, ImportedConfig
from dynconv.models import Network, SegmentationHead, build
from dynconv.models.released_scores import load_scores

OF_ERFNET = (*CITYSCAPES_19, "ignore")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    make_narrow(monkeypatch)


def trained(network: nn.Module) -> nn.Module:
    """As training leaves one: statistics, scales and biases of its own; our layout of memory, so that the same
    arithmetic is done."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.Conv2d) and isinstance(network, PublishedFCN8s):
            nn.init.kaiming_normal_(layer.weight)
    return network.eval().to(memory_format=torch.channels_last)


def written(state: dict[str, Tensor], folder: Path) -> str:
    path = folder / "published.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    return str(path)


def imported(
    backbone: str, weights: str, names: Sequence[str], classes: Sequence[str]
) -> tuple[Network, SegmentationHead]:
    network = build(backbone, num_classes=len(classes), weights=weights, with_scores=True)
    network.features.eval()
    head = network.make_head()
    load_scores(head, network.scores, names, classes)
    return network, head


def pictures(height: int = 64, width: int = 96) -> Tensor:
    return images(2, height, width).to(memory_format=torch.channels_last)


@torch.no_grad()
def test_the_whole_erfnet_scores_to_the_bit_as_the_published_one(tmp_path: Path) -> None:
    published = trained(PublishedERFNet())
    path = written(published.state_dict(), tmp_path)
    network, head = imported("erfnet", path, OF_ERFNET, OF_ERFNET)
    expected = published(pictures())
    assert torch.equal(head(network.features(pictures())), expected) and expected.std() > 0.01
    # With fewer classes the sums may be in another order.
    network, head = imported("erfnet", path, OF_ERFNET, CITYSCAPES_16)
    chosen = expected[:, [OF_ERFNET.index(name) for name in CITYSCAPES_16]]
    torch.testing.assert_close(head(network.features(pictures())), chosen)
    left_out = "left out: encoder.output_conv.weight, encoder.output_conv.bias"
    assert network.notice == f"--weights {tmp_path / 'published.pth'}: {left_out}"


@torch.no_grad()
def test_erfnets_encoder_takes_the_scores_of_its_first_phase(tmp_path: Path) -> None:
    published = trained(PublishedERFNet())
    state = published.state_dict()
    for kept in (state, {name: value for name, value in state.items() if name.startswith("encoder.")}):
        network, head = imported("erfnet-encoder", written(kept, tmp_path), OF_ERFNET, OF_ERFNET)
        assert torch.equal(head(network.features(pictures())), published(pictures(), only_encode=True))
        # Whether the encoder has learnt on since, no file tells.
        assert (network.notice is not None) is (kept is state)
        assert kept is not state or "encoder.output_conv fits an encoder of ERFNet's first phase" in network.notice
    reversed_names = OF_ERFNET[::-1]
    network, head = imported("erfnet-encoder", written(state, tmp_path), reversed_names, OF_ERFNET)
    assert torch.equal(head.score.weight, state["encoder.output_conv.weight"].flip(0))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["DRN's", "CyCADA's"])
def test_drn_26_scores_as_the_published_ones(kind: str, tmp_path: Path) -> None:
    published = trained(PublishedDRN())
    state = published.state_dict()
    if kind == "CyCADA's":
        children = ("conv1", "bn1", "relu", *(f"layer{level}" for level in range(1, 9)))
        state = {
            f"{children[int(name.split('.')[1])]}.{name.split('.', 2)[2]}": value
            for name, value in state.items()
            if name.startswith("base.")
        } | {"fc.weight": state["seg.weight"], "fc.bias": state["seg.bias"]}
    network, head = imported("drn26", written(state, tmp_path), CITYSCAPES_19, CITYSCAPES_13)
    places = [CITYSCAPES_19.index(name) for name in CITYSCAPES_13]
    low = published.seg(published.base(pictures()))[:, places]
    maps = network.features(pictures())
    torch.testing.assert_close(head.low(maps), low)
    theirs = published(pictures())[:, places]
    # Its transposed convolution fades to zero in the outermost four pixels, in all classes alike.
    inside = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(head(maps)[inside], theirs[inside])
    assert torch.equal(head(maps).argmax(1), theirs.argmax(1)) and len(theirs.argmax(1).unique()) > 1
    if kind == "CyCADA's":
        # It upsamples from corner to corner, ours and DRN's own by pixels' areas.
        cornered = interpolate(low, scale_factor=8, mode="bilinear", align_corners=True)
        assert not torch.allclose(head(maps), cornered, atol=1e-3)
        assert network.notice is None


@torch.no_grad()
def test_fcn_8s_scores_as_cycadas(tmp_path: Path) -> None:
    published = trained(PublishedFCN8s())
    network, head = imported("fcn8s", written(published.state_dict(), tmp_path), CITYSCAPES_19, CITYSCAPES_16)
    expected = published(pictures())[:, [CITYSCAPES_19.index(name) for name in CITYSCAPES_16]]
    torch.testing.assert_close(head(network.features(pictures())), expected)
    assert expected.std() > 0.1
    assert str(network.notice).endswith("left out: upscore2.w, upscore_pool4.w, upscore8.w")


def test_a_vgg16_without_skips_gives_its_linear_layer_and_leaves_these_at_zero(tmp_path: Path) -> None:
    published = PublishedFCN8s(4)
    linear = {
        f"classifier.{place}.{part}": getattr(published.vgg_head[place], part).detach().squeeze()
        for place in (3, 6)
        for part in ("weight", "bias")
    }
    first = published.vgg_head[0]
    linear |= {"classifier.0.weight": first.weight.detach().flatten(1), "classifier.0.bias": first.bias.detach()}
    state = {f"features.{name}": value for name, value in published.vgg.state_dict().items()} | linear
    path = tmp_path / "vgg16.pth"
    torch.save(state, path)
    network, head = imported("fcn8s", str(path), "abcd", "db")
    assert set(network.scores) == {"score.weight", "score.bias"} and network.notice is None
    assert torch.equal(head.score.weight[..., 0, 0], linear["classifier.6.weight"][[3, 1]])
    assert not head.score_pool3.weight.any() and not head.score_pool4.bias.any()
    whole = Imported(ImportedConfig(backbone="fcn8s", weights=str(path), weight_classes=tuple("abcd")), num_classes=2)
    whole.check_classes("db")
    assert "the file has no score_pool3, score_pool4, whose part of the scores stays zero" in str(whole.notice)


def test_a_classifier_of_whole_images_is_taken_too(tmp_path: Path) -> None:
    whole = build("lenet-small", num_classes=4)
    classifier = whole.make_head()
    for layer in ("fc", "classifier"):
        state = whole.features.state_dict() | {f"{layer}.{k}": v for k, v in classifier.state_dict().items()}
        _, head = imported("lenet-small", written(state, tmp_path), ("a", "b", "c", "d"), ("c", "a"))
        assert torch.equal(head.weight, classifier.weight[[2, 0]]) and torch.equal(head.bias, classifier.bias[[2, 0]])


def test_without_being_asked_scores_are_left_out_as_ever(tmp_path: Path) -> None:
    network = build("erfnet", num_classes=5, weights=written(PublishedERFNet().state_dict(), tmp_path))
    assert not network.scores and "the network's own scores are learnt anew" in str(network.notice)


@pytest.mark.parametrize(
    ("backbone", "drop", "message"),
    [
        ("erfnet", "decoder.output_conv", "holds no layer of scores that ERFNet has a place for: expected "
                                          "decoder.output_conv.weight and decoder.output_conv.bias, among its names"),
        ("erfnet", "decoder.output_conv.bias", "expected decoder.output_conv.bias, among its names"),
        ("erfnet-encoder", "encoder.output_conv", "ERFNetEncoder has a place for: expected encoder.output_conv.w"),
    ],
)  # fmt: skip
def test_a_file_without_such_layers_is_refused(backbone: str, drop: str, message: str, tmp_path: Path) -> None:
    state = {name: value for name, value in PublishedERFNet(5).state_dict().items() if not name.startswith(drop)}
    with pytest.raises(ValueError, match=message):
        build(backbone, num_classes=5, weights=written(state, tmp_path), with_scores=True)


def test_scores_of_other_numbers_and_widths_are_refused() -> None:
    head = nn.Linear(6, 2)
    scores = {"weight": torch.zeros(3, 6), "bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"2 are named \(a, b\), and weight in the file, \(3, 6\), scores 3; name"):
        load_scores(head, scores, ("a", "b"), ("a", "b"))
    with pytest.raises(ValueError, match=r"scores' weight of 2 classes is \(2, 5\), and the backbone's is \(2, 6\)"):
        load_scores(head, scores | {"weight": torch.zeros(3, 5)}, ("a", "b", "c"), ("a", "b"))
