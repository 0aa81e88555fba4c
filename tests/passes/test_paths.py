"""Modules are named from the outermost one, however what is compiled has reached it."""

import pytest
import torch
from torch import nn

import fxmem

from .tools import partitioned


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 16), nn.ModuleList([nn.Linear(16, 16)])

    def forward(s, x):
        return s.down[0](torch.tanh(s.up(x)))


NET = Net()


class Trainer:
    def __init__(self):
        self.net, self.nets = NET, {"first": [NET]}

    def step(self, x):
        return self.net(x).square().sum()

    def other(self, x):
        return self.nets["first"][0](x).square().sum()


WAYS = {
    "module": NET,
    "global": lambda x: NET(x).square(),
    "closure": (lambda net: lambda x: net(x).square())(NET),
    "method": Trainer().step,
    "in a dict": Trainer().other,
    "compiled within": (lambda net: lambda x: net(x).square())(torch.compile(NET)),
}
ASKED = {"min_bytes": 0, "rules": {"sketch": {"modules": {r"down\.0": 0.5}, "force": True}}}


@pytest.mark.parametrize("way", WAYS)
def test_a_pattern_finds_its_module(way):
    plan = partitioned(WAYS[way], torch.randn(32, 16), policy=ASKED).plan
    assert len([site for site in plan.sites if site.rule == "sketch"]) == 1
    assert not [note for note in plan.notes if "matches" in note]


@pytest.mark.parametrize("way", WAYS)
def test_a_pattern_finds_its_module_in_a_graph_that_dynamo_traced(way):
    reports = []

    def backend(gm, inputs):
        reports.append(fxmem.report(fxmem.transform(gm, ASKED)))
        return gm

    torch.compile(WAYS[way], backend=backend)(torch.randn(32, 16))
    (site,) = [entry for entry in reports[0].entries if entry.rule == "sketch"]
    assert site.residual.module == "down.0"


def test_a_pattern_that_matches_nothing_is_said():
    rules = {"sketch": {"modules": {"down": 0.5, "up": 0.5}}}
    sentence = "sketch: no path of a module in this graph matches 'down'; there are: down.0, up"
    policy = {"min_bytes": 0, "rules": rules}
    assert sentence in partitioned(NET, torch.randn(32, 16), policy=policy).plan.notes
    (plan,) = fxmem.report(fxmem.transform(torch.fx.symbolic_trace(NET), policy)).plans[:1]
    assert sentence in plan.notes
