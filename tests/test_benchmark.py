"""The benchmark's arithmetic by hand, and (slow) that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra train")

from train import benchmark
from train.benchmark import Row, in_turn, main, make_rows, table


def test_ratios_are_of_the_same_round() -> None:
    values = {"base": [1.0, 10.0, 4.0], "other": [2.0, 30.0, 4.0]}
    base, other = make_rows("index", "h264", values, unit="videos/s", baseline="base")
    assert (base.median, base.ratio) == (4.0, None)
    assert (other.median, other.ratio) == (4.0, 2.0)  # of the ratios 2, 3 and 1; not of the medians
    assert other.rounds == [2.0, 30.0, 4.0]


def test_what_is_compared_takes_turns() -> None:
    order: list[str] = []
    found = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, num_rounds=3)  # type: ignore[misc]
    assert order == list("ababab")
    assert [len(rounds) for rounds in found.values()] == [3, 3]


def test_table() -> None:
    rows = [
        Row("index", "h264", "decode-only", "videos/s", 20.0, [19.0, 20.0, 21.0], None),
        Row("index", "h264", "pixel", "videos/s", 18.0, [17.5, 18.0, 18.123], 0.9),
    ]
    assert table(rows).splitlines() == [
        "| index: videos | what | median | lowest to highest | unit | ratio |",
        "|---|---|---|---|---|---|",
        "| h264 | decode-only | 20 | 19 to 21 | videos/s | 1 |",
        "| h264 | pixel | 18 | 17.5 to 18.1 | videos/s | 0.9 |",
    ]


@pytest.mark.parametrize("flag", ["--num-videos", "--num-rounds", "--num-workers"])
def test_counts_are_at_least_one(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["index", flag, "0"])
    assert f"{flag} must be at least 1, found 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--list", "my.txt"], "--list is for one section: python -m train.benchmark loaders --list LIST, or index"),
        (["loaders", "--root", "videos"], "--root says where the videos of --list are"),
        (["index", "--list", "my.txt"], "The list my.txt does not exist"),
    ],
)
def test_own_videos_are_for_one_section(
    arguments: list[str],
    error: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(arguments)
    assert error in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("section", "row"), [("loaders", "host-sparse, motion index"), ("index", "packet")])
def test_runs_with_own_videos(
    section: str, row: str, videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = videos["h264"]
    (tmp_path / "mine.txt").write_text(f"{file.name} 0\n" * 4)
    few = ["--num-rounds", "1", "--num-workers", "1"]
    assert main([section, "--list", str(tmp_path / "mine.txt"), "--root", str(file.parent), *few]) == 0
    assert f"| mine | {row} |" in capsys.readouterr().out


@pytest.mark.slow
def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "NUM_FRAMES", 20)
    few = ["--num-videos", "4", "--num-rounds", "1", "--num-workers", "1"]
    for section in benchmark.SECTIONS:
        assert main([section, *few, "--json", str(tmp_path / f"{section}.json")]) == 0
        rows = json.loads((tmp_path / f"{section}.json").read_text())["rows"]
        assert all(row["median"] > 0 for row in rows)
        assert f"| {rows[0]['videos']} | {rows[0]['what']} |" in capsys.readouterr().out
