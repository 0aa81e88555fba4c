"""Models with activations for every rule before differentiation, and how they are judged."""

import torch
import torch.nn.functional as F
from torch import nn

from .tools import relative

# The slope from the output errs by 2e-4 in float32, near a minimum; where it matters it is about 1.
EXACT = 5e-4


class Block(nn.Module):
    """A GELU spelled by hand, a gated pair, an ELU: one activation for each exact rule."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.gate, self.value = nn.Linear(16, 32), nn.Linear(16, 32)
        self.out = nn.Linear(32, 16)

    def forward(self, x):
        h = self.up(x)
        x = x + self.down(0.5 * h * (1 + torch.erf(h * 0.5**0.5)))
        x = x + self.out(F.silu(self.gate(x)) * self.value(x))
        return self.down(F.elu(self.up(x)))


def sample(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 16, generator=generator).to(dtype).requires_grad_()


def gradients(function, model, x):
    """Return the output of `function`, and the gradients of its input and of `model`."""
    for t in (x, *model.parameters()):
        t.grad = None
    y = function(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
    return [y.detach(), *(t.grad.clone() for t in (x, *model.parameters()))]


def errors(found, exact):
    return [relative(a.double(), b.double()) for a, b in zip(found, exact, strict=True)]


def quantized(**options):
    off = {"from_output": False, "gated": False}
    return {"rules": {"quantized_gradient": options or True, **off}}


class MLP(nn.Module):
    def __init__(self, act, down=None):
        super().__init__()
        self.up, self.act = nn.Linear(8, 16), act
        self.down = nn.Linear(16, 8) if down is None else down

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class Gated(nn.Module):
    def __init__(self, commuted=False):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.commuted = commuted

    def forward(self, x):
        gate = F.silu(self.gate(x))
        return self.down(self.up(x) * gate if self.commuted else gate * self.up(x))
