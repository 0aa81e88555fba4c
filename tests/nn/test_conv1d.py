"""transformers' Conv1D that keeps a sketch: a linear layer with its weight transposed."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fxmem
from fxmem.measure import kept
from fxmem.nn import RandomizedConv1D, RandomizedLinear


class Conv1D(torch.nn.Module):
    """A layer of transformers' name and parameters, where that is not installed."""

    def __init__(self, nf, nx, dtype=torch.float32):
        super().__init__()
        self.nf = nf
        self.weight = torch.nn.Parameter(torch.randn(nx, nf, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.randn(nf, dtype=dtype))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], self.nf)


def both(dtype=torch.float32, **options):
    plain = Conv1D(7, 12, dtype)
    twin = fxmem.convert(copy.deepcopy(plain), {Conv1D: {"sketch": options}}).model
    assert type(twin) is RandomizedConv1D
    return twin, plain


def gradients(layer, x, upstream):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(upstream)
    return y.detach(), x.grad, layer.bias.grad, layer.weight.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["gaussian", "hadamard", "crs_norm"])
def test_all_but_the_weights_gradient_is_its_own(kind, dtype):
    layer, plain = both(dtype, proj_dim_ratio=0.25, matmul=kind)
    x, upstream = torch.randn(4, 16, 12, dtype=dtype), torch.randn(4, 16, 7, dtype=dtype)
    got, wanted = gradients(layer, x, upstream), gradients(plain, x, upstream)
    for a, b in zip(got[:3], wanted[:3], strict=True):
        torch.testing.assert_close(a, b)
    assert got[3].shape == (12, 7) and got[3].dtype == dtype
    assert not torch.equal(got[3], wanted[3])


@pytest.mark.parametrize("kind", ["gaussian", "crs"])
def test_the_weights_gradient_is_right_on_average(kind):
    layer, plain = both(proj_dim=16, matmul=kind)
    x, upstream = torch.randn(64, 12), torch.randn(64, 7)
    draws = torch.stack([gradients(layer, x, upstream)[3] for _ in range(1024)]).double()
    error = draws.mean(0) - gradients(plain, x, upstream)[3]
    assert error.norm() < 3 * (draws.var(0).sum() / len(draws)).sqrt()


def test_it_draws_what_a_linear_layer_would():
    layer, linear = both(proj_dim=8)[0], RandomizedLinear(12, 7, proj_dim=8)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.mT), linear.bias.copy_(layer.bias)
    x, upstream = torch.randn(64, 12), torch.randn(64, 7)
    torch.manual_seed(3)
    found = gradients(layer, x, upstream)[3]
    torch.manual_seed(3)
    assert torch.equal(found, gradients(linear, x, upstream)[3].mT)


def test_layers_of_one_input_share_one_sketch_and_use_it_once():
    layers = [both(proj_dim=8)[0] for _ in range(3)]
    x = torch.randn(64, 12, requires_grad=True)

    def forward(x):
        x = x.neg()
        return sum(layer(x) for layer in layers)

    assert kept(lambda: forward(x)).nbytes == 8 * 12 * 4 + 8
    layer, seen = layers[0], []
    held = [layer(x) for _ in range(2)]  # both graphs are alive: yet each call draws its own
    for y in held:
        seen += torch.autograd.grad(y.sum(), layer.weight)
    assert not torch.equal(*seen)


def test_checkpoints_draw_the_same_again():
    query, key = (both(proj_dim=8)[0] for _ in range(2))

    def weight_gradients(run):
        torch.manual_seed(5)
        query.zero_grad(), key.zero_grad()
        x = torch.linspace(-1, 1, 64 * 12).view(64, 12).requires_grad_()
        run(lambda x: query(x).tanh() + key(x), x).square().sum().backward()
        return query.weight.grad.clone(), key.weight.grad.clone()

    plain = weight_gradients(lambda block, x: block(x))
    again = weight_gradients(lambda block, x: checkpoint(block, x, use_reentrant=False))
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)


def test_under_autocast_the_sketch_is_of_half_the_width():
    layer, plain = both(proj_dim=8)
    x = torch.randn(64, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        torch.testing.assert_close(layer(x), plain(x))
        assert kept(lambda: layer(x.neg())).nbytes == 8 * 12 * 2 + 8 + 7 * 12 * 2


def test_refused_as_a_linear_layers():
    with pytest.raises(ValueError, match=r"proj_dim_ratio must be in \(0, 1\]; got 2.0"):
        RandomizedConv1D(7, 12, proj_dim_ratio=2.0)
    assert repr(RandomizedConv1D(7, 12, proj_dim=3)) == (
        "RandomizedConv1D(nf=7, nx=12, proj_dim=3, matmul='gaussian')"
    )


# Dynamo itself instantiates torch.autograd.Function, which warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled():
    layer, plain = both(proj_dim_ratio=0.25)
    x = torch.randn(64, 12)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, plain(x))
    y.sum().backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0


def test_converted_and_converted_again():
    model = torch.nn.Sequential(Conv1D(7, 12), torch.nn.Linear(7, 3)).eval()
    parameters, keys = list(model.parameters()), list(model.state_dict())
    fxmem.convert(model, {Conv1D: {"sketch": 0.2}})
    fxmem.convert(model, {Conv1D: {"sketch": 0.1}, torch.nn.Linear: {"sketch": 0.2}})
    fxmem.convert(model, {torch.nn.Linear: {"sketch": 0.1}})
    assert [m.projection.proj_dim_ratio for m in model] == [0.1, 0.1] and not model[0].training
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys


def test_what_is_said_of_linear_layers_that_no_rule_fits():
    attention = torch.nn.MultiheadAttention(12, 2)
    model = torch.nn.ModuleDict({"c": Conv1D(7, 12), "attn": attention, "l": torch.nn.Linear(7, 3)})
    found = fxmem.convert(model, {torch.nn.Linear: {"sketch": 0.2}})
    assert {path: m.reason.split(",")[0] for m in found.left for path in m.paths} == {
        "c": "Conv1D is a linear layer",
        "attn.out_proj": "NonDynamicallyQuantizableLinear is no torch.nn.Linear itself",
    }
    assert "c: not asked for: Conv1D is a linear layer, too" in str(found)
    # Where a rule names places, or linear layers are not what it is about, there is nothing to say.
    assert not fxmem.convert(model, {"l": {"sketch": 0.2}}).left
    # And what keeps a sketch by now was asked for once.
    assert {p for m in fxmem.convert(model, {Conv1D: {"sketch": 0.2}}).left for p in m.paths} == {
        "attn.out_proj"
    }


def test_another_modules_of_that_name_are_left():
    class Conv1D(torch.nn.Conv1d):
        nf = 7

    model = torch.nn.Sequential(Conv1D(12, 7, 1))
    (refusal,) = fxmem.convert(model, {Conv1D: {"sketch": 0.2}}).refusals
    assert refusal.reason.endswith("transformers' Conv1D; this is Conv1D")
    assert not fxmem.convert(
        torch.nn.Sequential(*model, torch.nn.Linear(1, 1)), {torch.nn.Linear: {"sketch": 0.2}}
    ).left


def test_gpt2():
    transformers = pytest.importorskip("transformers")
    kind = pytest.importorskip("transformers.pytorch_utils").Conv1D
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 32, "n_positions": 32}
    model = transformers.GPT2Model(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    ids, state = torch.arange(32)[None], model.state_dict()
    expected = model.eval()(ids).last_hidden_state
    found = fxmem.convert(model, {kind: {"sketch": 0.2}})
    assert len(found.changes) == 4 and not found.refusals and not found.left
    torch.testing.assert_close(model(ids).last_hidden_state, expected)
    model.load_state_dict(state)
    shown = fxmem.nn.variances(model, lambda: model(ids).last_hidden_state.sum().backward())
    assert set(shown.modules) == {path for change in found.changes for path in change.paths}


def test_transformers_is_not_needed():
    script = (
        "import sys, fxmem.nn; fxmem.nn.RandomizedConv1D; assert 'transformers' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
