"""A network of which what is kept is known by hand."""

import pytest
import torch
from torch import nn

from .sizes import NARROW, ROWS, WIDE


@pytest.fixture
def mlp():
    return nn.Sequential(nn.Linear(NARROW, WIDE), nn.GELU(), nn.Linear(WIDE, NARROW))


@pytest.fixture
def x():
    return torch.randn(ROWS, NARROW)
