"""A made-up language, always at hand, of which the best possible perplexity is known."""

from __future__ import annotations

import bisect
import random
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from layershift._seeds import derive_seed
from layershift.train.data.text import WordData

SEED = 0
"""The language and its texts are the same for every run."""


class MarkovWords(WordData):
    r"""A Markov chain over 50 words: the next word depends on the last one alone, by random probabilities.

    Its entropy rate $-\sum_i\pi_i\sum_j p_{ij}\log p_{ij}$ is what the cross entropy of no language model can fall
    below, so a network's perplexity has a known lower bound, `best_perplexity`, that a trained one approaches.

    Options are those of `WordData`; there are no files. The parts are three texts of the same chain, of 20,000, 5,000
    and 5,000 words.

    Example:
        >>> data = MarkovWords(batch_size=20, bptt=10)
        >>> data.setup()
        >>> words, successors = next(iter(data.train_dataloader()))
        >>> words.shape, torch.equal(words[1:], successors[:-1]), round(data.best_perplexity, 1)
        (torch.Size([10, 20]), True, 13.1)
    """

    num_words: ClassVar[int] = 50
    lengths: ClassVar[dict[str, int]] = {"train": 20_000, "val": 5_000, "test": 5_000}

    @property
    def best_perplexity(self) -> float:
        """The exponential of the entropy rate."""
        return float(np.exp(entropy_rate(transition(self.num_words))))

    def read(self) -> dict[str, Tensor]:
        """The three texts."""
        self.vocabulary = {f"word{i}": i for i in range(self.num_words)}
        return {
            name: torch.tensor(walk(self.num_words, length, derive_seed(SEED, part)))
            for part, (name, length) in enumerate(self.lengths.items())
        }


@lru_cache(maxsize=8)
def transition(num_words: int) -> np.ndarray:
    """Probabilities of the next word, a row for each word: softmax of twice standard normal numbers."""
    logits = 2 * np.random.default_rng(SEED).standard_normal((num_words, num_words))
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def entropy_rate(p: np.ndarray) -> float:
    """Of a Markov chain with positive transition probabilities, in nats.

    Example:
        >>> bool(np.isclose(entropy_rate(np.full((4, 4), 0.25)), np.log(4)))
        True
    """
    return float(-stationary(p) @ (p * np.log(p)).sum(1))


def stationary(p: np.ndarray) -> np.ndarray:
    """The distribution that a chain keeps: the left eigenvector of 1, as the solution of a linear system."""
    n = len(p)
    system = np.vstack([p.T - np.eye(n), np.ones(n)])
    return np.asarray(np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0])


def walk(num_words: int, length: int, seed: int) -> list[int]:
    """A text of the chain, from its stationary distribution."""
    p = transition(num_words)
    rows = np.vstack([p, stationary(p)]).cumsum(1).tolist()
    draw = random.Random(seed)
    word, words = num_words, []  # the last row is where a text starts from
    for _ in range(length):
        word = min(bisect.bisect(rows[word], draw.random()), num_words - 1)
        words.append(word)
    return words
