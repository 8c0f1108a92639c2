"""Published texts: which files they consist of, where those may lie, packed or not, and what is known of them."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from layershift.train.data.files import DataError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Corpus:
    """What is known of a text.

    Attributes:
        name: of the text.
        layouts: file names of the three parts, with the folders that they may lie in, relative to the root; `""` is the
            root itself.
        archives: names of archives, in the root, that hold files of one of the layouts.
        words: how many each part has, ends of lines among them.
        vocabulary: different words of the training part.
        md5: of the files, unpacked, as far as known.
        source: where people get it.
    """

    name: str
    layouts: Mapping[tuple[str, str, str], tuple[str, ...]]
    archives: tuple[str, ...]
    words: Mapping[str, int]
    vocabulary: int
    md5: Mapping[str, str]
    source: str

    def absent(self, root: Path) -> str:
        """What to put where."""
        files = "; or ".join(
            f"{', '.join(names)} in " + " or ".join(str(root / folder) for folder in folders)
            for names, folders in self.layouts.items()
        )
        return (
            f"{self.name}: no data in {root}. Put there {files}; or one of the archives {', '.join(self.archives)}; or "
            f"name another folder as root. {self.source}"
        )

    def check_words(self, words: Mapping[str, int], vocabulary: int) -> None:
        """Compare with what is published.

        Raises:
            DataError: if a part or the vocabulary has another size.
        """
        for name, published in self.words.items():
            if words[name] != published:
                raise DataError(self._other(f"{published:,} words of {name}", f"{words[name]:,}"))
        if vocabulary != self.vocabulary:
            raise DataError(self._other(f"a vocabulary of {self.vocabulary:,}", f"{vocabulary:,}"))

    def _other(self, published: str, found: str) -> str:
        return (
            f"{self.name}: {published} are published, {found} found; fetch the files again, or read them as they are "
            f"with verify=False. {self.source}"
        )


PTB = Corpus(
    name="Penn Treebank",
    layouts={("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"): ("", "ptb", "penn", "simple-examples/data")},
    archives=("simple-examples.tgz", "ptb.tar.xz", "ptb.tgz", "ptb.zip"),
    words={"train": 929_589, "val": 73_760, "test": 82_430},
    vocabulary=10_000,
    md5={
        "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
        "val": "aa0affc06ff7c36e977d7cd49e3839bf",
        "test": "8b80168b89c18661a38ef683c0dc3721",
    },
    source=(
        "The text belongs to the Linguistic Data Consortium (LDC99T42); people use Mikolov's preparation, "
        "simple-examples.tgz, from the pages of his RNNLM toolkit."
    ),
)

WIKITEXT2 = Corpus(
    name="WikiText-2",
    layouts={
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"): ("", "wikitext-2"),
        ("train.txt", "valid.txt", "test.txt"): ("wikitext-2",),
    },
    archives=("wikitext-2-v1.zip", "wikitext-2.tar.xz", "wikitext-2.tgz", "wikitext-2.zip"),
    words={"train": 2_088_628, "val": 217_646, "test": 245_569},
    vocabulary=33_278,
    md5={"val": "d756d22ab2310e7e60c094bea5c5a8eb", "test": "781c9418ab9414bd09e4aad825aae752"},
    source="People get it as wikitext-2-v1.zip, the version on the level of words, not the raw one (CC BY-SA).",
)


def read_corpus(corpus: Corpus, root: Path) -> dict[str, str]:
    """The texts "train", "val" and "test".

    Files that differ from the known ones by their MD5 give a warning.

    Args:
        corpus: which.
        root: the folder that holds files or an archive, or an archive.

    Raises:
        DataError: if there is nothing, or nothing that can be read.
    """
    found = _from_folders(corpus, root) or _from_archives(corpus, root)
    if found is None:
        raise DataError(corpus.absent(root))
    digests = {part: hashlib.md5(content, usedforsecurity=False).hexdigest() for part, content in found.items()}
    if other := [part for part, digest in digests.items() if corpus.md5.get(part, digest) != digest]:
        warnings.warn(f"{corpus.name}: {', '.join(other)} differ from the usual files by their MD5", stacklevel=2)
    try:
        return {part: content.decode("utf-8") for part, content in found.items()}
    except UnicodeDecodeError as error:
        raise DataError(f"{corpus.name}: not a text in UTF-8 in {root} ({error}); fetch it again") from error


def _from_folders(corpus: Corpus, root: Path) -> dict[str, bytes] | None:
    for names, folders in corpus.layouts.items():
        for folder in folders:
            paths = [root / folder / name for name in names]
            if all(path.is_file() for path in paths):
                return {part: path.read_bytes() for part, path in zip(PARTS, paths, strict=True)}
    return None


def _from_archives(corpus: Corpus, root: Path) -> dict[str, bytes] | None:
    paths = [root] if root.is_file() else [root / name for name in corpus.archives]
    wanted = {name for names in corpus.layouts for name in names}
    for path in paths:
        if not path.is_file():
            continue
        try:
            members = dict(_members(path, wanted))
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
            raise DataError(
                f"{path}: not a readable archive ({' '.join(str(error).split())[:120]}); fetch it again"
            ) from error
        for names in corpus.layouts:
            if members.keys() >= set(names):
                return {part: members[name] for part, name in zip(PARTS, names, strict=True)}
        raise DataError(f"{path}: {' or '.join(', '.join(names) for names in corpus.layouts)} are not in it")
    return None


def _members(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Names, without folders, and contents of the files of an archive; nothing is unpacked onto the disk."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if (last := PurePosixPath(name).name) in wanted:
                    yield last, archive.read(name)
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and (last := PurePosixPath(member.name).name) in wanted:
                content = tar.extractfile(member)
                assert content is not None
                yield last, content.read()
