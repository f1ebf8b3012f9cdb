"""SIGTERM, which a machine sends before it is taken away: the run writes a checkpoint and ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["EXIT_CODE", "StopRequest", "Stopped", "stopping_on_sigterm"]

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell reports of a program that SIGTERM ended. Not 0: a scheduler would take the run for done."""


class Stopped(Exception):
    """The run was told to stop, and its checkpoint is written."""


@dataclass
class StopRequest:
    """Whether this process was told to stop."""

    made: bool = False


@contextmanager
def stopping_on_sigterm() -> Iterator[StopRequest]:
    """Note a SIGTERM instead of ending by it."""
    request = StopRequest()

    def on_sigterm(_signal: int, _frame: object) -> None:
        request.made = True

    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
