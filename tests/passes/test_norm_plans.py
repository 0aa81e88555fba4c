"""What the plan says of norms is what is saved, and why others are left as they are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxmem

from .dialects import aten, dynamo, symbolic


class Chain(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight, self.last = nn.Parameter(torch.ones(256)), nn.Linear(256, 256)

    def forward(self, x):
        return self.function(self, x)


def rms(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def turned(m, x):
    return F.layer_norm(x * 2, (256,), m.weight).view(16, 4, 256).transpose(0, 1)


def llama(m, x):
    return m.last(rms(x * 2, m.weight))


# What else reads a norm's input or output, and so whether anything is gained.
AROUND = {
    "linear": llama,
    "two linears": lambda m, x: m.last(y := rms(x * 2, m.weight)) + m.last(y),
    "kept by nothing": lambda m, x: rms(x * 2, m.weight) + 1,
    "sigmoid": lambda m, x: rms(x * 2, m.weight).sigmoid(),
    "tanh, then linear": lambda m, x: m.last(rms(x * 2, m.weight).tanh()),
    "of sigmoid": lambda m, x: m.last(rms((x * 2).sigmoid(), m.weight)),
    "of sigmoid, to sigmoid": lambda m, x: rms((x * 2).sigmoid(), m.weight).sigmoid(),
    "of a value that a product keeps": lambda m, x: m.last(rms(h := x * 2, m.weight)) * h,
    "of a value that sin keeps": lambda m, x: m.last(rms(h := x * 2, m.weight)) + h.sin(),
    "to silu by hand": lambda m, x: (y := rms(x * 2, m.weight)) * y.sigmoid(),
    "torch's, to sigmoid": lambda m, x: F.layer_norm(x * 2, (256,), m.weight).sigmoid(),
    "torch's, to relu": lambda m, x: F.layer_norm(x * 2, (256,), m.weight).relu(),
    "torch's, of tanh": lambda m, x: m.last(F.layer_norm((x * 2).tanh(), (256,), m.weight)),
    "torch's, of softmax": lambda m, x: m.last(F.layer_norm((x * 2).softmax(-1), (256,), m.weight)),
    "torch's, of what gelu keeps": lambda m, x: (
        m.last(F.layer_norm(h := x * 2, (256,), m.weight)) + F.gelu(h)
    ),
    "torch's, copied": lambda m, x: m.last(turned(m, x).contiguous()),
    "torch's, copied by reshape": lambda m, x: m.last(turned(m, x).reshape(64, 256)),
    "torch's, contiguous already": lambda m, x: m.last(
        turned(m, x).transpose(0, 1).contiguous().reshape(-1, 256)
    ),
    "torch's": lambda m, x: m.last(F.layer_norm(x * 2, (256,), m.weight)),
}
GAIN = {"linear", "two linears", "kept by nothing", "sigmoid", "tanh, then linear", "of sigmoid"}
GAIN |= {
    "to silu by hand",
    "of a value that a product keeps",
    "of a value that sin keeps",
    "torch's, contiguous already",
    "torch's",
}


def saved(run, *given):
    """Bytes of the storages that autograd keeps."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run(*given)
    return sum(sizes.values()) if result is not None else 0


@pytest.mark.parametrize("name", AROUND)
def test_what_the_plan_says_is_what_is_saved(name):
    model = Chain(AROUND[name])
    x = torch.randn(64, 256).requires_grad_()
    gm = fxmem.transform(dynamo(model, x), {"rules": {"from_output": False, "gated": False}})
    plain = dynamo(model, x)
    given = [x, *(p for p in (model.weight, model.last.weight, model.last.bias))]
    count = len(gm.graph.find_nodes(op="placeholder"))
    before, after = (saved(g, *given[:count]) for g in (plain, gm))
    entries = [e for e in fxmem.report(gm).entries if e.rule == "norm_from_output"]
    (found,) = entries
    said = found.residual.nbytes - found.nbytes if not hasattr(found, "why") else 0
    assert (said > 0) == (name in GAIN), found
    # Beside tensors there are statistics, numbers a row, and indices of no channels.
    few = 3 * 4 * 64 + 3 * 4 * 256
    assert before - after >= said - few
    if name != "to silu by hand":  # which keeps the output, but might have been rewritten
        assert before - after <= said + few


def why(function, *inputs, trace=aten):
    model = Chain(function)
    gm = fxmem.transform(trace(model, *inputs))
    (found,) = (e for e in fxmem.report(gm).entries if e.rule == "norm_from_output")
    return found.why


def inside(m, x):
    h = x * 2
    root = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return m.last(h * root * m.weight) + root


def test_refusals():
    x = torch.randn(4, 256).requires_grad_()
    assert why(inside, x) == "add_1 reads rsqrt inside of it"
    wide = why(lambda m, x: m.last(rms(x, m.weight)), x.detach().bfloat16().requires_grad_())
    assert wide == "its output is float32, its input bfloat16"
    rounded = why(lambda m, x: m.last(rms(x.bfloat16(), m.weight)), x)
    assert rounded == "it rounds to less than its input's precision on the way"
    bare = why(lambda m, x: m.last(rms(x * 2, 1.0)), trace=symbolic)
    assert bare == "neither a weight nor a tracer tells how wide its rows are"
    written = why(lambda m, x: rms(x * 2, m.weight).add_(1), x)
    assert written == "something may overwrite its output"
