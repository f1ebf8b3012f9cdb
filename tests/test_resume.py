"""A training that was stopped in any way goes on as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training import SMALL, finish, metrics, start, train, write_data

NUM_EPOCHS = 8
RUN = [
    *SMALL, "--epochs", str(NUM_EPOCHS), "--dropout", "0.5", "--schedule", "step", "--checkpoint-every-steps", "1",
    "--keep-checkpoints", "2", "--out", "run",
]  # fmt: skip
"""Epochs of five steps, with a schedule that does not depend on how many epochs there are."""


@pytest.fixture(scope="module", params=["cpu", "dali"])
def loader(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(loader: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(loader)
    write_data(folder)
    train(folder, *RUN, "--loader", loader)
    return folder


@pytest.fixture
def folder(undisturbed: Path, tmp_path: Path) -> Path:
    for name in ("videos", "train.txt", "val.txt"):
        (tmp_path / name).symlink_to(undisturbed / name)
    return tmp_path


def wait_for_second_epoch(process: subprocess.Popen[str], out: Path) -> None:
    """Return when a training has saved a checkpoint in the middle of its second epoch, and is still busy with it."""
    for _ in range(30_000):
        assert process.poll() is None, process.communicate()
        if (out / "last.ckpt").is_file():
            position = read(out)["loader"]
            if position["epoch"] == 1 and position["iteration"] in (1, 2):
                return
        time.sleep(0.01)
    pytest.fail("no checkpoint within the second epoch")


def read(out: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(out / "last.ckpt", weights_only=True)
    return checkpoint


def without_times(out: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in metrics(out)]


def assert_same_run(out: Path, expected: Path) -> None:
    assert without_times(out) == without_times(expected)
    found, wanted = read(out), read(expected)
    assert found["loader"] == wanted["loader"] == {"epoch": NUM_EPOCHS, "iteration": 0}
    torch.testing.assert_close(found["model"], wanted["model"], rtol=0, atol=0)
    torch.testing.assert_close(found["optimizer"]["state"], wanted["optimizer"]["state"], rtol=0, atol=0)


@pytest.mark.slow
def test_a_killed_training_goes_on_exactly(folder: Path, undisturbed: Path, loader: str) -> None:
    process = start(folder, *RUN, "--loader", loader)
    wait_for_second_epoch(process, folder / "run")
    process.kill()
    process.wait()
    position = read(folder / "run")["loader"]
    assert position["epoch"] == 1
    assert position["iteration"] > 0
    stdout, _ = train(folder, *RUN, "--loader", loader, "--resume", "auto")
    assert stdout.splitlines()[-1].startswith("best val/top1 ")
    assert_same_run(folder / "run", undisturbed / "run")


@pytest.mark.slow
def test_stopped_and_killed_again_and_again_it_loses_nothing(folder: Path, undisturbed: Path, loader: str) -> None:
    chance = random.Random(20)
    signals = [signal.SIGTERM, signal.SIGKILL] * 3
    chance.shuffle(signals)
    for signal_now in signals:
        # A group of its own: the signal reaches the workers too, as torchrun and schedulers send it.
        process = start(folder, *RUN, "--loader", loader, "--resume", "auto", start_new_session=True)
        wait_for_next_checkpoint(process, folder / "run")
        time.sleep(chance.uniform(0, 0.4))
        before = read(folder / "run")["loader"]
        os.killpg(process.pid, signal_now)
        if signal_now == signal.SIGTERM:
            _, stderr = finish(process, code=128 + signal.SIGTERM)
            assert "Traceback" not in stderr
            again = f"Go on with: python -m train.tsm --loader {loader} --out run --resume auto"
            assert stderr.splitlines()[-1] == f"Stopped. {again}"
            after = read(folder / "run")["loader"]
            assert (after["epoch"], after["iteration"]) >= (before["epoch"], before["iteration"])
        else:
            process.communicate()
        with pytest.raises(ProcessLookupError):  # nobody of the group is left
            wait_for_end_of_group(process.pid)
    train(folder, *RUN, "--loader", loader, "--resume", "auto")
    assert_same_run(folder / "run", undisturbed / "run")
    assert sorted(file.name for file in (folder / "run").glob("*.ckpt")) == [
        "best.ckpt", f"epoch-{NUM_EPOCHS - 1:04d}.ckpt", f"epoch-{NUM_EPOCHS:04d}.ckpt", "last.ckpt",
    ]  # fmt: skip


def wait_for_next_checkpoint(process: subprocess.Popen[str], out: Path) -> None:
    """Return when a training has saved a checkpoint since it was started, and is still busy."""
    file = out / "last.ckpt"
    before = file.stat().st_mtime_ns if file.is_file() else None
    for _ in range(30_000):
        assert process.poll() is None, process.communicate()
        if file.is_file() and file.stat().st_mtime_ns != before:
            return
        time.sleep(0.01)
    pytest.fail("no checkpoint")


def wait_for_end_of_group(group: int) -> None:
    """Workers of a killed process end by themselves, a little later."""
    for _ in range(100):
        os.killpg(group, 0)
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(folder: Path, undisturbed: Path, loader: str) -> None:
    # As from a terminal: the signal reaches the workers too.
    process = start(folder, *RUN, "--loader", loader, start_new_session=True)
    wait_for_second_epoch(process, folder / "run")
    stopped = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = finish(process, code=130)
    assert time.monotonic() - stopped < 60
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert last == f"Stopped. Go on with: python -m train.tsm --loader {loader} --out run --resume auto"
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)
    train(folder, "--device", "cpu", *last.partition("train.tsm ")[2].split())
    assert_same_run(folder / "run", undisturbed / "run")


@pytest.mark.slow
def test_lines_of_epochs_that_come_again_are_dropped(folder: Path, undisturbed: Path, loader: str) -> None:
    train(folder, *RUN, "--loader", loader, "--epochs", "1")
    # Killed between the second line and its checkpoint, with the third line half written.
    with (folder / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "train/loss": 7.0}\n{"epoch": 3, "train')
    train(folder, *RUN, "--loader", loader, "--resume", "auto")
    assert_same_run(folder / "run", undisturbed / "run")


def test_resume_auto_starts_anew_where_there_is_nothing(tmp_path: Path) -> None:
    write_data(tmp_path)
    stdout, _ = train(tmp_path, *SMALL, "--loader", "cpu", "--epochs", "1", "--out", "new", "--resume", "auto")
    assert stdout.splitlines()[-1].startswith("best val/top1 ")
    assert len(metrics(tmp_path / "new")) == 1
