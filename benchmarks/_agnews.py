"""AG News and a small transformer: the task that several benchmarks share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from _cifar10 import SHARED
from paretune.task import Task
from paretune.zoo import csv

QUICK_TEST = 1000
HELD_OUT = 3000
"""Texts for validation."""
WORDS, LENGTH, HEADS = 8000, 48, 4


def make_task(quick: bool, model: Callable[[], nn.Module] | None = None) -> Task:
    """Return the task, by default with an untrained `TextClassifier`; words are those of the training texts."""
    train, test = (csv(SHARED / "ag_news" / f"{split}.csv.gz").columns for split in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(train["label"]))  # the file is sorted by class
    texts, labels = train["text"][order], train["label"][order].astype(np.int64)
    counted = Counter(word for text in texts[:-HELD_OUT] for word in words(text))
    number = {word: index + 2 for index, (word, _) in enumerate(counted.most_common(WORDS - 2))}
    inputs, test_inputs = encoded(texts, number), encoded(test["text"], number)
    known = 1000 if quick else len(texts) - HELD_OUT
    test_labels = test["label"].astype(np.int64)
    if quick:  # the file is sorted by class
        some = np.random.default_rng(0).permutation(len(test_labels))[:QUICK_TEST]
        test_inputs, test_labels = test_inputs[some], test_labels[some]
    return Task(
        name="transformer AG News",
        model=model or TextClassifier,
        train=(inputs[:known], labels[:known]),
        val=(inputs[-HELD_OUT:], labels[-HELD_OUT:]),
        test=(test_inputs, test_labels),
        batch_size=64,
    )


def words(text: str) -> list[str]:
    """Return the lower-case words and marks of a text."""
    return re.findall(r"[a-z0-9]+|[$%!?]", text.lower())


def encoded(texts: Sequence[str], number: dict[str, int]) -> np.ndarray:
    """Return int64 (n, LENGTH): the numbers of the first words, 1 for an unknown one, 0 after the end."""
    out = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in zip(out, texts, strict=True):
        found = [number.get(word, 1) for word in words(text)[:LENGTH]]
        row[: len(found)] = found
    return out


class Block(nn.Module):
    """Attention and a feed-forward block, each behind a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (n, tokens, width) to the same shape; mask: (n, 1, 1, tokens), False where there is no word."""
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class TextClassifier(nn.Module):
    """Embedded words and positions, blocks, and a classifier on the mean of the words."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, width), nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 (n, LENGTH) to (n, 4)."""
        there = tokens != 0
        x = self.words(tokens) + self.positions
        for block in self.blocks:
            x = block(x, there[:, None, None, :])
        weight = there.float()[:, :, None]
        return self.head((self.norm(x) * weight).sum(1) / weight.sum(1).clamp_min(1))
