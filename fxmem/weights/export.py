"""A trained model's quantized weights in the bits that they need, and a report of the bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import IO, Any

import torch
from torch import nn

from fxmem.quantizers import Packed, Quantizer

from .held import Held, whole


@dataclass(frozen=True)
class Export:
    """Packed weights by name, and the rest of the state_dict as it is.

    `aliases` are further names of tied weights; `masters`, where they were asked for, the weights
    that training goes on from. `dense_bytes` is what the packed weights took before, by name.
    """

    packed: dict[str, Packed]
    rest: dict[str, Any]
    aliases: dict[str, str]
    dense_bytes: dict[str, int]
    masters: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings alone; `from_state_dict` reads it."""
        return {**vars(self), "packed": {k: p.to_dict() for k, p in self.packed.items()}}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Export:
        """What `state_dict` wrote. Raises ValueError for anything else."""
        wanted = {item.name for item in fields(cls)}
        whole = isinstance(state, Mapping) and state.keys() == wanted
        if not whole or not all(isinstance(value, Mapping) for value in state.values()):
            raise ValueError(
                f"this is not what Export.state_dict() wrote: it has {_some(state)}, not "
                f"dictionaries {', '.join(sorted(wanted))}"
            )
        packed = {name: _named(name, Packed.from_dict, p) for name, p in state["packed"].items()}
        return cls(**{**state, "packed": packed})

    def save(self, path: str | os.PathLike | IO[bytes]) -> None:
        """Write a file that `load` reads; torch.load(weights_only=True) reads it, too."""
        torch.save(self.state_dict(), path)

    @classmethod
    def load(cls, path: str | os.PathLike | IO[bytes], map_location: Any = None) -> Export:
        """Read what `save` wrote. Raises ValueError for another file's content."""
        return cls.from_state_dict(torch.load(path, map_location, weights_only=True))

    def load_into(self, model: nn.Module, masters: bool = False, exact: bool = False) -> nn.Module:
        """Give `model` the quantized weights, or the `masters`, and all the rest; return it.

        With `exact`, quantized weights of half precision become float32, in which their scales are
        not rounded: layers in integers take them as they are, plain ones have to be cast again.
        Raises RuntimeError where names or shapes differ, ValueError for masters that there are not.
        """
        if masters and not self.masters:
            raise ValueError("the export has no masters: export(masters=torch.bfloat16) keeps them")
        values = {name: (_wide(p) if exact else p).values() for name, p in self.packed.items()}
        values.update(self.masters if masters else {})
        values.update({alias: values[name] for alias, name in self.aliases.items()})
        state = {**self.rest, **values}
        if exact:
            _widen(model, self.packed.keys() | self.aliases.keys(), state)
        model.load_state_dict(state)
        return model

    @property
    def nbytes(self) -> int:
        """The bytes of all of it."""
        packed = sum(p.nbytes for p in self.packed.values())
        return packed + _bytes(self.rest) + _bytes(self.masters)

    def __str__(self) -> str:
        """One line a weight, one for the rest and the sum."""
        rows = [
            (name, f"{p.bits} bit", self.dense_bytes[name], p.nbytes)
            for name, p in self.packed.items()
        ]
        rest, masters = _bytes(self.rest), _bytes(self.masters)
        rows += [("everything else", "", rest, rest)]
        rows += [("masters", "", 0, masters)] if masters else []
        before, after = (sum(row[column] for row in rows) for column in (2, 3))
        rows += [("in all", f"{before / max(after, 1):.1f} x smaller", before, after)]
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{n:{width}}  {b:>15}  {x:>12,} -> {y:,} bytes" for n, b, x, y in rows)


def _wide(packed: Packed) -> Packed:
    return replace(packed, dtype=torch.promote_types(packed.dtype, torch.float32))


def _widen(model: nn.Module, names: Iterable[str], state: Mapping[str, Any]) -> None:
    """Give the model's parameters of these names the dtypes that they have in `state`."""
    there = model.state_dict(keep_vars=True)
    for name in there.keys() & names:
        there[name].data = there[name].data.to(state[name].dtype)


def _named(name: str, call: Callable[[Any], Packed], value: Any) -> Packed:
    """What `call` makes of the value; its errors name the weight."""
    try:
        return call(value)
    except (ValueError, OverflowError) as error:
        raise type(error)(f"{name}: {error}") from None


def _some(state: Any, most: int = 3) -> str:
    if not isinstance(state, Mapping):
        return f"a {type(state).__name__}"
    names = [str(name) for name in state]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _bytes(tensors: Mapping[str, Any]) -> int:
    return sum(t.nbytes for t in tensors.values() if isinstance(t, torch.Tensor))


@torch.no_grad()
def export(
    model: nn.Module, masters: Mapping[Held, torch.Tensor], dtype: torch.dtype | None
) -> Export:
    """Pack each weight from its master; copy the rest of the model's state_dict.

    Raises TypeError for a dtype of masters that holds no real numbers, RuntimeError for a weight
    that a hook takes out of the state_dict, OverflowError for one that is not finite.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"masters must be a floating-point dtype or None; got {dtype!r}")
    packed, kept, aliases, dense = {}, {}, {}, {}
    state = model.state_dict(keep_vars=True)
    rest = {name: _copied(value) for name, value in state.items()}
    for held, sharded in masters.items():
        first, *others = _names(state, held, sharded)
        master, quantize = whole(sharded), held.treatment.quantize
        for name in others:
            del rest[name]
            aliases[name] = first
        rest[first] = held.fixed(master)
        if isinstance(quantize, Quantizer):
            packing = quantize.deterministic().pack
            packed[first] = _named(first, packing, held.treatment.projected(master))
            dense[first] = master.nbytes
            del rest[first]
        if dtype is not None:
            kept[first] = master.to(dtype, copy=True)
    return Export(packed, rest, aliases, dense, kept)


def _names(state: Mapping[str, Any], held: Held, master: torch.Tensor) -> list[str]:
    """A weight's names in a state_dict: its hooks may have others than `named_parameters` has."""
    found = [name for name, value in state.items() if value is held.parameter or value is master]
    if not found:
        raise RuntimeError(f"{held.site.name} is not in the model's state_dict: it cannot be saved")
    return found


def _copied(value: Any) -> Any:
    return whole(value).clone() if isinstance(value, torch.Tensor) else value
