"""Small random configurations of transformers' own models, one of each kind of architecture.

The smallest sizes at which residuals are worth encoding: a few KiB to a few hundred KiB each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import nn

Batch = dict[str, torch.Tensor]
VOCABULARY, LENGTH, SIZE = 211, 48, 64


def tokens(batch: int = 4, length: int = LENGTH) -> Batch:
    """Return token ids [batch, length], which are their own labels."""
    ids = torch.randint(3, VOCABULARY, (batch, length))
    return {"input_ids": ids, "labels": ids.clone()}


def pictures(batch: int = 4) -> Batch:
    """Return images [batch, 3, 32, 32] and labels among three classes."""
    return {"pixel_values": torch.randn(batch, 3, 32, 32), "labels": torch.arange(batch) % 3}


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: its classes in transformers, its configuration and its inputs."""

    model: str
    config: str
    options: dict
    batch: Callable[..., Batch]
    dropout: tuple[str, ...] = ()
    depth: str | None = None  # of two layers alike; where a test takes one, it says so

    def build(self, *, dropout: float = 0.0, **options) -> nn.Module:
        """Build the model in training mode; `options` override the configuration."""
        rates = dict.fromkeys(self.dropout, dropout)
        config = getattr(transformers, self.config)(**{**self.options, **rates, **options})
        return getattr(transformers, self.model)(config).train()

    @property
    def one_layer(self) -> dict:
        """What of the configuration leaves one layer where there are two."""
        return {self.depth: 1} if self.depth else {}


_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": SIZE,
    "intermediate_size": 2 * SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "use_cache": False,
}
_ENCODER = {
    "hidden_size": SIZE,
    "intermediate_size": 2 * SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_PICTURES = {"num_labels": 3, "depths": [1, 1], "hidden_sizes": [32, 64]}

ZOO = {
    "gpt2": Entry(
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": SIZE,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 2 * LENGTH,
            "use_cache": False,
            # Beyond the vocabulary by default; and a name that is found without a warning.
            "bos_token_id": 0,
            "eos_token_id": 0,
            "loss_type": "ForCausalLM",
        },
        tokens,
        ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        "n_layer",
    ),
    "bert": Entry(
        "BertForMaskedLM",
        "BertConfig",
        {"vocab_size": VOCABULARY, **_ENCODER},
        tokens,
        ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        "num_hidden_layers",
    ),
    "llama": Entry(
        "LlamaForCausalLM",
        "LlamaConfig",
        _DECODER,
        tokens,
        ("attention_dropout",),
        "num_hidden_layers",
    ),
    "mistral": Entry(
        "MistralForCausalLM",
        "MistralConfig",
        {**_DECODER, "sliding_window": 16},
        tokens,
        ("attention_dropout",),
        "num_hidden_layers",
    ),
    "mixtral": Entry(
        "MixtralForCausalLM",
        "MixtralConfig",
        {
            **_DECODER,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "output_router_logits": True,
        },
        tokens,
        ("attention_dropout",),
        "num_hidden_layers",
    ),
    "t5": Entry(
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": VOCABULARY,
            "d_model": SIZE,
            "d_kv": 16,
            "d_ff": 2 * SIZE,
            "num_layers": 2,
            "num_heads": 4,
            "use_cache": False,
            "decoder_start_token_id": 0,
        },
        tokens,
        ("dropout_rate",),
        "num_layers",
    ),
    "vit": Entry(
        "ViTForImageClassification",
        "ViTConfig",
        {
            **_ENCODER,
            "image_size": 32,
            "patch_size": 8,
            "num_labels": 3,
        },
        pictures,
        ("hidden_dropout_prob", "attention_probs_dropout_prob"),
        "num_hidden_layers",
    ),
    "convnext": Entry(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {**_PICTURES, "num_stages": 2, "patch_size": 4},
        pictures,
    ),
    "resnet": Entry(
        "ResNetForImageClassification",
        "ResNetConfig",
        {**_PICTURES, "embedding_size": 16, "layer_type": "basic"},
        pictures,
    ),
}
