"""Residuals in which a mask has put -inf or the lowest number: no scale spans them and the rest."""

import pytest
import torch
from torch.nn import functional as F

from .tools import gradients, leaf, partitioned, relative

LOSSY = {p: {"preset": p, "min_bytes": 0} for p in ("balanced", "compact")}
LIMIT = {"balanced": 0.02, "compact": 0.2}
WHY = "a mask may have put -inf or the lowest number in it, which no scale spans with the rest"
N, D = 64, 32
CAUSAL = torch.ones(N, N, dtype=torch.bool).tril()
SINK = torch.randn(2, 4, N, 1, generator=torch.Generator().manual_seed(1))


def scores(q, k):
    return q @ k.mT / D**0.5


def sinks(lowest):
    """GPT-OSS: a column of its own beside the masked scores."""

    def attend(q, k, v):
        mask = torch.zeros(N, N).masked_fill(~CAUSAL, lowest)
        s = torch.cat([scores(q, k) + mask, SINK], -1)
        return (s - s.amax(-1, keepdim=True)).softmax(-1)[..., :-1] @ v

    return attend


def given_mask(q, k, v, mask):
    """The mask is an input: only what is made of it shows that there may be one."""
    return torch.cat([scores(q, k) + mask, SINK], -1).softmax(-1)[..., :-1] @ v


def padded(q, k, v):
    return F.pad(scores(q, k), (0, 8), value=-torch.inf).softmax(-1)[..., :N] @ v


def routed(q, k, v):
    """Llama 4: of each token's experts the best, all others at -inf, then a sigmoid."""
    s = q @ k.mT
    best, where = s.topk(2)
    return torch.full_like(s, -torch.inf).scatter(-1, where, best).sigmoid() @ v


def is_refused(graph):
    return any(why.startswith(WHY) for why in graph.why)


REFUSED = {
    "sinks": sinks(torch.finfo(torch.float32).min),
    "sinks and -inf": sinks(-torch.inf),
    "routed": routed,
}
ENCODED = {
    "padded": padded,
    "masked_fill": lambda q, k, v: scores(q, k).masked_fill(~CAUSAL, -torch.inf).softmax(-1) @ v,
    "where": lambda q, k, v: torch.where(CAUSAL, scores(q, k), -1e30).softmax(-1) @ v,
}


def inputs():
    torch.manual_seed(0)
    return [torch.randn(2, 4, N, D).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    assert is_refused(partitioned(REFUSED[name], *inputs(), policy=LOSSY["balanced"]))


@pytest.mark.parametrize("preset", LOSSY)
@pytest.mark.parametrize("name", [*REFUSED, *ENCODED])
def test_gradients(name, preset):
    f = {**REFUSED, **ENCODED}[name]
    found, exact = (gradients(f, *inputs(), policy=p) for p in (LOSSY[preset], "eager"))
    for one, other in zip(found, exact, strict=True):
        assert relative(one, other) < LIMIT[preset]


def test_a_mask_that_is_given():
    """The probabilities are encoded in place of what it is added to."""
    mask = torch.zeros(N, N).masked_fill(~CAUSAL, -torch.inf)
    graph = partitioned(given_mask, *inputs(), mask, policy=LOSSY["balanced"])
    assert "aten.div" in [site.residual.op for site in graph.plan.sites]
    found, exact = (
        gradients(given_mask, *inputs(), mask, policy=p) for p in (LOSSY["balanced"], "eager")
    )
    for one, other in zip(found, exact, strict=True):
        assert relative(one, other) < LIMIT["balanced"]


@pytest.mark.parametrize("name", ENCODED)
def test_what_a_mask_is_not_in_is_encoded(name):
    graph = partitioned(ENCODED[name], *inputs(), policy=LOSSY["balanced"])
    assert not is_refused(graph) and graph.plan.sites


def test_pieces_that_meet_no_softmax_are_encoded():
    def joined(q, k, v):
        return torch.cat([q, k], -1).exp().sin() @ torch.cat([v, v], -1).mT

    assert not is_refused(partitioned(joined, *inputs(), policy=LOSSY["balanced"]))


LOWEST = -torch.inf


def put(h, where, value=LOWEST):
    h = h.clone()
    h[where] = value
    return h


PUT = {
    "slice": lambda h, m: put(h, (..., slice(40, None))),
    "row": lambda h, m: put(h, (..., 5)),
    "index_copy": lambda h, m: h.index_copy(1, torch.tensor([3, 7]), torch.full((N, 2), LOWEST)),
    "masked_scatter": lambda h, m: h.masked_scatter(~CAUSAL, torch.full((N, N), LOWEST)),
    "diagonal": lambda h, m: h.diagonal_scatter(torch.full((N,), LOWEST)),
    "scatter_reduce": lambda h, m: torch.full_like(h, LOWEST).scatter_reduce(
        0, (torch.arange(N) // 4 * 4)[:, None].expand(N, N), h, "amax"
    ),
    "an input": lambda h, m: h + m,
    "made of an input": lambda h, m: h + (1 - m.exp()) * -1e9,
}


@pytest.mark.parametrize("f", [F.softplus, F.logsigmoid], ids=["softplus", "logsigmoid"])
@pytest.mark.parametrize("name", PUT)
def test_exponentials_of_masked_values(name, f):
    torch.manual_seed(0)
    x, w = leaf(N, N), (torch.randn(N, N) / 8).requires_grad_()
    mask = torch.zeros(N, N).masked_fill(~CAUSAL, LOWEST)

    def run(x, w, mask):
        return f(PUT[name](x @ w, mask)).clamp(min=-50)

    exact, found = (gradients(run, x, w, mask, policy=p)[1:] for p in ("eager", LOSSY["balanced"]))
    assert max(map(relative, found, exact)) < LIMIT["balanced"]


def test_inputs_that_are_no_masks():
    """What the rest is made of, what is trained, and what no exponential is taken of."""

    def run(x, w, b, c):
        return F.silu(x + x @ w) * F.softplus(x @ w + b) * ((x @ w).sin() + c).square()

    x, c = torch.randn(N, N), torch.randn(N, N)
    graph = partitioned(run, x, leaf(N, N), leaf(N, N), c, policy=LOSSY["balanced"])
    assert not is_refused(graph)
