"""Sketched weight gradients: every spelling of the product, one sketch an input, and refusals."""

import pytest
import torch
from expecttest import TestCase
from torch import nn
from torch.nn import functional as F

from .tools import partitioned


def asked(ratio=0.5, **options):
    return {"min_bytes": 0, "rules": {"sketch": {"ratio": ratio, **options}}}


class Layer(nn.Module):
    """A weight [16, 16], applied by a function to what the graph would not compute again."""

    def __init__(self, apply, weight=(16, 16)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(weight) / 4)
        self.bias = nn.Parameter(torch.randn(16))
        self.first = nn.Parameter(torch.randn(16))
        self.register_buffer("mix", torch.randn(16, 16) / 4)
        self.apply_weight = apply

    def given(self, x):
        return (x + self.first) @ self.mix

    def forward(self, x):
        return self.apply_weight(self.given(x), self.weight, self.bias)


def images(x):
    return x.unflatten(1, (2, 16)).permute(0, 3, 1, 2)


SPELLINGS = {
    "linear": lambda x, w, b: F.linear(x, w, b),
    "linear without bias": lambda x, w, b: F.linear(x, w),
    "mm": lambda x, w, b: x.flatten(0, 1) @ w,
    "mm of a transposed input": lambda x, w, b: w @ x.flatten(0, 1).T,
    "addmm": lambda x, w, b: torch.addmm(b, x.flatten(0, 1), w),
    "matmul": lambda x, w, b: torch.matmul(x, w),
    "baddbmm of one": lambda x, w, b: torch.bmm(x.reshape(1, -1, 16), w[None]),
    "einsum": lambda x, w, b: torch.einsum("bti,oi->bto", x, w),
    "einsum to the front": lambda x, w, b: torch.einsum("bti,io->obt", x, w),
    "conv1x1": lambda x, w, b: F.conv2d(images(x), w[:, :, None, None], b),
    "conv1d": lambda x, w, b: F.conv1d(x.mT, w[..., None], b),
    "conv3d": lambda x, w, b: F.conv3d(images(x)[:, :, None], w[..., None, None, None], b),
    "half": lambda x, w, b: F.linear(x.bfloat16(), w.bfloat16()),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_product_is_found(spelling):
    layer, x = Layer(SPELLINGS[spelling]), torch.randn(3, 32, 16)
    g = partitioned(layer, x, policy=asked())
    (site,) = g.plan.sites
    assert site.rule == "sketch" and site.guarantee == "unbiased"
    assert site.nbytes == site.residual.nbytes // 2
    assert g.forward.ops["fxmem.sketch"] == g.backward.ops["fxmem.sketch"] == 1


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(16))
        self.register_buffer("mix", torch.randn(16, 16) / 4)
        self.q, self.k, self.v = (nn.Linear(16, 16, bias=False) for _ in range(3))

    def forward(self, x):
        x = (x + self.first) @ self.mix
        return self.q(x) + self.k(x) * 2 + self.v(x) * 3


def test_layers_of_one_input_share_a_sketch():
    g = partitioned(Shared(), torch.randn(32, 16), policy=asked(0.25))
    assert g.forward.ops["fxmem.sketch"] == 1 and len(g.plan.sites) == 1
    assert g.plan.after == 8 * 16 * 4 + 8
    # Casts of one value, which autocast makes one for each layer, are one value.
    with torch.autocast("cpu", torch.bfloat16):
        g = partitioned(Shared(), torch.randn(32, 16), policy=asked(0.25))
    assert g.forward.ops["fxmem.sketch"] == 1 and g.plan.after == 8 * 16 * 2 + 8


def test_a_weight_that_is_used_twice_has_a_sketch_of_each_input():
    layer = Layer(lambda x, w, b: F.linear(F.linear(x, w), w))
    g = partitioned(layer, torch.randn(32, 16), policy=asked())
    assert g.forward.ops["fxmem.sketch"] == len(g.plan.sites) == 2


def test_modules_are_chosen_by_name():
    model = nn.Sequential(*[nn.Linear(16, 16, bias=False) for _ in range(4)])
    for modules, kept in (
        ({r"0|1|2|3": 0.25}, [8, 8, 8]),
        ({r"1": 0.5, r"2": 0.25}, [16, 8]),
    ):
        policy = {"min_bytes": 0, "rules": {"sketch": {"modules": modules}}}
        g = partitioned(model, torch.randn(32, 16), policy=policy)
        assert [site.nbytes // 64 for site in g.plan.sites] == kept
    g = partitioned(model, torch.randn(32, 16), policy=asked(modules="3"))
    assert len(g.plan.sites) == 1


def test_lossy_presets_encode_the_sketch_as_well():
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(3)])
    policy = {**asked(0.25), "preset": "balanced"}
    g = partitioned(model, torch.randn(64, 64), policy=policy)
    assert g.plan.after < 2 * 16 * 64 * 4 // 3 and g.backward.ops["fxmem.decode"] == 2


def test_nothing_is_sketched_unless_it_is_asked_for():
    for rules in ({}, {"sketch": False}):
        policy = {"min_bytes": 0, "rules": rules}
        g = partitioned(Layer(SPELLINGS["linear"]), torch.randn(32, 16), policy=policy)
        assert "fxmem.sketch" not in g.forward.ops and not g.plan.notes


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_each_step_draws_anew_from_torchs_generator(inner):
    layer, x = Layer(SPELLINGS["linear"]), torch.randn(32, 16)
    compiled = torch.compile(layer, backend="fxmem", options={"inner": inner, **asked()})

    def gradient():
        layer.zero_grad()
        compiled(x).square().sum().backward()
        return layer.weight.grad.clone()

    gradient()
    torch.manual_seed(1)
    first, second = gradient(), gradient()
    torch.manual_seed(1)
    assert torch.equal(gradient(), first) and not torch.equal(first, second)


class TestGraphs(TestCase):
    def test_a_linear_layer(self):
        g = partitioned(Layer(SPELLINGS["linear"]), torch.randn(32, 16), policy=asked(0.25))
        # A seed and eight rows cross; the backward sketches what came back from the same seed.
        self.assertExpectedInline(
            g.forward.text,
            """\
primals_1: float32[16]
primals_2: float32[32, 16]
primals_3: float32[16, 16]
primals_4: float32[16, 16]
primals_5: float32[16]
inductor_seeds_default: int64[1] = prims.inductor_seeds.default(1, cpu)
slice_tensor: int64[1] = aten.slice.Tensor(inductor_seeds_default, 0, 0, 1)
add: float32[32, 16] = aten.add.Tensor(primals_2, primals_1)
mm: float32[32, 16] = aten.mm.default(add, primals_3)
sketch_default: float32[8, 16] = fxmem.sketch.default(mm, gaussian, 8, slice_tensor)
permute: float32[16, 16] = aten.permute.default(primals_4, [1, 0])
addmm: float32[32, 16] = aten.addmm.default(primals_5, mm, permute)
return [addmm, primals_3, primals_4, slice_tensor, sketch_default]""",
        )
        self.assertExpectedInline(
            g.backward.text,
            """\
primals_3: float32[16, 16]
primals_4: float32[16, 16]
slice_tensor: int64[1]
sketch_default: float32[8, 16]
tangents_1: float32[32, 16]
permute: float32[16, 16] = aten.permute.default(primals_4, [1, 0])
permute_1: float32[16, 16] = aten.permute.default(permute, [1, 0])
mm_1: float32[32, 16] = aten.mm.default(tangents_1, permute_1)
permute_2: float32[16, 32] = aten.permute.default(tangents_1, [1, 0])
permute_default: float32[32, 16] = aten.permute.default(permute_2, [1, 0])
sketch_default_1: float32[8, 16] = fxmem.sketch.default(permute_default, gaussian, 8, slice_tensor)
permute_default_1: float32[16, 8] = aten.permute.default(sketch_default_1, [1, 0])
mm_default: float32[16, 16] = aten.mm.default(permute_default_1, sketch_default)
sum_1: float32[1, 16] = aten.sum.dim_IntList(tangents_1, [0], True)
view: float32[16] = aten.view.default(sum_1, [16])
permute_5: float32[16, 16] = aten.permute.default(primals_3, [1, 0])
mm_3: float32[32, 16] = aten.mm.default(mm_1, permute_5)
sum_2: float32[1, 16] = aten.sum.dim_IntList(mm_3, [0], True)
view_1: float32[16] = aten.view.default(sum_2, [16])
return [view_1, None, None, mm_default, view]""",
        )
