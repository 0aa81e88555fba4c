"""What every test gets: a fixed seed, a fresh Dynamo, and an honest skip where there is no GPU."""

import gc
import sys

import pytest
import torch


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a GPU that torch can use")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(no_gpu)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    """Graphs compiled in one test must neither serve nor count as recompiles in the next."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(autouse=True, scope="module")
def frozen_heap():
    """What compilers hold for good is looked through once: it made collections half of all time."""
    yield
    gc.collect()
    gc.freeze()
