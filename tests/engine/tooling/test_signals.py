"""Signals that end a program, and those that whoever started it asked to ignore."""

from __future__ import annotations

import os
import signal

import pytest

from engine.tooling.signals import STOPPING, StopSignals


@pytest.mark.parametrize("number", STOPPING)
def test_an_ignored_signal_stays_ignored(number):
    """`nohup` and background shells ignore one; whoever replaces that defeats them."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignals(lambda number, earlier: None) as signals:
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
        assert signals.number is None and signals.exit_code is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", STOPPING)
def test_another_signal_is_noted_and_its_handler_comes_back(number):
    before = signal.getsignal(number)
    with StopSignals(lambda number, earlier: None) as signals:
        os.kill(os.getpid(), number)
    assert signals.number == number and signals.exit_code == 128 + number
    assert signal.getsignal(number) is before
