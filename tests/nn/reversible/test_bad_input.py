"""What cannot be right is said in a sentence, which names the block."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fxmem.nn.reversible import (
    AffineCoupling,
    FunctionCoupling,
    MomentumCoupling,
    ReversibleSequential,
)

from .blocks import linear

X = torch.randn(2, 6)


def says(message, *blocks, error=ValueError, x=X, **options):
    model = ReversibleSequential(*blocks, **options)
    with pytest.raises(error, match=message):
        model(x.clone())


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "none"])
def test_odd_split_dimension(memory):
    message = r"split_dim=1 of an input of shape \[2, 5\] has odd size 5"
    says(message, linear(2), x=torch.randn(2, 5), memory=memory)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "none"])
def test_dimensions_that_are_not_there(memory):
    message = r"split_dim=2 is no dimension .* \[2, 6\], which has from -2 to 1"
    says(message, linear(3), split_dim=2, memory=memory)
    says("split_dim=-3 is no dimension", linear(3), split_dim=-3, memory=memory)
    says("split_dim=1 .* it is a single number", linear(3), x=torch.ones(()), memory=memory)
    coupling = AffineCoupling(dim=2)
    says(r"block 0.* dim=2 is no dimension", nn.Linear(3, 6), coupling=coupling, memory=memory)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "none"])
def test_block_that_changes_the_shape(memory):
    message = r"block 1 \(Linear\) gave shape \[2, 4\] for streams of \[2, 3\]"
    says(message, linear(3), nn.Linear(3, 4), memory=memory)
    message = r"block 0 \(<lambda>\) gave shape \[5, 2, 3\] where the streams have \[2, 3\]"
    says(message, lambda x: x.expand(5, 2, 3), memory=memory)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "none"])
def test_affine_block_of_the_wrong_size(memory):
    coupling = AffineCoupling()
    says(r"block 0 \(Linear\).*size 3 of dimension 1 is odd", nn.Linear(3, 3), coupling=coupling)
    says(r"block 0.*AffineCoupling cannot join", nn.Linear(3, 4), coupling=coupling, memory=memory)


def test_shape_that_changes_later():
    grow = []
    model = ReversibleSequential(lambda x: torch.cat([x, *grow], 1))
    model(X.clone().requires_grad_())
    grow.append(X)
    with pytest.raises(ValueError, match=r"block 0 \(<lambda>\) gave shape \[2, 9\]"):
        model(X.clone().requires_grad_())


def test_coupling_that_does_not_invert():
    """The inverse of RevLib's first README; exactly how far it is off depends on the batch."""
    wrong = FunctionCoupling(lambda a, f: 0.9 * a + 0.1 * f, lambda y, f: y / 0.9 - f * 0.1)
    message = r"block 0 \(Sequential\): FunctionCoupling.* does not invert.* off by 0\.\d+ of the"
    says(message, linear(3), coupling=wrong)
    forgets = FunctionCoupling(lambda a, f: 0 * a + f, lambda y, f: (y - f) / 0)
    says("does not invert: on this batch its inverse is off by nan", linear(3), coupling=forgets)


def test_the_inverse_is_checked_on_the_first_batch_only():
    calls = []

    def undo(y, f):
        calls.append(1)
        return y - f

    model = ReversibleSequential(linear(3), coupling=(torch.add, undo))
    model(X)
    once = len(calls)
    for _ in range(3):
        model(X)
    assert len(calls) == once > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("limit", [1.0, 6.0])
def test_rounding_passes_for_what_it_is(dtype, limit):
    """exp(6) times over in the worst case; a constant that is 1e-4 off is none."""
    block = nn.Linear(3, 6).to(dtype)
    ReversibleSequential(block, coupling=AffineCoupling(limit=limit))((3 * X).to(dtype))
    if dtype.itemsize >= 4:
        off = FunctionCoupling(torch.add, lambda y, f: y - 1.0001 * f)
        says("does not invert", linear(3).to(dtype), coupling=off, x=X.to(dtype))


@pytest.mark.parametrize("x", [X[:0], X * torch.nan, X / 0], ids=["empty", "nan", "inf"])
def test_a_batch_that_proves_nothing(x):
    """The next one is looked at then."""
    wrong = FunctionCoupling(lambda a, f: 0.9 * a + 0.1 * f, lambda y, f: y)
    model = ReversibleSequential(linear(3), coupling=wrong)
    assert model(x).shape == x.shape
    with pytest.raises(ValueError, match="does not invert"):
        model(X)


def test_a_source_that_does_not_come_back():
    class Forgets(MomentumCoupling):
        def source(self, a, b):
            return (b - a) / 0 * 0

    says("does not invert: .* off by nan", linear(6), coupling=Forgets(), split_dim=None)


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"memory": "checkpoint"}])
def test_an_empty_batch_has_gradients(options):
    model, x = ReversibleSequential(linear(3), **options), torch.zeros(0, 6, requires_grad=True)
    model(x).sum().backward()
    assert x.grad.shape == x.shape and not model[0].block[0].weight.grad.any()


def test_a_coupling_at_its_limits_passes():
    model = ReversibleSequential(linear(3), coupling=MomentumCoupling(0.05))
    model(X).sum().backward()


def test_parameters_found_elsewhere():
    outside = nn.Linear(3, 3)
    message = r"block 0 \(<lambda>\) .* uses a tensor of shape \[3(, 3)?\] that requires grad"
    says(message, lambda x: outside(x))
    gain = torch.ones((), requires_grad=True)
    coupling = FunctionCoupling(lambda a, f: a + gain * f, lambda y, f: y - gain * f)
    says(r"block 0 .*or its coupling.* shape \[\]", linear(3), coupling=coupling)
    ReversibleSequential(lambda x: outside(x), memory="none")(X).sum().backward()
    assert outside.weight.grad is not None


class Conditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.found = nn.Linear(3, 3), None

    def forward(self, x, condition=None):
        added = self.found if condition is None else condition.value
        return self.linear(x if added is None else x + added)


@dataclass
class Condition:
    value: torch.Tensor


@pytest.mark.parametrize("memory", ["reversible", "checkpoint"])
@pytest.mark.parametrize("inside", [True, False])
def test_tensors_found_elsewhere_later(memory, inside):
    """Every batch is looked at, the second as the first."""
    model, found = (
        ReversibleSequential(Conditioned(), memory=memory),
        torch.ones(3).requires_grad_(),
    )
    model(X).sum().backward()
    model[0].block.found = None if inside else found.exp()
    loss = model(X, *([Condition(found.exp())] if inside else [])).sum()
    message = r"block 0 .* shape \[3\] .* nor an argument of the call"
    told = ".*inside an argument of type Condition are not seen" if inside else ".*argument$"
    with pytest.raises(ValueError, match=message + told):
        loss.backward()


def test_tensors_found_elsewhere_later_where_no_backward_comes():
    model, gain = ReversibleSequential(lambda x: x * gain), torch.ones(())
    model(X)
    gain.requires_grad_()
    with pytest.raises(ValueError, match=r"block 0 .* uses a tensor of shape \[\]"):
        model(X)


def test_a_parameter_that_is_trained_from_now_on():
    """It was no input of this forward, and has no gradient, as anywhere else."""
    model = ReversibleSequential(linear(3), linear(3).requires_grad_(False))
    loss = model(X).sum()
    model.requires_grad_()
    loss.backward()
    assert model[1].block[0].weight.grad is None and model[0].block[0].weight.grad is not None


@pytest.mark.parametrize("needs", [True, False])
def test_block_that_writes_to_its_input(needs):
    model = ReversibleSequential(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3)))
    with pytest.raises(RuntimeError, match=r"block 0 \(Sequential\) changes its input in place"):
        model(X.clone().requires_grad_(needs))


def test_block_that_returns_no_tensor():
    says("block 0 .* returned tuple: a block returns one tensor", lambda x: (x,), error=TypeError)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory": "some"}, ValueError, "memory must be one of reversible, checkpoint, none"),
        ({"memory_mode": 4}, ValueError, "memory_mode must be one of"),
        ({"coupling": "additive"}, TypeError, "a coupling is a .*Coupling or a pair"),
        ({"coupling_forward": torch.add}, TypeError, "come in pairs: one is missing"),
        (
            {"coupling_forward": [torch.add] * 2, "coupling_inverse": [torch.sub]},
            ValueError,
            "2 functions in coupling_forward and 1 in coupling_inverse",
        ),
        (
            {"coupling": AffineCoupling(), "coupling_forward": torch.add},
            TypeError,
            "not both",
        ),
    ],
)
def test_options(options, error, message):
    with pytest.raises(error, match=message):
        ReversibleSequential(linear(3), **options)


def test_settings_of_couplings():
    for gamma in (0, -0.1, 1.5):
        with pytest.raises(ValueError, match="gamma must be above 0 and at most 1"):
            MomentumCoupling(gamma)
    with pytest.raises(ValueError, match="limit must be above 0"):
        AffineCoupling(limit=0)
