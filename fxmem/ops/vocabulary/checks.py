"""What the vocabulary loss refuses, in a sentence: the argument, what was wanted, what came."""

import math
from functools import partial

import torch
from torch._subclasses import FakeTensor

from ..checks import require

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
REDUCTIONS = ("mean", "sum", "none")
NUMBER = int | float | torch.SymInt | torch.SymFloat | torch.Tensor
KINDS = {
    "ignore_index": (
        int | torch.SymInt,
        "an integer, which is -100 where no label is ignored",
    ),
    "reduction": (str, "'mean', 'sum' or 'none'"),
    "class_weight": (torch.Tensor | None, "a tensor of one number a class, or None"),
    "label_smoothing": (NUMBER, "a number, which is 0 where nothing is smoothed"),
    "z_loss": (NUMBER, "a number, which is 0 for none"),
    "recompute": (bool | None, "True, False or None"),
    "chunk": (int | torch.SymInt, "a number of rows, or 0"),
}
_require = partial(lambda condition, *rest: require(condition, "linear_cross_entropy", *rest))


def call(hidden, weight, target, bias, class_weight, reduction) -> None:
    """Refuse tensors that do not fit together, and unknown reductions."""
    dtype, device = hidden.dtype, hidden.device
    _require(dtype in FLOATING, "hidden", "float32, bfloat16, float16 or float64", dtype)
    _require(weight.dim() == 2 and weight.shape[0] > 0, "weight", "[classes, width]", _size(weight))
    v, d = weight.shape
    fits = hidden.dim() > 0 and hidden.shape[-1] == d
    _require(fits, "hidden", f"[..., {d}], as weight is", _size(hidden))
    _require(target.dtype in (torch.int64, torch.uint8), "target", "int64 labels", target.dtype)
    wanted = f"{_size(hidden)[:-1]}, a label for each row of hidden"
    _require(target.shape == hidden.shape[:-1], "target", wanted, _size(target))
    for name, given in (("weight", weight), ("bias", bias)):
        same = given is None or given.dtype == dtype
        _require(same, name, f"{dtype} as hidden is", None if same else given.dtype)
    for name, given in (("bias", bias), ("class_weight", class_weight)):
        same = given is None or given.shape == (v,)
        _require(same, name, f"[{v}], one number a class", None if same else _size(given))
    for name, given in (("weight", weight), ("target", target), ("bias", bias)):
        same = given is None or given.device == device
        _require(same, name, f"on {device} as hidden is", None if same else given.device)
    _require(reduction in REDUCTIONS, "reduction", "'mean', 'sum' or 'none'", repr(reduction))


def kinds(**options: object) -> None:
    """Refuse what is of another type; torch's schema would say it in its own terms."""
    for name, value in options.items():
        types, wanted = KINDS[name]
        if not isinstance(value, types):
            _require(False, name, wanted, repr(value))


def numbers(label_smoothing: float, z_loss: float, chunk: int) -> None:
    """Refuse numbers without a meaning."""
    _require(0 <= label_smoothing <= 1, "label_smoothing", "between 0 and 1", label_smoothing)
    _require(0 <= z_loss < math.inf, "z_loss", "a finite number of 0 or more", z_loss)
    _require(chunk >= 0, "chunk", "a number of rows, or 0", chunk)


def labels(target: torch.Tensor, weight: torch.Tensor) -> None:
    """Refuse labels beyond the classes; on a GPU, to ask would wait for it, and gather refuses."""
    if target.device.type != "cpu" or isinstance(target, FakeTensor) or not target.numel():
        return
    v = weight.shape[0]
    _require(bool(target.max() < v), "target", f"in [0, {v}) or ignore_index", "a label outside")


def _size(tensor: torch.Tensor) -> list[int]:
    return list(tensor.shape)
