"""Calling the operators: what is refused, gradients, tracing with symbolic sizes, Inductor."""

import operator
import re
from functools import partial

import pytest
import torch
from samples import LAYOUTS
from torch.fx.experimental.proxy_tensor import make_fx

from fxmem import ops
from fxmem.ops import decomposition, layout, reference

x = torch.zeros(100)
codes, scales = ops.encode(x, 4, 64)
mask = torch.zeros(9, dtype=torch.bool)

REFUSED = {
    "encode-bits": ("encode", (x, 9, 64), "bits must be 2 to 8; got 9"),
    "encode-group": ("encode", (x, 8, 48), "group must be 32, 64, 128 or 256; got 48"),
    "encode-float64": (
        "encode",
        (x.double(), 8, 64),
        "x must be float32, bfloat16 or float16; got",
    ),
    "encode-integer": ("encode", (x.int(), 8, 64), "x must be float32, bfloat16 or float16; got"),
    "encode-seed": (
        "encode",
        (x, 8, 64, torch.zeros(2, dtype=torch.int64)),
        "seed must be an int64 tensor of one element; got",
    ),
    "decode-bits": ("decode", (codes, scales, [100], [1], 1, 64, x.dtype), "bits must be"),
    "decode-dtype": (
        "decode",
        (codes, scales, [100], [1], 4, 64, torch.float64),
        "dtype must be float32, bfloat16 or float16; got",
    ),
    "decode-codes": (
        "decode",
        (codes, scales, [102], [1], 4, 64, x.dtype),
        r"codes must be 51 contiguous .* for size \[102\].*; got 50 of",
    ),
    "decode-scales": (
        "decode",
        (codes, scales[:1], [100], [1], 4, 64, x.dtype),
        r"scales must be 4 contiguous .* for size \[100\].*; got 2 of",
    ),
    "decode-stride": (
        "decode",
        (codes, scales, [100], [2], 4, 64, x.dtype),
        r"stride must be dense for size \[100\], a permutation of a contiguous layout; got \[2\]",
    ),
    "pack-bits": ("pack", (mask, 9), "bits must be 1 to 8; got 9"),
    "pack-dtype": ("pack", (x, 1), "x must be bool or uint8; got"),
    "unpack-bytes": (
        "unpack",
        (ops.pack(mask), [17], [1], 1, torch.bool),
        r"packed must be 3 contiguous .* for size \[17\] and bits 1; got 2 of",
    ),
    "unpack-dtype": (
        "unpack",
        (ops.pack(mask, 2), [9], [1], 2, torch.bool),
        "dtype must be uint8, or bool for one bit; got",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kernel", ["op", "reference"])
def test_refused_in_a_sentence(case, kernel):
    op, args, sentence = REFUSED[case]
    function = getattr(torch.ops.fxmem if kernel == "op" else reference, op)
    with pytest.raises(RuntimeError, match=re.escape(f"fxmem::{op}: ") + sentence):
        function(*args)


def test_tracing_refuses_as_running_does():
    with pytest.raises(RuntimeError, match="fxmem::encode: bits must be 2 to 8; got 9"):
        torch.ops.fxmem.encode(x.to("meta"), 9, 64)


def test_backward_raises_a_sentence():
    _, scales = ops.encode(torch.randn(64, requires_grad=True), 8, 64)
    with pytest.raises(RuntimeError, match="fxmem::encode has no derivative"):
        scales.sum().backward()
    scales = scales.detach().requires_grad_()
    y = ops.decode(torch.zeros(64, dtype=torch.int8), scales, [64], [1], 8, 64, torch.float32)
    with pytest.raises(RuntimeError, match="fxmem::decode has no derivative"):
        y.sum().backward()


def test_autocast_changes_nothing():
    value = torch.randn(256)
    plain = ops.encode(value, 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ops.encode(value, 4)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 4097])
def test_bytes_are_as_announced(n):
    for bits in (8, 5, 4, 3, 2):
        kept = ops.encode(torch.randn(n), bits, 128)
        assert sum(t.nbytes for t in kept) == ops.encoded_bytes(n, bits, 128)
    for bits in range(1, 9):
        packed = ops.pack(torch.zeros(n, dtype=torch.uint8), bits)
        assert packed.nbytes == ops.packed_bytes(n, bits) == -(-bits * n // 8)


@pytest.mark.parametrize("name", LAYOUTS)
def test_memory_order(name):
    base = LAYOUTS[name](torch.arange(12.0 * 10 * 6 * 4).view(12, 10, 6, 4))
    flat, stride = layout.flatten(base), ops.memory_stride(base)
    if name in ("gaps", "expanded"):
        assert torch.equal(flat, base.flatten())
    else:
        assert flat.data_ptr() == base.data_ptr() and flat.stride() == (1,)
    assert torch.equal(layout.unflatten(flat, base.shape, stride), base)


def dynamic(tensor):
    torch._dynamo.mark_dynamic(tensor, 0)
    return tensor


def inductor_with_decompositions(graph, inputs):
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    table = {**select_decomp_table(), **decomposition.DECOMPOSITIONS}
    return compile_fx(graph, inputs, decompositions=table)


# One of each suffices: Inductor takes minutes to compile the rest, whose graphs differ in a shift.
@pytest.mark.parametrize("bits, seed", [(4, None), (8, 11)], ids=["nearest", "stochastic"])
def test_decomposition_compiled_by_inductor(bits, seed):
    seed = None if seed is None else torch.tensor([seed])

    def both(value, order):
        like = value.permute(order)
        code, scale = torch.ops.fxmem.encode(like, bits, 64, seed)
        shape = like.size(), like.stride(), bits, 64, like.dtype
        return code, scale, torch.ops.fxmem.decode(code, scale, *shape)

    compiled = torch.compile(both, fullgraph=True, backend=inductor_with_decompositions)
    for dtype in (torch.float32, torch.bfloat16):
        for rows, order in ((6, (0, 1, 2)), (9, (1, 0, 2))):
            value = dynamic(torch.randn(rows, 5, 64).to(dtype))
            for got, wanted in zip(compiled(value, order), both(value, order), strict=True):
                assert torch.equal(got, wanted) and got.stride() == wanted.stride()


def targets(function, *args, **options):
    graph = make_fx(function, **options)(*args).graph
    calls = [node.target for node in graph.nodes if node.op == "call_function"]
    return {str(target) for target in calls if target is not operator.getitem}


def test_decomposition_is_plain_aten_and_copies_nothing():
    value = torch.randn(6, 5, 64).transpose(0, 1)
    for bits in (8, 4, 2):
        seen = targets(partial(decomposition.encode, bits=bits, group=64), value)
        assert all(name.startswith("aten.") for name in seen)
        assert not seen & {"aten.cat.default", "aten.clone.default"}


def test_decomposition_declines_a_ragged_tensor():
    code, scale = ops.encode(torch.randn(1000), 4, 64)
    assert decomposition.encode(torch.randn(1000), 4, 64) is NotImplemented
    shape = (1000,), (1,), 4, 64, torch.float32
    assert decomposition.decode(code, scale, *shape) is NotImplemented


def test_bit_stream_decomposition_with_any_size():
    def both(value):
        packed = decomposition.pack(value, 1)
        shape = value.size(), layout.memory_stride(value)
        return packed, decomposition.unpack(packed, *shape, 1, torch.bool)

    graph = make_fx(both, tracing_mode="symbolic")(torch.rand(7, 9) > 0.5)
    for shape in ((7, 9), (8, 8), (3, 1001)):
        value = torch.rand(shape) > 0.5
        packed, back = graph(value)
        assert torch.equal(packed, ops.pack(value)) and torch.equal(back, value)
