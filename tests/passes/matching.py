"""What the matcher finds in a graph, for tests."""

from fxmem.passes.forward.activations import find
from fxmem.passes.forward.eager import plainly


def found(gm):
    """Return what is found in a graph: activation, parameters, source and exit."""
    with plainly():
        activations, _ = find(gm.graph)
    return [(a.name, a.parameters, a.cone.source.name, a.cone.exit.name) for a in activations]


def names(gm):
    return [name for name, *_ in found(gm)]


def is_whole(gm, entry):
    """Whether a cone reaches from the graph's input to its output."""
    _, _, source, exit = entry
    (given,) = gm.graph.find_nodes(op="placeholder")
    return source == given.name and exit in str(gm.graph.output_node().args)
