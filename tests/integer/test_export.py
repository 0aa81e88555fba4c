"""A binary network is trained on bits, exported in bits, and computes the same when it is back."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxmem
from fxmem.weights import ExternalWeightManager
from fxmem.weights.export import Export

ENDS = ("first", "last")  # as the rule leaves them


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.BatchNorm2d(16),
        nn.Flatten(),
        nn.Linear(16 * 16, 32),
        nn.BatchNorm1d(32),
        nn.Linear(32, 4),
    )


def binary(model, method):
    graph = torch.fx.symbolic_trace(model)
    return fxmem.transform(graph, {"rules": {"integer": method}})


def trained(method):
    model = network()
    run, y = binary(model, method), torch.arange(32) % 4
    x = torch.randn(4, 1, 8, 8)[y] + 0.3 * torch.randn(32, 1, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(run(x), y)
        loss.backward()
        optimizer.step()
        for layer in (model[2], model[5]):
            layer.weight.data.clamp_(-1, 1)
        losses.append(loss.item())
    return model, x, losses


@pytest.mark.parametrize("method", ["binarynet", "xnor"])
def test_exported_and_reloaded(method):
    model, x, losses = trained(method)
    assert losses[-1] < 0.3 * losses[0]
    exported = ExternalWeightManager(model, method=method, exempt=ENDS).export()
    assert set(exported.packed) == {"2.weight", "5.weight"}
    assert exported.packed["5.weight"].codes.nbytes == model[5].weight.numel() // 8
    file = io.BytesIO()
    torch.save(exported.state_dict(), file)
    file.seek(0)
    back = Export.from_state_dict(torch.load(file, weights_only=True)).load_into(network())
    wanted, found = (binary(m.eval(), method)(x) for m in (model, back.eval()))
    if method == "binarynet":
        assert torch.equal(found, wanted)
    # The mean of n equal magnitudes may round: XNOR-Net's scale is one ulp off at worst.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
