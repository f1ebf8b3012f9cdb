"""The motion index: what it holds, what stops it, and that nothing which stops it loses or repeats work."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clip_table, encode, kind, moving_disc

from mgs_dali.decode.frames import decode_file
from mgs_dali.index import indexing, store
from mgs_dali.index.indexing import Summary, index_videos
from mgs_dali.index.measuring import Measured, measure_video
from mgs_dali.index.recorder import MotionRecorder
from mgs_dali.index.released_json import export_json, import_json
from mgs_dali.index.store import FORMAT_VERSION, MotionIndex
from mgs_dali.lists.read import read_annotations
from mgs_dali.lists.table import Clips
from mgs_dali.lists.text import is_utf8
from mgs_dali.motion.pa import Filters, Pa
from mgs_dali.motion.pixel import Pixel, pixel_motion
from mgs_dali.video.file import VideoFile

NUM_VIDEOS = 6


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 8 to 13 frames, in two folders."""
    root = tmp_path_factory.mktemp("originals")
    for index in range(NUM_VIDEOS):
        folder = root / f"class {index % 2}"
        folder.mkdir(exist_ok=True)
        frames = moving_disc(8 + index, width=64, height=48, action=(2, 6), seed=index)
        encode(folder / f"{index}.mp4", frames, "mpeg4", gop=5)
    return root


@pytest.fixture
def clips(originals: Path, tmp_path: Path) -> Clips:
    """A list of copies of the six videos, the first of them twice."""
    shutil.copytree(originals, tmp_path / "videos")
    paths = [f"class {index % 2}/{index}.mp4" for index in range(NUM_VIDEOS)]
    return clip_table(tmp_path / "videos", [*paths, paths[0]])


def index(clips: Clips, out: Path, *, processes: bool = False, **options: Any) -> Summary:
    """Index a list; without worker processes, which take longer to start than all of the rest."""
    with pytest.MonkeyPatch.context() as patch:
        if not processes:
            patch.setattr(indexing, "_measured", lambda paths, job, **_: (job.row(path) for path in paths))
        return index_videos(clips, out, progress=False, **options)


def content(folder: Path) -> dict[str, tuple[Any, ...]]:
    """All that an index says, but for when files were changed."""
    found = MotionIndex(folder)
    rows = {}
    for path in [*found, *found.errors]:
        entry = found.entry(path)
        keyframes = None if entry.keyframes is None else tuple(entry.keyframes.tolist())
        curve = found[path].tobytes() if path in found else None
        rows[path] = (entry.size_bytes, entry.num_frames, entry.codec, keyframes, entry.error, curve)
    return rows


def rows_of_parts(folder: Path) -> list[str]:
    return [path for file in sorted(folder.glob("part-*.parquet")) for path in pq.read_table(file)["path"].to_pylist()]


def test_files_that_do_not_tell_where_they_end_are_counted(tmp_path: Path) -> None:
    for name in ("recording.ts", "whole.mp4"):
        encode(tmp_path / name, moving_disc(6), "mpeg2video" if name.endswith("ts") else "libx264")
    clips = clip_table(tmp_path, ["recording.ts", "whole.mp4"])
    assert index(clips, tmp_path / "index").num_unproved == 1
    assert index(clips, tmp_path / "index").num_unproved == 0  # measured before


# --- what it holds --------------------------------------------------------------------------------------------------


def test_curves_and_entries(clips: Clips, tmp_path: Path) -> None:
    summary = index(clips, tmp_path / "index", processes=True, part_num_videos=4)
    assert summary == Summary(num_videos=6, num_measured=6, num_known=0, errors={})
    found = MotionIndex(tmp_path / "index")
    assert (found.measure, found.parameters) == ("pixel", {"working_side_pixels": 32})
    assert len(found) == 6
    assert set(found) == set(clips.paths)
    assert clips.paths[2] in found
    assert "2.mp4" not in found
    for number, path in enumerate(clips.paths[:6]):
        expected = pixel_motion(decode_file(clips.root / path))
        curve = found[path]
        assert kind(curve) == ("float32", (7 + number,))
        assert np.array_equal(curve, expected)
        assert not curve.flags.writeable
        assert found.num_frames(path) == 8 + number
        entry = found.entry(path)
        stat = (clips.root / path).stat()
        assert (entry.path, entry.size_bytes, entry.mtime_ns) == (path, stat.st_size, stat.st_mtime_ns)
        assert (entry.codec, entry.width, entry.height, entry.frames_per_second) == ("mpeg4", 64, 48, 25.0)
        assert entry.keyframes is not None
        assert entry.keyframes.tolist() == list(range(0, 8 + number, 5))
        assert entry.num_frames == 8 + number
        assert entry.error is None
    assert found.errors == {}
    found.check_covers(clips)
    assert "6 curves of measure pixel" in repr(found)
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "lock",
        "part-000000.parquet",
        "part-000001.parquet",
    ]


def test_other_tools_can_read_the_parts(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    (file,) = (tmp_path / "index").glob("*.parquet")
    table = pq.read_table(file)
    assert json.loads(table.schema.metadata[b"mgs_dali.motion_index"]) == {
        "version": FORMAT_VERSION,
        "measure": "pixel",
        "parameters": {"working_side_pixels": 32},
    }
    assert table.column_names == [
        "path", "size_bytes", "mtime_ns", "num_frames", "frames_per_second", "codec", "width", "height", "keyframes",
        "motion", "error",
    ]  # fmt: skip
    assert table.schema.field("motion").type.value_type == pa.float32()


@pytest.mark.parametrize("measure", ["ssim", "packet", "pa"])
def test_other_measures(clips: Clips, tmp_path: Path, measure: str) -> None:
    by: str | Pa = measure
    if measure == "pa":
        pytest.importorskip("torch")
        by = Pa(Filters(np.random.default_rng(0).standard_normal((8, 3, 7, 7)).astype(np.float32), 1, "PAN"))
    index(clips, tmp_path / "index", measure=by)
    found = MotionIndex(tmp_path / "index")
    assert found.measure == measure
    assert found.parameters == (by.parameters if isinstance(by, Pa) else {})
    assert [len(found[path]) for path in clips.paths[:6]] == [7, 8, 9, 10, 11, 12]


def test_errors_are_kept(clips: Clips, tmp_path: Path) -> None:
    (clips.root / "empty.mp4").touch()
    (clips.root / "text.mp4").write_text("no video" * 100)
    whole = (clips.root / clips.paths[0]).read_bytes()
    (clips.root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    more = clip_table(clips.root, [clips.paths[0], "empty.mp4", "text.mp4", "cut.mp4", "gone.mp4", "class 0"])
    summary = index(more, tmp_path / "index")
    assert list(summary.errors) == more.paths[1:]
    found = MotionIndex(tmp_path / "index")
    assert found.errors == summary.errors
    assert len(found) == 1
    assert list(found) == [clips.paths[0]]
    assert "empty.mp4: cannot be opened as a video" in found.errors["empty.mp4"]
    assert "text.mp4: cannot be opened as a video" in found.errors["text.mp4"]
    assert "cut.mp4" in found.errors["cut.mp4"]
    assert "gone.mp4: No such file" in found.errors["gone.mp4"]
    assert "it is a folder" in found.errors["class 0"]
    assert "cut.mp4" not in found
    assert found.entry("cut.mp4").error == found.errors["cut.mp4"]
    with pytest.raises(KeyError, match=r"^cut\.mp4: has no motion curve in .*could not be measured: .*cut\.mp4"):
        found["cut.mp4"]
    found.check_covers(more)  # it knows them all, if only what is wrong with some


def with_a_name_of_bytes(clips: Clips, number: int, name: bytes) -> Path:
    """Give a video of the table a name that is not UTF-8; its new path."""
    before = clips.root / clips.paths[number]
    after = before.with_name(os.fsdecode(name))
    try:
        before.rename(after)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    return after


def test_a_name_that_is_not_utf8_costs_one_video(clips: Clips, tmp_path: Path) -> None:
    with_a_name_of_bytes(clips, 1, b"b\xff.mp4")
    found = read_annotations(clips.root)
    assert len(found) == 6
    (bad,) = [path for path in found.paths if not is_utf8(path)]
    summary = index(found, tmp_path / "index", processes=True, part_num_videos=2)
    assert (summary.num_videos, summary.num_measured, list(summary.errors)) == (6, 6, [bad])
    assert summary.errors[bad].startswith(r"class 1/b\udcff.mp4: its name is not UTF-8")
    assert "Rename the file" in summary.errors[bad]

    whole = MotionIndex(tmp_path / "index")
    assert set(whole) == set(found.paths) - {bad}
    assert list(whole.errors) == [r"class 1/b\udcff.mp4"]
    whole.check_covers(found)
    assert bad not in whole
    with pytest.raises(KeyError, match=r"has no motion curve in .* its name is not UTF-8"):
        whole[bad]
    assert whole.entry(bad).error == summary.errors[bad]

    parts = sorted((tmp_path / "index").glob("part-*"))
    again = index(found, tmp_path / "index", processes=True)
    assert again == Summary(num_videos=6, num_measured=1, num_known=5, errors=summary.errors)
    assert sorted((tmp_path / "index").glob("part-*")) == parts


def test_a_root_that_is_not_utf8(clips: Clips, tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"r\xff")
    try:
        clips.root.rename(root)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (root / "text.mp4").write_text("no video")
    summary = index(clip_table(root, [clips.paths[0], "text.mp4", "gone.mp4"]), tmp_path / "index")
    assert list(summary.errors) == ["text.mp4", "gone.mp4"]
    found = MotionIndex(tmp_path / "index")
    assert list(found) == [clips.paths[0]]
    assert r"r\udcff/text.mp4: cannot be opened" in found.errors["text.mp4"]


def test_a_recorder_keeps_videos_of_any_name(clips: Clips, tmp_path: Path) -> None:
    file = with_a_name_of_bytes(clips, 1, b"b\xff.mp4")
    path = str(file.relative_to(clips.root))
    recorder = MotionRecorder(tmp_path / "recorded")
    recorder.add(path, np.ones(3, np.float32), video=VideoFile(file))
    recorder.flush()
    assert path in recorder  # else a loader would measure it in every epoch
    assert recorder[path].tolist() == [1, 1, 1]
    # what is there is there
    assert index(clip_table(clips.root, [path]), tmp_path / "recorded").errors == {}


def test_a_path_that_is_not_there(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    found = MotionIndex(tmp_path / "index")
    with pytest.raises(
        KeyError, match=r"^'0\.mp4' is not in the motion index .* such as 'class 0/0\.mp4'.*again to add"
    ):
        found["0.mp4"]
    with pytest.raises(KeyError, match="is not in the motion index"):
        found.entry("0.mp4")
    assert found.get("0.mp4") is None


def test_covers_only_what_it_knows(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    found = MotionIndex(tmp_path / "index")
    with pytest.raises(ValueError, match=r"of the 8 clips of .* it knows 7; .* not is 'new\.mp4' \(.*\)") as caught:
        found.check_covers(clip_table(clips.root, [*clips.paths, "new.mp4"]))
    assert "The list has videos that were not in it" in str(caught.value)
    other_root = clip_table(clips.root / "class 0", ["0.mp4", "2.mp4"])
    with pytest.raises(
        ValueError, match=r"it knows 0; .*made for other videos, or with another --root.*mgs-dali index"
    ):
        found.check_covers(other_root)


# --- going on -------------------------------------------------------------------------------------------------------


def test_the_same_call_again_does_nothing(clips: Clips, tmp_path: Path) -> None:
    more = clip_table(clips.root, [*clips.paths, "gone.mp4"])
    first = index(more, tmp_path / "index")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "index").glob("part-*")}
    again = index(more, tmp_path / "index")
    assert again == Summary(num_videos=7, num_measured=1, num_known=6, errors=first.errors)  # it may be there by now
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "index").glob("part-*")} == before


def test_a_list_that_has_grown(clips: Clips, tmp_path: Path) -> None:
    index(clip_table(clips.root, clips.paths[:2]), tmp_path / "index")
    assert index(clips, tmp_path / "index").num_measured == 4
    assert len(MotionIndex(tmp_path / "index")) == 6
    assert sorted(rows_of_parts(tmp_path / "index")) == sorted(set(clips.paths))


def test_a_file_that_has_changed_is_measured_again(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    changed = clips.root / clips.paths[3]
    shutil.copy(clips.root / clips.paths[5], changed)
    os.utime(changed, ns=(1, 1))
    assert index(clips, tmp_path / "index").num_measured == 1
    found = MotionIndex(tmp_path / "index")
    assert len(found) == 6
    assert np.array_equal(found[clips.paths[3]], found[clips.paths[5]])
    assert found.entry(clips.paths[3]).mtime_ns == 1


def test_a_file_that_changed_in_time_only_is_measured_again(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    changed = clips.root / clips.paths[3]
    size_bytes = changed.stat().st_size
    os.utime(changed, ns=(1, 1))
    assert index(clips, tmp_path / "index").num_measured == 1
    entry = MotionIndex(tmp_path / "index").entry(clips.paths[3])
    assert (entry.size_bytes, entry.mtime_ns) == (size_bytes, 1)
    assert index(clips, tmp_path / "index").num_measured == 0  # and that is known now


def test_a_file_that_changed_in_size_only_is_measured_again(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    changed, another = clips.root / clips.paths[3], clips.root / clips.paths[5]
    before = changed.stat()
    shutil.copy(another, changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index(clips, tmp_path / "index").num_measured == 1
    found = MotionIndex(tmp_path / "index")
    entry = found.entry(clips.paths[3])
    assert (entry.size_bytes, entry.mtime_ns) == (another.stat().st_size, before.st_mtime_ns)
    assert before.st_size != another.stat().st_size
    assert np.array_equal(found[clips.paths[3]], found[clips.paths[5]])
    assert index(clips, tmp_path / "index").num_measured == 0


def test_a_damaged_file_is_measured_again_when_it_is_whole(clips: Clips, tmp_path: Path) -> None:
    file = clips.root / clips.paths[1]
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    assert list(index(clips, tmp_path / "index").errors) == [clips.paths[1]]
    again = index(clips, tmp_path / "index")
    assert (again.num_measured, list(again.errors)) == (0, [clips.paths[1]])
    file.write_bytes(whole)
    assert index(clips, tmp_path / "index").errors == {}
    assert clips.paths[1] in MotionIndex(tmp_path / "index")
    assert MotionIndex(tmp_path / "index").errors == {}


def test_a_file_that_changes_while_it_is_read(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    job = indexing.Job(clips, Pixel())
    measure = measure_video

    def measure_and_touch(video: VideoFile, **options: Any) -> Measured:
        found = measure(video, **options)
        assert isinstance(video.file, Path)
        os.utime(video.file, ns=(5, 5))
        return found

    def measure_and_remove(video: VideoFile, **options: Any) -> Measured:
        found = measure(video, **options)
        assert isinstance(video.file, Path)
        video.file.unlink()
        return found

    monkeypatch.setattr(indexing, "measure_video", measure_and_touch)
    row = job.row(clips.paths[0])
    assert "changed while it was being read. Index again" in row["error"]
    assert row["motion"] is None
    assert row["size_bytes"] is None  # so it is tried again
    monkeypatch.setattr(indexing, "measure_video", measure_and_remove)
    assert "It was there when reading it began" in job.row(clips.paths[0])["error"]


def test_what_nobody_foresaw_is_that_files_error(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Measured:
        raise MemoryError("too much")

    monkeypatch.setattr(indexing, "measure_video", fail)
    row = indexing.Job(clips, Pixel()).row(clips.paths[0])
    assert row["error"].endswith("0.mp4: MemoryError: too much")
    assert row["size_bytes"] is None


# --- what stops it --------------------------------------------------------------------------------------------------

INDEXER = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from conftest import clip_table
from mgs_dali.index.indexing import index_videos
root = Path({root!r})
paths = sorted(str(file.relative_to(root)) for file in root.rglob("*.mp4"))
index_videos(clip_table(root, paths), {out!r}, num_workers=2, part_num_videos=3, progress=False)
"""


def indexer(root: Path, out: Path) -> subprocess.Popen[str]:
    """Index all videos below a folder, in a process of its own."""
    path = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    program = INDEXER.format(path=path, root=str(root), out=str(out))
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def wait_until(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_and_go_on(originals: Path, tmp_path: Path, *, num_kills: int, num_copies: int) -> None:
    root = tmp_path / "videos"
    for copy in range(num_copies):
        shutil.copytree(originals, root / str(copy))
    (root / "damaged.mp4").write_bytes(b"damaged")
    undisturbed = indexer(root, tmp_path / "undisturbed")
    assert undisturbed.wait(120) == 0, undisturbed.stderr
    out, rng = tmp_path / "killed", random.Random(4)
    num_videos = num_copies * NUM_VIDEOS + 1
    for kill in range(num_kills):
        # the k-th kill comes at any moment of the k-th share of the work: before, while or after a part is written
        target = num_videos * kill // num_kills // 3
        process = indexer(root, out)
        wait_until(lambda target=target: len(list(out.glob("part-*.parquet"))) >= target)  # type: ignore[misc]
        time.sleep(rng.random() * (0.6 if kill == 0 else 0.05))
        workers = descendants(process.pid)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        wait_until(lambda workers=workers: not any(map(is_alive, workers)))  # type: ignore[misc]
    last = indexer(root, out)
    assert last.wait(120) == 0, last.stderr
    assert content(out) == content(tmp_path / "undisturbed")
    assert len(content(out)) == num_videos
    assert set(Counter(rows_of_parts(out)).values()) == {1}  # none is measured twice
    assert not list(out.glob("*.unfinished"))


def test_killed_three_times(originals: Path, tmp_path: Path) -> None:
    kill_and_go_on(originals, tmp_path, num_kills=3, num_copies=8)


@pytest.mark.slow
def test_killed_ten_times(originals: Path, tmp_path: Path) -> None:
    kill_and_go_on(originals, tmp_path, num_kills=10, num_copies=40)


def test_ctrl_c_keeps_what_is_measured(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = indexing.Job(clips, Pixel())

    def interrupted(paths: list[str], *_: object, **__: object) -> Any:
        yield from (job.row(path) for path in paths[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(indexing, "_measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index(clips, tmp_path / "index", processes=True)
    monkeypatch.undo()
    assert rows_of_parts(tmp_path / "index") == clips.paths[:3]
    assert index(clips, tmp_path / "index").num_measured == 3


def test_a_full_disk_keeps_the_parts_before(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, calls = os.fsync, iter(range(99))  # two a part: of the file, and of the folder

    def full(descriptor: int) -> None:
        if next(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    expected = (
        r"part-000002\.parquet: could not be written \(No space left on device\)\. The 2 parts before it are complete"
    )
    with pytest.raises(ValueError, match=expected):
        index(clips, tmp_path / "index", part_num_videos=2)
    monkeypatch.undo()
    assert len(MotionIndex(tmp_path / "index")) == 4
    assert not list((tmp_path / "index").glob("*.unfinished"))
    assert index(clips, tmp_path / "index").num_measured == 2


def test_two_indexers_on_one_folder(clips: Clips, tmp_path: Path) -> None:
    out = tmp_path / "index"
    with store.locked(out):
        with pytest.raises(
            ValueError, match=rf"another indexer is writing into this folder \(process {os.getpid()} on"
        ):
            index(clips, out)
        with pytest.raises(ValueError, match="another indexer"):
            import_json(write_json(tmp_path, {"0": [1.0]}), clips, out, progress=False)
    assert index(clips, out).num_measured == 6  # a lock that nobody holds any more is none


def test_parts_are_written_after_a_while(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index", part_seconds=0.0)
    assert len(list((tmp_path / "index").glob("part-*.parquet"))) == 6


@dataclass(frozen=True)
class CrashingJob(indexing.Job):
    """What a decoder does that runs into a damaged file, or the kernel when memory is short."""

    def row(self, path: str) -> dict[str, Any]:
        if path == "class 1/1.mp4":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().row(path)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_crash_is_the_error_of_its_video(clips: Clips, num_workers: int) -> None:
    job = CrashingJob(clips, Pixel())
    rows = list(indexing._measured(clips.paths[:6], job, num_workers=num_workers))
    assert sorted(row["path"] for row in rows) == sorted(clips.paths[:6])
    (bad,) = [row for row in rows if row["error"] is not None]
    assert bad["path"] == "class 1/1.mp4"
    assert "the process that measured it died (signal 11 (SIGSEGV))" in bad["error"]
    assert bad["size_bytes"] is None


def test_workers_that_cannot_start(clips: Clips) -> None:
    with pytest.raises(ValueError, match="a worker process could not start"):
        list(indexing._measured(clips.paths, BrokenJob(clips, Pixel()), num_workers=1))


@dataclass(frozen=True)
class BrokenJob(indexing.Job):
    def __setstate__(self, state: object) -> None:
        os._exit(3)


# --- folders that will not do ---------------------------------------------------------------------------------------


def test_one_measure_a_folder(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    expected = r"holds curves of measure pixel \(working_side_pixels=32\), asked for measure packet.*give another --out"
    with pytest.raises(ValueError, match=expected):
        index(clips, tmp_path / "index", measure="packet")


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: there is no such folder. Make one with: mgs-dali index"):
        MotionIndex(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there is no motion index in this folder"):
        MotionIndex(tmp_path)


def test_out_that_is_a_file(clips: Clips, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"is a file\. Give a folder"):
        index(clips, tmp_path / "file")


def test_another_format_version(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORMAT_VERSION", 7)
    index(clips, tmp_path / "index")
    monkeypatch.undo()
    expected = rf"part-000000\.parquet: motion index of format version 7; this mgs_dali reads version {FORMAT_VERSION}"
    with pytest.raises(ValueError, match=expected):
        MotionIndex(tmp_path / "index")
    with pytest.raises(ValueError, match=expected):
        index(clips, tmp_path / "index")


def test_parquet_of_something_else(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "part-000000.parquet")
    with pytest.raises(ValueError, match="a Parquet file, but no part of a motion index"):
        MotionIndex(tmp_path)


def test_damaged_part(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index", part_num_videos=3)
    part = tmp_path / "index" / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-000001\.parquet: this part .* is damaged .*Delete it and index again"):
        MotionIndex(tmp_path / "index")
    part.unlink()
    assert index(clips, tmp_path / "index").num_measured == 3


def test_parts_of_two_measures(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "one")
    index(clips, tmp_path / "two", measure="packet")
    (tmp_path / "two" / "part-000000.parquet").rename(tmp_path / "one" / "part-000001.parquet")
    with pytest.raises(ValueError, match=r"do not belong together: part-000000\.parquet holds measure pixel"):
        MotionIndex(tmp_path / "one")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"measure": "flow"}, "measure must be one of pixel, ssim, pa, packet, found 'flow'"),
        ({"num_workers": 0}, "num_workers must be a whole number of at least 1, found 0"),
        ({"part_num_videos": 0}, "part_num_videos must be a whole number of at least 1, found 0"),
    ],
)
def test_options_that_will_not_do(clips: Clips, tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        index(clips, tmp_path / "index", **options)
    assert not (tmp_path / "index").exists()


# --- many curves, many processes ------------------------------------------------------------------------------------


def write_many(folder: Path, *, num_parts: int, part_num_videos: int, num_values: int) -> np.ndarray:
    """An index of made-up curves, of different lengths; gives all values."""
    rng = np.random.default_rng(0)
    metadata = {b"mgs_dali.motion_index": json.dumps({"version": 1, "measure": "pixel", "parameters": {}}).encode()}
    schema = store.SCHEMA.with_metadata(metadata)
    lengths = np.full(part_num_videos, num_values) - np.arange(part_num_videos) % 3
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
    values = rng.random((num_parts, offsets[-1]), np.float32)
    for part in range(num_parts):
        columns = {
            "path": pa.array([f"class {part}/{video:08}.webm" for video in range(part_num_videos)]),
            "num_frames": pa.array(lengths + 1, pa.int32()),
            "motion": pa.ListArray.from_arrays(offsets, values[part]).cast(schema.field("motion").type),
        }
        arrays = [columns.get(field.name, pa.nulls(part_num_videos, field.type)) for field in schema]
        table = pa.Table.from_arrays(arrays, schema=schema)
        pq.write_table(table, folder / f"part-{part:06}.parquet", compression="none", use_dictionary=False)
    return values


def test_220_000_curves(tmp_path: Path) -> None:
    values = write_many(tmp_path, num_parts=44, part_num_videos=5000, num_values=40)
    found = MotionIndex(tmp_path)
    assert len(found) == 220_000
    assert len(pickle.dumps(found)) < 1000
    assert np.array_equal(found["class 0/00000000.webm"], values[0, :40])
    assert np.array_equal(found["class 43/00004999.webm"], values[43, -39:])
    assert np.array_equal(found["class 17/00000004.webm"], values[17, 157:196])  # after 40, 39, 38, 40
    assert found.num_frames("class 17/00000005.webm") == 39


def _sum_of(found: MotionIndex, path: str, answers: Any) -> None:
    answers.put(float(found[path].sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it(clips: Clips, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index(clips, tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    found = MotionIndex("index")
    context: Any = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    process = context.Process(target=_sum_of, args=(found, clips.paths[1], answers))
    process.start()
    process.join()
    assert answers.get() == float(found[clips.paths[1]].sum())


# --- the released code's JSON ---------------------------------------------------------------------------------------


def write_json(folder: Path, *objects: dict[str, Any]) -> Path:
    file = folder / "img_diff_val.json"
    file.write_text("".join(map(json.dumps, objects)))
    return file


def released_cdf(values: list[float]) -> np.ndarray:
    """What the released loader makes of a clip's numbers."""
    smoothed = np.power(np.array(values), 0.5)
    return np.cumsum(smoothed / np.sum(smoothed))


@pytest.fixture
def names() -> Clips:
    """A list of videos that are not there."""
    return clip_table(Path("nowhere"), ["a/one.first.mp4", "b/two.webm", "frames/00003"])


CURVES = {"one": [0.25, 1.0, 0.0, 2.25], "two": [0.5], "00003": [0.125, 0.25]}


def test_import_differences(names: Clips, tmp_path: Path) -> None:
    summary = import_json(write_json(tmp_path, CURVES), names, tmp_path / "index", progress=False)
    assert summary == Summary(num_videos=3, num_measured=3, num_known=0, errors={})
    found = MotionIndex(tmp_path / "index")
    assert (found.measure, found.parameters) == ("imported", {"format": "differences"})
    assert {path: found[path].tolist() for path in found} == dict(zip(names.paths, CURVES.values(), strict=True))
    assert found.num_frames("a/one.first.mp4") == 5
    assert found.entry("b/two.webm").codec is None


def test_import_cumulated(names: Clips, tmp_path: Path) -> None:
    """What generate_feature_diff.py writes gives back the motion it was made of, up to a factor."""
    cumulated = {name: released_cdf(values).tolist() for name, values in CURVES.items()}
    import_json(write_json(tmp_path, cumulated), names, tmp_path / "index", progress=False)
    found = MotionIndex(tmp_path / "index")
    assert found.parameters == {"format": "cumulated"}
    for path, values in zip(names.paths, CURVES.values(), strict=True):
        np.testing.assert_allclose(
            found[path] / found[path].sum(), np.array(values) / sum(values), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(released_cdf(found[path].tolist()), released_cdf(values), rtol=1e-5)


def test_import_of_a_file_that_was_appended_to(names: Clips, tmp_path: Path) -> None:
    file = write_json(tmp_path, {"one": [9.0] * 4, "two": [0.5]}, CURVES)
    import_json(file, names, tmp_path / "index", progress=False)
    assert MotionIndex(tmp_path / "index")["a/one.first.mp4"].tolist() == CURVES["one"]


def test_import_of_two_files(names: Clips, tmp_path: Path) -> None:
    first = import_json(write_json(tmp_path, {"one": CURVES["one"]}), names, tmp_path / "index", progress=False)
    assert first.num_measured == 1
    assert "has no clip 'two'" in first.errors["b/two.webm"]
    import_json(write_json(tmp_path, {"two": [0.5]}), names, tmp_path / "index", progress=False)
    assert len(MotionIndex(tmp_path / "index")) == 2
    cumulated = write_json(tmp_path, {"00003": [0.5, 1.0]})
    with pytest.raises(ValueError, match=r"holds curves of measure imported \(format=differences\), asked for"):
        import_json(cumulated, names, tmp_path / "index", progress=False)


def test_import_counts_the_frames_of_videos_that_are_there(clips: Clips, tmp_path: Path) -> None:
    curves = {str(number): [1.0] * (7 + number) for number in range(NUM_VIDEOS)}
    curves["4"].append(1.0)
    (clips.root / clips.paths[5]).write_bytes(b"damaged")
    summary = import_json(write_json(tmp_path, curves), clips, tmp_path / "index", progress=False)
    assert list(summary.errors) == [clips.paths[4], clips.paths[5]]
    assert "has 12 values, for 13 frames; the file shows 12" in summary.errors[clips.paths[4]]
    assert "cannot be opened as a video" in summary.errors[clips.paths[5]]
    found = MotionIndex(tmp_path / "index")
    entry = found.entry(clips.paths[3])
    assert (entry.num_frames, entry.codec, entry.width) == (11, "mpeg4", 64)
    assert entry.keyframes is not None
    assert entry.keyframes.tolist() == [0, 5, 10]
    assert len(found) == 4


def test_import_of_values_that_mean_nothing(names: Clips, tmp_path: Path) -> None:
    curves = {"one": [0.1, float("nan")], "two": [-0.1, 0.2], "00003": [0.5, -1e-12]}
    summary = import_json(write_json(tmp_path, curves), names, tmp_path / "index", progress=False)
    assert list(summary.errors) == names.paths[:2]
    assert "values that are negative or not finite" in summary.errors[names.paths[0]]
    assert MotionIndex(tmp_path / "index")["frames/00003"].tolist() == [0.5, 0.0]  # rounding of 1 - SSIM


def test_import_of_no_values(names: Clips, clips: Clips, tmp_path: Path) -> None:
    summary = import_json(write_json(tmp_path, {"one": [], "two": [0.5]}), names, tmp_path / "index", progress=False)
    assert "has no values in" in summary.errors["a/one.first.mp4"]
    encode(clips.root / "single.mp4", moving_disc(1, width=64, height=48), "mpeg4")
    single = clip_table(clips.root, ["single.mp4"])
    assert import_json(write_json(tmp_path, {"single": []}), single, tmp_path / "one", progress=False).errors == {}
    assert kind(MotionIndex(tmp_path / "one")["single.mp4"]) == ("float32", (0,))


def test_import_of_both_formats_in_one_file(names: Clips, tmp_path: Path) -> None:
    file = write_json(tmp_path, {"one": [0.2, 0.6, 1.0], "00003": [0.3, 0.1]})
    expected = r"1 of 2 curves look cumulated .*such as 'one'\), the others do not \(such as '00003'\).*--format"
    with pytest.raises(ValueError, match=expected):
        import_json(file, names, tmp_path / "index", progress=False)
    import_json(file, names, tmp_path / "index", json_format="differences", progress=False)
    np.testing.assert_allclose(MotionIndex(tmp_path / "index")["a/one.first.mp4"], [0.2, 0.6, 1.0], rtol=1e-6)


def test_import_of_a_file_with_a_byte_order_mark(names: Clips, tmp_path: Path) -> None:
    file = write_json(tmp_path, CURVES)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert import_json(file, names, tmp_path / "index", progress=False).num_measured == 3


def test_import_of_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(b"r\xff/a.mp4")
    file = write_json(tmp_path, {"a": [1.0, 2.0], "b": [1.0]})
    summary = import_json(file, clip_table(tmp_path, [path, "b.mp4"]), tmp_path / "index", progress=False)
    assert summary.errors == {path: MotionIndex(tmp_path / "index").errors[r"r\udcff/a.mp4"]}
    assert list(MotionIndex(tmp_path / "index")) == ["b.mp4"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds no clip"),
        ("{}", "holds no clip"),
        ('{"one": [0.1, 0.2', "line 1, column 18: not valid JSON: .*Is the file complete"),
        ("[1]", "expected an object of clip names and lists, found list"),
        ('{"one": 3}', "expected a list of numbers for clip 'one', found 3"),
        ('{"one": ["much"]}', "expected a list of numbers for clip 'one'"),
        ('{"four": [0.1, 0.2]}', r"none of its 1 clips \(such as 'four'\) is in .* such as 'one'\)"),
    ],
)
def test_import_of_something_else(names: Clips, tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "img_diff.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=expected):
        import_json(file, names, tmp_path / "index", progress=False)
    with pytest.raises(ValueError, match="there is no such file"):
        import_json(tmp_path / "none.json", names, tmp_path / "index", progress=False)


def test_two_videos_of_one_name(tmp_path: Path) -> None:
    twice = clip_table(tmp_path, ["a/7.mp4", "b/7.part1.webm"])
    with pytest.raises(ValueError, match=r"'a/7\.mp4' and 'b/7\.part1\.webm' are both clip '7'"):
        import_json(write_json(tmp_path, {"7": [1.0]}), twice, tmp_path / "index", progress=False)


def test_export_round_trip(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    found = MotionIndex(tmp_path / "index")
    file = tmp_path / "img_diff.json"
    assert export_json(found, file) == 6
    written = json.loads(file.read_text())  # as the released loader does
    assert list(written) == [str(number) for number in range(NUM_VIDEOS)]
    for path in found:
        assert np.array_equal(np.array(written[Path(path).stem], np.float32), found[path])
    import_json(file, clips, tmp_path / "again", progress=False)
    again = MotionIndex(tmp_path / "again")
    assert all(np.array_equal(again[path], found[path]) for path in found)
    assert not list(tmp_path.glob("*.unfinished"))


def test_export_of_two_videos_of_one_name(clips: Clips, tmp_path: Path) -> None:
    shutil.copy(clips.root / clips.paths[0], clips.root / "class 1" / "0.avi.mp4")
    index(clip_table(clips.root, [clips.paths[0], "class 1/0.avi.mp4"]), tmp_path / "index")
    with pytest.raises(ValueError, match=r"'class 0/0\.mp4' and 'class 1/0\.avi\.mp4' are both clip '0'"):
        export_json(MotionIndex(tmp_path / "index"), tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_export_that_cannot_be_written(clips: Clips, tmp_path: Path) -> None:
    index(clips, tmp_path / "index")
    with pytest.raises(ValueError, match=r"out\.json: could not be written \(No such file or directory\)"):
        export_json(MotionIndex(tmp_path / "index"), tmp_path / "nowhere" / "out.json")
    (clips.root / "bad.mp4").touch()
    index(clip_table(clips.root, ["bad.mp4"]), tmp_path / "bad")
    with pytest.raises(ValueError, match="holds no curve, there is nothing to write"):
        export_json(MotionIndex(tmp_path / "bad"), tmp_path / "out.json")


# --- recording ------------------------------------------------------------------------------------------------------


def test_a_recorder_is_an_index_of_what_was_flushed(videos: dict[str, Path], tmp_path: Path) -> None:
    recorder = MotionRecorder(tmp_path / "motion")
    assert (len(recorder), list(recorder), "a.mp4" in recorder) == (0, [], False)
    with pytest.raises(KeyError, match=r"'a\.mp4' has not been recorded in"):
        recorder["a.mp4"]
    curve = np.arange(5, dtype=np.float32)
    recorder.add("a.mp4", curve, video=VideoFile(videos["h264"]))
    recorder.add("a.mp4", curve * 2, video=VideoFile(videos["h264"]))  # measured twice in one epoch: the first counts
    recorder.add("gone.mp4", curve, video=VideoFile(tmp_path / "gone.mp4"))
    assert len(recorder) == 0
    recorder.flush()
    recorder.flush()
    assert list(recorder) == ["a.mp4"]
    assert recorder["a.mp4"].tolist() == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "motion").glob("part-*.parquet"))) == 1
    assert MotionIndex(tmp_path / "motion").entry("a.mp4").size_bytes == videos["h264"].stat().st_size
    assert list(pickle.loads(pickle.dumps(recorder))) == ["a.mp4"]


def test_recorders_of_several_processes_share_a_folder(videos: dict[str, Path], tmp_path: Path) -> None:
    one, other = MotionRecorder(tmp_path), MotionRecorder(tmp_path)
    curve = np.ones(3, np.float32)
    one.add("a.mp4", curve, video=VideoFile(videos["h264"]))
    other.add("a.mp4", curve, video=VideoFile(videos["h264"]))  # fills up a batch of both
    other.add("b.mp4", curve, video=VideoFile(videos["vp9"]))
    one.flush()
    other.flush()
    assert "b.mp4" not in one
    one.refresh()
    assert sorted(one) == sorted(other) == ["a.mp4", "b.mp4"]
    rows = [pq.read_table(file).num_rows for file in sorted(tmp_path.glob("*.parquet"))]
    assert rows == [1, 1]


def test_a_recorder_waits_for_an_indexer_and_then_says_who_it_is(
    videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = MotionRecorder(tmp_path)
    recorder.add("a.mp4", np.ones(3, np.float32), video=VideoFile(videos["h264"]))
    ticks = itertools.count(step=40)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    with store.locked(tmp_path), pytest.raises(ValueError, match=r"another indexer .* \(process \d+ on"):
        recorder.flush()
    recorder.flush()
    assert "a.mp4" in recorder


def test_a_file_that_may_not_be_read_is_tried_again(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    job = indexing.Job(clip_table(videos["h264"].parent, ["h264.mp4"]), Pixel())
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)  # root may read everything
        row = job.row("h264.mp4")
    assert "it may not be read. Check its permissions" in row["error"]
    assert row["size_bytes"] is row["mtime_ns"] is None  # what makes it be tried again
    assert job.row("h264.mp4")["error"] is None
