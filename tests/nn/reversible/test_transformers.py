"""transformers' models whose layers are made reversible: gradients, bytes, names, caches."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.utils.checkpoint
import transformers
from models.zoo import ZOO

from fxmem.measure import kept
from fxmem.nn.reversible import to_momentum, to_reversible

CONVERSIONS = (to_momentum, to_reversible)
# The number of layers goes by another name in GPT-2.
DEPTH = {"gpt2": "n_layer"}


def build(name, depth=3, **options):
    torch.manual_seed(0)
    return ZOO[name].build(**{DEPTH.get(name, "num_hidden_layers"): depth}, **options)


def gradients(model, batch):
    """Loss and gradients after a step, those of parameters that have one."""
    torch.manual_seed(7)
    loss = model(**batch).loss
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "mistral", "vit"])
def test_gradients_are_those_of_keeping_everything(name, convert):
    batch, results = ZOO[name].batch(), []
    for memory in ("none", "checkpoint", "reversible"):
        model = build(name, dropout=0.1)
        convert(model, memory=memory, exact=True)
        results.append(gradients(model, batch))
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@pytest.mark.parametrize("convert", CONVERSIONS)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_kept_bytes_are_flat_in_depth(name, exact, convert):
    batch = ZOO[name].batch()

    def kept_by(depth, converted):
        model = build(name, depth)
        if converted:
            convert(model, exact=exact)
        return kept(lambda: model(**batch).loss).nbytes

    a_layer = kept_by(2, False) - kept_by(1, False)
    assert (kept_by(6, True) - kept_by(2, True)) / 4 <= 0.01 * a_layer


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_names_copies_and_files(convert):
    model, batch = build("bert"), ZOO["bert"].batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convert(model)
    after = model.state_dict()
    assert list(after) == list(before)
    model.load_state_dict(before)
    expected = gradients(model, batch)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.zero_grad()
        assert_equal(gradients(twin, batch), expected)


def test_gamma_zero_preserves_the_function():
    batch = ZOO["bert"].batch()
    report = to_momentum(build("bert"), gamma=0, memory="none", check=batch)
    assert report.preserved and report.difference < 1e-6
    assert "the model's function: as it was" in str(report)
    nearer = [to_momentum(build("bert"), gamma=g, check=batch).difference for g in (0.5, 0.1)]
    assert nearer[1] < nearer[0] / 2


def test_layers_that_hand_on_a_bias():
    """T5's first layer computes a bias, which the others are given and return."""
    paths, results = ["encoder.block", "decoder.block"], []
    for memory in ("none", "reversible"):
        torch.manual_seed(0)
        model = ZOO["t5"].build(dropout=0.1, num_layers=4, num_decoder_layers=4)
        to_reversible(model, paths, keep_first=1, memory=memory, exact=True)
        results.append(gradients(model, ZOO["t5"].batch()))
    assert_equal(*results)
    model = ZOO["t5"].build()
    to_reversible(model, paths)
    with pytest.raises(TypeError, match=r"T5Block\) returns more than one tensor .*keep_first=1"):
        model(**ZOO["t5"].batch())


def test_hidden_states_are_seen():
    model, batch = build("bert"), ZOO["bert"].batch()
    to_reversible(model)
    out = model(**batch, output_hidden_states=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(4, 48, 64)] * 4


def test_a_loss_of_hidden_states_alone_is_refused():
    model, batch = build("bert"), ZOO["bert"].batch()
    to_reversible(model)
    out = model(**batch, output_hidden_states=True)
    with pytest.raises(
        RuntimeError, match=r"layer\.1 .*a loss of what lies within the chain alone"
    ):
        out.hidden_states[2].sum().backward()
    results = []
    for memory in ("none", "checkpoint", "reversible"):
        model = build("bert")
        to_reversible(model, memory=memory, exact=True)
        out = model(**batch, output_hidden_states=True)
        (out.hidden_states[2].square().sum() + 0 * out.loss).backward()
        results.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


def test_layers_that_are_checkpointed_too():
    """As transformers' own switch does it, whose name changes."""
    checkpoint = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    batch, results = ZOO["llama"].batch(), []
    for enable in (False, True):
        model = build("llama")
        to_reversible(model, exact=True)
        if enable:
            model.model.layers[1].gradient_checkpointing = True
            model.model.layers[1]._gradient_checkpointing_func = checkpoint
        results.append(gradients(model, batch))
    assert_equal(*results)


def test_caches():
    model, batch = build("llama", use_cache=True), ZOO["llama"].batch()
    to_momentum(model)
    with pytest.warns(UserWarning, match="keep no cache of keys and values while they are trained"):
        model(**batch).loss.backward()
    model.eval()
    prompt = batch["input_ids"][:, :5]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with_cache, without = (
        model.generate(prompt, use_cache=use_cache, **options) for use_cache in (True, False)
    )
    assert torch.equal(with_cache, without)


# Dynamo makes an object of torch.autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_compiled(name, exact):
    model, batch = build(name), ZOO[name].batch()
    to_reversible(model, exact=exact)
    eager = gradients(model, batch)
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = gradients(compiled, batch)
    for (_, one), other in zip(found.items(), eager.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_forward_that_failed_leaves_nothing_behind():
    model, batch = build("bert"), ZOO["bert"].batch()
    to_reversible(model, exact=True)
    expected = gradients(model, batch)
    layer = model.bert.encoder.layer[1]
    handle = layer.attention.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**batch)
    handle.remove()
    model.zero_grad()
    assert_equal(gradients(model, batch), expected)


def test_bart():
    options = {
        **{"vocab_size": 99, "d_model": 32, "max_position_embeddings": 64, "use_cache": False},
        **{f"{side}_layers": 3 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
    }
    ids, results = torch.randint(3, 99, (2, 9)), []
    for memory in ("none", "reversible"):
        torch.manual_seed(0)
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**options))
        to_reversible(model, memory=memory, exact=True)
        results.append(gradients(model, {"input_ids": ids, "labels": ids}))
    assert_equal(*results)
