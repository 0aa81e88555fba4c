"""A block as a step calls it: with its own tensors, or with others in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import checks
from .surroundings import running_statistics

Tensor = torch.Tensor


@dataclass
class Block:
    """A callable; a module's parameters may live on one device and be used on another."""

    function: Any
    label: str
    device: torch.device | None = None

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters that the function has now, each once."""
        if not isinstance(self.function, torch.nn.Module):
            return {}
        return dict(self.function.named_parameters())

    def __call__(
        self,
        source: Tensor,
        args: tuple,
        kwargs: dict[str, Any],
        instead: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Call the function; with `instead`, these stand in for a module's own tensors.

        The input goes in as a view of itself: gradients from several uses within the block are
        summed before they meet the stream's own, in the same order whatever is kept.
        """
        inside = self._places(self._inside(instead))
        sent = dict(inside)
        args = (source.view_as(source), *args)
        if not inside:
            f = self.function(*args, **kwargs)
        else:
            f = torch.func.functional_call(self.function, inside, args, kwargs, tie_weights=False)
        if instead is None:
            self._bring_home(sent, inside)
        checks.check_output(self.label, f)
        return f

    def _inside(self, instead: dict[str, Tensor] | None) -> dict[str, Tensor]:
        inside = dict(instead or {})
        if self.device is None or not isinstance(self.function, torch.nn.Module):
            return inside
        own = {**dict(self.function.named_parameters()), **dict(self.function.named_buffers())}
        return {name: t.to(self.device) for name, t in {**own, **inside}.items()}

    def _places(self, inside: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what stands in each place of a tensor, be it tied or in a module of several names.

        functional_call would find both, but leave in the latter for good what it was lent.
        """
        if not inside:
            return inside
        function = self.function
        own = dict(function.named_parameters(remove_duplicate=False))
        own.update(function.named_buffers(remove_duplicate=False))
        lent = {own[name]: t for name, t in inside.items() if name in own}
        places = {}
        for path, module in function.named_modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                place = f"{path}.{name}" if path else name
                if place in inside or tensor in lent:
                    places[place] = inside.get(place, lent.get(tensor))
        return places

    def _bring_home(self, sent: dict[str, Tensor], inside: dict[str, Tensor]) -> None:
        """Copy back what the call changed, or replaced, of buffers that it had elsewhere."""
        if not inside:
            return
        silent = running_statistics(self.function)
        for name, buffer in self.function.named_buffers():
            moved = inside[name]
            replaced = moved is not sent[name]
            touched = replaced or moved.is_inference() or moved._version or name in silent
            if moved is not buffer and touched:
                buffer.copy_(moved)
