"""Every list format, told apart by itself, and every mistake in one with its line and advice."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgs_dali.lists.hmdb51 import write_hmdb51_lists
from mgs_dali.lists.read import read_annotations
from mgs_dali.lists.table import Clips

KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"


def write(folder: Path, name: str, content: str | bytes | Any) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
    return file


def error_of(file: Path, **arguments: Any) -> str:
    arguments.setdefault("root", file.parent)
    with pytest.raises(ValueError) as caught:
        read_annotations(file, **arguments)
    return str(caught.value)


# --- mmaction2 video lists -------------------------------------------------------------------------------------------


def test_a_video_list(tmp_path: Path) -> None:
    file = write(tmp_path, "train.txt", "a.mp4 2\nsome/folder/b.webm 0\na.mp4 1\n")
    clips = read_annotations(file, root=tmp_path)
    assert len(clips) == 3
    assert clips.paths == ["a.mp4", "some/folder/b.webm", "a.mp4"]
    assert clips.labels.tolist() == [2, 0, 1]
    assert clips.labels.dtype == np.int64
    assert clips.first_frames.tolist() == [0, 0, 0]
    assert clips.num_frames.tolist() == [-1, -1, -1]
    assert clips.num_classes == 3
    assert clips.class_names is None
    assert clips.file(1) == tmp_path / "some/folder/b.webm"
    assert clips.list_lines.tolist() == [1, 2, 3]
    assert clips.where(2) == f"{file}, line 3"


def test_the_list_may_come_from_anywhere(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "list",
        b"\xef\xbb\xbfa.mp4 1  \r\n\r\n  \t\r\nmy holiday, part 2.mp4\t0\t\r\n# 3.mp4 1\r\n\xc3\xa9.mp4 1",
    )
    clips = read_annotations(str(file), root=str(tmp_path))
    assert clips.paths == ["a.mp4", "my holiday, part 2.mp4", "# 3.mp4", "é.mp4"]
    assert clips.labels.tolist() == [1, 0, 1, 1]
    assert clips.list_lines.tolist() == [1, 4, 5, 6]
    assert clips.where(1) == f"{file}, line 4"


EVERY_FORMAT: dict[str, tuple[str, dict[str, Any]]] = {
    "t.txt": ("é.mp4 1\nb.mp4 0\n", {}),
    "rawframes.txt": ("é 9 1\nb 9 0\n", {"template": "{}.jpg"}),
    "mmaction2.json": ('[{"filename": "é.mp4", "label": 1}, {"filename": "b.mp4", "label": 0}]', {}),
    "frames.json": (
        '[{"frame_dir": "é", "total_frames": 9, "label": 1}, {"frame_dir": "b", "total_frames": 9, "label": 0}]',
        {"template": "{}.jpg"},
    ),
    "diving48.json": ('[{"vid_name": "é", "label": 1}, {"vid_name": "b", "label": 0}]', {}),
    "sthv2.json": ('[{"id": "é", "template": "[x] up"}, {"id": "b", "template": "down"}]', {}),
    "kinetics.csv": ("label,youtube_id,time_start,time_end\nx up,é,0,1\ndown,b,0,1\n", {}),
    "sthv1.csv": ("7;x up\n8; down\n", {}),
    "trainlist01.txt": ("x/é.avi\ny/b.avi\n", {}),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_every_format_may_have_a_byte_order_mark(tmp_path: Path, name: str, encoding: str) -> None:
    content, arguments = EVERY_FORMAT[name]
    labels = {
        "kinetics.csv": "down\nx up\n",
        "sthv1.csv": "down\nx up\n",
        "sthv2.json": '{"down": "0", "x up": "1"}',
        "trainlist01.txt": "y\nx\n",
    }
    if name in labels:
        names = write(
            tmp_path, f"names{Path(name).suffix if name == 'sthv2.json' else '.txt'}", labels[name].encode(encoding)
        )
        arguments = {**arguments, "class_names": names}
    clips = read_annotations(write(tmp_path, name, content.encode(encoding)), root=tmp_path, **arguments)
    assert clips.labels.tolist() == [1, 0]
    assert "\ufeff" not in "".join(clips.paths)
    assert name == "sthv1.csv" or "é" in clips.paths[0]


def test_lists_with_marks_that_were_put_together(tmp_path: Path) -> None:
    part = b"\xef\xbb\xbfa.mp4 0\r\n"
    assert read_annotations(write(tmp_path, "t.txt", 2 * part), root=tmp_path).paths == ["a.mp4", "a.mp4"]


def test_a_path_that_is_not_utf8_is_told_and_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, "t.txt", b"a.mp4 0\nb\xff.mp4 1\nc\xfe.mp4 1\n")
    clips = read_annotations(file, root=tmp_path)
    assert [os.fsencode(path) for path in clips.paths] == [b"a.mp4", b"b\xff.mp4", b"c\xfe.mp4"]
    (said,) = caplog.messages
    assert said.startswith(rf"{file}: 2 of 3 paths are not UTF-8, such as 'b\udcff.mp4' ({file}, line 2). If the list")
    assert "rename it" in said
    caplog.clear()
    json_list = write(tmp_path, "t.json", b'[{"filename": "b\xff.mp4", "label": 0}]')
    assert os.fsencode(read_annotations(json_list, root=tmp_path).paths[0]) == b"b\xff.mp4"
    assert "1 of 1 paths is not UTF-8" in caplog.text


def test_a_class_that_is_not_utf8(tmp_path: Path) -> None:
    csv = write(tmp_path, "t.csv", KINETICS_HEADER.encode() + b"r\xfcn,a,0,10,train\n")
    assert r"the name of the class 'r\udcfcn' is not UTF-8" in error_of(csv)
    assert "not UTF-8 text (byte 0xfc)" in error_of(csv, class_names=write(tmp_path, "names.txt", b"r\xfcn\n"))


@pytest.mark.parametrize(
    ("content", "arguments", "is_told"),
    [
        ("a.mp4 1\nb.mp4 2\nc.mp4 3\na.mp4 3\n", {}, True),
        ("a.mp4 1\nb.mp4 2\n", {"num_classes": 3}, True),
        ("a.mp4 1 2\nb.mp4 3\n", {"multi_label": True, "num_classes": 4}, True),
        ("a 9 2\nb 9 1\n", {"template": "{}.jpg"}, True),
        ('[{"filename": "a", "label": 1}, {"filename": "b", "label": [2]}]', {}, True),
        ('[{"vid_name": "a", "label": 1}, {"vid_name": "b", "label": 2}]', {}, True),
        ("a.mp4 0\nb.mp4 1\nc.mp4 2\n", {}, False),
        ("a.mp4 1\nb.mp4 3\n", {}, False),  # an excerpt
        ("a.mp4 2\nb.mp4 3\n", {}, False),
        ("a.mp4 1\nb.mp4 1\n", {}, False),  # one class tells nothing
        ("a.mp4 1\nb.mp4 2\n", {"class_names": ["none", "x", "y"]}, False),  # whoever names class 0 has counted from 0
    ],
)
def test_labels_that_start_at_1_are_told(
    tmp_path: Path, content: str, arguments: dict[str, Any], is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, f"t.{'json' if content.startswith('[') else 'txt'}", content)
    clips = read_annotations(file, root=tmp_path, **arguments)
    assert len(caplog.messages) == is_told
    if is_told:
        last = int(clips.labels.max()) if clips.labels.ndim == 1 else 3
        assert f"{file}: its labels are 1 to {last}, and none is 0" in caplog.messages[0]
        assert "take 1 off each" in caplog.messages[0]


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    clips = read_annotations(write(tmp_path, "t.txt", "a\x0b\u2028b.mp4 0\nc.mp4 0\n"), root=tmp_path)
    assert clips.paths == ["a\x0b\u2028b.mp4", "c.mp4"]


def test_the_number_of_classes_and_their_names(tmp_path: Path) -> None:
    file = write(tmp_path, "t.txt", "a.mp4 1\n")
    assert read_annotations(file, root=tmp_path).num_classes == 2
    assert read_annotations(file, root=tmp_path, num_classes=5).num_classes == 5
    named = read_annotations(file, root=tmp_path, class_names=["jump", "run", "sit"])
    assert (named.num_classes, named.class_names) == (3, ["jump", "run", "sit"])
    names = write(tmp_path, "label_map.txt", "jump\nrun far\n\nsit\n")
    assert read_annotations(file, root=tmp_path, class_names=names).class_names == ["jump", "run far", "sit"]


def test_a_multi_label_list(tmp_path: Path) -> None:
    file = write(tmp_path, "t.txt", "a.mp4 0 3\nb.mp4 1\nc.mp4 3 3 2\n")
    clips = read_annotations(file, root=tmp_path, num_classes=4, multi_label=True)
    assert clips.paths == ["a.mp4", "b.mp4", "c.mp4"]
    assert clips.labels.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1]]
    assert clips.labels.dtype == np.float32


def test_the_table_pickles(tmp_path: Path) -> None:
    clips = read_annotations(write(tmp_path, "t.txt", "a.mp4 2\nb.mp4 0\n"), root=tmp_path)
    copy = pickle.loads(pickle.dumps(clips))
    assert isinstance(copy, Clips)
    assert (copy.paths, copy.labels.tolist(), copy.where(1)) == (clips.paths, clips.labels.tolist(), clips.where(1))


def test_a_large_list_without_a_single_video(tmp_path: Path) -> None:
    num_clips = 220_000
    file = write(tmp_path, "t.txt", "".join(f"class {i % 174}/{i}.webm {i % 174}\n" for i in range(num_clips)))
    clips = read_annotations(file, root=tmp_path, num_classes=174)
    assert len(clips) == num_clips
    np.testing.assert_array_equal(clips.labels, np.arange(num_clips) % 174)
    np.testing.assert_array_equal(clips.list_lines, np.arange(num_clips) + 1)
    assert clips.paths[-1] == f"class {(num_clips - 1) % 174}/{num_clips - 1}.webm"


@pytest.mark.parametrize(
    ("content", "arguments", "parts"),
    [
        ("a.mp4 0\n\nb.mp4\n", {}, ["t.txt, line 3", "expected `path label`", "'b.mp4'"]),
        ("a.mp4 0\nb.mp4 x7\n", {}, ["t.txt, line 2", "'x7' is not a whole number"]),
        ("a.mp4 1.0\n", {}, ["line 1", "'1.0' is not a whole number"]),
        ("a.mp4 0\nb.mp4 -1\n", {}, ["t.txt, line 2", "label -1 of 'b.mp4'", "Class numbers count from 0"]),
        ("a.mp4 9\nb.mp4 10\n", {"num_classes": 10}, ["t.txt, line 2", "label 10 of 'b.mp4'", "Allowed are 0 to 9"]),
        ("a.mp4 99999999999999999999\n", {}, ["line 1", "out of range"]),
        ("a.mp4 3\n", {"class_names": ["x", "y"]}, ["line 1", "label 3", "Allowed are 0 to 1"]),
        ("a.mp4 0 3\n", {}, ["line 1", "more than one number", "multi_label=True and num_classes"]),
        ("frames/a\t163 3\n", {}, ["line 1", "more than one number", "`folder total_frames label`", "Give template"]),
        ("a.mp4 0\n", {"with_offset": True}, ["with_offset=True is for lists of frame folders", "Give template"]),
        (
            "frames/a 163 1 3\nframes/b 7 2\n",
            {"multi_label": True, "num_classes": 200},
            ["line 1", "'frames/a' looks like a frame folder and 163 like its number of frames", "Give template"],
        ),
        ("", {}, ["t.txt: the list is empty"]),
        (" \n\r\n", {}, ["t.txt: the list is empty"]),
        (b"a.mp4 0\n\x00b\xff.mp4 0\n", {}, ["t.txt, line 2", "not UTF-8 text (byte 0x00)"]),
        (b"\xff\xfea\x00\x20\x00\x30", {}, ["t.txt, line 1", "not UTF-8 text (byte 0x30)"]),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01\x00\x00\x00", {}, ["t.txt, line 1", "not UTF-8 text"]),
        ("a.mp4 0\nb.mp4, 0\n", {}, ["t.txt, line 2: the path 'b.mp4,' ends in ','", "write 'b.mp4 0'"]),
        ("a.MP4; 0\n", {}, ["line 1: the path 'a.MP4;' ends in ';'", "by blanks or tabs, found ';': write 'a.MP4 0'"]),
        (
            "a.mp4, 0 3\n",
            {"multi_label": True, "num_classes": 9},
            ["line 1: the path 'a.mp4,' ends in ','", "by blanks"],
        ),
        ("a.mp4,0\n", {}, ["line 1: expected `path label`, found 'a.mp4,0'", "found ',': write 'a.mp4 0'"]),
        (
            "a.mp4, 0, 3\n",
            {"multi_label": True, "num_classes": 9},
            ["line 1: the path 'a.mp4,' ends in ','", "write 'a.mp4 0 3'"],
        ),
        (
            "a.mp4 0, 3\n",
            {"multi_label": True, "num_classes": 9},
            ["line 1: the label '0,' is not a whole number", "found ',': write 'a.mp4 0 3'"],
        ),
        ("a.mp4 1\nb.mp4 2\n", {"num_classes": 2}, ["line 2: the label 2", "this list are 1 to 2: take 1 off each"]),
        ("a.mp4 1\nb.mp4 3\n", {"num_classes": 3}, ["line 2: the label 3", "Correct the label or num_classes"]),
        ("a.mp4 0 1\n", {"multi_label": True}, ["multi_label=True needs num_classes"]),
        ("a.mp4\n", {"multi_label": True, "num_classes": 3}, ["line 1", "expected `path label label ...`"]),
        ("a b.mp4 0\n", {"multi_label": True, "num_classes": 3}, ["line 1", "'b.mp4' is not", "cannot have blanks"]),
        ("a.mp4 0 3\n", {"multi_label": True, "num_classes": 3}, ["line 1", "label 3", "Allowed are 0 to 2"]),
        ("a.mp4 0\n", {"class_names": ["x", "y"], "num_classes": 3}, ["2 names", "num_classes is 3"]),
        ("a.mp4 0\n", {"class_names": ["x", "x"]}, ["'x' more than once"]),
        ("a.mp4 0\n", {"class_names": []}, ["class_names is empty"]),
        ("a.mp4 0\n", {"class_names": "nowhere.txt"}, ["nowhere.txt does not exist"]),
        ("a.mp4 0\n", {"num_classes": 0}, ["num_classes must be from 1"]),
        ("a.mp4 0\n", {"root": None}, ["t.txt: root is missing", "root=FOLDER"]),
        ("a.mp4 0\n", {"root": "no/such/folder"}, ["t.txt", "root='no/such/folder' is not a folder"]),
    ],
)
def test_mistakes_in_a_video_list(tmp_path: Path, content: Any, arguments: dict[str, Any], parts: list[str]) -> None:
    message = error_of(write(tmp_path, "t.txt", content), **arguments)
    for part in parts:
        assert part in message


def test_a_missing_list(tmp_path: Path) -> None:
    assert "nowhere.txt does not exist" in error_of(tmp_path / "nowhere.txt")


# --- mmaction2 JSON lists --------------------------------------------------------------------------------------------


def test_a_json_list(tmp_path: Path) -> None:
    file = write(tmp_path, "train.json", [{"filename": "a b.mp4", "label": [2]}, {"filename": "c.mp4", "label": 0}])
    clips = read_annotations(file, root=tmp_path)
    assert clips.paths == ["a b.mp4", "c.mp4"]
    assert clips.labels.tolist() == [2, 0]
    assert clips.num_classes == 3
    assert clips.where(1) == f"{file}, entry 2"


def test_a_multi_label_json_list(tmp_path: Path) -> None:
    file = write(tmp_path, "train.json", [{"filename": "a.mp4", "label": [2, 0]}])
    clips = read_annotations(file, root=tmp_path, multi_label=True, class_names=["x", "y", "z"])
    assert clips.labels.tolist() == [[1, 0, 1]]
    assert clips.class_names == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('[{"filename": "a.mp4",\n "label": [1]},\n}', ["t.json, line 3, column 1", "not valid JSON"]),
        ({"filename": "a.mp4", "label": [1]}, ["t.json: expected a JSON list of videos, found dict"]),
        ([], ["t.json: the list is empty"]),
        ([["a.mp4", 1]], ["t.json, entry 1", "found ['a.mp4', 1]"]),
        (
            [{"frame_dir": "a", "total_frames": 9, "label": [1]}],
            ["entry 1: entries with 'frame_dir' are frame folders", "Give template", "'img_{:05}.jpg'"],
        ),
        ([{"path": "a", "label": 1}], ["entry 1: unknown format", "'path'", "'frame_dir'", "'vid_name'"]),
        ([{}], ["entry 1: unknown format", "none"]),
        ([{"filename": "a.mp4", "label": [1]}, {"filename": "b.mp4"}], ["entry 2", "found None"]),
        ([{"filename": "a.mp4", "label": ["1"]}], ["entry 1", "whole numbers", "['1']"]),
        ([{"filename": "a.mp4", "label": True}], ["entry 1", "whole numbers", "True"]),
        ([{"filename": "a.mp4", "label": []}], ["entry 1", "whole numbers", "[]"]),
        ([{"filename": "", "label": [1]}], ["entry 1", "a path as 'filename'"]),
        ([{"filename": "a\0.mp4", "label": [1]}], ["entry 1: the path 'a\\x00.mp4' has a NUL in it"]),
        ([{"filename": "a.mp4", "label": [1, 2]}], ["entry 1", "2 labels", "multi_label=True"]),
        ([{"filename": "a.mp4", "label": [-2]}], ["entry 1", "label -2 of 'a.mp4'"]),
    ],
)
def test_mistakes_in_a_json_list(tmp_path: Path, content: Any, parts: list[str]) -> None:
    message = error_of(write(tmp_path, "t.json", content))
    for part in parts:
        assert part in message


# --- mmaction2 lists of frame folders --------------------------------------------------------------------------------

TEMPLATE = "img_{:05}.jpg"


def test_a_list_of_frame_folders(tmp_path: Path) -> None:
    file = write(tmp_path, "train.txt", "some/folder 163 1\n\nmy clip, part two,\t17\t0\r\n7 1 1\n")
    clips = read_annotations(file, root=tmp_path, template=TEMPLATE)
    assert clips.paths == ["some/folder", "my clip, part two,", "7"]
    assert clips.first_frames.tolist() == [0, 0, 0]
    assert clips.num_frames.tolist() == [163, 17, 1]
    assert clips.labels.tolist() == [1, 0, 1]
    assert (clips.template, clips.num_classes) == (TEMPLATE, 2)
    assert clips.list_lines.tolist() == [1, 3, 4]


def test_a_list_of_frame_folders_with_offset(tmp_path: Path) -> None:
    file = write(tmp_path, "train.txt", "a 12 163 3\nmy clip 0 5 0\n")
    clips = read_annotations(file, root=tmp_path, template=TEMPLATE, with_offset=True)
    assert clips.paths == ["a", "my clip"]
    assert clips.first_frames.tolist() == [12, 0]
    assert clips.num_frames.tolist() == [163, 5]
    assert clips.labels.tolist() == [3, 0]


@pytest.mark.parametrize("with_offset", [False, True])
def test_a_multi_label_list_of_frame_folders(tmp_path: Path, with_offset: bool) -> None:
    offset = " 12" if with_offset else ""
    file = write(tmp_path, "train.txt", f"a{offset} 163 1 3\nb{offset} 9 0\n")
    clips = read_annotations(
        file, root=tmp_path, template=TEMPLATE, with_offset=with_offset, multi_label=True, num_classes=4
    )
    assert clips.paths == ["a", "b"]
    assert clips.first_frames.tolist() == ([12, 12] if with_offset else [0, 0])
    assert clips.num_frames.tolist() == [163, 9]
    assert clips.labels.tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]


def test_a_json_list_of_frame_folders(tmp_path: Path) -> None:
    entries = [
        {"frame_dir": "a b", "total_frames": 163, "label": [2]},
        {"frame_dir": "c", "offset": 12, "total_frames": 5, "label": 0},
    ]
    file = write(tmp_path, "train.json", entries)
    clips = read_annotations(file, root=tmp_path, template=TEMPLATE)
    assert clips.paths == ["a b", "c"]
    assert clips.first_frames.tolist() == [0, 12]
    assert clips.num_frames.tolist() == [163, 5]
    assert clips.labels.tolist() == [2, 0]
    several = read_annotations(file, root=tmp_path, template=TEMPLATE, multi_label=True, num_classes=3)
    assert several.labels.tolist() == [[0, 0, 1], [1, 0, 0]]


@given(
    rows=st.lists(
        st.tuples(
            st.from_regex(r"[a-z]+(/[a-z0-9_.-]+)?( [a-z]+)?", fullmatch=True),
            st.integers(0, 10**6),
            st.integers(1, 10**6),
            st.integers(0, 400),
        ),
        min_size=1,
    ),
    with_offset=st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int, int]], with_offset: bool
) -> None:
    folder = tmp_path_factory.mktemp("list")
    lines = [
        f"{path} {first} {count} {label}" if with_offset else f"{path} {count} {label}"
        for path, first, count, label in rows
    ]
    file = write(folder, "t.txt", "\n".join(lines))
    clips = read_annotations(file, root=folder, template=TEMPLATE, with_offset=with_offset)
    read = list(
        zip(clips.paths, clips.first_frames.tolist(), clips.num_frames.tolist(), clips.labels.tolist(), strict=True)
    )
    assert read == [(path, first if with_offset else 0, count, label) for path, first, count, label in rows]


@pytest.mark.parametrize(
    ("content", "arguments", "parts"),
    [
        ("a.mp4 1\n", {}, ["line 1", "expected `folder total_frames label`", "leave template out"]),
        ("a 9 1\nb 9\n", {}, ["t.txt, line 2", "found 'b 9'"]),
        ("a 163 3\n", {"with_offset": True}, ["line 1", "expected `folder offset total_frames label`", "'a 163 3'"]),
        ("a 12 163 3\n", {}, ["line 1", "more than 2 numbers", "give with_offset=True", "multi_label=True"]),
        ("a 1 12 163 3\n", {"with_offset": True}, ["line 1", "more than 3 numbers", "multi_label=True"]),
        ("a ten 3\n", {}, ["line 1", "the total_frames 'ten' is not a whole number"]),
        ("a x 10 3\n", {"with_offset": True}, ["line 1", "the offset 'x' is not a whole number"]),
        ("a 10 3.0\n", {}, ["line 1", "the label '3.0' is not a whole number"]),
        ("a, 10, 3\n", {}, ["line 1: the total_frames '10,' is not", "write 'a 10 3'"]),
        ("a, 10 3\nb, 9 3\n", {}, ["line 1: the path 'a,' ends in ','", "set apart by blanks or tabs."]),
        ("a 0 3\n", {}, ["line 1", "'a' has a total_frames of 0; 1 or more are allowed", "with_offset=True"]),
        ("a -1 3\n", {}, ["line 1", "total_frames of -1"]),
        ("a 99999999999999999999 3\n", {}, ["line 1", "total_frames of 99999999999999999999"]),
        ("a -1 9 3\n", {"with_offset": True}, ["line 1", "the offset -1 of 'a' is out of range"]),
        ("a 9 -3\n", {}, ["line 1", "label -3 of 'a'"]),
        ("a 9 3\n", {"multi_label": True}, ["multi_label=True needs num_classes"]),
        (
            "a 9\n",
            {"multi_label": True, "num_classes": 3},
            ["line 1", "expected `folder total_frames label label ...`"],
        ),
        (
            "a 12 163 3\n",
            {"multi_label": True, "num_classes": 9, "with_offset": False},
            ["line 1", "label 163 of 'a' is out of range"],
        ),
    ],
)
def test_mistakes_in_a_list_of_frame_folders(
    tmp_path: Path, content: str, arguments: dict[str, Any], parts: list[str]
) -> None:
    message = error_of(write(tmp_path, "t.txt", content), **{"template": TEMPLATE, **arguments})
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("content", "arguments", "parts"),
    [
        ([{"filename": "a.mp4", "label": [1]}], {}, ["entry 1", "'filename' are videos", "Leave template out"]),
        ([{"frame_dir": "a", "label": [1]}], {}, ["entry 1", "'total_frames'", "found None and 0"]),
        ([{"frame_dir": "a", "total_frames": "9", "label": [1]}], {}, ["entry 1", "whole numbers", "found '9'"]),
        ([{"frame_dir": "a", "total_frames": 0, "label": [1]}], {}, ["entry 1", "total_frames of 0"]),
        ([{"frame_dir": "a", "total_frames": 9, "offset": -1, "label": [1]}], {}, ["entry 1", "the offset -1"]),
        (
            [{"frame_dir": "a", "total_frames": 9, "label": [1]}, {"filename": "b.mp4", "label": [1]}],
            {},
            ["entry 2", "a path as 'frame_dir', found None"],
        ),
        (
            [{"frame_dir": "a", "total_frames": 9, "label": [1]}],
            {"with_offset": True},
            ["text lists", "Leave with_offset out"],
        ),
    ],
)
def test_mistakes_in_a_json_list_of_frame_folders(
    tmp_path: Path, content: Any, arguments: dict[str, Any], parts: list[str]
) -> None:
    message = error_of(write(tmp_path, "t.json", content), template=TEMPLATE, **arguments)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "template", [TEMPLATE, "{:05}.jpg", "{:06d}.jpg", "{}.png", "{:d}", "a b-{0:05}.jpg", "{{{:03}}}.jpg"]
)
def test_templates(tmp_path: Path, template: str) -> None:
    file = write(tmp_path, "t.txt", "a 9 0\n")
    assert read_annotations(file, root=tmp_path, template=template).template == template


@pytest.mark.parametrize(
    "template",
    [
        "img.jpg",
        "",
        "img_%05d.jpg",
        "img_{:05.jpg",
        "img_}{",
        "flow_{}_{:05}.jpg",
        "/folder/{:05}.jpg",
        "flow_{x,y}_{:05}.jpg",
        "{0.__class__}.jpg",
        "{0[0]}.jpg",
        "{number:05}.jpg",
        "{1:05}.jpg",
        "{!r}.jpg",
        "{:x}.jpg",
        "{:05.1f}.jpg",
        "{:,}.jpg",
        "{:{}}.jpg",
        "{:5}.jpg",
        "{:0999999999}.jpg",
    ],
)
def test_what_is_no_template(tmp_path: Path, template: str) -> None:
    message = error_of(write(tmp_path, "t.txt", "a 9 0\n"), template=template)
    assert f"template {template!r} does not name a file by its number" in message
    assert "'img_{:05}.jpg' (which names img_00001.jpg), '{:05}.jpg', '{:06d}.jpg' or '{}.jpg'" in message
    assert ("What is %05d elsewhere is {:05} here." in message) == ("%" in template)


# --- Something-Something V2 ------------------------------------------------------------------------------------------

SSV2_LABELS = {"Opening something": "1", "Holding something next to something": "0", "Turning the camera left": "2"}
SSV2_TRAIN = [
    {"id": "78687", "label": "holding a next to b", "template": "Holding [something] next to [something]"},
    {"id": 41, "label": "opening a door", "template": "Opening [something]", "placeholders": ["door"]},
]


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_something_something_v2(tmp_path: Path, prefix: str, split: str) -> None:
    write(tmp_path, f"labels/{prefix}labels.json", SSV2_LABELS)
    clips = read_annotations(write(tmp_path, f"labels/{prefix}{split}.json", SSV2_TRAIN), root=tmp_path)
    assert clips.paths == ["78687.webm", "41.webm"]
    assert clips.labels.tolist() == [0, 1]
    assert clips.num_classes == 3
    assert clips.class_names == ["Holding something next to something", "Opening something", "Turning the camera left"]


def test_something_something_v2_with_classes_from_elsewhere(tmp_path: Path) -> None:
    file = write(tmp_path, "train.json", SSV2_TRAIN)
    labels = write(tmp_path, "elsewhere/names.json", SSV2_LABELS)
    assert read_annotations(file, root=tmp_path, class_names=labels).labels.tolist() == [0, 1]
    names = ["Opening something", "Holding something next to something"]
    assert read_annotations(file, root=tmp_path, class_names=names).labels.tolist() == [1, 0]


def test_mistakes_in_something_something_v2(tmp_path: Path) -> None:
    file = write(tmp_path, "train.json", SSV2_TRAIN)
    message = error_of(file)
    assert "labels.json beside it" in message
    assert "class_names=FILE" in message
    message = error_of(file, class_names=["Opening something"])
    assert "train.json, entry 1: the class 'Holding something next to something' is not one of the 1 known" in message
    message = error_of(write(tmp_path, "test.json", [{"id": "1420"}]), class_names=["Opening something"])
    assert "test.json, entry 1: expected 'id' and 'template', found 'id'" in message
    assert "use train.json or validation.json" in message
    write(tmp_path, "labels.json", {"Opening something": "1"})
    assert "labels.json: expected the classes with their numbers from 0 up" in error_of(file)
    write(tmp_path, "labels.json", SSV2_LABELS)
    assert "found 3 classes but num_classes is 174" in error_of(file, num_classes=174)
    assert "one class for each video" in error_of(file, multi_label=True)


def test_frame_folders_of_something_something_v2(tmp_path: Path) -> None:
    write(tmp_path, "labels.json", SSV2_LABELS)
    clips = read_annotations(write(tmp_path, "train.json", SSV2_TRAIN), root=tmp_path, template="{:06d}.jpg")
    assert clips.paths == ["78687", "41"]
    assert (clips.template, clips.num_frames.tolist()) == ("{:06d}.jpg", [-1, -1])
    assert "Leave with_offset out" in error_of(tmp_path / "train.json", template="{:06d}.jpg", with_offset=True)


# --- Something-Something V1, Jester ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["something-something-v1-", "jester-v1-", ""])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_something_something_v1_and_jester(tmp_path: Path, prefix: str, split: str) -> None:
    # not in alphabetical order, as the official file is not: it is the line that counts
    write(
        tmp_path, f"{prefix}labels.csv", "Holding something\nTurning the camera left, slowly\nApproaching something\n"
    )
    file = write(
        tmp_path, f"{prefix}{split}.csv", "100218;Approaching something\r\n\n7;Turning the camera left, slowly\n"
    )
    clips = read_annotations(file, root=tmp_path)
    assert clips.paths == ["100218", "7"]
    assert clips.labels.tolist() == [2, 1]
    assert clips.num_classes == 3
    assert clips.class_names is not None
    assert clips.class_names[0] == "Holding something"
    assert clips.template == "{:05}.jpg"
    assert clips.num_frames.tolist() == [-1, -1]
    assert clips.where(1) == f"{file}, line 3"
    assert read_annotations(file, root=tmp_path, template=TEMPLATE).template == TEMPLATE
    other = ["Turning the camera left, slowly", "Approaching something"]
    assert read_annotations(file, root=tmp_path, class_names=other).labels.tolist() == [1, 0]


def test_mistakes_in_something_something_v1(tmp_path: Path) -> None:
    file = write(tmp_path, "something-something-v1-train.csv", "1;Holding something\n2\n")
    message = error_of(file)
    assert "needs the official something-something-v1-labels.csv beside it" in message
    assert "class_names=FILE" in message
    write(tmp_path, "something-something-v1-labels.csv", "Holding something\n")
    message = error_of(file)
    assert "train.csv, line 2: expected `id;class`" in message
    assert "found '2'" in message
    assert "use train or validation" in message
    assert "the class 'Holding' is not one of the 1 known" in error_of(write(tmp_path, file.name, "1;Holding\n"))
    assert "Leave multi_label out" in error_of(write(tmp_path, file.name, "1;Holding something\n"), multi_label=True)
    # without classes nothing tells it from a list of videos
    assert "one of Something-Something V1 or Jester with `id;class`" in error_of(write(tmp_path, "test.csv", "1\n2\n"))


# --- Diving48 --------------------------------------------------------------------------------------------------------

DIVING48 = [
    {"vid_name": "0NHvL-h3v5g_00112", "label": 6, "start_frame": 0, "end_frame": 150},
    {"vid_name": "_8Vy3dlHg2w_00000", "label": 0, "start_frame": 0, "end_frame": 87},
]


def test_diving48(tmp_path: Path) -> None:
    file = write(tmp_path, "Diving48_V2_train.json", DIVING48)
    clips = read_annotations(file, root=tmp_path, num_classes=48)
    assert clips.paths == ["0NHvL-h3v5g_00112.mp4", "_8Vy3dlHg2w_00000.mp4"]
    assert clips.labels.tolist() == [6, 0]
    assert (clips.num_classes, clips.template) == (48, None)
    frames = read_annotations(file, root=tmp_path, num_classes=48, template=TEMPLATE)
    assert frames.paths == ["0NHvL-h3v5g_00112", "_8Vy3dlHg2w_00000"]
    assert frames.num_frames.tolist() == [-1, -1]


def test_mistakes_in_diving48(tmp_path: Path) -> None:
    file = write(tmp_path, "Diving48_V2_test.json", DIVING48)
    assert "entry 1: the label 6 of '0NHvL-h3v5g_00112.mp4' is out of range" in error_of(file, num_classes=5)
    assert "Leave multi_label out" in error_of(file, num_classes=48, multi_label=True)
    message = error_of(write(tmp_path, "t.json", [DIVING48[0], {"vid_name": "a"}]))
    assert "t.json, entry 2: expected a name as 'vid_name' and a whole number as 'label' (Diving48)" in message


# --- UCF101 ----------------------------------------------------------------------------------------------------------

UCF101_CLASSES = "1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n3 HandstandPushups\r\n"
UCF101_TRAIN = """ApplyLipstick/v_ApplyLipstick_g08_c01.avi 2
ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 1

HandstandPushups/v_HandStandPushups_g08_c01.avi 3
"""


def test_ucf101_counts_from_1(tmp_path: Path) -> None:
    write(tmp_path, "classInd.txt", UCF101_CLASSES)
    clips = read_annotations(write(tmp_path, "trainlist01.txt", UCF101_TRAIN), root=tmp_path)
    assert clips.paths[0] == "ApplyLipstick/v_ApplyLipstick_g08_c01.avi"
    assert clips.labels.tolist() == [1, 0, 2]
    assert clips.class_names == ["ApplyEyeMakeup", "ApplyLipstick", "HandstandPushups"]
    assert clips.list_lines.tolist() == [1, 2, 4]

    test = write(tmp_path, "testlist03.txt", "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n")
    assert read_annotations(test, root=tmp_path).labels.tolist() == [2]
    named = read_annotations(test, root=tmp_path, class_names=tmp_path / "classInd.txt")
    assert (named.labels.tolist(), named.num_classes) == ([2], 3)

    frames = read_annotations(test, root=tmp_path, template=TEMPLATE)
    assert frames.paths == ["HandstandPushups/v_HandStandPushups_g01_c01"]
    assert frames.num_frames.tolist() == [-1]


def test_mistakes_in_ucf101(tmp_path: Path) -> None:
    file = write(tmp_path, "trainlist01.txt", UCF101_TRAIN)
    assert "needs the official classInd.txt beside it" in error_of(file)
    names = write(tmp_path, "classInd.txt", "1 ApplyLipstick\n2 ApplyEyeMakeup\n3 HandstandPushups\n")
    message = error_of(file)
    assert "line 1: the class 'ApplyLipstick' has the number 2, but 1 in the list of classes" in message
    assert "the official classInd.txt" in message
    write(tmp_path, "classInd.txt", "0 ApplyEyeMakeup\n")
    assert "classInd.txt: expected UCF101's classes with their numbers from 1 up" in error_of(file)
    write(tmp_path, "classInd.txt", "1 Apply Eye Makeup\n")
    assert "expected UCF101's classes" in error_of(file, class_names=names)
    write(tmp_path, "classInd.txt", UCF101_CLASSES)
    message = error_of(write(tmp_path, "trainlist02.txt", "a.mp4 0\n"))
    assert "trainlist02.txt, line 1" in message
    assert "Rename a list of your own" in message


def test_an_official_ucf101_list_is_not_read_with_labels_one_too_high(tmp_path: Path) -> None:
    renamed = write(tmp_path, "train.txt", UCF101_TRAIN)
    message = error_of(renamed)
    assert "looks like an official UCF101 list, whose classes count from 1" in message
    assert "trainlist01.txt" in message
    from_0 = "ApplyLipstick/v_ApplyLipstick_g08_c01.avi 1\nApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi 0\n"
    assert read_annotations(write(tmp_path, "train.txt", from_0), root=tmp_path).labels.tolist() == [1, 0]


# --- HMDB51 ----------------------------------------------------------------------------------------------------------


def write_hmdb51(folder: Path, split: int) -> None:
    for number in range(51):
        content = f"a#{number}_(x)_0.avi 1 \r\nb{number}.avi 2 \nc{number}.avi 0 \n"
        write(folder, f"class_{number:02}_test_split{split}.txt", content)


def test_hmdb51(tmp_path: Path) -> None:
    write_hmdb51(tmp_path / "splits", 1)
    write_hmdb51(tmp_path / "splits", 2)
    train, test = write_hmdb51_lists(tmp_path / "splits", tmp_path / "lists", split=2)
    assert (train.name, test.name) == ("hmdb51_train_split2.txt", "hmdb51_test_split2.txt")
    clips = read_annotations(train, root=tmp_path, class_names=tmp_path / "lists/hmdb51_classes.txt")
    assert clips.paths[:2] == ["class_00/a#0_(x)_0.avi", "class_01/a#1_(x)_0.avi"]
    assert clips.labels.tolist() == list(range(51))
    assert clips.class_names == [f"class_{number:02}" for number in range(51)]
    assert read_annotations(test, root=tmp_path).paths[50] == "class_50/b50.avi"


def test_mistakes_in_hmdb51(tmp_path: Path) -> None:
    def error(**arguments: Any) -> str:
        with pytest.raises(ValueError) as caught:
            write_hmdb51_lists(tmp_path / "splits", tmp_path / "lists", **arguments)
        return str(caught.value)

    assert "is not a folder" in error()
    write_hmdb51(tmp_path / "splits", 1)
    assert "split must be 1, 2 or 3, found 4" in error(split=4)
    assert "found 0 files <class>_test_split3.txt, expected 51" in error(split=3)
    write(tmp_path, "splits/class_07_test_split1.txt", "a.avi, 1\n")
    assert "line 1: expected `video.avi flag`" in error()
    write(tmp_path, "splits/class_07_test_split1.txt", "a.avi 1\nb.avi 3\n")
    message = error()
    assert "class_07_test_split1.txt, line 2: expected `video.avi flag`" in message
    assert "found 'b.avi 3'" in message
    (tmp_path / "splits/class_07_test_split1.txt").unlink()
    assert "found 50 files" in error()
    assert not (tmp_path / "lists").exists()


# --- Kinetics --------------------------------------------------------------------------------------------------------


def test_kinetics(tmp_path: Path) -> None:
    rows = '"playing cards",--abc_1-XYZ,7,17,train\n\nabseiling,q,120,130,train\nplaying cards,r,0,10,train\n'
    clips = read_annotations(write(tmp_path, "train.csv", KINETICS_HEADER + rows), root=tmp_path)
    assert clips.paths == [
        "playing_cards/--abc_1-XYZ_000007_000017.mp4",
        "abseiling/q_000120_000130.mp4",
        "playing_cards/r_000000_000010.mp4",
    ]
    assert clips.class_names == ["abseiling", "playing cards"]
    assert clips.labels.tolist() == [1, 0, 1]
    assert clips.list_lines.tolist() == [2, 4, 5]

    val = write(tmp_path, "val.csv", KINETICS_HEADER.replace("\n", ",is_cc\r\n") + "playing cards,s,1,11,val,0\r\n")
    assert read_annotations(val, root=tmp_path).labels.tolist() == [0]
    assert read_annotations(val, root=tmp_path, class_names=clips.class_names).labels.tolist() == [1]
    assert read_annotations(val, root=tmp_path, class_names=["abseiling", "playing_cards"]).labels.tolist() == [1]


def test_kinetics_classes_are_sorted_as_mmaction2_does(tmp_path: Path) -> None:
    # with "_" for the blank, "dance Z" comes after "danceX"; by the blank it would come before
    file = write(tmp_path, "train.csv", KINETICS_HEADER + "dance Z,a,0,10,train\ndanceX,b,0,10,train\n")
    assert read_annotations(file, root=tmp_path).class_names == ["danceX", "dance Z"]


def test_kinetics_frames(tmp_path: Path) -> None:
    file = write(tmp_path, "train.csv", KINETICS_HEADER + "playing cards,a,0,10,train\n")
    clips = read_annotations(file, root=tmp_path, template=TEMPLATE)
    assert (clips.paths, clips.template) == (["playing_cards/a_000000_000010"], TEMPLATE)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            "youtube_id,time_start,time_end,split\na,0,10,test\n",
            ["t.csv, line 1", "lacks label", "use train or validate"],
        ),
        ("\nlabel,youtube_id,start,end\nx,a,0,10\n", ["t.csv, line 2", "lacks time_start, time_end"]),
        (KINETICS_HEADER, ["t.csv: the list is empty"]),
        (KINETICS_HEADER + "x,a,0,10,train\ny,b\n", ["t.csv, line 3", "expected 5 fields", "found 2"]),
        (KINETICS_HEADER + "x,a,zero,10,train\n", ["t.csv, line 2", "time_start 'zero'"]),
        (KINETICS_HEADER + ",a,0,10,train\n", ["t.csv, line 2", "label ''"]),
        (KINETICS_HEADER + '"x,a,0,10,train\n', ["t.csv, line 2", "not a valid CSV"]),
        ("id;template\n1;Opening something\n", ["t.csv, line 1", "expected `path label`", "header label,youtube_id"]),
    ],
)
def test_mistakes_in_kinetics(tmp_path: Path, content: str, parts: list[str]) -> None:
    message = error_of(write(tmp_path, "t.csv", content))
    for part in parts:
        assert part in message


def test_a_kinetics_class_that_is_not_known(tmp_path: Path) -> None:
    file = write(tmp_path, "val.csv", KINETICS_HEADER + "x,a,0,10,val\ny,b,0,10,val\n")
    message = error_of(file, class_names=["x", "z"])
    assert "val.csv, line 3: the class 'y' is not one of the 2 known ('x', ...)" in message
    assert "found 2 classes but num_classes is 400" in error_of(file, num_classes=400)


# --- a folder per class ----------------------------------------------------------------------------------------------


def test_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("run/2.mp4", "run/10.MP4", "jump high/a.webm", "jump high/notes.txt", ".cache/x.mp4", "readme.mp4"):
        write(tmp_path, f"train/{name}", "")
    clips = read_annotations(tmp_path / "train")
    assert clips.root == tmp_path / "train"
    assert clips.paths == ["jump high/a.webm", "run/10.MP4", "run/2.mp4"]
    assert clips.labels.tolist() == [0, 1, 1]
    assert clips.class_names == ["jump high", "run"]
    assert clips.where(2) == f"{tmp_path / 'train'}, file 3"
    assert all(clips.file(i).is_file() for i in range(3))

    from_above = read_annotations(tmp_path / "train", root=tmp_path)
    assert from_above.paths == ["train/jump high/a.webm", "train/run/10.MP4", "train/run/2.mp4"]

    write(tmp_path, "val/run/1.mp4", "")
    assert read_annotations(tmp_path / "val", class_names=clips.class_names).labels.tolist() == [1]


def test_frame_folders_in_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("run/2/1.jpg", "run/10/1.jpg", "jump high/a.b/1.jpg", "run/x.mp4"):
        write(tmp_path, name, "")
    clips = read_annotations(tmp_path, template="{}.jpg")
    assert clips.paths == ["jump high/a.b", "run/10", "run/2"]
    assert clips.labels.tolist() == [0, 1, 1]
    assert clips.num_frames.tolist() == [-1, -1, -1]
    message = error_of(tmp_path / "run", root=None, template="{}.jpg")
    assert "no frame folders in its 2 sub-folders (10, ...)" in message
    assert "For videos leave template out" in message


LEFT_BY_SYSTEMS = [
    ".DS_Store", "._run", ".git/a.mp4", "__MACOSX/run/._a.mp4", "__MACOSX/a.mp4", "@eaDir/a.mp4", "lost+found/a.mp4",
    "run/._a.mp4", "run/.hidden.mp4", "run/@eaDir/a.mp4/x.mp4", "run/Thumbs.db", "Thumbs.db",
]  # fmt: skip


def test_what_systems_leave_is_no_video_and_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (*LEFT_BY_SYSTEMS, "run/a.mp4", "sit/b.mp4"):
        write(tmp_path, name, "")
    clips = read_annotations(tmp_path)
    assert clips.paths == ["run/a.mp4", "sit/b.mp4"]
    assert clips.class_names == ["run", "sit"]
    assert caplog.messages == []


def test_what_systems_leave_is_no_frame_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (
        "__MACOSX/run/1.jpg",
        "run/@eaDir/1.jpg",
        "run/.a/1.jpg",
        "run/a/1.jpg",
        "run/a/._1.jpg",
        "sit/b/1.jpg",
    ):
        write(tmp_path, name, "")
    clips = read_annotations(tmp_path, template="{}.jpg")
    assert clips.paths == ["run/a", "sit/b"]
    assert caplog.messages == []


def test_what_is_left_out_of_a_folder_per_class_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "jump").mkdir()
    for name in ("run/a.mp4", "sit/b.mp4", "sit/b.txt", "run/a.ts", "talk/c.txt", "top.mp4", "README", "run/x/y/z.mp4"):
        write(tmp_path, name, "")
    write(tmp_path, "run/x/2.mkv", "")
    (tmp_path / "run/d.mp4").mkdir()
    clips = read_annotations(tmp_path)
    assert clips.paths == ["run/a.mp4", "sit/b.mp4"]
    assert (clips.labels.tolist(), clips.class_names) == ([0, 1], ["run", "sit"])
    (said,) = caplog.messages
    known = ".mp4, .webm, .avi, .mkv, .mov, .m4v, .mpg, .mpeg, .wmv, .flv, .3gp"
    assert said == (
        f"{tmp_path}: Left out: 3 files whose name does not end in {known} (such as run/a.ts); "
        "3 videos not directly in a class's folder (such as top.mp4); 2 folders without videos, no class (such as "
        "jump)."
    )


def test_what_is_left_out_of_frame_folders_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("run/a/1.jpg", "run/b/c/1.jpg", "run/x.mp4", "sit/y.jpg"):
        write(tmp_path, name, "")
    (tmp_path / "run/d").mkdir()
    clips = read_annotations(tmp_path, template="{}.jpg")
    assert (clips.paths, clips.class_names) == (["run/a"], ["run"])
    assert caplog.messages == [
        f"{tmp_path}: Left out: 2 files outside of frame folders (such as run/x.mp4); 2 folders without files where a "
        "clip's frames would be (such as run/b); 1 folder without frame folders, no class (sit)."
    ]


def test_an_empty_class_folder_is_a_class_where_classes_are_given(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path, "b/1.mp4", "")
    clips = read_annotations(tmp_path)
    assert (clips.labels.tolist(), clips.class_names) == ([0], ["b"])
    clips = read_annotations(tmp_path, class_names=["a", "b"])
    assert (clips.labels.tolist(), clips.num_classes) == ([1], 2)


def test_names_of_a_folder_that_are_not_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (b"run/a.mp4", b"run/b\xff.mp4"):
        file = Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/" + name))
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.touch()
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    clips = read_annotations(tmp_path / "data")
    assert [os.fsencode(path) for path in clips.paths] == [b"run/a.mp4", b"run/b\xff.mp4"]
    assert clips.file(1).is_file()
    assert "1 of 2 paths is not UTF-8" in caplog.messages[0]
    os.rename(os.fsencode(tmp_path / "data/run"), os.fsencode(tmp_path / "data") + b"/r\xfcn")
    assert r"the name of the class 'r\udcfcn' is not UTF-8. Rename its folder" in error_of(tmp_path / "data", root=None)


def test_mistakes_with_class_folders(tmp_path: Path) -> None:
    assert "has no sub-folders. Expected one for each class" in error_of(tmp_path, root=None)
    write(tmp_path, "train/run/1.mp4", "")
    message = error_of(tmp_path, root=None)
    assert "no videos in its 1 sub-folders (train, ...)" in message
    assert "Left out: 1 video not directly in a class's folder (train/run/1.mp4)" in message
    assert "1 video not directly in a class's folder (1.mp4)" in error_of(tmp_path / "train/run", root=None)
    shutil.rmtree(tmp_path / "train")
    write(tmp_path, "a/notes.txt", "")
    message = error_of(tmp_path, root=None)
    assert "no videos in its 1 sub-folders (a, ...)" in message
    assert ".webm" in message
    write(tmp_path, "a/1.mp4", "")
    message = error_of(tmp_path, root=None, class_names=["b", "c"])
    assert f"{tmp_path / 'a'}: the class 'a' is not one of the 2 known" in message
    (tmp_path / "other").mkdir()
    assert "is not inside root" in error_of(tmp_path, root=tmp_path / "other")
