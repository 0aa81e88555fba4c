"""Compensated streams: states come back to within 2^-k of an ulp, most of them exactly."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from fxmem.nn.reversible import MomentumNet
from fxmem.nn.reversible.arithmetic import Arithmetic
from fxmem.nn.reversible.choice import chosen
from fxmem.nn.reversible.compensated import Compensated, ulp
from fxmem.nn.reversible.couplings import AdditiveCoupling, Bijection, MomentumCoupling
from fxmem.nn.reversible.fixed import Fixed
from fxmem.ops import packed_bytes

from .blocks import trained

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BITS = (1, 2, 4, 8)
COUPLINGS = (AdditiveCoupling(), MomentumCoupling(0.9))


def spread(dtype, size=(7, 143)):
    """Return numbers of many magnitudes."""
    return (torch.randn(size) * (2 * torch.randn(size)).exp()).to(dtype)


def units(x, dtype):
    return ulp(x.float() if dtype != torch.float32 else x.double(), dtype).double()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_addition_comes_back_within_its_bits(dtype, bits):
    arithmetic, coupling = Compensated(bits), AdditiveCoupling()
    a, b, f = (spread(dtype) for _ in range(3))
    state = arithmetic.step(arithmetic.enter(a, b), coupling, f)
    assert torch.equal(state.a, b) and torch.equal(state.b, a + f)
    source = arithmetic.source(state, coupling)
    back = arithmetic.back(state, coupling, source, f)
    assert torch.equal(back.b, b) and back.codes == ()
    off = (back.a.double() - a.double()).abs()
    unit = 2.0**-bits * units(a + f, dtype)
    assert bool((off <= unit).all())
    assert bool((off[units(a, dtype) > unit] == 0).all())
    plain = Arithmetic().back(state, coupling, source, f).a
    assert bool((plain != a).any())  # what there was to correct


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_momentum_step_comes_back_within_its_bits(dtype, bits):
    coupling = MomentumCoupling(0.9)
    arithmetic = chosen([coupling], compensate=bits)
    v, x, f = (spread(dtype) for _ in range(3))
    state = arithmetic.step(arithmetic.enter(v, x), coupling, f)
    # From the position that the branch read, not from what came back: one error at a time.
    plain = arithmetic.source(state, coupling)
    unit = 2.0**-bits * torch.maximum(units(state.b, dtype), units(plain, dtype))
    assert bool(((plain.double() - x.double()).abs() <= unit).all())
    back = arithmetic.back(state, coupling, x, f)
    unit = 2.0**-bits * torch.maximum(units(state.a, dtype) / 0.9, units(back.a, dtype))
    assert bool(((back.a.double() - v.double()).abs() <= unit).all())


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chain_drifts_less_with_every_bit(coupling, dtype):
    size = (64, 64)
    branches = [torch.randn(size).to(dtype) for _ in range(64)]
    start = [torch.randn(size).to(dtype) for _ in range(2)]
    errors = []
    for arithmetic in (Arithmetic(), *(chosen([coupling], compensate=k) for k in BITS)):
        state = arithmetic.enter(*start)
        for f in branches:
            state = arithmetic.step(state, coupling, f)
        for f in reversed(branches):
            source = arithmetic.source(state, coupling)
            state = arithmetic.back(state, coupling, source, f)
        pairs = zip(arithmetic.values(state), start, strict=True)
        errors.append(sum(float((got - was).double().norm()) for got, was in pairs))
    assert all(after < before for before, after in pairwise(errors)), errors
    assert errors[-1] < errors[0] / 16


def test_gradients_drift_less_with_every_bit():
    """In bfloat16, against the same network with everything kept; momentum drifts the most."""
    blocks = [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(64)]
    x = torch.randn(32, 8).bfloat16()

    def drift(**options):
        results = [
            trained(MomentumNet(blocks, 0.9, memory=memory, **options).bfloat16(), x)[2:]
            for memory in ("reversible", "none")
        ]
        one, other = (torch.cat([g.double().flatten() for g in part]) for part in results)
        return float((one - other).norm() / other.norm())

    plain, *compensated = drift(exact=False), *(drift(compensate=k) for k in (1, 2, 4))
    assert plain > 2 * compensated[0] > 4 * compensated[1] > 8 * compensated[2] > 0
    assert compensated[2] < 1e-2


def test_what_is_kept_is_bits_an_addition():
    x = torch.randn(7, 143)
    for bits in range(1, 9):
        for coupling, additions in zip(COUPLINGS, (1, 2), strict=True):
            arithmetic = chosen([coupling], compensate=bits)
            state = arithmetic.step(arithmetic.enter(x, x), coupling, x)
            kept = [code.nbytes for code in state.codes[-1]]
            assert kept == [packed_bytes(x.numel(), bits)] * additions


def test_float64_comes_back_within_twice_its_bits():
    arithmetic, coupling = Compensated(8), AdditiveCoupling()
    a, b, f = (torch.randn(1000).double() for _ in range(3))
    state = arithmetic.step(arithmetic.enter(a, b), coupling, f)
    back = arithmetic.back(state, coupling, b, f).a
    assert bool(((back - a).abs() <= 2.0**-7 * units(a + f, torch.float64)).all())


def test_zeros_infinities_and_strides():
    arithmetic, coupling = Compensated(3), AdditiveCoupling()
    x = torch.tensor([[0.0, 1.0, -0.0], [torch.inf, 1e-45, 3e38]]).t()
    state = arithmetic.step(arithmetic.enter(x, x), coupling, torch.zeros(3, 2))
    back = arithmetic.back(state, coupling, arithmetic.source(state, coupling), torch.zeros(3, 2))
    finite = x.isfinite()
    torch.testing.assert_close(back.a[finite], x[finite], rtol=0, atol=1e-44)


def test_choices():
    additive, momentum = COUPLINGS
    assert type(chosen([additive])) is Arithmetic
    assert chosen([momentum, momentum], compensate=3) == Compensated(3, 1 / 0.9)
    with pytest.raises(ValueError, match="compensate must be 1 to 8 bits; got 9"):
        chosen([additive], compensate=9)
    with pytest.raises(ValueError, match="has no rounding errors to compensate"):
        chosen([additive], exact=True, compensate=3)
    with pytest.raises(ValueError, match="headroom is for exact=True"):
        chosen([additive], headroom=3)
    mixed = r"exact=True is for chains of .*; got AdditiveCoupling, MomentumCoupling"
    with pytest.raises(ValueError, match=mixed):
        chosen([additive, momentum], exact=True)
    with pytest.raises(ValueError, match=r"compensate is for .*; got MomentumCoupling"):
        chosen([momentum, MomentumCoupling(0.5)], compensate=2)
    squeeze = Bijection(torch.neg, torch.neg)
    assert chosen([additive, squeeze], exact=True) == Fixed()
    with pytest.raises(ValueError, match=r"compensate is for .*; got AdditiveCoupling, Bijection"):
        chosen([additive, squeeze], compensate=2)
