from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynconv.data import embedded, load_protocol, render
from dynconv.data.embedded import load_embedded


def load(name: str, cache: Path, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    domain = load_embedded(name, cache_dir=cache, image_size=32, channels=3, seed=seed)
    assert domain.test is not None
    return domain.train.images, domain.test.images


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "TRAIN_COUNT", 20)
    monkeypatch.setattr(embedded, "TEST_COUNT", 10)


@pytest.mark.parametrize("style", render.STYLES)
def test_rendering_is_fixed_by_style_part_and_seed(style: str) -> None:
    images, labels = render.render_split(style, "train", 30, 0)
    render._glyph.cache_clear()
    again = render.render_split(style, "train", 30, 0)
    assert np.array_equal(images, again[0]) and np.array_equal(labels, again[1])
    assert not np.array_equal(images, render.render_split(style, "train", 30, 1)[0])
    unseen = render.render_split(style, "test", 30, 0)
    assert not np.array_equal(images, unseen[0]) and not np.array_equal(labels, unseen[1])
    assert np.bincount(labels).tolist() == [3] * 10
    assert images.dtype == np.uint8
    assert images.shape == ((30, 32, 32, 3) if style in ("textured", "coloured") else (30, 32, 32))


def test_training_and_test_fonts_share_no_family() -> None:
    from matplotlib.font_manager import get_font

    def families(part: str) -> set[str]:
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        return {get_font(folder / file).family_name for file in render.FONTS[part]}

    assert len(families("train")) >= 4
    assert len(families("test")) >= 4
    assert not families("train") & families("test")


@pytest.mark.parametrize("font", [*render.FONTS["train"], *render.FONTS["test"]])
def test_every_font_draws_ten_different_digits_inside_the_canvas(font: str) -> None:
    glyphs = np.stack([np.asarray(render._glyph(font, digit)) for digit in range(10)]).astype(int)
    for first in range(10):
        assert glyphs[first].max() > 200
        assert glyphs[first, [0, -1]].max() == glyphs[first, :, [0, -1]].max() == 0
        for second in range(first):
            assert np.abs(glyphs[first] - glyphs[second]).mean() > 3


@pytest.mark.parametrize(("style", "part"), [("plain", "train"), ("plain", "test"), ("inverted", "train")])
def test_labels_name_the_digit_drawn(style: str, part: str) -> None:
    """A nearest neighbour among training fonts reads the digits of another seed: in every class its own comes first."""
    from sklearn.neighbors import KNeighborsClassifier

    images, labels = render.render_split(style, "train", 1000, 0)
    unseen, expected = render.render_split(style, part, 200, 1)
    nearest = KNeighborsClassifier(1).fit(images.reshape(len(images), -1), labels)
    predicted = nearest.predict(unseen.reshape(len(unseen), -1))
    assert [int(np.bincount(predicted[expected == digit]).argmax()) for digit in range(10)] == list(range(10))


@pytest.mark.parametrize("style", ["textured", "coloured"])
def test_a_coloured_style_shows_the_digit_of_its_label(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray[Any, Any]] = []
    draw = render._strokes

    def recorded(*arguments: Any, **options: Any) -> np.ndarray[Any, Any]:
        seen.append(draw(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(render, "_strokes", recorded)
    images, _ = render.render_split(style, "train", 40, 0)
    mask = render._shrink(seen[0]) > 0.5
    values = images.astype(float)
    inside = np.stack([image[m].mean(axis=0) for image, m in zip(values, mask, strict=True)])
    outside = np.stack([image[~m].mean(axis=0) for image, m in zip(values, mask, strict=True)])
    assert float(np.median(np.abs(inside - outside).max(axis=1))) > 40


def test_inverted_strokes_are_dark_on_light_and_thinner_than_plain_ones() -> None:
    plain = render.render_split("plain", "train", 100, 0)[0] > 127
    inverted = render.render_split("inverted", "train", 100, 0)[0] < 127
    assert 0.02 < inverted.mean() < 0.6 * plain.mean()


def test_thinning_leaves_connected_lines_one_pixel_wide() -> None:
    shape = np.zeros((1, 20, 20), dtype=bool)
    shape[0, 3:17, 5:10] = True
    shape[0, 8:12, 5:18] = True
    line = render.thin(shape)
    assert line.any() and not (line & ~shape).any()
    blocks = line[:, 1:, 1:] & line[:, :-1, 1:] & line[:, 1:, :-1] & line[:, :-1, :-1]
    assert not blocks.any(), "no 2 x 2 block is left"
    reached, frontier = set(), [tuple(np.argwhere(line[0])[0])]
    while frontier:
        row, column = frontier.pop()
        if (row, column) not in reached and line[0, row, column]:
            reached.add((row, column))
            frontier += [(row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert len(reached) == line.sum()
    assert np.array_equal(render.thin(line), line)


def thin_pixel_by_pixel(shape: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The rule of Zhang and Suen (1984), P2 to P9 clockwise from above, one pixel after the other."""
    image = np.pad(shape, 1).astype(int)
    changed = True
    while changed:
        changed = False
        for forbidden in (((2, 4, 6), (4, 6, 8)), ((2, 4, 8), (2, 6, 8))):
            removed = []
            for y, x in np.argwhere(image):
                around = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
                p = {number: image[y + dy, x + dx] for number, (dy, dx) in enumerate(around, start=2)}
                ring = [*p.values(), p[2]]
                rises = sum(before < after for before, after in zip(ring, ring[1:], strict=False))
                on_edge = all(p[a] * p[b] * p[c] == 0 for a, b, c in forbidden)
                if 2 <= sum(p.values()) <= 6 and rises == 1 and on_edge:
                    removed.append((y, x))
            for place in removed:
                image[place] = 0
                changed = True
    return image[1:-1, 1:-1].astype(bool)


def test_thinning_follows_the_published_rule_on_ragged_shapes() -> None:
    noise = np.random.default_rng(0).uniform(size=(6, 20, 20))
    shapes = (noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)) / 3 > 0.42
    expected = np.stack([thin_pixel_by_pixel(shape) for shape in shapes])
    assert np.array_equal(render.thin(shapes), expected)


@pytest.mark.usefixtures("few")
def test_a_rendered_domain_comes_from_the_cache_and_survives_its_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = load("coloured", tmp_path)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.delattr(render, "render_split")
        patch.setattr(render, "render_split", None, raising=False)
        assert all(torch.equal(a, b) for a, b in zip(first, load("coloured", tmp_path), strict=True))
    file.write_bytes(content[:-500])
    with caplog.at_level(logging.WARNING):
        again = load("coloured", tmp_path)
    assert "is damaged" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert file.read_bytes() == content


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("change", ["seed", "generator", "matplotlib", "pillow"])
def test_the_caches_key_holds_all_that_the_images_depend_on(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib
    import PIL

    load("plain", tmp_path)
    if change == "generator":
        monkeypatch.setattr(embedded, "GENERATOR_VERSION", embedded.GENERATOR_VERSION + 1)
    elif change != "seed":
        monkeypatch.setattr({"matplotlib": matplotlib, "pillow": PIL}[change], "__version__", "0.0")
    load("plain", tmp_path, seed=1 if change == "seed" else 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_optical_digits_are_divided_once_and_for_all(tmp_path: Path) -> None:
    domain = load_embedded("optical", cache_dir=tmp_path, image_size=8, channels=1)
    assert domain.test is not None
    assert (len(domain.train), len(domain.test)) == (1438, 359)
    assert int(torch.cat([domain.train.images, domain.test.images]).max()) == 255
    assert int(torch.bincount(domain.test.labels).min()) >= 34
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few")
def test_the_five_domains_form_a_protocol(tmp_path: Path) -> None:
    protocol = load_protocol("embedded:textured", cache_dir=tmp_path, source_limit=15, target_limit=5)
    assert [domain.name for domain in protocol.sources] == ["optical", "plain", "coloured", "inverted"]
    assert protocol.target.name == "textured"
    assert [len(domain.train) for domain in (*protocol.sources, protocol.target)] == [15, 15, 15, 15, 5]
    assert {domain.train.images.shape[1:] for domain in (*protocol.sources, protocol.target)} == {(3, 32, 32)}
