"""Domains, protocols and the batches drawn from them."""

from dynconv.data.base import (
    DataError,
    Domain,
    Protocol,
    Split,
    evaluation_batches,
    normalise,
    source_validation_split,
)
from dynconv.data.batches import Batch, DomainBatches, SourceBatch, TargetBatch
from dynconv.data.protocols import known_domains, load_domain, load_protocol, parse_spec

__all__ = [
    "Batch",
    "DataError",
    "Domain",
    "DomainBatches",
    "Protocol",
    "SourceBatch",
    "Split",
    "TargetBatch",
    "evaluation_batches",
    "known_domains",
    "load_domain",
    "load_protocol",
    "normalise",
    "parse_spec",
    "source_validation_split",
]
