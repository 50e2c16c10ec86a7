"""Images per class of published image sets, by domain, in the sorted order of their class folders."""

from __future__ import annotations

# Counted from the complete set; the sums are the published 2817, 498 and 795.
OFFICE31 = {
    "amazon": (
        *(92, 82, 72, 82, 36, 94, 91, 97, 97, 81, 99, 100, 100, 98, 100, 99),
        *(100, 94, 96, 95, 93, 100, 98, 98, 90, 75, 100, 99, 99, 96, 64),
    ),
    "dslr": (
        *(12, 21, 24, 12, 16, 12, 13, 14, 15, 15, 13, 10, 24, 16, 31, 22),
        *(12, 8, 10, 10, 13, 15, 23, 18, 10, 7, 18, 26, 21, 22, 15),
    ),
    "webcam": (
        *(29, 21, 28, 12, 16, 31, 40, 18, 21, 19, 27, 27, 30, 19, 30, 43),
        *(30, 27, 28, 32, 16, 20, 30, 27, 40, 11, 25, 30, 24, 23, 21),
    ),
}
# The sums are the published 152397 and 55388.
VISDA2017 = {
    "train": (14309, 7365, 16640, 12800, 9512, 14240, 17360, 12160, 10371, 11680, 16000, 9960),
    "validation": (3646, 3475, 4690, 10401, 4691, 2075, 5796, 4000, 4549, 2281, 4236, 5548),
}
# dog, elephant, giraffe, guitar, horse, house, person; the sums are the published 2048, 2344, 1670 and 3929.
PACS = {
    "art_painting": (379, 255, 285, 184, 201, 295, 449),
    "cartoon": (389, 457, 346, 135, 324, 288, 405),
    "photo": (189, 202, 182, 186, 199, 280, 432),
    "sketch": (772, 740, 753, 608, 816, 80, 160),
}
