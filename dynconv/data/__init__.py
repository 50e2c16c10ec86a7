"""Domains, protocols and the batches drawn from them."""

from dynconv.data.arrangements import source_validation_split
from dynconv.data.augment import Augmentation
from dynconv.data.base import Domain, Protocol, Split
from dynconv.data.batch import Batch, SourceBatch, TargetBatch, TargetSelection
from dynconv.data.batches import DomainBatches, evaluation_batches
from dynconv.data.errors import DataError
from dynconv.data.files import ImageFiles, Skipped
from dynconv.data.normalise import Normalisation, normalise
from dynconv.data.protocols import load_domain, load_protocol
from dynconv.data.specs import known_domains, parse_spec

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
]
