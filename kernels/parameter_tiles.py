"""Blocks of the fused parameter gradient and its split over programs, chosen from sizes alone: nothing is timed."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import triton

from dynconv.kernels.tiles import PROGRAMS_WANTED

# Bases of one launch: for each, a program keeps a float32 sum and the basis' own tile in registers.
MAX_BASES = 8


class ParameterTile(NamedTuple):
    """Output channels, input channels and pixels of a block, warps, pipeline depth, bases, least compute capability.

    `bases` is the most that it carries beside W0 and s without a spill.
    """

    rows: int
    columns: int
    pixels: int
    warps: int
    stages: int
    bases: int
    capability: int = 80


# By kind of arithmetic, widest first; the last one of each suits any sizes. bench/compile_kernels.py holds that none
# spills on sm_80, sm_90 and sm_100, and that each fits shared memory. Blocks of pixels need not fit small maps: rows
# beyond the sample are not read, and these kernels wait for memory and for the contraction, not for the matrix unit.
_FLOAT32 = (
    ParameterTile(64, 64, 8, warps=8, stages=3, bases=1),
    ParameterTile(64, 32, 8, warps=8, stages=3, bases=4),
    ParameterTile(32, 32, 8, warps=8, stages=3, bases=8),
    ParameterTile(16, 16, 32, warps=4, stages=3, bases=8),
)
TILES = {
    "half": (
        # mma.sync (sm_80) has its operands in registers too, and spills.
        ParameterTile(128, 128, 64, warps=8, stages=3, bases=0, capability=90),
        ParameterTile(128, 64, 64, warps=8, stages=3, bases=1, capability=90),
        # On sm_80 it spills with 4 stages.
        ParameterTile(64, 64, 64, warps=8, stages=3, bases=4),
        ParameterTile(64, 32, 64, warps=8, stages=3, bases=8),
        ParameterTile(64, 16, 64, warps=4, stages=3, bases=8),
        ParameterTile(16, 16, 64, warps=2, stages=3, bases=8),
    ),
    "tf32": (
        ParameterTile(128, 64, 32, warps=8, stages=3, bases=0),
        # With 32 pixels it spills.
        ParameterTile(64, 64, 16, warps=8, stages=3, bases=4),
        # With 8 bases it spills on sm_100.
        ParameterTile(64, 32, 32, warps=8, stages=3, bases=4),
        ParameterTile(64, 16, 32, warps=8, stages=3, bases=8),
        ParameterTile(16, 16, 32, warps=4, stages=3, bases=8),
    ),
    # Fused multiply-adds keep a whole block's operands in registers.
    "float32": _FLOAT32,
    "ragged float32": _FLOAT32,
    # Loaded element by element, each with an address of its own: (64, 64) spills with 4 bases.
    "ragged": (
        ParameterTile(64, 32, 32, warps=8, stages=2, bases=4),
        ParameterTile(64, 16, 32, warps=8, stages=2, bases=8),
        ParameterTile(16, 16, 32, warps=4, stages=2, bases=8),
    ),
}


class Split(NamedTuple):
    """How the pixels of a batch are dealt out: `chunks` of a sample, `blocks` of a chunk, `items` chunks a program."""

    chunks: int
    blocks: int
    items: int
    programs: int


def choose_parameter_tile(kind: str, outputs: int, inputs: int, bases: int, capability: int) -> ParameterTile:
    """The widest tile that carries `bases`, no wider than the channels of a group need."""
    rows, columns = (max(16, triton.next_power_of_2(channels)) for channels in (outputs, inputs))
    carrying = [tile for tile in TILES[kind] if tile.capability <= capability and tile.bases >= bases]
    fitting = (tile for tile in carrying if tile.rows <= rows and tile.columns <= columns)
    return next(fitting, carrying[-1])


# Estimates in units of one block's loads, 64 pixels of 64 + 64 half channels: 16 KiB, which a multiprocessor gets from
# L2 in 690 cycles (5.5 TB/s over 132 of them at 1.75 GHz). Contracting a product of 64 x 64 takes two multiply-adds an
# element and 100 cycles for each of the K bases and W0, and 150 to add up dpi across the program.
_CONTRACTION, _CONTRACTION_EACH = 0.2, 0.15
# Filling the pipeline, and writing a float32 tile (16 KiB, which is then read and added again) for each of these.
_PROGRAM, _PROGRAM_EACH = 4.0, 2.0
_MOST_CHUNKS = 16


@lru_cache(maxsize=4096)
def choose_split(
    tiles: int, batch: int, blocks: int, contractions: int, multiprocessors: int = PROGRAMS_WANTED
) -> Split:
    """The split of a launch of `tiles` programs over `batch` samples of `blocks` blocks of pixels that ends first.

    `contractions` counts what each product is contracted with: the bases, and one for W0 and s. Few tiles (one, for 64
    channels and a 1x1 basis) are dealt to many programs by samples and, where these are few or many-pixelled, by
    chunks of a sample. The count of multiprocessors is an H200's on any device, so that results do not depend on it.
    """
    best: tuple[float, Split] | None = None
    chunk = 1
    while chunk <= min(blocks, _MOST_CHUNKS):
        chunk_blocks = triton.cdiv(blocks, chunk)
        items = batch * triton.cdiv(blocks, chunk_blocks)
        work = chunk_blocks + _CONTRACTION + _CONTRACTION_EACH * contractions
        for waves in (1, 2, 3, 4):
            share = triton.cdiv(items, max(1, min(items, waves * multiprocessors // tiles)))
            programs = triton.cdiv(items, share)
            rounds = triton.cdiv(tiles * programs, multiprocessors)
            overhead = _PROGRAM + _PROGRAM_EACH * contractions * (programs > 1)
            time = rounds * (share * work + overhead)
            if best is None or time < best[0]:
                best = time, Split(triton.cdiv(blocks, chunk_blocks), chunk_blocks, share, programs)
        chunk *= 2
    if best is None:
        raise ValueError(f"choose_split needs at least one block of pixels; got {blocks}.")
    return best[1]


def shipped_parameter_tiles(kind: str, capability: int) -> list[ParameterTile]:
    """Every tile that `choose_parameter_tile` can return on a device of that capability, widest first."""
    return [tile for tile in TILES[kind] if tile.capability <= capability]
