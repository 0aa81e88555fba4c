"""torch.compile: a whole chain is one graph; compiled blocks keep the chain's own memory."""

import pytest
import torch

from fxmem.measure import kept
from fxmem.nn.reversible import AffineCoupling, MomentumCoupling, ReversibleSequential

from .blocks import Conv, assert_close, chains, linear, trained


# Dynamo makes an instance of autograd.Function, of which torch warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split_dim": None},
        {"coupling": AffineCoupling()},
        {"coupling": MomentumCoupling()},
        {"exact": True},
        {"memory": "checkpoint"},
        {"target_device": "cpu"},
    ],
    ids=str,
)
def test_one_graph(options):
    out = 8 if isinstance(options.get("coupling"), AffineCoupling) else 4
    memory = options.pop("memory", "reversible")
    plain, model = chains([linear(4, out) for _ in range(3)], ("none", memory), **options)
    x = torch.randn(3, 8 if options.get("split_dim", 1) else 4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(trained(compiled, x), trained(plain, x), rtol=1e-5)


def test_one_graph_with_arguments_dropout_and_batch_norm():
    plain, model = chains([Conv(3, 0.0) for _ in range(3)], ("none", "reversible"))
    x, scale = torch.randn(2, 6, 4, 4), torch.rand(3, 1, 1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(trained(compiled, x, scale=scale), trained(plain, x, scale=scale), rtol=1e-4)
    assert all(step.block.norm.num_batches_tracked == 1 for step in model)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_blocks_in_an_eager_chain(backend):
    """Dropout too: the forward and the second call run the same compiled graph."""
    plain = [Conv(4, 0.5) for _ in range(2)]
    (model,) = chains(plain, ["reversible"])
    compiled = [torch.compile(step.block, backend=backend, fullgraph=True) for step in model]
    ours, none = (ReversibleSequential(*compiled, memory=m) for m in ("reversible", "none"))
    x = torch.randn(2, 8, 32, 32)
    assert_close(trained(ours, x), trained(none, x), rtol=1e-4)
    assert kept(lambda: ours(x)).nbytes < kept(lambda: none(x)).nbytes / 2


def test_inductor():
    plain, model = chains([linear(4) for _ in range(3)], ("none", "reversible"))
    x = torch.randn(3, 8)
    assert_close(trained(torch.compile(model, fullgraph=True), x), trained(plain, x), rtol=1e-5)
