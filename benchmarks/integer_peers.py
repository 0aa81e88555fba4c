"""torchao's int8 training and wageubn's layers, where they are installed, in integer_training.py.

pip install --no-deps -r requirements/peers.txt
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import torch
from integer_tasks import Network, Task
from integer_ways import Run, Way
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Adam


def peers(task: str) -> dict[str, Way]:
    """The peers that are installed and can train the task's network."""
    found = {name: ways for name, ways in PEERS.items() if importlib.util.find_spec(name)}
    return {name: way for ways in found.values() for name, way in ways.items() if _can(name, task)}


def _can(name: str, task: str) -> bool:
    """wageubn has no layer that the text's network has: its Linear cannot be made."""
    return not (name.startswith("wageubn") and task == "text")


def missing() -> list[str]:
    """The peers that are not installed."""
    return [name for name in PEERS if not importlib.util.find_spec(name)]


def torchao(config: str, task: Task, seed: int) -> Run:
    """Linear layers as torchao trains them, but for the first and the last if there are others."""
    from torchao import quantize_
    from torchao.prototype import quantized_training as training

    # The swapped module computes what the tensor subclass does, and the ruler can read it.
    made = {
        "mixed precision": lambda: training.int8_mixed_precision_training(module_swap=True),
        "weights": training.int8_weight_only_quantized_training,
    }[config]()
    model = task.network(seed, False)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    layers = layers[1:-1] or layers
    quantize_(model, made, lambda layer, _: any(layer is it for it in layers))
    return Run(model, _readable(model), (Adam(model.parameters(), task.rate),))


def _readable(model: nn.Module) -> Network:
    """The model, saving the parts of torchao's weights: the ruler finds no memory of the whole."""

    def pack(tensor: torch.Tensor) -> object:
        if type(tensor).__name__ != "Int8QuantizedTrainingLinearWeight":
            return tensor
        return type(tensor), tensor.int_data, tensor.scale

    def unpack(packed: object) -> torch.Tensor:
        return packed[0](*packed[1:]) if isinstance(packed, tuple) else packed

    def call(x: torch.Tensor) -> torch.Tensor:
        with saved_tensors_hooks(pack, unpack):
            return model(x)

    return call


def wageubn(task: Task, seed: int) -> Run:
    """wageubn's convolutions, batch norms and activations; the linear layer stays torch's."""
    from wageubn import function

    model = task.network(seed, False)
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d):
            sizes = layer.in_channels, layer.out_channels, layer.kernel_size
            twin = function.Conv2d(*sizes, layer.stride, layer.padding, bias=False)
            twin.load_state_dict(layer.state_dict())
        elif isinstance(layer, nn.BatchNorm2d):
            twin = function.BatchNorm2d(layer.num_features)
        else:
            twin = function.ReLU() if isinstance(layer, nn.ReLU) else layer
        model.set_submodule(name, twin)
    return Run(model, model, (Adam(model.parameters(), task.rate),))


def wageubn_faults() -> Iterator[str]:
    """What of wageubn raises, and what: its promises that no row can show."""
    from wageubn import config, function
    from wageubn.function import number

    x = torch.linspace(-1, 1, 5)
    calls: dict[str, Callable] = {
        "function.Linear(3, 5)": lambda: function.Linear(3, 5),
        "config.Config()": config.Config,
        "number.weightquant(x, 8)": lambda: number.weightquant(x, 8),
        "number.errquant(x, 8, 8)": lambda: number.errquant(x, 8, 8),
    }
    for name, call in calls.items():
        try:
            call()
        except (AttributeError, TypeError) as error:
            yield f"wageubn {name}: {type(error).__name__}: {str(error).splitlines()[0]}"


PEERS: dict[str, dict[str, Way]] = {
    "torchao": {
        "torchao int8 mixed precision": partial(torchao, "mixed precision"),
        "torchao int8 weights": partial(torchao, "weights"),
    },
    "wageubn": {"wageubn's layers": wageubn},
}
