"""DALI's worker processes: they end with their parent, and their parent does not wait for dead ones."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

from ..machine import why_it_is_full

__all__ = [
    "WorkerWatch",
    "WorkersEnded",
    "follow_if_spawned",
    "follow_parent",
    "interrupt_later",
    "why_workers_ended",
    "workers_follow",
]

# --- workers end with their parent ----------------------------------------------------------------------------------

_forking_pid: int | None = None
_followed_pid: int | None = None


@contextmanager
def workers_follow() -> Iterator[None]:
    """Processes started inside follow this one, see :func:`follow_parent`."""
    global _forking_pid
    _forking_pid = os.getpid()
    # A process inherits what is blocked: no SIGTERM comes before the worker knows how to take it.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        _forking_pid = None
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def follow_if_spawned() -> None:
    """The same for workers that are not forked: to be called where a worker unpickles what it works on."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None and _followed_pid != parent.pid:
        follow_parent(parent.pid)


def _after_fork() -> None:
    if _forking_pid is not None:
        follow_parent(_forking_pid)


os.register_at_fork(after_in_child=_after_fork)


def follow_parent(parent_pid: int) -> None:
    """Make this process end when its parent does, however that ends, and leave Ctrl-C and SIGTERM to it.

    DALI's workers wait on a queue for ever when their parent is killed. Torchrun and schedulers send SIGTERM to all
    processes, and the one that trains needs its workers until it has stopped; a SIGTERM of its own ends them.
    """
    global _followed_pid
    _followed_pid = parent_pid

    def watch() -> None:
        while os.getppid() == parent_pid:
            told = signal.sigtimedwait({signal.SIGTERM}, 0.5)
            if told is not None and told.si_pid == parent_pid:
                break
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


# --- their parent does not wait for dead ones -----------------------------------------------------------------------


@contextmanager
def interrupt_later(*, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Ctrl-C waits for the end of the block; a second one, or one while ``unless()`` is true, does not.

    For blocks that a KeyboardInterrupt may leave half done (calls into DALI's worker pool), or that swallow it (Python
    does where it runs finalizers). Does nothing where Ctrl-C is handled in another way already, or in other threads.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or before not in (signal.default_int_handler, signal.SIG_IGN):
        yield
        return
    pressed = False

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed or unless():
            raise KeyboardInterrupt
        pressed = before is not signal.SIG_IGN  # as under nohup

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


class WorkersEnded(RuntimeError):
    """Worker processes of a loader ended unasked: the system killed them."""


def why_workers_ended(exit_codes: Sequence[int | None], *, shared_bytes: int) -> str:
    """What to tell of it, and what to do.

    Args:
        exit_codes: of the workers that ended; below 0 it is a signal.
        shared_bytes: about what the loader takes of /dev/shm; 0 if that is not known.
    """
    reasons = []
    if -signal.SIGBUS in exit_codes:
        reasons.append(f"Code -7 is {why_it_is_full(shared_bytes)}")
    if -signal.SIGKILL in exit_codes:
        reasons.append(
            "Code -9 is mostly the system short of memory: use fewer num_workers or a smaller batch_size, or give the "
            "container more."
        )
    if not reasons:
        reasons.append("See the lines above, and dmesg.")
    return " ".join(reasons)


class WorkerWatch:
    """Keeps a call into DALI's worker pool from waiting for ever for a worker that has died.

    The pool talks to its workers through semaphores, and one that was killed does not answer.
    """

    _SECONDS_FOR_DALI = 5.0
    """DALI reports most deaths of busy workers itself; after this long, a call that still waits is broken off."""

    def __init__(self, processes: list[BaseProcess], *, shared_bytes: int = 0) -> None:
        self._processes = processes
        self._shared_bytes = shared_bytes
        self._is_closing = False
        self._is_called = False
        self._someone_died = threading.Event()
        threading.Thread(target=self._watch, name="watch-workers", daemon=True).start()

    def close(self) -> None:
        """The workers are about to end as they should."""
        self._is_closing = True

    def why_ended(self) -> str:
        """What to tell of workers that ended unasked; empty where all are alive."""
        dead = [process for process in self._processes if not process.is_alive()]
        if not dead and not self._someone_died.is_set():
            return ""
        ends = ", ".join(f"{process.pid} with exit code {process.exitcode}" for process in dead) or "one of them"
        why = why_workers_ended([process.exitcode for process in dead], shared_bytes=self._shared_bytes)
        return f"worker processes of the loader ended: {ends}. {why}"

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around a call into the pool; Ctrl-C waits for its end, see :func:`interrupt_later`.

        Raises:
            WorkersEnded: a worker has died.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if text := self.why_ended():
            raise WorkersEnded(text)
        try:
            with interrupt_later(unless=self._someone_died.is_set):
                self._is_called = threading.current_thread() is threading.main_thread()
                try:
                    yield
                finally:
                    self._is_called = False
        except (KeyboardInterrupt, RuntimeError):
            if self.why_ended() or self._someone_died.wait(timeout=0.5):
                raise WorkersEnded(self.why_ended()) from None
            raise

    def _watch(self) -> None:
        multiprocessing.connection.wait([process.sentinel for process in self._processes])
        if self._is_closing:
            return
        self._someone_died.set()
        deadline = time.monotonic() + self._SECONDS_FOR_DALI
        while self._is_called and time.monotonic() < deadline:
            time.sleep(0.1)
        main_thread = threading.main_thread().ident
        if self._is_called and main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGINT)  # raises KeyboardInterrupt in the call
