"""Domains, protocols and the batches drawn from them."""

from dynconv.data.augment import Augmentation
from dynconv.data.base import (
    Domain,
    Protocol,
    Split,
    evaluation_batches,
    source_validation_split,
    supervised_by_target,
    with_pseudo_labels,
)
from dynconv.data.batches import Batch, DomainBatches, SourceBatch, TargetBatch, TargetSelection
from dynconv.data.errors import DataError
from dynconv.data.files import ImageFiles, Skipped
from dynconv.data.normalise import Normalisation, normalise
from dynconv.data.protocols import known_domains, load_domain, load_protocol, parse_spec

__all__ = [
    "Augmentation",
    "Batch",
    "DataError",
    "Domain",
    "DomainBatches",
    "ImageFiles",
    "Normalisation",
    "Protocol",
    "Skipped",
    "SourceBatch",
    "Split",
    "TargetBatch",
    "TargetSelection",
    "evaluation_batches",
    "known_domains",
    "load_domain",
    "load_protocol",
    "normalise",
    "parse_spec",
    "source_validation_split",
    "supervised_by_target",
    "with_pseudo_labels",
]
