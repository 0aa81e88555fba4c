"""What else reversible networks do: dropout, batch norm, side outputs, several and broken chains."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fxmem.backend import fxmem

from .test_reversible import (
    FORCED,
    OFF,
    assert_gradients_match,
    branch,
    chain,
    inputs,
    links,
    run,
    weights,
)
from .tools import gradients, leaf, partitioned, relative, slope


def test_states_used_elsewhere():
    def f(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws[:4])
        middle = b.exp() + branch(a, ws[0])
        a, b = chain(a, b, ws[4:])
        return a * b, middle.sum(0)

    given = *inputs(8, 16), *weights(8)
    assert links(partitioned(f, *given, policy=FORCED).plan) == [8]
    assert_gradients_match(f, *given)


def test_side_outputs_of_branches():
    def f(a, b, *ws):
        a, b, aside = a.sin(), b.cos(), 0
        for w in ws:
            inner = branch(b, w)
            aside = aside + inner.square().mean()
            a, b = b, a + inner @ w
        return a * b, aside

    given = *inputs(8, 16), *weights(5)
    assert links(partitioned(f, *given, policy=FORCED).plan) == [5]
    assert_gradients_match(f, *given)


def test_two_chains():
    def f(a, b, c, d, *ws):
        return run(a, b, *ws[:4]) + run(c, d, *ws[4:])

    given = *inputs(8, 16), *inputs(8, 16), *weights(7)
    assert sorted(links(partitioned(f, *given, policy=FORCED).plan)) == [3, 4]
    assert_gradients_match(f, *given)


def test_chain_broken_by_another_layer():
    def f(a, b, *ws):
        a, b = chain(a.sin(), b.cos(), ws[:4])
        a, b = chain(torch.relu(a @ ws[0]), b.cos(), ws[4:])
        return a * b

    given = *inputs(8, 16), *weights(8)
    assert links(partitioned(f, *given, policy=FORCED).plan) == [4, 4]
    assert_gradients_match(f, *given)


def test_first_state_that_its_own_derivative_reads_is_kept():
    def f(a, b, *ws):
        a, b = chain(torch.relu(a @ ws[0]), torch.relu(b @ ws[1]), ws[2:])
        return a * b

    given = *inputs(8, 16), *weights(6)
    g = partitioned(f, *given, policy=FORCED)
    assert links(g.plan) == [4]
    assert_gradients_match(f, *given)


def test_branches_may_read_a_condition():
    def f(a, b, c, *ws):
        condition = c.tanh() @ ws[0]
        return run(a, b, *ws, f=lambda x, w: branch(x + condition, w))

    given = *inputs(8, 16), leaf(8, 16), *weights(5)
    assert links(partitioned(f, *given, policy=FORCED).plan) == [5]
    assert_gradients_match(f, *given)


def test_first_states_that_are_inputs_are_not_computed():
    def f(x, *ws):
        a, b = chain(*x.chunk(2, -1), ws)
        return a * b

    g = partitioned(f, leaf(8, 32), *weights(4), policy=FORCED)
    assert links(g.plan) == [4]
    # Two of four states are halves of the input; each tanh subtracts in its derivative.
    assert g.backward.ops["aten.sub"] == 2 + 4
    assert_gradients_match(f, leaf(8, 32), *weights(4))


def test_unseeded_draws_are_refused():
    def f(a, b, *ws):
        return run(a, b, *ws, f=lambda x, w: F.dropout(branch(x, w), 0.3))

    with torch._inductor.config.patch(fallback_random=True):
        (note,) = partitioned(f, *inputs(8, 16), *weights(4), policy=FORCED).plan.notes
    assert note.startswith("a reversible chain is broken at ")
    assert note.endswith("it draws random numbers without a seed that could be given again")


def test_an_input_that_is_overwritten_is_not_read_again():
    def f(a, b, state, *ws):
        out = run(a, b, *ws, f=lambda x, w: branch(x + state, w))
        state.add_(1)
        return out

    given = *inputs(8, 16), torch.ones(16), *weights(4)
    exact = gradients(f, *given)
    given[2].fill_(1)
    found = gradients(f, *given, policy=FORCED)
    assert all(relative(a, b) < 1e-5 for a, b in zip(found, exact, strict=True))


def test_within_checkpoints():
    def block(a, b, v, w):
        return chain(a, b, (v, w))

    def f(a, b, *ws):
        a, b = a.sin(), b.cos()
        for v, w in zip(ws[::2], ws[1::2], strict=True):
            a, b = checkpoint(block, a, b, v, w, use_reentrant=False)
        return a * b

    given = *inputs(8, 16), *weights(6)
    assert_gradients_match(f, *given)


class Conv(nn.Module):
    """Two streams of channels, each branch a convolution behind a batch norm."""

    def __init__(self, links=4, channels=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * channels, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(links)
        )

    def forward(self, x):
        a, b = self.stem(x).chunk(2, 1)
        for f in self.branches:
            a, b = b, a + f(b)
        return a * b


def test_batch_norm_counts_once():
    def trained(policy):
        torch.manual_seed(0)
        model, x = Conv(), leaf(2, 3, 8, 8)
        return gradients(model, x, policy=policy), model.state_dict()

    (found, state), (plain, kept) = trained(FORCED), trained(OFF)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    assert state["branches.0.0.num_batches_tracked"] == 1
    assert all(relative(a, b) < 1e-4 for a, b in zip(found, plain, strict=True) if b.norm() > 1e-4)
    torch._dynamo.reset()
    assert links(partitioned(Conv(), leaf(2, 3, 8, 8), policy=FORCED).plan) == [4]


def test_dropout_is_the_same_again():
    def f(a, b, *ws):
        return run(a, b, *ws, f=lambda x, w: F.dropout(branch(x, w), 0.3))

    given = *inputs(16, 16), *weights(4)

    def trained(policy):
        torch._dynamo.reset()
        torch.manual_seed(0)
        for t in given:
            t.grad = None
        out = torch.compile(f, backend=fxmem, options=policy)(*given)
        out.backward(slope(out))
        return [out.detach(), *(t.grad for t in given)]

    g = partitioned(f, *given, policy=FORCED)
    assert links(g.plan) == [4]
    assert g.backward.ops["prims.inductor_seeds"] == 0
    found, plain = trained(FORCED), trained(OFF)
    assert torch.equal(found[0], plain[0])
    assert all(relative(a, b) < 1e-5 for a, b in zip(found, plain, strict=True))


def test_dynamic_shapes():
    given = *inputs(8, 16), *weights(4)
    g = partitioned(run, *given, policy=FORCED, dynamic=True)
    assert links(g.plan) == [4]
    torch._dynamo.reset()
    compiled = torch.compile(run, backend=fxmem, options={"inner": "aot_eager"}, dynamic=True)
    for n in (8, 12, 5):
        a, b = inputs(n, 16)
        exact = torch.autograd.grad(run(a, b, *given[2:]).sum(), (a, b))
        found = torch.autograd.grad(compiled(a, b, *given[2:]).sum(), (a, b))
        assert all(relative(x, y) < 1e-5 for x, y in zip(found, exact, strict=True))
