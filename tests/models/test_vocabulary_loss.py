"""Language models of transformers: their loss is found as they write it."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import fxmem
from fxmem.backend import fxmem as backend

CLASSES = 256
TAKEN = "1 x cross_entropy: chunked_loss, the logits computed in chunks, with the gradients"
LLAMA = {
    **{"vocab_size": CLASSES, "hidden_size": 32, "intermediate_size": 48},
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
}
GPT2 = {
    **{"vocab_size": CLASSES, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 256},
    **{"bos_token_id": 0, "eos_token_id": 0},
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}


def gpt2():
    model = GPT2LMHeadModel(GPT2Config(**GPT2))
    # Else transformers warns that it does not know one, which breaks the graph before the loss.
    model.loss_type = "ForCausalLM"
    return model


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "gpt2, tied": gpt2,
}


@pytest.mark.parametrize("name", MODELS)
def test_loss_of_a_language_model(name):
    torch.manual_seed(0)
    model, ids = MODELS[name]().train(), torch.randint(CLASSES, (8, 256))

    def loss(ids):
        return model(input_ids=ids, labels=ids, use_cache=False).loss

    wanted = loss(ids)
    true = torch.autograd.grad(wanted, list(model.parameters()))
    torch._dynamo.reset()
    found = torch.compile(loss, backend=backend, options={"inner": "aot_eager"})(ids)
    torch.testing.assert_close(found, wanted)
    for ours, its in zip(torch.autograd.grad(found, list(model.parameters())), true, strict=True):
        assert (ours - its).norm() < 1e-5 * its.norm()
    (plan,) = fxmem.last_report().plans
    assert plan.notes == (TAKEN,)


def test_a_model_that_returns_its_logits_is_told_so():
    model, ids = MODELS["llama"]().train(), torch.randint(CLASSES, (8, 256))
    torch._dynamo.reset()
    call = torch.compile(model, backend=backend, options={"inner": "aot_eager"})
    call(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert fxmem.last_report().plans[0].notes == (
        "1 x cross_entropy: kept: the logits are returned too: compile a step that returns the "
        "loss alone",
    )
