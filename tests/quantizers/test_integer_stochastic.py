"""Stochastic quantizers: right on average, by the formula for one draw, and reproducible."""

import math

import pytest
import torch

from fxmem.quantizers import Binary, dorefa, stochastic_round, wageubn

from . import formulas

DRAWS = 4000
X = torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
# What one draw makes, and the values whose expectation is known: those that no end clips.
CASES = [
    (wageubn.Constant(), lambda x, draw: formulas.constant(x, 8, 15, draw)),
    (wageubn.Constant(4, 10), lambda x, draw: formulas.constant(x, 4, 10, draw)),
    (dorefa.Gradient(2), lambda x, draw: formulas.dorefa_gradient(x, 2, draw)),
    (dorefa.Gradient(6), lambda x, draw: formulas.dorefa_gradient(x, 6, draw)),
    (Binary(stochastic=True), lambda x, draw: formulas.binary(x, 1, draw)),
    (Binary(stochastic=True, scale=0.7), lambda x, draw: formulas.binary(x, 0.7, draw)),
]
IDS = [str(quantizer) for quantizer, _ in CASES]


@pytest.mark.parametrize(("quantizer", "formula"), CASES, ids=IDS)
def test_one_draw_is_the_formula(quantizer, formula):
    for seed in range(20):
        draw = torch.rand(X.shape, generator=torch.Generator().manual_seed(seed))
        found = quantizer.value(X, torch.Generator().manual_seed(seed))
        assert (found.numpy() == formula(X.numpy(), draw.numpy())).all()


def expectation(quantizer, x):
    """The mean of the draws, were there infinitely many."""
    if isinstance(quantizer, Binary):
        return x.clamp(-quantizer.scale, quantizer.scale)
    if isinstance(quantizer, wageubn.Constant):
        levels = 2 ** (quantizer.range_bits - 1)
        scaled = x / formulas.nearest_power(x.numpy()) * levels
        return scaled.clamp(1 - levels, levels - 1) * 2.0 ** (1 - quantizer.fraction)
    return x


@pytest.mark.parametrize("quantizer", [case[0] for case in CASES], ids=IDS)
def test_expectation(quantizer):
    generator = torch.Generator().manual_seed(11)
    values = torch.stack([quantizer.value(X, generator) for _ in range(DRAWS)]).double()
    wanted = expectation(quantizer, X).double()
    error = values.mean(0) - wanted
    step = values.flatten().unique().diff().max()
    # Of 96 means, 4.5 standard errors are exceeded by chance once in 1500 runs, and the seed is
    # fixed; a step's rare event may or may not be among the draws.
    spread = values.std(0) / math.sqrt(DRAWS)
    assert (error.abs() <= 4.5 * spread + 2 * step / DRAWS).all()
    drawn = spread > 0
    assert drawn.sum() > 24
    assert abs((error / spread)[drawn].square().mean() - 1) < 4 * math.sqrt(2 / drawn.sum())


@pytest.mark.parametrize("quantizer", [case[0] for case in CASES], ids=IDS)
def test_a_generator_makes_it_reproducible(quantizer):
    first, again, other = (quantizer.value(X, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    default = quantizer.value(X)
    torch.manual_seed(5)
    assert torch.equal(quantizer.value(X), default)
    packed = quantizer.pack(X, torch.Generator().manual_seed(1))
    assert torch.equal(packed.values(), first)


@pytest.mark.parametrize("quantizer", [case[0] for case in CASES], ids=IDS)
def test_the_deterministic_twin_draws_nothing(quantizer):
    state = torch.get_rng_state()
    twin = quantizer.deterministic()
    assert torch.equal(twin.value(X), twin.value(X)) and twin.deterministic() == twin
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "quantizer", [case[0] for case in CASES if not isinstance(case[0], Binary)]
)
def test_zeros_stay_zero(quantizer):
    assert (quantizer.value(torch.zeros(3, 50)) == 0).all()
    sample = torch.cat([torch.zeros(1, 9), torch.randn(1, 9)])
    if isinstance(quantizer, dorefa.Gradient):
        assert (quantizer.value(sample)[0] == 0).all()


def test_whole_numbers_are_not_rounded():
    whole = torch.arange(-50, 50).float()
    assert torch.equal(stochastic_round(whole), whole)


def test_the_smallest_fractions_are_not_lost():
    """Of 2^16 numbers of -2^-12, 16 round to -1; floor(x) + 1 would have lost the sign's share."""
    found = stochastic_round(torch.full((1 << 16,), -(2.0**-12)))
    assert set(found.unique().tolist()) <= {-1.0, 0.0}
    assert abs((found == -1).sum() - 16) <= 4 * 4
    # -1e-9 lies closer to -0 than float32 tells -1 + 1e-9 from -1.
    assert (stochastic_round(torch.full((4096,), -1e-9)) == 0).all()


def test_a_scale_for_each_sample():
    grad = torch.randn(5, 3, 7) * torch.tensor([1e-6, 1, 1e6, 0, 3]).reshape(5, 1, 1)
    found = dorefa.Gradient(8, stochastic=False).value(grad)
    top = grad.abs().amax((1, 2), keepdim=True)
    assert ((found - grad).abs() <= top / 255 * (1 + 1e-5)).all()
