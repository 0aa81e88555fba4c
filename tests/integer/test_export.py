"""A binary network is trained on bits, exported in bits, and computes the same when it is back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fxmem.weights import ExternalWeightManager, pack_model

from .networks import network, ruled

LABELS = torch.arange(32) % 4
ENDS = ("first", "last")  # as the rule leaves them
# Graph rules, with the weights' method and its options.
RULES = {
    "binarynet": ("binarynet", {}),
    "xnor": ("xnor", {}),
    "bwn": ("xnor", {}),
    "binaryconnect": ("binaryconnect", {}),
    "dorefa:1,2,6": ("dorefa", {"bits": 1}),
}
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
    model, (method, options) = network(), RULES[rule]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    optimizer.register_step_post_hook(lambda *_: model[2].weight.data.clamp_(-1, 1))
    train(ruled(model, rule), optimizer)
    return pack_model(model, method, **options), ruled(model.eval(), rule)(images())


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
    exported = pack_model(model, "xnor")
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
    pack_model(model, "xnor")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._state_dict_hooks for module in model.modules())
    with pytest.raises(ValueError, match="no quantizable weight fits 'head'"):
        pack_model(model, "xnor", rules={"head": None})
