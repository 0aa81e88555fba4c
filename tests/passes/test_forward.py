"""Rules on activations: what becomes of a graph."""

import torch
import torch.nn.functional as F
from expecttest import TestCase
from torch import nn

from fxmem.passes.graph import stable_text
from fxmem.transform import transform

from .blocks import MLP, Gated, quantized
from .dialects import aten, symbolic


def text(gm, policy=None):
    return stable_text(transform(gm, policy).graph)


class TestGraphs(TestCase):
    def test_from_output(self):
        self.assertExpectedInline(
            text(symbolic(MLP(nn.GELU()))),
            """\
x
up = up(x)
from_output_default = fxmem.from_output.default(up, gelu, [])
getitem = getitem(from_output_default, 0)
down = down(getitem)
return down""",
        )

    def test_from_output_by_hand(self):
        def gelu_new(x):
            return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))

        gm = aten(MLP(gelu_new), torch.randn(4, 8))
        self.assertExpectedInline(
            text(gm),
            """\
arg0_1: float32[4, 8]
_param_constant0: float32[16, 8] = _param_constant0()
t: float32[8, 16] = aten.t.default(_param_constant0)
_param_constant1: float32[16] = _param_constant1()
addmm: float32[4, 16] = aten.addmm.default(_param_constant1, arg0_1, t)
from_output_default = fxmem.from_output.default(addmm, gelu_tanh, [])
getitem: float32[4, 16] = getitem(from_output_default, 0)
_param_constant2: float32[8, 16] = _param_constant2()
t_1: float32[16, 8] = aten.t.default(_param_constant2)
_param_constant3: float32[8] = _param_constant3()
addmm_1: float32[4, 8] = aten.addmm.default(_param_constant3, getitem, t_1)
return addmm_1""",
        )

    def test_cast_that_stays(self):
        gm = symbolic(MLP(lambda h: F.silu(h.float()).to(torch.bfloat16)))
        self.assertExpectedInline(
            text(gm),
            """\
x
up = up(x)
from_output_default = fxmem.from_output.default(up, silu, [])
getitem = getitem(from_output_default, 0)
to = to(getitem, torch.bfloat16)
down = down(to)
return down""",
        )

    def test_gated(self):
        self.assertExpectedInline(
            text(symbolic(Gated())),
            """\
x
gate = gate(x)
up = up(x)
down_weight = down.weight()
down_bias = down.bias()
gated_linear_default = fxmem.gated_linear.default(gate, up, down_weight, down_bias, silu, [])
return gated_linear_default""",
        )

    def test_gated_commuted(self):
        gm = aten(Gated(commuted=True), torch.randn(4, 8))
        self.assertExpectedInline(
            text(gm),
            """\
arg0_1: float32[4, 8]
_param_constant0: float32[16, 8] = _param_constant0()
t: float32[8, 16] = aten.t.default(_param_constant0)
_param_constant1: float32[16] = _param_constant1()
addmm: float32[4, 16] = aten.addmm.default(_param_constant1, arg0_1, t)
_param_constant2: float32[16, 8] = _param_constant2()
t_1: float32[8, 16] = aten.t.default(_param_constant2)
_param_constant3: float32[16] = _param_constant3()
addmm_1: float32[4, 16] = aten.addmm.default(_param_constant3, arg0_1, t_1)
gated_default: float32[4, 16] = fxmem.gated.default(addmm, addmm_1, silu, [])
_param_constant4: float32[8, 16] = _param_constant4()
t_2: float32[16, 8] = aten.t.default(_param_constant4)
_param_constant5: float32[8] = _param_constant5()
addmm_2: float32[4, 8] = aten.addmm.default(_param_constant5, gated_default, t_2)
return addmm_2""",
        )

    def test_quantized_gradient(self):
        gm = aten(MLP(nn.Tanh()), torch.randn(4, 8))
        self.assertExpectedInline(
            text(gm, quantized(bits=1)),
            """\
arg0_1: float32[4, 8]
_param_constant0: float32[16, 8] = _param_constant0()
t: float32[8, 16] = aten.t.default(_param_constant0)
_param_constant1: float32[16] = _param_constant1()
addmm: float32[4, 16] = aten.addmm.default(_param_constant1, arg0_1, t)
few_bit_default = fxmem.few_bit.default(addmm, tanh, [], [0.7903856366072508], [0.8455384888137443, 0.28688129468549395], 1, True)
getitem: float32[4, 16] = getitem(few_bit_default, 0)
_param_constant2: float32[8, 16] = _param_constant2()
t_1: float32[16, 8] = aten.t.default(_param_constant2)
_param_constant3: float32[8] = _param_constant3()
addmm_1: float32[4, 8] = aten.addmm.default(_param_constant3, getitem, t_1)
return addmm_1""",
        )

    def test_quantized_gradient_of_steps(self):
        gm = symbolic(MLP(nn.LeakyReLU(0.25)))
        self.assertExpectedInline(
            text(gm, quantized(bits=4)),
            """\
x
up = up(x)
few_bit_default = fxmem.few_bit.default(up, leaky_relu, [0.25], [], [0.25, 1.0], 1, False)
getitem = getitem(few_bit_default, 0)
down = down(getitem)
return down""",
        )

    def test_quantized_gradient_drawn(self):
        gm = aten(MLP(nn.Sigmoid()), torch.randn(4, 8))
        self.assertExpectedInline(
            text(gm, quantized(bits=1, unbiased=True)),
            """\
arg0_1: float32[4, 8]
_param_constant0: float32[16, 8] = _param_constant0()
t: float32[8, 16] = aten.t.default(_param_constant0)
_param_constant1: float32[16] = _param_constant1()
addmm: float32[4, 16] = aten.addmm.default(_param_constant1, arg0_1, t)
randint_low: int64[1] = aten.randint.low(-9223372036854775808, 9223372036854775807, [1], dtype=torch.int64, device=cpu)
few_bit_default = fxmem.few_bit.default(addmm, sigmoid, [], [], [0.0, 0.25], 1, False, randint_low)
getitem: float32[4, 16] = getitem(few_bit_default, 0)
_param_constant2: float32[8, 16] = _param_constant2()
t_1: float32[16, 8] = aten.t.default(_param_constant2)
_param_constant3: float32[8] = _param_constant3()
addmm_1: float32[4, 8] = aten.addmm.default(_param_constant3, getitem, t_1)
return addmm_1""",
        )

    def test_quantized_gradient_drawn_where_no_device_is_known(self):
        gm = symbolic(MLP(nn.Sigmoid()))
        self.assertExpectedInline(
            text(gm, quantized(bits=1, unbiased=True)),
            """\
x
up = up(x)
getattr_1 = getattr(up, device)
randint_low = aten.randint.low(-9223372036854775808, 9223372036854775807, [1], dtype=torch.int64, device=getattr_1)
few_bit_default = fxmem.few_bit.default(up, sigmoid, [], [], [0.0, 0.25], 1, False, randint_low)
getitem = getitem(few_bit_default, 0)
down = down(getitem)
return down""",
        )

    def test_multi_use(self):
        def f(x):
            gate = torch.sigmoid(x)
            return F.linear(x * gate, torch.ones(8, 8)) + gate

        self.assertExpectedInline(
            text(symbolic(f), quantized(bits=1)),
            """\
x
few_bit_default = fxmem.few_bit.default(x, sigmoid, [], [1.1245819245022626], [0.23012495997171595, 0.13999060777289926], 1, True)
getitem = getitem(few_bit_default, 0)
mul = mul(x, getitem)
_tensor_constant0 = _tensor_constant0()
linear = linear(mul, _tensor_constant0)
add = add(linear, getitem)
return add""",
        )
