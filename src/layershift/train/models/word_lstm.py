"""Language models over words: a stack of LSTM layers between an embedding and a decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from layershift._checks import check, check_choice, check_rank
from layershift.nn import LSTMLayer, VariationalDropout
from layershift.nn.recurrent import State


class WordLSTM(nn.Module):
    """A stack of LSTM layers that predicts each word's successor; `word_lstm` builds it.

    Its parts are `embedding`, `dropout0`, then `lstm1`, `hidden1`, `dropout1` and so on, and `decoder`. The `hidden`
    modules return what they get, one layer's outputs as (T·B, H), before dropout: one time step is one sample. They are
    there to be penalised and measured, as `layers="hidden*"`.

    Args:
        embedding: of words.
        layers: the LSTM layers, each a layer of `nn.LSTM` or an `LSTMLayer`, both time first.
        dropouts: one more than layers, on (T, B, F).
        decoder: from a layer's output to the scores of all words.
        batch_first: whether words come as (B, T) and not as (T, B).
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        layers: Sequence[nn.LSTM | LSTMLayer],
        dropouts: Sequence[nn.Module],
        decoder: nn.Linear,
        *,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.batch_first = len(layers), batch_first
        self.embedding, self.dropout0 = embedding, dropouts[0]
        for i, (layer, dropout) in enumerate(zip(layers, dropouts[1:], strict=True), 1):
            self.add_module(f"lstm{i}", layer)
            self.add_module(f"hidden{i}", nn.Identity())
            self.add_module(f"dropout{i}", dropout)
        self.decoder = decoder

    def forward(self, words: Tensor, state: Sequence[State] | None = None) -> tuple[Tensor, tuple[State, ...]]:
        """Scores of the successors.

        Args:
            words: their numbers, (T, B).
            state: for each layer its output and cell before the first word, (B, H); zeros if None.

        Returns:
            Scores (T, B, words), and the state after the last word. With `batch_first`, (B, T, …).

        Raises:
            ValueError: if a shape does not fit.
        """
        check_rank("words", words, (2,), "(B, T)" if self.batch_first else "(T, B)")
        check(state is None or len(state) == self.depth, "state", f"one pair for each of {self.depth} layers", state)
        x = self.dropout0(self.embedding(words.t() if self.batch_first else words))
        after = []
        for i in range(1, self.depth + 1):
            x, last = _run(self.get_submodule(f"lstm{i}"), x, None if state is None else state[i - 1])
            after.append(last)
            x = self.get_submodule(f"hidden{i}")(x.flatten(0, 1)).view(x.shape)
            x = self.get_submodule(f"dropout{i}")(x)
        scores = self.decoder(x)
        return scores.transpose(0, 1) if self.batch_first else scores, tuple(after)


def _run(layer: nn.Module, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """One layer; `nn.LSTM` wants and gives states with a dimension for layers."""
    if isinstance(layer, nn.LSTM):
        output, (h, c) = layer(x, None if state is None else (state[0].unsqueeze(0), state[1].unsqueeze(0)))
        return output, (h[0], c[0])
    return layer(x, state)  # type: ignore[no-any-return]


def word_lstm(
    num_tokens: int = 10_000,
    *,
    hidden: int = 650,
    layers: int = 2,
    embedding: int | None = None,
    tied: bool = False,
    dropout: float = 0.5,
    variational: bool = False,
    recurrent_dropout: float | None = None,
    norm: Literal["recurrent_batch"] | None = None,
    steps: int = 35,
    batch_first: bool = False,
    seed: int | None = None,
) -> WordLSTM:
    r"""A word language model: embedding → LSTM layers → linear decoder, with dropout before, between and after them.

    Initialisation: embedding and decoder uniform within ±0.1, the decoder's bias 0; LSTM as in PyTorch. A layer without
    normaliser and recurrent dropout is `nn.LSTM` itself.

    Args:
        num_tokens: words of the vocabulary.
        hidden: units of each LSTM layer.
        layers: how many.
        embedding: size of an embedded word; `hidden` if None.
        tied: the decoder's weight is the embedding's (reuse embedding).
        dropout: share of embedded words' and layers' outputs that is dropped.
        variational: drop the same features at all steps of a window.
        recurrent_dropout: share of the units that the recurrent connections do not see, the same at all steps; if None,
            `dropout` where that is variational, and else 0.
        norm: "recurrent_batch" normalises inside the LSTM layers, see `layershift.nn.LSTMLayer`.
        steps: time steps with running statistics of their own: the length of a training window.
        batch_first: whether words come as (B, T).
        seed: of the initial weights, which do not depend on the normaliser. None draws from torch's global state.

    Returns:
        The network: words (T, B) and a state → scores (T, B, num_tokens) and a state.

    Raises:
        ValueError: if an option is out of range, or `tied` although sizes differ.

    References:
        PER, section 4.2: two layers of 650 units. Tied weights: O. Press, L. Wolf, "Using the output embedding to
        improve language models", 2016; H. Inan et al., "Tying word vectors and word classifiers", 2017. Variational
        dropout: Y. Gal, Z. Ghahramani, 2016.

    Example:
        >>> model = word_lstm(100, hidden=8, norm="recurrent_batch", seed=0)
        >>> scores, state = model(torch.zeros(35, 20, dtype=torch.long))
        >>> scores.shape, len(state), [name for name, _ in model.named_children()][2:5]
        (torch.Size([35, 20, 100]), 2, ['lstm1', 'hidden1', 'dropout1'])
    """
    check_choice("norm", norm, (None, "recurrent_batch"))
    for name, value in (("num_tokens", num_tokens), ("hidden", hidden), ("layers", layers)):
        check(value >= 1, name, "at least 1", value)
    size = hidden if embedding is None else embedding
    check(not tied or size == hidden, "embedding", f"{hidden}, the size of the layer that is decoded, if tied", size)
    recurrent = (dropout if variational else 0.0) if recurrent_dropout is None else recurrent_dropout
    own = norm is not None or recurrent > 0
    sizes = [size, *[hidden] * (layers - 1)]
    stack: list[nn.LSTM | LSTMLayer] = [
        LSTMLayer(n, hidden, norm="batch" if norm else None, steps=steps, recurrent_dropout=recurrent)
        if own
        else nn.LSTM(n, hidden)
        for n in sizes
    ]
    drop = VariationalDropout if variational else nn.Dropout
    words, decoder = nn.Embedding(num_tokens, size), nn.Linear(hidden, num_tokens)
    _init(words, stack, decoder, None if seed is None else torch.Generator().manual_seed(seed))
    if tied:
        decoder.weight = words.weight
    return WordLSTM(words, stack, [drop(dropout) for _ in range(layers + 1)], decoder, batch_first=batch_first)


@torch.no_grad()
def _init(
    words: nn.Embedding, stack: Sequence[nn.LSTM | LSTMLayer], decoder: nn.Linear, generator: torch.Generator | None
) -> None:
    """Draw in an order that does not depend on the kind of the layers."""
    words.weight.uniform_(-0.1, 0.1, generator=generator)
    for layer in stack:
        if isinstance(layer, LSTMLayer):
            layer.reset_parameters(generator)
        else:
            bound = 1 / math.sqrt(layer.hidden_size)
            for parameter in layer.parameters():  # weights of input and output, then both biases
                parameter.uniform_(-bound, bound, generator=generator)
    decoder.weight.uniform_(-0.1, 0.1, generator=generator)
    decoder.bias.zero_()
