"""Every results table of the four papers as printed, the baselines that we do not run included.

One place for these figures: recipes are held against them, and reports cite them.
"""

from __future__ import annotations

from dynconv.recipes.published import calibrator, drt, gam, gsda
from dynconv.recipes.published.base import PublishedRow, PublishedTable

TABLES: dict[str, PublishedTable] = {
    table.name: table for module in (drt, calibrator, gsda, gam) for table in module.TABLES
}

__all__ = ["TABLES", "PublishedRow", "PublishedTable"]
