"""Files written whole or not at all: in which order the system is asked, and what is left by what ends the writing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mgs_dali.files import write_whole

REPOSITORY = Path(__file__).parents[1]

PROGRAM = """
import sys
import time
from pathlib import Path

from mgs_dali.files import write_whole

with write_whole(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half of the n")
    print("in the block", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is there already, alone in its folder."""
    file = tmp_path / "folder" / "scores.npz"
    file.parent.mkdir()
    file.write_text("old")
    return file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What the system was asked to do, in order: flushes by the path that the kernel has for the descriptor."""
    asked: list[tuple[str, ...]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        asked.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        asked.append(("replace", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return asked


def test_the_file_is_flushed_before_the_move_and_the_folder_after_it(file: Path, calls: list[tuple[str, ...]]) -> None:
    with write_whole(file) as unfinished:
        assert str(unfinished) == f"{file}.unfinished"
        assert not unfinished.exists()
        unfinished.write_text("new")
        assert (file.read_text(), calls) == ("old", [])
    assert calls == [
        ("fsync", f"{file}.unfinished"),
        ("replace", f"{file}.unfinished", str(file)),
        ("fsync", str(file.parent)),
    ]
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_was_not_there(file: Path) -> None:
    new = file.with_name("new")
    with write_whole(new) as unfinished:
        unfinished.write_text("new")
        assert not new.exists()
    assert new.read_text() == "new"


def test_a_file_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with write_whole(Path("new")) as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "new").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("no such number"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_block_that_fails_leaves_the_old_file_alone(
    file: Path, calls: list[tuple[str, ...]], error: BaseException
) -> None:
    def write() -> None:
        with write_whole(file) as unfinished:
            unfinished.write_text("half of the n")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert calls == []
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def test_a_block_that_fails_before_it_writes(file: Path) -> None:
    with pytest.raises(ValueError, match="no such number"), write_whole(file):
        raise ValueError("no such number")
    assert list(file.parent.iterdir()) == [file]


def test_a_disk_that_is_found_full_while_flushing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*scores\.npz\.unfinished'"),
        write_whole(file) as unfinished,
    ):
        unfinished.write_text("new")
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(("number", "is_told"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_flushed(
    file: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_told: bool
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(file.parent):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    errors = []
    try:
        with write_whole(file) as unfinished:
            unfinished.write_text("new")
    except OSError as error:
        errors.append(error.filename)
    assert errors == [str(file.parent)] * is_told
    assert file.read_text() == "new"


def test_a_killed_process_leaves_the_old_file_and_the_next_goes_over_it(file: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    with killed.stdout:
        assert killed.stdout.readline() == "in the block\n"
        killed.kill()
    assert killed.wait(timeout=30) == -signal.SIGKILL
    assert file.read_text() == "old"
    with write_whole(file) as unfinished:
        unfinished.write_text("new")
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def test_another_name_of_what_a_killed_process_left_keeps_its_content(file: Path) -> None:
    other = file.with_name("other.npz")
    other.write_text("other")
    os.link(other, f"{file}.unfinished")  # as of a checkpoint that got one of its two names
    with write_whole(file) as unfinished:
        unfinished.write_text("new")
    assert (file.read_text(), other.read_text()) == ("new", "other")
