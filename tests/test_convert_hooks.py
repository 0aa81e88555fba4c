"""convert beside what a module alone has: hooks, a forward of its own, registries."""

import pytest
import torch
from torch import nn

import fxmem
from fxmem.weights import ExternalWeightManager


def hook(*_, **__):
    pass


def overrides_forward(module):
    module.forward = module.forward


OWN = {
    "hooks": [
        lambda module: module.register_state_dict_post_hook(hook),
        lambda module: module.register_state_dict_pre_hook(hook),
        lambda module: module.register_load_state_dict_pre_hook(hook),
        lambda module: module.register_load_state_dict_post_hook(hook),
        lambda module: module.register_forward_pre_hook(hook),
    ],
    "forward": [overrides_forward],
}
RULES = {nn.Linear: {"sketch": 0.5}, nn.LayerNorm: "output", nn.GELU: {}, nn.Dropout: {}}


@pytest.mark.parametrize(("words", "give"), [(w, give) for w in OWN for give in OWN[w]])
def test_what_only_the_module_itself_has_is_not_lost(words, give):
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout())
    for module in net:
        give(module)
    before = list(net)
    found = fxmem.convert(net, RULES)
    assert [len(r.paths) for r in found.refusals] == [1] * 4 and not found.changes
    assert all(words in r.reason for r in found.refusals) and list(net) == before


def test_a_managed_model_saves_its_masters_still():
    net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))
    masters = {name: value.clone() for name, value in net.state_dict().items()}
    ExternalWeightManager(net, "binaryconnect", exempt=()).quantize()
    fxmem.convert(net, {nn.Linear: {"sketch": 0.5}, nn.GELU: "output"})
    assert net[0].weight.unique().numel() == 2 and type(net[1]) is fxmem.nn.GELU
    assert all(torch.equal(value, masters[name]) for name, value in net.state_dict().items())


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    "module", [nn.LayerNorm(8), nn.BatchNorm1d(8), nn.Dropout(), ByHand()], ids=repr
)
def test_a_twin_has_registries_of_its_own(module):
    twin = fxmem.convert(nn.Sequential(module), {"0": {}}).model[0]
    assert type(twin) is not type(module)
    twin.register_forward_hook(hook, with_kwargs=True)
    twin.register_state_dict_post_hook(hook)
    twin.register_buffer("more", torch.ones(1), persistent=False)
    assert not module._forward_hooks and not module._forward_hooks_with_kwargs
    assert not module._state_dict_hooks and "more" not in module._buffers
    assert not module._non_persistent_buffers_set
    assert all(a is b for a, b in zip(module.parameters(), twin.parameters(), strict=True))
