"""The papers' figures are typed in right: their sums come out, and what the texts say of them does."""

from __future__ import annotations

import pytest

from dynconv.recipes.published import TABLES, PublishedRow, PublishedTable
from dynconv.recipes.published.base import parse_rows

# Rows whose printed average is not the mean of their figures; each is said in the table's notes.
MISPRINTED = {
    ("drt-1", "static"): 38.6,
    ("drt-2", "MCD"): 38.6,
    ("drt-4", "MCD"): 38.6,
    ("drt-3", "M3SDA-beta"): 87.66,
    ("gsda-2", "RTN"): 81.5,
    ("gsda-2", "ADDA"): 82.8,
    ("gsda-4", "GSDA"): 82.5,
}
AVERAGED = [
    pytest.param(table, row, id=f"{table.name} {row.label}")
    for table in TABLES.values()
    for row in table.rows
    if row.average is not None
]


@pytest.mark.parametrize(("table", "row"), AVERAGED)
def test_a_printed_average_is_the_mean_of_its_figures_but_for_the_known_misprints(
    table: PublishedTable, row: PublishedRow
) -> None:
    assert row.average is not None and row.mean is not None
    decimals = len(str(row.average).partition(".")[2])
    half = 0.5 * 10**-decimals + 1e-9
    mean = MISPRINTED.get((table.name, row.label))
    if mean is None:
        assert row.mean == pytest.approx(row.average, abs=half)
    else:
        assert abs(row.mean - row.average) > half
        assert row.mean == pytest.approx(mean, abs=half) and f"{mean}" in table.notes


def figure(table: str, label: str, column: str) -> float:
    found = TABLES[table]
    value = found.row(label).values[found.columns.index(column)]
    assert value is not None
    return value


def average(table: str, label: str) -> float:
    value = TABLES[table].row(label).average
    assert value is not None
    return value


def test_the_gains_that_the_texts_speak_of_are_those_of_the_tables() -> None:
    # DRT's text says 10.8 for the combination, as the notes do.
    gains = [average("drt-1", kind) - average("drt-1", "static") for kind in ("Channel Attention", "Combination")]
    assert [*gains, average("drt-1", "Subspace Routing") - 38.5] == pytest.approx([9.3, 11.1, 11.2])
    losses = {
        loss: average("drt-2", f"{loss} + DRT") - average("drt-2", loss) for loss in ("ADDA", "MCD", "M3SDA-beta")
    }
    assert list(losses.values()) == pytest.approx([12.7, 11.2, 6.2])
    assert figure("drt-3", "DRT", "→ mm") - figure("drt-3", "CMSS", "→ mm") == pytest.approx(5.73)
    best = {label: average("drt-4", label) - average("drt-5-best", label) for label in ("DRT", "MCD")}
    assert best == pytest.approx({"DRT": 8.2, "MCD": 6.3})
    assert average("drt-4", "DRT+ST") - average("drt-4", "LtC-MSDA") == pytest.approx(3.9)
    whole = ("calibrator-2-overall", "fwIoU")
    assert figure(whole[0], "Ours", whole[1]) - figure(whole[0], "CyCADA", whole[1]) == pytest.approx(2.7)
    gained = {label: figure("gam-4", label, "IoU") for label in ("Source only", "GAM (full)")}
    assert gained["GAM (full)"] - gained["Source only"] == pytest.approx(17.07)
    assert figure("gam-4", "Curriculum", "IoU") - figure("gam-4", "Curriculum (no transfer)", "IoU") == pytest.approx(
        11.6
    )


def test_what_two_tables_print_is_the_same_in_both() -> None:
    multi = TABLES["drt-4"]
    for label in ("Source Only", "ADDA", "MCD", "M3SDA-beta"):
        assert TABLES["drt-2"].row(label) == multi.row(label)
    static, routed = TABLES["drt-1"].row("static"), TABLES["drt-1"].row("Subspace Routing")
    assert (static.values, static.spread) == (multi.row("MCD").values, multi.row("MCD").spread)
    assert (routed.values, routed.average_spread) == (multi.row("DRT").values, multi.row("DRT").average_spread)
    assert TABLES["drt-bases"].row("K = 4").values == (multi.row("DRT").average,)
    assert TABLES["gsda-1"].rows[-1].values == TABLES["gsda-2"].row("GSDA").values
    for row in TABLES["calibrator-2"].rows:
        assert row.average == figure("calibrator-2-overall", row.label, "mIoU")
    cycada = (figure("gam-3", "C: CyCADA", column) for column in TABLES["gam-3"].columns)
    overall = (figure("calibrator-2-overall", "CyCADA", column) for column in ("pixel accuracy", "fwIoU", "mIoU"))
    assert tuple(cycada) == tuple(overall)


def test_the_calibrators_share_of_the_parameters_is_the_printed_one() -> None:
    for row in TABLES["calibrator-parameters"].rows:
        classifier, calibrator, share = (value or 0.0 for value in row.values)
        assert 100 * calibrator / classifier == pytest.approx(share, abs=0.01)


def test_every_table_says_whose_it_is_and_best_is_never_below_the_mean_of_the_sources() -> None:
    for name, table in TABLES.items():
        assert table.name == name and table.paper and table.caption and table.metric
        assert any(name.startswith(paper) for paper in ("drt-", "calibrator-", "gsda-", "gam-"))
        for row in table.rows:
            assert all(value is None or 0 <= value <= 100 for value in row.values)
    for mean, best in zip(TABLES["drt-5"].rows, TABLES["drt-5-best"].rows, strict=True):
        assert all((one or 0) < (other or 0) for one, other in zip(mean.values, best.values, strict=True))


def test_a_line_gives_figures_spreads_gaps_and_the_average() -> None:
    (row,) = parse_rows("ours + ST | 1.5±0.25 - 2 | 1.75±0.5")
    assert row == PublishedRow("ours + ST", (1.5, None, 2.0), (0.25, None, None), 1.75, 0.5)
    assert row.mean is None
    (plain,) = parse_rows("ours | 1 2")
    assert plain == PublishedRow("ours", (1.0, 2.0)) and plain.mean == 1.5


def test_a_missing_figure_and_a_double_label_are_refused() -> None:
    def table(text: str) -> PublishedTable:
        return PublishedTable("one", "paper", "caption", ("a", "b"), parse_rows(text), "accuracy")

    with pytest.raises(ValueError, match="one: expected 2 figures in the row 'ours', got 3"):
        table("ours | 1 2 3")
    with pytest.raises(ValueError, match="different labels, got .*'ours', 'ours'"):
        table("ours | 1 2\nours | 3 4")
    with pytest.raises(ValueError, match="one: expected a row of ours; got 'theirs'"):
        table("ours | 1 2").row("theirs")
