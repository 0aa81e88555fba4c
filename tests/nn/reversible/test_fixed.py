"""Fixed-point streams: steps undone bit for bit, resolution as stated, overflow never silent."""

import math

import pytest
import torch

from fxmem.nn.reversible.couplings import AdditiveCoupling
from fxmem.nn.reversible.fixed import (
    HEADROOM,
    Fixed,
    grid,
    power_of_two,
    quantised,
    scale_for,
    scales_for,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
COUPLING = AdditiveCoupling()


def chain(arithmetic, a, b, branches):
    """Return the states of a chain whose k-th branch gives branches[k]."""
    states = [arithmetic.enter(a, b)]
    for f in branches:
        states.append(arithmetic.step(states[-1], COUPLING, f))
    return states


def randoms(count, dtype, size=(3, 50)):
    return [torch.randn(size).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_state_comes_back_bit_for_bit(dtype):
    a, b, *branches = randoms(2 + 256, dtype)
    arithmetic = Fixed()
    states = chain(arithmetic, a, b, branches)
    state = arithmetic.check(states[-1], ["a"] * 256)
    for before, f in zip(reversed(states[:-1]), reversed(branches), strict=True):
        source = arithmetic.source(state, COUPLING)
        assert torch.equal(source, arithmetic.values(before)[1])
        state = arithmetic.back(state, COUPLING, source, f)
        assert torch.equal(state.a, before.a) and torch.equal(state.b, before.b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_as_near_as_the_headroom_leaves(dtype):
    a, b = randoms(2, dtype)
    for headroom in (None, 4):
        arithmetic = Fixed(headroom)
        state = arithmetic.enter(a, b)
        for x, value, scale in zip((a, b), arithmetic.values(state), state[2:4], strict=True):
            bits = grid(dtype).bits - (HEADROOM[dtype] if headroom is None else headroom)
            assert 1 / scale <= 2.0 * float(x.abs().max()) * 2.0**-bits
            rounded = 2 * torch.finfo(dtype).eps * x.double().abs()
            assert bool(((value.double() - x.double()).abs() <= 0.5 / scale + rounded).all())


def test_a_state_is_the_sum_of_its_branches():
    a, b, *branches = randoms(2 + 64, torch.float64)
    state = chain(Fixed(), a, b, branches)[-1]
    first, second = Fixed().values(state)
    torch.testing.assert_close(first, a + sum(branches[0::2]), rtol=0, atol=1e-11)
    torch.testing.assert_close(second, b + sum(branches[1::2]), rtol=0, atol=1e-11)


def test_scales_are_powers_of_two_of_each_streams_own_data():
    a, b = torch.tensor([0.3, -0.99]), torch.tensor([30.0])
    first, second = scales_for(a, b, 22)
    assert (first, second) == (2.0**22, 2.0**17)
    assert scale_for(torch.tensor(1.0), 22) == 2.0**21  # 1.0 * 2^22 is not below 2^22
    exponents = torch.arange(-100, 101)
    assert power_of_two(exponents).tolist() == [2.0**k for k in range(-100, 101)]


def test_a_stream_that_begins_at_zero_takes_what_the_other_one_gives():
    x = torch.randn(100)
    arithmetic = Fixed()
    state = arithmetic.step(arithmetic.enter(torch.zeros(100), x), COUPLING, x)
    arithmetic.check(state, ["block"])
    torch.testing.assert_close(arithmetic.values(state)[1], x, rtol=0, atol=2.0**-20)


def test_rounding_is_to_the_nearest_and_saturates():
    x = torch.tensor([0.5, 1.5, -2.5, 2.6, math.inf, -math.inf, math.nan, 3e38])
    n = quantised(x, torch.tensor(1.0), grid(torch.float32))
    most = 2**31 - 128
    assert n.tolist() == [0, 2, -2, 3, most, -most, most, most]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("culprit", [math.inf, math.nan, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("start", [-0.9, 0.0, 0.9])
def test_overflow_names_its_block(dtype, culprit, start):
    if dtype == torch.float16 and math.isfinite(culprit):
        culprit = math.copysign(6e4, culprit)
    arithmetic, quiet = Fixed(2), torch.zeros(4, dtype=dtype)
    wild = quiet.clone()
    wild[2] = culprit
    states = chain(arithmetic, quiet + start, quiet + 0.9, [quiet, quiet, wild, quiet])
    with pytest.raises(RuntimeError, match=r"^attention gives a stream of exact=True"):
        arithmetic.check(states[-1], ["norm", "mlp", "attention", "mlp"])


def test_slow_growth_overflows_too():
    ones = torch.ones(4)
    arithmetic = Fixed(3)
    state = arithmetic.enter(ones, ones)
    for _ in range(14):  # each stream is 8 then, of less than 16
        state = arithmetic.step(state, COUPLING, ones)
    arithmetic.check(state, [f"add {k}" for k in range(14)])
    for _ in range(16):
        state = arithmetic.step(state, COUPLING, ones)
    with pytest.raises(RuntimeError, match=r"^add 28 gives .*headroom=k"):
        arithmetic.check(state, [f"add {k}" for k in range(30)])


def test_an_input_that_is_not_finite():
    a, b = torch.tensor([1.0, math.nan]), torch.ones(2)
    arithmetic = Fixed()
    with pytest.raises(RuntimeError, match=r"^the input gives a stream of exact=True"):
        arithmetic.check(arithmetic.enter(b, a), [])


def test_empty_and_zero_streams():
    arithmetic = Fixed()
    for x in (torch.zeros(0, 4), torch.zeros(2, 4)):
        state = arithmetic.step(arithmetic.enter(x, x), COUPLING, x)
        arithmetic.check(state, ["a"])
        assert torch.equal(arithmetic.values(state)[1], x)


def test_refusals():
    x = torch.ones(2)
    with pytest.raises(ValueError, match="headroom must be 0 to 29 powers of two; got 30"):
        Fixed(30).enter(x, x)
    with pytest.raises(ValueError, match=r"exact streams are float32, .*; got torch.int64"):
        Fixed().enter(x.long(), x.long())
