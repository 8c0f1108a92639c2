"""Shared fixtures: the device and dtype that tests run on; and a Ctrl-C that works."""

from __future__ import annotations

import signal

import pytest
import torch

# A shell starts what runs in the background with Ctrl-C ignored, and processes hand that on: the ones that tests start
# and interrupt would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device that tests run on")
    parser.addoption("--dtype", default="float64", help="dtype of tests that have no reason to choose one")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, request.config.getoption("--dtype"))
