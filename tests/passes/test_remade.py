"""What a few pointwise functions make of other kept values is not kept beside them."""

import pytest
import torch
from expecttest import assert_expected_inline
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy

from fxmem import partitioner
from fxmem.passes.graph import EXACT, from_tangents, op_name

from .tools import gradients, leaf, partitioned

POLICY = {"min_bytes": 0}


@pytest.fixture
def kept(monkeypatch):
    """Have the cut keep what some operators make, as its bans have it keep such values."""
    cut, names, marks = partitioner.cut, [], {}

    def banned(joint, *args, **kwargs):
        gradient = from_tangents(joint.graph)
        for node in joint.graph.nodes:
            if op_name(node) in names and node not in gradient:
                node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
        halves, notes = cut(joint, *args, **kwargs)
        for node in (node for half in halves for node in half.graph.nodes):
            node.meta.pop("recompute", None)
            if op_name(node) in names:
                node.meta.update(marks)
        return halves, notes

    monkeypatch.setattr(partitioner, "cut", banned)

    def keep(ops, meta=()):
        names.extend(ops)
        marks.update(meta)

    return keep


def gated(x, w, v, u):
    return torch.atan2(x @ w, F.silu(x @ v)) @ u


def inputs(*shape):
    return leaf(*shape, 16), *[leaf(16, 16) for _ in range(3)]


def entries(g):
    return sorted(e.residual.op for e in g.plan.entries)


@pytest.mark.parametrize("shape", [(4,), (2, 3)], ids=str)
def test_a_gate_of_kept_values_is_made_again(kept, shape):
    """As it would without bans; of three dimensions a value is kept as another view."""
    plain = partitioned(gated, *inputs(*shape), policy=POLICY)
    kept(["aten.atan2"])
    g = partitioned(gated, *inputs(*shape), policy=POLICY)
    assert entries(g) == entries(plain) == ["aten.mm", "aten.mm"]
    assert g.backward.ops["aten.atan2"] == 1


def sine(x, w, v, u):
    return torch.atan2(x @ w, (x @ v).sin()) @ u


def test_it_is_made_right_before_it_is_read(kept):
    """What else the backward makes of its sources it makes there, once."""
    kept(["aten.atan2"])
    g = partitioned(sine, *inputs(4), policy=POLICY)
    text = g.backward.text.splitlines()
    made = next(i for i, line in enumerate(text) if "atan2" in line)
    assert_expected_inline(
        "\n".join(text[made - 1 : made + 3]),
        """\
sin: float32[4, 16] = aten.sin.default(mm_1)
atan2_again: float32[4, 16] = aten.atan2.default(mm, sin)
permute_6: float32[16, 4] = aten.permute.default(atan2_again, [1, 0])
mm_3: float32[16, 16] = aten.mm.default(permute_6, tangents_1)""",
    )
    assert g.backward.ops["aten.sin"] == 1


def chain(x, w, v, u):
    """Of three that are made of one another the middle one stays."""
    y = x @ w
    a = torch.atan2(y, x @ v)
    b = torch.atan2(a, y.sin())
    c = torch.atan2(y, b)
    return (a @ u) * (b @ u) * (c @ u)


def long(x, w, v, u):
    """One operator more than may be made again."""
    y = x @ w
    for _ in range(8):
        y = y.sin()
    return torch.atan2(y, x @ v) @ u


def returned(x, w, v, u):
    y = torch.atan2(x @ w, x @ v)
    return y, y @ u


def total(x, w, v, u):
    return ((x @ w).tanh() + (x @ v).tanh()) @ u


def exponential(x, w, v, u):
    return ((x @ w).exp() * (x @ v)) @ u


LOSSY = {"preset": "balanced"}
STAY = {
    "made of": ("atan2", chain, {}, {}),
    "long": ("atan2", long, {}, {}),
    "returned": ("atan2", returned, {}, {}),
    "small": ("atan2", sine, {"min_bytes": 1024}, {}),
    "without remat": ("atan2", sine, {"rules": {"remat": False}}, {}),
    "asked for": ("atan2", sine, {}, {"recompute": CheckpointPolicy.MUST_SAVE}),
    "exact": ("atan2", sine, {}, {EXACT: "a state"}),
    "sum of codes": ("add", total, LOSSY, {}),
    "exponential of codes": ("mul", exponential, LOSSY, {}),
}


@pytest.mark.parametrize(("op", "f", "policy", "meta"), STAY.values(), ids=STAY)
def test_what_stays(kept, op, f, policy, meta):
    kept([f"aten.{op}"], meta)
    g = partitioned(f, *inputs(4), policy={**POLICY, **policy})
    assert entries(g).count(f"aten.{op}") == 1


def silu(x, w, v, u):
    return ((x @ w).tanh() * F.silu(x @ v)) @ u


def test_of_codes_a_gate_is_made(kept):
    plain = partitioned(silu, *inputs(64), policy={**POLICY, **LOSSY})
    kept(["aten.mul"])
    g = partitioned(silu, *inputs(64), policy={**POLICY, **LOSSY})
    assert g.plan.after <= plain.plan.after and "aten.mul" not in entries(g)


@pytest.mark.parametrize(("f", "dynamic"), [(sine, False), (chain, False), (silu, True)])
def test_gradients_are_the_same_to_the_bit(kept, f, dynamic):
    """Of the same values the same operators make the same again."""
    kept(["aten.atan2", "aten.mul"])
    given = inputs(2, 3)
    forbidden = {**POLICY, "rules": {"remat": False}}
    found, want = (
        gradients(f, *given, policy=policy, dynamic=dynamic) for policy in (POLICY, forbidden)
    )
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
