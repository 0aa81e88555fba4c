"""Bool residuals in one bit an element: always exact."""

import pytest
import torch
from expecttest import TestCase
from torch import library
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned

BITS = {"min_bytes": 0}


def rectified(x, w):
    return torch.relu(x @ w)


class TestGraphs(TestCase):
    def test_relu(self):
        g = partitioned(rectified, leaf(8, 16), leaf(16, 16), policy=BITS)
        # pack follows le; what is returned is 16 bytes, not 128.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 16]
primals_2: float32[16, 16]
mm: float32[8, 16] = aten.mm.default(primals_1, primals_2)
relu: float32[8, 16] = aten.relu.default(mm)
le: bool[8, 16] = aten.le.Scalar(relu, 0)
reshape_default: bool[128] = aten.reshape.default(le, [-1])
le_bits: uint8[16] = fxmem.pack.default(reshape_default, 1)
permute: float32[16, 8] = aten.permute.default(primals_1, [1, 0])
permute_1: float32[16, 16] = aten.permute.default(primals_2, [1, 0])
return [relu, le_bits, permute, permute_1]""",
        )
        # unpack comes right before where, its only use.
        self.assertExpectedInline(
            g.backward.text,
            """\
le_bits: uint8[16]
permute: float32[16, 8]
permute_1: float32[16, 16]
tangents_1: float32[8, 16]
full_default: float32[] = aten.full.default([], 0.0, dtype=torch.float32, layout=torch.strided, device=cpu, pin_memory=False)
unpack_default: bool[8, 16] = fxmem.unpack.default(le_bits, [8, 16], [16, 1], 1, torch.bool)
where: float32[8, 16] = aten.where.self(unpack_default, full_default, tangents_1)
mm_1: float32[16, 16] = aten.mm.default(permute, where)
mm_2: float32[8, 16] = aten.mm.default(where, permute_1)
return [mm_2, mm_1]""",
        )

    def test_mask_in_another_memory_order(self):
        def transposed(x, w):
            return torch.relu((x @ w).t())

        g = partitioned(transposed, leaf(8, 16), leaf(16, 16), policy=BITS)
        # le has strides [1, 16]: it is packed as it lies in memory, and unpacked so.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[8, 16]
primals_2: float32[16, 16]
mm: float32[8, 16] = aten.mm.default(primals_1, primals_2)
permute: float32[16, 8] = aten.permute.default(mm, [1, 0])
relu: float32[16, 8] = aten.relu.default(permute)
le: bool[16, 8] = aten.le.Scalar(relu, 0)
permute_default: bool[8, 16] = aten.permute.default(le, [1, 0])
reshape_default: bool[128] = aten.reshape.default(permute_default, [-1])
le_bits: uint8[16] = fxmem.pack.default(reshape_default, 1)
permute_2: float32[16, 8] = aten.permute.default(primals_1, [1, 0])
permute_3: float32[16, 16] = aten.permute.default(primals_2, [1, 0])
return [relu, le_bits, permute_2, permute_3]""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
le_bits: uint8[16]
permute_2: float32[16, 8]
permute_3: float32[16, 16]
tangents_1: float32[16, 8]
full_default: float32[] = aten.full.default([], 0.0, dtype=torch.float32, layout=torch.strided, device=cpu, pin_memory=False)
unpack_default: bool[16, 8] = fxmem.unpack.default(le_bits, [16, 8], [1, 16], 1, torch.bool)
where: float32[16, 8] = aten.where.self(unpack_default, full_default, tangents_1)
permute_1: float32[8, 16] = aten.permute.default(where, [1, 0])
mm_1: float32[16, 16] = aten.mm.default(permute_2, permute_1)
mm_2: float32[8, 16] = aten.mm.default(permute_1, permute_3)
return [mm_2, mm_1]""",
        )


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (13, 37), (0, 4)])
def test_gradients_are_equal_to_the_bit(shape):
    inputs = leaf(shape[0], 16), leaf(16, shape[1])
    graph = partitioned(rectified, *inputs, policy=BITS)
    assert graph.forward.ops["fxmem.pack"] == (0 not in shape)  # of nothing, nothing is kept
    unpacked = gradients(rectified, *inputs, policy={"rules": {"masks": False}})
    assert all(map(torch.equal, gradients(rectified, *inputs, policy=BITS), unpacked))


def test_mask_is_used_in_the_forward_too():
    def gated(x, w):
        h = x @ w
        return torch.where(h > 0, h, 0.1 * h)

    inputs = leaf(8, 16), leaf(16, 16)
    g = partitioned(gated, *inputs, policy=BITS)
    assert (g.forward.ops["fxmem.pack"], g.forward.ops["fxmem.unpack"]) == (1, 0)
    eager, found = gradients(gated, *inputs), gradients(gated, *inputs, policy=BITS)
    assert all(map(torch.equal, found, eager))


def test_two_views_one_code():
    def reused(x, w):
        h = x @ w
        m = h > 0
        return torch.where(m, h, 0.1 * h), torch.where(m.view(-1), h.view(-1), h.view(-1) * 0.2)

    inputs = leaf(8, 16), leaf(16, 16)
    g = partitioned(reused, *inputs, policy=BITS)
    assert (g.forward.ops["fxmem.pack"], g.backward.ops["fxmem.unpack"]) == (1, 1)
    eager, found = gradients(reused, *inputs), gradients(reused, *inputs, policy=BITS)
    assert all(map(torch.equal, found, eager))


# Each breaks one precondition alone, and says so; whatever the preset.


@pytest.fixture(params=["exact", "balanced"])
def why(request):
    def refusals(f, *inputs, **policy):
        return partitioned(f, *inputs, policy={"preset": request.param, **BITS, **policy}).why

    return refusals


def test_control_is_packed(why):
    assert why(rectified, leaf(8, 16), leaf(16, 16)) == []


def test_small(why):
    inputs = leaf(8, 16), leaf(16, 16)
    assert why(rectified, *inputs, min_bytes=128) == []
    assert why(rectified, *inputs, min_bytes=129) == ["smaller than min_bytes=129"]


def test_output_of_the_graph(why):
    def returned(x, w):
        h = x @ w
        m = h > 0
        return torch.where(m, h, 0.1 * h), m

    sentence = "the caller holds it too: it is an output of the graph"
    assert why(returned, leaf(8, 16), leaf(16, 16)) == [sentence]


def test_gaps_in_memory(why):
    def gaps(x, w):
        h = x @ w
        return torch.where(spread(h > 0), h, 0.1 * h)

    assert why(gaps, leaf(8, 16), leaf(16, 16)) == ["it has gaps in memory"]


@library.custom_op("fxmem_test::spread", mutates_args=())
def spread(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty_strided(x.shape, (x.shape[1] + 8, 1)).copy_(x)


spread.register_fake(lambda x: x.new_empty_strided(x.shape, (x.shape[1] + 8, 1)))


def test_size_not_known_when_compiling(why):
    def selected(x, w):
        return torch.relu(x[x.detach()[:, 0] > 0] @ w)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = why(selected, leaf(16, 16), leaf(16, 16))
    assert "its size is not known when compiling" in found


def test_rule_forbidden():
    policy = {**BITS, "rules": {"masks": False}}
    g = partitioned(rectified, leaf(8, 16), leaf(16, 16), policy=policy)
    assert (g.forward.ops["fxmem.pack"], g.why) == (0, ["rules forbid 'masks'"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("drop", [F.alpha_dropout, F.dropout2d])
def test_floats_that_are_drawn_to_be_zero_or_one(drop, dtype):
    def f(x, w):
        return drop((x @ w).view(2, 3, 8, 1), 0.5, training=True)

    given = [t.detach().to(dtype).requires_grad_() for t in (leaf(6, 16), leaf(16, 8))]
    g = partitioned(f, *given, policy=BITS)
    (mask,) = (e for e in g.plan.entries if e.residual.op == "aten.bernoulli")
    assert mask.nbytes == -(-mask.residual.nbytes // (8 * dtype.itemsize))
    results = []
    for policy in (BITS, {"rules": {"masks": False}}):
        torch.manual_seed(0)
        results.append(gradients(f, *given, policy=policy))
    assert all(map(torch.equal, *results))
