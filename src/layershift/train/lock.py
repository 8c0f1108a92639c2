"""One at a time: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from layershift.train.folder import RunError


@contextmanager
def locked(path: Path, *, what: str, wait: float = 10.0) -> Iterator[None]:
    """Hold a lock file; the operating system takes the lock from a process that dies.

    Args:
        path: the lock file; it and its folder are made, and stay.
        what: who holds such a lock, for the error.
        wait: seconds to wait for another that is just ending.

    Raises:
        RunError: if another holds it, which the message names; or if the folder cannot be written.

    Example:
        >>> import tempfile
        >>> lock = Path(tempfile.mkdtemp()) / "lock"
        >>> with locked(lock, what="a sweep"), locked(lock, what="a sweep", wait=0):
        ...     pass
        Traceback (most recent call last):
        ...
        layershift.train.folder.RunError: ...: a sweep is at work here (process ...); wait for its end, or use another
        folder
    """
    lock = FileLock(path, timeout=wait)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        holder = path.read_text(encoding="utf-8")
        raise RunError(
            f"{path.parent}: {what} is at work here ({holder}); wait for its end, or use another folder"
        ) from error
    except OSError as error:
        raise RunError(f"{path.parent}: cannot be written ({error.strerror or error})") from error
    try:
        with suppress(OSError):  # of a full disk: the lock holds without a name
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()
