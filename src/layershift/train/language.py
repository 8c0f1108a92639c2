"""Training a language model: truncated back-propagation with a state that is carried on, and perplexities."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from layershift._checks import check
from layershift.measure import Estimate
from layershift.train.learner import Learner, Mean

WINDOWS = 10
"""Windows in a block of words."""

BLOCKS = f"mean over words; standard error over blocks, {WINDOWS} windows of one stream each"


class BlockMean(Mean):
    r"""The mean over all words, with a standard error from blocks of words, whose losses depend on each other.

    For blocks $k$ of $n_k$ words with the sum $S_k$, mean $m=\sum S_k/\sum n_k$ and the variance of a ratio,
    $\frac{K}{K-1}\sum(S_k-m\,n_k)^2/(\sum n_k)^2$. The sample size is $K$, the number of blocks.

    Args:
        estimator: how the number is made, in words.
        windows: successive windows that make a block of each stream. Ten of 35 words: on the Penn Treebank the error
            from blocks of 1, 35, 350 and 700 words was found in the ratio of 1 : 1.3 : 2.3 : 2.6.

    Example:
        >>> mean = BlockMean("mean over words", windows=1)
        >>> mean.update(torch.tensor([[1.0, 3.0], [1.0, 3.0]])); mean.update(torch.tensor([[2.0, 2.0]]))
        >>> [round(float(x), 4) for x in mean.compute()[:3]]
        [2.0, 0.5443, 4.0]
    """

    def __init__(self, estimator: str, windows: int = WINDOWS) -> None:
        super().__init__(estimator)
        self.windows = windows
        self.add_state("sums", torch.zeros(6), dist_reduce_fx="sum")
        self._seen, self._words, self._open = 0, 0, torch.zeros(0)

    def update(self, values: Tensor) -> None:
        """Add a window, (T, B), the next of B streams."""
        losses = values.detach().float().sum(0)
        if self._seen % self.windows:
            self.sums -= _block_sums(self._words, self._open)  # the block goes on: it comes back, longer
            self._words, self._open = self._words + len(values), self._open + losses
        else:
            self._words, self._open = len(values), losses
        self.sums += _block_sums(self._words, self._open)
        self._seen += 1

    def compute(self) -> Estimate:
        """The mean over all that came since the last reset."""
        count, n, total, squares, products, sizes = self.sums
        mean = total / n
        spread = (squares - 2 * mean * products + mean.square() * sizes).clamp(min=0)
        return Estimate(mean, (spread * count / (count - 1)).sqrt() / n, count, estimator=self.estimator)

    def reset(self) -> None:
        """Forget all that came."""
        super().reset()
        self._seen = 0


def _block_sums(words: int, losses: Tensor) -> Tensor:
    """Sums over blocks of 1, n, S, S², S·n and n², where each has n words."""
    n = torch.full_like(losses, words)
    return torch.stack([torch.ones_like(n), n, losses, losses.square(), losses * n, n.square()]).sum(1)


class LanguageModel(Learner):
    r"""Train a network to predict each word's successor: cross entropy plus a penalty, SGD with clipped gradients.

    Gradients go back through one window; the state is carried from window to window and is zero at the start of an
    epoch and of an evaluation. Estimates are those of `Learner`: `train/loss`, `train/penalty`, `val/loss`,
    `test/loss`, in nats a word, and the perplexities `train/perplexity`, `val/perplexity` and `test/perplexity`, their
    exponentials. The losses of neighbouring words depend on each other, so standard errors come from blocks, see
    `BlockMean`; that of a perplexity is the loss's, times the perplexity.

    Args:
        model: words (T, B) and a state, or None → scores (T, B, words) and a state, as `word_lstm` makes it.
        penalty: a penalty with parameters of its own that shall be trained, or None.
        learning_rate: at the start.
        momentum: 0 is plain gradient descent.
        schedule: see `Learner`; "plateau" is that of PyTorch's example of a word language model, with `decay` 0.25.
        decay: see `schedule`.
        gradient_clip: the norm to which the gradient is rescaled if it is longer, or None. What the Trainer is told
            takes precedence.
        options: others of `Learner`: nesterov, weight_decay, bias_rate, milestones, warmup, seed.

    References:
        PER, section 4.2: norm 0.25. PyTorch's examples, word_language_model: learning rate 20, divided by 4 after an
        epoch without a better validation loss.
    """

    headline = "val/perplexity"

    def __init__(
        self,
        model: nn.Module,
        *,
        penalty: nn.Module | None = None,
        learning_rate: float = 20.0,
        momentum: float = 0.0,
        schedule: Any = "plateau",
        decay: float = 0.25,
        gradient_clip: float | None = 0.25,
        **options: Any,
    ) -> None:
        check(gradient_clip is None or gradient_clip > 0, "gradient_clip", "a positive number", gradient_clip)
        rates = {"learning_rate": learning_rate, "momentum": momentum, "schedule": schedule, "decay": decay}
        penalties = {"train_penalty": "mean over the epoch's batches, weighted"}
        super().__init__(model, means=penalties, penalty=penalty, **rates, **options)
        self.means.update({f"{stage}_loss": BlockMean(BLOCKS) for stage in ("train", "val", "test")})
        self.gradient_clip = gradient_clip
        self._states: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the successors of words (T, B), from no state."""
        scores: Tensor = self.model(x)[0]
        return scores

    def on_train_epoch_start(self) -> None:
        """Start from no state."""
        self._states.pop("train", None)

    def on_validation_epoch_start(self) -> None:
        """Start from no state."""
        self._states.pop("val", None)

    def on_test_epoch_start(self) -> None:
        """Start from no state."""
        self._states.pop("test", None)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Criterion plus penalty."""
        return self.penalized(self._losses("train", *batch).mean())

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss."""
        self._losses("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Loss."""
        self._losses("test", *batch)

    def _losses(self, stage: str, words: Tensor, successors: Tensor) -> Tensor:
        """The loss of each word, (T, B); the state moves on, without its history."""
        scores, state = self.model(words, self._states.get(stage))
        self._states[stage] = tuple((h.detach(), c.detach()) for h, c in state)
        losses = F.cross_entropy(scores.flatten(0, 1), successors.flatten(), reduction="none").view(words.shape)
        self.average(f"{stage}_loss", losses)
        return losses

    def close(self, stage: str) -> None:
        """Turn the means of a stage into estimates, and its loss into a perplexity."""
        super().close(stage)
        if (loss := self.estimates.get(f"{stage}/loss")) is not None:
            value = loss.value.exp()
            name = f"{stage}/perplexity"
            self.estimates[name] = loss._replace(value=value, stderr=value * loss.stderr)
            self.log(name, value, prog_bar=name == self.headline)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Rescale the gradient."""
        limit = self.gradient_clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm or "norm")
