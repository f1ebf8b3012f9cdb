"""One training shared by one, two or three processes: the same steps, and the same validation to the last digit."""

from __future__ import annotations

import json
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from training import NUM_TRAIN, SMALL, finish, metrics, start, train, write_data

RECORDING = '''
"""train.tsm, but batch norms keep their statistics (they are of a process's own batch), and steps are written down."""
import json, os, sys, torch
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm
from train import consensus, tsm

_BatchNorm.train = lambda self, mode=True: Module.train(self, False)
rank = os.environ.get("RANK", "0")
add = consensus.Step.add

def recorded(step, losses, samples, valid):
    with open(f"{sys.argv[sys.argv.index('--out') + 1]}-steps-{rank}.jsonl", "a") as file:
        print(json.dumps([step.title, samples[valid].tolist()]), file=file)
    add(step, losses, samples, valid)

consensus.Step.add = recorded
sys.argv.pop(1)
code = tsm.main()
assert not torch.distributed.is_initialized()  # no thread of it is left for Python's end
sys.exit(code)
'''
RUN = [
    *SMALL, "--loader", "cpu", "--lr", "0.01", "--lr-batch", "null", "--dropout", "0", "--mixing", "mixup",
    "--label-smoothing", "0.1", "--grad-clip", "1.0", "--schedule", "step",
]  # fmt: skip
"""Steps of 12 clips, of 14: in each second one, two clips count."""

pytestmark = pytest.mark.slow


def launcher(folder: Path, num_processes: int) -> tuple[str, ...]:
    (folder / "recording.py").write_text(RECORDING)
    if num_processes == 1:
        return (str(folder / "recording.py"),)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes))
    return (*torchrun, str(folder / "recording.py"))


def steps_of(out: Path) -> dict[str, list[int]]:
    """The clips that counted in each step, over all processes, sorted."""
    found: dict[str, list[int]] = defaultdict(list)
    for file in out.parent.glob(f"{out.name}-steps-*.jsonl"):
        for title, samples in map(json.loads, file.read_text().splitlines()):
            found[title] += samples
    return {title: sorted(samples) for title, samples in found.items()}


def validations(out: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key.startswith("val/")} for line in metrics(out)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def alone(data: Path) -> Path:
    train(data, *RUN, "--epochs", "3", "--batch-size", "12", "--out", "alone", launcher=launcher(data, 1))
    return data / "alone"


def assert_same_training(out: Path, expected: Path) -> None:
    steps = steps_of(out)
    assert steps == steps_of(expected)
    assert len(steps) == 6
    for epoch in range(1, 4):
        seen = [sample for title, samples in steps.items() if f"epoch {epoch}/" in title for sample in samples]
        assert sorted(seen) == list(range(NUM_TRAIN))
    assert validations(out) == validations(expected)
    losses = [[line["train/loss"] for line in metrics(folder)] for folder in (out, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    models = [torch.load(folder / "last.ckpt", weights_only=True)["model"] for folder in (out, expected)]
    torch.testing.assert_close(models[0], models[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("num_processes", "batch_size", "accumulate"), [(1, 4, 3), (2, 6, 1), (3, 4, 1), (3, 2, 2)])
def test_a_step_is_the_same_however_it_is_shared(
    data: Path, tmp_path: Path, alone: Path, num_processes: int, batch_size: int, accumulate: int
) -> None:
    flags = ["--epochs", "3", "--batch-size", str(batch_size), "--accumulate", str(accumulate)]
    out = tmp_path / "run"
    _, stderr = train(data, *RUN, *flags, "--out", str(out), launcher=launcher(data, num_processes))
    assert "2 steps of 12 clips an epoch" in stderr
    assert_same_training(out, alone)


def test_sigterm_stops_all_processes_and_others_go_on(data: Path, tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "run"
    flags = [*RUN, "--epochs", "3", "--out", str(out), "--resume", "auto", "--checkpoint-every-steps", "1"]
    process = start(data, *flags, "--batch-size", "6", launcher=launcher(data, 2))
    for _ in range(30_000):
        if (out / "last.ckpt").is_file():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to all
    _, stderr = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "Stopped. Go on with: python -m train.tsm --loader cpu --out" in stderr
    done = len(steps_of(out))
    assert done < 6
    finish(start(data, *flags, "--batch-size", "4", launcher=launcher(data, 3)))
    steps = steps_of(out)
    assert all(len(samples) == len(set(samples)) for samples in steps.values())  # none was done twice
    assert_same_training(out, alone)
