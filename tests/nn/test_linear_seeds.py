"""Seeds of sketched layers: one number a call, and the same in forward and backward."""

import pytest
import torch
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from fxmem import ops
from fxmem.functional import linear_randomized
from fxmem.measure import kept
from fxmem.nn import RandomizedLinear


class Layers(torch.nn.Module):
    """A first layer, and of each kind one that reads what it computes."""

    def __init__(self, make):
        super().__init__()
        self.first = make("gaussian")
        self.rest = torch.nn.ModuleList(make(kind) for kind in ops.KINDS)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return sum(layer(x).sin() for layer in self.rest)


def plain(kind):
    return torch.nn.Linear(12, 12, bias=False)


def sketching(kind):
    return RandomizedLinear(12, 12, bias=False, proj_dim_ratio=0.5, matmul=kind)


def checkpointed(model):
    return lambda x: checkpoint(model, x, use_reentrant=False)


# Dynamo itself instantiates torch.autograd.Function, which warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("around", [lambda model: model, checkpointed], ids=["plain", "checkpoint"])
@pytest.mark.parametrize("backend", ["aot_eager", "fxmem"])
def test_compiled_gradients_are_right_on_average(backend, around):
    """A compiler that draws a seed again, for the backward, makes noise of them."""
    exact, layers = Layers(plain), Layers(sketching)
    layers.load_state_dict(exact.state_dict())
    x = torch.randn(64, 12)
    exact(x).square().sum().backward()
    options = {"inner": "aot_eager", "min_bytes": 0} if backend == "fxmem" else None
    compiled = torch.compile(around(layers), fullgraph=True, backend=backend, options=options)
    shares = []
    for _ in range(64):
        layers.zero_grad()
        compiled(x).square().sum().backward()
        pairs = zip(layers.parameters(), exact.parameters(), strict=True)
        shares.append([(a.grad * b.grad).sum() / b.grad.square().sum() for a, b in pairs])
    spread, mean = torch.std_mean(torch.tensor(shares), dim=0)
    assert ((mean - 1).abs() < 4 * spread / 8).all() and (spread < 1).all()


def computed(layer):
    options = {"proj_dim_ratio": 0.5, "matmul": "crs"}
    return lambda x: linear_randomized(x, layer.weight * 1, **options)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("of", [lambda layer: layer, computed], ids=["parameter", "computed"])
def test_a_checkpoint_draws_the_same_masks_again(of, shared, reentrant):
    before, layer = sketching("crs"), sketching("crs")
    function, x = of(layer), torch.randn(64, 12, requires_grad=True)
    inner = x.neg()
    other = before(inner) if shared else 0
    masked = checkpoint(lambda x: dropout(function(x)), inner, use_reentrant=reentrant)
    (masked + 0 * other).sum().backward()
    mask = 2.0 * (masked.detach() != 0)
    torch.testing.assert_close(x.grad, -mask @ layer.weight)


def test_a_call_takes_one_number():
    layer, x = sketching("crs"), torch.randn(64, 12)
    torch.manual_seed(1)
    layer(x), layer(x)
    with torch.no_grad():
        layer(x)
    found = torch.get_rng_state()
    torch.manual_seed(1)
    for _ in range(3):
        torch.randint(2**62, (1,))
    assert torch.equal(torch.get_rng_state(), found)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["gaussian", "crs", "crs_norm"])
def test_compiled_layers_of_one_input_share_a_sketch(kind):
    """Queries, keys and values; not a layer that keeps another number of rows, or other values."""
    ratios = (0.25, 0.25, 0.25, 0.5)
    layers = torch.nn.ModuleList(
        RandomizedLinear(12, 12, proj_dim_ratio=ratio, matmul=kind) for ratio in ratios
    )
    x, slope = torch.randn(64, 12).requires_grad_(), torch.randn(64, 12)

    def run(x):
        x = x.tanh()
        return sum(layer(x) for layer in layers) + layers[0](x.sin())

    def step(run):
        torch.manual_seed(0)
        return torch.autograd.grad((run(x) * slope).sum(), [layer.weight for layer in layers[1:]])

    options = {"inner": "aot_eager", "min_bytes": 0}
    compiled = torch.compile(run, fullgraph=True, backend="fxmem", options=options)
    two, three, other = step(compiled)
    assert torch.equal(two, three) and not torch.equal(two, other)
    assert kept(lambda: compiled(x)).nbytes <= kept(lambda: run(x)).nbytes + 1024
