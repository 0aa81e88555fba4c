"""Tools on graphs: storages, bytes, origins and text."""

import operator

import torch
from expecttest import TestCase
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fxmem.compat import hint
from fxmem.passes.emit import emit
from fxmem.passes.graph import (
    ancestors,
    copied,
    describe,
    from_tangents,
    is_view,
    module_path,
    nbytes,
    numel,
    op_name,
    owner,
    stable_text,
    view_chain,
)

from .tools import leaf, partitioned


def traced(f, *inputs, mode="fake"):
    return make_fx(f, tracing_mode=mode)(*inputs).graph


def views(x):
    h = x * 2
    a, b = h.view(4, 8).t().split(4)
    return a + 1, b.clone()


class TestText(TestCase):
    def test_stable_text(self):
        # One line a node; a list has no type; arguments in order, then keywords; no module paths.
        self.assertExpectedInline(
            stable_text(traced(views, torch.ones(32))),
            """\
x_1: float32[32]
mul: float32[32] = aten.mul.Tensor(x_1, 2)
view: float32[4, 8] = aten.view.default(mul, [4, 8])
t: float32[8, 4] = aten.t.default(view)
split = aten.split.Tensor(t, 4)
getitem: float32[4, 4] = getitem(split, 0)
getitem_1: float32[4, 4] = getitem(split, 1)
add: float32[4, 4] = aten.add.Tensor(getitem, 1)
clone: float32[4, 4] = aten.clone.default(getitem_1)
return [add, clone]""",
        )


def named(graph, op, nth=0):
    return [n for n in graph.nodes if op_name(n) == op][nth]


def test_views_lead_to_their_owner():
    graph = traced(views, torch.ones(32))
    b = named(graph, "aten.split[1]")
    assert [op_name(n) for n in view_chain(b)] == [
        *("aten.mul", "aten.view", "aten.t", "aten.split", "aten.split[1]")
    ]
    assert owner(b) is named(graph, "aten.mul")
    clone = named(graph, "aten.clone")
    assert owner(clone) is clone


def test_outputs_of_an_operator_are_no_views():
    graph = traced(lambda x: x.topk(2).values, torch.ones(32))
    values = named(graph, "aten.topk[0]")
    assert values.target is operator.getitem and not is_view(values)
    assert owner(values) is values


def test_numel_and_bytes():
    graph = traced(lambda x: x.half().topk(2), torch.ones(3, 4))
    half, both = named(graph, "aten._to_copy"), named(graph, "aten.topk")
    assert (numel(half), nbytes(half)) == (12, 24)
    assert nbytes(both) == 0  # a pair is no tensor


def test_symbolic_sizes_are_counted_by_their_hint_and_not_guarded():
    module = make_fx(lambda x: x * 2, tracing_mode="symbolic")(torch.ones(6, 4))
    node = named(module.graph, "aten.mul")
    guards = node.meta["val"].fake_mode.shape_env.guards
    before = len(guards)
    assert (numel(node), nbytes(node), hint(node.meta["val"].shape[0])) == (24, 96, 6)
    assert len(guards) == before


def test_unbacked_sizes_have_no_number():
    with FakeTensorMode(shape_env=torch.fx.experimental.symbolic_shapes.ShapeEnv()) as mode:
        size = mode.shape_env.create_unbacked_symint()
        value = torch.empty(size, 4)
    node = torch.fx.Graph().placeholder("x")
    node.meta["val"] = value
    assert (numel(node), nbytes(node), hint(size)) == (None, 0, None)


def test_ancestors_stop_where_told():
    graph = traced(lambda x: (x * 2).sin() + 1, torch.ones(4))
    add, sin, mul = (named(graph, f"aten.{op}") for op in ("add", "sin", "mul"))
    assert set(ancestors([add], lambda n: n is sin)) == {add, sin}
    assert mul in ancestors([add], lambda n: False)


def test_from_tangents():
    g = partitioned(lambda x, w: (x @ w).sin(), leaf(4, 4), leaf(4, 4))
    tainted = {n.name for n in from_tangents(g.backward.module.graph)}
    assert {"tangents_1", "mul"} <= tainted
    assert not {"cos", "mm"} & tainted


def test_a_kept_value_whose_name_speaks_of_tangents_is_no_gradient():
    graph = torch.fx.Graph()
    kept, gradient = graph.placeholder("my_cotangents_default"), graph.placeholder("tangents_1")
    other = graph.call_function(torch.sin, (kept,))
    product = graph.call_function(torch.mul, (kept, gradient))
    assert from_tangents(graph) == {gradient, product} and other in graph.nodes


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"mlp": nn.Linear(8, 8)}) for _ in range(2)])

    def forward(self, x):
        for block in self.blocks:
            x = block["mlp"](x).sin()
        return x


def test_module_paths_are_the_users():
    plain = partitioned(Outer(), leaf(4, 8))
    paths = [entry.residual.module for entry in plain.plan.entries]
    assert paths == ["blocks.0.mlp", "blocks.1.mlp"]


def test_module_path_at_the_top():
    graph = traced(lambda x: x * 2, torch.ones(2))
    assert module_path(named(graph, "aten.mul")) == ""


def test_emit_computes_its_own_meta_and_inherits_its_origin():
    g = partitioned(Outer(), leaf(4, 8))
    graph = g.forward.module.graph
    source = next(n for n in graph.nodes if op_name(n) == "aten.addmm")
    with graph.inserting_after(source):
        node = emit(graph, torch.ops.aten.view.default, source, [32], like=source)
    assert node.meta["val"].shape == (32,)
    assert isinstance(node.meta["val"], torch._subclasses.FakeTensor)
    assert module_path(node) == module_path(source) != ""


def test_describe_is_plain():
    graph = traced(lambda x: x.half() * 2, torch.ones(3, 4))
    record = describe(named(graph, "aten.mul"), "kept", 24)
    assert (record.name, record.op, record.shape) == ("kept", "aten.mul", (3, 4))
    assert (record.dtype, record.nbytes) == ("float16", 24)


def test_copied_shares_no_nodes():
    module = make_fx(lambda x: x * 2, tracing_mode="fake")(torch.ones(2))
    twin = copied(module)
    assert stable_text(twin.graph) == stable_text(module.graph)
    assert not set(twin.graph.nodes) & set(module.graph.nodes)
