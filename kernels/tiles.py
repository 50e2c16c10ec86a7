"""Block sizes of the implicit GEMM of `dynamic_conv2d`, chosen from sizes alone: nothing is timed at a first call."""

from __future__ import annotations

from typing import NamedTuple

import triton


class Tile(NamedTuple):
    """Rows, columns and reduction of a block, warps per program, pipeline depth, and the least compute capability."""

    rows: int
    columns: int
    reduction: int
    warps: int
    stages: int
    capability: int = 80


# By kind of arithmetic, widest first. bench/compile_kernels.py holds that none spills on sm_80, sm_90 and sm_100, and
# that each fits shared memory: 227 KiB a program from sm_90 on, and 99 KiB below, for sm_86 and sm_89 share sm_80's.
TILES = {
    "half": (
        # Two float32 accumulators take 128 registers a thread; mma.sync (sm_80) has its operands there too, and spills.
        # With a reduction of 64 and 3 stages it spills on sm_100.
        Tile(128, 128, 32, warps=8, stages=4, capability=90),
        # With a reduction of 64 and 3 stages dy*s, which stages s too, takes 112 KiB on sm_80.
        Tile(128, 64, 32, warps=8, stages=4),
        Tile(64, 64, 64, warps=4, stages=3),
        Tile(64, 32, 64, warps=4, stages=3),
        Tile(64, 16, 64, warps=4, stages=3),
    ),
    "tf32": (
        Tile(128, 64, 16, warps=8, stages=3),
        Tile(64, 64, 16, warps=4, stages=3),
        Tile(64, 32, 16, warps=4, stages=3),
        Tile(64, 16, 16, warps=4, stages=3),
    ),
    # Fused multiply-adds keep a whole block's operands in registers: with a reduction of 16 it spills.
    "float32": (
        Tile(64, 64, 8, warps=8, stages=3),
        Tile(64, 16, 8, warps=4, stages=3),
    ),
    # Channels or strides that are no multiple of 16 are loaded element by element, each with an address of its own:
    # wider blocks spill up to 2 KiB a thread.
    "ragged": (
        Tile(64, 32, 16, warps=4, stages=2),
        Tile(64, 16, 16, warps=4, stages=2),
    ),
    "ragged float32": (
        Tile(64, 64, 8, warps=8, stages=3),
        Tile(64, 16, 8, warps=4, stages=3),
    ),
}
# Left to itself ptxas stops at 128 or 168 registers a thread, for occupancy, and spills 8 to 24 bytes.
REGISTERS = 255
# The multiprocessors of an H100 or H200: fewer programs leave some of them idle (A100: 108, B200: 148).
PROGRAMS_WANTED = 132


def choose_tile(kind: str, rows: int, columns: int, reduction: int, groups: int, capability: int) -> Tile:
    """The widest tile, no wider than the columns need, that gives every multiprocessor a program.

    Where none does, the smallest of those that are 64 columns wide, or as wide as is needed. The block of the reduction
    shrinks to the channels of a group.
    """
    width = max(16, triton.next_power_of_2(columns))
    tiles = [tile for tile in TILES[kind] if tile.capability <= capability and tile.columns <= width]
    least = min(64, tiles[0].columns)
    for tile in (tile for tile in tiles if tile.columns >= least):
        if triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) * groups >= PROGRAMS_WANTED:
            break
    return _fit(tile, max(16, triton.next_power_of_2(reduction)))


def shipped_tiles(kind: str, capability: int) -> list[Tile]:
    """Every tile that `choose_tile` can return on a device of that capability, each once."""
    tiles = [tile for tile in TILES[kind] if tile.capability <= capability]
    return list(dict.fromkeys(_fit(tile, reduction) for tile in tiles for reduction in (64, 32, 16)))


def _fit(tile: Tile, reduction: int) -> Tile:
    return tile._replace(reduction=min(tile.reduction, reduction))
