"""Which inputs of a joint graph are parameters or buffers, whatever AOTAutograd made of them.

It counts them as they were given. In the joint graph a wrapper subclass is several inputs, bases of
views and effect tokens come first, and every index after them is another: a quantized weight would
make an activation a parameter, and a parameter an activation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx


def static_inputs(joint: fx.GraphModule, given: Collection[int] | None) -> list[int]:
    """Return the indices of the joint graph's inputs that are, or are part of, those `given`."""
    wanted = frozenset(given or ())
    roots = [_root(n.meta.get("desc")) for n in joint.graph.find_nodes(op="placeholder")]
    lifted = len({root for root in roots if _is_lifted(root)})
    return [i for i, root in enumerate(roots) if _is_static(root, i, lifted, wanted)]


def _root(desc: Any) -> Any:
    """Return what an input is a part, a size or the base of, as it was given."""
    while (source := getattr(desc, "base", None) or getattr(desc, "base_of", None)) is not None:
        desc = source
    return desc


def _is_lifted(root: Any) -> bool:
    return root is not None and (root.is_param() or root.is_buffer())


def _is_static(root: Any, index: int, lifted: int, wanted: frozenset[int]) -> bool:
    if root is None:
        return index in wanted
    # Inputs are counted from the first that is no lifted parameter.
    given = getattr(root, "idx", None)
    is_plain = type(root).__name__ == "PlainAOTInput"
    return _is_lifted(root) or (is_plain and given + lifted in wanted)
