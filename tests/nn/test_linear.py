"""Linear layers that keep a sketch: exact but for the weight's gradient, which is so on average."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from fxmem import ops
from fxmem.functional import linear_randomized
from fxmem.measure import kept
from fxmem.nn import RandomizedLinear

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def both(dtype=torch.float32, **options):
    """A sketched layer and torch's own, of the same parameters."""
    layer = RandomizedLinear(12, 7, dtype=dtype, **options)
    plain = torch.nn.Linear(12, 7, dtype=dtype)
    plain.load_state_dict(layer.state_dict())
    return layer, plain


def gradients(layer, x, upstream):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(upstream)
    return y.detach(), x.grad, layer.bias.grad, layer.weight.grad


@pytest.mark.parametrize("shape", [(64, 12), (4, 16, 12), (2, 4, 8, 12)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ops.KINDS)
def test_all_but_the_weights_gradient_is_torchs_own(kind, dtype, shape):
    layer, plain = both(dtype, proj_dim_ratio=0.25, matmul=kind)
    x, upstream = torch.randn(shape, dtype=dtype), torch.randn(*shape[:-1], 7, dtype=dtype)
    got, wanted = gradients(layer, x, upstream), gradients(plain, x, upstream)
    assert torch.equal(got[0], wanted[0])
    for a, b in zip(got[1:3], wanted[1:3], strict=True):
        torch.testing.assert_close(a, b)
    assert got[3].dtype == dtype and not torch.equal(got[3], wanted[3])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ops.KINDS)
def test_the_weights_gradient_is_right_on_average(kind, dtype):
    layer, _ = both(dtype, proj_dim=16, matmul=kind)
    x, upstream = torch.randn(4, 16, 12).to(dtype), torch.randn(4, 16, 7).to(dtype)
    draws = torch.stack([gradients(layer, x, upstream)[3] for _ in range(2048)]).double()
    exact = upstream.double().flatten(0, 1).mT @ x.double().flatten(0, 1)
    error = draws.mean(0) - exact
    assert error.norm() < 3 * (draws.var(0).sum() / 2048).sqrt()


@pytest.mark.parametrize(
    "options, rows",
    [
        ({"proj_dim_ratio": 0.1}, 6),
        ({"proj_dim_ratio": 0.001}, 1),
        ({"proj_dim": 9}, 9),
        ({"proj_dim_ratio": 0.1, "proj_dim_min": 20}, 20),
        ({"proj_dim_ratio": 0.5, "proj_dim_max": 5}, 5),
    ],
    ids=str,
)
def test_kept_bytes(options, rows):
    layer, _ = both(**options)
    x = torch.randn(4, 16, 12, requires_grad=True)
    assert kept(lambda: layer(x.neg())).nbytes == rows * 12 * 4 + 8


@pytest.mark.parametrize(
    "options", [{"proj_dim_ratio": 1.0}, {"proj_dim": 64}, {"proj_dim": 3, "proj_dim_min": 99}]
)
def test_all_rows_are_the_input_itself(options):
    layer, plain = both(**{"proj_dim_ratio": None, **options})
    x, upstream = torch.randn(64, 12), torch.randn(64, 7)
    for a, b in zip(gradients(layer, x, upstream), gradients(plain, x, upstream), strict=True):
        assert torch.equal(a, b)


def test_a_frozen_weight_keeps_nothing():
    layer, _ = both(proj_dim=4)
    layer.weight.requires_grad_(False)
    x = torch.randn(64, 12, requires_grad=True)
    assert kept(lambda: layer(x.neg())).nbytes == 0
    before = torch.get_rng_state()
    layer(x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_nothing_can_be_trained_nothing_is_drawn(mode):
    layer, _ = both(proj_dim=4)
    layer.train(mode is torch.inference_mode)
    before = torch.get_rng_state()
    with mode():
        layer(torch.ones(2, 12)), layer(torch.ones(64, 12))
    assert torch.equal(torch.get_rng_state(), before)


def test_more_rows_than_a_batch_has_do_no_harm_without_gradients():
    layer, plain = both(proj_dim=4)
    with torch.no_grad():
        assert torch.equal(layer(torch.ones(2, 12)), plain(torch.ones(2, 12)))


def test_an_empty_batch():
    layer, _ = both(proj_dim_ratio=0.5)
    layer.projection = layer.projection._replace(proj_dim_ratio=None, proj_dim=3)
    got = gradients(layer, torch.zeros(0, 12), torch.zeros(0, 7))
    assert torch.equal(got[3], torch.zeros(7, 12))


def test_each_step_has_its_own_seed_and_manual_seed_brings_it_back():
    layer, _ = both(proj_dim=8)
    x, upstream = torch.randn(64, 12), torch.randn(64, 7)
    torch.manual_seed(3)
    first, second = (gradients(layer, x, upstream)[3] for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(gradients(layer, x, upstream)[3], first)
    assert not torch.equal(first, second)


def test_a_generator_of_the_users_is_what_seeds_come_from():
    generator = torch.Generator().manual_seed(1)
    layer, _ = both(proj_dim=8, generator=generator)
    x, upstream = torch.randn(64, 12), torch.randn(64, 7)
    before = torch.get_rng_state()
    first = gradients(layer, x, upstream)[3]
    assert torch.equal(torch.get_rng_state(), before)
    generator.manual_seed(1)
    assert torch.equal(gradients(layer, x, upstream)[3], first)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_draw_the_same_again(reentrant):
    query, _ = both(proj_dim=8)
    key, _ = both(proj_dim=8)

    def block(x):
        return query(x).tanh() + key(x)

    def weight_gradients(run):
        torch.manual_seed(5)
        query.zero_grad(), key.zero_grad()
        x = torch.linspace(-1, 1, 64 * 12).view(64, 12).requires_grad_()
        run(x).square().sum().backward()
        return query.weight.grad.clone(), key.weight.grad.clone()

    def checkpointed(x):
        return torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)

    for a, b in zip(weight_gradients(block), weight_gradients(checkpointed), strict=True):
        assert torch.equal(a, b)


def test_layers_of_one_input_share_one_sketch():
    layers = [RandomizedLinear(12, 7, proj_dim=8, matmul="rademacher") for _ in range(3)]
    x = torch.randn(64, 12, requires_grad=True)

    def forward(x):
        x = x.neg()
        return sum(layer(x) for layer in layers)

    assert kept(lambda: forward(x)).nbytes == 8 * 12 * 4 + 8
    others = [RandomizedLinear(12, 7, proj_dim=8, matmul="crs") for _ in range(2)]
    layers[1:] = others
    assert kept(lambda: forward(x)).nbytes == 2 * (8 * 12 * 4 + 8)


def test_a_sketch_is_used_once_by_each_weight():
    layer, other = (RandomizedLinear(12, 7, bias=False, proj_dim=8) for _ in range(2))
    x, upstream = torch.randn(64, 12), torch.randn(64, 7)
    seen = []
    for _ in range(2):
        for module in (layer, other):
            module.zero_grad()
            module(x).backward(upstream)
            seen.append(module.weight.grad.clone())
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])


def test_under_autocast_too_layers_share_and_each_step_has_its_own_seed():
    layers = torch.nn.ModuleList(RandomizedLinear(12, 7, bias=False, proj_dim=8) for _ in range(2))
    x, seen = torch.randn(64, 12), []
    for _ in range(4):
        layers.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            sum(layer(x) for layer in layers).square().sum().backward()
        query, key = (layer.weight.grad for layer in layers)
        assert torch.equal(query, key)  # of one gradient and one sketch
        seen.append(query.clone())
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_each_step_has_its_own_seed_where_the_weight_is_computed():
    x, weight, seen = torch.randn(64, 12), torch.randn(7, 12, requires_grad=True), []
    for _ in range(4):
        y = linear_randomized(x, weight * 2, proj_dim=8)
        seen += torch.autograd.grad(y.square().sum(), weight)
        del y
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_an_input_that_was_changed_is_sketched_anew():
    layers = [RandomizedLinear(12, 7, bias=False, proj_dim=8) for _ in range(2)]
    x, upstream = torch.randn(64, 12), torch.randn(64, 7)
    layers[0](x).backward(upstream)
    x.zero_()
    layers[1](x).backward(upstream)
    assert torch.equal(layers[1].weight.grad, torch.zeros(7, 12))


def test_under_autocast_the_sketch_is_of_half_the_width():
    layer, _ = both(proj_dim=8, matmul="hadamard")
    x = (1 + torch.randn(64, 12)).requires_grad_()
    autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
    with autocast:
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        # A sketch, its seed, and the weight's copy.
        assert kept(lambda: layer(x.neg())).nbytes == 8 * 12 * 2 + 8 + 7 * 12 * 2
    draws = []
    for _ in range(256):
        layer.zero_grad()
        with autocast:
            y = layer(x)
        y.sum().backward()
        draws.append(layer.weight.grad)
    assert y.dtype == torch.bfloat16
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32
    error = torch.stack(draws).mean(0) - torch.ones(64, 7).mT @ x.detach()
    assert error.norm() < 3 * (torch.stack(draws).var(0).sum() / 256).sqrt()


@pytest.mark.parametrize("kind", ["gaussian", "crs", "crs_norm"])
def test_a_second_derivative_is_refused_in_a_sentence(kind):
    layer, _ = both(proj_dim=8, matmul=kind)
    x = torch.randn(64, 12, requires_grad=True)
    grad, other = torch.autograd.grad(layer(x).sum(), (layer.weight, x), create_graph=True)
    with pytest.raises(RuntimeError, match="has no derivative: the gradient of a weight is"):
        grad.sum().backward()
    with pytest.raises(RuntimeError, match=r"Use torch.nn.Linear where gradients are differ"):
        (grad,) = torch.autograd.grad(layer(x).sum(), layer.weight, create_graph=True)
        torch.autograd.grad((layer.weight - grad).square().sum(), layer.weight)
    other.sum().backward()  # exact, and so is its derivative
