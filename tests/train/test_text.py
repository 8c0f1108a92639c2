"""Words: streams and windows, vocabularies, files in every layout, and a language whose entropy is known."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layershift.train.data.corpora import PTB, WIKITEXT2, Corpus, read_corpus
from layershift.train.data.files import DataError
from layershift.train.data.markov import MarkovWords, entropy_rate, stationary, transition, walk
from layershift.train.data.text import (
    UNKNOWN,
    PTBData,
    WikiText2Data,
    Windows,
    batchify,
    encode,
    vocabulary_of,
    words_of,
)

TEXTS = {
    "train": " the cat sat on the mat\n the dog <unk> the cat\n" * 20,
    "val": " the dog sat\n",
    "test": " the cat <unk> a bird\n",
}
CONTENT = {part: text.encode() for part, text in TEXTS.items()}


def small(corpus: Corpus) -> Corpus:
    """A corpus of which the small texts are the published ones."""
    words = {part: len(words_of(text)) for part, text in TEXTS.items()}
    return replace(corpus, words=words, vocabulary=8, md5={})


class SmallPTB(PTBData):
    corpus = small(PTB)
    eval_streams = 2


class SmallWikiText2(WikiText2Data):
    corpus = small(WIKITEXT2)
    eval_streams = 2


def names_of(corpus: Corpus, layout: int = 0) -> list[str]:
    return list(list(corpus.layouts)[layout])


def put(folder, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, CONTENT.values(), strict=True):
        (folder / name).write_bytes(content)


class TestStreams:
    @given(size=st.integers(4, 200), streams=st.integers(1, 7), steps=st.integers(1, 50))
    def test_windows_hold_every_word_of_each_stream_once_and_in_order(self, size, streams, steps) -> None:
        if size < 2 * streams:
            return
        table = batchify(torch.arange(size), streams)
        length = size // streams
        assert table.t().flatten().tolist() == list(range(length * streams))
        windows = list(Windows(table, steps))
        assert len(windows) == len(Windows(table, steps))
        assert torch.equal(torch.cat([words for words, _ in windows]), table[:-1])
        assert torch.equal(torch.cat([successors for _, successors in windows]), table[1:])
        assert {len(words) for words, _ in windows[:-1]} <= {steps}
        assert all(torch.equal(successors, words + 1) for words, successors in windows)

    def test_processes_share_the_streams(self) -> None:
        table = batchify(torch.arange(40), 4)
        parts = [next(iter(Windows(table, 5, rank=rank, world=2)))[0] for rank in range(2)]
        assert torch.equal(torch.cat(parts, dim=1), table[:5])
        with pytest.raises(ValueError, match="streams: expected at least one for each of 5 processes, got shape"):
            Windows(table, 5, world=5)

    def test_too_short_a_text(self) -> None:
        with pytest.raises(ValueError, match="tokens: expected at least 6, two for each of 3 streams, got 5"):
            batchify(torch.arange(5), 3)

    def test_every_epoch_reads_the_same_windows(self) -> None:
        data = MarkovWords(train_size=500)
        data.setup()
        loader = data.train_dataloader()
        first, second = ([words for words, _ in loader] for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class TestVocabulary:
    def test_frequent_words_come_first_and_ends_of_lines_count(self) -> None:
        vocabulary = vocabulary_of(words_of(TEXTS["train"]))
        assert list(vocabulary) == ["the", "<eos>", "cat", "<unk>", "dog", "mat", "on", "sat"]

    def test_words_come_back(self) -> None:
        words = words_of(TEXTS["train"])
        vocabulary = vocabulary_of(words)
        names = list(vocabulary)
        assert [names[token] for token in encode(words, vocabulary).tolist()] == words

    def test_a_word_that_training_lacks_is_unknown(self) -> None:
        assert encode(["a"], {"b": 0, "<unk>": 3}).tolist() == [3]
        with pytest.raises(DataError, match="a word is not in the training text, whose vocabulary has no <unk>"):
            encode(["a"], {"b": 0})


class TestFiles:
    @pytest.mark.parametrize("folder", ["", "ptb", "penn", "simple-examples/data"])
    def test_ptb_in_its_folders(self, tmp_path, folder) -> None:
        put(tmp_path / folder, names_of(PTB))
        data = SmallPTB(batch_size=4, root=tmp_path, bptt=3)
        assert data.sizes == {"num_tokens": 8}
        assert {name: tuple(part.shape) for name, part in data.parts.items()} == {
            "train": (65, 4),
            "val": (2, 2),
            "test": (3, 2),
        }
        names = list(data.vocabulary)
        assert [names[token] for token in data.parts["test"].t().flatten()] == words_of(" the cat <unk> <unk> <unk>\n")

    @pytest.mark.parametrize(("folder", "layout"), [("", 0), ("wikitext-2", 0), ("wikitext-2", 1)])
    def test_wikitext_in_its_folders(self, tmp_path, folder, layout) -> None:
        put(tmp_path / folder, names_of(WIKITEXT2, layout))
        assert SmallWikiText2(batch_size=4, root=tmp_path).sizes == {"num_tokens": 8}

    @pytest.mark.parametrize("named", ["simple-examples.tgz", "ptb.tar.xz"])
    def test_a_tar(self, tmp_path, named) -> None:
        mode = "w:gz" if named.endswith("gz") else "w:xz"
        with tarfile.open(tmp_path / named, mode) as tar:
            for name, content in zip(names_of(PTB), CONTENT.values(), strict=True):
                info = tarfile.TarInfo(f"./simple-examples/data/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        assert read_corpus(SmallPTB.corpus, tmp_path) == TEXTS
        assert read_corpus(SmallPTB.corpus, tmp_path / named) == TEXTS

    def test_a_zip(self, tmp_path) -> None:
        with zipfile.ZipFile(tmp_path / "wikitext-2-v1.zip", "w") as archive:
            for name, content in zip(names_of(WIKITEXT2), CONTENT.values(), strict=True):
                archive.writestr(f"wikitext-2/{name}", content)
        assert read_corpus(SmallWikiText2.corpus, tmp_path) == TEXTS

    def test_absent_files_are_one_error_that_says_what_to_put_where(self, tmp_path) -> None:
        with pytest.raises(DataError) as error:
            PTBData(root=tmp_path).setup()
        message = str(error.value)
        assert (
            f"Penn Treebank: no data in {tmp_path}. Put there ptb.train.txt, ptb.valid.txt, ptb.test.txt in" in message
        )
        for part in (str(tmp_path / "ptb"), "simple-examples.tgz", "name another folder as root", "LDC99T42"):
            assert part in message

    def test_texts_of_another_size(self, tmp_path) -> None:
        put(tmp_path, names_of(PTB))
        with (
            pytest.warns(UserWarning, match="Penn Treebank: train, val, test differ from the usual files"),
            pytest.raises(DataError, match=r"929,589 words of train are published, 260 found; .* verify=False"),
        ):
            PTBData(root=tmp_path).setup()
        SmallPTB.corpus.check_words(SmallPTB.corpus.words, 8)
        with pytest.raises(DataError, match="a vocabulary of 8 are published, 9 found"):
            SmallPTB.corpus.check_words(SmallPTB.corpus.words, 9)
        with pytest.warns(UserWarning, match="differ"):
            assert set(read_corpus(PTB, tmp_path)) == {"train", "val", "test"}

    def test_damaged_archives(self, tmp_path) -> None:
        (tmp_path / "ptb.tar.xz").write_bytes(b"no archive")
        with pytest.raises(DataError, match=r"ptb\.tar\.xz: not a readable archive .* fetch it again"):
            read_corpus(PTB, tmp_path)
        with zipfile.ZipFile(tmp_path / "simple-examples.tgz", "w") as archive:
            archive.writestr("other.txt", "")
        with pytest.raises(DataError, match=r"simple-examples\.tgz: ptb\.train\.txt, .* are not in it"):
            read_corpus(PTB, tmp_path)

    def test_a_file_that_is_no_text(self, tmp_path) -> None:
        put(tmp_path, names_of(PTB))
        (tmp_path / "ptb.valid.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(DataError, match="not a text in UTF-8"):
            read_corpus(SmallPTB.corpus, tmp_path)

    def test_part_of_the_training_text_keeps_its_vocabulary(self, tmp_path) -> None:
        put(tmp_path, names_of(PTB))
        whole, part = SmallPTB(batch_size=2, root=tmp_path), SmallPTB(batch_size=2, root=tmp_path, train_size=50)
        assert whole.sizes == part.sizes
        assert part.parts["train"].shape == (25, 2)
        assert torch.equal(part.parts["train"].t().flatten(), whole.parts["train"].t().flatten()[:50])
        with pytest.raises(ValueError, match="train_size: expected at least two words for each of 20 streams, got 39"):
            SmallPTB(train_size=39)

    def test_rare_words_may_be_left_out(self, tmp_path) -> None:
        put(tmp_path, names_of(PTB))
        whole, few = SmallPTB(batch_size=2, root=tmp_path), SmallPTB(batch_size=2, root=tmp_path, num_words=4)
        whole.setup()
        assert few.sizes == {"num_tokens": 4}
        frequent = [word for word in whole.vocabulary if word != UNKNOWN][:3]
        assert list(few.vocabulary) == [*frequent, UNKNOWN]
        for part in ("train", "val", "test"):
            names = [list(data.vocabulary) for data in (whole, few)]
            numbers = [data.parts[part].flatten().tolist() for data in (whole, few)]
            for before, after in zip(*numbers, strict=True):
                word = names[0][before]
                assert names[1][after] == (word if word in frequent else UNKNOWN)
        with pytest.raises(ValueError, match="num_words: expected at least 1, got 0"):
            SmallPTB(num_words=0)


class TestMarkov:
    def test_entropy_rate_is_that_of_its_own_text(self) -> None:
        p = transition(50)
        text = np.array(walk(50, 200_000, seed=3))
        surprise = -np.log(p[text[:-1], text[1:]])
        assert surprise.mean() == pytest.approx(entropy_rate(p), abs=5 * surprise.std() / len(text) ** 0.5)

    def test_the_stationary_distribution_is_kept(self) -> None:
        p = transition(50)
        np.testing.assert_allclose(stationary(p) @ p, stationary(p), atol=1e-12)
        assert stationary(p).sum() == pytest.approx(1)
        assert stationary(p).min() > 0

    def test_a_cycle_that_is_nearly_certain_has_nearly_no_entropy(self) -> None:
        p = np.full((3, 3), 1e-9)
        p[[0, 1, 2], [1, 2, 0]] = 1 - 2e-9
        assert entropy_rate(p) == pytest.approx(0, abs=1e-6)

    def test_the_texts_are_different_and_always_the_same(self) -> None:
        first, second = MarkovWords(seed=0), MarkovWords(seed=1)
        assert first.sizes == second.sizes == {"num_tokens": 50}
        assert all(torch.equal(first.parts[name], second.parts[name]) for name in first.parts)
        assert not torch.equal(first.parts["val"], first.parts["test"])
        assert first.task == "language"
        assert torch.equal(first.probe(), first.parts["val"][:35])
        assert first.probe().shape == (35, 10)
