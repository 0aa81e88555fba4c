"""The operators behind the vocabulary loss: opcheck, refusals, and what they keep."""

import pytest
import torch
import torch.nn.functional as F
from torch import library

from fxmem import ops
from fxmem.measure import kept, peak_bytes
from fxmem.nn import LinearCrossEntropy

from .test_linear_cross_entropy import assert_same, call, labels, layer, reference

V = 11
WANTS = [True, True, True]


def terms(rows):
    target = torch.where(labels(rows) < 0, -1, labels(rows))
    return target, torch.rand(rows), torch.rand(rows), torch.rand(rows), torch.rand(V)


def plain_layer(rows, grad):
    return [t.requires_grad_(grad) for t in layer(rows, dtype=torch.float32)]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_opcheck(rows, grad):
    made, given = plain_layer(rows, grad), terms(rows)
    check = library.opcheck
    fxmem = torch.ops.fxmem
    check(fxmem.linear_cross_entropy_rows.default, (*made, *given, 4))
    check(fxmem.linear_cross_entropy_sum.default, (*made, *given, WANTS, 4))
    detached = [t.detach() for t in made]
    arguments = (torch.rand(rows), *detached, *given, [True, False, True], 4)
    check(fxmem.linear_cross_entropy_gradients.default, arguments)


REFUSALS = {
    "hidden must be float32, bfloat16, float16 or float64; got torch.int64": {
        "hidden": torch.ones(9, 5, dtype=torch.int64)
    },
    "weight must be [classes, width]; got [55]": {"weight": torch.ones(55)},
    "hidden must be [..., 5], as weight is; got [9, 4]": {"hidden": torch.ones(9, 4)},
    "target must be int64 labels; got torch.float32": {"target": torch.ones(9)},
    "target must be [9], a label for each row of hidden; got [8]": {"target": labels(8)},
    "weight must be torch.float32 as hidden is; got torch.float64": {
        "weight": torch.ones(V, 5, dtype=torch.float64)
    },
    "bias must be [11], one number a class; got [1]": {"bias": torch.ones(1)},
    "class_weight must be [11], one number a class; got [2]": {"class_weight": torch.ones(2)},
    "reduction must be 'mean', 'sum' or 'none'; got 'max'": {"reduction": "max"},
    "ignore_index must be an integer, which is -100 where no label is ignored; got None": {
        "ignore_index": None
    },
    "label_smoothing must be a number, which is 0 where nothing is smoothed; got None": {
        "label_smoothing": None
    },
    "z_loss must be a number, which is 0 for none; got 'x'": {"z_loss": "x"},
    "reduction must be 'mean', 'sum' or 'none'; got None": {"reduction": None},
    "chunk must be a number of rows, or 0; got 2.5": {"chunk": 2.5},
    "recompute must be True, False or None; got 'x'": {"recompute": "x"},
    "label_smoothing must be between 0 and 1; got 1.5": {"label_smoothing": 1.5},
    "z_loss must be a finite number of 0 or more; got -1.0": {"z_loss": -1.0},
    "chunk must be a number of rows, or 0; got -1": {"chunk": -1},
    "target must be in [0, 11) or ignore_index; got a label outside": {
        "target": torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 11])
    },
}


@pytest.mark.parametrize("sentence", REFUSALS)
def test_refusals(sentence):
    hidden, weight, bias = layer(9, dtype=torch.float32)
    given = {"hidden": hidden, "weight": weight, "bias": bias, "target": labels(9)}
    with pytest.raises(RuntimeError) as caught:
        ops.linear_cross_entropy(**{**given, **REFUSALS[sentence]})
    assert str(caught.value) == f"fxmem::linear_cross_entropy: {sentence}"


def test_a_negative_label_that_is_not_ignored_is_outside():
    with pytest.raises(RuntimeError, match="a label outside"):
        call(layer(2), torch.tensor([-1, 2]))
    assert call(layer(2), torch.tensor([-1, 2]), ignore_index=-1).isfinite()


def test_options_are_asked_of_within_a_graph():
    made, weight = layer(9, dtype=torch.float32), torch.ones(11)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    for smoothing in (0.1, 0.2):
        options = {"class_weight": weight, "label_smoothing": smoothing, "recompute": True}
        found, wanted = (run(made, labels(9), **options) for run in (compiled, call))
        torch.testing.assert_close(found, wanted)


ROWS, CLASSES, WIDTH = 2048, 4096, 32
LOGITS = ROWS * CLASSES * 4


def big(dtype):
    made = layer(ROWS, classes=CLASSES, width=WIDTH, bias=False, dtype=dtype)
    return made, labels(ROWS, classes=CLASSES)


def test_kept_and_peak_are_an_eighth_of_the_logits():
    made, target = big(torch.float32)
    gradients = sum(t.numel() * 4 for t in made[:2])
    labels_and_rows = 64 * ROWS

    def plain():
        return F.cross_entropy(F.linear(*made), target)

    assert kept(plain).nbytes > LOGITS
    assert kept(lambda: call(made, target)).nbytes <= gradients + labels_and_rows
    assert kept(lambda: call(made, target, recompute=True)).nbytes <= labels_and_rows
    assert kept(lambda: call(made, target)).nbytes < LOGITS / 8

    def peak(loss):
        return peak_bytes(lambda: torch.autograd.grad(loss(), made[:2]))

    # Two of logits, or their gradient, lie side by side in eager.
    assert peak(plain) > 2 * LOGITS
    assert peak(lambda: call(made, target)) - gradients < LOGITS / 8
    assert peak(lambda: call(made, target, recompute=True)) - gradients < LOGITS / 8


@pytest.mark.parametrize(
    ("dtype", "recompute"),
    [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)],
)
def test_peak_of_a_wide_layer(dtype, recompute):
    """Four rows for each unit of width: a gradient more of the weight would be too many."""
    made = layer(1024, classes=CLASSES, width=256, bias=False, dtype=dtype)
    target = labels(1024, classes=CLASSES)
    gradients = sum(t.nbytes for t in made[:2])
    logits = 1024 * CLASSES * dtype.itemsize
    found = peak_bytes(
        lambda: torch.autograd.grad(call(made, target, recompute=recompute), made[:2])
    )
    assert gradients < found < gradients + logits / 8


def test_a_graph_that_is_retained_keeps_its_gradients():
    """They are scaled where they lie, unless the graph is run through again."""
    made, target = layer(6, bias=False), labels(6)
    loss = call(made, target)
    first = torch.autograd.grad(loss, made[1], retain_graph=True)[0]
    first_again = first.clone()
    scaled = torch.autograd.grad(loss, made[1], torch.tensor(3.0), retain_graph=True)[0]
    torch.testing.assert_close(scaled, 3 * first_again)
    for _ in range(2):
        loss.backward(retain_graph=True)
    made[1].grad.mul_(2)
    (last,) = torch.autograd.grad(loss, made[1], torch.tensor(0.5))
    torch.testing.assert_close(made[1].grad, 4 * first_again)
    torch.testing.assert_close(last, 0.5 * first_again)
    assert torch.equal(first, first_again)


def test_a_frozen_weight_has_no_gradient_kept():
    made, target = big(torch.bfloat16)
    made[1].requires_grad_(False)
    assert kept(lambda: call(made, target)).nbytes <= made[0].numel() * 2 + 64 * ROWS


def test_module():
    torch.manual_seed(0)
    loss = LinearCrossEntropy(5, 11, label_smoothing=0.1, dtype=torch.float64)
    hidden, target = layer(6, 4)[0], labels(6, 4)
    given = hidden, loss.weight, loss.bias
    found = loss(hidden, target)
    assert_same(found, reference(*given, target=target, label_smoothing=0.1), given)
    assert loss.state_dict().keys() == {"weight", "bias"}
    torch.testing.assert_close(loss.logits(hidden), F.linear(*given))
    assert "reduction='mean'" in repr(loss)
