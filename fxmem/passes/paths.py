"""Paths of modules from the outermost one, however a graph's caller has reached that.

Dynamo spells `L['self'].down` where a model is compiled, `G['model'].down` where a function is that
calls a global one, `L['self'].model.down` for a trainer's method: here it is `down`.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from fxmem.compat import outermost_modules


def shorten_paths(gm: fx.GraphModule, traced: fx.GraphModule) -> None:
    """Let the nodes of `gm`, a copy of a graph that Dynamo `traced` or it itself, have such paths.

    With those of the graphs that it calls. Graphs that were traced otherwise have them anyway.
    """
    roots = outermost_modules(traced)
    if not roots:
        return
    for module in gm.modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            if stack := node.meta.get("nn_module_stack"):
                node.meta["nn_module_stack"] = {
                    key: (_relative(path, roots), kind) for key, (path, kind) in stack.items()
                }


def _relative(path: str, roots: Collection[str]) -> str:
    for root in sorted(roots, key=len, reverse=True):
        rest = path.removeprefix(root)
        if path.startswith(root) and rest[:1] in ("", ".", "["):
            return rest.removeprefix(".")
    return path
