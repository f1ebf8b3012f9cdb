"""What headers tell of pictures, against what decoding gives; streams that change, and streams that are broken."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from conftest import VP9_ALTREF, encode, moving_disc
from dali_decoder import padded_packet
from hypothesis import given
from hypothesis import strategies as st
from test_sparse import GOOD, LAYERS, NAMES, x264, x265
from test_sparse import made as made

from mgs_dali.decode.headers import Part, reader_for, split
from mgs_dali.decode.headers.mpeg12 import has_hole
from mgs_dali.decode.headers.reader import Change, Damage, Doubt, Reader
from mgs_dali.load.nvdec import picture_kind


class Stream(NamedTuple):
    codec: str
    extradata: bytes
    packets: list[tuple[bytes, bool]]
    """(content, whether the container calls it a keyframe)."""

    def reader(self, *, extradata: bytes | None = None) -> Reader:
        extradata = self.extradata if extradata is None else extradata
        return reader_for(self.codec, extradata, intra_only=self.codec in ("mjpeg", "prores"))


def stream_of(file: Path | bytes) -> Stream:
    with av.open(str(file) if isinstance(file, Path) else io.BytesIO(file), "r") as container:
        video = container.streams.video[0]
        context = video.codec_context
        packets = [(bytes(packet), packet.is_keyframe) for packet in container.demux(video) if packet.size]
        return Stream(context.codec.canonical_name, context.extradata or b"", packets)


def read(stream: Stream, *, reader: Reader | None = None) -> Reader:
    reader = reader or stream.reader()
    for content, is_keyframe in stream.packets:
        reader.add(memoryview(content), is_keyframe=is_keyframe)
    return reader


def changed(stream: Stream, index: int, content: bytes) -> Stream:
    packets = list(stream.packets)
    packets[index] = content, packets[index][1]
    return stream._replace(packets=packets)


# --- good files -------------------------------------------------------------------------------------------------------

H264_MORE = {
    "weights": x264("slow", weightp=2, bframes=8, b_pyramid="normal", ref=16, b_adapt=2),
    "broadcast": x264(nal_hrd="cbr", vbv_maxrate=300, vbv_bufsize=300, bitrate=300, aud=1, pic_struct=1, filler=1),
    "bluray": x264(bluray_compat=1, level=41, keyint=24, slices=4, open_gop=1, vbv_maxrate=4000, vbv_bufsize=4000),
    "threads": x264(sliced_threads=1, threads=2, keyint=12),
    "one-reference": x264(ref=1, bframes=0, keyint=300),
    "refresh": x264(intra_refresh=1, keyint=10, bframes=0, ref=1),
    "lossless": {"preset": "fast", "qp": "0"},
    "long": x264(keyint=-1, bframes=16, b_pyramid="strict", b_adapt=0),
    "still": x264(tune="stillimage", stitchable=1, keyint=1),
}
HEVC_MORE = {
    "broadcast": x265(hrd=1, aud=1, vbv_maxrate=300, vbv_bufsize=300, bitrate=300, repeat_headers=1),
    "refresh": x265(intra_refresh=1, keyint=20),
    "slices": x265(slices=2, rect=1, keyint=10),
    "pyramid": x265(bframes=8, b_adapt=0, ref=6, keyint=30),
    "hash": x265(hash=1, info=1, keyint=12, bframes=3),
    "two-layers": x265(temporal_layers=2, keyint=20, open_gop=1),
}
VP9_MORE = {
    "lossless": {"lossless": "1", "deadline": "realtime", "cpu-used": "8"},
    "tiles": {"tile-columns": "2", "frame-parallel": "1", "deadline": "realtime", "cpu-used": "8"},
    "good": GOOD,
    "altref": VP9_ALTREF,
    "resilient": {"error-resilient": "1", "deadline": "realtime", "cpu-used": "8"},
}
VP8_MORE = {
    "partitions": {"slices": "4", "deadline": "realtime", "cpu-used": "8", "b": "300k"},
    "layers": {"error-resilient": "1", "deadline": "realtime", "b": "300k", "ts-parameters": LAYERS},
}
Made = tuple[str, dict[str, str], str, str, tuple[int, int]]
MORE: dict[str, Made] = {
    **{f"h264-{name}": ("libx264", options, "yuv420p", "mkv", (98, 70)) for name, options in H264_MORE.items()},
    **{f"h264-{name}.ts": ("libx264", options, "yuv420p", "ts", (98, 70)) for name, options in H264_MORE.items()},
    **{f"hevc-{name}": ("libx265", options, "yuv420p", "mkv", (98, 70)) for name, options in HEVC_MORE.items()},
    **{f"hevc-{name}.ts": ("libx265", options, "yuv420p", "ts", (98, 70)) for name, options in HEVC_MORE.items()},
    **{f"vp9-{name}": ("libvpx-vp9", options, "yuv420p", "webm", (97, 71)) for name, options in VP9_MORE.items()},
    **{f"vp8-{name}": ("libvpx", options, "yuv420p", "webm", (97, 71)) for name, options in VP8_MORE.items()},
    **{
        f"{codec}-{pixel_format}": (codec, {}, pixel_format, "mkv", (98, 70))
        for codec, formats in {
            "libx264": ("yuv422p", "yuv420p10le", "yuv422p10le", "gray", "gray10le"),
            "libx265": ("yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "gray", "gray10le"),
            "libvpx-vp9": ("yuv422p", "yuv440p", "yuv444p", "gbrp"),
            "mjpeg": ("yuvj420p", "yuvj422p", "yuvj444p"),
        }.items()
        for pixel_format in formats
    },
    "h264-odd": ("libx264", {}, "yuv444p", "mkv", (97, 71)),
    "mpeg4-parts": ("mpeg4", {"ps": "200", "data_partitioning": "1"}, "yuv420p", "avi", (98, 70)),
    "mpeg4.ts": ("mpeg4", {"flags": "+aic+mv4", "bf": "2"}, "yuv420p", "ts", (98, 70)),
    "mpeg4.m4v": ("mpeg4", {"bf": "2", "g": "10"}, "yuv420p", "m4v", (98, 70)),
}


def encoding(target: Path, name: str) -> Path:
    codec, options, pixel_format, suffix, (width, height) = MORE[name]
    pictures = moving_disc(40, width=width, height=height, action=(2, 38), noise=4)
    return encode(target / f"video.{suffix}", pictures, codec, options=options, pixel_format=pixel_format)


def check_pictures(file: Path) -> None:
    """Nothing is called damaged or changed; size and format are those that decoding gives."""
    stream = stream_of(file)
    try:
        reader = read(stream)
    except Damage:
        raise
    except Doubt:
        return
    with av.open(str(file)) as container:
        frames = [(frame.width, frame.height, frame.format.name) for frame in container.decode(video=0)]
    (decoded,) = set(frames)
    assert reader.size == (decoded[:2] if stream.codec != "prores" else None)
    if reader.pixel_format:
        _, chroma, bits = picture_kind(stream.codec, decoded[2])
        chroma = {"1x2": "4:4:0", "rgb": "RGB"}.get(chroma, chroma)
        assert reader.pixel_format == f"{chroma} {bits} bit"
    else:
        assert stream.codec in ("mjpeg", "prores")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ffv1.mkv", "mpeg2.mpg")])
def test_headers_tell_what_decoding_gives(made: Callable[[str], Path], name: str) -> None:
    check_pictures(made(name))


@pytest.mark.parametrize("name", MORE)
def test_more_encoders_are_never_called_damaged(tmp_path: Path, name: str) -> None:
    check_pictures(encoding(tmp_path, name))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("h264-interlaced.mp4", "interlaced H.264"),
        ("h264-444.mp4", "H.264 with 4:4:4 chroma"),
        ("mpeg4-interlaced.avi", "interlaced MPEG-4"),
    ],
)
def test_what_is_not_read_is_no_damage(made: Callable[[str], Path], name: str, told: str) -> None:
    with pytest.raises(Doubt, match=told) as caught:
        read(stream_of(made(name)))
    assert not isinstance(caught.value, Damage)


def test_pictures_of_packets(made: Callable[[str], Path]) -> None:
    altref = read(stream_of(made("vp9-altref.webm"))).pictures
    assert {picture.num_pictures for picture in altref} == {1, 2}
    assert not any(picture.repeats for picture in altref)
    assert {picture.num_pictures for picture in read(stream_of(made("vp8-hidden.webm"))).pictures} == {1}
    av1 = read(stream_of(made("av1.mp4"))).pictures
    assert any(picture.num_pictures > 1 for picture in av1)
    for picture in av1:
        assert picture.repeats == (picture.num_pictures == 0)


def test_a_vp9_packet_that_shows_an_earlier_picture(made: Callable[[str], Path]) -> None:
    stream = stream_of(made("vp9-altref.webm"))
    again = stream._replace(packets=[*stream.packets[:5], (bytes([0b10001000]), False)])
    last = read(again).pictures[-1]
    assert (last.num_pictures, last.repeats, last.shows) == (0, True, True)


def test_split_gives_one_picture_each(made: Callable[[str], Path]) -> None:
    stream = stream_of(made("vp9-altref.webm"))
    for (content, _), picture in zip(stream.packets, read(stream).pictures, strict=True):
        parts = split(content, codec="vp9", shows=picture.shows)
        assert [part.num_pictures for part in parts] == [1] * picture.num_pictures
        assert [part.shows for part in parts] == [False] * (len(parts) - 1) + [True]
        together = b"".join(part.content for part in parts)
        assert together == content[: len(together)]
    assert split(b"whole", codec="h264", shows=True) == [Part(b"whole", True, 1)]
    assert split(bytes([0b10001000]), codec="vp9", shows=True) == [Part(bytes([0b10001000]), True, 0)]
    av1 = stream_of(made("av1.mp4"))
    for (content, _), picture in zip(av1.packets, read(av1).pictures, strict=True):
        (part,) = split(content, codec="av1", shows=True)
        assert part.num_pictures == picture.num_pictures


def test_pictures_that_a_decoder_skips_after_a_start(made: Callable[[str], Path]) -> None:
    stream = stream_of(made("hevc-open.mkv"))
    starts = [row for row, picture in enumerate(read(stream).pictures) if picture.access]
    found = []
    for start, end in zip(starts, [*starts[1:], len(stream.packets)], strict=True):
        rest = stream._replace(packets=stream.packets[start:])
        pictures = read(rest).pictures
        num_skipped = sum(picture.skipped_after_start for picture in pictures[: end - start])
        found.append(num_skipped)
        decoder = av.CodecContext.create("hevc", "r")
        decoder.extradata = stream.extradata
        num_decoded = sum(len(decoder.decode(padded_packet(content))) for content, _ in rest.packets)
        assert num_decoded + len(decoder.decode(None)) == len(pictures) - num_skipped
    assert found[0] == 0
    assert sum(found) > 0
    assert not any(p.skipped_after_start for p in read(stream_of(made("hevc-radl.mp4"))).pictures)


# --- streams that change ----------------------------------------------------------------------------------------------

Kind = tuple[str, str, tuple[int, int], dict[str, str]]
BASE: dict[str, Kind] = {
    "h264": ("libx264", "yuv420p", (160, 120), {"preset": "veryfast"}),
    "hevc": ("libx265", "yuv420p", (160, 120), x265(keyint=10)),
    "vp8": ("libvpx", "yuv420p", (160, 120), {"deadline": "realtime"}),
    "vp9": ("libvpx-vp9", "yuv420p", (160, 120), {"deadline": "realtime"}),
    "mpeg4": ("mpeg4", "yuv420p", (160, 120), {}),
    "mjpeg": ("mjpeg", "yuvj420p", (160, 120), {}),
}


def short(folder: Path, kind: Kind) -> Stream:
    """Ten frames whose packets hold their parameter sets."""
    codec, pixel_format, (width, height), options = kind
    suffix = {"libx264": "h264", "libx265": "hevc", "mpeg4": "m4v"}.get(codec, "mkv")
    frames = moving_disc(10, width=width, height=height)
    file = folder / f"{codec}-{width}-{pixel_format}.{suffix}"
    stream = stream_of(encode(file, frames, codec, options=options, pixel_format=pixel_format))
    first = stream.extradata + stream.packets[0][0] if codec == "mpeg4" else stream.packets[0][0]
    return changed(stream, 0, first)


SIZE = "the picture size changes from 160x120 to 96x80"
SMALLER: dict[str, object] = {"size": (96, 80)}
CHANGES: list[tuple[str, dict[str, object], str]] = [
    *((name, SMALLER, SIZE) for name in BASE),
    ("h264", {"pixel_format": "yuv420p10le"}, "the pixel format changes from 4:2:0 8 bit to 4:2:0 10 bit"),
    ("h264", {"pixel_format": "yuv444p"}, "the pixel format changes from 4:2:0 8 bit to 4:4:4 8 bit"),
    ("h264", {"size": (160, 118)}, "the picture size changes from 160x120 to 160x118"),  # by cropping alone
    ("hevc", {"pixel_format": "yuv422p"}, "the pixel format changes from 4:2:0 8 bit to 4:2:2 8 bit"),
    ("hevc", {"size": (160, 118)}, "the picture size changes from 160x120 to 160x118"),
    ("vp9", {"pixel_format": "yuv444p"}, "the pixel format changes from 4:2:0 8 bit to 4:4:4 8 bit"),
]


@pytest.mark.parametrize(("name", "other", "told"), CHANGES)
def test_changes_are_told(tmp_path: Path, name: str, other: dict[str, object], told: str) -> None:
    codec, pixel_format, size, options = BASE[name]
    first = short(tmp_path, BASE[name])
    kind = {"pixel_format": pixel_format, "size": size} | other
    second = short(tmp_path, (codec, kind["pixel_format"], kind["size"], options))  # type: ignore[arg-type]
    for one, two, text in ((first, second, told), (second, first, "changes from")):
        if "yuv444p" in other.values() and name == "h264" and one is second:
            continue  # not read from its start
        reader = read(one._replace(packets=[*one.packets, *one.packets]))
        num_before = len(reader.pictures)
        with pytest.raises(Change, match=text):
            read(two, reader=reader)
        assert len(reader.pictures) == num_before


def test_equal_size_and_format_with_other_parameters(tmp_path: Path) -> None:
    codec, pixel_format, size, _ = BASE["h264"]
    first = short(tmp_path, BASE["h264"])
    (tmp_path / "other").mkdir()
    second = short(tmp_path / "other", (codec, pixel_format, size, x264(ref=5, cabac=0)))
    with pytest.raises(Doubt, match="the coding parameters change on the way") as caught:
        read(second, reader=read(first))
    assert not isinstance(caught.value, Damage)


def vp9_frame(*fields: tuple[int, int], profile: int = 0) -> bytes:
    """(value, bits) of an uncompressed header."""
    number = length = 0
    for value, num_bits in ((2, 2), (profile & 1, 1), (profile >> 1, 1), *fields):
        number, length = number << num_bits | value, length + num_bits
    return (number << -length % 8).to_bytes((length + 7) // 8, "big") + bytes(24)


def vp9_key(width: int, height: int, *, shows: int = 1) -> bytes:
    return vp9_frame((0, 1), (0, 1), (shows, 1), (0, 1), (0x498342, 24), (1, 4), (width - 1, 16), (height - 1, 16))


def vp9_inter(size: Sequence[tuple[int, int]], *, shows: int = 1, refreshes: int = 1) -> bytes:
    hidden = () if shows else ((0, 1),)
    head = ((0, 1), (1, 1), (shows, 1), (0, 1), *hidden, (0, 2), (refreshes, 8))
    return vp9_frame(*head, (0, 4), (1 << 1, 4), (2 << 1, 4), *size)


EXPLICIT = ((0, 3), (63, 16), (47, 16))  # of no reference's size: 64x48
FIRST, THIRD = ((1, 1),), ((1, 3),)  # of the first reference's size, and of the third's


def vp9_read(*packets: bytes) -> Reader:
    return read(Stream("vp9", b"", [(content, False) for content in packets]))


def test_vp9_sizes_of_frames_between_keyframes() -> None:
    assert vp9_read(vp9_key(160, 120), vp9_inter(FIRST), vp9_inter(THIRD)).size == (160, 120)
    with pytest.raises(Change, match="the picture size changes from 160x120 to 64x48"):
        vp9_read(vp9_key(160, 120), vp9_inter(FIRST), vp9_inter(EXPLICIT))
    # A hidden frame of another size, in slot 0 only; the packet after it refers to that slot, or to another.
    hidden = vp9_inter(EXPLICIT, shows=0, refreshes=1)
    with pytest.raises(Doubt, match="VP9 with hidden pictures of another size"):
        vp9_read(vp9_key(160, 120), hidden)
    with pytest.raises(Doubt, match="VP9 with hidden pictures of another size"):
        vp9_read(vp9_key(64, 48, shows=0), vp9_key(160, 120))


def test_vp9_bit_depth() -> None:
    head = ((0, 1), (0, 1), (1, 1), (0, 1), (0x498342, 24))
    size = ((159, 16), (119, 16))
    ten, twelve = (vp9_frame(*head, (depth, 1), (1, 3), (0, 1), *size, profile=2) for depth in (0, 1))
    assert vp9_read(ten).pixel_format == "4:2:0 10 bit"
    for packets, told in (
        ((vp9_key(160, 120), ten), "from 4:2:0 8 bit to 4:2:0 10 bit"),
        ((ten, twelve), "from 4:2:0 10 bit to 4:2:0 12 bit"),
    ):
        with pytest.raises(Change, match="the pixel format changes " + told):
            vp9_read(*packets)


def test_vp9_packets_of_one_byte_show_what_a_slot_holds() -> None:
    reader = vp9_read(vp9_key(160, 120), vp9_frame((1, 1), (3, 3))[:1])
    assert reader.pictures[-1].repeats


# --- streams that are broken ------------------------------------------------------------------------------------------


def damage(stream: Stream) -> str:
    with pytest.raises(Damage) as caught:
        read(stream)
    return str(caught.value)


def flipped(content: bytes, place: int, bits: int = 0xFF) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


@pytest.mark.parametrize("name", ["h264-gop12.mp4", "hevc-closed.mp4"])
def test_broken_nal_units(made: Callable[[str], Path], name: str) -> None:
    stream = stream_of(made(name))
    content, _ = stream.packets[5]
    assert damage(changed(stream, 5, content[:-1])) == "a packet's NAL units are not where their lengths say"
    assert damage(changed(stream, 5, flipped(content, 0))) == "a packet's NAL units are not where their lengths say"
    assert "unit is not understood" in damage(changed(stream, 5, flipped(content, 4, 0x80)))


@pytest.mark.parametrize(
    "name", ["h264-gop12.mp4", "h264-baseline.mp4", "h264-pyramid.mkv", "h264.ts", "h264-open.mp4"]
)
def test_a_frame_that_is_missing(made: Callable[[str], Path], name: str) -> None:
    stream = stream_of(made(name))
    pictures = read(stream).pictures
    num_found = 0
    for row, picture in enumerate(pictures[1:-1], start=1):
        left = stream._replace(packets=stream.packets[:row] + stream.packets[row + 1 :])
        if not picture.is_referenced:
            read(left)
            continue
        try:
            read(left)
        except Damage as damage:
            num_found += 1
            assert str(damage) == "a picture that others refer to is missing (H.264 frame numbers)"  # noqa: PT017
        except Doubt as doubt:
            assert str(doubt) == "H.264 sequences that were joined"  # noqa: PT017
    # Not those whose successor has number 0 or 1, which may start the count anew.
    assert num_found > 0.5 * sum(picture.is_referenced for picture in pictures)


@pytest.mark.parametrize("name", ["hevc.ts", "h264.ts"])
def test_recordings_that_start_inside_a_gop_are_not_damaged(made: Callable[[str], Path], name: str) -> None:
    stream = stream_of(made(name))
    with pytest.raises(Doubt, match="a picture's parameter sets are missing") as caught:
        stream.reader(extradata=b"").add(stream.packets[3][0], is_keyframe=False)
    assert not isinstance(caught.value, Damage)


def test_missing_parameter_sets_on_the_way(made: Callable[[str], Path]) -> None:
    stream = stream_of(made("h264-gop12.mp4"))
    content, _ = stream.packets[5]
    # first_mb_in_slice 0, slice_type 0, and then another number of the picture's parameter set: 1 1 010
    broken = content[:5] + bytes([0b11010_111]) + content[6:]
    assert damage(changed(stream, 5, broken)) == "a picture's parameter sets are missing"


def test_broken_vpx(made: Callable[[str], Path]) -> None:
    vp8 = stream_of(made("vp8.webm"))
    key, inter = vp8.packets[0][0], vp8.packets[3][0]
    assert damage(changed(vp8, 0, flipped(key, 4))) == "a VP8 keyframe without its start code"
    assert damage(changed(vp8, 3, inter[:20])) == "a VP8 frame is cut off"
    assert damage(changed(vp8, 3, inter[:2])) in ("a VP8 frame is cut off", "a header is cut off")
    vp9 = stream_of(made("vp9-altref.webm"))
    assert damage(changed(vp9, 0, flipped(vp9.packets[0][0], 2))) == "a VP9 keyframe without its start code"
    assert damage(changed(vp9, 3, flipped(vp9.packets[3][0], 0, 0x40))) == "a VP9 header is not understood"
    assert damage(changed(vp9, 0, vp9.packets[0][0][:4])) == "a header is cut off"
    row = next(row for row, (content, _) in enumerate(vp9.packets) if content[-1] & 0xE0 == 0xC0)
    content = vp9.packets[row][0]
    assert damage(changed(vp9, row, content[-50:])) == "a VP9 superframe is not understood"


def test_broken_jpeg_mpeg4_and_av1(made: Callable[[str], Path]) -> None:
    jpeg = stream_of(made("mjpeg.avi"))
    content = jpeg.packets[5][0]
    assert damage(changed(jpeg, 5, content[2:])) == "a JPEG picture without a start"
    assert damage(changed(jpeg, 5, content[:30])) in ("a JPEG picture is cut off", "a header is cut off")
    mpeg4 = stream_of(made("mpeg4.avi"))
    content = mpeg4.packets[5][0]
    place = content.index(b"\0\0\1\xb6")
    assert damage(changed(mpeg4, 5, content[: place + 4] + b"\x80" + content[place + 5 :])) == (
        "an MPEG-4 header is not understood"
    )
    assert damage(changed(mpeg4, 5, content[: place + 4])) == "a header is cut off"
    av1 = stream_of(made("av1.mp4"))
    assert damage(changed(av1, 5, flipped(av1.packets[5][0], 0, 0x80))) == "an AV1 unit is not understood"
    assert damage(changed(av1, 1, av1.packets[1][0][:-9])) == "an AV1 unit is cut off"


def test_noise_raises_nothing_else(made: Callable[[str], Path]) -> None:
    rng = np.random.default_rng(0)
    for name in ("h264-gop12.mp4", "h264.ts", "hevc-open.mkv", "mpeg4.avi", "vp8.webm", "vp9-good.webm", "mjpeg.avi"):
        stream = stream_of(made(name))
        for _ in range(100):
            row = int(rng.integers(len(stream.packets)))
            content = bytearray(stream.packets[row][0])
            for place in rng.integers(0, min(len(content), 60), 4).tolist():
                content[place] = int(rng.integers(256))
            with contextlib.suppress(Doubt, Change):
                read(changed(stream, row, bytes(content[: int(rng.integers(1, len(content) + 1))])))


# --- orientation inside the stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "is_read"),
    [
        ("0" + "00" + "0100000000000000" + "1" + "0000", False),  # a quarter turn
        ("0" + "10" + "0000000000000000" + "1" + "0000", False),  # mirrored
        ("0" + "00" + "0000000000000000" + "1" + "0000", True),  # upright
        ("1" + "0000000", True),  # cancelled
    ],
)
@pytest.mark.parametrize(("name", "header"), [("h264-gop12.mp4", b"\x06"), ("hevc-closed.mp4", b"\x4e\x01")])
def test_orientation(made: Callable[[str], Path], name: str, header: bytes, message: str, is_read: bool) -> None:
    stream = stream_of(made(name))
    payload = int(message, 2).to_bytes(len(message) // 8, "big")
    unit = header + bytes([47, len(payload)]) + payload + b"\x80"
    turned = changed(stream, 0, len(unit).to_bytes(4, "big") + unit + stream.packets[0][0])
    if is_read:
        assert read(turned).pictures == read(stream).pictures
        return
    with pytest.raises(Doubt, match="with a display orientation"):
        read(turned)


# --- holes in MPEG-2 --------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 16, 64, 128, 192, 255]), max_size=24).map(bytes))
def test_holes_are_23_zero_bits_inside_a_slice(content: bytes) -> None:
    packet = b"\0\0\1\xb5\x80" + b"\0\0\1\x01" + content
    bits = "".join(f"{byte:08b}" for byte in packet)
    expected = False
    at = 0
    while (at := bits.find("0" * 23, at)) >= 0:
        end = bits.find("1", at)
        aligned_start_code = end >= 0 and end % 8 == 7
        starts = [
            place for place in range(len(packet) - 3) if packet[place : place + 3] == b"\0\0\1" and 8 * place <= at
        ]
        if end >= 0 and not aligned_start_code and 0x01 <= packet[starts[-1] + 3] <= 0xAF:
            expected = True
        at = len(bits) if end < 0 else end
    assert has_hole(packet) == expected


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_encoders_leave_no_holes(tmp_path: Path, codec: str) -> None:
    rate = {"b": "4M", "minrate": "4M", "maxrate": "4M", "bufsize": "1835k"}
    file = encode(tmp_path / "a.mkv", moving_disc(12, width=352, height=288), codec, options=rate)
    with av.open(str(file)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert any(bytes(100) in packet for packet in packets)  # filled up
    for packet in packets:
        assert not has_hole(packet)
        last = packet.rstrip(b"\0")
        assert has_hole(last[:-10] + bytes(8) + last[-10:])
