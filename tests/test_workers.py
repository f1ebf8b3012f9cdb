"""Worker processes: they leave signals that are for all to their parent, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

PROGRAM = """
import os, signal, sys, time
from mgs_dali.workers import workers_follow

with workers_follow():  # as the loaders start theirs
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)

def is_alive():
    return os.waitpid(pid, os.WNOHANG) == (0, 0)

sender = os.fork()
if sender == 0:  # somebody else, such as a scheduler
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    os._exit(0)
assert os.waitpid(sender, 0) == (sender, 0)
time.sleep(0.5)
assert is_alive(), "a signal for all ended the worker"
assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "the parent must go on hearing SIGTERM"
if sys.argv[1] == "leave":
    print(pid, flush=True)
    os._exit(0)
os.kill(pid, signal.SIGTERM)  # as DALI and multiprocessing end workers
for _ in range(100):
    if not is_alive():
        print("ended")
        break
    time.sleep(0.05)
"""


def run(argument: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], env=environment, stdout=subprocess.PIPE, check=True, timeout=60
    ).stdout.decode()


def test_sigterm_ends_a_worker_when_its_parent_sends_it() -> None:
    assert run("end").strip() == "ended"


def test_a_worker_ends_with_its_parent() -> None:
    pid = int(run("leave"))
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker is still there")
