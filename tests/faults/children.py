"""Processes of one's own, forked from this one, that are killed, or see another disk."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PATIENCE = 300.0
"""Seconds that a process which is waited for may take."""


def start(function: Callable[[int], None]) -> tuple[int, int]:
    """Run a function in a forked process, which is silent; it receives a pipe to announce things.

    Returns:
        The process, and the end of its pipe that is read.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = 1
    try:
        os.close(reading)
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(silence, number)
        torch.set_num_threads(1)
        function(writing)
        code = 0
    except BaseException:
        os.write(writing, traceback.format_exc()[-2000:].encode())
    finally:
        os._exit(code)


def kill_after(child: int, seconds: float) -> bool:
    """Kill a process, unless it ends earlier; whether it was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(min(0.002, max(end - time.monotonic(), 0)))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def drain(reading: int) -> bytes:
    """All that a process announced; it has ended, or its end is waited for."""
    found = b""
    while more := os.read(reading, 65536):
        found += more
    os.close(reading)
    return found


def finish(child: int, reading: int) -> bytes:
    """All that a process announced until its end.

    Raises:
        AssertionError: if it does not end; it is killed then.
    """
    found, end = b"", time.monotonic() + PATIENCE
    while select.select([reading], [], [], max(end - time.monotonic(), 0))[0]:
        more = os.read(reading, 65536)
        found += more
        if not more:
            break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), f"the process did not end by itself: signal {os.WTERMSIG(status)}"
    return found


def kill_often(function: Callable[[], Any], random: Random, seconds: float, kills: int) -> tuple[int, str]:
    """Run something that can be continued, in processes that are killed at random moments, until one comes to its end.

    Args:
        function: what each process does.
        random: decides about moments.
        seconds: the longest that a process which is to be killed may live.
        kills: how many are killed.

    Returns:
        How many were killed, and what the last process said of an error.
    """
    killed = 0
    while True:
        child, reading = start(lambda _: function())
        if killed < kills:
            if kill_after(child, random.uniform(0, seconds)):
                killed += 1
                drain(reading)
                continue
            return killed, drain(reading).decode(errors="replace")
        return killed, finish(child, reading).decode(errors="replace")


def inside(function: Callable[[], Any], prepare: Callable[[], None] = lambda: None) -> Any:
    """What a function returns in a process of its own, after that process was prepared.

    Raises:
        AssertionError: if the process died, with what it said.
    """

    def work(pipe: int) -> None:
        prepare()
        with os.fdopen(os.dup(pipe), "wb") as file:
            file.write(b"\0" + pickle.dumps(function()))

    child, reading = start(work)
    said = finish(child, reading)
    assert said.startswith(b"\0"), said.decode(errors="replace") or "the process died"
    return pickle.loads(said[1:])


def own_mounts() -> None:
    """Let this process mount what no other sees; a user who may not do so becomes root of a namespace of its own."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS) != 0:
        if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "no mount namespace")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("--make-rprivate", "/")


def mount(*arguments: str) -> None:
    """Call mount.

    Raises:
        OSError: if it fails.
    """
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise OSError(error.returncode, error.stderr.decode()) from error


def can_mount() -> bool:
    """Whether this machine allows mounts of one's own."""

    def attempt() -> bool:
        try:
            own_mounts()
            mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt")
        except OSError:
            return False
        return True

    try:
        return bool(inside(attempt))
    except AssertionError:
        return False


def limit_files(size: int) -> None:
    """Let this process write no file beyond a size: to it, a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
