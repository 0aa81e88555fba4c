"""The external weight manager: quantized weights for the layers, masters for the optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .claims import check_free, claim, release
from .export import Export, export
from .held import Held, moved
from .methods import POLICIES, Method
from .order import OrderError, State, check
from .rules import Key, Value, assign, check_kinds
from .saving import Hooks
from .sites import check_unchanged
from .steps import guard


class ExternalWeightManager:
    """Trains a model whose layers compute with quantized weights while the masters stay real.

    The order of a step is `quantize()`, forward, backward, `restore()`, `optimizer.step()`,
    `clip()`; a call out of order raises OrderError. `with manager:` does the first and the fourth.
    Several forwards and backwards, each with its own quantize and restore or not, may go before a
    step: their gradients add up. Clip a gradient's norm after `restore`. With `optimizer`, its
    `step` does it all: weights are quantized from now on but for the time of it, if it raises, too.

    A weight that is tied is quantized once. `state_dict` and deep copies of the model have the
    masters at all times, and `load_state_dict` loads them; a state_dict shares its memory with the
    model, as everywhere in torch: save it in the state that it was taken in. What reads
    `model.parameters()` itself gets what is there: update an average (`AveragedModel`) within
    `with manager.evaluate("master"):`. Between quantize and restore a step of any optimizer raises.

    Args:
        model: what to train. Wrap it before: fully_shard replaces the weights, and
            DistributedDataParallel overwrites them.
        method: "binaryconnect", "binarynet", "xnor", "dorefa" or "wageubn"; a
            `fxmem.quantizers.Quantizer`; a `Treatment`; or any function of a weight, whose gradient
            then passes straight through. It is for all linear and convolution layers.
        rules: other treatment for some. A key is a type of module; a regular expression, which must
            match a module's or a weight's whole dotted name; the index of a layer in the order of
            `named_modules`, from the end if negative; a dtype; or a predicate of module and path. A
            type or an exact name also reaches weights beyond those layers, an embedding's for one.
            A value is options for the method, as dict(bits=4), with "method" for another one; a
            method; or None to leave it real. The first rule that fits counts.
        optimizer: the one that trains the weights.
        exempt: which of "first" and "last" layer stay real, whatever the rules say; by default
            both for xnor, dorefa and wageubn, as published, and else neither.
        generator: for stochastic methods.
        **options: of the method: `stochastic`, `scale`, `lr_scale` (binaryconnect, binarynet),
            `exact`, `clip_at` (xnor), `bits` (dorefa, wageubn), `update_bits` (wageubn); and
            `project` for each, a function of the weight applied to a copy before it is quantized.

    Raises:
        ValueError: for a model without quantizable layers, a rule that fits nothing, unknown or
            impossible options.
        TypeError: for what is no model, method, rule, optimizer or generator.
        OrderError: for a call out of order, and while another manager has a weight quantized.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method = "binaryconnect",
        rules: Mapping[Key, Value] | None = None,
        optimizer: Optimizer | None = None,
        *,
        exempt: Iterable[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        check_kinds(model, optimizer, generator)
        chosen = assign(model, method, options, rules or {}, exempt)
        self.model, self.generator = model, generator
        self.held = tuple(Held(site, treatment) for site, treatment in chosen)
        self.state = self._before = State.MASTER
        self._evaluated: dict[Held, torch.Tensor] = {}
        self._handles = guard(self, optimizer)
        hooks = [Hooks(self, held, place) for held in self.held for place in held.site.places]
        self._handles += [handle for hook in hooks for handle in hook.handles]
        if optimizer is not None:
            try:
                self.quantize()
            except BaseException:
                self.remove()
                raise

    def quantize(self) -> None:
        """Put quantized weights in the masters' place; again, draw afresh from the masters."""
        check("quantize()", self.state)
        check_free(self.held, "quantize()", self)
        if self.state is not State.QUANTIZED:
            self._keep_masters()
        claim(self)
        self.state = State.QUANTIZED
        try:
            for held in self.held:
                held.show("sampled", self.master_of(held), self.generator)
        except BaseException:
            self._abandon()
            raise

    def restore(self) -> None:
        """Put the masters back, and turn the gradients into theirs.

        Raises RuntimeError for a weight that is another one now, and for a sparse gradient where
        the method has a rule for it.
        """
        check("restore()", self.state)
        self._put_back(State.RESTORED)
        try:
            self._check_unchanged()
            for held in self.held:
                held.check_dense()
            for held in self.held:
                held.apply_rule()
        except BaseException:
            self._abandon()
            raise
        for held in self.held:
            held.forget()

    def clip(self) -> None:
        """Do what the method wants after a step: clip the masters, put them on their grid."""
        check("clip()", self.state)
        for held in self.held:
            held.finish()
        self.state = State.MASTER

    def __enter__(self) -> ExternalWeightManager:
        self.quantize()
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self.restore()
        elif self.state is State.QUANTIZED:
            self._abandon()

    @contextlib.contextmanager
    def evaluate(
        self, policy: str | None = None, generator: torch.Generator | None = None
    ) -> Iterator[nn.Module]:
        """Have the weights as they are to be evaluated; on exit all is as it was, to the last bit.

        Args:
            policy: "quantized" (without random numbers), "sampled" (one draw) or "master"; by
                default the method's own.
            generator: for "sampled"; the manager's own is left alone, so that training goes on as
                it would have.
        """
        check("evaluate()", self.state)
        if policy not in (None, *POLICIES):
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}; got {policy!r}")
        check_free(self.held, "evaluate()", self)
        self._check_unchanged()
        state, lent = self.state, {held: held.lend() for held in self.held}
        quantized = state is State.QUANTIZED
        self._evaluated = {
            h: self.master_of(h) if quantized else value for h, (value, _) in lent.items()
        }
        self.state = State.EVALUATING
        claim(self)
        try:
            for held, master in self._evaluated.items():
                held.show(policy or held.treatment.policy, master, generator)
            yield self.model
        finally:
            for held, (value, stepped) in lent.items():
                held.take_back(value, stepped)
            self._evaluated = {}
            self.state = state
            if not quantized:
                release(self)

    def master_of(self, held: Held) -> torch.Tensor:
        """The master of one weight, wherever it is now; a copy only after `Module.to`."""
        if self.state is State.EVALUATING:
            self._evaluated[held] = moved(self._evaluated[held], held.parameter)
            return self._evaluated[held]
        if self.state is State.QUANTIZED:
            held.follow()
            return held.master
        return held.parameter.detach()

    def export(self, masters: torch.dtype | None = None) -> Export:
        """The weights as `evaluate("quantized")` shows them, in the bits that they need.

        With `masters`, a dtype, a copy of these too. Weights of a method that is no Quantizer are
        stored as they are.
        """
        check_free(self.held, "export()", self)
        return export(self.model, {held: self.master_of(held) for held in self.held}, masters)

    def remove(self) -> None:
        """Put the masters back and let go of model and optimizer; the manager is of no more use."""
        check("remove()", self.state)
        if self.state is State.QUANTIZED:
            self._put_back(State.MASTER)
        for handle in self._handles:
            handle.remove()
        self.state = State.REMOVED

    def __str__(self) -> str:
        """What is done to each weight, and what the masters take."""
        lines = [
            f"{held.site.name} {list(held.parameter.shape)}: {held.treatment.quantize}"
            for held in self.held
        ]
        extra = sum(held.parameter.nbytes for held in self.held)
        lines.append(f"weights quantized: {len(lines)}; their masters take {extra:,} bytes more")
        return "\n".join(lines)

    def __getstate__(self) -> dict:
        raise TypeError("a manager cannot be copied or pickled: make one of the model's copy")

    def _check_unchanged(self) -> None:
        for held in self.held:
            check_unchanged(held.site, self.model)

    def _keep_masters(self) -> None:
        self._check_unchanged()
        stepped = any(held.stepped() for held in self.held)
        adds_up = self.state is State.RESTORED and not stepped
        if self.state is State.RESTORED and stepped:
            if any(held.treatment.follows_steps for held in self.held):
                raise OrderError("quantize() expects clip() first: the optimizer has made its step")
        for held in self.held:
            held.keep()
            if adds_up:
                held.set_aside()
        self._before = State.RESTORED if adds_up else State.MASTER

    def _abandon(self) -> None:
        """Have all as it was before `quantize`, but for gradients that no rule changes."""
        self._put_back(self._before)
        for held in self.held:
            held.take_up()

    def _put_back(self, state: State) -> None:
        for held in self.held:
            held.put_back()
        self.state = state
        release(self)
