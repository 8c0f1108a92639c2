"""Runs of a sweep that failed, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from layershift.train.folder import RunError
from layershift.train.run import Run


class SweepError(RunError):
    """Some runs of a sweep failed for good; the others came to their end.

    Attributes:
        failures: why, by the run's folder.
        runs: those that are finished.
    """

    def __init__(self, failures: Mapping[Path, str], runs: Sequence[Run]) -> None:
        self.failures, self.runs = dict(failures), list(runs)
        total = len(self.failures) + len({run.path for run in runs})
        why = "; ".join(f"{path}: {reason}" for path, reason in failures.items())
        others = ", the others are finished" if runs else ""
        super().__init__(f"{len(failures)} of {total} runs failed{others}; the same sweep again tries these: {why}")


def words(error: BaseException) -> str:
    """An error in one line; its type where the message alone may say too little."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError | RuntimeError) and text else f"{type(error).__name__}: {text}"
