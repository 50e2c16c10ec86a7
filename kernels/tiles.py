"""Block sizes of the implicit GEMMs of `dynamic_conv2d`, chosen from sizes alone: nothing is timed at a first call."""

from __future__ import annotations

from typing import NamedTuple

import triton


class Tile(NamedTuple):
    """Rows, columns and reduction of a block, warps per program, pipeline depth, the least compute capability.

    ``samples``: those that a program of the form "shared" works on.
    """

    rows: int
    columns: int
    reduction: int
    warps: int
    stages: int
    capability: int = 80
    samples: int = 1


# By form of the kernel and kind of arithmetic, widest first. bench/compile_kernels.py holds that none spills on sm_80,
# sm_90 and sm_100, and that each fits shared memory: 227 KiB a program from sm_90 on, and 99 KiB below, for sm_86 and
# sm_89 share sm_80's.
# "linear": two accumulators, one weight. "mixed": up to MOST_MIXED weights for one product. "one sample": a weight per
# sample. "shared": as "mixed", with an accumulator per sample.
TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "linear": {
        "half": (
            # Two float32 accumulators take 128 registers a thread; mma.sync (sm_80) has its operands there too, and
            # spills. With a reduction of 64 and 3 stages it spills on sm_100.
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
    },
    "mixed": {
        "half": (
            # With four bases 136 KiB of shared memory.
            Tile(128, 128, 32, warps=8, stages=4, capability=90),
            Tile(128, 64, 32, warps=8, stages=4),
            # With a reduction of 64 four bases take 96 KiB of shared memory: two programs a multiprocessor, not four.
            Tile(64, 64, 32, warps=4, stages=3),
            Tile(64, 32, 32, warps=4, stages=3),
        ),
        "tf32": (
            Tile(128, 64, 16, warps=8, stages=3),
            Tile(64, 32, 16, warps=4, stages=3),
        ),
        "float32": (Tile(64, 64, 8, warps=8, stages=3),),
        "ragged": (Tile(64, 32, 16, warps=4, stages=2),),
        "ragged float32": (Tile(64, 32, 8, warps=4, stages=2),),
    },
    "one sample": {
        "half": (
            Tile(128, 128, 64, warps=8, stages=3, capability=90),
            Tile(128, 64, 64, warps=8, stages=3),
            Tile(64, 64, 64, warps=4, stages=3),
            # For groups of up to 32 channels, and for problems that give no tile enough programs.
            Tile(64, 64, 32, warps=4, stages=4),
        ),
        "tf32": (
            Tile(128, 64, 16, warps=8, stages=3),
            Tile(64, 64, 16, warps=4, stages=3),
        ),
        "float32": (Tile(64, 64, 8, warps=8, stages=3),),
        "ragged": (Tile(64, 32, 16, warps=4, stages=2),),
        "ragged float32": (Tile(64, 64, 8, warps=8, stages=3),),
    },
    "shared": {
        "half": (
            # Eight samples fit sm_90's forward (246 registers) but spill in dx, and at batch 64, 512 channels and 7x7
            # pixels leave it 64 programs for 132 multiprocessors.
            Tile(64, 64, 32, warps=8, stages=2, capability=90, samples=4),
            Tile(64, 64, 32, warps=8, stages=2, samples=2),
        ),
        "tf32": (Tile(64, 32, 16, warps=8, stages=2, samples=2),),
        "float32": (Tile(64, 32, 8, warps=8, stages=2, samples=2),),
        "ragged": (Tile(64, 32, 16, warps=8, stages=2, samples=2),),
        "ragged float32": (Tile(64, 32, 8, warps=8, stages=2, samples=2),),
    },
}
# Bases whose blocks are in flight at once: with eight, two stages of the form "mixed" take 82 KiB of sm_80's 99.
MOST_MIXED = {"linear": 0, "mixed": 8, "one sample": 0, "shared": 4}
# Up to this many bases the form "mixed" has all its stages, beyond it two.
DEEP_MIXED = 4
# Left to itself ptxas stops at 128 or 168 registers a thread, for occupancy, and spills 8 to 24 bytes.
REGISTERS = 255
# The multiprocessors of an H100 or H200: fewer programs leave some of them idle (A100: 108, B200: 148).
PROGRAMS_WANTED = 132


def choose_tile(
    kind: str,
    rows: int,
    columns: int,
    reduction: int,
    groups: int,
    capability: int,
    *,
    form: str = "linear",
    pieces: int = 1,
    bases: int = 0,
) -> Tile:
    """The widest tile, no wider than the columns need, that gives nine multiprocessors in ten a program.

    ``rows`` are those of each of ``pieces`` that no tile spans: one for the form "linear", samples for the others.
    Where no tile gives as many programs, the smallest of those that are 64 columns wide, or as wide as is needed. In
    the linear form the block of the reduction shrinks to the channels of a group; the others have 32 or fewer, but for
    those that are not chosen for so few channels.
    """
    for tile in _suitable(kind, columns, reduction, capability, form, rows if pieces > 1 else None):
        blocks = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) * groups
        # 128 programs for 132 multiprocessors (four samples of 64 and 64 of 512 columns each) idle less than the next
        # tile would read in addition.
        if blocks * triton.cdiv(pieces, tile.samples) >= 0.9 * PROGRAMS_WANTED:
            break
    return _fit(tile, max(16, triton.next_power_of_2(reduction)), form, bases)


def shipped_tiles(kind: str, capability: int, form: str = "linear", bases: int = 0) -> list[Tile]:
    """Every tile that `choose_tile` can return on a device of that capability, each once."""
    tiles = [tile for tile in TILES[form][kind] if tile.capability <= capability]
    return list(dict.fromkeys(_fit(tile, reduction, form, bases) for tile in tiles for reduction in (64, 32, 16)))


def tiles_to_time(
    kind: str, columns: int, reduction: int, capability: int, *, form: str = "linear", bases: int = 0
) -> list[Tile]:
    """Every tile that `choose_tile` can return for these columns and this reduction, whatever the rows."""
    limits = (None,) if form == "linear" else (None, 1, *{tile.rows: None for tile in TILES[form][kind]})
    tiles = [tile for rows in limits for tile in _suitable(kind, columns, reduction, capability, form, rows)]
    return list(dict.fromkeys(_fit(tile, max(16, triton.next_power_of_2(reduction)), form, bases) for tile in tiles))


def _suitable(kind: str, columns: int, reduction: int, capability: int, form: str, rows: int | None) -> list[Tile]:
    """The tiles that may be chosen, widest first; ``rows`` are those of a piece, None where tiles span pieces."""
    width = max(16, triton.next_power_of_2(columns))
    tiles = [tile for tile in TILES[form][kind] if tile.capability <= capability]
    tiles = [tile for tile in tiles if tile.columns <= width] or tiles[-1:]
    if rows is not None:
        # 49 pixels in 128 rows would be 62 % padding.
        tiles = [tile for tile in tiles if tile.rows < 2 * rows] or tiles[-1:]
    if form != "linear":
        tiles = [tile for tile in tiles if tile.reduction <= max(32, triton.next_power_of_2(reduction))] or tiles[-1:]
    least = min(64, tiles[0].columns)
    return [tile for tile in tiles if tile.columns >= least]


def _fit(tile: Tile, reduction: int, form: str, bases: int) -> Tile:
    if form != "linear":
        return tile if bases <= DEEP_MIXED else tile._replace(stages=min(2, tile.stages))
    return tile._replace(reduction=min(tile.reduction, reduction))
