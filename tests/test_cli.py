"""The command mgs-dali: what it writes, what it prints, and how it fails."""

from __future__ import annotations

import configparser
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import encode, moving_disc

from mgs_dali import cli
from mgs_dali.cli import main
from mgs_dali.index.store import MotionIndex
from mgs_dali.lists.read import read_annotations
from mgs_dali.look import choices, plot
from mgs_dali.sampling import MotionGuided


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
    assert setup["options.entry_points"]["console_scripts"].split() == ["mgs-dali", "=", "mgs_dali.__main__:main"]


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

    def remember(video: Path, out: Path, *, sampler: object) -> choices.Choice:
        seen.update(video=video, out=out, sampler=sampler)
        raise ValueError("enough")

    monkeypatch.setattr(plot, "plot_video", remember)
    options = ["--num-segments", "5", "--mu", "0.7", "--floor", "0.1", "--pick", "inverse"]
    assert main(["plot", str(video), "--out", str(tmp_path / "why.png"), *options]) == 2
    assert seen["video"] == video
    assert seen["out"] == tmp_path / "why.png"
    assert seen["sampler"] == MotionGuided(num_segments=5, mu=0.7, floor=0.1, pick="inverse")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 'expected "command" to be one of {doctor,demo,plot,index,import-json,'),
        (["train"], "invalid choice: 'train' (choose from"),
        (["demo"], "the following arguments are required: out"),
        (["demo", "x", "--seed", "one"], "--seed must be a whole number, found one. See: mgs-dali --help"),
        (["demo", "x", "--num-train", "0"], "Allowed: a seed of 0 or more, one video or more in each split"),
        (["demo", "x", "--sed", "1"], "unrecognized arguments: --sed"),
        (["plot", "x.mp4"], "--out PNG is missing. Use: mgs-dali plot VIDEO --out PNG, or: mgs-dali plot --index DIR"),
        (["plot", "--out", "x.png"], "VIDEO is missing. Use: mgs-dali plot VIDEO --out PNG"),
        (["plot", "x.mp4", "y.mp4", "--out", "x.png"], "found 2 videos. Several take their motion from an index"),
        (["plot", "x.mp4", "--html", "x.html"], "--html belongs to --index, which was not given"),
        (["plot", "x.mp4", "--out", "x.png", "--num-videos", "3"], "--num-videos belongs to --index"),
        (
            ["plot", "--index", "x", "--out", "x.png"],
            "--root DIR is missing. Use: mgs-dali plot --index DIR --root DIR",
        ),
        (["plot", "--index", "x", "--root", "."], "--out PNG or --html FILE is missing"),
        (
            ["plot", "--index", "x", "--root", ".", "--out", "x.png"],
            "x: there is no such folder. Make one with: mgs-dali",
        ),
        (["plot", "--index", "x", "--root", "y", "--out", "x.png"], "y: there is no such folder. --root is the folder"),
        (
            ["plot", "--index", "x", "--root", ".", "--out", "x.png", "--num-videos", "0"],
            "--num-videos must be at least 1, found 0",
        ),
        (
            ["plot", "--index", "x", "--root", ".", "--out", "x.png", "a.mp4", "--num-videos", "2"],
            "videos are named, and --num-videos tells how many to take. Leave one of them out",
        ),
        (["plot", "x.mp4", "--out", "x.png"], "x.mp4: there is no such file"),
        (
            ["plot", "x.mp4", "--out", "x.png", "--pick", "best"],
            "--pick must be one of 'nearest', 'inverse', found best",
        ),
        (["plot", "x.mp4", "--out", "x.png", "--mu", "much"], "--mu must be a number, found much"),
        (["plot", "x.mp4", "--out", "x.png", "--mu", "-1"], "mu must be a finite number of at least 0, found -1.0"),
        (["index", "list.txt", "--root", "."], "the following arguments are required: out"),
        (["index", "list.txt", "--root", ".", "--out", "x"], "The list list.txt does not exist"),
        (
            ["index", "list.txt", "--out", "x", "--measure", "flow"],
            "--measure must be one of 'pixel', 'ssim', 'pa', 'packet', found flow",
        ),
        (
            ["index", "list.txt", "--out", "x", "--num-workers", "many"],
            "--num-workers must be a whole number, found many",
        ),
        (
            ["index", "list.txt", "--out", "x", "--pa-weights", "w.pth"],
            "--pa-weights belongs to --measure pa, found --measure pixel",
        ),
        (
            ["import-json", "x.json", "list.txt", "--out", "x", "--format", "new"],
            "--format must be one of 'auto', 'differences', 'cumulated', found new",
        ),
        (["export-json", "x", "--out", "x.json"], "x: there is no such folder. Make one with: mgs-dali index"),
        (["hmdb51-lists", "x", "--out", "y"], "x is not a folder. Give the one that HMDB51's official splits"),
        (["hmdb51-lists", ".", "--out", "y", "--split", "4"], "split must be 1, 2 or 3, found 4"),
        (["hmdb51-lists", ".", "--out", "y", "--split", "one"], "--split must be a whole number, found one"),
        (["index", "l.txt", "--root", ".", "--out", "x", "--template", "%05d.jpg"], "elsewhere is {:05} here"),
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
    for name in [name for name in sys.modules if f"{name}.".startswith(("matplotlib.", "mgs_dali.look."))]:
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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos and a damaged one, with a list."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(2):
        encode(folder / f"{index}.mp4", moving_disc(8, width=64, height=48, action=(2, 6), seed=index), "mpeg4")
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "list.txt").write_text("0.mp4 0\n1.mp4 1\nbad.mp4 1\n")
    return folder


def test_index_says_what_it_did(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "index"
    command = ["index", str(data / "list.txt"), "--root", str(data), "--out", str(out), "--num-workers", "1"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}: 3 videos measured now, 0 before\n"
    assert "motion (pixel)" in printed.err
    assert " videos/s" in printed.err
    failures = printed.err.splitlines()[-2:]
    assert failures[0] == "1 of 3 have no motion curve:"
    assert "bad.mp4: cannot be opened as a video" in failures[1]
    assert set(MotionIndex(out)) == {"0.mp4", "1.mp4"}
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}: 0 videos measured now, 3 before\n"
    assert "bad.mp4: cannot be opened as a video" in printed.err  # known, but told again


def test_index_of_nothing_that_can_be_measured(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{name}.mp4 0\n" for name in range(100, 130)))
    arguments = ["index", str(tmp_path / "list.txt"), "--root", str(data), "--out", str(tmp_path / "index")]
    assert main([*arguments, "--measure", "packet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "  and 10 more, all in MotionIndex(" in lines[-1]
    assert "30 of 30 have no motion curve:" in lines


def test_index_of_a_multi_label_list(data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0.mp4 0 2\n1.mp4 1\n")
    arguments = ["index", str(tmp_path / "list.txt"), "--root", str(data), "--out", str(tmp_path / "index")]
    assert main([*arguments, "--multi-label", "true", "--num-classes", "3", "--measure", "packet"]) == 0
    assert len(MotionIndex(tmp_path / "index")) == 2


@pytest.fixture(scope="module")
def index(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    assert main(["index", str(data / "list.txt"), "--root", str(data), "--out", str(folder), "--num-workers", "1"]) == 0
    return folder


def test_plot_of_an_index(index: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    command = ["plot", "--index", str(index), "--root", str(data), "--num-segments", "3"]
    assert main([*command, "--out", str(sheet), "--html", str(page)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"{sheet} shows 2 of the 2 videos with a motion curve.",
        f"{page}: All 2 videos with a motion curve. Also 1 without a motion curve, with the reason.",
    ]
    assert "could not be shown" not in printed.err
    assert sheet.stat().st_size > 0
    text = page.read_text()
    assert [text.count(f'"path":"{name}.mp4"') for name in ("0", "1", "bad")] == [1, 1, 1]
    assert "3 segments, mu=0.5" in text


def test_plot_of_an_index_says_how_many_videos_are_short(
    index: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    command = ["plot", "--index", str(index), "--root", str(data), "--num-segments", "9"]
    assert main([*command, "--out", str(sheet), "--html", str(page)]) == 0
    sheet_said, page_said = capsys.readouterr().out.splitlines()
    assert sheet_said.endswith("with a motion curve. 2 have fewer frames than the 9 segments and come last.")
    assert "2 have fewer frames than the 9 segments and come last." in page_said
    assert main([*command, "--out", str(sheet), "1.mp4"]) == 0
    assert capsys.readouterr().out == f"{sheet} shows 1 of the 2 videos with a motion curve.\n"


def test_plot_of_the_videos_that_are_named(
    index: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    command = ["plot", "--index", str(index), "--root", str(data)]
    assert main([*command, "--out", str(sheet), "--html", str(page), "1.mp4"]) == 0
    assert "sheet.png shows 1 of the 2 videos" in capsys.readouterr().out
    assert '"path":"1.mp4"' in page.read_text()
    assert '"path":"0.mp4"' not in page.read_text()
    assert "'2.mp4' is not in the motion index" in fails([*command, "--out", str(sheet), "2.mp4"], capsys)
    assert "bad.mp4: has no motion curve in" in fails([*command, "--out", str(sheet), "bad.mp4"], capsys)
    assert main([*command, "--html", str(page), "--num-videos", "1"]) == 0
    assert f"{page}: The 1 of 2 videos whose picks differ most; the others are not" in capsys.readouterr().out


def test_plot_of_an_index_whose_videos_have_moved(
    index: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    (root / "0.mp4").symlink_to(data / "0.mp4")
    command = ["plot", "--index", str(index), "--root", str(root)]
    assert main([*command, "--out", str(tmp_path / "sheet.png")]) == 0
    told = capsys.readouterr().err.splitlines()[-2:]
    assert told[0] == "1 could not be shown:"
    assert "1.mp4: no such file. Check the path in the list and the root folder" in told[1]
    (root / "0.mp4").unlink()
    for option, out in (("--out", "none.png"), ("--html", "none.html")):
        assert main([*command, option, str(tmp_path / out)]) == 2
        assert "error: not one of the 2 videos can be shown. The first: " in capsys.readouterr().err
        assert not (tmp_path / out).exists()


def test_json_goes_out_and_in(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = [str(data / "list.txt"), "--root", str(data)]
    assert main(["index", *lists, "--out", str(tmp_path / "index")]) == 0
    file = tmp_path / "img_diff_val.json"
    assert main(["export-json", str(tmp_path / "index"), "--out", str(file)]) == 0
    assert f"{file}: 2 clips, 1 without motion left out" in capsys.readouterr().out
    assert list(json.loads(file.read_text())) == ["0", "1"]
    assert main(["import-json", str(file), *lists, "--out", str(tmp_path / "again")]) == 0
    printed = capsys.readouterr()
    assert f"{tmp_path / 'again'}: 2 of the 3 videos of {data / 'list.txt'} imported" in printed.out
    assert "has no clip 'bad'" in printed.err
    assert MotionIndex(tmp_path / "again")["1.mp4"].tolist() == MotionIndex(tmp_path / "index")["1.mp4"].tolist()


def test_ctrl_c_while_indexing(data: Path, tmp_path: Path) -> None:
    """The real signal, to the whole group of processes, as a terminal sends it."""
    names = [f"{index}.mp4" for index in range(2000)]
    for index, name in enumerate(names):
        (tmp_path / name).symlink_to(data / f"{index % 2}.mp4")
    (tmp_path / "list.txt").write_text("".join(f"{name} 0\n" for name in names))
    out = tmp_path / "index"
    command = [sys.executable, "-c", "import sys; from mgs_dali.cli import main; sys.exit(main())", "index"]
    command += [str(tmp_path / "list.txt"), "--root", str(tmp_path), "--out", str(out), "--measure", "ssim"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    progress = ""
    while " 1/2000 " not in progress:  # the first is measured
        text = process.stderr.read(1)
        assert text, progress
        progress += text
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(60) == 130
    assert f"{out} keeps what was measured so far. The same command goes on from there." in said
    assert said.endswith("interrupted\n")
    assert "Traceback" not in progress + said
    assert 1 <= len(MotionIndex(out)) < len(names)


def test_hmdb51_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(51):
        (tmp_path / f"class{number}_test_split3.txt").write_text("a.avi 1\nb.avi 1\nc.avi 2\nd.avi 0\n")
    assert main(["hmdb51-lists", str(tmp_path), "--out", str(tmp_path / "lists"), "--split", "3"]) == 0
    train, test = (tmp_path / "lists" / f"hmdb51_{subset}_split3.txt" for subset in ("train", "test"))
    assert capsys.readouterr().out.splitlines() == [f"{train}: 102 videos", f"{test}: 51 videos"]
