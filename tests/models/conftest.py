"""Shared fixtures of the tests of networks."""

from __future__ import annotations

import pytest
import torch
from segmentation_networks import make_narrow


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels in DRN-26 and FCN-8s, and the same weights each time."""
    torch.manual_seed(0)
    make_narrow(monkeypatch)
