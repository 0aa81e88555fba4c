"""Which floating residuals are not encoded, each with its sentence."""

import pytest
import torch
from torch import library
from torch.nn import functional as F
from torch.testing._internal.two_tensor import TwoTensor

from .test_encode import EIGHT, hidden
from .tools import TestBackend, leaf, partitioned

# Each breaks one precondition of `hidden` alone, and says so.


def refusals(f, *inputs, **policy):
    return partitioned(f, *inputs, policy={**EIGHT, **policy}).why


def test_control_is_encoded():
    assert refusals(hidden, leaf(8, 64), leaf(64, 64)) == []


def test_output_of_the_graph():
    def returned(x, w):
        h = x @ w
        return h.sin(), h

    sentence = "the caller holds it too: it is an output of the graph"
    assert refusals(returned, leaf(8, 64), leaf(64, 64)) == [sentence]


def test_view_of_it_is_an_output():
    def returned(x, w):
        h = x @ w
        return h.sin(), h.view(-1)

    sentence = "the caller holds it too: it is an output of the graph"
    assert refusals(returned, leaf(8, 64), leaf(64, 64)) == [sentence]


def test_made_of_parameters_alone():
    class Squared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(64, 64))

        def forward(self, x):
            return x @ (self.w @ self.w)

    sentence = "no activation: parameters, constants or random numbers alone make it"
    assert refusals(Squared(), leaf(8, 64)) == [sentence]


@pytest.mark.parametrize("wrap", [torch.clone, lambda w: TwoTensor(w, w.clone())])
def test_parameters_beside_a_tensor_subclass(wrap):
    """It is several inputs of the graph, and all that come after it are counted anew."""

    class Adapted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(wrap(torch.randn(64, 64)), requires_grad=False)
            self.a = torch.nn.Parameter(torch.randn(64, 64))

        def forward(self, x):
            return (x @ self.w) @ (self.a @ self.a).sin()

    backend = TestBackend(EIGHT)
    torch.compile(Adapted(), backend=backend, fullgraph=True)(torch.randn(8, 64)).sum().backward()
    (graph,) = backend.pairs
    sentence = "no activation: parameters, constants or random numbers alone make it"
    assert graph.why == [sentence]
    assert all(site.residual.op == "aten.mm" for site in graph.plan.sites)


def test_statistic():
    def normalised(x, w):
        h = x @ w
        return h.sin() * h.amax(1, keepdim=True).sin()

    sentence = "a statistic: small, and its exactness matters"
    assert refusals(normalised, leaf(8, 256), leaf(256, 256)) == [sentence]


def test_log_sum_exp():
    def attention(x, w):
        q, k, v = (x @ w).view(1, 64, 3, 16).unbind(2)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None]).sin()

    found = refusals(attention, leaf(64, 16), leaf(16, 48))
    assert found == [
        "what an operator returns beside its main output (log-sum-exp, state) stays exact"
    ]


def test_small():
    inputs = leaf(8, 64), leaf(64, 64)
    assert refusals(hidden, *inputs, min_bytes=8 * 64 * 4) == []
    assert refusals(hidden, *inputs, min_bytes=8 * 64 * 4 + 1) == ["smaller than min_bytes=2049"]


def test_float64():
    inputs = leaf(8, 64, dtype=torch.float64), leaf(64, 64, dtype=torch.float64)
    assert refusals(hidden, *inputs) == ["float64 is kept exactly"]


def test_integer():
    def looked_up(x, w):
        return (x @ w)[(x @ w).detach()[:, 0].long() % 64] @ w

    assert "int64 is kept exactly" in refusals(looked_up, leaf(64, 64), leaf(64, 64))


def test_bits_read_as_integers():
    def bitcast(x, w):
        h = x @ w
        return h * (h.view(torch.int32) & 1)

    assert refusals(bitcast, leaf(8, 64), leaf(64, 64)) == ["its bits are read as int32"]


@library.custom_op("fxmem_test::gappy", mutates_args=())
def gappy(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty_strided(x.shape, (x.shape[1] + 8, 1)).copy_(x)


gappy.register_fake(lambda x: x.new_empty_strided(x.shape, (x.shape[1] + 8, 1)))
gappy.register_autograd(lambda ctx, grad: grad)


def test_gaps_in_memory():
    def gaps(x, w):
        return gappy(x @ w) ** 3

    assert refusals(gaps, leaf(8, 64), leaf(64, 64)) == ["it has gaps in memory"]


def test_size_not_known_when_compiling():
    def selected(x, w):
        return (x[x.detach()[:, 0] > 0] @ w).sin()

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = refusals(selected, leaf(64, 64), leaf(64, 64), rules={"masks": False})
    assert "its size is not known when compiling" in found


def test_preset_exact():
    why = partitioned(hidden, leaf(8, 64), leaf(64, 64), policy={"min_bytes": 0}).why
    assert why == ["preset 'exact' keeps it exactly"]


def test_rule_forbidden():
    assert refusals(
        hidden, leaf(8, 64), leaf(64, 64), bits=None, group=None, rules={"encode": False}
    ) == ["rules forbid 'encode'"]


def test_not_fewer_bytes():
    # Two elements in bf16 are 4 bytes; in 8 bits they are 2 and their scale another 2.
    inputs = leaf(1, 64, dtype=torch.bfloat16), leaf(64, 2, dtype=torch.bfloat16)
    assert refusals(hidden, *inputs) == ["8 bits would not be fewer bytes"]
