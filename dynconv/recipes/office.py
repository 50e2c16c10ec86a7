"""What the recipes on Office-31 have in common."""

from __future__ import annotations

# Said with every table of sets without a test split of their own.
SPLIT = "; trained on 64 % of each source, for a fifth is its test split here and a fifth of the rest its validation"
# Every ordered pair of its three domains, in the order of the papers' tables.
OFFICE = {
    "office31:amazon-webcam": "A → W",
    "office31:dslr-webcam": "D → W",
    "office31:webcam-dslr": "W → D",
    "office31:amazon-dslr": "A → D",
    "office31:dslr-amazon": "D → A",
    "office31:webcam-amazon": "W → A",
}
