"""fxmem.functional.linear_cross_entropy beside torch's linear and cross_entropy."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fxmem.functional import linear_cross_entropy

OPTIONS = {
    "plain": {},
    "label_smoothing": {"label_smoothing": 0.2},
    "z_loss": {"z_loss": 0.1},
    "class_weight": {"class_weight": torch.linspace(0.1, 2, 11, dtype=torch.float64)},
    "all": {
        **{"label_smoothing": 0.2, "z_loss": 0.1, "ignore_index": 3},
        **{"class_weight": torch.linspace(0.1, 2, 11, dtype=torch.float64)},
    },
}


def reference(
    *layer, target, reduction="mean", class_weight=None, z_loss=0.0, ignore_index=-100, **options
):
    hidden, weight, bias = layer
    logits = F.linear(hidden, weight, bias).flatten(0, -2)
    flat = target.flatten()
    loss = F.cross_entropy(
        logits, flat, class_weight, ignore_index=ignore_index, reduction=reduction, **options
    )
    if not z_loss:
        return loss.view(target.shape) if reduction == "none" else loss
    counts = torch.where(flat == ignore_index, 0.0, 1.0).to(logits)
    if class_weight is not None:
        counts = counts * class_weight[flat.clamp(min=0)]
    square = z_loss * counts * logits.logsumexp(-1) ** 2
    if reduction == "none":
        return (loss + square).view(target.shape)
    return loss + square.sum() / (counts.sum() if reduction == "mean" else 1)


def layer(*rows, classes=11, width=5, bias=True, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    shapes = (*rows, width), (classes, width), (classes,)
    made = [torch.randn(s, generator=draw).to(dtype).requires_grad_() for s in shapes]
    return made if bias else [*made[:2], None]


def labels(*rows, classes=11):
    target = torch.randint(classes, rows, generator=torch.Generator().manual_seed(1))
    target.view(-1)[::4] = -100
    return target


def call(made, target, **options):
    hidden, weight, bias = made
    return linear_cross_entropy(hidden, weight, target, bias, **options)


def gradients(loss, made):
    leaves = [t for t in made if t is not None and t.requires_grad]
    upstream = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return torch.autograd.grad(loss, leaves, upstream, retain_graph=True)


def assert_same(found, wanted, made):
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, made), gradients(wanted, made))


@pytest.mark.parametrize("recompute", [None, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_as_in_torch(options, reduction, recompute):
    for bias, rows in itertools.product((True, False), [(7,), (3, 5), (2, 3, 4)]):
        made, target = layer(*rows, bias=bias), labels(*rows)
        target = target.clamp(min=0) if "ignore_index" in options else target
        given = {**options, "reduction": reduction}
        found = call(made, target, **given, recompute=recompute, chunk=4)
        assert_same(found, reference(*made, target=target, **given), made)


@pytest.mark.parametrize("rows", [1, 2, 31, 33, 300])
def test_default_chunks_at_odd_sizes(rows):
    made, target = layer(rows), labels(rows).clamp(min=0)
    assert_same(call(made, target), reference(*made, target=target), made)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(reduction):
    made, target = layer(0), labels(0)
    wanted = reference(*made, target=target, reduction=reduction)
    found = call(made, target, reduction=reduction)
    torch.testing.assert_close(found, wanted, equal_nan=True)
    for gradient in gradients(found, made):
        assert not gradient.any()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"recompute": True}])
def test_all_ignored_is_nan_with_no_gradient_as_in_torch(options):
    made, target = layer(6), torch.full((6,), -100)
    found = call(made, target, **options)
    assert found.isnan()
    assert all(not gradient.any() for gradient in gradients(found, made))


def test_one_row_without_dimensions():
    made, target = layer(), torch.tensor(4)
    wanted = F.cross_entropy(F.linear(*made), target)
    assert_same(call(made, target), wanted, made)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_a_number_spreads_as_in_torch(bad):
    made, target = layer(6, bias=False), labels(6)
    with torch.no_grad():
        made[0][1, 2] = bad
    for reduction in ("mean", "none"):
        found = call(made, target, reduction=reduction)
        wanted = reference(*made, target=target, reduction=reduction)
        torch.testing.assert_close(found, wanted, equal_nan=True)
        pairs = zip(gradients(found, made), gradients(wanted, made), strict=True)
        assert all(torch.equal(a.isnan(), b.isnan()) for a, b in pairs)


def test_a_bad_row_that_is_ignored_leaves_the_loss_alone():
    made, target = layer(6), labels(6)
    with torch.no_grad():
        made[0][0] = float("nan")
    torch.testing.assert_close(call(made, target), reference(*made, target=target))


def test_masked_classes():
    made, target = layer(6), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        made[2][5:] = -torch.inf
    assert_same(call(made, target), reference(*made, target=target), made)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(reduction, recompute):
    made, target = layer(5, classes=4, width=3), labels(5, classes=4)

    def f(*made):
        options = {"label_smoothing": 0.1, "z_loss": 0.2, "chunk": 2}
        return call(made, target, reduction=reduction, recompute=recompute, **options)

    assert torch.autograd.gradcheck(f, made)


@pytest.mark.parametrize("recompute", [None, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_errs_at_most_twice_as_much_as_torchs(dtype, recompute):
    made, target = layer(300, classes=200, width=32, dtype=dtype), labels(300, classes=200)
    exact = [t.detach().double().requires_grad_() for t in made]
    true = gradients(reference(*exact, target=target), exact)
    plain = F.cross_entropy(F.linear(*made).float(), target)
    found = call(made, target, recompute=recompute)
    assert found.dtype == torch.float32
    # Scaled by what is no power of two, so that every rounding shows.
    pairs = [gradients(0.3 * loss, made) for loss in (plain, found)]
    for exactly, usual, ours in zip(true, *pairs, strict=True):
        own, its = ((g.double() - 0.15 * exactly).norm() for g in (ours, usual))
        assert own <= 2 * its


def test_float16_gradients_that_need_a_scale_survive():
    made = [t.detach().mul(0.05).requires_grad_() for t in layer(4096, dtype=torch.float16)]
    loss = call(made, labels(4096).clamp(min=0)) * 2.0**14
    plain = F.cross_entropy(F.linear(*made).float(), labels(4096).clamp(min=0)) * 2.0**14
    for ours, its in zip(gradients(loss, made), gradients(plain, made), strict=True):
        assert (ours - its).norm() < 0.01 * its.norm()


@pytest.mark.parametrize("recompute", [None, True])
@pytest.mark.parametrize("frozen", [(0,), (1,), (1, 2), (0, 2)])
def test_frozen_tensors_get_none_and_keep_none(frozen, recompute):
    made, target = layer(9), labels(9)
    for i in frozen:
        made[i].requires_grad_(False)
    found = call(made, target, recompute=recompute)
    assert_same(found, reference(*made, target=target), made)


def test_nothing_is_differentiated_without_gradients():
    made, target = layer(9), labels(9)
    with torch.no_grad():
        assert not call(made, target).requires_grad
    torch.testing.assert_close(call(made, target), reference(*made, target=target))


@pytest.mark.parametrize("recompute", [None, True])
def test_two_backward_passes(recompute):
    made, target = layer(9), labels(9)
    loss = call(made, target, recompute=recompute)
    torch.testing.assert_close(gradients(loss, made), gradients(loss, made))


@pytest.mark.parametrize("recompute", [None, True])
def test_a_second_derivative_is_refused(recompute):
    made, target = layer(9), labels(9)
    loss = call(made, target, recompute=recompute)
    with pytest.raises(RuntimeError, match="what a second derivative needs is not kept"):
        (first,) = torch.autograd.grad(loss, made[0], create_graph=True)
        torch.autograd.grad(first.square().sum(), made[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    made, target = layer(40, dtype=torch.float32), labels(40)
    with torch.autocast("cpu", dtype=dtype):
        found, wanted = call(made, target), F.cross_entropy(F.linear(*made), target)
    assert found.dtype == wanted.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    for ours, its in zip(gradients(found, made), gradients(wanted, made), strict=True):
        assert ours.dtype == torch.float32
        # Both are within half precision's rounding of the truth.
        assert (ours - its).norm() < 2 * torch.finfo(dtype).eps * its.norm()


def test_strides_do_not_matter():
    made, target = layer(6, 4), labels(6, 4)
    hidden, weight, bias = made
    turned = hidden.transpose(0, 1), weight.detach().t().contiguous().t().requires_grad_(), bias
    found = call(turned, target.t(), reduction="sum")
    assert_same(found, reference(*turned, target=target.t(), reduction="sum"), turned)


def test_tied_embeddings():
    table, ids = layer(1)[1], labels(8).clamp(min=0)

    def loss(f):
        hidden = F.embedding(ids, table).tanh()
        return f(hidden, table, None)

    found = loss(lambda *made: call(made, ids.roll(1)))
    wanted = loss(lambda *made: reference(*made, target=ids.roll(1)))
    assert_same(found, wanted, [table])
