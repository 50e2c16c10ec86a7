"""One recipe per table, by name: `dynconv reproduce NAME` trains and prints it."""

from dynconv.recipes import (
    baselines,
    calibrator,
    calibrator_ablations,
    calibrator_small,
    drt,
    drt_domainnet,
    drt_images,
    drt_small,
    gsda,
    gsda_choices,
    gsda_scratch,
    segmentation,
    segmentation_small,
)
from dynconv.recipes.base import Recipe, Row
from dynconv.recipes.published import TABLES, PublishedRow, PublishedTable

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        baselines.DIGITS,
        drt_small.EMBEDDED,
        drt_small.DIGITS,
        drt_small.RESIDUALS,
        drt_small.BASES,
        drt_small.LOSSES,
        drt_small.ORACLES,
        drt_small.OFFICE,
        drt.SINGLE_DIGITS,
        drt.DIGIT_FIVE,
        drt.DIGIT_FIVE_ORACLES,
        drt_domainnet.RESIDUALS,
        drt_domainnet.BASES,
        drt_domainnet.LOSSES,
        drt_domainnet.STATE_OF_THE_ART,
        drt_domainnet.SINGLE,
        drt_domainnet.ORACLES,
        drt_images.OFFICE_RESIDUALS,
        drt_images.OFFICE_BASES,
        drt_images.OFFICE_SINGLE,
        drt_images.PACS_RESIDUALS,
        calibrator_small.DIGITS,
        *calibrator_ablations.ABLATIONS,
        calibrator.TABLE_1,
        calibrator.RELEASED_MNIST_USPS,
        calibrator.RELEASED_USPS_MNIST,
        calibrator.RELEASED_SVHN_MNIST,
        gsda_scratch.DIGITS_ABLATION,
        gsda_scratch.OFFICE_ABLATION,
        gsda.TABLE_1,
        gsda.TABLE_2,
        gsda.TABLE_3,
        gsda.TABLE_4,
        gsda.PARTIAL,
        gsda_choices.ALPHA,
        gsda_choices.BETA,
        gsda_choices.GROUPS,
        gsda_choices.HIERARCHY,
        gsda_choices.SAMPLERS,
        gsda_choices.CHOICES,
        segmentation.TABLE_2,
        segmentation.TABLE_2_STYLISED,
        segmentation.TABLE_3,
        segmentation.TABLE_4,
        segmentation_small.CAMVID,
    )
}

__all__ = ["RECIPES", "TABLES", "PublishedRow", "PublishedTable", "Recipe", "Row"]
