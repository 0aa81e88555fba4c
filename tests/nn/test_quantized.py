"""fxmem.nn.quantized: integers in every part of a training step, and sentences for the rest."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxmem.measure import kept
from fxmem.nn import quantized
from fxmem.nn.quantized import QuantConfig
from fxmem.quantizers.wageubn import AllDirect, Direct, Flag


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


def on_grid(x, fraction):
    return torch.equal(x, Direct(fraction).value(x))


CONFIG = QuantConfig()
LAYERS = {
    "linear": (quantized.Linear(12, 5), nn.Linear(12, 5), (4, 12)),
    "conv2d": (quantized.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(3, 5, 3, 2, 1), (2, 3, 7, 7)),
    "conv1d": (quantized.Conv1d(3, 5, 3, 2, 1), nn.Conv1d(3, 5, 3, 2, 1), (2, 3, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_are_those_of_the_grids(name):
    layer, plain, size = LAYERS[name]
    x = drawn(*size)
    with torch.no_grad():
        plain.weight.copy_(CONFIG.grid("weight").value(layer.weight))
        plain.bias.copy_(CONFIG.grid("bias").value(layer.bias))
    # Sums of multiples of 2^-12 below 2^12 are exact in float32, in any order.
    assert torch.equal(layer(x), plain(CONFIG.grid("input").value(x)))


def test_iostrict_puts_outputs_on_their_grid():
    layer = quantized.Linear(12, 5, iostrict=True, output_dec_bit_width=4, output_all_bit_width=5)
    y = layer(drawn(30, 12) * 9)
    assert on_grid(y, 4) and y.abs().max() == 15 / 8
    assert not on_grid(quantized.Linear(12, 5)(drawn(30, 12)), 4)


def test_errors_have_flagged_eight_bits():
    layer, x = quantized.Linear(6, 6, bias=False), drawn(5, 6).requires_grad_()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(6) / 2)
    grad = drawn(5, 6) * 0.3
    layer(x).backward(grad)
    assert torch.equal(x.grad, Flag(8).value(grad) / 2)


def test_batch_norm_is_close_to_torch_and_keeps_16_bits():
    x, plain = drawn(16, 8, 6, 6).mul(2).add(1).requires_grad_(), nn.BatchNorm2d(8)
    norm = quantized.BatchNorm2d(8)
    wanted, y, grad = plain(x), norm(x), drawn(16, 8, 6, 6).flip(0)
    assert (y - wanted).abs().max() < 2.0**-11
    pairs = ((y, norm), (wanted, plain))
    found = [torch.autograd.grad(o, (x, m.weight, m.bias), grad) for o, m in pairs]
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() < 2.0**-7 * other.abs().max()
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    found = kept(lambda: quantized.BatchNorm2d(8)(x))
    assert 2 * x.numel() <= found.nbytes <= 2 * x.numel() + 300
    y = norm.eval()(x)
    assert (y - plain.eval()(x)).abs().max() < 2.0**-9


@pytest.mark.parametrize(("kind", "top"), [(quantized.ReLU, 1e9), (quantized.ReLU6, 6.0)])
def test_rectified_activations_are_on_their_grid_and_keep_a_bit(kind, top):
    layer = kind(acti_dec_bit_width=5, acti_all_bit_width=8)
    x = (drawn(64, 64) * 4).requires_grad_()
    y = layer(x)
    wanted = AllDirect(5, 8).value(x.detach().clamp(0, top))
    assert torch.equal(y, wanted)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad.bool(), (x > 0) & (x < top))
    assert kept(lambda: layer(x)).nbytes == x.numel() // 8


def test_adder_is_minus_the_distance():
    layer = quantized.Adder2d(3, 4, 3, 2, 1)
    x = drawn(2, 3, 7, 7).requires_grad_()
    y, grad = layer(x), drawn(2, 4, 4, 4)
    left, right = CONFIG.grid("input").value(x), CONFIG.grid("weight").value(layer.weight)
    columns, filters = F.unfold(left, 3, 1, 1, 2), right.flatten(1)
    apart = columns[:, None] - filters[None, :, :, None]
    torch.testing.assert_close(y.flatten(2), -apart.abs().sum(2))
    y.backward(grad)
    g = grad.flatten(2)[:, :, None]
    towards = (apart * g).sum((0, 3)).view_as(layer.weight)
    towards *= layer.weight.numel() ** 0.5 / 5 / towards.norm()
    torch.testing.assert_close(layer.weight.grad, towards)
    x_grad = F.fold((-apart.clamp(-1, 1) * g).sum(1), (7, 7), 3, 1, 1, 2)
    torch.testing.assert_close(x.grad, x_grad)


def test_thresholds_are_trained():
    layer = quantized.Linear(12, 5, retrain=True)
    assert {name for name, _ in layer.named_parameters()} >= {"weight_log2_t", "input_log2_t"}
    assert (layer.weight_log2_t.item(), layer.input_log2_t.item()) == (0.0, 2.0)
    layer(drawn(20, 12) * 5).square().sum().backward()
    assert layer.weight_log2_t.grad.abs() > 0 and layer.input_log2_t.grad.abs() > 0


def test_a_network_becomes_quantized_in_place():
    net = network()
    parameters = list(net.parameters())
    names = quantized.config_network(net, "[1-8]", QuantConfig(error_bit_width=6))
    assert names == ["1", "2", "4", "5", "6", "8"]
    assert type(net[0]) is nn.Conv2d and type(net[4]) is quantized.Conv2d
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert net[8].config.error_bit_width == 6
    assert quantized.config_network(net, "8", QuantConfig()) == ["8"]
    assert net[8].config.error_bit_width == 8


def test_training_stays_on_the_grids_and_learns():
    net = network()
    quantized.config_network(net, ".*", QuantConfig())
    optimizer = quantized.SGD(net.parameters(), lr=0.2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 5
    x = drawn(5, 3, 8, 8)[y] + 0.5 * drawn(60, 3, 8, 8)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for p in net.parameters():
        assert on_grid(p, 24)
        assert optimizer.state[p]["momentum_codes"].dtype == torch.int16
        assert p.dim() == 1 or p.abs().max() < 1


# Dynamo itself makes an instance of every autograd.Function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_network_compiled():
    net, x = network(), drawn(4, 3, 8, 8)
    quantized.config_network(net, ".*", QuantConfig())
    torch._dynamo.reset()
    other = torch.compile(copy.deepcopy(net), backend="aot_eager")
    results = [run(x) for run in (net, other)]
    assert torch.equal(*results)
    for y in results:
        y.sum().backward()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_a_step_by_hand():
    """Two steps of a weight: Constant's gradient of 2^-14 steps, momentum on 2^-12, lr on 2^-9."""
    p = nn.Parameter(torch.tensor([[0.5, -0.5]]))
    config = QuantConfig(gradient_bit_width=11, momentum_bit_width=13)
    optimizer = quantized.SGD([p], lr=0.05, momentum=0.25, config=config)
    rate = round(0.05 * 512) / 512
    p.grad = torch.tensor([[4.0, -1.0]])  # 127 of 128, and a quarter of them: no fraction to draw
    optimizer.step()
    first = torch.tensor([[127.0, -32.0]]) / 1024
    assert torch.equal(p, Direct(24).value(torch.tensor([[0.5, -0.5]]) - rate * first))
    before = p.detach().clone()
    optimizer.step()
    second = first + Direct(13).value(0.25 * first)
    assert torch.equal(p, Direct(24).value(before - rate * Direct(13).value(second)))


def test_the_optimizer_is_saved_and_loaded():
    net = nn.Sequential(quantized.Linear(6, 3))
    optimizer = quantized.SGD(net.parameters())
    x = drawn(8, 6)

    def step(net, optimizer):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.generator = torch.Generator().manual_seed(1)
        optimizer.step()

    step(net, optimizer)
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], file)
    other = copy.deepcopy(net)
    again = quantized.SGD(other.parameters())
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other.load_state_dict(weights)
    again.load_state_dict(state)
    assert {kept["momentum_codes"].dtype for kept in again.state.values()} == {torch.int16}
    for pair in ((net, optimizer), (other, again)):
        step(*pair)
    assert torch.equal(net[0].weight, other[0].weight)
