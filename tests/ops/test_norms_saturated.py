"""Batch norm and elu kept as one output, where elu has rounded much of it to its limit."""

import copy
import itertools

import pytest
import torch
from torch.nn import functional as F

from fxmem import nn
from fxmem.measure import kept
from fxmem.ops.norms import channels

C, SIZE = 8, (16, 8, 12, 12)
SLOPES = {
    "drawn": torch.randn_like,
    "along": lambda z: z,  # what is taken away of the normalised input is as much as what stays
}


def pair(weight=1.0, bias=0.0, **options):
    """Ours, and torch's batch norm of the same state."""
    ours = nn.BatchNorm2d(C, activation="elu", activation_param=1.0, **options)
    if ours.affine:
        torch.nn.init.constant_(ours.weight, weight)
        torch.nn.init.constant_(ours.bias, bias)
    theirs = torch.nn.BatchNorm2d(C, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def sample(far):
    """Draw an input; `far`: with one element of each channel far from the others."""
    torch.manual_seed(0)
    x = torch.randn(SIZE) * 1.7 + 0.3
    x[0, :, 0, 0] = -20.0 if far else 0.0
    return x


def errors(ours, theirs, x, slope, dtype):
    """Return how far off the gradients of each are, beside those in float64."""
    exact, found = copy.deepcopy(theirs).double(), []
    x = x.to(dtype)
    slope = slope(F.elu(exact(x.double())).detach()).to(dtype)
    for module, call in ((exact, F.elu), (ours.to(dtype), lambda y: y), (theirs.to(dtype), F.elu)):
        leaf = x.to(next((p.dtype for p in module.buffers()), dtype)).requires_grad_()
        y = call(module(leaf))
        leaves = [leaf, *module.parameters()]
        found.append(torch.autograd.grad(y, leaves, slope.to(y.dtype)))
    wanted = found[0]
    return [
        torch.stack([(a - b).norm() / b.norm() for a, b in zip(got, wanted, strict=True)])
        for got in found[1:]
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("weight", "bias"), [(1.0, 0.0), (3.0, 0.0), (5.0, 0.0), (-10.0, 1.0), (1.0, -5.0)]
)
def test_error(weight, bias, dtype):
    """At most twice plain's in half precision; in float32 at most 2e-6 of a gradient's own size."""
    # A sum of C channels alone can come out right by chance in plain's.
    floor = torch.finfo(dtype).eps / 2
    for training, far, slope in itertools.product((True, False), (False, True), SLOPES.values()):
        pairs = [module.train(training) for module in pair(weight, bias)]
        ours, plain = errors(*pairs, sample(far), slope, dtype)
        limit = plain.clamp(min=floor) * 2 if dtype != torch.float32 else torch.tensor(2e-6)
        assert (ours <= limit).all(), (training, far, slope, ours, plain)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("slope", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("name", ["leaky_relu", "elu"])
def test_slopes_that_underflow(name, slope, affine):
    """At most twice plain's: what float16 has no numbers for is kept beside the output."""
    ours = nn.BatchNorm2d(C, affine=affine, activation=name, activation_param=slope).half()
    plain = torch.nn.BatchNorm2d(C, affine=affine)
    exact, act = copy.deepcopy(plain).double(), getattr(F, name)
    torch.manual_seed(1)
    found, (x, grad) = [], (sample(far=False).half(), torch.randn(SIZE).half())
    calls = (
        (exact, lambda y: act(y, slope)),
        (ours, lambda y: y),
        (plain.half(), lambda y: act(y, slope)),
    )
    for module, call in calls:
        leaf = x.to(torch.double if module is exact else torch.half).requires_grad_()
        leaves = [leaf, *module.parameters()]
        found.append(torch.autograd.grad(call(module(leaf)), leaves, grad.to(leaf.dtype)))
    errors = [
        [((a - b).norm() / b.norm()).item() for a, b in zip(f, found[0], strict=True)]
        for f in found
    ]
    assert all(a <= max(2 * b, 5e-4) for a, b in zip(*errors[1:], strict=True))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("waits", [True, False])
def test_kept_bytes(waits, affine, monkeypatch):
    """At a weight of 1 the output alone; of channels with few elements far off, x_hat too."""
    monkeypatch.setattr(channels, "waits", lambda tensor: waits)
    monkeypatch.setattr(channels, "sent", lambda counts: (torch.Event("cpu"), counts.clone()))
    x = sample(far=False).requires_grad_()

    def found(x):
        ours, _ = pair(0.9 if waits else 1.0, affine=affine)  # places are for some more
        return kept(lambda: F.conv2d(ours(x), torch.ones(1, C, 1, 1, requires_grad=True))).nbytes

    few = 16 * C + 64
    everything = 2 if waits and not affine else 1  # there nothing is known of any channel
    assert everything * x.nbytes <= found(x) <= everything * x.nbytes + few
    with torch.no_grad():
        x[0, 2:4, 0, 0] = -20.0
    assert found(x) >= x.nbytes * (1 + 2 / C)


def test_what_is_kept_says_which_channels():
    y = torch.zeros(SIZE)
    y[:, 1], y[:, 2], y[:, 3], y[0, 4, 0, 0], y[:, 5] = -1.3, -1.5, -100.0, -60.0, 90.0
    found = channels.kept(torch.ones(C), channels.saturation(y), torch.float32)
    assert found.tolist() == [2, 3, 4]
