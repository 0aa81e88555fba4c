"""Places that a sort, a maximum or a search gives, in as many bits as there are places need."""

import pytest
import torch
from expecttest import TestCase
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned, renumbered

BITS = {"min_bytes": 0}
OFF = {"rules": {"places": False}, **BITS}


def sorted_(x, w):
    return torch.sort(x @ w, dim=0)[0].sin()


def found_by(search, **options):
    """What a search finds, read again at its place."""

    def f(x, w):
        h = x @ w
        return h.gather(-1, search(h, **options))

    return f


def least(x, w):
    h = x @ w
    return h.flatten().index_select(0, h.argmin().view(1))


def second(search, *args):
    return lambda x, w: search(x @ w, *args)[0].sin()


def between(x, w):
    places = torch.searchsorted(w.detach()[0].sort()[0], (x @ w).detach())
    return w.flatten()[places] * x.mean()


def pooled(pool, *args, **options):
    return lambda x, w: pool((x @ w).t()[None], *args, **options).sin()


CASES = {
    "sort": (second(torch.sort), 5),
    "stable sort": (lambda x, w: torch.sort(x @ w, stable=True, dim=0)[0].sin(), 9),
    "sort of columns": (lambda x, w: torch.sort((x @ w).t(), dim=0)[0].sin(), 5),
    "argsort": (found_by(torch.argsort), 5),
    "topk": (second(torch.topk, 3), 5),
    "max": (second(torch.max, 0), 9),
    "min": (second(torch.min, 1), 5),
    "max of parts": (lambda x, w: (x @ w).view(-1, 4, 5).max(-1)[0].sin(), 3),
    "cummax": (second(torch.cummax, 1), 5),
    "cummin": (second(torch.cummin, 0), 9),
    "kthvalue": (second(torch.kthvalue, 3), 5),
    "mode": (second(torch.mode), 5),
    "median": (second(torch.median, -1), 5),
    "nanmedian": (second(torch.nanmedian, -1), 5),
    "argmax": (found_by(torch.argmax, dim=-1, keepdim=True), 5),
    "argmin of all": (least, 13),
    "searchsorted": (between, 5),
    "pool of a large window": (pooled(F.max_pool1d, 60, 1), 9),
    "adaptive pool": (pooled(F.adaptive_max_pool2d, (7, 5)), 13),
    "fractional pool": (pooled(F.fractional_max_pool2d, 2, output_size=(9, 7)), 13),
}


@pytest.mark.parametrize(("f", "bits"), CASES.values(), ids=CASES)
def test_bits_and_gradient(f, bits):
    given = leaf(300, 16), leaf(16, 20)
    (entry,) = (e for e in partitioned(f, *given, policy=BITS).plan.entries if e.rule == "places")
    assert entry.guarantee == "exact"
    assert entry.action == f"{bits} bit{'s' * (bits > 1)} an element"
    elements = entry.residual.nbytes // 8
    parts = [8] * (bits // 8) + [bits % 8]
    assert entry.nbytes == sum(-(-elements * width // 8) for width in parts)
    torch.manual_seed(0)  # of the fractional pool's own samples
    packed = gradients(f, *given, policy=BITS)
    torch.manual_seed(0)
    assert all(map(torch.equal, packed, gradients(f, *given, policy=OFF)))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.bfloat16, float("nan")), (torch.float64, float("inf")), (torch.float32, -float("inf"))],
)
def test_any_value_has_its_place(dtype, value):
    x, w = (t.detach().to(dtype) for t in (leaf(40, 16), leaf(16, 20)))
    x[3] = value
    given = x.requires_grad_(), w.requires_grad_()
    for f in (sorted_, second(torch.max, 0), second(torch.cummax, 1), second(torch.mode)):
        wanted = gradients(f, *given, policy=OFF)
        torch.testing.assert_close(
            gradients(f, *given, policy=BITS), wanted, rtol=0, atol=0, equal_nan=True
        )


class TestGraph(TestCase):
    def test_two_streams(self):
        g = partitioned(sorted_, leaf(300, 16), leaf(16, 20), policy=BITS)
        self.assertExpectedInline(
            renumbered(g.forward.text),
            """\
primals_1: float32[300, 16]
primals_2: float32[16, 20]
mm: float32[300, 20] = aten.mm.default(primals_1, primals_2)
sort = aten.sort.default(mm, 0)
getitem: float32[300, 20] = getitem(sort, 0)
getitem_1: int64[300, 20] = getitem(sort, 1)
reshape_default: int64[6000] = aten.reshape.default(getitem_1, [-1])
convert_element_type_default: uint8[6000] = prims.convert_element_type.default(reshape_default, torch.uint8)
getitem_1_bits: uint8[6000] = fxmem.pack.default(convert_element_type_default, 8)
bitwise_right_shift_tensor_scalar: int64[6000] = aten.bitwise_right_shift.Tensor_Scalar(reshape_default, 8)
convert_element_type_default_1: uint8[6000] = prims.convert_element_type.default(bitwise_right_shift_tensor_scalar, torch.uint8)
getitem_1_bits_1: uint8[750] = fxmem.pack.default(convert_element_type_default_1, 1)
sin: float32[300, 20] = aten.sin.default(getitem)
cos: float32[300, 20] = aten.cos.default(getitem)
permute: float32[16, 300] = aten.permute.default(primals_1, [1, 0])
permute_1: float32[20, 16] = aten.permute.default(primals_2, [1, 0])
return [sin, getitem_1_bits, getitem_1_bits_1, cos, permute, permute_1]""",
        )
        self.assertExpectedInline(
            renumbered(g.backward.text),
            """\
getitem_1_bits: uint8[6000]
getitem_1_bits_1: uint8[750]
cos: float32[300, 20]
permute: float32[16, 300]
permute_1: float32[20, 16]
tangents_1: float32[300, 20]
mul: float32[300, 20] = aten.mul.Tensor(tangents_1, cos)
full_default: float32[300, 20] = aten.full.default([300, 20], 0, dtype=torch.float32, layout=torch.strided, device=cpu, pin_memory=False)
unpack_default: uint8[300, 20] = fxmem.unpack.default(getitem_1_bits, [300, 20], [20, 1], 8, torch.uint8)
convert_element_type_default: int64[300, 20] = prims.convert_element_type.default(unpack_default, torch.int64)
unpack_default_1: uint8[300, 20] = fxmem.unpack.default(getitem_1_bits_1, [300, 20], [20, 1], 1, torch.uint8)
convert_element_type_default_1: int64[300, 20] = prims.convert_element_type.default(unpack_default_1, torch.int64)
bitwise_left_shift_tensor_scalar: int64[300, 20] = aten.bitwise_left_shift.Tensor_Scalar(convert_element_type_default_1, 8)
bitwise_or_tensor: int64[300, 20] = aten.bitwise_or.Tensor(convert_element_type_default, bitwise_left_shift_tensor_scalar)
scatter: float32[300, 20] = aten.scatter.src(full_default, 0, bitwise_or_tensor, mul)
mm: float32[16, 20] = aten.mm.default(permute, scatter)
mm_1: float32[300, 16] = aten.mm.default(scatter, permute_1)
return [mm_1, mm]""",
        )


def test_of_one_of_a_known_number_alone():
    x, w = leaf(300, 16), leaf(16, 20)
    torch._dynamo.mark_dynamic(x, 0)
    g = partitioned(sorted_, x, w, policy=BITS)
    assert "places: how many places there are is not known when compiling" in " ".join(g.why)
    along = partitioned(second(torch.sort), x, w, policy=BITS)
    assert any(e.action == "5 bits an element" for e in along.plan.entries)


def test_compiled_by_inductor():
    given = leaf(300, 16), leaf(16, 300)
    compiled = torch.compile(sorted_, backend="fxmem", options=BITS)
    found, wanted = (torch.autograd.grad(f(*given).sum(), given) for f in (compiled, sorted_))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
