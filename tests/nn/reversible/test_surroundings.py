"""A block is computed again as it was: random numbers, autocast, buffers, hooks of the user's."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fxmem.nn.reversible import ReversibleSequential

from .blocks import Conv, assert_close, chains, linear, trained

KEPT = ("none", "reversible", "checkpoint")


def test_dropout_and_batch_norm():
    plain, *others = chains([Conv(4) for _ in range(5)], KEPT)
    x = torch.randn(3, 8, 6, 6)
    wanted = trained(plain, x)
    for other in others:
        assert_close(trained(other, x), wanted)
        for name, buffer in other.named_buffers():
            torch.testing.assert_close(buffer, dict(plain.named_buffers())[name])
        assert all(step.block.norm.num_batches_tracked == 1 for step in other)


def test_a_layer_of_two_names_in_a_block_keeps_its_own_tensors():
    norm = nn.BatchNorm1d(3)
    plain, *others = chains([nn.Sequential(norm, linear(3), nn.Tanh(), norm).double()], KEPT)
    x = torch.randn(5, 6, dtype=torch.float64)
    wanted = trained(plain, x)
    for other in others:
        own = dict(other.named_buffers())
        assert_close(trained(other, x), wanted)
        assert all(own[name] is buffer for name, buffer in other.named_buffers())
        assert_close([*own.values()], [*plain.buffers()])


def test_the_generator_goes_on_where_it_was():
    model = ReversibleSequential(Conv(2), Conv(2))
    x = torch.randn(2, 4, 4, 4, requires_grad=True)
    out = model(x)
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    out.sum().backward()
    assert torch.equal(torch.rand(4), wanted)


def test_a_mode_that_is_changed_before_the_backward():
    """To evaluate in between changes nothing, and is not undone by the backward."""
    x, found = torch.randn(3, 8, 6, 6), []
    for chain in chains([Conv(4) for _ in range(3)], KEPT):
        torch.manual_seed(3)
        loss = chain(x).pow(2).sum()
        chain.eval()
        loss.backward()
        assert not any(module.training for module in chain.modules())
        found.append([p.grad for p in chain.parameters()])
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])


class Stateful(nn.Module):
    """What it gives depends on a buffer, which it changes in place and replaces by turns."""

    def __init__(self, in_place):
        super().__init__()
        self.linear, self.in_place = nn.Linear(3, 3), in_place
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x):
        if self.in_place:
            self.gain.mul_(1.5)
        else:
            self.gain = self.gain * 1.5
        return torch.tanh(self.linear(x) * self.gain)


@pytest.mark.parametrize("in_place", [True, False])
def test_buffers_that_the_block_depends_on(in_place):
    plain, model = chains([Stateful(in_place) for _ in range(3)], ("none", "reversible"))
    x = torch.randn(4, 6)
    for step in (1, 2):
        assert_close(trained(model, x), trained(plain, x))
        assert all(chain[2].block.gain == 1.5**step for chain in (plain, model))


@pytest.mark.parametrize(
    ("dtype", "exact", "rtol"),
    [(torch.float32, False, 2e-3), (torch.float32, True, 0), (torch.bfloat16, True, 0)],
)
def test_autocast_is_as_in_the_forward(dtype, exact, rtol):
    """Streams stay in their dtype, blocks compute in bfloat16, the backward runs outside."""
    blocks = [nn.Sequential(linear(8), nn.LayerNorm(8)) for _ in range(4)]
    plain, model = chains(blocks, ("none", "reversible"), exact=exact)
    x = torch.randn(4, 16, dtype=dtype)

    def under_autocast(chain):
        with torch.autocast("cpu", torch.bfloat16):
            return chain(x.clone())

    seen = []
    model[1].block[0][0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    found = []
    for chain in (plain, model):
        out = under_autocast(chain)
        out.float().pow(2).sum().backward()
        found.append([out.detach(), *(p.grad for p in chain.parameters())])
    assert seen == [torch.bfloat16] * 2
    assert_close(found[1], found[0], rtol)


def test_autocasts_cache_is_left_alone():
    """A weight that the chain casts first must still get its gradient from what comes after."""
    head = nn.Linear(4, 4)
    grads = []
    for memory in ("none", "reversible"):
        model = ReversibleSequential(nn.Sequential(head), memory=memory)
        head.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            out = head(model(torch.randn(2, 8))[:, :4].detach())
            out.float().sum().backward()
        grads.append([head.weight.grad])
    assert_close(grads[1], grads[0])


def test_gradient_scaler():
    plain, model = chains([linear(3) for _ in range(3)], ("none", "reversible"))
    x = torch.randn(4, 6)
    for chain in (plain, model):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        optimizer = torch.optim.SGD(chain.parameters(), lr=0.1)
        scaler.scale(chain(x).pow(2).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_close(list(model.parameters()), list(plain.parameters()))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_within_an_outer_checkpoint(use_reentrant):
    plain, model = chains([Conv(2) for _ in range(3)], ("none", "reversible"))
    for norm in (m for chain in (plain, model) for m in chain.modules() if type(m) is Conv):
        norm.norm.track_running_stats = False
    x = torch.randn(2, 4, 4, 4)
    wanted = trained(plain, x)
    found = trained(_Checkpointed(model, use_reentrant), x)
    assert_close(found, wanted)


class _Checkpointed(nn.Module):
    def __init__(self, inner, use_reentrant):
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


def test_hooks_see_the_output_alone():
    """What a block's first call saves is dropped: nobody should be asked to offload it."""
    model = ReversibleSequential(*[linear(3) for _ in range(4)])
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(torch.randn(5, 6, requires_grad=True))
    assert packed == [torch.Size([5, 6])]
    out.sum().backward()
