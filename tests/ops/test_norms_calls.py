"""Norms kept as their output: tracers, modes, refusals."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fxmem import functional
from fxmem.ops.norms import operators as norms

C = 16


def leaf(*size, **options):
    return torch.randn(*size, **options).requires_grad_()


def test_no_second_derivative():
    x, weight = leaf(3, C), leaf(C)
    for y in (
        functional.layer_norm(x, (C,), weight),
        functional.rms_norm(x, (C,)),
        functional.batch_norm(x, None, None, training=True, activation="elu"),
    ):
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="norm kept as its output has no derivative"):
            first.sum().backward()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: functional.layer_norm(x, (C + 1,)), "normalized_shape"),
        (lambda x: functional.rms_norm(x, (C + 1,)), "normalized_shape|normalized dimension"),
        (lambda x: functional.rms_norm(x, (C,), torch.ones(C + 1)), "weight"),
        (lambda x: functional.group_norm(x, 4, torch.ones(C + 1)), "weight"),
        (lambda x: functional.batch_norm(x, None, None, torch.ones(C + 1), None, True), "weight"),
        (lambda x: functional.group_norm(x, 3), "divisible by num_groups|group"),
        (lambda x: functional.batch_norm(x[:1], None, None, training=True), "more than 1 value"),
        (lambda x: functional.batch_norm(x, None, None, activation="relu"), "got 'relu'"),
        (lambda x: functional.batch_norm(x, None, None, activation_param=0), "must be positive"),
    ],
)
def test_refusals(call, words):
    with pytest.raises((RuntimeError, ValueError), match=words):
        call(leaf(4, C))


def test_output_overwritten():
    y = functional.layer_norm(leaf(3, C), (C,))
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_nothing_is_kept_without_gradients():
    x = torch.randn(3, C)
    assert functional.layer_norm(x, (C,)).grad_fn is None
    with torch.no_grad():
        assert functional.layer_norm(leaf(3, C), (C,)).grad_fn is None


def test_frozen_weight():
    x, weight = leaf(5, C), torch.randn(C)
    (found,) = torch.autograd.grad(functional.layer_norm(x, (C,), weight).sin().sum(), x)
    (wanted,) = torch.autograd.grad(F.layer_norm(x, (C,), weight).sin().sum(), x)
    torch.testing.assert_close(found, wanted)


def test_frozen_input():
    x, weight, bias = torch.randn(5, C), leaf(C), leaf(C)
    ours = torch.autograd.grad(functional.rms_norm(x, (C,), weight).sin().sum(), weight)
    theirs = torch.autograd.grad(F.rms_norm(x, (C,), weight).sin().sum(), weight)
    torch.testing.assert_close(ours, theirs)
    (found,) = torch.autograd.grad(functional.layer_norm(x, (C,), None, bias).sum(), bias)
    torch.testing.assert_close(found, torch.full((C,), 5.0))


def test_strided_input_and_gradient():
    x = leaf(C, 6, 5)
    view = x.movedim(0, -1)[::2]
    (found,) = torch.autograd.grad(
        functional.layer_norm(view, (C,)), x, torch.ones(1, 1, C).expand(3, 5, C)
    )
    (wanted,) = torch.autograd.grad(
        F.layer_norm(view, (C,)), x, torch.ones(1, 1, C).expand(3, 5, C)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("shape", [(5,), (6, 5)])
def test_strided_rms_norm(shape):
    """Channels without a weight have a place, wherever the elements lie."""
    x, weight = leaf(5, 6, 4), leaf(*shape)
    with torch.no_grad():
        weight[..., 1:3] = 0
    view = x.permute(2, 1, 0)
    ours, theirs = (
        torch.autograd.grad(space.rms_norm(view, shape, weight, 1e-6).sin().sum(), (x, weight))
        for space in (functional, F)
    )
    torch.testing.assert_close(ours, theirs)


def test_autocast_is_torchs_but_for_batch_norm():
    x, weight = leaf(8, C), leaf(C)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.layer_norm(x, (C,), weight)
        assert torch.equal(y, F.layer_norm(x, (C,), weight))
        assert "LayerNorm" in type(y.grad_fn).__name__
        h = F.linear(x, torch.ones(C, C))
        ours = functional.batch_norm(h, None, None, weight, None, True, activation="leaky_relu")
        theirs = F.leaky_relu(F.batch_norm(h, None, None, weight, None, True))
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)
    found, wanted = (torch.autograd.grad(y.float().sin().sum(), weight)[0] for y in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


def test_compiled_is_torchs():
    def f(x, w):
        return functional.layer_norm(x, (C,), w) + functional.batch_norm(
            x, None, None, training=True
        )

    x, w = leaf(8, C), leaf(C)
    y = torch.compile(f, backend="aot_eager", fullgraph=True)(x, w)
    found = torch.autograd.grad(y.sin().sum(), (x, w))
    wanted = torch.autograd.grad(f(x, w).sin().sum(), (x, w))
    torch.testing.assert_close(found, wanted)


def test_make_fx_sees_torchs():
    """What a call keeps may not become a constant of a graph."""

    def f(x, weight):
        return torch.autograd.grad(functional.layer_norm(x, (C,), weight).sin().sum(), (x, weight))

    gm = make_fx(f)(leaf(3, C), leaf(C))
    x, weight = leaf(3, C), torch.zeros(C, requires_grad=True)
    torch.testing.assert_close(gm(x, weight), f(x, weight))


def test_function_transforms_are_torchs():
    x, weight = torch.randn(3, C), torch.randn(C)

    def loss(space):
        return lambda w, x: space.layer_norm(x, (C,), w).sin().sum()

    found, wanted = (
        torch.func.vmap(torch.func.grad(loss(space)), (None, 0))(weight, x)
        for space in (functional, F)
    )
    assert torch.equal(found, wanted)


def test_checkpointed():
    x, weight, bias = leaf(6, C), leaf(C), leaf(C)
    with torch.no_grad():
        weight[2:4] = 0

    def f(x):
        return functional.layer_norm(x, (C,), weight, bias).sin()

    found = torch.autograd.grad(checkpoint(f, x, use_reentrant=False).sum(), (x, weight))
    torch.testing.assert_close(found, torch.autograd.grad(f(x).sum(), (x, weight)))


def test_traced_as_one_call():
    gm = torch.fx.symbolic_trace(lambda x: functional.layer_norm(x, (C,)))
    assert len(gm.graph.find_nodes(op="call_function", target=norms.layer_norm)) == 1
    x = leaf(3, C)
    assert torch.equal(gm(x), F.layer_norm(x, (C,)))
