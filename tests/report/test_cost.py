"""`dynconv info --backbone`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from command_line import fails

from dynconv import cli
from dynconv.models.cost import costs_of_kinds
from dynconv.report.cost import papers_claim


def test_the_table_has_a_row_for_each_kind_and_says_where_the_papers_claim_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["info", "--backbone", "lenet-m3sda", "--classes", "10"]) == 0
    text = capsys.readouterr().out
    assert "lenet-m3sda at 32 x 32, with a linear classifier of 10 classes: 0.076 GMAC" in text
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert "parameters; % of the static 31,805,898" in text
    parameters, macs = text.split("multiply-adds (MACs)")
    rows = {line[:19].strip(): line[19:].split() for line in parameters.splitlines() if line.startswith(" ")}
    assert rows["static"] == ["31,805,898"]
    # 64 + 64 + 128 channels from 3, 64 and 64, each with a branch of width 4: 3 + K, 64 + K and 64 + K weights wide.
    added = 4 * (64 * 3 + 64 * 64 + 128 * 64) + 4 * (7 + 68 + 68)
    assert rows["subspace, K = 4"] == [f"{31_805_898 + added:,}", f"{added:,}", "0.2"]
    rows = {line[:19].strip(): line[19:].split() for line in macs.splitlines() if line.startswith(" ")}
    assert rows["subspace, K = 4"] == ["0.031", "0.001", "0.066", "0.098", "2.435", "9.856"]
    assert "subspace, K = 4: 0.098 %, below" in text and "subspace, K = 8: 0.164 %, not below" in text


def test_no_share_is_rounded_across_the_papers_figure() -> None:
    static, *_ = rows = costs_of_kinds("lenet-small")
    dynamic = next(row for row in rows if row.kind == "subspace, K = 4")
    cost = replace(dynamic.cost, static_macs=1_000_000, pooling_macs=4, branch_macs=600, aggregation_macs=399)
    claim = papers_claim([static, dynamic._replace(cost=cost)])
    assert "K = 4: 0.100 %, not below; without the pooling 0.0999 %, below" in claim


def test_json_has_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--backbone", "lenet-small", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["backbone"], facts["image_size"], facts["classes"]) == ("lenet-small", 32, None)
    static, *kinds = facts["kinds"]
    assert static["dynamic"] is None and static["cost"]["added_parameters"] == 0
    assert [kind["kind"] for kind in kinds][1:5] == [f"subspace, K = {k}" for k in (2, 4, 6, 8)]
    for kind in kinds:
        assert kind["cost"]["static_macs"] == static["cost"]["static_macs"]
        assert kind["cost"]["added_macs"]["linear"] >= kind["cost"]["added_macs"]["split"] > 0
    assert kinds[-1]["dynamic"]["residual"] == "combined"


def test_a_network_for_segmentation_is_counted_with_its_head_at_the_size_of_a_scene(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["info", "--backbone", "erfnet-encoder"]) == 0
    text = capsys.readouterr().out
    assert "erfnet-encoder at 512 x 1024, with the head of 19 classes: 21.532 GMAC" in text
    assert "parameters; % of the static 1,876,495" in text
    words = ["info", "--backbone", "erfnet-encoder", "--image-size", "64", "128", "--classes", "11", "--json"]
    assert cli.main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["image_size"], facts["classes"]) == ([64, 128], 11)
    static = facts["kinds"][0]["cost"]
    # A 64th of the places, and eight classes less: 128 products of each at 8 x 16 places.
    assert static["parameters"] == 1_876_495 - 8 * 129
    assert static["static_macs"] == 21_532_377_088 // 64 - 8 * 128 * 8 * 16


def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lenet-small, lenet-m3sda" in fails(capsys, "info", "--backbone", "lenet")
    assert "go with --backbone" in fails(capsys, "info", "--json")
    for words in (["resnet-small"], ["--json", "resnet-small"], ["resnetsmall"]):
        assert fails(capsys, "info", *words).endswith("comes after --backbone; give --backbone resnet-small")
    assert "give --backbone NAME, one of lenet-small, lenet-m3sda" in fails(capsys, "info", "transformer")
    for backbone, size, told in (
        ("fcn8s", "100", "--image-size: expected multiples of 32 for fcn8s, got 100 64"),
        ("dtn", "32", "--image-size: dtn takes images of 32 x 32"),
    ):
        assert told in fails(capsys, "info", "--backbone", backbone, "--image-size", size, "64")
    assert "at least 2, got 1" in fails(capsys, "info", "--backbone", "lenet-small", "--classes", "1")
