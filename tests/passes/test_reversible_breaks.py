"""Chains that another layer breaks on one stream: both parts are recomputed, a short one is not."""

import pytest
import torch
from torch.nn import functional as F

from .test_reversible import (
    ASKED,
    FORCED,
    NONE,
    OFF,
    assert_gradients_match,
    branch,
    chain,
    inputs,
    links,
    run,
    weights,
)
from .tools import gradients, leaf, partitioned, relative

LINKS = 16
STATE = 8 * 16 * 4
MASK = STATE // 4  # of a ReLU, a byte an element
LAYERS = {
    "norm": lambda x: F.layer_norm(x, (16,)),
    "relu": torch.relu,
    "product": lambda x: torch.relu(x @ torch.eye(16, dtype=x.dtype).flip(0)),
}


def broken(layer, *places, stream=1):
    """A chain whose older (0) or newer (1) stream a layer replaces after these links."""

    def f(a, b, *ws):
        streams = [a.sin(), b.cos()]
        for i, w in enumerate(ws, 1):
            a, b = streams
            streams = [b, a + branch(b, w)]
            if i in places:
                streams[stream] = LAYERS[layer](streams[stream])
        return streams[0] * streams[1]

    return f


def given(depth=LINKS):
    return *inputs(8, 16), *weights(depth)


def kept(f, *leaves, policy=ASKED):
    torch._dynamo.reset()
    return partitioned(f, *leaves, policy=policy).plan.after


@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("place", [3, 8, 12])
def test_parts_are_recomputed_each_from_its_last_two_states(place, stream):
    f = broken("relu", place, stream=stream)
    plan = partitioned(f, *given(), policy=ASKED).plan
    # A state that begins one part and ends the other is rounded between the two.
    assert len(links(plan)) == 2 and sum(links(plan)) >= LINKS - (stream == 0)
    whole = kept(broken("relu"), *given())
    assert plan.after <= 2 * whole + (MASK if stream else 2 * STATE + MASK)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("stream", [0, 1])
def test_gradients(layer, stream):
    f = broken(layer, 8, stream=stream)
    assert len(links(partitioned(f, *given(), policy=ASKED).plan)) == 2
    assert_gradients_match(f, *given(), policy=ASKED)


@pytest.mark.parametrize("stream", [0, 1])
def test_integers_of_two_parts(stream):
    """One begins with what the other ends with, which integers stand for by then."""
    f = broken("relu", 4, stream=stream)
    asked = {"rules": {"reversible": {"force": True, "exact": True}}}
    leaves = given(8)
    plan = partitioned(f, *leaves, policy=asked).plan
    assert [note.count("int32") for note in plan.notes[:2]] == [1, 1]
    found, plain = (gradients(f, *leaves, policy=p) for p in (asked, OFF))
    assert all(relative(a, b) < 1e-4 for a, b in zip(found, plain, strict=True))


def test_two_breaks():
    f, leaves = broken("norm", 8, 16), given(24)
    plan = partitioned(f, *leaves, policy=ASKED).plan
    assert links(plan) == [8, 8, 8]
    statistics = 2 * 2 * 8 * 4  # of the norms, a mean and a scale a row
    assert plan.after <= 3 * kept(broken("norm"), *leaves) + statistics
    assert kept(f, *leaves, policy=OFF) > 24 * STATE
    assert_gradients_match(f, *leaves, policy=ASKED)


def test_what_is_kept_does_not_grow_with_depth():
    sizes = [kept(broken("norm", depth // 2), *given(depth)) for depth in (12, 24)]
    assert sizes[0] == sizes[1] < kept(broken("norm", 12), *given(24), policy=OFF) / 2


def test_half_precision():
    leaves = [t.detach().bfloat16().requires_grad_() for t in given(24)]
    f = broken("norm", 8)
    assert links(partitioned(f, *leaves, policy=ASKED).plan) == [8, 16]
    assert_gradients_match(f, *leaves, policy=ASKED)


def test_a_part_too_short_to_be_told_from_chance_is_named():
    f, leaves = broken("relu", 2, stream=0), given(17)
    plan = partitioned(f, *leaves, policy=ASKED).plan
    (why,) = [note for note in plan.notes if "beside" in note]
    assert why == (
        "reversible: 2 links beside a longer chain are not recomputed, for a layer breaks it "
        "there, and fewer than 3 links may be chance"
    )
    assert links(plan) == [15]
    assert_gradients_match(f, *leaves, policy=ASKED)


def test_where_it_is_forced_nothing_found_is_said():
    assert partitioned(run, *given(2), policy=FORCED).plan.notes == (NONE,)
    assert partitioned(run, *given(2), policy=ASKED).plan.notes == ()


LOSSY = {
    "relu": (lambda s, f: torch.relu(s + f), "aten.relu"),
    "relu of the skip": (lambda s, f: torch.relu(s) + f, "aten.relu"),
    "narrower": (lambda s, f: (s.half() + f.half()).float(), "prims.convert_element_type"),
    "layer norm": (lambda s, f: F.layer_norm(s + f, (16,)), "aten.native_layer_norm"),
    "RMS norm of the skip": (lambda s, f: F.rms_norm(s, (16,)) + f, "what ends in aten.mul"),
    "GELU": (lambda s, f: F.gelu(s + f), "aten.gelu"),
}


@pytest.mark.parametrize("name", LOSSY)
def test_what_cannot_be_undone_on_the_streams_is_named(name):
    couple, op = LOSSY[name]

    def f(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws, couple=couple)
        return a * b

    (note,) = partitioned(f, *given(6), policy=ASKED).plan.notes
    assert note == (
        f"reversible: 6 links are not recomputed, for {op} on their streams, between one link and "
        "the next, cannot be undone"
    )


@pytest.mark.parametrize("name", ["relu", "narrower", "layer norm", "GELU"])
def test_nothing_is_said_of_a_residual_network(name):
    def f(a, *ws):
        for w in ws:
            a = LOSSY[name][0](a, branch(a, w))
        return a

    assert partitioned(f, leaf(8, 16), *weights(6), policy=ASKED).plan.notes == ()


def test_why_it_is_not_taken():
    def f(a, b, *ws):
        gate = {"f": torch.matmul, "couple": lambda s, f: s * f.sigmoid() + f.tanh()}
        a, b = chain(a.sin(), b.cos(), ws, **gate)
        return a * b

    (note,) = partitioned(f, *given(6), policy=ASKED).plan.notes
    assert note.startswith("reversible: not taken")
    assert "links scale by what may be next to nothing" in note
