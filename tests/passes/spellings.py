"""Activations as people write them: the row of the table, its parameters, a function of x."""

import math

import torch
import torch.nn.functional as F

ROOT = math.sqrt(2 / math.pi)


def in_float32(f):
    """As many models write it: computed in float32, whatever comes in."""

    def cast(x):
        return f(x.float()).to(x.dtype)

    return cast


def two_sided(x):
    return torch.where(x > 0.3, x - 0.3, torch.where(x < -0.3, x + 0.3, torch.zeros_like(x)))


SPELLINGS = {
    "gelu: erf": ("gelu", (), lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu: erf, commuted": ("gelu", (), lambda x: (torch.erf(x * 0.5**0.5) + 1) * x * 0.5),
    "gelu: erf, constants as tensors": (
        "gelu",
        (),
        lambda x: x * torch.tensor(0.5) * (1.0 + torch.erf(x / torch.sqrt(torch.tensor(2.0)))),
    ),
    "gelu: erf, methods": (
        "gelu",
        (),
        lambda x: x.mul(0.5).mul(x.div(math.sqrt(2)).erf().add(1)),
    ),
    "gelu: erfc": ("gelu", (), lambda x: 0.5 * x * torch.erfc(-x / math.sqrt(2))),
    "gelu: halves": (
        "gelu",
        (),
        lambda x: x * 0.5 + 0.5 * x * torch.erf(x * 0.7071067811865476),
    ),
    "gelu: in float32": (
        "gelu",
        (),
        in_float32(lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    ),
    "gelu_tanh: power": (
        "gelu_tanh",
        (),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))),
    ),
    "gelu_tanh: products": (
        "gelu_tanh",
        (),
        lambda x: (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))) * (x * 0.5),
    ),
    "gelu_tanh: torch.pow of tensors": (
        "gelu_tanh",
        (),
        lambda x: (
            x
            * 0.5
            * (
                1
                + torch.tanh(torch.tensor(ROOT) * (x + 0.044715 * torch.pow(x, torch.tensor(3.0))))
            )
        ),
    ),
    "gelu_tanh: sigmoid": (
        "gelu_tanh",
        (),
        lambda x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * x.pow(3))),
    ),
    "gelu_tanh: keyword": ("gelu_tanh", (), lambda x: F.gelu(x, approximate="tanh")),
    "quick_gelu": ("quick_gelu", (), lambda x: x * torch.sigmoid(1.702 * x)),
    "quick_gelu: division": ("quick_gelu", (), lambda x: x / (1 + torch.exp(-1.702 * x))),
    "silu: product": ("silu", (), lambda x: x * torch.sigmoid(x)),
    "silu: commuted": ("silu", (), lambda x: x.sigmoid() * x),
    "silu: quotient": ("silu", (), lambda x: x / (1 + torch.exp(-x))),
    "silu: in float32": ("silu", (), in_float32(lambda x: x * x.sigmoid())),
    "silu: factor in float32": (
        "silu",
        (),
        lambda x: x * torch.sigmoid(x.to(torch.float32)).to(x.dtype),
    ),
    "silu: type_as": ("silu", (), lambda x: F.silu(x.float()).type_as(x)),
    "silu: half of tanh": ("silu", (), lambda x: 0.5 * x * (1 + torch.tanh(x / 2))),
    "mish: tanh of softplus": ("mish", (), lambda x: x * torch.tanh(F.softplus(x))),
    "mish: by hand": ("mish", (), lambda x: torch.tanh(torch.log(1 + torch.exp(x))) * x),
    "squared_relu: power": ("squared_relu", (), lambda x: F.relu(x) ** 2),
    "squared_relu: square": ("squared_relu", (), lambda x: torch.square(torch.relu(x))),
    "squared_relu: product": ("squared_relu", (), lambda x: F.relu(x) * x),
    "squared_relu: clamp": ("squared_relu", (), lambda x: x.clamp(min=0).pow(2)),
    "hardswish: relu6": ("hardswish", (), lambda x: x * F.relu6(x + 3) / 6),
    "hardswish: clamp": ("hardswish", (), lambda x: x * torch.clamp(x + 3, 0, 6) / 6),
    "hardswish: factor first": ("hardswish", (), lambda x: F.relu6(x + 3.0) * (1 / 6) * x),
    "hardswish: hardsigmoid": ("hardswish", (), lambda x: F.hardsigmoid(x) * x),
    "hardsigmoid: relu6": ("hardsigmoid", (), lambda x: F.relu6(x + 3) / 6),
    "hardsigmoid: clamp": ("hardsigmoid", (), lambda x: (x / 6 + 0.5).clamp(0, 1)),
    "softplus: log of exp": ("softplus", (1.0, 20.0), lambda x: torch.log(1 + torch.exp(x))),
    "softplus: log1p": ("softplus", (1.0, 20.0), lambda x: torch.exp(x).log1p()),
    "softplus: logaddexp": (
        "softplus",
        (1.0, 20.0),
        lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    ),
    "softplus: stable": (
        "softplus",
        (1.0, 20.0),
        lambda x: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())),
    ),
    "softplus: beta by hand": (
        "softplus",
        (2.5, 20.0),
        lambda x: torch.log(1 + torch.exp(2.5 * x)) / 2.5,
    ),
    "softplus: beta and threshold": ("softplus", (0.5, 30.0), lambda x: F.softplus(x, 0.5, 30.0)),
    "logsigmoid": ("logsigmoid", (), lambda x: -F.softplus(-x)),
    "logsigmoid: log of sigmoid": ("logsigmoid", (), lambda x: torch.log(torch.sigmoid(x))),
    "sigmoid: by hand": ("sigmoid", (), lambda x: 1 / (1 + torch.exp(-x))),
    "sigmoid: special": ("sigmoid", (), lambda x: torch.special.expit(x)),
    "tanh: by exp": ("tanh", (), lambda x: 1 - 2 / (torch.exp(2 * x) + 1)),
    "tanh: by sigmoid": ("tanh", (), lambda x: 2 * torch.sigmoid(2 * x) - 1),
    "softsign: by hand": ("softsign", (), lambda x: x / (1 + x.abs())),
    "tanhshrink: by hand": ("tanhshrink", (), lambda x: x - torch.tanh(x)),
    "relu: clamp": ("relu", (), lambda x: x.clamp(min=0)),
    "relu: maximum": ("relu", (), lambda x: torch.maximum(x, torch.zeros_like(x))),
    "relu: max": ("relu", (), lambda x: torch.max(x, torch.zeros_like(x))),
    "relu: where": ("relu", (), lambda x: torch.where(x > 0, x, torch.zeros_like(x))),
    "relu: mask": ("relu", (), lambda x: x * (x > 0)),
    "relu: mean of x and |x|": ("relu", (), lambda x: (x + x.abs()) / 2),
    "relu6: clamp": ("relu6", (), lambda x: x.clamp(0, 6)),
    "leaky_relu: maximum": ("leaky_relu", (0.2,), lambda x: torch.maximum(x, 0.2 * x)),
    "leaky_relu: where": ("leaky_relu", (0.125,), lambda x: torch.where(x >= 0, x, x * 0.125)),
    "leaky_relu: slope": ("leaky_relu", (0.3,), lambda x: F.leaky_relu(x, 0.3)),
    "elu: by hand": (
        "elu",
        (0.7,),
        lambda x: torch.where(x > 0, x, 0.7 * (torch.exp(x) - 1)),
    ),
    "celu": ("celu", (2.0,), lambda x: F.celu(x, 2.0)),
    "selu: by hand": (
        "selu",
        (),
        lambda x: 1.0507009873554805 * F.elu(x, 1.6732632423543772),
    ),
    "hardtanh: clamp": ("hardtanh", (-2.0, 0.5), lambda x: x.clamp(-2, 0.5)),
    "hardtanh: minimum of maximum": (
        "hardtanh",
        (-2.0, 3.0),
        lambda x: torch.minimum(torch.maximum(x, torch.tensor(-2.0)), torch.tensor(3.0)),
    ),
    "threshold": ("threshold", (0.1, -2.0), lambda x: F.threshold(x, 0.1, -2.0)),
    "hardshrink: mask": ("hardshrink", (0.4,), lambda x: x * (x.abs() > 0.4)),
    "softshrink: by hand": ("softshrink", (0.3,), two_sided),
    "exp": ("exp", (), lambda x: torch.exp(x)),
}
