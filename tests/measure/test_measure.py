"""The ruler against graphs whose answer is known by hand."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from fxmem import measure

from .sizes import FLOAT, HIDDEN, NARROW, ROWS

CHECKPOINT = {"use_reentrant": False, "preserve_rng_state": False}  # the state is 5 KiB

# Torch warns of itself when Inductor is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


def labels(kept):
    return sorted((t.owner, t.name, t.nbytes) for t in kept.tensors)


def test_mlp_keeps_both_sides_of_gelu(mlp, x):
    kept = measure.kept(lambda: mlp(x).sum())
    assert labels(kept) == [("AddmmBackward0", "mat1", HIDDEN), ("GeluBackward0", "self", HIDDEN)]
    assert kept.unreached == 0
    assert kept.nbytes == 2 * HIDDEN


def test_views_of_one_storage_count_once(x):
    qkv = nn.Linear(NARROW, 3 * NARROW)

    def forward():
        q, k, v = qkv(x).chunk(3, dim=1)
        return (q * k * v).sum()

    # q, k and v are thirds of one storage; q·k is one more third.
    assert measure.kept(forward).nbytes == (3 + 1) * x.nbytes


def test_what_was_there_before_is_not_counted(x):
    layer = nn.Linear(NARROW, NARROW)
    layer.register_buffer("mask", torch.ones(NARROW))
    constant = torch.ones(ROWS, NARROW)
    tied = layer.weight.t()

    def forward():
        return (layer(x) * layer.mask * constant @ tied).sum()

    # Only the last product's left side is new: every other factor is there before the forward.
    kept = measure.kept(forward)
    assert labels(kept) == [("MmBackward0", "self", x.nbytes)]


def test_outputs_count_where_the_backward_needs_them(x):
    weight = nn.Parameter(torch.randn(NARROW, NARROW))
    assert measure.kept(lambda: x @ weight).nbytes == 0
    kept = measure.kept(lambda: {"loss": (x @ weight).exp()})
    assert labels(kept) == [("ExpBackward0", "result", x.nbytes)]


class Stash(torch.autograd.Function):
    """Keeps its tensors as plain attributes, where saved-tensor hooks do not look."""

    @staticmethod
    def forward(ctx, x):
        ctx.half = x.half()
        ctx.nested = [("codes", {"low": x.to(torch.uint8)}), nn.Parameter(x * 2)]
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_attributes_of_a_custom_function_count(x):
    x = x.requires_grad_()
    kept = measure.kept(lambda: Stash.apply(x).sum())
    assert labels(kept) == [
        ("StashBackward", "half", x.numel() * 2),
        ("StashBackward", "nested", x.numel()),
        ("StashBackward", "nested", x.numel() * 4),
    ]


def test_hidden_places_count_without_a_name(x):
    x = x.requires_grad_()
    module = nn.Linear(NARROW, NARROW)

    def forward():
        module.cache = x.clone()
        return x.sum()

    kept = measure.kept(forward)
    assert kept.tensors == ()
    assert kept.unreached == x.nbytes
    assert "not reached" in str(kept)


def test_parts_of_a_tensor_subclass_count(x):
    weight = TwoTensor(torch.randn_like(x), torch.randn_like(x)).requires_grad_()
    kept = measure.kept(lambda: (weight.sin() * weight).sum())
    # Of both parts the sine; the weight itself was there before.
    assert labels(kept) == [("MulBackward0", "self", x.nbytes)] * 2
    assert kept.unreached == 0


def test_packed_tensors_count_as_packed_and_stay_packed(mlp, x):
    def unpack(packed):
        raise AssertionError("the ruler must not unpack")

    def forward():
        with saved_tensors_hooks(lambda t: ("bf16", t.bfloat16()), unpack):
            return mlp(x).sum()

    # Everything saved is packed to half, the input and the two weights among it.
    saved = x.nbytes + 2 * HIDDEN + mlp[2].weight.nbytes
    assert measure.kept(forward).nbytes == saved // 2


def test_checkpoint_keeps_its_argument_and_is_not_recomputed(mlp, x):
    x = x.requires_grad_()
    runs = []

    def region(y):
        runs.append(1)
        return mlp(y)

    kept = measure.kept(lambda: checkpoint(region, x.clone(), **CHECKPOINT).sum())
    assert kept.nbytes == x.nbytes
    assert len(runs) == 2


@pytest.mark.parametrize("banned, hidden", [(True, 2), (False, 1)])
def test_inductor(mlp, x, banned, hidden):
    # Default: both sides of GELU, as eager. With the ban lifted GELU is recomputed from its input.
    with torch._functorch.config.patch(ban_recompute_materialized_backward=banned):
        compiled = torch.compile(mlp)
        kept = measure.kept(lambda: compiled(x).sum())
    assert [t.nbytes for t in kept.tensors] == [HIDDEN] * hidden
    assert {t.owner for t in kept.tensors} == {"CompiledFunctionBackward"}
    assert kept.nbytes == hidden * HIDDEN


def test_peak_is_the_most_held_at_once():
    def step():
        a = torch.empty(1000)
        b = torch.empty(2000)
        del a
        c = torch.empty(500)
        return b, c

    assert measure.peak_bytes(step) == 3000 * FLOAT


def test_peak_counts_from_what_the_step_finds():
    state = {"freed first": torch.empty(1000)}

    def step():
        state.clear()
        state["freed first"] = torch.empty(1000)

    def swap():
        state["freed after"] = torch.empty(1000)

    assert measure.peak_bytes(step) == 0
    assert measure.peak_bytes(swap) == 1000 * FLOAT


def test_peak_sees_what_inductor_allocates():
    x = torch.randn(ROWS, ROWS)
    product = torch.compile(lambda: x @ x @ x)
    assert measure.peak_bytes(product) == 2 * x.nbytes


def test_peak_of_a_training_step_holds_its_gradients(x):
    layer = nn.Linear(NARROW, NARROW, bias=False)
    variant = measure.Variant(layer, lambda: (layer(x) * x).sum())
    # At the end: the weight's gradient and that of the product, which the sum broadcasts; the
    # loss is still held by backward's caller, together with the scalar that starts it.
    assert measure.peak_bytes(variant.step) == layer.weight.nbytes + x.nbytes + 2 * FLOAT
    assert layer.weight.grad is None


@pytest.fixture
def clock(monkeypatch):
    """A clock that steps move themselves."""
    now = [0.0]
    for name in ("process_time", "perf_counter"):
        monkeypatch.setattr(f"time.{name}", lambda: now[0])
    return now


def test_times_are_interleaved_and_compared_by_round(clock):
    order = []

    def step(name, *seconds):
        pending = iter((100.0, *seconds))  # the first call warms up and must not count

        def run():
            order.append(name)
            clock[0] += next(pending)

        return run

    times = measure.step_times({"a": step("a", 1, 2, 4), "b": step("b", 3, 4, 12)}, rounds=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert times["a"] == measure.Times(median=2, least=1, ratio=1, spread=0)
    assert (times["b"].median, times["b"].least, times["b"].ratio) == (4, 3, 3)
    assert times["b"].spread == 1


def test_table(mlp, x):
    checkpointed = measure.Variant(mlp, lambda: checkpoint(mlp, x, **CHECKPOINT).sum())
    eager = measure.Variant(mlp, lambda: mlp(x).sum())
    table = measure.measure({"eager": eager, "checkpoint": checkpointed}, rounds=2)
    assert [row.name for row in table.rows] == ["eager", "checkpoint"]
    assert [row.kept for row in table.rows] == [2 * HIDDEN, 0]
    as_dict = table.to_dict()
    assert as_dict["eager"]["times"]["ratio"] == 1
    assert as_dict["checkpoint"]["peak"] == table.rows[1].peak > 0
    head, *lines = str(table).splitlines()
    assert head.split() == "variant kept MiB peak MiB step ms time ratio".split()
    assert len({len(line) for line in (head, *lines)}) == 1


@pytest.mark.cuda
def test_cuda_counts_as_cpu(mlp, x):
    module, batch = mlp.cuda(), x.cuda()
    variant = measure.Variant(module, lambda: module(batch).sum())
    # The CUDA allocator hands out multiples of 512 bytes, of which both tensors are one.
    kept = measure.kept(variant.forward)
    assert labels(kept) == [("AddmmBackward0", "mat1", HIDDEN), ("GeluBackward0", "self", HIDDEN)]
    assert kept.nbytes == 2 * HIDDEN
    gradients = sum(p.nbytes for p in module.parameters())
    assert measure.peak_bytes(variant.step, "cuda") >= max(gradients, 2 * HIDDEN)
    assert measure.measure({"eager": variant}, rounds=1).rows[0].times.median > 0
