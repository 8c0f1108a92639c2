"""Text as streams of words: what every language data set shares."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from layershift._checks import check
from layershift.train.data.corpora import PTB, WIKITEXT2, Corpus, read_corpus
from layershift.train.data.files import DataError, data_root

END = "<eos>"
"""What stands for the end of a line."""

UNKNOWN = "<unk>"
"""What stands for words outside the vocabulary; in the texts here it is a word like any other."""

PROBE = 512
"""Words on which layers are measured, at most."""


def words_of(text: str) -> list[str]:
    r"""The words of a text, which spaces separate, with an end after each line.

    Example:
        >>> words_of("the cat\n\nsat\n")
        ['the', 'cat', '<eos>', '<eos>', 'sat', '<eos>']
    """
    return [word for line in text.splitlines() for word in (*line.split(), END)]


def vocabulary_of(words: Iterable[str]) -> dict[str, int]:
    """Numbers of words, the most frequent first, equally frequent ones in alphabetical order.

    Example:
        >>> vocabulary_of(["b", "a", "c", "b"])
        {'b': 0, 'a': 1, 'c': 2}
    """
    counts = Counter(words)
    return {word: i for i, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word)))}


def encode(words: Iterable[str], vocabulary: Mapping[str, int]) -> Tensor:
    """Numbers of words, (N,); words that the vocabulary lacks become `<unk>`.

    Raises:
        DataError: if there is such a word and the vocabulary has no `<unk>`.

    Example:
        >>> encode(["b", "x"], {"b": 0, "<unk>": 1})
        tensor([0, 1])
    """
    unknown = vocabulary.get(UNKNOWN, -1)
    tokens = torch.tensor([vocabulary.get(word, unknown) for word in words])
    if len(tokens) and int(tokens.min()) < 0:
        raise DataError(f"a word is not in the training text, whose vocabulary has no {UNKNOWN}")
    return tokens


def batchify(tokens: Tensor, streams: int) -> Tensor:
    """Cut a text into equally long pieces that are read side by side.

    Args:
        tokens: (N,).
        streams: how many pieces B; what is left at the end, fewer than B tokens, is dropped.

    Returns:
        (N // B, B): column b is the b-th piece.

    Raises:
        ValueError: if a piece would have no word and successor.

    Example:
        >>> batchify(torch.arange(7), 2)
        tensor([[0, 3],
                [1, 4],
                [2, 5]])
    """
    length = len(tokens) // streams
    check(length >= 2, "tokens", f"at least {2 * streams}, two for each of {streams} streams", len(tokens))
    return tokens[: length * streams].view(streams, length).t().contiguous()


class Windows(IterableDataset[tuple[Tensor, Tensor]]):
    """Successive windows of streams: words, and for each its successor, which is to be predicted.

    The order is that of the text, always, so that a network's state can be carried from each window to the next. Of
    several processes each reads some of the streams.

    Args:
        streams: (T, B).
        steps: words in a window; the last may have fewer.
        rank: the number of this process.
        world: the number of processes.

    Example:
        >>> for words, successors in Windows(torch.arange(6).view(6, 1), 3):
        ...     print(words.flatten().tolist(), successors.flatten().tolist())
        [0, 1, 2] [1, 2, 3]
        [3, 4] [4, 5]
    """

    def __init__(self, streams: Tensor, steps: int, *, rank: int = 0, world: int = 1) -> None:
        share = streams.shape[1] // world
        check(share >= 1, "streams", f"at least one for each of {world} processes", streams)
        self.streams, self.steps = streams[:, rank * share : (rank + 1) * share], steps

    def __len__(self) -> int:
        return -(-(len(self.streams) - 1) // self.steps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(torch.split(self.streams[:-1], self.steps), torch.split(self.streams[1:], self.steps), strict=True)


class WordData(LightningDataModule):
    """Words in three disjoint parts, as streams of which windows are cut; every batch is (words, successors), (T, B).

    The training part is read in `batch_size` streams, the other two in 10; what is left of a text when it is divided is
    not read. Nothing is shuffled: windows come in the order of the text, whatever the seed.

    Args:
        batch_size: training streams of one process.
        seed: of nothing; every data set has it.
        root: the folder of the files, or an archive of them; $LAYERSHIFT_DATA, or `layershift` in the user's cache, if
            None.
        train_size: words of the training part that are used, from its start; all if None. The vocabulary is that of the
            whole training text.
        eval_size: likewise for each of the two others.
        bptt: words in a window, through which gradients go back.
        verify: compare the texts with what is published of them.

    Attributes:
        parts: after `setup`, the streams of each part, (T, B).
        vocabulary: the number of each word, after `setup`.

    Raises:
        ValueError: if an option is out of range.
        DataError: in `setup`, if files are absent or damaged.
    """

    task: ClassVar[Literal["language"]] = "language"
    eval_streams: ClassVar[int] = 10

    def __init__(
        self,
        batch_size: int = 20,
        seed: int = 0,
        *,
        root: str | Path | None = None,
        train_size: int | None = None,
        eval_size: int | None = None,
        bptt: int = 35,
        verify: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("bptt", bptt)):
            check(value >= 1, name, "at least 1", value)
        for name, size, streams in (
            ("train_size", train_size, batch_size),
            ("eval_size", eval_size, self.eval_streams),
        ):
            check(size is None or size >= 2 * streams, name, f"at least two words for each of {streams} streams", size)
        self.batch_size, self.seed, self.bptt, self.verify = batch_size, seed, bptt, verify
        self.root = data_root(root)
        self.wanted = {"train": train_size, "val": eval_size, "test": eval_size}
        self.parts: dict[str, Tensor] = {}
        self.vocabulary: dict[str, int] = {}

    @abstractmethod
    def read(self) -> dict[str, Tensor]:
        """The numbers of all words of "train", "val" and "test", each (N,); sets `vocabulary`."""

    @property
    def sizes(self) -> dict[str, int]:
        """What a network must know of the data; reads them."""
        self.setup()
        return {"num_tokens": len(self.vocabulary)}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Read and cut into streams, once; and go to the trainer's device."""
        world = 1 if self.trainer is None else self.trainer.world_size
        if not self.parts:
            for name, tokens in self.read().items():
                streams = self.batch_size * world if name == "train" else self.eval_streams
                self.parts[name] = batchify(tokens[: self.wanted[name]], streams)
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.parts = {name: part.to(device) for name, part in self.parts.items()}

    def probe(self) -> Tensor:
        """Words on which layers are measured, (T, B): a window at the start of each validation stream."""
        self.setup()
        streams = self.parts["val"]
        return streams[: max(min(self.bptt, PROBE // streams.shape[1]), 1)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Windows of the training streams."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Windows of the validation streams."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Windows of the test streams."""
        return self._loader("test")

    def _loader(self, part: str) -> DataLoader[Any]:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(Windows(self.parts[part], self.bptt, rank=rank, world=world), batch_size=None)


class CorpusData(WordData):
    """Words of a published text; subclasses name it.

    Args:
        num_words: keep only so many words, the most frequent of the training text, and read the others as `<unk>`; all
            if None. Perplexities over fewer words are lower, and do not compare with published ones.
        **options: those of `WordData`.
    """

    corpus: ClassVar[Corpus]

    def __init__(self, batch_size: int = 20, seed: int = 0, *, num_words: int | None = None, **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        check(num_words is None or num_words >= 1, "num_words", "at least 1", num_words)
        self.num_words = num_words

    def read(self) -> dict[str, Tensor]:
        """The words of the files."""
        words = {name: words_of(text) for name, text in read_corpus(self.corpus, self.root).items()}
        self.vocabulary = vocabulary_of(words["train"])
        if self.verify:
            self.corpus.check_words({name: len(part) for name, part in words.items()}, len(self.vocabulary))
        if self.num_words is not None:
            kept = [word for word in self.vocabulary if word != UNKNOWN][: self.num_words - 1]
            self.vocabulary = {word: i for i, word in enumerate([*kept, UNKNOWN])}
        return {name: encode(part[: self.wanted[name]], self.vocabulary) for name, part in words.items()}


class PTBData(CorpusData):
    """The Penn Treebank as Mikolov prepared it: 929,589 words to train, a vocabulary of 10,000.

    Options are those of `WordData`, and `num_words`.

    References:
        M. P. Marcus et al., "Building a large annotated corpus of English: the Penn Treebank", 1993; T. Mikolov et al.,
        "Recurrent neural network based language model", 2010.
    """

    corpus = PTB


class WikiText2Data(CorpusData):
    """WikiText-2: 2,088,628 words of good articles to train, a vocabulary of 33,278.

    Options are those of `WordData`, and `num_words`.

    References:
        S. Merity et al., "Pointer sentinel mixture models", 2017, https://arxiv.org/abs/1609.07843
    """

    corpus = WIKITEXT2
