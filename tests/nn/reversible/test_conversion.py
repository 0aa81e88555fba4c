"""Lists of layers that are made reversible: which, what they compute, and what is said."""

import copy

import pytest
import torch
from torch import nn

from fxmem.nn.reversible import to_momentum, to_reversible

from .blocks import linear

CONVERSIONS = (to_momentum, to_reversible)
WIDTH = 16


class Residual(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.branch = linear(width)

    def forward(self, x, scale=1.0):
        return x + self.branch(x) * scale


def residuals(depth=3):
    torch.manual_seed(0)
    return nn.Sequential(*(Residual() for _ in range(depth)))


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_what_is_computed_is_what_is_said(convert):
    model, x = residuals(), torch.randn(4, WIDTH)
    branches = [copy.deepcopy(layer.branch) for layer in model]
    report = convert(model, memory="none", **({"gamma": 0.8} if convert is to_momentum else {}))
    a, b = (torch.zeros_like(x), x) if convert is to_momentum else (x, x)
    for f in branches:
        if convert is to_momentum:
            a = 0.8 * a + 0.2 * f(b)
            b = b + a
        else:
            a, b = b, a + f(b)
    expected = b if convert is to_momentum else (a + b) / 2
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    assert report.model is model and report.stacks == {"": 3} and not report.preserved


def test_a_forward_set_on_a_layer_is_refused():
    """As hooks for offloading set it; the chain would pass it over."""
    model = residuals()
    model[1].forward = model[1].forward
    for convert in CONVERSIONS:
        with pytest.raises(ValueError, match=r"1 \(Residual\) has a forward of its own"):
            convert(model)


def test_a_check_that_fails_leaves_the_model_as_it_was():
    class Shorter(Residual):
        def forward(self, x):
            return super().forward(x)[:-1]

    model, x = nn.Sequential(Residual(), Shorter()), torch.randn(4, WIDTH)
    before = model(x)
    for convert in CONVERSIONS:
        with pytest.raises(ValueError, match=r"1 \(Shorter\) gave shape \[3, 16\]"):
            convert(model, layers="", check=x)
        assert torch.equal(model(x), before)


def test_the_report():
    model, x = residuals(), torch.randn(4, WIDTH)
    before = model(x).detach()
    report = to_momentum(model, gamma=0.75, check=x)
    assert report.difference == pytest.approx(
        float((model(x).detach() - before).norm() / before.norm()), rel=1e-3
    )
    assert model.training
    assert str(report).splitlines() == [
        "the model itself: 3 layers",
        "a layer: v = 0.75 * v + 0.25 * (layer(x) - x), x = x + v",
        "the model's function: another: train, or fine-tune, what results",
        f"its outputs for the given inputs: {report.difference:.2g} away, relative",
        "its state_dict: the same names and shapes",
    ]


def test_differences_of_tuples_and_tensors():
    x = torch.randn(4, WIDTH)
    differences = [to_reversible(residuals(), check=c).difference for c in (x, (x,), {"input": x})]
    assert differences[0] > 0.01 and len(set(differences)) == 1


class Unlike(nn.Module):
    """Layers that are called with different arguments, and in no list's own forward."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Residual() for _ in range(4))

    def forward(self, x, scales):
        for layer, scale in zip(self.layers, scales, strict=True):
            x = layer(x, scale=scale)
        return x


def test_arguments_may_differ_from_layer_to_layer():
    results = []
    for memory in ("none", "reversible"):
        torch.manual_seed(0)
        model = Unlike()
        to_momentum(model, memory=memory, exact=True)
        scales = [torch.full((WIDTH,), 0.5 + k).requires_grad_() for k in range(4)]
        model(torch.ones(2, WIDTH), scales).square().sum().backward()
        results.append([*(p.grad for p in model.parameters()), *(s.grad for s in scales)])
    assert all(map(torch.equal, *results))


def test_a_part_of_the_layers():
    model = nn.Sequential(nn.Linear(4, WIDTH), *residuals(3))
    with pytest.raises(ValueError, match=r"Sequential has no list .* give layers="):
        to_momentum(model)
    report = to_momentum(model, "", keep_first=1)
    assert report.stacks == {"": 3}
    model(torch.randn(2, 4)).sum().backward()
    wrong = nn.Sequential(nn.Linear(4, WIDTH), *residuals(3))
    to_momentum(wrong, "")
    with pytest.raises(ValueError, match=r"0 \(Linear\) gave shape \[2, 16\] for an input"):
        wrong(torch.randn(2, 4))


def test_an_encoder_and_a_decoder():
    results = []
    for memory in ("none", "reversible"):
        torch.manual_seed(0)
        model = nn.Transformer(WIDTH, 2, 2, 2, 32, dropout=0.1, batch_first=True)
        report = to_momentum(model, memory=memory, exact=True)
        source, target = (torch.randn(2, 5, WIDTH).requires_grad_() for _ in range(2))
        model(source, target).square().sum().backward()
        results.append([source.grad, target.grad, *(p.grad for p in model.parameters())])
    assert report.stacks == {"encoder.layers": 2, "decoder.layers": 2}
    assert all(map(torch.equal, *results))


def test_refusals():
    model = residuals()
    with pytest.raises(ValueError, match="Sequential has no module 'encoder'"):
        to_momentum(model, "encoder")
    with pytest.raises(ValueError, match="'0' is no Sequential or ModuleList but Residual"):
        to_momentum(model, "0")
    with pytest.raises(ValueError, match="Sequential has no layers left to convert"):
        to_momentum(model, keep_first=3)
    with pytest.raises(ValueError, match="memory must be one of"):
        to_reversible(model, memory="some")
    with pytest.raises(ValueError, match="gamma=0 is the plain residual network"):
        to_momentum(model, gamma=0)
    to_momentum(model)
    with pytest.raises(ValueError, match="are in a reversible chain already"):
        to_reversible(model)
    layer = Residual()
    with pytest.raises(ValueError, match="holds one layer several times"):
        to_momentum(nn.Sequential(layer, layer), "")


def test_a_model_that_does_not_hand_on_what_it_got():
    class Skips(Unlike):
        def forward(self, x):
            for k, layer in enumerate(self.layers):
                x = layer(x) if k != 2 else x
            return x

    class Changes(Unlike):
        def forward(self, x):
            for layer in self.layers:
                x = layer(x) * 2
            return x

    class ChangesInPlace(Unlike):
        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
                with torch.no_grad():
                    x.mul_(2)
            return x

    for kind, where in ((Skips, 3), (Changes, 1), (ChangesInPlace, 1)):
        model = kind()
        to_momentum(model)
        with pytest.raises(RuntimeError, match=rf"layers.{where} \(Residual\) was not given what"):
            model(torch.randn(2, WIDTH))
        with pytest.raises(RuntimeError, match="was not given"):
            model(torch.randn(2, WIDTH))  # what the first call left does not help the second
