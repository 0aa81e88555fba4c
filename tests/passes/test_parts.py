"""Of a storage of which the backward reads parts, copies of those are kept: exact."""

import pytest
import torch
from expecttest import assert_expected_inline

from fxmem.measure import kept

from .tools import gradients, leaf, partitioned

SMALL = {"min_bytes": 0}


def gated(x, w):
    """The first sixteenth of what a layer returns is read again, the rest is not."""
    h = x @ w
    return h[:, :4].sin() * h[:, 4:8]


def rows(x, w):
    """A part without gaps, whose copy must not be taken for a view of the whole."""
    part = (x @ w)[:8]
    return part @ part.t()


def chunks(x, w):
    a, *_, b = (x @ w).chunk(8, -1)
    return a @ b.t()


def transposed(x, w):
    part = (x @ w).t()[3:9]
    return part @ part.t()


def strided(x, w):
    part = (x @ w)[:, ::4]
    return part @ part.t()


def twice(x, w):
    """One part, read as it lies and as it does not."""
    part = (x @ w).view(16, 2, 32)[:, :, :8]
    return part.sin() @ part.transpose(1, 2).cos()


def integers(x, w):
    places = (x @ w).argsort(-1)[:, :3]
    return (x @ w).gather(1, places).sin()


def inputs():
    return leaf(16, 8), leaf(8, 64)


FUNCTIONS = {
    f.__name__: (f, nbytes)
    for f, nbytes in (
        (gated, 512),
        (rows, 2048),
        (chunks, 1024),
        (transposed, 384),
        (strided, 1024),
        (twice, 1024),
    )
}


@pytest.mark.parametrize(("f", "nbytes"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_parts(f, nbytes):
    g = partitioned(f, *inputs(), policy=SMALL)
    found = [(e.rule, e.nbytes) for e in g.plan.entries if e.residual.op == "aten.mm"]
    assert found == [("parts", nbytes)]
    sizes = [n.meta["val"].nbytes for n in g.kept if n.name.endswith("_part")]
    assert sum(sizes) == nbytes


def test_both_graphs():
    g = partitioned(transposed, *inputs(), policy=SMALL)
    lines = [line for line in g.forward.text.splitlines() if "part" in line]
    lines += g.backward.text.splitlines()
    assert_expected_inline(
        "\n".join(lines),
        """\
permute_1_part: float32[96] = aten.lift_fresh_copy.default(reshape_default)
return [mm_1, permute_1_part, permute_6, permute_7]
permute_1_part: float32[96]
permute_6: float32[8, 16]
permute_7: float32[64, 8]
tangents_1: float32[6, 6]
reshape_default: float32[16, 6] = aten.reshape.default(permute_1_part, [16, 6])
permute_default: float32[16, 6] = aten.permute.default(reshape_default, [0, 1])
mm_2: float32[16, 6] = aten.mm.default(permute_default, tangents_1)
permute_3: float32[6, 16] = aten.permute.default(permute_default, [1, 0])
mm_3: float32[6, 16] = aten.mm.default(tangents_1, permute_3)
permute_4: float32[6, 16] = aten.permute.default(mm_2, [1, 0])
add: float32[6, 16] = aten.add.Tensor(mm_3, permute_4)
full_default: float32[64, 16] = aten.full.default([64, 16], 0, dtype=torch.float32, layout=torch.strided, device=cpu, pin_memory=False)
slice_scatter: float32[64, 16] = aten.slice_scatter.default(full_default, add, 0, 3, 9)
permute_5: float32[16, 64] = aten.permute.default(slice_scatter, [1, 0])
mm_4: float32[8, 64] = aten.mm.default(permute_6, permute_5)
mm_5: float32[16, 8] = aten.mm.default(permute_5, permute_7)
return [mm_5, mm_4]""",
    )


def returned(x, w):
    h = x @ w
    part = h[:8]
    return h, part @ part.t()


def whole(x, w):
    h = x @ w
    return h[:8] @ h[:8].t(), h @ h.t()


def little(x, w):
    part = (x @ w)[:15]
    return part @ part.t()


REFUSED = {
    "returned": (returned, {}),
    "whole": (whole, {}),
    "small": (rows, {"min_bytes": 2049}),
    "little": (little, {}),
    "forbidden": (rows, {"rules": {"parts": False}}),
}


@pytest.mark.parametrize(("f", "policy"), REFUSED.values(), ids=REFUSED)
def test_what_stays(f, policy):
    g = partitioned(f, *inputs(), policy={**SMALL, **policy})
    assert [e.rule for e in g.plan.sites if e.rule == "parts"] == []


def test_the_caller_holds_it_too():
    """So copies would be more."""
    assert any(
        "the caller holds it too" in why
        for why in partitioned(returned, *inputs(), policy=SMALL).why
    )


BITS = [*((f, False) for f, _ in FUNCTIONS.values()), (integers, False), (twice, True)]


@pytest.mark.parametrize(("f", "dynamic"), [*BITS, (chunks, True), (returned, False)])
def test_gradients_are_the_same_to_the_bit(f, dynamic):
    given = inputs()
    plain = {**SMALL, "rules": {"parts": False}}
    found, want = (
        gradients(f, *given, policy=policy, dynamic=dynamic) for policy in (SMALL, plain)
    )
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


@pytest.mark.parametrize("f", [rows, transposed])
def test_inductor_copies_them_too(f):
    found = []
    for on in (False, True):
        torch._dynamo.reset()
        options = {**SMALL, "rules": {"parts": on}}
        compiled = torch.compile(f, backend="fxmem", options=options)
        found.append(kept(lambda f=compiled: f(*inputs())).nbytes)
    assert found[0] - found[1] == 4096 - FUNCTIONS[f.__name__][1]
