"""Whether batches fit in /dev/shm: what loaders need, by a formula, and what they say where it is too small."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hard_videos import write
from PIL import Image

from mgs_dali.lists.read import read_annotations
from mgs_dali.load.nvdec import refusal_without_gpu
from mgs_dali.load.plan import Plan
from mgs_dali.load.shared_memory import batch_bytes, check_room
from mgs_dali.load.sources import EncodedSource, HostSource, PictureSource
from mgs_dali.machine import Room, needed_bytes
from mgs_dali.sampling import Uniform

ROOT = Path(__file__).parents[1]
MIB = 2**20


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "a.webm", "libvpx-vp9", range(12), size=(320, 240))
    (folder / "list.txt").write_text("a.webm 0\n" * 8)
    return folder


def plan(folder: Path, **options: object) -> Plan:
    clips = read_annotations(folder / "list.txt", root=folder, **options)  # type: ignore[arg-type]
    return Plan(clips, Uniform(4), batch_size=8, training=False, size=224)


@pytest.mark.parametrize("sparse", [False, True])
def test_pictures_are_crops_of_three_bytes_a_pixel(videos: Path, sparse: bool) -> None:
    # The centre crop: 224/256 of the short side.
    assert batch_bytes(HostSource(plan(videos), sparse=sparse), at=(0, 0)) == 8 * 4 * 210 * 210 * 3


def test_copies_are_as_large_as_their_files(videos: Path) -> None:
    size = (videos / "a.webm").stat().st_size
    assert batch_bytes(EncodedSource(plan(videos), refusal_without_gpu), at=(0, 0)) == 8 * size
    assert batch_bytes(EncodedSource(plan(videos), refusal_without_gpu, sparse=True), at=(0, 0)) == 0


def test_pictures_of_folders_are_as_large_as_their_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(1, 9):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "a" / f"{number:05}.jpg")
    (tmp_path / "list.txt").write_text("a 8 0\n" * 8)
    size = (tmp_path / "a" / "00001.jpg").stat().st_size
    assert batch_bytes(PictureSource(plan(tmp_path, template="{:05}.jpg")), at=(0, 0)) == 8 * 4 * size


def test_files_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("missing.webm 0\n" * 8)
    for source in (HostSource(plan(tmp_path)), EncodedSource(plan(tmp_path), refusal_without_gpu)):
        assert batch_bytes(source, at=(0, 0)) == 0


def test_batches_under_way_and_two_more() -> None:
    assert needed_bytes(MIB, num_batches=8) == 10 * MIB


def test_room_is_compared(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_room(64 * MIB, room=Room(64 * MIB, 64 * MIB), num_processes=1)
        assert not caplog.messages
        check_room(65 * MIB, room=Room(64 * MIB, 64 * MIB), num_processes=1)
    assert caplog.messages[0].startswith("/dev/shm has 64 MiB free of 64 MiB, and the batches that worker processes")
    with pytest.raises(ValueError, match=r"64 MiB free of 80 MiB.*take about 260 MiB\. In a container.*--shm-size=1g"):
        check_room(130 * MIB, room=Room(80 * MIB, 64 * MIB), num_processes=2)


def test_processes_of_torchrun_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ValueError, match="take about 800 MiB"):
        check_room(100 * MIB, room=Room(128 * MIB, 128 * MIB))


PROGRAM = """
import sys
from mgs_dali import Uniform, read_annotations
from mgs_dali.load import loader
from mgs_dali.load.plan import Plan
from train import cpu_loader
folder, kind, checks = sys.argv[1:]
if checks == "no":
    loader.check_room = cpu_loader.check_room = lambda _bytes: None
if __name__ == "__main__":
    clips = read_annotations(folder + "/list.txt", root=folder)
    common = dict(sampler=Uniform(4), batch_size=8, training=False)
    if kind == "dali":
        clips = loader.ClipLoader(clips, route="host", device="cpu", num_workers=2, **common)
    else:
        clips = cpu_loader.CpuLoader(Plan(clips, **common), num_workers=2)
    try:
        for _ in range(8):
            for _ in clips:
                pass
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs a mount namespace, which this user cannot make",
)
@pytest.mark.parametrize("kind", ["dali", "cpu"])
@pytest.mark.parametrize("checks", ["yes", "no"])
def test_a_small_one(videos: Path, kind: str, checks: str) -> None:
    """As in a container: refused before workers write to it; and if that is not enough, what ended them is said."""
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    pytest.importorskip("torchvision")
    command = 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", sys.executable, "-c", PROGRAM, str(videos), kind, checks],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout
    if checks == "yes":
        assert said.startswith("ValueError /dev/shm has 4 MiB free of 4 MiB"), said + done.stderr
    else:
        start = "WorkersEnded worker processes" if kind == "dali" else "ValueError a worker process could not hand"
        assert said.startswith(start), said + done.stderr
        assert "Code -7" in said or kind == "cpu"
        assert "a full /dev/shm: it is 4 MiB large and the batches take about" in said
    assert "--shm-size=1g" in said
    assert len(said.splitlines()) == 1
