"""The command mgs-dali: what it writes, what it prints, and how it fails."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import encode, moving_disc

from mgs_dali import cli, plot
from mgs_dali.annotations import read_annotations
from mgs_dali.cli import main


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("cli") / "disc.mkv", moving_disc(30, action=(10, 20)), "ffv1")


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that the user can put right."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_is_the_entry_point() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    assert setup["options.entry_points"]["console_scripts"].split() == ["mgs-dali", "=", "mgs_dali.cli:main"]


def test_demo_writes_lists_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", str(out), "--seed", "3", "--num-train", "6", "--num-val", "2"]) == 0
    printed = capsys.readouterr().out
    for list_file, num_videos in (("train_list.txt", 6), ("val_list.txt", 2)):
        assert f"{out / list_file}: {num_videos} videos" in printed
        clips = read_annotations(out / list_file, root=out / "videos")
        assert len(clips) == num_videos
        assert all(clips.file(i).is_file() for i in range(num_videos))


def test_plot_prints_the_frames_and_writes_the_picture(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why.png"
    assert main(["plot", str(video), "--out", str(out), "--num-segments", "3", "--mu", "0"]) == 0
    printed = capsys.readouterr().out.splitlines()
    # mu = 0 weighs all 29 gaps alike: the points (j + 1) / 29 nearest to 1/6, 1/2 and 5/6 are j = 4, 13 (of two) and 23
    assert printed[0].split() == ["motion-guided", "frames", "4", "13", "23"]
    assert printed[1].split() == ["uniform", "frames", "5", "15", "25"]
    assert str(out) in printed[2]
    assert out.stat().st_size > 0


def test_plot_passes_its_options_on(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def remember(video: Path, out: Path, *, sampler: object) -> plot.Choice:
        seen.update(video=video, out=out, sampler=sampler)
        raise ValueError("enough")

    monkeypatch.setattr(plot, "plot_video", remember)
    options = ["--num-segments", "5", "--mu", "0.7", "--floor", "0.1", "--pick", "inverse"]
    assert main(["plot", str(video), "--out", str(tmp_path / "why.png"), *options]) == 2
    assert seen["video"] == video
    assert seen["out"] == tmp_path / "why.png"
    assert str(seen["sampler"]) == "MotionGuided(num_segments=5, mu=0.7, floor=0.1, pick='inverse')"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 'expected "command" to be one of {demo,plot}'),
        (["train"], "invalid choice: 'train' (choose from"),
        (["demo"], "the following arguments are required: out"),
        (["demo", "x", "--seed", "one"], "--seed must be a whole number, found one. See: mgs-dali --help"),
        (["demo", "x", "--num-train", "0"], "Allowed: a seed of 0 or more, one video or more in each split"),
        (["demo", "x", "--sed", "1"], "unrecognized arguments: --sed"),
        (["plot", "x.mp4"], "the following arguments are required: out"),
        (["plot", "x.mp4", "--out", "x.png"], "x.mp4: there is no such file"),
        (
            ["plot", "x.mp4", "--out", "x.png", "--pick", "best"],
            "--pick must be one of 'nearest', 'inverse', found best",
        ),
        (["plot", "x.mp4", "--out", "x.png", "--mu", "much"], "--mu must be a number, found much"),
        (["plot", "x.mp4", "--out", "x.png", "--mu", "-1"], "mu must be a finite number of at least 0, found -1.0"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in fails(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "file" in fails(["demo", str(tmp_path / "file" / "demo")], capsys)


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "make_demo", interrupted)
    assert main(["demo", "demo"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_without_matplotlib_says_what_to_install(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "mgs_dali.plot")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = fails(["plot", str(video), "--out", str(tmp_path / "why.png")], capsys)
    assert line == (
        "error: Plots need matplotlib, which is not installed. Install it with: pip install 'mgs-dali[plot]'"
    )


def test_starts_without_matplotlib_torch_and_dali() -> None:
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'torch', 'nvidia.dali'): sys.modules[name] = None\n"
        "from mgs_dali.cli import main\n"
        "main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
    assert "plot" in done.stdout
