"""Worker processes: they leave signals that are for all to their parent, and end with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mgs_dali.load.workers import why_workers_ended

REPOSITORY = Path(__file__).parents[1]

PROGRAM = """
import os, signal, sys, time
from mgs_dali.load.workers import workers_follow

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


def test_it_is_said_why_workers_ended() -> None:
    full = why_workers_ended([-signal.SIGBUS, None], shared_bytes=600 * 2**20)
    assert re.fullmatch(
        r"Code -7 is a full /dev/shm: it is [\d,]+ MiB large and the batches take about 600 MiB\. In a container, .*"
        r"--shm-size=2g .*fewer num_workers\.",
        full,
    )
    assert "batches take" not in why_workers_ended([-signal.SIGBUS], shared_bytes=0)
    killed = why_workers_ended([-signal.SIGKILL], shared_bytes=600 * 2**20)
    assert killed.startswith("Code -9 is mostly the system short of memory")
    assert "/dev/shm" not in killed
    both = why_workers_ended([-signal.SIGKILL, -signal.SIGBUS], shared_bytes=0)
    assert "Code -7" in both
    assert "Code -9" in both
    for unknown in (None, 1, -signal.SIGSEGV):
        assert why_workers_ended([unknown], shared_bytes=0) == "See the lines above, and dmesg."


def test_it_is_said_that_there_is_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError

    monkeypatch.setattr("mgs_dali.machine.shared_memory", refuse)
    assert "Code -7 is a full /dev/shm: there is none. " in why_workers_ended([-signal.SIGBUS], shared_bytes=0)
