"""The variance of a sketched gradient: the formulas against what many draws show."""

import math

import pytest
import torch

from fxmem import ops
from fxmem.nn import RandomizedLinear, Variance, VarianceEstimator, variance, variances
from fxmem.ops.sketches.projection import Projection

DRAWS = 2048


def factors(n):
    common = torch.randn(n, 1)
    return torch.randn(n, 6) + common, (1 + torch.rand(n, 1)) * (torch.randn(n, 5) + common / 2)


def squared_errors(x, y, kind, rows):
    for i in range(DRAWS):
        kept, key = ops.project(x, kind, rows, torch.tensor([i * 104729]))
        yield (ops.follow(y, kind, rows, key).mT @ kept - y.mT @ x).square().sum()


@pytest.mark.parametrize("n, rows", [(32, 8), (1024, 16)])
@pytest.mark.parametrize("kind", ops.KINDS)
def test_it_is_what_many_draws_show(kind, n, rows):
    x, y = factors(n)
    errors = torch.stack(list(squared_errors(x, y, kind, rows)))
    measured, spread = errors.mean().item(), errors.std().item() / math.sqrt(DRAWS)
    told = variance(x, y, Projection(proj_dim=rows, matmul=kind)).sketch
    if kind == "crs_norm":
        assert measured < told + 4 * spread and measured > told / 2
    else:
        assert abs(measured - told) < 4 * spread


def test_a_batchs_own_is_that_of_its_rows():
    x, y = factors(50)
    rows = torch.einsum("ni,no->noi", x, y).flatten(1)
    told = variance(x, y, Projection(proj_dim=5)).sgd
    # Of a sum of n rows the variance is n times that of one.
    assert math.isclose(told, 50 * rows.var(0).sum().item(), rel_tol=1e-4)


def test_the_papers_formulas():
    x, y = factors(40)
    product, energy = (y.mT @ x).square().sum(), x.square().sum() * y.square().sum()
    told = variance(x, y, Projection(proj_dim=5))
    assert math.isclose(told.rmm, (energy - product) / 5, rel_tol=1e-5)
    assert math.isclose(told.alpha, product / energy, rel_tol=1e-5)
    bound = (told.alpha + 1) / told.alpha
    assert 5 / 39 * told.rmm / told.sgd <= bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_rank_and_dtype(dtype):
    x, y = factors(48)
    wanted = variance(x.to(dtype), y.to(dtype), Projection(proj_dim=6))
    got = variance(*(t.to(dtype).view(4, 12, -1) for t in (x, y)), Projection(proj_dim=6))
    assert got == wanted and all(map(math.isfinite, got))


def test_all_rows_leave_nothing_to_chance():
    assert variance(*factors(9), Projection(proj_dim_ratio=1.0)).sketch == 0
    zeros = torch.zeros(9, 3)
    assert variance(zeros, zeros, Projection(proj_dim=2)) == Variance(0, 0, 0, 0)


def test_the_hook_tells_of_every_backward():
    told = []
    layer = RandomizedLinear(6, 5, proj_dim=8, matmul="hadamard")
    estimator = VarianceEstimator(layer, lambda found, step: told.append((step, found)))
    x = torch.randn(4, 8, 6)
    for scale in (1, 2):
        (layer(x) * scale).square().sum().backward()
    y = 2 * layer(x).detach()
    assert [step for step, _ in told] == [0, 1]
    wanted = variance(x, y, layer.projection)
    assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(told[0][1], wanted, strict=True))
    with torch.no_grad():
        layer(x)
    estimator.remove()
    layer(x).sum().backward()
    assert len(told) == 2


def test_a_plain_layer_is_estimated_for_a_projection_that_is_asked_for():
    told = []
    with pytest.raises(ValueError, match="Linear keeps no sketch: say for which projection"):
        VarianceEstimator(torch.nn.Linear(6, 5), print)
    with pytest.raises(ValueError, match="proj_dim_ratio must be in"):
        VarianceEstimator(torch.nn.Linear(6, 5), print, Projection(proj_dim_ratio=3.0))
    layer = torch.nn.Linear(6, 5)
    VarianceEstimator(layer, lambda found, step: told.append(found), Projection(0.25))
    layer(torch.randn(32, 6)).square().sum().backward()
    assert told[0].sketch > 0


def test_all_layers_side_by_side():
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), RandomizedLinear(8, 5, proj_dim=4)
    )
    x = torch.randn(32, 6)
    own = variances(model, lambda: model(x).square().sum().backward())
    assert list(own.modules) == ["2"]
    found = variances(model, lambda: model(x).square().sum().backward(), Projection(0.5))
    assert list(found.modules) == ["0", "2"]
    # Of the same factors, sixteen rows are a fourth of the variance of four.
    y = 2 * model(x).detach()
    alike = (variance(torch.tanh(model[0](x)), y, Projection(proj_dim=k)) for k in (4, 16))
    assert found.modules["2"].sketch < own.modules["2"].sketch / 3
    assert [round(v.sketch, 1) for v in alike] == [
        round(v.modules["2"].sketch, 1) for v in (own, found)
    ]
    assert str(found).splitlines()[0].split() == "module alpha batch sketch sketch / batch".split()
    assert not model[0]._forward_hooks
