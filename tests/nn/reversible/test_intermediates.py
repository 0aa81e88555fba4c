"""Kept tensors cast or moved: stored once, in what was asked for, and freed with the graph."""

import gc
import weakref

import pytest
import torch
from torch import nn

from fxmem.measure import kept
from fxmem.nn.reversible import ReversibleSequential, memory_efficient_intermediates

from .blocks import assert_close, linear


def net():
    return nn.Sequential(linear(32), nn.Softmax(-1), linear(32))


def gradients(model, x, **options):
    model.zero_grad()
    with memory_efficient_intermediates(**options):
        loss = model(x).pow(2).sum()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def test_half_the_bytes_and_gradients_of_that_precision():
    model, x = net(), torch.randn(64, 32)

    def forward():
        with memory_efficient_intermediates(storage_dtype=torch.bfloat16):
            return model(x)

    whole = kept(lambda: model(x)).nbytes
    # The input is stored as well: autograd's own copy is the caller's tensor.
    assert kept(forward).nbytes == (whole + x.nbytes) / 2
    wanted = gradients(model, x)
    found = gradients(model, x, storage_dtype=torch.bfloat16)
    assert_close(found, wanted, rtol=2e-2)
    assert any(not torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_other_tensors_are_left_alone():
    model, x = net(), torch.randn(64, 32)
    found = gradients(model, x, storage_dtype=torch.bfloat16, tensor_filter=lambda t: False)
    assert_close(found, gradients(model, x), rtol=0)
    with memory_efficient_intermediates(storage_dtype=torch.bfloat16):
        y = torch.gather(x.clone().requires_grad_(), 1, torch.zeros(64, 1, dtype=torch.long))
    y.sum().backward()


def test_a_tensor_saved_twice_is_stored_once():
    x = torch.randn(1000, requires_grad=True)

    def forward():
        with memory_efficient_intermediates(storage_dtype=torch.bfloat16):
            return x.exp().sin()

    assert kept(forward).nbytes == 2000


def test_a_reused_address_is_another_tensor():
    """exp saves its output, which is freed at once: the allocator hands its place out again."""
    x = torch.arange(64.0, requires_grad=True)
    with memory_efficient_intermediates(storage_dtype=torch.float64):
        parts = [(x * (i / 100)).exp().sum() for i in range(20)]
    sum(parts).backward()
    wanted = sum(i / 100 * (x.detach() * (i / 100)).exp() for i in range(20))
    torch.testing.assert_close(x.grad, wanted)


@pytest.mark.parametrize(
    "options", [{"storage_dtype": torch.bfloat16}, {"tensor_filter": lambda t: False}]
)
def test_nothing_is_left_when_the_graph_is_gone(options):
    x = torch.randn((), requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        with memory_efficient_intermediates(**options):
            y = x.exp()
        alive = weakref.ref(y)
        del y
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{"tensor_filter": lambda t: False}, {"storage_device": "cpu"}])
def test_a_tensor_changed_in_place_is_said(options):
    """Autograd itself does not look where there are hooks; a copy would not mind."""
    x = torch.randn(3, requires_grad=True)
    with memory_efficient_intermediates(**options):
        y = x.exp()
    with torch.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match=r"shape \[3\] .* changed by an in-place operation"):
        y.sum().backward()
    with memory_efficient_intermediates(storage_dtype=torch.float64):
        y = x.exp()
    wanted = y.detach().clone()
    with torch.no_grad():
        y.add_(1)
    y.sum().backward()
    torch.testing.assert_close(x.grad, wanted)


def test_around_a_reversible_chain():
    model, x = ReversibleSequential(linear(16), linear(16)), torch.randn(8, 32)
    wanted = gradients(model, x)
    assert_close(gradients(model, x, storage_device="cpu"), wanted, rtol=1e-6)
    assert_close(gradients(model, x, storage_dtype=torch.bfloat16), wanted, rtol=5e-2)
