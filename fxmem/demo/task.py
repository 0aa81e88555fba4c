"""What is trained: GPT-2 on bytes, reading the sources of Python's standard library."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

# Left out so that every machine reads about the same text, however Python was installed.
ELSEWHERE = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
HELD_OUT = 10


@dataclass(frozen=True)
class Task:
    """Model and batch sizes, steps of training, and the batches that judge the result."""

    layers: int = 6
    width: int = 384
    heads: int = 6
    tokens: int = 192
    batch: int = 4
    steps: int = 200
    judged: int = 16
    rate: float = 1e-3
    bf16: bool = False


@dataclass(frozen=True)
class Text:
    """Bytes to learn from and bytes to be judged on, both 1-d uint8, from different files."""

    train: torch.Tensor
    held_out: torch.Tensor

    def batches(self, task: Task, seed: int, held_out: bool = False) -> Iterator[torch.Tensor]:
        """Yield endless (batch, tokens) int64 windows, the same ones for the same seed."""
        text = self.held_out if held_out else self.train
        windows = text.unfold(0, task.tokens, 1)
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield windows[torch.randint(len(windows), (task.batch,), generator=generator)].long()


def read_text(root: Path | None = None) -> Text:
    """Read the ``*.py`` files below ``root`` (default: the standard library), each tenth held out.

    Raises:
        FileNotFoundError: if there are fewer than ten: nothing could be held out.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if ELSEWHERE.isdisjoint(path.relative_to(root).parts)
    ]
    if len(files) < HELD_OUT:
        raise FileNotFoundError(f"the demo needs at least {HELD_OUT} *.py files below {root}")
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for i, path in enumerate(files):
        parts[i % HELD_OUT == HELD_OUT - 1].append(path.read_bytes())
    train, held_out = (torch.frombuffer(bytearray(b"\n".join(p)), dtype=torch.uint8) for p in parts)
    return Text(train, held_out)


def new_model(task: Task, seed: int = 0) -> torch.nn.Module:
    """Return GPT-2 with random weights over 256 bytes, dropout 0.1 as GPT-2 has it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=256,
            n_positions=task.tokens,
            n_embd=task.width,
            n_layer=task.layers,
            n_head=task.heads,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
    )
