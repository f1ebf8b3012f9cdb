"""The measures of motion, against rules written down again in another way, and against worked numbers."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ACTION, NUM_FRAMES, decode_all, encode, kind, leave_out, moving_disc

from mgs_dali.decode.frames import decode_file
from mgs_dali.decode.packets import PacketTable, scan
from mgs_dali.index.measuring import measure_video
from mgs_dali.motion.pa import Filters, Pa, load_filters, pa_motion
from mgs_dali.motion.packet import packet_keyframes, packet_motion
from mgs_dali.motion.pixel import pixel_motion
from mgs_dali.motion.ssim import ssim_motion


def still_part(curve: np.ndarray) -> np.ndarray:
    return np.delete(curve, np.arange(*ACTION))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The moving disc under sensor noise, without loss."""
    frames = moving_disc(8, width=61, height=50, action=(2, 5), noise=4)
    return encode(tmp_path_factory.mktemp("noisy") / "noisy.mkv", frames, "ffv1")


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["pixel", "ssim", "packet"])
@pytest.mark.parametrize("name", ["h264", "hevc", "vp8-hidden", "vp9", "mpeg4"])
def test_one_shape_for_all(videos: dict[str, Path], name: str, measure: str) -> None:
    found = measure_video(videos[name], measure=measure)
    assert kind(found.motion) == ("float32", (NUM_FRAMES - 1,))
    assert np.isfinite(found.motion).all()
    assert (found.motion >= 0).all()
    # of pictures this small and plain, headers are a large part of the bytes
    least = 1.1 if measure == "packet" else 2
    assert found.motion[slice(*ACTION)].mean() > least * still_part(found.motion).mean()
    assert (found.width, found.height, found.frames_per_second) == (96, 64, 25.0)
    assert found.codec == name.partition("-")[0]
    assert kind(found.keyframes)[0] == "int64"
    assert found.keyframes[0] == 0
    of_bytes = measure_video(videos[name].read_bytes(), measure=measure)
    assert np.array_equal(of_bytes.motion, found.motion)


@pytest.mark.parametrize("measure", ["pixel", "packet"])
def test_keyframes_are_those_that_were_asked_for(videos: dict[str, Path], measure: str) -> None:
    assert measure_video(videos["h264"], measure=measure).keyframes.tolist() == [0, 30]


def test_pixel_is_pixel_motion(videos: dict[str, Path]) -> None:
    expected = pixel_motion(decode_file(videos["vp9"]))
    assert np.array_equal(measure_video(videos["vp9"]).motion, expected)


@pytest.mark.parametrize("measure", ["pixel", "ssim", "packet"])
def test_what_an_edit_list_leaves_out_is_not_measured(videos: dict[str, Path], tmp_path: Path, measure: str) -> None:
    shorter = leave_out(videos["h264"], 7, tmp_path / "shorter.mp4")
    assert len(measure_video(shorter, measure=measure).motion) == len(decode_all(shorter)) - 1


@pytest.mark.parametrize("measure", ["pixel", "ssim", "packet"])
def test_one_frame_has_an_empty_curve(tmp_path: Path, measure: str) -> None:
    file = encode(tmp_path / "one.mp4", moving_disc(1), "mpeg4")
    found = measure_video(file, measure=measure)
    assert kind(found.motion) == ("float32", (0,))
    assert found.keyframes.tolist() == [0]


@pytest.mark.parametrize("measure", ["pixel", "ssim", "packet"])
def test_cut_off_files_are_errors(videos: dict[str, Path], measure: str) -> None:
    content = videos["mpeg4"].read_bytes()
    with pytest.raises(ValueError, match=r"cut: its RIFF chunk ends at byte \d+, .* The file is cut off"):
        measure_video(content[: len(content) * 4 // 5], measure=measure, name="cut")


@pytest.mark.parametrize("measure", ["pixel", "ssim", "packet"])
@pytest.mark.parametrize("content", [b"", b"no video at all" * 99])
def test_what_is_no_video_is_an_error(content: bytes, measure: str) -> None:
    with pytest.raises(ValueError, match=r"nothing: cannot be opened as a video"):
        measure_video(content, measure=measure, name="nothing")


def test_unknown_measure(videos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="measure must be one of pixel, ssim, pa, packet, found 'flow'"):
        measure_video(videos["vp9"], measure="flow")


# --- ssim -----------------------------------------------------------------------------------------------------------


def ssim_of(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, window by window, with the sample covariance of 49 pixels."""
    values = []
    for y in range(a.shape[0] - 6):
        for x in range(a.shape[1] - 6):
            p, q = (image[y : y + 7, x : x + 7].astype(float).ravel() for image in (a, b))
            (var_p, cov), (_, var_q) = np.cov(p, q)
            above = (2 * p.mean() * q.mean() + 2.55**2) * (2 * cov + 7.65**2)
            values.append(above / ((p.mean() ** 2 + q.mean() ** 2 + 2.55**2) * (var_p + var_q + 7.65**2)))
    return float(np.mean(values))


def test_ssim_is_the_published_formula(noisy: Path) -> None:
    images = decode_all(noisy, "gray")
    curve = measure_video(noisy, measure="ssim").motion
    expected = [1 - ssim_of(a, b) for a, b in pairwise(images)]
    assert min(expected) > 0.01
    np.testing.assert_allclose(curve, expected, rtol=1e-5)


def test_ssim_takes_grey_as_it_is_made_of_rgb(noisy: Path) -> None:
    """The released script turns RGB into grey with OpenCV: 0.299 R + 0.587 G + 0.114 B, from 0 to 255."""
    grey = decode_all(noisy) @ [0.299, 0.587, 0.114]
    assert np.abs(decode_all(noisy, "gray") - grey).max() <= 2


def test_ssim_of_extremes(tmp_path: Path) -> None:
    levels = (0, 0, 255, 255)
    frames = [np.full((20, 24, 3), level, np.uint8) for level in levels]
    file = encode(tmp_path / "levels.mkv", frames, "ffv1", pixel_format="gray")
    # black against white without any contrast: 1 - C1 / (255**2 + C1)
    np.testing.assert_allclose(measure_video(file, measure="ssim").motion, [0, 1 - 2.55**2 / (255**2 + 2.55**2), 0])


def test_ssim_needs_seven_pixels(tmp_path: Path) -> None:
    file = encode(tmp_path / "low.mkv", [np.zeros((6, 40, 3), np.uint8)] * 2, "ffv1", pixel_format="gray")
    with pytest.raises(ValueError, match=r"low: frames of 40x6 pixels; measure ssim needs at least 7x7"):
        ssim_motion(decode_file(file), name="low")


# --- pa -------------------------------------------------------------------------------------------------------------


def released_feature_rule(images: np.ndarray, weight: Any, bias: Any) -> list[float]:
    """generate_feature_diff.py in other words: BGR from 0 to 255, features of each frame, then their distance."""
    import torch

    frames = torch.from_numpy(images[..., ::-1].copy()).double().permute(0, 3, 1, 2)
    features = torch.nn.functional.conv2d(frames, weight.double(), bias.double(), stride=1, padding=3)
    return [float(((b - a).neg() + 1e-6).pow(2).sum(0).sqrt().sum()) for a, b in pairwise(features)]


def test_pa_with_a_pan_checkpoint(noisy: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weight, bias = 0.01 * torch.randn(8, 3, 7, 7), torch.randn(8)
    state = {"module.PA.shallow_conv.weight": weight, "module.PA.shallow_conv.bias": bias}
    expected = released_feature_rule(decode_all(noisy), weight, bias)
    for content in ({"state_dict": state}, {"epoch": 80, "arch": "resnet50", "state_dict": state}, state):
        torch.save(content, tmp_path / "pan.pth.tar")
        filters = load_filters(tmp_path / "pan.pth.tar")
        assert (filters.source, filters.stride) == ("PAN", 1)
        curve = measure_video(noisy, measure=Pa(filters)).motion
        assert kind(curve) == ("float32", (7,))
        np.testing.assert_allclose(curve, expected, rtol=1e-4)


def test_pa_with_a_resnet(noisy: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.randn(64, 3, 7, 7)
    torch.save({"conv1.weight": weight, "fc.bias": torch.zeros(3)}, tmp_path / "resnet.pth")
    filters = load_filters(tmp_path / "resnet.pth")
    assert (filters.source, filters.stride) == ("ResNet", 2)
    images = torch.from_numpy(decode_all(noisy)).permute(0, 3, 1, 2).double() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean[:, None, None]) / std[:, None, None]
    features = torch.nn.functional.conv2d(images, weight.double(), stride=2, padding=3)
    expected = (features[1:] - features[:-1]).norm(dim=1).sum(dim=(1, 2))
    np.testing.assert_allclose(measure_video(noisy, measure=Pa(filters)).motion, expected, rtol=1e-4)


def test_pa_of_equal_frames_is_its_epsilon(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = encode(tmp_path / "still.mkv", [np.full((20, 30, 3), 99, np.uint8)] * 40, "ffv1")
    filters = Filters(np.ones((8, 3, 7, 7), np.float32), 1, "PAN")
    curve = pa_motion(decode_file(file), filters=filters)
    assert kind(curve) == ("float32", (39,))  # more than are computed at once
    np.testing.assert_allclose(curve, 20 * 30 * 1e-6 * 8**0.5, rtol=1e-5)


def test_pa_filters_are_told_apart() -> None:
    one, other = (Filters(np.full((8, 3, 7, 7), value, np.float32), 1, "PAN") for value in (1, 2))
    assert one.parameters["filters"] == "PAN"
    assert one.parameters != other.parameters
    assert one.parameters == Filters(one.weight.copy(), 1, "PAN").parameters


def test_pa_checkpoints_that_are_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    file = tmp_path / "c.pth"
    with pytest.raises(ValueError, match="there is no such file"):
        load_filters(file)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of plain tensors"):
        load_filters(file)
    torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, file)
    with pytest.raises(ValueError, match=r"holds neither module\.PA\.shallow_conv\.weight"):
        load_filters(file)
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(ValueError, match=r"conv1\.weight has the shape \(64, 3, 3, 3\), expected \(64, 3, 7, 7\)"):
        load_filters(file)


def test_pa_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match="Measure pa needs PyTorch"):
        load_filters(Path("any"))


# --- packet ---------------------------------------------------------------------------------------------------------


def table(sizes: list[int], kinds: str, *, pts: list[int] | None = None, hidden: tuple[int, ...] = ()) -> PacketTable:
    """A packet table in the order of decoding; of the kinds K is a keyframe."""
    count = len(sizes)
    return PacketTable(
        pts=np.arange(count) if pts is None else np.array(pts),
        dts=np.arange(count),
        size=np.array(sizes),
        is_keyframe=np.array([letter == "K" for letter in kinds]),
        discard=np.zeros(count, bool),
        shows=np.array([index not in hidden for index in range(count)]),
        is_referenced=np.ones(count, bool),
        access=np.zeros(count, np.uint8),
        order=np.arange(count),
        needs_leading=False,
        level="full",
        reason="made up",
    )


def test_packed_b_frames_say_nothing_of_motion() -> None:
    packed = replace(table([900, 10, 60, 10], "KPPP"), reason="MPEG-4 with packed B-frames")
    with pytest.raises(ValueError, match=r"^v: it has packed B-frames, two frames in one packet, .* Use measure pixel"):
        packet_motion(packed, name="v")


def test_packet_takes_the_frame_that_arrives() -> None:
    #           frame            0    1   2   3   4   5   6   7
    found = packet_motion(table([900, 10, 10, 10, 50, 60, 70, 10], "KPPPPPPP"))
    # medians of five:                10  10  10  50  50  50  10
    np.testing.assert_allclose(found, [10, 10, 10, 50, 3000**0.5, 3500**0.5, 10])


def test_packet_replaces_keyframes() -> None:
    # keyframe 3 becomes the 20 between 10 and 30
    assert packet_motion(table([900, 10, 10, 900, 30, 30, 30], "KPPKPPP")).tolist() == [10, 10, 20, 30, 30, 30]
    # at the end there is one neighbour only
    assert packet_motion(table([900, 10, 20, 900], "KPPK")).tolist() == [10, 20, 20]


def test_packet_tones_exceptions_down() -> None:
    np.testing.assert_allclose(packet_motion(table([900, 10, 10, 250, 10, 10], "KPPPPP")), [10, 10, 50, 10, 10])


def test_packet_scales_b_frames() -> None:
    # decoded 0 3 1 2 6 4 5: the P-frames 3 and 6 have 300 and 300 bytes, the B-frames 100 each
    found = packet_motion(table([900, 300, 100, 100, 300, 100, 100], "KPPPPPP", pts=[0, 3, 1, 2, 6, 4, 5]))
    assert found.tolist() == [300] * 6


def test_packet_leaves_hidden_frames_out() -> None:
    assert packet_motion(table([900, 10, 700, 20, 20], "KPPPP", hidden=(2,))).tolist() == [10, 20, 20]
    assert packet_keyframes(table([900, 10, 700, 20, 900], "KPPPK", hidden=(2,))).tolist() == [0, 3]


def test_packet_needs_predicted_frames(videos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"mjpeg.*: all of its 60 frames are keyframes.*Use measure pixel"):
        measure_video(videos["mjpeg"], measure="packet")


@pytest.mark.parametrize("name", ["h264", "hevc", "vp8", "vp8-hidden", "vp9"])
def test_container_and_headers_agree(videos: dict[str, Path], name: str) -> None:
    of_headers = scan(videos[name]).packets
    assert of_headers is not None
    assert np.array_equal(measure_video(videos[name], measure="packet").motion, packet_motion(of_headers))


def test_packet_knows_b_frames_in_avi(videos: dict[str, Path], tmp_path: Path) -> None:
    """AVI does not say in which order frames are shown; the pictures' headers do."""
    same = encode(tmp_path / "same.mp4", moving_disc(), "mpeg4", max_b_frames=2)
    in_avi, in_mp4 = (measure_video(file, measure="packet").motion for file in (videos["mpeg4"], same))
    np.testing.assert_allclose(in_avi, in_mp4, atol=60)  # bytes: MP4 keeps the headers elsewhere
