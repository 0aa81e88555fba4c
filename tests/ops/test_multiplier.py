"""Reversible multiplication: any number of layers, at the cost of the information that is lost."""

import math
from fractions import Fraction

import pytest
import torch

from fxmem.ops.shrinking.buffer import settled, unsettled
from fxmem.ops.shrinking.multiplier import fraction, multiplier_for
from fxmem.ops.shrinking.operators import LARGEST

GAMMAS = (0.5, 0.9, 0.99)
DEPTHS = (8, 64, 512)


def there(multiplier, v, pushes):
    """Return what is left of v after a multiplication and an addition for each push."""
    buffer = multiplier.empty(v)
    for f in pushes:
        v, buffer = multiplier.multiply(v, buffer)
        v = v + f
    return v, buffer


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("gamma", [*GAMMAS, 0.123, 1 / 1000, 1023 / 1024, 1.0])
def test_layers_come_back_bit_for_bit(gamma, depth):
    multiplier = multiplier_for(gamma)
    start = multiplier.laid_out(torch.randint(-(2**42), 2**42, (777,)))
    pushes = [torch.randint(-(2**38), 2**38, start.shape) for _ in range(depth)]
    v, buffer = there(multiplier, start, pushes)
    buffer = unsettled(settled(buffer), v.device)
    for f in reversed(pushes):
        v, buffer = multiplier.divide(v - f, buffer)
    assert torch.equal(v, start)
    assert buffer.bound == 1 and not buffer.spilled and not buffer.numbers.any()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_bits_are_the_information_lost(gamma):
    multiplier = multiplier_for(gamma)
    count = multiplier.shared * 256
    v = multiplier.laid_out(torch.randint(-(2**40), 2**40, (count,)))
    for depth in (64, 512):
        pushes = [torch.randint(-(2**38), 2**38, (1,)) for _ in range(depth)]
        kept = settled(there(multiplier, v, pushes)[1])
        bits = 8 * sum(t.nbytes for t in (*kept.bits, *kept.spilled)) / count / depth
        assert bits == pytest.approx(math.log2(1 / gamma), rel=0.1)


@pytest.mark.parametrize("gamma", [*GAMMAS, 1 / 1000, 1023 / 1024])
def test_numbers_stay_below_their_bound_and_use_it(gamma):
    """The worst data reach the bound: fewer bits would not do."""
    multiplier = multiplier_for(gamma)
    d = multiplier.d
    worst = torch.full((multiplier.shared,), d - 1)
    v, buffer = multiplier.laid_out(worst), multiplier.empty(multiplier.laid_out(worst))
    for _ in range(3):
        before = buffer.numbers
        v, buffer = multiplier.multiply(v, buffer)
        assert 0 <= int(buffer.numbers) < buffer.bound <= LARGEST
        v = multiplier.laid_out(worst)
    if multiplier.rounds == 1 and not buffer.spilled:
        pushed, popped = multiplier.radices
        assert int(buffer.numbers) == (int(before) * pushed + pushed - 1) // popped


def test_the_product_is_off_by_less_than_the_numerator():
    for gamma in (*GAMMAS, 0.123):
        multiplier = multiplier_for(gamma)
        v = multiplier.laid_out(torch.randint(-(2**40), 2**40, (777,)))
        product, _ = there(multiplier, v, [torch.zeros((), dtype=torch.int64)])
        off = product.double() - v.double() * (multiplier.n / multiplier.d)
        assert float(off.abs().max()) <= multiplier.n


def test_fractions():
    assert [fraction(g) for g in (0.5, 0.9, 0.99, 1)] == [
        *(Fraction(1, 2), Fraction(9, 10), Fraction(99, 100), Fraction(1)),
    ]
    assert abs(float(fraction(0.7654321)) - 0.7654321) < 1e-6
    for gamma in (0, 0.0, -0.5, 1.5, 1e-5):
        with pytest.raises(ValueError, match=rf"^gamma must be above 0 .*; got {gamma}: at 0"):
            fraction(gamma)
