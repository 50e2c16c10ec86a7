"""The tiles of the Triton kernels: what is chosen, and that all of it compiles without spills."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton", reason="Triton kernels need triton")

from dynconv.kernels.tiles import DEEP_MIXED, MOST_MIXED, TILES, choose_tile, shipped_tiles  # noqa: E402

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench/compile_kernels.py"
TABLE = ROOT / "bench/results/triton_resources.csv"
ARCHITECTURES = (80, 90, 100)
KINDS = [(form, kind) for form in TILES for kind in TILES[form]]


@pytest.mark.parametrize("capability", ARCHITECTURES)
@pytest.mark.parametrize(("form", "kind"), KINDS)
def test_every_choice_is_a_shipped_tile_and_every_width_is_chosen(form: str, kind: str, capability: int) -> None:
    for bases in {0, MOST_MIXED[form]} if form == "mixed" else {0}:
        chosen = {
            choose_tile(kind, rows, columns, reduction, groups, capability, form=form, pieces=pieces, bases=bases)
            for rows in (1, 49, 3136, 50_000, 200_704)
            for columns in (1, 3, 16, 17, 33, 64, 65, 128, 512, 2048)
            for reduction in (1, 3, 16, 17, 64, 512)
            for groups in (1, 32)
            for pieces in ((1,) if form == "linear" else (1, 64))
        }
        shipped = shipped_tiles(kind, capability, form, bases)
        assert chosen <= set(shipped)
        assert {tile.columns for tile in chosen} == {tile.columns for tile in shipped}


def test_tiles_shrink_until_every_multiprocessor_has_a_program() -> None:
    def blocks(rows: int, columns: int, **options) -> tuple[int, int]:
        return choose_tile("half", rows, columns, 512, 1, 90, **options)[:2]

    assert blocks(200_704, 512) == (128, 128)
    # ResNet's 7x7 stage at batch 64: 25 x 4 programs of (128, 128) would leave a quarter of 132 multiprocessors idle.
    assert blocks(64 * 49, 512) == (128, 64)
    assert blocks(49, 512) == (64, 64)
    assert blocks(200_704, 10) == (64, 16)
    # Tiles of one sample each: 49 pixels fill a tile of 64 rows better than one of 128.
    assert blocks(49, 512, form="mixed", pieces=64) == (64, 64)
    assert blocks(3136, 512, form="mixed", pieces=64) == (128, 128)


def test_many_bases_take_fewer_stages() -> None:
    stages = [choose_tile("half", 3136, 128, 128, 1, 90, form="mixed", pieces=64, bases=k).stages for k in (4, 5)]
    assert stages == [4, 2] and DEEP_MIXED == 4


def test_programs_that_share_a_basis_take_as_many_samples_as_fit() -> None:
    samples = [choose_tile("half", 49, 512, 512, 1, sm, form="shared", pieces=64).samples for sm in ARCHITECTURES]
    assert samples == [2, 4, 4]


def run(*arguments: str) -> list[dict[str, str]]:
    """Rows of the compile table, made by a process of its own: under the interpreter, kernels cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(done.stdout.splitlines(), delimiter="\t"))


def test_a_launch_on_one_channel_compiles() -> None:
    """Triton hands sizes of 1 to a kernel as Python's numbers."""
    rows = run("--sm", "90", "--match", "materialise/elementwise/bf16/weight+scale+4 bases/1024x4/one channel")
    assert [row["launch"] for row in rows] == ["one channel"]


def test_widest_forward_compiles_without_spills_onto_each_generations_matrix_unit() -> None:
    rows = run("--quick", "--match", "forward linear/half/bf16")
    assert {int(row["sm"]): row["matrix_unit"] for row in rows} == {80: "mma", 90: "wgmma", 100: "tcgen05"}
    assert all(row["spill_bytes"] == "0" for row in rows)


def test_a_weight_for_each_sample_is_loaded_by_16_bytes() -> None:
    """The stride between samples' weights is specialised: a thread that did not know it aligned would load singly."""
    rows = run("--quick", "--sm", "90", "--match", "input_gradient materialised/half/bf16")
    assert [row["scalar_loads"] for row in rows] == ["0"]


@pytest.mark.slow
def test_every_shipped_configuration_compiles_without_spills() -> None:
    rows = run()
    assert len(rows) == len(list(script().cases(list(ARCHITECTURES), quick=False)))
    assert all(row["spill_bytes"] == "0" for row in rows)


def test_committed_table_covers_the_shipped_configurations() -> None:
    """A change of tiles without a new table (python bench/compile_kernels.py --csv ...) fails here."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    names = ("kernel", "kind", "dtype", "parts", "tile", "launch", "sm")
    expected = {
        tuple(str(getattr(case, name)) for name in names) for case, _ in script().cases(list(ARCHITECTURES), False)
    }
    assert {tuple(row[name] for name in names) for row in rows} == expected
    assert all(row["spill_bytes"] == "0" for row in rows)
    # Where channels are multiples of 16 each thread loads 16 bytes at a time.
    aligned = [row for row in rows if row["kind"] == "half"]
    assert aligned and all(row["scalar_loads"] == "0" for row in aligned)
    assert any(row["scalar_loads"] != "0" for row in rows if row["kind"] == "ragged")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_kernels", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
