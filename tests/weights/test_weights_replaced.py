"""A model whose weights or layers are replaced or wrapped while a manager has them."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from fxmem.quantizers import Binary
from fxmem.weights import ExternalWeightManager

from .samples import model, weights


def replaced(net):
    net[0].weight = nn.Parameter(torch.zeros(12, 8))


def new_layer(net):
    net[0] = nn.Linear(8, 12)


def no_layer(net):
    net[0] = nn.Identity()


def assigned(net):
    net.load_state_dict(model().state_dict(), assign=True)


@pytest.mark.parametrize("replace", [replaced, assigned, new_layer, no_layer])
def test_a_weight_replaced_while_quantized(replace):
    net = model()
    manager = ExternalWeightManager(net)
    second = net[2].weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"0\.weight is another parameter than when"), manager:
        replace(net)
    assert manager.held[1].parameter.equal(second)
    with (
        pytest.raises(RuntimeError, match=r"0\.weight is another parameter"),
        manager.evaluate(),
    ):
        pass


class Wrapped(nn.Module):
    """It has a weight of its own, and hands on nothing but calls."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight = inner, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.inner(x) * self.weight


@pytest.mark.parametrize("wrapper", [Wrapped, checkpoint_wrapper, torch.compile])
def test_a_layer_wrapped_since_is_managed_on(wrapper):
    net = model()
    before, manager = weights(net), ExternalWeightManager(net)
    net[2] = wrapper(net[2])
    with manager:
        assert all(map(torch.equal, weights(net), map(Binary().value, before)))
    assert all(map(torch.equal, weights(net), before)) and len(manager.export().packed) == 3
