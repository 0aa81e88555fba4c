"""state_dict, load_state_dict and export: the masters, or the bits, and never what lies between."""

import io

import pytest
import torch
from torch import nn

from fxmem.quantizers import Binary, dorefa
from fxmem.weights import METHODS, Export, ExternalWeightManager, OrderError

from .samples import X, model, run, weights


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in state.items())


def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_a_state_dict_has_the_masters_at_all_times():
    net = model()
    wanted = copied(net)
    manager = ExternalWeightManager(net, "xnor", exempt=())
    whole = nn.ModuleDict({"inner": net})
    prefixed = {"inner." + name: value for name, value in wanted.items()}
    for _ in range(2):
        with manager:
            assert not torch.equal(net[0].weight, wanted["0.weight"])
            assert same(net.state_dict(), wanted) and same(whole.state_dict(), prefixed)
            assert torch.equal(net[0].state_dict()["weight"], wanted["0.weight"])
            with manager.evaluate():
                assert same(net.state_dict(), wanted)
        with manager.evaluate():
            assert same(net.state_dict(), wanted)
        assert same(net.state_dict(), wanted)


def test_loading_while_quantized_loads_masters():
    net, other = model(), model()
    manager = ExternalWeightManager(net)
    with manager:
        net.load_state_dict(other.state_dict())
        assert torch.equal(net[0].weight, Binary().value(other[0].weight))
    assert all(map(torch.equal, weights(net), weights(other)))


def test_loading_a_part_leaves_the_other_masters():
    net = model()
    before = weights(net)
    manager = ExternalWeightManager(net)
    with manager:
        net.load_state_dict({"0.weight": torch.zeros(12, 8)}, strict=False)
        assert net[2].weight.unique().tolist() == [-1, 1]
    assert torch.equal(net[2].weight, before[1]) and not net[0].weight.any()


@pytest.mark.parametrize("method", ["binaryconnect", "dorefa"])
def test_loading_between_restore_and_step_is_no_step(method):
    net, other = model(), model()
    manager = ExternalWeightManager(net, method, exempt=())
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def backward():
        with manager:
            run(net)
        return [p.grad.clone() for p in net.parameters()]

    backward()
    net.load_state_dict(other.state_dict())
    optimizer.zero_grad()
    grads = backward()
    optimizer.step()
    manager.clip()
    assert manager.held[0].master.equal(other[0].weight)
    follows = ExternalWeightManager(other, method, exempt=())
    with follows:
        run(other)
    assert all(map(torch.equal, grads, [p.grad for p in other.parameters()]))
    torch.optim.SGD(other.parameters(), 0.01).step()
    follows.clip()
    assert same(net.state_dict(), other.state_dict())


def test_loading_where_it_makes_no_sense():
    net = model()
    manager = ExternalWeightManager(net)
    with (
        manager.evaluate(),
        pytest.raises(OrderError, match=r"load_state_dict\(\) expects the end"),
    ):
        net.load_state_dict(model().state_dict())
    net.load_state_dict(model().state_dict(), assign=True)
    with pytest.raises(RuntimeError, match=r"0.weight is another parameter than when the manager"):
        manager.quantize()


def test_an_optimizers_checkpoint_goes_on_where_it_was():
    """Saved in the middle of a step and loaded into a new model: the same training to the bit."""

    def start(seed):
        torch.manual_seed(seed)
        net = model()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        return net, optimizer, ExternalWeightManager(net, "dorefa", optimizer=optimizer, exempt=())

    def steps(net, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            run(net)
            optimizer.step()

    first, optimizer, _ = start(0)
    steps(first, optimizer)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    steps(first, optimizer)
    second, optimizer, _ = start(1)
    file.seek(0)
    state = torch.load(file)
    second.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    steps(second, optimizer)
    assert same(first.state_dict(), second.state_dict())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolve, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.words = nn.Embedding(6, 36)
        self.tied = nn.Linear(36, 6)
        self.tied.weight = self.words.weight

    def forward(self, x):
        y = self.norm(self.convolve(x)).relu().mean(1).flatten(1)
        return self.tied(y) + self.words(torch.arange(6)).sum()


@pytest.mark.parametrize("state", ["master", "quantized"])
@pytest.mark.parametrize("method", METHODS)
def test_export_and_reload_give_the_same_outputs(method, state):
    net, x = Net(), torch.randn(3, 1, 8, 8)
    manager = ExternalWeightManager(net, method, exempt=())
    net(x)
    net.eval()
    with manager.evaluate("quantized"):
        wanted = net(x)
    if state == "quantized":
        manager.quantize()
    file = io.BytesIO()
    torch.save(manager.export().state_dict(), file)
    file.seek(0)
    export = Export.from_state_dict(torch.load(file, weights_only=True))
    fresh = export.load_into(Net()).eval()
    assert torch.equal(fresh(x), wanted) and fresh.tied.weight is fresh.words.weight


BITS = [("binaryconnect", {}, 1), ("xnor", {}, 1), ("dorefa", {"bits": 3}, 3), ("wageubn", {}, 8)]


@pytest.mark.parametrize(("method", "options", "bits"), BITS)
def test_exported_bytes_are_the_claimed_bits(method, options, bits):
    net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 32))
    export = ExternalWeightManager(net, method, exempt=(), **options).export()
    codes = sum(packed.codes.nbytes for packed in export.packed.values())
    assert codes == (64 * 64 + 64 * 32) * bits // 8
    scales = sum(p.scale.nbytes for p in export.packed.values() if p.scale is not None)
    assert export.nbytes == codes + scales + 4 * 32
    assert scales <= 4 * 96


def test_the_size_report():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 32, bias=False))
    export = ExternalWeightManager(net, "dorefa", exempt=("last",)).export(masters=torch.bfloat16)
    assert str(export).splitlines() == [
        "0.weight                   1 bit        16,384 -> 516 bytes",
        "everything else                          8,448 -> 8,448 bytes",
        "masters                                      0 -> 8,192 bytes",
        "in all             1.4 x smaller        24,832 -> 17,156 bytes",
    ]


def test_masters_go_along_where_asked_for():
    net = model()
    export = ExternalWeightManager(net, "dorefa", exempt=()).export(masters=torch.float32)
    assert same(export.load_into(model(), masters=True).state_dict(), net.state_dict())
    without = ExternalWeightManager(net, "dorefa", exempt=()).export()
    with pytest.raises(ValueError, match="the export has no masters"):
        without.load_into(model(), masters=True)
    with pytest.raises(
        TypeError, match="masters must be a floating-point dtype or None; got 'bf16'"
    ):
        ExternalWeightManager(net).export(masters="bf16")
    with pytest.raises(ValueError, match=r"not what Export.state_dict\(\) wrote: it has 0.weight"):
        Export.from_state_dict(net.state_dict())


def test_what_is_no_quantizer_is_exported_dense():
    net = model()
    rules = {0: torch.round}
    export = ExternalWeightManager(net, "dorefa", rules, exempt=(), bits=2).export()
    assert set(export.packed) == {"2.weight", "3.weight"}
    fresh = export.load_into(model())
    assert torch.equal(fresh[0].weight, net[0].weight.round())
    assert torch.equal(fresh[2].weight, dorefa.weight(2).value(net[2].weight))


def test_an_export_is_a_snapshot():
    net = model()
    manager = ExternalWeightManager(net)
    export = manager.export()
    wanted = export.load_into(model())(X)
    with torch.no_grad():
        for p in net.parameters():
            p.neg_()
    assert torch.equal(export.load_into(model())(X), wanted)


def broken(change):
    state = ExternalWeightManager(model()).export().state_dict()
    change(state)
    return state


JUNK = [
    *((torch.ones(2), r"it has a Tensor, not dictionaries"), ([1], "it has a list, not")),
    (broken(lambda s: s.pop("rest")), "it has packed, aliases, dense_bytes, ..., not"),
    (broken(lambda s: s.update(rest=[])), "not dictionaries aliases"),
    (broken(lambda s: s["packed"].update(w=[])), r"^w: a packed tensor has bits, .*; got \[\]$"),
    (broken(lambda s: s["packed"]["0.weight"].pop("bits")), r"^0\.weight: a packed tensor has"),
]


@pytest.mark.parametrize(("content", "message"), JUNK)
def test_a_file_of_something_else(content, message):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    with pytest.raises(ValueError, match=message):
        Export.load(file)


def test_an_export_names_the_weight_that_is_no_number():
    net = model()
    net[2].weight.data[3, 4] = float("nan")
    with pytest.raises(OverflowError, match=r"^2\.weight: 1 bits hold codes from 0 to 1; got nan"):
        ExternalWeightManager(net, "binaryconnect").export()
