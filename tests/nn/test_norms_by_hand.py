"""Norms of other libraries, known by what they compute: the same module, keeping its output."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import fxmem

C = 16


class Own(nn.Module):
    """LayerNorm as tutorials write it."""

    def __init__(self, size, eps=1e-6, least=0.0):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.eps, self.least = eps, least

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        var = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.g * (x - mean) / torch.sqrt(var + self.eps).clamp(min=self.least) + self.b


class Deviation(Own):
    def forward(self, x):
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.g * (x - mean) / (std + self.eps) + self.b


class Moded(Own):
    """What it computes in one mode is a norm, in the other something else."""

    def __init__(self, size, in_training=True):
        super().__init__(size)
        self.in_training = in_training

    def forward(self, x):
        return super().forward(x) if self.training is self.in_training else x * self.g


KINDS = (LlamaRMSNorm, T5LayerNorm, GemmaRMSNorm, Own)


def converted(kind, dtype=torch.float32, value="output"):
    plain = nn.Sequential(kind(C), nn.Linear(C, C)).to(dtype)
    for name, parameter in plain[0].named_parameters():
        nn.init.normal_(parameter, float(name != "b"), 0.1)
    ours = copy.deepcopy(plain)
    return plain, ours, fxmem.convert(ours, {kind: value})


def step(model, x):
    y = model(x)
    return y.detach(), *torch.autograd.grad(y.sin().sum(), (x, *model.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_module(kind):
    plain, ours, found = converted(kind)
    assert len(found.changes) == 1 and "keep='output'" in str(found)
    assert isinstance(ours[0], kind) and ours.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(3, 5, C).requires_grad_()
    for twin in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(step(twin, x), step(plain, x))
    with torch.no_grad():
        assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize("kind", KINDS)
def test_kept(kind):
    plain, ours, _ = converted(kind)
    x = torch.randn(512, C).requires_grad_()
    before, after = (saved(model, x * 1) for model in (plain, ours))
    # The output, which the linear layer keeps, 1 / deviation of each row, and weights.
    assert after <= x.nbytes + 4 * 512 + 4 * (C * C + 4 * C) and before > 2.9 * x.nbytes


def saved(model, x):
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    return sum(sizes.values()) if y is not None else 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cast_is_the_modules_own(kind):
    """Of an input of another dtype, the output's dtype is what the library makes of it."""
    plain, ours, _ = converted(kind)
    x = torch.randn(4, C, dtype=torch.bfloat16)
    assert torch.equal(ours[0](x), plain[0](x)) and ours[0](x).dtype == plain[0](x).dtype
    with torch.autocast("cpu", torch.bfloat16):
        given = x.requires_grad_()
        assert torch.equal(ours(given), plain(given))


def test_refusals():
    said = str(converted(LlamaRMSNorm, value={"bits": 2})[2])
    assert "unchanged: LlamaRMSNorm is a norm: it takes no bits" in said
    said = str(converted(Deviation)[2])
    assert "fxmem.nn has no drop-in for Deviation" in said
    clamped = nn.Sequential(Own(C, least=0.1))
    assert "no drop-in for Own" in str(fxmem.convert(clamped, {Own: "output"}))
    assert "no drop-in" in str(fxmem.convert(converted(Own)[1], {r"0": "output"}))


@pytest.mark.parametrize("now", [True, False])
@pytest.mark.parametrize("in_training", [True, False])
def test_a_norm_in_one_mode_alone_is_none(in_training, now):
    model = nn.Sequential(Moded(C, in_training)).train(now)
    assert "no drop-in for Moded" in str(fxmem.convert(model, {Moded: "output"}))
    assert model[0].training is now


def test_compiled():
    plain, ours, _ = converted(GemmaRMSNorm)
    x = torch.randn(4, C).requires_grad_()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    (found,), (wanted,) = (torch.autograd.grad(m(x).sum(), x) for m in (compiled, plain))
    torch.testing.assert_close(found, wanted)
