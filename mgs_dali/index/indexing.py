"""Measuring what an index does not know yet: all videos or frame folders of a list, in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..lists.table import Clips
from ..lists.text import escaped, is_utf8
from ..machine import num_cpus
from ..motion.measure import Measure, as_measure
from ..motion.packet import NO_PACKETS
from ..video.file import Video
from .measuring import Measured, measure_video
from .store import Known, Writer, empty_row, known_rows, locked

__all__ = ["Job", "Summary", "columns_of", "index_videos", "why_not_utf8"]


@dataclass(frozen=True)
class Summary:
    """What came of indexing a list.

    Attributes:
        num_videos: different videos in the list.
        num_measured: of them, measured now, with or without success.
        num_known: of them, measured before.
        errors: why a video of the list has no curve, by its path.
        num_unproved: of those measured now, files that do not tell where they end (live recordings, transport
            streams): nobody can know whether they were cut off.
    """

    num_videos: int
    num_measured: int
    num_known: int
    errors: dict[str, str]
    num_unproved: int = 0


def index_videos(
    clips: Clips,
    out: str | Path,
    *,
    measure: str | Measure = "pixel",
    num_workers: int | None = None,
    part_num_videos: int = 512,
    part_seconds: float = 300.0,
    progress: bool = True,
) -> Summary:
    """Measure the motion of every video or frame folder of a list that the index in a folder does not know yet.

    Parts are written as they fill up: whatever ends this process, only the unfinished part is lost, and the same call
    goes on from there. Ctrl-C loses nothing. A file that has changed since is measured again, and so is one that could
    not be read for a reason that may pass (not there, no permission, a worker that died); one that is damaged is not
    until it changes. Worker processes are spawned: a script calls this under ``if __name__ == "__main__":``.

    Args:
        clips: the list. Videos that come more than once are measured once. Of a frame folder all frames are measured,
            whichever of them its clips take.
        out: folder of the index, made if it is not there.
        measure: one of :data:`mgs_dali.motion.measure.MEASURES` by its name, or an object.
        num_workers: processes; by default one a CPU core.
        part_num_videos: a part is written when it holds this many videos,
        part_seconds: or when the first of them has waited for so long.
        progress: show a progress bar.

    Raises:
        ValueError: the folder holds another measure or another version, is in use by another indexer, or cannot be
            written to; or the measure is none for frame folders.
    """
    measure = as_measure(measure)
    num_workers = num_cpus() if num_workers is None else num_workers
    for name, value in (("num_workers", num_workers), ("part_num_videos", part_num_videos)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}.")
    if clips.are_folders and not measure.needs_decoding:
        raise ValueError(f"{clips.list_file}: {NO_PACKETS}")
    out = Path(out)
    identity = {"measure": measure.name, "parameters": dict(measure.parameters)}
    paths = list(dict.fromkeys(clips.paths))
    with locked(out):
        for unfinished in out.glob("part-*.unfinished"):
            unfinished.unlink()
        known = known_rows(out, identity)
        job = Job(clips, measure)
        todo = _not_known(paths, job, known)
        errors = {path: text for path in set(paths) - set(todo) if (text := known[escaped(path)].error) is not None}
        writer = Writer(out, identity, part_num_videos=part_num_videos, part_seconds=part_seconds)
        bar = tqdm(
            total=len(paths), initial=len(paths) - len(todo), desc=f"motion ({measure.name})", unit=" videos",
            smoothing=0.05, disable=not progress,
        )  # fmt: skip
        num_unproved = 0
        with bar, closing(_measured(todo, job, num_workers=num_workers)) as rows:
            try:
                for row in rows:
                    num_unproved += not row.pop(_IS_PROVED_WHOLE, True)
                    if known.get(escaped(row["path"])) != (row["size_bytes"], row["mtime_ns"], row["error"]):
                        writer.add(row)  # else it failed again, and as before
                    if row["error"] is not None:
                        errors[row["path"]] = row["error"]
                        bar.set_postfix(failed=len(errors), refresh=False)
                    bar.update()
            except KeyboardInterrupt:
                writer.flush()
                raise
        writer.flush()
    in_list_order = {path: errors[path] for path in paths if path in errors}
    return Summary(len(paths), len(todo), len(paths) - len(todo), in_list_order, num_unproved)


def _not_known(paths: Sequence[str], job: Job, known: Mapping[str, Known]) -> list[str]:
    """The paths that are to be measured: those without a row, and those whose file is another one now."""

    def is_known(path: str) -> bool:
        row = known.get(escaped(path))
        if row is None or row.size_bytes is None:
            return False
        try:
            return job.video(path).stamp() == (row.size_bytes, row.mtime_ns)
        except (OSError, ValueError):
            return False

    # threads: over a network a stat waits much longer than it works
    with ThreadPoolExecutor(16) as pool:
        return [path for path, here in zip(paths, pool.map(is_known, paths), strict=True) if not here]


@dataclass(frozen=True)
class Job:
    """What a worker does with each path that it gets."""

    clips: Clips
    measure: Measure

    def video(self, path: str) -> Video:
        """The whole video of a path; errors in the index call it by its file."""
        row = self._rows[path]
        return self.clips.video(row, name=str(self.clips.file(row))).whole

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {path: row for row, path in enumerate(self.clips.paths)}

    def row(self, path: str) -> dict[str, Any]:
        """Measure one video or frame folder. Whatever is wrong with it is in the row."""
        file, empty = self.clips.root / path, empty_row(path)
        if not is_utf8(path):
            return empty | {"error": why_not_utf8(path)}
        try:
            video = self.video(path)
            before = video.stamp()
        except OSError as error:
            return empty | {"error": f"{file}: {error.strerror}. Check the path in the list and the root folder."}
        except ValueError as error:
            return empty | {"error": str(error)}
        if file.exists() and not os.access(file, os.R_OK):  # no stamp: tried again, whatever puts it right
            return empty | {"error": f"{file}: it may not be read. Check its permissions."}
        stamp = before._asdict()
        try:
            found = measure_video(video, measure=self.measure)
            error_text = None
        except ValueError as error:
            error_text = str(error)
        except Exception as error:
            # not foreseen: lack of memory, a failing disk. Without its stamp the file is tried again next time.
            return empty | {"error": f"{file}: {type(error).__name__}: {error}"}
        try:
            after = video.stamp()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return empty | {"error": f"{file}: {reason}. It was there when reading it began."}
        if after != before:
            return empty | {
                "error": f"{file}: changed while it was being read. Index again when nothing writes to it any more."
            }
        if error_text is not None:
            return empty | stamp | {"error": error_text}
        return empty | stamp | columns_of(found) | {"motion": found.motion, _IS_PROVED_WHOLE: found.is_proved_whole}


def columns_of(found: Measured) -> dict[str, Any]:
    """What was learnt of a video besides its motion."""
    return {
        "num_frames": len(found.motion) + 1,
        "frames_per_second": found.frames_per_second,
        "codec": found.codec,
        "width": found.width,
        "height": found.height,
        "keyframes": found.keyframes.astype(np.int32),
    }


_IS_PROVED_WHOLE = "is proved whole"
"""Beside the columns, for the summary."""


def why_not_utf8(path: str) -> str:
    """What is wrong with a path that is not UTF-8, and what to do."""
    return (
        f"{escaped(path)}: its name is not UTF-8, which the index and all that shows it are written in. Rename the "
        "file, also in the list; if only the list is in another encoding, save it as UTF-8."
    )


# --- worker processes -----------------------------------------------------------------------------------------------

_TASKS_AHEAD = 2
"""Paths that a worker has: the one that it measures, and the next, so that it need not wait for us."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    paths: deque[str]
    ready: bool = False


def _measured(paths: Sequence[str], job: Job, *, num_workers: int) -> Generator[dict[str, Any], None, None]:
    """Measure videos in worker processes; yields their rows as they come.

    Own processes rather than a pool of the standard library: there one decoder that crashes on one damaged file takes
    the whole run with it. Here the crash is that file's error, and another worker takes over.
    """
    waiting = deque(paths)
    num_workers = min(num_workers, len(paths))
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < num_workers:
                worker = _start_worker(job)
                workers[worker.connection] = worker
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                try:
                    row = connection.recv()
                except (EOFError, OSError):
                    yield from _end_of_dead_worker(workers.pop(connection), waiting)
                    continue
                worker.ready = True
                if row is not None:
                    assert row["path"] == worker.paths.popleft()
                while waiting and len(worker.paths) < _TASKS_AHEAD:
                    try:
                        connection.send(waiting[0])
                    except OSError:
                        break  # it has died; the next look at it says so
                    worker.paths.append(waiting.popleft())
                if not worker.paths:
                    _stop(workers.pop(connection))
                if row is not None:
                    yield row
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            _stop(worker)


def _end_of_dead_worker(worker: _Worker, waiting: deque[str]) -> Iterator[dict[str, Any]]:
    """A worker that died: the video that it had in hand is given up, the next one goes back into the queue."""
    _stop(worker)
    if not worker.ready:
        raise ValueError(
            "a worker process could not start; what it said is above. In a script of your own, call index_videos under "
            "if __name__ == '__main__':"
        )
    if not worker.paths:
        return
    path, *rest = worker.paths
    waiting.extendleft(reversed(rest))
    code = worker.process.exitcode
    how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit status {code}"
    yield empty_row(path) | {
        "error": f"{path}: the process that measured it died ({how}). The file may crash the decoder, or memory ran "
        "out (then use fewer workers). It is tried again when the list is indexed again."
    }


def _start_worker(job: Job) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs, job), daemon=True)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Ctrl-C is ours to handle. Ignored signals stay ignored across exec, so that it does not hit a starting worker.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        process.start()
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    theirs.close()
    return _Worker(process, ours, deque())


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.join()


def _work(connection: Connection, job: Job) -> None:
    """A worker: measures the paths that it is sent until the connection closes, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()
    if job.measure.name == "pa":
        import torch  # noqa: PLC0415  only this measure needs it

        torch.set_num_threads(1)  # a worker a core
    try:
        connection.send(None)
        while True:
            connection.send(job.row(connection.recv()))
    except (EOFError, BrokenPipeError):
        return
