"""What the command says of videos: against the model itself, with class names from wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import decode_all, encode, moving_disc, take_apart

from mgs_dali.sampling import segment_targets, stratum_starts, uniform_frames
from models.tsm import TSM
from train import predict as command
from train.checkpoint import Checkpoint
from train.predict import Prediction, class_names
from train.recipe import Recipe

NAMES = [f"throwing a {what}" for what in ("ball", "stick", "shoe", "pillow", "frisbee", "boomerang")]
RECIPE = Recipe(num_classes=6, num_segments=4, depth=10, size=32, weights=None, sampler="uniform")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, two videos and one that is none."""
    folder = tmp_path_factory.mktemp("predict")
    for name, num_frames in (("a.avi", 12), ("b.avi", 30)):
        frames = moving_disc(num_frames, width=64, height=48, seed=num_frames)
        encode(folder / name, frames, "mjpeg", pixel_format="yuvj420p")
    (folder / "text.avi").write_text("no video")
    (folder / "names.txt").write_text("\n".join(NAMES))
    torch.manual_seed(0)
    model = TSM(6, 4, depth=10, weights=None)
    torch.nn.init.normal_(model.fc.weight, std=0.3)
    checkpoint: dict[str, Any] = dict.fromkeys(Checkpoint.__annotations__)
    torch.save({**checkpoint, "model": model.state_dict(), "recipe": asdict(RECIPE)}, folder / "best.ckpt")
    return folder


@pytest.fixture
def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: its exit code, stdout and stderr."""
    monkeypatch.chdir(folder)

    def command_line(*arguments: str) -> tuple[int, str, str]:
        argv = ["train.predict", "--checkpoint", "best.ckpt", "--device", "cpu", *arguments]
        monkeypatch.setattr("sys.argv", argv)
        return command.main(), *capsys.readouterr()

    return command_line


def expected_scores(folder: Path) -> np.ndarray:
    """Of a.avi, (6,): the model on the 28 x 28 centre of 37 of 48 pixels, resized by PyTorch."""
    model = TSM(6, 4, depth=10, weights=None).eval()
    model.load_state_dict(torch.load(folder / "best.ckpt", weights_only=True)["model"])
    frames = decode_all(folder / "a.avi")[[1, 4, 7, 10]]
    # 64 x 48 becomes 49 x 37; the 32 x 32 at (8, 2) there are 42 x 42 at (10, 3) of the video.
    pixels = torch.from_numpy(frames[:, 3:45, 10:52].copy()).permute(0, 3, 1, 2).float() / 255
    resized = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        return model(((resized - mean) / std)[None]).softmax(1)[0].double().numpy()


def test_the_five_likeliest_and_the_frames(folder: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("a.avi", "b.avi", "--labels", "names.txt")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 2 * (1 + 1 + 5)
    assert (lines[0], lines[1]) == ("a.avi", "  frames 1 4 7 10")
    assert (lines[7], lines[8]) == ("b.avi", "  frames 3 11 18 26")
    expected = expected_scores(folder)
    order = np.argsort(-expected)[:5]
    assert [line.split(maxsplit=1)[1] for line in lines[2:7]] == [NAMES[place] for place in order]
    assert [float(line.split()[0]) for line in lines[2:7]] == pytest.approx(expected[order].tolist(), abs=0.01)


def test_other_protocols_look_at_more(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run("b.avi", "--labels", "names.txt", "--protocol", "accurate")
    assert code == 0
    clips = [uniform_frames(30, targets).tolist() for targets in (segment_targets(4), stratum_starts(4))]
    assert out.splitlines()[1:3] == [f"  frames {' '.join(map(str, clip))}" for clip in clips]


def test_classes_without_names_are_numbers_and_it_says_why(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("a.avi")
    assert code == 0
    assert "the checkpoint's recipe names no classes. Name them with --labels FILE" in err
    assert out.splitlines()[2].split(maxsplit=1)[1].startswith("class ")


def test_a_bad_video_does_not_keep_the_others_back(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("text.avi", "gone.avi", "a.avi", "--labels", "names.txt")
    assert code == 2
    assert "text.avi (the command line" in err
    assert "cannot be opened as a video" in err
    assert "gone.avi" in err
    assert out.startswith("a.avi\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--labels", "gone.txt"], "error: The file of class names gone.txt does not exist"),
        (
            ["--labels", "three.txt"],
            "error: three.txt names 3 classes, and the checkpoint knows 6. Give --labels a file",
        ),
        (["--protocol", "dense"], "10 clips of a video asked for, but Uniform has at most 2"),
    ],
)
def test_teaches_what_is_wrong(
    run: Callable[..., tuple[int, str, str]], folder: Path, arguments: list[str], text: str
) -> None:
    (folder / "three.txt").write_text("a\nb\nc\n")
    code, _, err = run("a.avi", *arguments)
    assert code == 2
    assert text in err


def test_names_from_what_the_training_used(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    recipe = replace(RECIPE, class_names=str(tmp_path / "names.txt"))
    assert class_names(recipe, None) == (NAMES, f"class names from {tmp_path / 'names.txt'}")

    for name in NAMES:  # a folder of class folders is a list that names its classes
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.mp4").touch()
    recipe = replace(RECIPE, train_list=str(tmp_path / "set"))
    assert class_names(recipe, None) == (sorted(NAMES), f"class names from {tmp_path / 'set'}")

    recipe = replace(RECIPE, class_names=str(tmp_path / "gone.txt"))
    names, note = class_names(recipe, None)
    assert names == [f"class {number}" for number in range(6)]
    assert "gone.txt does not exist" in note


def test_frame_folders(folder: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    take_apart(folder / "b.avi", folder / "b")
    code, _, err = run("b")
    assert code == 2
    assert "it is a folder" in err  # trained on videos
    checkpoint: Checkpoint = torch.load(folder / "best.ckpt", weights_only=True)
    checkpoint["recipe"]["template"] = "img_{:05}.jpg"
    torch.save(checkpoint, folder / "folders.ckpt")
    code, out, _ = run("b", "b.avi", "--checkpoint", "folders.ckpt")
    lines = out.splitlines()
    assert (code, lines[0], lines[7]) == (0, "b", "b.avi")
    assert lines[1] == lines[8] == "  frames 3 11 18 26"


def test_fewer_than_five_classes() -> None:
    found = Prediction(np.array([0.25, 0.5, 0.25]), np.zeros((1, 2), np.int64))
    assert found.best(["a", "b", "c"]) == [("b", 0.5), ("a", 0.25), ("c", 0.25)]
