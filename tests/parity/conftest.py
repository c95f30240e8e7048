"""Fixtures of the parity tests; what they share stands in `reference.py`."""

import pytest
import torch


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of text without any special id."""
    return torch.randint(3, 290, (2, 30), generator=torch.Generator().manual_seed(1))
