"""One weight in the manager's hands: its master, and what is put in its place."""

from __future__ import annotations

from typing import Any

import torch

from .methods import Treatment
from .sites import Site, is_sharded


class Held:
    """A weight with its treatment and its master.

    Everything is written into the parameter in place, so that optimizers, gradient buckets, tied
    modules and captured graphs keep it, and counted by autograd: a backward whose forward saw other
    values raises. Sharded weights (FSDP2) are quantized whole, each rank keeping its own part.
    """

    def __init__(self, site: Site, treatment: Treatment):
        self.site, self.treatment = site, treatment
        self.parameter = site.parameter
        self.master: torch.Tensor | None = None
        self._done: tuple[torch.Tensor, torch.Tensor] | None = None
        self._version = -1

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the parameter, a master now, to where it is safe."""
        p = self.parameter
        if self.master is None or (self.master.device, self.master.dtype) != (p.device, p.dtype):
            with torch.inference_mode(False):  # what is made in that mode cannot be trained later
                self.master = p.detach().clone()
        else:
            self.master.copy_(p)

    def follow(self) -> None:
        """Have the master where the parameter is now: `Module.to` may have moved or cast it."""
        if self.master is not None:
            self.master = moved(self.master, self.parameter)

    @torch.no_grad()
    def show(self, policy: str, master: torch.Tensor, generator: torch.Generator | None) -> None:
        """Write into the parameter what a forward is to compute with."""
        if policy == "master":
            value = master
        else:
            w = whole(master)
            drawn = policy == "sampled"
            value = self._checked(self.treatment.sample(w, generator)) if drawn else self.fixed(w)
        self.write(_laid_out(value, self.parameter))

    def fixed(self, w: torch.Tensor) -> torch.Tensor:
        """What a forward computes with, without random numbers, given the whole master."""
        return self._checked(self.treatment.fixed(w))

    @torch.no_grad()
    def write(self, value: torch.Tensor) -> None:
        """Put `value` into the parameter."""
        self.parameter.copy_(value)
        torch.clear_autocast_cache()  # it has casts of what was there

    def lend(self) -> tuple[torch.Tensor, bool]:
        """A copy of the parameter, and whether it was stepped, for `take_back`."""
        return self.parameter.detach().clone(), self.stepped()

    def take_back(self, value: torch.Tensor, stepped: bool) -> None:
        """Put back what `lend` gave; that counts as no step."""
        self.write(value)
        if not stepped:
            self._version = self.parameter._version

    def put_back(self) -> None:
        """Put the master into the parameter."""
        self.follow()
        self.write(self.master)
        self._version = self.parameter._version

    def loaded(self) -> None:
        """Keep what was loaded into the parameter as its master; that counts as no step."""
        self.keep()
        self._version = self.parameter._version

    def stepped(self) -> bool:
        """Whether the parameter was changed since it was put back."""
        return self.parameter._version != self._version

    @torch.no_grad()
    def set_aside(self) -> None:
        """Keep the gradient, which the rule was applied to, apart from what is to come."""
        grad = self.parameter.grad
        if grad is not None and self.treatment.has_rule:
            self._done = grad, grad.clone()
            grad.zero_()

    @torch.no_grad()
    def take_up(self) -> None:
        """Put back what was set aside in the place of what came since."""
        if self._done is not None:
            grad, before = self._done
            self.parameter.grad = grad.copy_(before)
        self.forget()

    def forget(self) -> None:
        """Let go of what was set aside."""
        self._done = None

    def check_dense(self) -> None:
        """Raise RuntimeError for a gradient that the rule cannot be applied to."""
        grad = self.parameter.grad
        if grad is not None and grad.layout is not torch.strided and self.treatment.has_rule:
            raise RuntimeError(
                f"{self.site.name} has a sparse gradient, and the method's rule is for a dense one:"
                " make the module without sparse=True, or leave its weight real by a rule of None"
            )

    @torch.no_grad()
    def apply_rule(self) -> None:
        """Turn the quantized weight's gradient into the master's."""
        grad, done = self.parameter.grad, self._done
        if grad is None or not self.treatment.has_rule:
            return
        new = self.treatment.gradient(whole(grad), whole(self.master))
        grad.copy_(_laid_out(new, grad))
        if done is not None and done[0] is grad:  # another one: zero_grad was called meanwhile
            grad.add_(done[1])

    @torch.no_grad()
    def finish(self) -> None:
        """What the method wants after a step, which frozen weights have not made."""
        if self.treatment.follows_steps and self.parameter.requires_grad:
            new = self.treatment.finished(whole(self.parameter), whole(self.master))
            self.write(_laid_out(new, self.parameter))

    def _checked(self, value: Any) -> torch.Tensor:
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{self.site.name}: the method returns no tensor; got {value!r}")
        if value.shape != self.parameter.shape:
            raise ValueError(
                f"{self.site.name}: the method makes {list(value.shape)} of a weight of "
                f"{list(self.parameter.shape)}"
            )
        return value


@torch.no_grad()
def moved(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value` on the device and in the dtype of `like`; itself where it has them."""
    if (value.device, value.dtype) == (like.device, like.dtype):
        return value
    with torch.inference_mode(False):
        return value.to(like.device, like.dtype)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without its graph, gathered from all ranks if it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor.detach()


def _laid_out(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value` as it is, or this rank's part of it where `like` is sharded."""
    if not is_sharded(like) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
