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


def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lenet-small, lenet-m3sda" in fails(capsys, "info", "--backbone", "lenet")
    assert "go with --backbone" in fails(capsys, "info", "--json")
    assert "at least 2, got 1" in fails(capsys, "info", "--backbone", "lenet-small", "--classes", "1")
