"""Blocks of the products of `feature_gradient_norms`, chosen from sizes alone: nothing is timed at a first call."""

from __future__ import annotations

import triton

from dynconv.kernels.tiles import PROGRAMS_WANTED, Tile

# By product and kind of arithmetic (dynconv.kernels.layout.arithmetic), widest first. bench/compile_kernels.py holds
# that none spills on sm_80, sm_90 and sm_100, and that each fits shared memory.
# "product": rows are samples, which "outer" reduces over.
TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "product": {
        "half": (
            # With 128 columns act(a) and act'(a) * dropout * w spill 96 bytes on sm_90. Of a stage 8 KiB are weights:
            # four keep 3 MB on their way to 132 multiprocessors, near the 4 MB that its memory answers in 800 ns.
            Tile(128, 64, 64, warps=8, stages=4),
            Tile(64, 64, 64, warps=4, stages=4),
            # With 128 columns of 4 warps a thread loads its bias alone, 2 bytes at a time.
            Tile(32, 64, 64, warps=4, stages=4),
            Tile(16, 64, 64, warps=4, stages=4),
        ),
        "tf32": (
            Tile(128, 64, 32, warps=8, stages=4),
            Tile(64, 64, 32, warps=4, stages=4),
            Tile(32, 64, 32, warps=4, stages=4),
            Tile(16, 64, 32, warps=4, stages=4),
        ),
        # Fused multiply-adds keep a whole block's operands in registers: a reduction of 16 takes 254.
        "float32": (
            Tile(64, 64, 8, warps=4, stages=3),
            Tile(32, 64, 8, warps=2, stages=3),
            Tile(16, 64, 8, warps=2, stages=3),
        ),
        "ragged": (
            Tile(64, 64, 16, warps=8, stages=2),
            Tile(16, 64, 16, warps=4, stages=2),
        ),
        "ragged float32": (
            Tile(64, 64, 8, warps=8, stages=2),
            Tile(16, 64, 8, warps=4, stages=2),
        ),
    },
    "outer": {
        "half": (
            Tile(128, 128, 32, warps=8, stages=3, capability=90),
            Tile(128, 64, 32, warps=8, stages=3),
            Tile(64, 64, 32, warps=4, stages=3),
        ),
        "tf32": (
            Tile(128, 64, 16, warps=8, stages=3),
            Tile(64, 64, 16, warps=4, stages=3),
        ),
        "float32": (Tile(64, 64, 8, warps=4, stages=3),),
        "ragged": (Tile(64, 32, 16, warps=4, stages=2),),
        "ragged float32": (Tile(64, 64, 8, warps=8, stages=2),),
    },
}
# What a block of a weight costs, in rows multiplied with it: on an H200 a bfloat16 weight takes as long to come from
# memory (4.8 TB/s) as 165 rows take on the matrix unit (790 TFLOP/s), a float32 one as 28 on the fused multiply-adds
# (67 TFLOP/s). From L2, where a second block of rows finds it, about a third of that.
WEIGHT_COST = {"half": 56, "tf32": 56, "float32": 9, "ragged": 56, "ragged float32": 9}


def choose_bank_tile(form: str, kind: str, rows: int, columns: int, num: int, capability: int) -> Tile:
    """The tile whose blocks of rows cost least, as wide as leaves nine multiprocessors in ten a program.

    ``form`` is "product" or "outer"; ``rows`` and ``columns`` are those of each of ``num`` results.
    """
    tiles = shipped_bank_tiles(form, kind, capability)
    if form == "product":
        cost = {tile: triton.cdiv(rows, tile.rows) * (tile.rows + WEIGHT_COST[kind]) for tile in tiles}
        # Of equals the first, which has the most rows.
        cheapest = min(tiles, key=cost.__getitem__).rows
        tiles = [tile for tile in tiles if tile.rows == cheapest]
    for tile in tiles:
        if triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) * num >= 0.9 * PROGRAMS_WANTED:
            break
    return tile


def shipped_bank_tiles(form: str, kind: str, capability: int) -> list[Tile]:
    """Every tile that `choose_bank_tile` can return on a device of that capability, widest first."""
    return [tile for tile in TILES[form][kind] if tile.capability <= capability]
