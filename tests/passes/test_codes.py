"""Codes of integer layers: recomputed where what they are made of is kept, else the layer's own."""

import pytest
import torch
import torch.nn.functional as F
from expecttest import TestCase
from torch.utils.checkpoint import checkpoint

from fxmem import integer
from fxmem.passes.graph import op_name

from .tools import gradients, leaf, partitioned

OFF = {"rules": {"remat": False}}
METHODS = ("int8", "wageubn8", "dorefa:1,2,32", "binarynet", "xnor")


def normed(x, w, method="int8"):
    """The norm's backward wants x, so that x_hat and its codes cost nothing to keep."""
    return integer.linear(F.layer_norm(x.sin(), x.shape[-1:]), w, None, method)


def masked(x, w, method="int8"):
    """Relu keeps a bit an element: the codes are less than what they are made of."""
    return integer.linear((x @ w).relu(), w, None, method)


def shared(x, *ws):
    x = F.layer_norm(x @ x, x.shape[-1:])
    return torch.cat([integer.linear(x, w) for w in ws])


def given(*shapes):
    torch.manual_seed(0)
    return [leaf(*shape) for shape in shapes]


def codes_of(half):
    return sum(count for op, count in half.ops.items() if op.endswith("_codes"))


@pytest.mark.parametrize("method", METHODS)
def test_recomputed(method):
    g = partitioned(lambda x, w: normed(x, w, method), *given((64, 64), (64, 64)))
    assert codes_of(g.forward) == 0 and codes_of(g.backward) == 1
    assert not any("int8" in entry.residual.dtype for entry in g.plan.entries)


@pytest.mark.parametrize("method", METHODS)
def test_kept_where_they_are_less(method):
    g = partitioned(lambda x, w: masked(x, w, method), *given((64, 64), (64, 64)))
    assert codes_of(g.forward) == codes_of(g.backward) == 0
    layer = "binary" if method in ("binarynet", "xnor") else "integer"
    kept = [op_name(node) for node in g.kept]
    assert f"fxmem.{layer}_linear[1]" in kept and not {"aten.mm", "aten.relu"} & set(kept)


@pytest.mark.parametrize("net", [normed, masked])
@pytest.mark.parametrize("method", METHODS)
def test_gradients(net, method):
    """The same kernels compute the same codes: to the bit."""

    def run(x, w):
        return net(x, w, method)

    found, wanted = (gradients(run, *given((64, 64), (64, 64)), policy=p) for p in ("exact", OFF))
    assert all(map(torch.equal, found, wanted))


def test_layers_that_share_an_input_share_its_codes():
    inputs = given((64, 64), *[(64, 64)] * 3)
    g = partitioned(shared, *inputs)
    assert codes_of(g.backward) <= 1
    found, wanted = (gradients(shared, *inputs, policy=p) for p in ("exact", "eager"))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_convolutions():
    def run(x, w):
        return integer.conv2d(F.silu(x.sin()), w, None, 1, 1)

    inputs = given((2, 8, 8, 8), (8, 8, 3, 3))
    g = partitioned(run, *inputs)
    assert g.backward.ops["fxmem.integer_conv2d_codes"] == 1
    found, wanted = (gradients(run, *inputs, policy=p) for p in ("exact", "eager"))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_refused_with_the_rule_that_recomputes():
    g = partitioned(normed, *given((64, 64), (64, 64)), policy=OFF)
    assert codes_of(g.forward) == codes_of(g.backward) == 0


def test_in_a_checkpoint_the_layer_is_computed_again_and_its_codes_serve():
    def run(x, w):
        return checkpoint(lambda x: normed(normed(x, w), w), x, use_reentrant=False)

    inputs = given((64, 64), (64, 64))
    g = partitioned(run, *inputs)
    # The first layer is computed again, for the second reads it; of the second, codes alone.
    assert g.backward.ops["fxmem.integer_linear"] == 1 and codes_of(g.backward) == 1
    found, wanted = (gradients(run, *inputs, policy=p) for p in ("exact", "eager"))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_reversible_chains():
    def run(a, b, *ws):
        for w in ws:
            a, b = b, a + normed(b, w).tanh()
        return a * b

    inputs = given((64, 64), (64, 64), *[(64, 64)] * 6)
    g = partitioned(run, *inputs, policy={"rules": {"reversible": {"force": True}}})
    assert any("reversible" in note for note in g.plan.notes)
    # Each is computed again for the state before it, and no codes beside it.
    assert codes_of(g.backward) == 0 and g.backward.ops["fxmem.integer_linear"] == 6
    found, wanted = (gradients(run, *inputs, policy=p) for p in ("exact", "eager"))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_an_input_that_the_forward_overwrites_is_not_read_again():
    def run(x, w):
        y = integer.linear(x, w)
        x.mul_(2)
        return y

    x, w = torch.randn(64, 64), leaf(64, 64)
    found, wanted = (gradients(run, x.clone(), w, policy=p) for p in ("exact", "eager"))
    assert all(map(torch.equal, found, wanted))


class TestGraph(TestCase):
    def test_recomputed(self):
        g = partitioned(normed, *given((64, 64), (64, 64)))
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[64, 64]
primals_2: float32[64, 64]
sin: float32[64, 64] = aten.sin.default(primals_1)
var_mean = aten.var_mean.correction(sin, [1], correction=0, keepdim=True)
getitem: float32[64, 1] = getitem(var_mean, 0)
getitem_1: float32[64, 1] = getitem(var_mean, 1)
add: float32[64, 1] = aten.add.Tensor(getitem, 1e-05)
rsqrt: float32[64, 1] = aten.rsqrt.default(add)
sub: float32[64, 64] = aten.sub.Tensor(sin, getitem_1)
mul: float32[64, 64] = aten.mul.Tensor(sub, rsqrt)
integer_linear = fxmem.integer_linear.default(mul, primals_2, None, int8)
getitem_5: uint8[0] = getitem(integer_linear, 3)
getitem_2: float32[64, 64] = getitem(integer_linear, 0)
return [getitem_2, primals_1, primals_2, getitem_1, rsqrt, getitem_5]""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
primals_1: float32[64, 64]
primals_2: float32[64, 64]
getitem_1: float32[64, 1]
rsqrt: float32[64, 1]
getitem_5: uint8[0]
tangents_1: float32[64, 64]
sin: float32[64, 64] = aten.sin.default(primals_1)
sub: float32[64, 64] = aten.sub.Tensor(sin, getitem_1)
mul: float32[64, 64] = aten.mul.Tensor(sub, rsqrt)
integer_linear_codes_default = fxmem.integer_linear_codes.default(mul, int8)
getitem_4: float32[64, 1] = getitem(integer_linear_codes_default, 1)
getitem_3: int8[64, 64] = getitem(integer_linear_codes_default, 0)
integer_linear_backward = fxmem.integer_linear_backward.default(tangents_1, getitem_3, getitem_4, getitem_5, primals_2, [64, 64], int8, True, True)
getitem_6: float32[64, 64] = getitem(integer_linear_backward, 0)
getitem_7: float32[64, 64] = getitem(integer_linear_backward, 1)
mul_2: float32[64, 64] = aten.mul.Tensor(getitem_6, 64)
sum_1: float32[64, 1] = aten.sum.dim_IntList(getitem_6, [1], True)
mul_3: float32[64, 64] = aten.mul.Tensor(getitem_6, mul)
sum_2: float32[64, 1] = aten.sum.dim_IntList(mul_3, [1], True)
mul_4: float32[64, 64] = aten.mul.Tensor(mul, sum_2)
sub_2: float32[64, 64] = aten.sub.Tensor(mul_2, sum_1)
sub_3: float32[64, 64] = aten.sub.Tensor(sub_2, mul_4)
div: float32[64, 1] = aten.div.Tensor(rsqrt, 64)
mul_5: float32[64, 64] = aten.mul.Tensor(div, sub_3)
cos: float32[64, 64] = aten.cos.default(primals_1)
mul_6: float32[64, 64] = aten.mul.Tensor(mul_5, cos)
return [mul_6, getitem_7]""",
        )

    def test_kept(self):
        g = partitioned(masked, *given((64, 64), (64, 64)))
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[64, 64]
primals_2: float32[64, 64]
mm: float32[64, 64] = aten.mm.default(primals_1, primals_2)
relu: float32[64, 64] = aten.relu.default(mm)
integer_linear = fxmem.integer_linear.default(relu, primals_2, None, int8)
getitem_1: int8[64, 64] = getitem(integer_linear, 1)
getitem_2: float32[64, 1] = getitem(integer_linear, 2)
getitem_3: uint8[0] = getitem(integer_linear, 3)
getitem: float32[64, 64] = getitem(integer_linear, 0)
le: bool[64, 64] = aten.le.Scalar(relu, 0)
permute: float32[64, 64] = aten.permute.default(primals_1, [1, 0])
return [getitem, primals_2, getitem_3, getitem_2, getitem_1, le, permute]""",
        )
