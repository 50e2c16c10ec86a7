"""The tiles of the discriminator banks' kernels: what is chosen. That all of it compiles, test_tiles.py holds."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton kernels need triton")

from dynconv.kernels.bank_tiles import TILES, choose_bank_tile, shipped_bank_tiles  # noqa: E402


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("form", "kind"), [(form, kind) for form in TILES for kind in TILES[form]])
def test_every_choice_is_a_shipped_tile_and_every_tile_is_chosen(form: str, kind: str, capability: int) -> None:
    chosen = {
        choose_bank_tile(form, kind, rows, columns, num, capability)
        for rows in (1, 16, 17, 33, 72, 128, 130, 1024)
        for columns in (1, 64, 256, 2048)
        for num in (1, 38, 415)
    }
    assert chosen == set(shipped_bank_tiles(form, kind, capability))


def test_a_tile_holds_every_row_where_that_is_cheapest() -> None:
    """Then each product reads each weight once from memory."""

    def rows(kind: str, samples: int) -> int:
        return choose_bank_tile("product", kind, samples, 1024, 79, 90).rows

    assert [rows("half", samples) for samples in (8, 32, 64, 72, 128)] == [16, 32, 64, 128, 128]
    # Arithmetic counts in float32 without TF32: three tiles of 32 rows multiply 96 where one of 128 would.
    assert rows("float32", 72) == 32
