"""Calling the activation operators: layouts, tracing with symbolic sizes, threads, refusals."""

import re

import pytest
import torch
from activation_samples import coding, functions, layouts
from samples import LAYOUTS
from torch import library

from fxmem import ops
from fxmem.activations import calculus
from fxmem.activations.table import TABLE
from fxmem.ops import layout
from fxmem.ops.activations.operators import reference

from .test_ops_samples import DEVICES, leaves

fxmem = torch.ops.fxmem
DIFFERENTIABLE = ("few_bit", "from_output", "gated")

x = torch.zeros(100)
gelu = coding("gelu")
codes = torch.zeros(38, dtype=torch.uint8)
levels = gelu[3]
integer = "must be float32, bfloat16, float16 or float64; got"
unknown = "function must be one of the table's; got prelu"
no_inverse = "function must be one whose slope follows from its output, with parameters .*; got "

REFUSED = {
    "classify-bits": ("classify", (x, [0.0], 9), "bits must be 1 to 8; got 9"),
    "classify-dtype": ("classify", (x.int(), [0.0], 1), f"x {integer}"),
    "classify-order": ("classify", (x, [1.0, 0.0], 2), "borders must be in ascending order; got"),
    "classify-nan": ("classify", (x, [float("nan")], 2), "borders must be in ascending order; got"),
    "classify-count": (
        "classify",
        (x, [0.0] * 4, 2),
        "borders must be at most 3 for bits 2; got 4",
    ),
    "lookup-bits": (
        "lookup",
        (codes, levels, 0, [100], [1], x.dtype),
        "bits must be 1 to 8; got 0",
    ),
    "lookup-levels": (
        *("lookup", (codes, [0.0] * 9, 3, [100], [1], x.dtype)),
        "levels must be 1 to 8 for bits 3; got 9",
    ),
    "lookup-none": (
        "lookup",
        (codes, [], 3, [100], [1], x.dtype),
        "levels must be 1 to 8 .*; got 0",
    ),
    "lookup-dtype": ("lookup", (codes, levels, 3, [100], [1], torch.int32), f"dtype {integer}"),
    "lookup-codes": (
        *("lookup", (codes, levels, 3, [102], [1], x.dtype)),
        r"codes must be 39 contiguous .* for size \[102\] and bits 3; got 38 of",
    ),
    "lookup-stride": (
        "lookup",
        (codes, levels, 3, [100], [2], x.dtype),
        "stride must be dense for",
    ),
    "few_bit-bits": ("few_bit", (x, *gelu[:4], 9, False), "bits must be 1 to 8; got 9"),
    "few_bit-dtype": ("few_bit", (x.long(), *gelu), f"x {integer}"),
    "few_bit-function": ("few_bit", (x, "prelu", *gelu[1:]), unknown),
    "few_bit-gated": ("few_bit", (x, "swiglu", *gelu[1:]), "function must be one of the table's"),
    "few_bit-parameters": (
        *("few_bit", (x, "gelu", [1.0], *gelu[2:])),
        "parameters must be 0 for gelu; got 1",
    ),
    "few_bit-borders": (
        *("few_bit", (x, "gelu", [], [0.0], levels, 3)),
        "borders must be 7 for 8 levels of gelu; got 1",
    ),
    "few_bit-stepwise": (
        *("few_bit", (x, "relu", [], [0.0], [0.0, 1.0], 1)),
        "borders must be 0 for 2 levels of relu; got 1",
    ),
    "few_bit-drawn": (
        *("few_bit", (x, *gelu, torch.zeros(1, dtype=torch.int64))),
        "borders must be 0 for 8 levels of gelu, drawn; got 7",
    ),
    "few_bit-descending": (
        *("few_bit", (x, "gelu", [], [], [1.0, 0.0], 1, False, torch.zeros(1, dtype=torch.int64))),
        "levels must be in ascending order; got",
    ),
    "few_bit-seed": (
        *("few_bit", (x, "gelu", [], [], [0.0, 1.0], 1, False, torch.zeros(2))),
        "seed must be an int64 tensor of one element; got",
    ),
    "few_bit_backward-codes": (
        *("few_bit_backward", (x, codes[1:], levels, 3, [1])),
        r"codes must be 38 contiguous .* for size \[100\] and bits 3; got 37 of",
    ),
    "few_bit_backward-kind": (
        *("few_bit_backward", (x, codes.char(), levels, 3, [1])),
        "codes must be 38 contiguous",
    ),
    "few_bit_backward-dtype": (
        "few_bit_backward",
        (x.int(), codes, levels, 3, [1]),
        f"grad {integer}",
    ),
    "few_bit_backward-stride": (
        *("few_bit_backward", (x, codes, levels, 3, [3])),
        "stride must be dense for size",
    ),
    "from_output-function": ("from_output", (x, "prelu", []), unknown),
    "from_output-dtype": ("from_output", (x.bool(), "gelu", []), f"x {integer}"),
    "from_output-parameters": (
        "from_output",
        (x, "elu", []),
        "parameters must be 1 for elu; got 0",
    ),
    "from_output-softplus": ("from_output", (x, "softplus", [1.0, 2.0]), no_inverse + "softplus"),
    "from_output-leaky": ("from_output", (x, "leaky_relu", [-1.0]), no_inverse + "leaky_relu"),
    "from_output_backward-branch": (
        *("from_output_backward", (x, x, codes[:12], "gelu", [])),
        r"branch must be 13 contiguous .* for size \[100\] and bits 1; got 12 of",
    ),
    "from_output_backward-monotone": (
        *("from_output_backward", (x, x, codes[:13], "tanh", [])),
        "branch must be 0 contiguous",
    ),
    "from_output_backward-grad": (
        *("from_output_backward", (x[1:], x, codes[:13], "gelu", [])),
        "grad must be of the shape and dtype of y; got",
    ),
    "gated-function": ("gated", (x, x, "prelu", []), unknown),
    "gated-dtype": ("gated", (x.int(), x.int(), "silu", []), f"gate {integer}"),
    "gated-up": (
        "gated",
        (x, x.half(), "silu", []),
        "up must be of the shape and dtype of gate; got",
    ),
    "gated-parameters": ("gated", (x, x, "silu", [1.0]), "parameters must be 0 for silu; got 1"),
    "gated_backward-grad": (
        *("gated_backward", (x[:1], x, x, "silu", [])),
        "grad must be of the shape and dtype of gate; got",
    ),
    "gated_backward-up": (
        *("gated_backward", (x, x, x[:1], "silu", [])),
        "up must be of the shape and dtype of gate; got",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kernel", ["op", "reference"])
def test_refused_in_a_sentence(case, kernel):
    op, args, sentence = REFUSED[case]
    function = getattr(fxmem if kernel == "op" else reference, op)
    with pytest.raises(RuntimeError, match=re.escape(f"fxmem::{op}: ") + sentence):
        function(*args)


def test_tracing_refuses_as_running_does():
    with pytest.raises(RuntimeError, match="fxmem::few_bit: function must be one of the table's"):
        fxmem.few_bit(x.to("meta"), "prelu", *gelu[1:])
    with pytest.raises(RuntimeError, match="fxmem::from_output: function must be one whose slope"):
        fxmem.from_output(x.to("meta"), "elu", [-1.0])


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    for sample in layouts(device, ["transposed", "gaps", "0-dim"]):
        operator = getattr(fxmem, sample.op).default
        differentiated = sample.op in DIFFERENTIABLE
        args = [
            a.detach().requires_grad_(differentiated and a.is_floating_point())
            if torch.is_tensor(a)
            else a
            for a in sample.args
        ]
        library.opcheck(operator, tuple(args), raise_exception=True)


def test_fake_kernels_tell_what_the_kernels_return():
    for sample in (*layouts("cpu"), *functions("cpu")):
        with torch._subclasses.FakeTensorMode() as mode:
            fake = [mode.from_tensor(a) if torch.is_tensor(a) else a for a in sample.args]
            told = getattr(fxmem, sample.op).default(*fake)
        for a, b in zip(leaves(told), leaves(sample()), strict=True):
            wanted = (b.shape, b.dtype, b.stride(), b.device)
            assert (a.shape, a.dtype, a.stride(), a.device) == wanted, sample.name


@pytest.mark.parametrize("name", LAYOUTS)
def test_results_have_the_layout_of_the_input(name):
    value = LAYOUTS[name](torch.randn(12, 10, 6, 4))
    y, stream = fxmem.few_bit(value, *gelu)
    assert y.stride() == ops.memory_stride(value)
    flat_y, flat_stream = fxmem.few_bit(layout.flatten(value).clone(), *gelu)
    assert torch.equal(layout.flatten(y), flat_y) and torch.equal(stream, flat_stream)
    y, branch = fxmem.from_output(value, "mish", [])
    assert y.stride() == ops.memory_stride(value)
    assert torch.equal(branch, fxmem.classify(value, calculus.turning_points(TABLE["mish"]), 1))


def test_threads_change_nothing():
    value, grad, threads = torch.randn(300_001), torch.randn(300_001), torch.get_num_threads()
    seed = torch.tensor([5])

    def everything():
        drawn = fxmem.few_bit(value, *coding("mish", drawn=True), seed)
        y, branch = fxmem.from_output(value, "gelu", [])
        back = fxmem.from_output_backward(grad, y, branch, "gelu", [])
        return *drawn, y, branch, back, *fxmem.gated_backward(grad, value, y, "silu", [])

    try:
        torch.set_num_threads(1)
        alone = everything()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(alone, everything(), strict=True))
    finally:
        torch.set_num_threads(threads)
