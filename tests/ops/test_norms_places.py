"""Norms kept as their output, on devices that would wait: which channels have a place."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fxmem import functional
from fxmem.ops.norms import channels

C = 16


def leaf(*size, **options):
    return torch.randn(*size, **options).requires_grad_()


class Arrival:
    """Stands for a device's event: counts arrive when the test says so."""

    ready = False

    def query(self):
        return self.ready


@pytest.fixture
def device(monkeypatch):
    """Treat the CPU as a device whose numbers arrive late."""
    events = []

    def sent(counts):
        events.append(Arrival())
        return events[-1], counts.clone()

    monkeypatch.setattr(channels, "waits", lambda tensor: True)
    monkeypatch.setattr(channels, "sent", sent)
    return events


def gradient(x, weight, bias):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    leaves[1] = weight  # looks are of this very tensor
    return torch.autograd.grad(
        functional.layer_norm(leaves[0], (C,), *leaves[1:]).sin().sum(), leaves
    )


def test_places_are_known_beforehand(device):
    weight, bias = leaf(64), torch.ones(64)
    with torch.no_grad():
        weight.fill_(2).index_fill_(0, torch.arange(5), 0)
    assert channels.kept(weight, None, torch.float32).sort().values[:5].tolist() == [0, 1, 2, 3, 4]
    assert len(channels.kept(weight, bias, torch.float32)) == 2 * 5 + 64 // 32 + 1
    with torch.no_grad():
        weight.fill_(2)
    assert len(channels.kept(weight, bias, torch.float32)) == 13  # what it was counted with
    device[0].ready = True
    assert len(channels.kept(weight, bias, torch.float32)) == 13
    device[1].ready = True
    assert len(channels.kept(weight, bias, torch.float32)) == 0
    assert len(device) == 3


def test_late_counts_are_said(device):
    x, weight, bias = torch.randn(9, C), leaf(C), torch.randn(C) * 0.1
    with torch.no_grad():
        weight.fill_(1)
    exact = lambda: torch.autograd.grad(  # noqa: E731
        F.layer_norm(x, (C,), weight, bias).sin().sum(), weight
    )[0]
    torch.testing.assert_close(gradient(x, weight, bias)[1], exact())
    with torch.no_grad():
        weight[3:5] = 0
    device[0].ready = True
    found = gradient(x, weight, bias)[1]
    assert found.isfinite().all() and (found[3:5] == 0).all() and (exact()[3:5] != 0).all()
    device[1].ready = True
    with pytest.warns(UserWarning, match="too small beside its bias in 2 channels, and 0 had a"):
        found = gradient(x, weight, bias)[1]
    torch.testing.assert_close(found, exact())


def test_without_a_place_a_small_weight_is_divided_by(device):
    x, weight, bias = torch.randn(9, C), leaf(C), torch.full((C,), 0.5)
    with torch.no_grad():
        weight.fill_(1)
    gradient(x, weight, bias)
    with torch.no_grad():
        weight[3:5] = 0.01
    found = gradient(x, weight, bias)
    leaves = x.clone().requires_grad_(), weight, bias.clone().requires_grad_()
    y = F.layer_norm(leaves[0], (C,), *leaves[1:]).sin().sum()
    torch.testing.assert_close(found, torch.autograd.grad(y, leaves), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_recomputes_with_as_many_places(device):
    x, weight = leaf(9, C), leaf(C)
    with torch.no_grad():
        weight.fill_(1)

    def f(x):
        return functional.layer_norm(x, (C,), weight).sin()

    f(x)
    with torch.no_grad():
        weight[3] = 0
    device[0].ready = True
    y = checkpoint(f, x, use_reentrant=False)
    device[1].ready = True
    y.sum().backward()
    with pytest.warns(UserWarning, match="in 1 channels, and 0 had a place"):
        f(x)


def test_a_capture_asks_for_nothing(device, monkeypatch):
    weight = leaf(C)
    monkeypatch.setattr(channels, "is_fixed", lambda weight: True)
    assert len(channels.kept(weight, None, torch.float32)) == C and not device


@pytest.mark.cuda
def test_captured_after_a_call_whose_counts_are_on_the_way():
    x, weight = (leaf(*size, device="cuda") for size in ((64, C), (C,)))

    def f():
        return torch.autograd.grad(functional.layer_norm(x, (C,), weight).sin().sum(), (x, weight))

    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        wanted = f()
    side.synchronize()
    with torch.cuda.graph(graph):
        found = f()
    graph.replay()
    torch.testing.assert_close(found, wanted)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_no_wait_on_a_device():
    x, weight, bias = (leaf(*size, device="cuda") for size in ((64, C), (C,), (C,)))
    wanted = torch.autograd.grad(F.layer_norm(x, (C,), weight, bias).sin().sum(), (x, weight))
    functional.layer_norm(x, (C,), weight, bias)
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = functional.layer_norm(x, (C,), weight, bias).sin().sum()
        found = torch.autograd.grad(y, (x, weight))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found, wanted)
