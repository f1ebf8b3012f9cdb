"""Videos that are hard to read right, on every route that runs here: the right frames, or an error that names the file.

The oracle is the number that each delivered picture shows, see :mod:`hard_videos`; no decoder is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hard_videos import (
    MAKERS,
    OFTEN,
    TURNS,
    Complaint,
    Delivered,
    Hard,
    Sampler,
    deliver,
    deliver_batch,
    number_in,
    picture,
    shown_by,
    stored,
    strict_complaint,
)

from mgs_dali.decode.packets import scan
from mgs_dali.index.measuring import measure_video
from mgs_dali.sampling import Dense, MotionGuided, Uniform
from mgs_dali.video.file import VideoFile

SAMPLERS: list[Sampler] = [Uniform(8), Dense(6, span_frames=18)]
GUIDED = MotionGuided(8)
BY_PACKETS = MotionGuided(8, measure="packet")
IN_GRAPH = ("vp8", "vp9", "mjpeg")
"""Codecs that DALI decodes without a GPU."""

Made = Callable[[str, str], Hard]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Files by kind and name, each made when it is first asked for."""
    folder = tmp_path_factory.mktemp("hard")

    @cache
    def make(kind: str, name: str) -> Hard:
        place = folder / f"{list(MAKERS).index(kind)}-{list(MAKERS[kind]).index(name)}"
        place.mkdir()
        return MAKERS[kind][name](place)

    return make


@pytest.fixture(scope="session")
def complaint(made: Made) -> Callable[[str, str], Complaint]:
    """What strict decoding says of a file."""
    return cache(lambda kind, name: strict_complaint(made(kind, name).path))


def each(*kinds: str, without: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Parametrize a test over the files of kinds, all by default."""
    chosen = [
        pytest.param(kind, name, id=f"{kind}: {name}", marks=[] if (kind, name) in OFTEN else [pytest.mark.slow])
        for kind, names in MAKERS.items()
        for name in names
        if (kind in kinds or not kinds) and kind not in without
    ]
    return pytest.mark.parametrize(("kind", "name"), chosen)


MAY_HIDE = ("damage", "pieces")
"""Kinds of damage that a decoder need not notice."""


def check(hard: Hard, delivered: Delivered, *, kind: str, whole: bool, known: Complaint) -> None:
    """Hold what came against what must be said of a file.

    Args:
        whole: the route has decoded all of the file.
        known: what strict decoding says.
    """
    if delivered.error:
        assert hard.verdict != "right", delivered.error
        return
    assert hard.verdict != "error", f"delivered {shown_by(hard, delivered)}"
    shown = shown_by(hard, delivered)
    expected = [hard.numbers[frame] if frame < len(hard.numbers) else None for frame in delivered.frames]
    # What the codec has no means of noticing, as a packet that is missing, is shown as a player shows it.
    if kind not in MAY_HIDE or known.text:
        assert shown == expected, f"frames {delivered.frames}; {known.text}"
    if known.text and whole and kind in MAY_HIDE:
        raise AssertionError(f"decoded all of it and said nothing: {known.text}")
    if delivered.of is None and not hard.is_tiny:
        height, width = delivered.pictures.shape[1:3]
        assert (width, height) == hard.size


def measured(path: Path, measure: str) -> tuple[np.ndarray, str]:
    """The motion curve of a video, or the text of the error."""
    try:
        return measure_video(path, measure=measure).motion, ""
    except ValueError as error:
        return np.zeros(0, np.float32), naming(path, error)


def naming(path: Path, error: ValueError) -> str:
    """The text of an error, which must name the file."""
    assert path.name in str(error)
    return str(error)


def is_certain(kind: str, name: str, known: Complaint) -> bool:
    """FFmpeg may leave blocks of a damaged HEVC picture as they were in memory, without a word: decodings differ."""
    return kind not in MAY_HIDE or "hevc" not in name or bool(known.text)


def same(a: Delivered, b: Delivered) -> None:
    """Two routes give the same, to the bit."""
    assert a.error == b.error
    assert a.frames == b.frames
    np.testing.assert_array_equal(a.pictures, b.pictures)


def test_numbers_can_be_read_upright_only() -> None:
    for number in range(0, 128, 3):
        for width, height in ((128, 96), (96, 128), (97, 65), (40, 30), (427, 239)):
            assert number_in(picture(number, width, height)) == number
        for turn in TURNS:
            assert number_in(stored(picture(number), turn)) == (number if turn == "as is" else None)
        middle = picture(number)[:, 16:112]
        assert number_in(middle, of=(128, 96)) == number


@each(without=("cut off", "damage"))
def test_strict_decoding_complains_of_no_good_file(
    made: Made, complaint: Callable[[str, str], Complaint], kind: str, name: str
) -> None:
    """What the tests of damaged files lean on."""
    assert made(kind, name).verdict != "right" or complaint(kind, name).text == ""


# --- host and host-sparse ---------------------------------------------------------------------------------------------


@each()
def test_frames_known_before(made: Made, complaint: Callable[[str, str], Complaint], kind: str, name: str) -> None:
    hard, known = made(kind, name), complaint(kind, name)
    for sampler in SAMPLERS:
        host, sparse = (deliver(hard.path, sampler, sparse=sparse) for sparse in (False, True))
        check(hard, host, kind=kind, whole=False, known=known)
        check(hard, sparse, kind=kind, whole=False, known=known)
        if is_certain(kind, name, known):
            same(host, sparse)
        if hard.like is not None and not host.error and known.text:
            _check_against_undamaged(hard, host)


def _check_against_undamaged(hard: Hard, delivered: Delivered) -> None:
    """What is delivered of a damaged file is to the bit what the undamaged file gives for the same numbers."""
    assert hard.like is not None
    numbers = [hard.numbers[frame] for frame in delivered.frames]
    for place, number in enumerate(numbers):
        np.testing.assert_array_equal(delivered.pictures[place], undamaged(hard.like)[number], f"frame {number}")


@cache
def undamaged(file: Path) -> np.ndarray:
    """All frames of a video, which other tests hold against the numbers that they show."""
    return deliver(file, Uniform(scan(file).num_frames), sparse=False).pictures


@each()
def test_frames_guided_by_motion(made: Made, complaint: Callable[[str, str], Complaint], kind: str, name: str) -> None:
    """The motion is measured while decoding, and by the index: both see every frame."""
    hard, known = made(kind, name), complaint(kind, name)
    host = deliver(hard.path, GUIDED, sparse=False)
    check(hard, host, kind=kind, whole=True, known=known)
    curve, error = measured(hard.path, "pixel")
    assert bool(error) == bool(host.error), f"index: {error}; loader: {host.error}"
    if error:
        assert hard.verdict != "right", error
        return
    if kind not in MAY_HIDE or known.text:
        assert len(curve) == len(hard.numbers) - 1
    indexed = [deliver(hard.path, GUIDED, sparse=sparse, curve=curve) for sparse in (False, True)]
    if not is_certain(kind, name, known):
        return
    same(indexed[0], indexed[1])
    same(indexed[0], host)


@each()
def test_frames_guided_by_packets(made: Made, complaint: Callable[[str, str], Complaint], kind: str, name: str) -> None:
    hard, known = made(kind, name), complaint(kind, name)
    curve, error = measured(hard.path, "packet")
    if error:
        # Packets that show no frame of their own tell nothing of when it moves.
        assert hard.verdict != "right" or kind in ("counts", "hidden") or "keyframes" in error, error
    elif kind not in MAY_HIDE or known.text:
        assert hard.verdict != "error"
        # a transport stream may lose a damaged packet as a whole
        assert hard.path.suffix == ".ts" or len(curve) == len(hard.numbers) - 1
    host, sparse = (deliver(hard.path, BY_PACKETS, sparse=sparse) for sparse in (False, True))
    if error:
        same(host, sparse)
        assert host.error
        return
    check(hard, host, kind=kind, whole=False, known=known)
    check(hard, sparse, kind=kind, whole=False, known=known)
    if is_certain(kind, name, known):
        same(host, sparse)
        indexed = [deliver(hard.path, GUIDED, sparse=sparse, curve=curve) for sparse in (False, True)]
        same(indexed[0], indexed[1])
        same(indexed[0], host)


@each("colour")
def test_colours(made: Made, kind: str, name: str) -> None:
    """Flat patches against the formulas of ITU-T H.273."""
    hard = made(kind, name)
    for sparse in (False, True):
        delivered = deliver(hard.path, Uniform(4), sparse=sparse)
        check(hard, delivered, kind=kind, whole=False, known=Complaint("", 0))
        width, height = hard.size
        for number, patch in enumerate(hard.patches):
            left, right = (width * (number + end) // len(hard.patches) for end in (0, 1))
            inside = delivered.pictures[:, 4 : height * 3 // 16 - 4, left + 6 : right - 6]
            found = inside.mean(axis=(0, 1, 2))
            assert np.abs(found - patch).max() <= hard.tolerance, f"patch {number} is {found.round(1)}, not {patch}"


@pytest.mark.parametrize("route", ["gpu", "gpu-sparse"])
def test_colours_in_the_graph(made: Made, route: str) -> None:
    """DALI takes BT.601 for all; what is made of that is what the host gives, whose colours are held above."""
    names = [name for name in MAKERS["colour"] if "vp9" in name or "vp8" in name]
    hards = [made("colour", name) for name in names]
    host, graph = (deliver_batch(hards, Uniform(2), route=each) for each in ("host", route))
    assert len(names) > 5
    for name, expected, found in zip(names, host, graph, strict=True):
        off = np.abs(found.pictures - expected.pictures)
        assert off.mean() < 1, f"{name}: {off.mean():.2f}"
        assert np.quantile(off, 0.99) <= 3, f"{name}: {np.quantile(off, 0.99):.2f}"


# --- pictures for people ----------------------------------------------------------------------------------------------


@each(without=("neighbours", "pieces", "cut off"))
def test_pictures_of_plots(made: Made, complaint: Callable[[str, str], Complaint], kind: str, name: str) -> None:
    pytest.importorskip("matplotlib")
    from mgs_dali.look.choices import chosen_pictures

    hard, known = made(kind, name), complaint(kind, name)
    picks = np.array(sorted({0, len(hard.numbers) // 2, max(0, len(hard.numbers) - 1)}))
    try:
        pictures = chosen_pictures(VideoFile(hard.path), picks)
    except IndexError:  # it was asked for frames that the file lost with its damage
        assert kind in MAY_HIDE
        return
    except ValueError as error:
        delivered = Delivered([], np.zeros((0, 1, 1, 3), np.uint8), naming(hard.path, error))
    else:
        delivered = Delivered(list(pictures), np.stack(list(pictures.values())), "")
    check(hard, delivered, kind=kind, whole=False, known=known)


# --- loaders ----------------------------------------------------------------------------------------------------------


def _right_ones(made: Made, *, often: bool, in_graph: bool) -> dict[str, Hard]:
    """All files that must be delivered, of those that are tried by default or of the others."""
    found = {}
    for kind, names in MAKERS.items():
        for name in names:
            hard = made(kind, name) if ((kind, name) in OFTEN) == often else None
            if hard is None or hard.verdict != "right" or hard.is_tiny or max(hard.size) > 2 * min(hard.size):
                continue  # the bars of a long picture are not all in its middle square
            if not in_graph or any(codec in name or codec in hard.path.name for codec in IN_GRAPH):
                found[f"{kind}: {name}"] = hard
    return found


@pytest.mark.parametrize("route", ["host", "host-sparse", "predict"])
@pytest.mark.parametrize("often", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_loaders(made: Made, route: str, often: bool) -> None:
    hards = _right_ones(made, often=often, in_graph=False)
    _check_batches(hards, route, every=not often)


@pytest.mark.parametrize("route", ["gpu", "gpu-sparse"])
@pytest.mark.parametrize("often", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_loaders_that_decode_in_the_graph(made: Made, route: str, often: bool) -> None:
    """On the CPU, where DALI takes VP8, VP9 and MJPEG. A video may be refused with a reason, as a turned one."""
    pytest.importorskip("nvidia.dali")
    hards = _right_ones(made, often=often, in_graph=True)
    _check_batches(hards, route, every=not often, may_refuse=True)


def _check_batches(hards: dict[str, Hard], route: str, *, every: bool, may_refuse: bool = False) -> None:
    """All in one batch where that works, to save time; then one by one, to see which ones are wrong."""
    assert len(hards) >= 8
    samplers: list[Sampler] = [Uniform(8)] if route.endswith("sparse") else [GUIDED, Uniform(8)]
    wrong = []
    for sampler in samplers if every else samplers[:1]:
        try:
            batch: list[Delivered | None] = [*deliver_batch(list(hards.values()), sampler, route=route)]
        except ValueError:
            batch = [None] * len(hards)
        for (name, hard), together in zip(hards.items(), batch, strict=True):
            delivered = together or deliver_batch([hard], sampler, route=route)[0]
            if delivered.error:
                if not (may_refuse and "Use route='auto'" in delivered.error):
                    wrong.append(f"{name}: {delivered.error}")
                continue
            expected = [hard.numbers[frame] for frame in delivered.frames if frame < len(hard.numbers)]
            if shown_by(hard, delivered) != expected:
                wrong.append(f"{name}: frames {delivered.frames} show {shown_by(hard, delivered)}")
    assert not wrong, f"{len(wrong)} of {len(hards)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("route", ["host", "host-sparse", "gpu", "gpu-sparse"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("change", "smaller, vp9 webm"),
        ("cut off", "avi at 0.6, mjpeg"),
        ("neighbours", "text"),
        pytest.param("change", "there and back, vp8 webm", marks=pytest.mark.slow),
        pytest.param("stream", "music, m4a", marks=pytest.mark.slow),
    ],
)
def test_loaders_report(made: Made, kind: str, name: str, route: str) -> None:
    """A worker's error names the file and its line of the list."""
    if route.startswith("gpu"):
        pytest.importorskip("nvidia.dali")
    hard = made(kind, name)
    (delivered,) = deliver_batch([hard], Uniform(8), route=route)
    assert delivered.error, shown_by(hard, delivered)
    assert "list.txt, line 1" in delivered.error or "list.txt:1" in delivered.error


@each("change", "cut off", "stream")
def test_errors_are_clear(made: Made, kind: str, name: str) -> None:
    """The error says what is wrong, alike on every route and in the index."""
    hard = made(kind, name)
    if not hard.error:
        return  # a good neighbour of these kinds, or one whose words do not matter
    texts = [deliver(hard.path, Uniform(8), sparse=sparse).error for sparse in (False, True)]
    with pytest.raises(ValueError, match=hard.error):
        measure_video(hard.path)
    with pytest.raises(ValueError, match=hard.error):
        measure_video(hard.path, measure="packet")
    for text in texts:
        with pytest.raises(ValueError, match=hard.error):
            raise ValueError(text)
