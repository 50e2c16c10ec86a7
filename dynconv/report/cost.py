"""What `dynconv info --backbone NAME` prints: the cost of each kind of dynamic convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dynconv.models import NAMES, SEGMENTATION, input_of
from dynconv.models.cost import FORMS, PAPERS_PERCENT, PIXELS, Cost, KindCost
from dynconv.parsing import parse_options

LEGEND = {
    "pool": "the mean over the places of what each branch reads, one addition per element counted as a MAC",
    "branch": "the two linear layers that give pi and s",
    "aggregate": "K |Phi_i| per image: sum_i pi_i Phi_i",
    "one kernel": "pool + branch + aggregate, and |W0| for s W0 where there is a scale: W is formed, then "
    "one convolution",
    "split": "pool + branch + aggregate + P |Phi_i|, the product of the input with the aggregated residual beside the "
    "static convolution (P: places of the output), and Cout P for a scale on its output",
    "linear": "pool + branch + K P (|Phi_i| + Cout): K more convolutions, the form that DRT's release computes",
}
# So that neither table is wider than a terminal of 80 columns; one kind is longer, and takes two lines.
KIND_WIDTH = 18
# Of Cityscapes.
SCENE_CLASSES = 19


@dataclass(frozen=True)
class InfoOptions:
    """Parameters and multiply-adds of a backbone, static and with each kind of dynamic convolution."""

    backbone: Annotated[str, tyro.conf.arg(metavar="NAME", help_behavior_hint="(required)")] = ""
    """One of the backbones, counted at the size of its images. No weights are read or made."""
    classes: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: none, or 19)")] = None
    """Count the head for N classes too: a linear classifier, or what labels every pixel (of 19 classes by default)."""
    image_size: Annotated[
        tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="(default: 512 1024)")
    ] = None
    """Size of the images of a network that labels every pixel."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        if not self.backbone:
            raise ValueError(f"info: all options go with --backbone NAME, one of {', '.join(NAMES)}")
        if self.backbone not in NAMES:
            raise ValueError(f"--backbone: expected one of {', '.join(NAMES)}, got {self.backbone!r}")
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"--classes: expected at least 2, got {self.classes}")
        own = input_of(self.backbone)
        if self.image_size is not None and own.image_size:
            raise ValueError(f"--image-size: {self.backbone} takes images of {own.image_size} x {own.image_size}")
        if any(side < 1 or side % own.multiple for side in self.size):
            given = " ".join(map(str, self.size))
            raise ValueError(f"--image-size: expected multiples of {own.multiple} for {self.backbone}, got {given}")

    @property
    def counted_classes(self) -> int | None:
        """`classes`, or their default."""
        return SCENE_CLASSES if self.classes is None and self.backbone in SEGMENTATION else self.classes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        side = input_of(self.backbone).image_size
        return (side, side) if side else self.image_size or PIXELS


def parse_info(args: Sequence[str]) -> InfoOptions:
    """The options that the words after `dynconv info` describe. SystemExit as in `parse_options`.

    Raises:
        ValueError: A backbone's name, or another word, stands without --backbone before it.
    """
    for before, word in pairwise(("", *args)):
        if before != "--backbone" and (word in NAMES or not (before or word.startswith("-"))):
            meant = [word] if word in NAMES else get_close_matches(word, NAMES, n=1)
            hint = f"--backbone {meant[0]}" if meant else f"--backbone NAME, one of {', '.join(NAMES)}"
            raise ValueError(f"info {word}: a network's name comes after --backbone; give {hint}")
    return parse_options(InfoOptions, "info", args)


def cost_facts(options: InfoOptions, rows: Sequence[KindCost]) -> dict[str, Any]:
    """The rows for JSON: counts, and under `added_macs` the multiply-adds of each form on top of `static_macs`."""
    return {
        "backbone": options.backbone,
        "image_size": input_of(options.backbone).image_size or options.size,
        "classes": options.counted_classes,
        "kinds": [
            {
                "kind": row.kind,
                "dynamic": None if row.dynamic is None else asdict(row.dynamic),
                "cost": row.cost.to_dict(),
            }
            for row in rows
        ],
    }


def cost_table(options: InfoOptions, rows: Sequence[KindCost]) -> Group:
    """One line per kind in a table of parameters and in one of multiply-adds, what the columns count, and how that
    compares with the paper's "less than 0.1 %". No cell is cut on a terminal of 80 columns."""
    static = rows[0].cost
    backbone, classes = options.backbone, options.counted_classes
    kind = "the head" if backbone in SEGMENTATION else "a linear classifier"
    head = "without a classifier" if classes is None else f"with {kind} of {classes} classes"
    size = "{} x {}".format(*options.size)
    heading = f"{backbone} at {size}, {head}: {static.static_macs / 1e9:.3f} GMAC when static"
    parameters = _table(f"parameters; % of the static {static.parameters:,}", "total", "added", "%")
    macs = _table("multiply-adds (MACs) of an image beside the static ones, in % of these", *LEGEND)
    for kind, dynamic, cost in rows:
        if dynamic is None:
            parameters.add_row(kind, f"{cost.parameters:,}")
            continue
        share = f"{100 * cost.added_parameters / static.parameters:.1f}"
        parameters.add_row(kind, f"{cost.parameters:,}", f"{cost.added_parameters:,}", share)
        counts = (cost.pooling_macs, cost.branch_macs, cost.aggregation_macs, *map(cost.added_macs, FORMS))
        macs.add_row(kind, *(f"{_percent(cost, count):.3f}" for count in counts))
    legend = Table.grid(padding=(0, 2, 0, 0))
    legend.add_column(no_wrap=True)
    for name, meaning in LEGEND.items():
        legend.add_row(Text(f"  {name}"), Text(meaning))
    counted = Text("MACs are those of convolutions and linear layers, one image forward; 1 MAC = 2 FLOPs.")
    return Group(Text(heading), parameters, macs, counted, legend, Text(papers_claim(rows)))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("kind", max_width=KIND_WIDTH)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def papers_claim(rows: Sequence[KindCost]) -> str:
    """Which kinds of the paper's (1x1 bases, subspace routing) keep "less than 0.1 %" (DRT, section 3.3), and which do
    not: coefficient generation and residual aggregation over the static network."""
    shares = []
    for kind, dynamic, cost in rows:
        if dynamic is not None and dynamic.residual == "subspace" and dynamic.basis_kernel_size == 1:
            share = _percent(cost, cost.coefficient_macs + cost.aggregation_macs)
            poolless = _percent(cost, cost.branch_macs + cost.aggregation_macs)
            verdict = "below" if share < PAPERS_PERCENT else "not below"
            bare = "below" if poolless < PAPERS_PERCENT else "not below"
            shares.append(f"  {kind}: {_told(share)} %, {verdict}; without the pooling {_told(poolless)} %, {bare}")
    return "\n".join(
        (
            f"DRT, section 3.3: coefficients and aggregation cost less than {PAPERS_PERCENT} % of the "
            "static MACs. Counted:",
            *shares,
        )
    )


def _told(share: float) -> str:
    """With as many digits as it takes to stand on its own side of the paper's figure."""
    digits = 3
    while (float(f"{share:.{digits}f}") < PAPERS_PERCENT) != (share < PAPERS_PERCENT):
        digits += 1
    return f"{share:.{digits}f}"


def _percent(cost: Cost, macs: int) -> float:
    return 100 * macs / cost.static_macs
