"""Levels: the published optima, optimality itself, weights, drawn codes, files."""

import functools
import itertools

import numpy as np
import pytest

from fxmem.activations import store
from fxmem.activations.calculus import is_even, slope_curve, value_curve
from fxmem.activations.levels import Levels, fit, fit_samples
from fxmem.activations.partition import partitions
from fxmem.activations.table import TABLE, Activation, x
from fxmem.activations.unbiased import fit_unbiased
from fxmem.activations.weight import Weight

from .exact import SMOOTH, name

# Squared errors on [-10, 10] for 1, 2, 3, 4 bits: arXiv 2202.00441.
PUBLISHED = {
    "gelu": (0.1410, 0.0406, 0.0119, 0.0031),
    "silu": (0.2150, 0.0479, 0.0170, 0.0045),
    "sigmoid": (0.0181, 0.0038, 0.0009, 0.0002),
    "tanh": (0.1584, 0.0319, 0.0073, 0.0017),
    "selu": (0.2554, 0.1010, 0.0184, 0.0039),
    "softplus": (0.2902, 0.0541, 0.0121, 0.0029),
    "elu": (0.1622, 0.0251, 0.0052, 0.0012),
    "hardswish": (np.inf, np.inf, np.inf, 0.0104),
}
FINE = (np.arange(200_000) + 0.5) / 10_000 - 10  # kinks lie between


def decode(table, points):
    return table.levels[np.searchsorted(table.borders, np.abs(points) if table.even else points)]


@functools.cache
def fine_slopes(row):
    return slope_curve(row)(FINE)


def squared_error(row, table, density=1.0):
    """By the midpoint rule, knowing nothing of how the levels were found."""
    return 20 * np.mean(density * (fine_slopes(row) - decode(table, FINE)) ** 2)


NORMAL = np.exp(-(FINE**2) / 2) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize("row", [TABLE[name] for name in PUBLISHED], ids=name)
def test_published_errors_are_reached(row):
    for bits, published in enumerate(PUBLISHED[row.name], start=1):
        table = store.levels(row, bits, "uniform")
        assert len(table.levels) == 2**bits
        assert len(table.borders) == 2**bits - 1
        assert squared_error(row, table) <= published + 1e-4
        assert table.error == pytest.approx(squared_error(row, table), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("row", SMOOTH, ids=name)
def test_shipped_tables(row):
    for bits in range(1, 9):
        table = store.levels(row, bits)
        assert np.all(np.diff(table.borders) > 0)
        assert table.even == is_even(row)
        error = squared_error(row, table, NORMAL)
        assert table.error == pytest.approx(error, rel=1e-3, abs=1e-9)
        if bits > 1:
            assert table.error < store.levels(row, bits - 1).error


@pytest.mark.parametrize("weight", ["normal", "uniform"])
@pytest.mark.parametrize("row", [TABLE[name] for name in ("gelu", "tanh", "selu")], ids=name)
def test_shipped_tables_are_what_is_fitted(row, weight):
    fitted = store.fit_row.__wrapped__(row, (1, 3, 4), weight)
    for bits, table in fitted.items():
        shipped = store.levels(row, bits, weight)
        np.testing.assert_allclose(shipped.borders, table.borders, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(shipped.levels, table.levels, rtol=1e-6, atol=1e-6)


def test_shipped_unbiased_tables_are_what_is_fitted():
    for bits, table in store.fit_row.__wrapped__(TABLE["gelu"], (2, 3), unbiased=True).items():
        shipped = store.levels("gelu", bits, unbiased=True)
        np.testing.assert_allclose(shipped.levels, table.levels, rtol=1e-6)


def test_partitions_are_the_cheapest_of_all():
    generator = np.random.default_rng(0)
    n = 8
    costs = np.where(np.tri(n + 1, k=-1, dtype=bool), generator.random((n + 1, n + 1)), np.inf)
    for count, edges in enumerate(partitions(costs, n), start=1):
        inner = itertools.combinations(range(1, n), count - 1)
        all_costs = (sum(costs[j, i] for i, j in itertools.pairwise((0, *cut, n))) for cut in inner)
        found = sum(costs[j, i] for i, j in itertools.pairwise(edges))
        assert found == pytest.approx(min(all_costs))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_no_border_can_be_moved_to_advantage(bits):
    row = TABLE["gelu"]
    table = store.levels(row, bits)
    for i in range(len(table.borders)):
        for shift in (-1e-2, 1e-2):
            borders = table.borders.copy()
            borders[i] += shift * min(np.diff(borders), default=1.0)
            worse = best_levels(row, borders)
            assert squared_error(row, worse, NORMAL) >= table.error * (1 - 1e-6)


def best_levels(row, borders):
    codes = np.searchsorted(borders, FINE)
    mass = np.bincount(codes, NORMAL)
    levels = np.bincount(codes, NORMAL * fine_slopes(row)) / mass
    return Levels(borders, levels, np.nan)


def test_even_codes_halve_the_error():
    row = TABLE["tanh"]
    f, slope = value_curve(row), slope_curve(row)
    for bits in (2, 3):
        plain, even = fit(f, slope, bits), fit(f, slope, bits, even=True)
        assert np.sqrt(even.error) < 0.6 * np.sqrt(plain.error)


def test_closed_form_and_quadrature_agree():
    row = TABLE["silu"]
    closed = fit(value_curve(row), slope_curve(row), 3, "uniform")
    summed = fit(None, slope_curve(row), 3, "uniform")
    np.testing.assert_allclose(closed.borders, summed.borders, atol=1e-9)
    assert closed.error == pytest.approx(summed.error, rel=1e-9)


def test_samples_stand_for_the_function():
    slope = slope_curve(TABLE["gelu"])
    table = fit_samples(FINE, slope(FINE), 3)
    np.testing.assert_allclose(table.levels, store.levels("gelu", 3).levels, atol=1e-4)


def test_levels_of_a_step_are_exact():
    table = fit_samples(np.array([-9, 0.9999999, 1, 9]), np.array([0.0, 0.0, 1, 1]), 1)
    np.testing.assert_allclose(table.levels, [0, 1], atol=1e-7)
    np.testing.assert_allclose(table.borders, [1], atol=1e-6)


def test_histogram_of_inputs():
    inputs = np.random.default_rng(0).normal(2.0, 0.3, 100_000)
    row = TABLE["gelu"]
    own = store.levels(row, 2, Weight.samples(np.append(inputs, [np.nan, np.inf])))
    slopes = slope_curve(row)(inputs)
    error, usual = (
        np.mean((decode(table, inputs) - slopes) ** 2) for table in (own, store.levels(row, 2))
    )
    assert error < usual / 10
    assert own.error == pytest.approx(error, rel=0.1)


def test_histogram_of_even_slope_is_folded():
    weight = Weight.histogram([-3, -1, 0, 2], [1, 2, 4])
    folded = weight.folded()
    points = np.array([0.5, 1.5, 2.5])
    expected = weight.density(points) * (points < 2) + weight.density(-points)
    np.testing.assert_allclose(folded.density(points), expected)
    assert (folded.heights * np.diff(folded.edges)).sum() == pytest.approx(1)


@pytest.mark.parametrize("row", SMOOTH, ids=name)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_drawn_codes_are_unbiased(row, bits):
    table = store.levels(row, bits, unbiased=True)
    slopes = fine_slopes(row)
    assert table.unbiased and len(table.borders) == 0 and len(table.levels) == 2**bits
    assert np.all(np.diff(table.levels) > 0)
    assert table.levels[0] <= slopes.min() + 1e-9
    assert table.levels[-1] >= slopes.max() * (1 - 1e-12) - 1e-9
    upper = np.clip(np.searchsorted(table.levels, slopes), 1, 2**bits - 1)
    low, high = table.levels[upper - 1], table.levels[upper]
    variance = 20 * np.mean(NORMAL * (high - slopes) * (slopes - low))
    assert table.error == pytest.approx(variance, rel=1e-3)


def test_drawn_levels_are_the_best():
    row = TABLE["silu"]
    slopes = np.sort(fine_slopes(row))
    masses = NORMAL[np.argsort(fine_slopes(row))]
    table = fit_unbiased(slope_curve(row), (3,))[3]

    def variance(levels):
        upper = np.clip(np.searchsorted(levels, slopes), 1, len(levels) - 1)
        return (masses * (levels[upper] - slopes) * (slopes - levels[upper - 1])).sum()

    for i in range(1, 7):
        for shift in (-0.01, 0.01):
            assert variance(table.levels + shift * (np.arange(8) == i)) > variance(table.levels)


def test_parameters_of_their_own():
    table = store.levels("elu", 1, parameters=[2.0])
    assert table.levels[1] > 1.1 > 1 > table.levels[0]
    assert store.levels("elu", 1, parameters=[1.0]) is store.levels("elu", 1)


def test_files_come_back(tmp_path):
    path = tmp_path / "tables.npz"
    tables = {
        ("gelu", 3): store.levels("gelu", 3),
        ("tanh", 2): store.levels("tanh", 2),
        ("relu6", 1): store.levels("silu", 1, unbiased=True),
    }
    store.save(path, tables)
    read = store.load(path)
    assert read.keys() == tables.keys()
    for key, table in tables.items():
        np.testing.assert_array_equal(read[key].borders, table.borders)
        np.testing.assert_array_equal(read[key].levels, table.levels)
        assert (read[key].even, read[key].unbiased) == (table.even, table.unbiased)
        assert read[key].error == table.error


def test_files_of_fewbit_are_read(tmp_path):
    path = tmp_path / "builtin.npz"
    borders = np.array([-100.0, -1.0, 0.0, 1.0, 100.0])
    np.savez(path, **{"gelu02-borders": borders, "gelu02-levels": np.arange(4.0)})
    table = store.load(path)["gelu", 2]
    np.testing.assert_array_equal(table.borders, [-1, 0, 1])
    assert (table.bits, table.even, table.unbiased) == (2, False, False)
    np.savez(path, **{"gelu02-borders": borders[1:], "gelu02-levels": np.arange(4.0)})
    with pytest.raises(ValueError, match="gelu02-borders must be 5 numbers"):
        store.load(path)


def test_refusals():
    with pytest.raises(ValueError, match="bits must be 1 to 8; got 9"):
        store.levels("gelu", 9)
    with pytest.raises(ValueError, match="one of uniform, normal; got 'flat'"):
        store.levels("gelu", 2, "flat")
    with pytest.raises(ValueError, match="relu is piecewise linear"):
        store.levels("relu", 1)
    with pytest.raises(ValueError, match="swiglu is gated"):
        store.levels("swiglu", 1)
    with pytest.raises(KeyError, match="gleu"):
        store.levels("gleu", 1)
    for edges, counts in (([0, 1], [1, 2]), ([0, 0], [1]), ([0, 1], [0])):
        with pytest.raises(ValueError, match="counts"):
            Weight.histogram(edges, counts)


def test_a_new_row_has_levels():
    row = Activation("gelu", x**3 / 3)  # of the table's name, but not its row
    assert store.levels(row, 4).error < store.levels(row, 2).error < 1
