"""The script of the GPU tests, tried without a GPU, so that a slip in it does not cost a session on one."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import clip_sets
import numpy as np
import pytest
import run
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from clip_sets import (
    COLOURS,
    DAMAGED,
    HARD,
    KINDS,
    NEVER_SHOWN,
    Kind,
    make_special,
    numbered_job,
    pictures_of,
    read_colours,
    read_number,
    unlike,
)
from machine import (
    DmonParser,
    Report,
    Utilisation,
    environment,
    parse_query,
    spawning,
    tree_memory_bytes,
    without_folders_of,
    write_json,
)
from questions import ask
from run import ORDER, markdown

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("35, 71\n", (35, 71)),
        ("0, 0", (0, 0)),
        ("[N/A], 12", None),
        ("", None),
        ('Field "utilization.decoder" is not a valid field to query.', None),
    ],
)
def test_lines_of_a_query(line: str, sample: tuple[float, float] | None) -> None:
    assert parse_query(line) == sample


def test_lines_of_dmon() -> None:
    lines = [
        "# gpu     sm    mem    enc    dec    jpg    ofa",
        "# Idx      %      %      %      %      %      %",
        "    0     12      3      0     57      0      0",
        "    0      -      -      -      -      -      -",
        "    0     14      3      0     71      0      0",
        "garbage",
    ]
    parse = DmonParser()
    assert [parse(line) for line in lines] == [None, None, (12, 57), None, (14, 71), None]


def test_dmon_columns_are_found_by_name() -> None:
    parse = DmonParser()
    assert parse("#gpu  dec  sm") is None
    assert parse("   0   80   5") == (5, 80)


ANSWERS = {
    "query": """case "$*" in *-lms*) while :; do echo "35, 71"; sleep 0.01; done;; *) echo "0, 0";; esac""",
    "dmon": """case "$*" in
*dmon*) echo "# gpu sm mem enc dec jpg ofa"; while :; do echo "  0 35 3 0 71 0 0"; sleep 0.01; done;;
*) echo 'Field "utilization.decoder" is not a valid field to query.'; exit 2;; esac""",
}


@pytest.mark.parametrize("way", ANSWERS)
def test_utilisation_by_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/bash\n{ANSWERS[way]}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with Utilisation() as utilisation:
        for _ in range(1000):
            if utilisation.summary() is not None:
                break
            time.sleep(0.01)
    summary = utilisation.summary()
    assert summary is not None
    assert (summary["gpu_mean"], summary["decoder_mean"], summary["decoder_max"]) == (35, 71, 71)


def test_no_utilisation_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Utilisation() as utilisation:
        pass
    assert utilisation.summary() is None


def test_a_search_path_without_the_folders_of_a_library(tmp_path: Path) -> None:
    for folder in ("npp", "driver"):
        (tmp_path / folder).mkdir()
    (tmp_path / "npp" / "libnppc.so.13").touch()
    (tmp_path / "driver" / "libcuda.so.1").touch()
    path = os.pathsep.join(["", str(tmp_path / "npp"), str(tmp_path / "driver"), str(tmp_path / "none")])
    assert without_folders_of("libnppc.so", path).split(os.pathsep) == [
        str(tmp_path / "driver"),
        str(tmp_path / "none"),
    ]


def test_memory_of_a_process_with_its_children() -> None:
    block = 200 * 2**20
    before = tree_memory_bytes(os.getpid())
    code = f"data = bytearray({block}); data[::4096] = bytes([1]) * len(data[::4096]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert tree_memory_bytes(os.getpid()) - before > 0.9 * block
        child.communicate(b"\n")


def test_a_report_keeps_what_came_before_an_error(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json")
    report["first"] = 1

    def fail() -> None:
        raise RuntimeError("no such thing")

    report.attempt("second", fail)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "first": 1,
        "second": {"error": "RuntimeError: no such thing"},
    }


def test_the_summary_names_what_failed_and_what_was_left_out() -> None:
    results: dict[str, Any] = {
        "environment": environment(RUN.parent),
        "sections": {
            "tests": {
                "status": "failed with exit status 1",
                "seconds": 3.0,
                "tests": {"run": 4, "skipped": 1, "failed": {"test_a": "bad |\n thing"}, "seconds": {}},
                "found": {"picks": {"equal": 0.5, "by kind": {"vp9": 1.0}}},
            },
            "engines": {"status": "no time left"},
        },
    }
    text = markdown(results)
    assert "#### tests: failed with exit status 1 (3.0 s)" in text
    assert "4 tests, 1 failed, 1 skipped." in text
    assert "- `test_a` failed: bad / thing" in text
    assert "| picks | equal 0.5; by kind (vp9 1.0) |" in text
    assert "#### engines: no time left (0 s)" in text


@pytest.mark.slow
def test_every_section_runs_without_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, str(RUN), "--device", "cpu", "--seconds", "1500", "--json", str(file)]
    variables = {name: value for name, value in os.environ.items() if name != "FAIL_WITHOUT_GPU"}
    result = subprocess.run(
        [*command, "--folder", str(tmp_path / "videos")], env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    results = json.loads(file.read_text())
    assert results["not encoded"] == {}
    assert list(results["sections"]) == list(ORDER)
    for name, section in results["sections"].items():
        assert section["status"] == "ok", name
        errors = [value for value in section["found"].values() if isinstance(value, dict) and "error" in value]
        assert errors == [], name
    assert results["sections"]["tests"]["tests"]["failed"] == {}
    assert re.search(r"\| kinetics: gpu \| batch size 2; .*; clips/s \(whole route \d", result.stdout)


def test_a_section_that_does_not_exist_is_named() -> None:
    result = subprocess.run(
        [sys.executable, str(RUN), "--only", "facts,speed"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "no such section: speed. Sections: smoke, tests, engines" in result.stderr


@pytest.mark.parametrize(("width", "height"), [(192, 192), (427, 239), (160, 256)])
def test_numbers_are_read_from_pictures(width: int, height: int) -> None:
    job = numbered_job(Path("none"), KINDS[0], width=width, height=height, numbers=[0, 1, 2, 77, 170, NEVER_SHOWN])
    side = min(width, height)
    crop = round(side * 7 / 8)
    left, top = (width - crop) // 2, (height - crop) // 2
    for number, picture in zip(job.numbers or [], pictures_of(job), strict=True):
        assert read_number(picture) == number
        assert read_number(picture[top : top + crop, left : left + crop], shown=crop / side) == number
        assert read_number(np.zeros_like(picture)) == 0
        assert (read_colours(picture) == COLOURS).all()
        assert (read_colours(picture[top : top + crop, left : left + crop], shown=crop / side) == COLOURS).all()


# --- the files that are hard to read right --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("special")
    for name in (*HARD, *DAMAGED):
        make_special(folder / name)
    return folder


def shown_by_players(file: Path) -> list[np.ndarray]:
    """The frames that a player shows, turned as the file says by hand: no reader of ours is asked."""
    with av.open(str(file)) as container:
        streams = container.streams.video
        stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
        # FFmpeg's conversion goes by the matrix that the frame names.
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    if file.stem == "hard-rotated":
        pictures = [np.rot90(picture, -1) for picture in pictures]
    if file.stem == "hard-mirrored":
        pictures = [picture[:, ::-1] for picture in pictures]
    return pictures


@pytest.mark.parametrize("name", HARD)
def test_frame_k_of_a_hard_file_shows_k(special: Path, name: str) -> None:
    pictures = shown_by_players(special / name)
    assert [read_number(picture) for picture in pictures] == list(range(len(pictures)))
    assert len(pictures) >= 50
    apart = np.mean([read_colours(picture) for picture in pictures], axis=0) - COLOURS
    assert np.abs(apart).max() < 6


def test_hard_files_are_hard(special: Path) -> None:
    def packets(name: str) -> tuple[list[av.Packet], VideoStream]:
        with av.open(str(special / name)) as container:
            return [packet for packet in container.demux(video=0) if packet.size], container.streams.video[0]

    superframes = [packet for packet in packets("hard-vp9-hidden.webm")[0] if bytes(packet)[-1] & 0xE0 == 0xC0]
    assert superframes
    assert len(packets("hard-vp8-hidden.webm")[0]) > len(shown_by_players(special / "hard-vp8-hidden.webm"))
    assert sum(packet.is_discard for packet in packets("hard-edit-list.mp4")[0]) == 7
    for name in ("hard-h264-avi.avi", "hard-mpeg4-avi.avi"):
        with av.open(str(special / name)) as container:
            assert any(frame.pict_type == PictureType.B for frame in container.decode(video=0))
    with av.open(str(special / "hard-rotated.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (160, 256, -90)
    for name in ("hard-h264-bt709.mp4", "hard-vp9-bt709.webm"):
        with av.open(str(special / name)) as container:
            assert next(container.decode(video=0)).colorspace == Colorspace.ITU709
    with av.open(str(special / "hard-two-streams.webm")) as container:
        first, second = container.streams.video
        assert (first.codec_context.width, second.codec_context.width) == (96, 192)
        assert second.disposition & Disposition.default
        assert not first.disposition & Disposition.default
        assert {read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(first)} == {NEVER_SHOWN}


@pytest.mark.parametrize("name", ["hard-h264-avi.avi", "hard-vp9-hidden.webm", "hard-vp9-bt709.webm", *DAMAGED])
def test_damage_is_seen_in_pictures(special: Path, name: str) -> None:
    with av.open(str(special / name)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wrong = unlike(np.stack(pictures), np.stack([*pictures_of(numbered_job(special / name, KINDS[0]))]))
    assert not wrong[0]
    assert wrong.any() == (name in DAMAGED)


def test_what_cannot_be_made_is_named_and_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # VP8 is not for MP4, an encoder of this name does not exist, and a folder is where a file should be.
    (tmp_path / "part-rare-blocked.avi").mkdir()
    rare = [Kind("wrong", "libvpx", "mp4"), Kind("unknown", "no-such-codec", "mp4"), Kind("blocked", "mpeg4", "avi")]
    monkeypatch.setattr(clip_sets, "RARE_KINDS", rare)
    monkeypatch.setattr(clip_sets, "HARD", {})
    monkeypatch.setattr(clip_sets, "DAMAGED", {})
    failed = clip_sets.make_clips(tmp_path, device="cpu")
    assert set(failed) == {"rare-wrong.mp4", "rare-unknown.mp4", "rare-blocked.avi"}
    lengths = {
        name: len((tmp_path / f"{name}.txt").read_text().splitlines()) for name in ("rare", "picks", "folders", "long")
    }
    assert lengths == {"rare": 0, "picks": 6, "folders": 8, "long": 1}


# --- questions ------------------------------------------------------------------------------------------------------


def test_a_question_that_crashes_is_an_answer(tmp_path: Path) -> None:
    answer = ask("mjpeg", folder=tmp_path, device="cpu")  # there is no such file
    assert answer["error"] == "no answer; its process ended with 1"
    assert "rare-mjpeg.avi" in answer["log"]


def test_a_question_that_hangs_is_an_answer(tmp_path: Path) -> None:
    answer = ask("mjpeg", folder=tmp_path, device="cpu", seconds=0.01)
    assert answer["error"] == "no answer; its process ended with -9"


def test_a_question_is_answered(special: Path) -> None:
    answer = ask("hidden frames", folder=special, device="cpu", seconds=120)
    for which in ("the file", "a copy"):
        assert answer[which]["decoded"], answer
        assert (answer[which]["frames"], answer[which]["frames out of place"]) == (60, 0)


def test_light_questions_do_without_pytorch() -> None:
    modules = "mgs_dali.graph, mgs_dali.load.nvdec, mgs_dali.decode.frames, mgs_dali.decode.packets"
    code = f"import sys, questions, {modules}; print('torch' in sys.modules)"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(RUN.parent), str(RUN.parents[2])])}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_sections_load_models_for_training_only() -> None:
    code = "import sys, sections; print([name for name in ('torchvision', 'models') if name in sys.modules])"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(RUN.parent), str(RUN.parents[2])])}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_loaders_own_threads_are_among_those_measured() -> None:
    from sections import ENGINES

    from mgs_dali.load.routes import DECODER_THREADS

    assert (1, DECODER_THREADS) in ENGINES
    assert set(ENGINES) >= {(1, 8), (1, 16), (2, 8), (1, 32), (2, 16)}


# --- results as they come -------------------------------------------------------------------------------------------


def test_what_a_section_found_is_in_the_json_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section is a stand-in that writes one result and hangs: its limit ends it, and the result is there."""
    program = tmp_path / "section.py"
    program.write_text(
        "import json, pathlib, sys, time\n"
        "file = pathlib.Path(sys.argv[sys.argv.index('--json') + 1])\n"
        "file.write_text(json.dumps({'first': 1}))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(run, "__file__", str(program))
    kept: list[dict[str, Any]] = []
    options = argparse.Namespace(device="cpu", json=tmp_path / "results.json")
    run._in_own_process("facts", options, tmp_path, seconds=3, keep=kept.append)
    assert ("running", {"first": 1}) in [(section["status"], section.get("found")) for section in kept]
    assert (kept[-1]["status"], kept[-1]["found"]) == ("stopped after 3 s", {"first": 1})


def test_outcomes_of_tests_are_written_one_by_one(tmp_path: Path) -> None:
    tests = tmp_path / "test_some.py"
    tests.write_text(
        "import json, pathlib, pytest\n"
        "def test_a(): pass\n"
        "def test_b():\n"
        "    assert json.loads(pathlib.Path('outcomes.json').read_text())['run'] == 2, 'not written yet'\n"
        "def test_c(): assert 1 == 2\n"
        "def test_d(): pytest.skip('no GPU')\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError('broken')\n"
        "def test_e(broken): pass\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(RUN.parent)!r})\nimport pytest, pathlib, run\n"
        "pytest.main(['-q', '-p', 'no:cacheprovider'], plugins=[run.Outcomes(pathlib.Path('outcomes.json'))])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    assert (outcomes["run"], outcomes["skipped"], sorted(outcomes["failed"])) == (5, 1, ["test_c", "test_e"])
    assert outcomes["failed"]["test_c"] == "assert 1 == 2"
    assert "broken" in outcomes["failed"]["test_e"]
    assert set(outcomes["seconds"]) == {"test_a", "test_b", "test_c", "test_d", "test_e"}


def test_a_report_keeps_what_was_added_before_an_error(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json")

    def measure() -> None:
        report.add("rates", first=[1])
        report.add("rates", second=[2])
        raise RuntimeError("the decoder is gone")

    report.attempt("rates", measure)
    found = {"first": [1], "second": [2], "error": "RuntimeError: the decoder is gone"}
    assert json.loads((tmp_path / "report.json").read_text()) == {"rates": found}
    report.attempt("other", lambda: {"a": 1})
    assert report["other"] == {"a": 1}


def test_a_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("out", "asked", "file"), [("out", None, "out/gpu.json"), (None, None, "gpu.json"), ("out", "x.json", "x.json")]
)
def test_results_go_to_the_folder_out(tmp_path: Path, out: str | None, asked: str | None, file: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "OUT"}
    (tmp_path / "out").mkdir()
    if out:
        variables["OUT"] = str(tmp_path / out)
    command = [sys.executable, str(RUN), "--device", "cpu", "--seconds", "5", "--only", "libraries"]
    command += ["--folder", str(tmp_path / "videos")] + (["--json", asked] if asked else [])
    code = (
        f"import sys; sys.path.insert(0, {str(RUN.parent)!r}); sys.argv = {command[1:]!r}; import run\n"
        "run.make_clips = lambda *folder, **device: None\n"
        "sys.exit(run.main())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, check=True)
    assert json.loads((tmp_path / file).read_text())["sections"] == {"libraries": {"status": "no time left"}}


def test_sections_fit_into_the_time_of_a_whole_run() -> None:
    text = subprocess.run([sys.executable, str(RUN), "--help"], capture_output=True, text=True, check=True).stdout
    default = re.search(r"time limit \(default: (\d+)\)", " ".join(text.split()))
    assert default is not None
    assert 0.9 * int(default[1]) < sum(ORDER.values()) < int(default[1])
    assert list(ORDER)[:3] == ["smoke", "tests", "engines"]


def test_workers_are_spawned_as_on_a_gpu() -> None:
    asked: dict[str, Any] = {}

    def pipeline(source: str, **options: Any) -> str:
        asked.update(options)
        return source

    assert spawning(pipeline)("a source", py_start_method="fork", batch_size=2) == "a source"
    assert asked == {"py_start_method": "spawn", "batch_size": 2}
