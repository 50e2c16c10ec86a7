"""One recipe per table, by name: `dynconv reproduce NAME` trains and prints it."""

from dynconv.recipes import gsda
from dynconv.recipes.base import Recipe, Row
from dynconv.recipes.digits import DRT_DIGITS

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DRT_DIGITS,
        gsda.DIGITS_ABLATION,
        gsda.OFFICE_ABLATION,
        gsda.TABLE_1,
        gsda.TABLE_2,
        gsda.TABLE_3,
        gsda.TABLE_4,
        gsda.PARTIAL,
        gsda.ALPHA,
        gsda.BETA,
        gsda.GROUPS,
    )
}

__all__ = ["RECIPES", "Recipe", "Row"]
