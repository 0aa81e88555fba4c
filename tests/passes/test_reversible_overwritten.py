"""Chains on inputs that the forward overwrites: what is to be undone must not read them again."""

import pytest
import torch
from functorch.compile import nop
from torch._dynamo.backends.common import aot_autograd

from fxmem.partitioner import Partitioner
from fxmem.policy import Policy

from .test_reversible import FORCED, OFF, branch, inputs, weights
from .test_reversible_exact import exact
from .tools import backward, relative


def velocity(v, x, *ws):
    """The first stream is the input that is overwritten."""
    first, x = v, x.sin()
    for w in ws:
        x = x + v
        v = v + branch(x, w)
    with torch.no_grad():
        first.copy_(v.detach())
    return x * v


def shift(s, x, *ws):
    """What is added beside the branches is overwritten."""
    a, b = x.sin(), x.cos()
    for w in ws:
        a, b = b, (a + s) + branch(b, w)
    s.mul_(3).add_(1)
    return a * b


def trained(f, policy, dtype):
    """Return the input that is overwritten, the output and the gradients."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    given = [t.detach().to(dtype).requires_grad_() for t in (*inputs(8, 16), *weights(6))]
    state, *given = given
    state = state.detach()
    # As Inductor has it: the graph itself overwrites its inputs.
    backend = aot_autograd(
        fw_compiler=nop,
        partition_fn=Partitioner(Policy.of(policy)),
        keep_inference_input_mutations=True,
    )
    out = torch.compile(f, backend=backend, fullgraph=True)(state, *given)
    backward(out)
    return [state, out.detach(), *(t.grad for t in given)]


@pytest.mark.parametrize("policy", [FORCED, exact()], ids=["floats", "integers"])
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("f", [velocity, shift], ids=lambda f: f.__name__)
def test_inputs_that_are_overwritten(f, dtype, bound, policy):
    found, wanted = (trained(f, p, dtype) for p in (policy, OFF))
    assert max(map(relative, found, wanted)) < bound
