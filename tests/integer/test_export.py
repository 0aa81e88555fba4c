"""A binary network is trained on bits, exported in bits, and computes the same when it is back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fxmem.weights import ExternalWeightManager, OrderError, pack_model

from .networks import network, ruled

LABELS = torch.arange(32) % 4
ENDS = ("first", "last")  # as the rule leaves them
BINARY = ("binarynet", "xnor", "bwn", "binaryconnect", "dorefa:1,2,6")
RULES = (*BINARY, "dorefa:3,4,8", "wageubn8", "int8")
MANAGED = ("binaryconnect", "binarynet", "xnor")


def images():
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(4, 1, 8, 8, generator=draw)
    return means[LABELS] + 0.3 * torch.randn(32, 1, 8, 8, generator=draw)


def train(run, optimizer):
    x, losses = images(), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(run(x), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def by_a_rule(rule):
    """The export of what a rule trained, and what it computes."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    optimizer.register_step_post_hook(lambda *_: model[2].weight.data.clamp_(-1, 1))
    graph = ruled(model, rule)
    train(graph, optimizer)
    return pack_model(model, graph), ruled(model.eval(), rule)(images())


def by_a_manager(method):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    manager = ExternalWeightManager(model, method, optimizer=optimizer, exempt=ENDS)
    train(model, optimizer)
    with manager.evaluate("quantized"):
        return manager.export(), model.eval()(images())


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each network computes here, and what a new process does that has the files alone."""
    folder = tmp_path_factory.mktemp("exports")
    torch.save(images(), folder / "inputs")
    found = {rule: by_a_rule(rule) for rule in RULES}
    found |= {f"real_{method}": by_a_manager(method) for method in MANAGED}
    for name, (export, _) in found.items():
        export.save(folder / f"{name}.bits")
    tests = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    subprocess.run([sys.executable, "-m", "integer.networks", str(folder)], check=True, env=env)
    there = {name: torch.load(folder / f"{name}.outputs") for name in found}
    return {name: (y.detach(), there[name]) for name, (_, y) in found.items()}


@pytest.mark.parametrize("name", [*RULES, *(f"real_{method}" for method in MANAGED)])
def test_a_new_process_computes_the_same(outputs, name):
    here, there = outputs[name]
    assert torch.equal(here, there)


def test_the_report_of_sizes():
    model = network()
    before = sum(t.nbytes for t in model.state_dict().values())
    exported = pack_model(model, ruled(model, "xnor"))
    signs = {name: packed.codes.nbytes for name, packed in exported.packed.items()}
    assert signs == {"2.weight": 8 * 16 * 9 // 8, "5.weight": 256 * 33 // 8}
    first, second, rest, all_of_it = (line.split() for line in str(exported).splitlines())
    scales = 4 * 16, 4 * 33
    assert first[:3] == ["2.weight", "1", "bit"] and rest[:2] == ["everything", "else"]
    assert first[3:] == ["4,608", "->", str(144 + scales[0]), "bytes"]
    assert second[3:] == ["33,792", "->", f"{1056 + scales[1]:,}", "bytes"]
    assert all_of_it[-4:] == [f"{before:,}", "->", f"{exported.nbytes:,}", "bytes"]


def test_a_model_is_left_as_it_was():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack_model(model, {"2": "xnor", "5.weight": "int8"})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._state_dict_hooks for module in model.modules())
    with (
        ExternalWeightManager(model),
        pytest.raises(OrderError, match=r"pack_model\(\) expects restore\(\) of another manager"),
    ):
        pack_model(model, {"2": "xnor"})


class Unordered(nn.Module):
    """Defined in another order than called; one weight is an embedding, too, one layer is 1-d."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last, self.second = nn.Linear(16, 4), nn.Conv1d(1, 2, 3, padding=1)
        self.words, self.tied = nn.Embedding(16, 16), nn.Linear(16, 16)
        self.first, self.twice = nn.Linear(8, 16), nn.Linear(16, 16, bias=False)
        self.tied.weight = self.words.weight

    def forward(self, x):
        y = self.second(self.first(x).unsqueeze(1)).sum(1)
        y = self.twice(self.twice(y)) + self.words(torch.arange(3))
        return self.last(self.tied(y))


def test_what_the_rule_left_alone_is_not_packed():
    model, x = Unordered(), torch.randn(3, 8)
    graph = ruled(model, "xnor")
    wanted = graph(x)
    export = pack_model(model, graph)
    assert list(export.packed) == ["second.weight", "twice.weight"]
    assert torch.equal(ruled(export.load_into(Unordered()), "xnor")(x), wanted)
    named = pack_model(model, {"twice": "xnor", "second.weight": "xnor"})
    assert torch.equal(ruled(named.load_into(Unordered()), "xnor")(x), wanted)


@pytest.mark.parametrize("rule", BINARY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(rule, dtype):
    """To the last bit where scales stay in float32, and to their rounding where they do not."""
    model, x = network().to(dtype).eval(), images().to(dtype)
    graph = ruled(model, rule)
    wanted, export = graph(x), pack_model(model, graph)
    fresh = export.load_into(network(seed=1).to(dtype), exact=True).eval()
    assert fresh[2].weight.dtype == torch.float32 and fresh[0].weight.dtype == dtype
    assert torch.equal(ruled(fresh, rule)(x), wanted)
    plain = export.load_into(network(seed=1).to(dtype)).eval()
    assert plain[2].weight.dtype == dtype
    assert torch.equal(plain[2].weight, fresh[2].weight.to(dtype))


@pytest.mark.parametrize(
    ("layers", "error", "words"),
    [
        ({"head": "xnor"}, ValueError, "the model has no layer 'head' with a weight of its own"),
        ({"2": "xnors"}, ValueError, "method must be one of int8, .*; got 'xnors'"),
        ("xnor", TypeError, "layers must be the graph that fxmem.transform returned, or .*'xnor'"),
        (ruled(network(), "xnor"), ValueError, "no layer of this graph .* a weight of Sequential"),
        (fx.symbolic_trace(network()), ValueError, "no layer of this graph computes in integers"),
    ],
)
def test_layers_that_there_are_not(layers, error, words):
    with pytest.raises(error, match=words):
        pack_model(network(), layers)
