"""The variance of a sketched gradient: the formulas against what many draws show."""

import math

import pytest
import torch

import fxmem
from fxmem import ops
from fxmem.nn import RandomizedLinear, Variance, VarianceEstimator, variance, variances
from fxmem.ops.sketches.projection import Projection, relative_variance

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
    assert abs(measured - told) < 4 * spread


@pytest.mark.parametrize("kind", ["crs", "crs_norm"])
def test_rows_of_zeros_are_never_drawn(kind):
    x, y = factors(32)
    x[:12], x[20] = 0, 0
    errors = torch.stack(list(squared_errors(x, y, kind, 8)))
    told = variance(x, y, Projection(proj_dim=8, matmul=kind)).sketch
    assert abs(errors.mean().item() - told) < 4 * errors.std().item() / math.sqrt(DRAWS)


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


@pytest.mark.parametrize("kind", ops.KINDS)
def test_rows_that_are_alike_but_for_chance(kind):
    x, y = torch.nn.functional.normalize(torch.randn(1024, 64)), torch.randn(1024, 32)
    for ratio in (0.5, 0.1):
        found = variance(x, y, Projection(ratio, matmul=kind))
        assert math.isclose(found.sketch / found.sgd, relative_variance(kind, ratio), rel_tol=0.1)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_of_single_points_is_a_product(dims):
    convolution = getattr(torch.nn, f"Conv{dims}d")(6, 5, 1, bias=False)
    linear = torch.nn.Linear(6, 5, bias=False)
    linear.weight.data = convolution.weight.data.flatten(1)
    told, x = [], torch.randn(4, 6, *[3] * dims)
    for module, value in ((convolution, x), (linear, x.movedim(1, -1))):
        VarianceEstimator(module, lambda found, step: told.append(found), Projection(0.25))
        module(input=value).square().sum().backward()
    assert all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(*told, strict=True))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        sizes = (8, 16), (16, 8), (8, 8)
        self.layers = torch.nn.Sequential(*[torch.nn.Linear(*s, bias=False) for s in sizes])

    def forward(self, x, loss=True):
        y = self.layers(x)
        return {"y": y, "loss": y.square().mean()} if loss else y


def told(model, *args, **policy):
    """What a report says of sketches; the model is as it was afterwards."""
    before = torch.get_rng_state()
    notes = fxmem.explain(model, *args, policy={"min_bytes": 0, **policy}).plans[-1].notes
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    return [note for note in notes if "variance" in note]


@pytest.mark.parametrize("kind", ["gaussian", "crs_norm"])
def test_a_report_tells_what_sketches_add_to_the_batchs_own(kind):
    model, x = Model(), torch.randn(64, 8)
    rule = {"sketch": {"ratio": 0.25, "kind": kind}}
    general, *measured = told(model, x, rules=rule)
    times = relative_variance(kind, 0.25)
    assert general.startswith(f"sketch: {kind}, 16 of 64 rows: it adds about {times:.1f} times")
    wanted = variances(
        model, lambda: model(x)["loss"].backward(), Projection(0.25, matmul=kind)
    ).modules
    assert len(measured) == 2  # of the caller's own input nothing is kept
    for sentence, path in zip(measured, ("layers.1", "layers.2"), strict=True):
        ratio = wanted[path].sketch / wanted[path].sgd
        assert sentence.startswith(
            f"sketch: {path}: measured, its variance is {ratio:.2f} times the batch's own"
        )


def test_a_report_on_a_model_without_a_loss_tells_what_holds_in_general():
    model, x = Model(), torch.randn(64, 8)
    assert len(told(model, x, False, rules={"sketch": 0.25})) == 1
    assert told(model, x) == []


# Dynamo itself instantiates torch.autograd.Function, which warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_report_on_sketching_modules_tells_it_too():
    model = Model()
    fxmem.convert(model, {"layers.2": {"sketch": 0.25}})
    (sentence,) = told(model, torch.randn(64, 8))
    assert sentence.startswith("sketch: layers.2: measured")


def test_the_report_on_a_transformed_graph_tells_what_holds_in_general():
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))
    rule = {"sketch": {"ratio": 0.25, "kind": "crs"}}
    gm = fxmem.transform(torch.fx.symbolic_trace(layers), {"min_bytes": 0, "rules": rule})
    (plan,) = fxmem.report(gm).plans
    told = [note for note in plan.notes if note.startswith("sketch")]
    assert told == [
        "sketch: crs, 25% of rows: it adds about 3.0 times the batch's own variance to a weight's "
        "gradient, where rows are alike"
    ]
