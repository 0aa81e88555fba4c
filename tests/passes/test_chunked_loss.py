"""The loss of a linear layer in chunks: what is found in a graph, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp

from fxmem.passes.graph import stable_text
from fxmem.transform import report, transform
from passes import losses

from .dialects import DIALECTS, dynamo, exported, symbolic
from .losses import CLASSES, WIDTH, Head, sample

ASKED = {"rules": {"chunked_loss": True}}
CASES = [
    pytest.param(spelling, dialect, id=f"{spelling.__name__}-{dialect}")
    for spelling in losses.ALL
    for dialect in DIALECTS
    if dialect != "make_fx" or spelling not in losses.NOT_IN_ATEN
]


def traced(dialect, module, *inputs):
    if dialect == "make_fx":
        return DIALECTS[dialect](lambda *given: module(*given), *inputs)
    gm = DIALECTS[dialect](module, *inputs)
    if dialect == "symbolic_trace":
        ShapeProp(gm).propagate(*inputs)
    return gm


def run(gm, module, x, labels):
    """Run a graph; Dynamo's takes what the module holds as inputs, too."""
    if not any(node.name == "l_x_" for node in gm.graph.find_nodes(op="placeholder")):
        return gm(x, labels)
    given = {"l_x_": x, "l_labels_": labels}
    for name, held in module.state_dict(keep_vars=True).items():
        owner, kind = name.split(".")
        holder = "buffers" if owner == "loss" else "parameters"
        given[f"l_self_modules_{owner}_{holder}_{kind}_"] = held
    return gm(*(given[node.name] for node in gm.graph.find_nodes(op="placeholder")))[0]


def gradients(loss, module, x):
    leaves = [x, *module.parameters()]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [g for g in found if g is not None]


@pytest.mark.parametrize(("spelling", "dialect"), CASES)
def test_every_spelling_in_every_dialect(spelling, dialect):
    module, (x, labels) = Head(spelling), sample()
    gm = traced(dialect, module, x, labels)
    result = transform(gm, ASKED)
    assert result.code.count("fxmem.linear_cross_entropy.default(") == 1
    (site,) = report(result).entries
    assert site.rule == "chunked_loss"
    found, wanted = run(result, module, x, labels), module(x, labels)
    torch.testing.assert_close(found, wanted)
    pairs = gradients(found, module, x), gradients(wanted, module, x)
    torch.testing.assert_close(*pairs)


def test_graph():
    # Rows are shifted and flattened before the operator, and of the logits nothing is left.
    x, labels = sample()
    assert (
        text(transform(exported(Head(losses.shifted), x, labels), ASKED))
        == """\
x: float32[2, 16, 8]
labels: int64[2, 16]
slice_2: int64[2, 15] = aten.slice.Tensor(labels, 1, 1, 9223372036854775807)
contiguous_1: int64[2, 15] = aten.contiguous.default(slice_2)
view_1: int64[30] = aten.view.default(contiguous_1, [-1])
slice_tensor: float32[2, 15, 8] = aten.slice.Tensor(x, 1, 0, -1)
reshape: float32[30, 8] = reshape(slice_tensor, [-1, 8])
linear_cross_entropy_default: float32[] = fxmem.linear_cross_entropy.default(\
reshape, head_weight, view_1, head_bias, None, mean, -100, 0.0)
return [linear_cross_entropy_default]"""
    )


def test_graph_of_a_z_loss():
    # The square of log-sum-exp goes into the operator: of all rows, at 0.01, and as a mean.
    x, labels = sample()
    assert (
        text(transform(exported(Head(losses.z_loss), x, labels), ASKED))
        == """\
x: float32[2, 16, 8]
labels: int64[2, 16]
view_1: int64[32] = aten.view.default(labels, [-1])
reshape: float32[32, 8] = reshape(x, [-1, 8])
linear_cross_entropy_default: float32[] = fxmem.linear_cross_entropy.default(\
reshape, head_weight, view_1, head_bias, None, mean, -100, 0.0, 0.01, None, 0, mean)
return [linear_cross_entropy_default]"""
    )


def text(gm):
    """Return a graph as text, without what its module holds and what guards its inputs."""
    held = {node.name for node in gm.graph.find_nodes(op="get_attr")} | {"_guards_fn"}
    lines = stable_text(gm.graph).splitlines()
    return "\n".join(line for line in lines if line.split(":")[0].split(" ")[0] not in held)


def entry(function, policy=ASKED, head=None, trace=dynamo):
    """Return the one entry of what `transform` says of a function of x and labels."""
    x, labels = sample()
    head = head or nn.Linear(WIDTH, CLASSES)
    gm = trace(lambda x, labels: function(head, x, labels), x, labels)
    (found,) = (e for e in report(transform(gm, policy)).entries if e.rule == "chunked_loss")
    return found


def flat(f):
    """Give a function the logits, and the labels, of all tokens."""
    return lambda head, x, labels: f(head(x).view(-1, CLASSES), labels.view(-1))


def returned(head, x, labels):
    logits = head(x)
    return F.cross_entropy(logits.view(-1, CLASSES), labels.view(-1)), logits


def read_too(head, x, labels):
    logits = head(x).view(-1, CLASSES)
    return F.cross_entropy(logits, labels.view(-1)) + logits.square().mean()


def autocast_switched(head, x, labels):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(x).view(-1, CLASSES)
    return F.cross_entropy(logits, labels.view(-1))


def probabilities(head, x, labels):
    target = F.one_hot(labels.clamp(min=0).view(-1), CLASSES).float()
    return F.cross_entropy(head(x).view(-1, CLASSES), target)


REFUSALS = {
    "the logits are returned too: compile a step that returns the loss alone": returned,
    "the logits exist anyway: square reads logits too": read_too,
    "its target is probabilities, not labels": probabilities,
    "something is overwritten, or autocast switched, between its layer and the loss": (
        autocast_switched
    ),
    "tanh lies between the linear layer and the loss": flat(
        lambda logits, labels: F.cross_entropy(logits.tanh(), labels)
    ),
    "to casts the logits to torch.float64": flat(
        lambda logits, labels: F.cross_entropy(logits.to(torch.float64), labels)
    ),
    "getitem takes the classes of a row apart": flat(
        lambda logits, labels: F.cross_entropy(logits[:, 3:], labels.clamp(max=9))
    ),
    "log_softmax is not taken over the classes of a row": flat(
        lambda logits, labels: F.nll_loss(F.log_softmax(logits, 0), labels)
    ),
    "it does not take one log-softmax of the logits": flat(
        lambda logits, labels: F.nll_loss(logits, labels)
    ),
    "detach lies between the linear layer and the loss": flat(
        lambda logits, labels: F.cross_entropy(logits.detach(), labels)
    ),
}


@pytest.mark.parametrize("sentence", REFUSALS)
def test_refusals(sentence):
    assert entry(REFUSALS[sentence]).why == sentence


def test_frozen_it_is_refused():
    head = nn.Linear(WIDTH, CLASSES).requires_grad_(False)
    why = entry(
        lambda head, x, labels: losses_of(head)(x.detach()[:, 0], labels[:, 0]), head=head
    ).why
    assert why == "nothing that it reads wants a gradient"


def test_without_shapes_it_is_refused():
    gm = symbolic(Head(losses.flattened))
    (found,) = report(transform(gm, ASKED)).entries
    assert found.why == "no tracer has noted the shapes of the logits and of the target"


def logits_from_outside():
    def loss(logits, labels):
        return F.cross_entropy(logits.view(-1, CLASSES), labels.view(-1))

    _, labels = sample()
    return dynamo(loss, torch.randn(2, 16, CLASSES, requires_grad=True), labels)


def test_a_graph_break_is_named():
    (found,) = report(transform(logits_from_outside(), ASKED)).entries
    assert (
        found.why == "its logits come into the graph: the layer is before a graph break, or outside"
    )


def test_forbidden_leaves_the_graph_alone():
    x, labels = sample()
    gm = transform(dynamo(Head(losses.shifted), x, labels), {"rules": {"chunked_loss": False}})
    assert "linear_cross_entropy" not in gm.code and not list(report(gm).entries)


def priced(rows, classes, width, dtype=torch.float32, policy=None, device="cpu"):
    head = nn.Linear(width, classes, dtype=dtype, device=device)
    x = torch.randn(rows, width, dtype=dtype, device=device)
    labels = torch.randint(classes, (rows,), device=device)
    gm = dynamo(lambda x, labels: F.cross_entropy(head(x), labels), x, labels)
    (found,) = report(transform(gm, policy)).entries
    return found


def test_prices():
    assert priced(2048, 64, 16).nbytes == 64 * 16 * 4
    assert priced(2048, 64, 16).residual.nbytes == 2048 * 64 * 4
    assert priced(64, 64, 16).why == "its logits are smaller than min_bytes=65536"
    few = "2000 rows are too few for chunks that are as fast; from 2048 on they are"
    assert priced(2000, 64, 16).why == few
    assert priced(2048, 64, 16, torch.bfloat16).why == few.replace("2000", "2048").replace(
        "from 2048", "from 4096"
    )
    narrow = "logits of 2048 x 64 are not large beside a gradient of 64 x 48"
    assert priced(2048, 64, 48).why == narrow
    elsewhere = "its time on meta was not measured: ask for it by name"
    assert priced(2048, 64, 16, device="meta").why == elsewhere
    half = "float16 gradients must be scaled before they are made: in the backward, which costs"
    assert priced(2048, 64, 16, torch.float16).why == half
    again = priced(2048, 64, 16, torch.float16, ASKED)
    assert again.action == "the logits computed in chunks, in the backward again"
    assert again.nbytes == 0


def test_the_loss_keeps_its_dtype():
    head = nn.Linear(WIDTH, CLASSES, dtype=torch.bfloat16)
    x, labels = torch.randn(9, WIDTH, dtype=torch.bfloat16), torch.randint(CLASSES, (9,))
    gm = exported(losses_of(head), x, labels)
    assert transform(gm, ASKED)(x, labels).dtype == gm(x, labels).dtype == torch.bfloat16


def losses_of(head):
    return lambda x, labels: F.cross_entropy(head(x), labels)
