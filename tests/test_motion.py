"""The motion curve, against sums over fully decoded videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ACTION, NUM_FRAMES, decode_all, encode, kind, moving_disc

from mgs_dali.decode.frames import decode_file
from mgs_dali.motion.pixel import MotionMeter, block_side, pixel_motion
from mgs_dali.sampling import motion_guided_frames, segment_targets


def curve_of(file: Path) -> np.ndarray:
    return pixel_motion(decode_file(file))


@pytest.mark.parametrize(
    ("size", "block"),
    [((320, 240), 7), ((240, 320), 7), ((96, 64), 2), ((64, 63), 1), ((20, 10), 1), ((1920, 1080), 33)],
)
def test_block_side(size: tuple[int, int], block: int) -> None:
    assert block_side(*size) == block


@pytest.mark.parametrize("name", ["h264", "mpeg4", "vp8", "vp8-hidden", "vp9", "mjpeg", "ffv1"])
def test_curve_is_the_mean_difference_of_block_averages(videos: dict[str, Path], name: str) -> None:
    planes = decode_all(videos[name], "yuvj420p" if name == "mjpeg" else "yuv420p")[:, :64].astype(float)
    averages = planes.reshape(NUM_FRAMES, 32, 2, 48, 2).mean(axis=(2, 4))
    curve = curve_of(videos[name])
    assert kind(curve) == ("float32", (NUM_FRAMES - 1,))
    np.testing.assert_allclose(curve, np.abs(np.diff(averages, axis=0)).mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_rows_and_columns_beyond_whole_blocks_are_left_out(tmp_path: Path) -> None:
    frames = [np.full((101, 131, 3), 80, np.uint8) for _ in range(2)]
    frames[1][99:], frames[1][:, 129:] = 200, 200
    file = encode(tmp_path / "edge.mkv", frames, "ffv1", pixel_format="gray")
    assert curve_of(file).tolist() == [0.0]  # blocks of 3 x 3: 33 x 43 of them
    frames[1][98], frames[1][:, 128] = 200, 200
    assert curve_of(encode(tmp_path / "seen.mkv", frames, "ffv1", pixel_format="gray"))[0] > 0


@pytest.mark.parametrize("side", [352, 383, 384, 800])  # blocks of 11 (the last of 16 bits), 11, 12 and 25 pixels
def test_the_largest_change_does_not_overflow(tmp_path: Path, side: int) -> None:
    frames = [np.full((side, side + 5, 3), level, np.uint8) for level in (0, 255, 0)]
    file = encode(tmp_path / "flash.mkv", frames, "ffv1", pixel_format="gray")
    assert curve_of(file).tolist() == [255.0, 255.0]


def test_grey_levels_are_the_unit(tmp_path: Path) -> None:
    frames = [np.full((64, 96, 3), level, np.uint8) for level in (10, 14, 14, 4)]
    file = encode(tmp_path / "levels.mkv", frames, "ffv1", pixel_format="gray")
    assert curve_of(file).tolist() == [4.0, 0.0, 10.0]


def test_half_a_picture_that_changes(tmp_path: Path) -> None:
    frames = [np.full((64, 96, 3), 50, np.uint8) for _ in range(2)]
    frames[1][:, :48] = 70
    file = encode(tmp_path / "half.mkv", frames, "ffv1", pixel_format="gray")
    assert curve_of(file).tolist() == [10.0]


def test_one_frame_has_an_empty_curve(tmp_path: Path) -> None:
    curve = curve_of(encode(tmp_path / "one.mkv", moving_disc(1), "ffv1"))
    assert kind(curve) == ("float32", (0,))


def test_meter_passes_frames_on(videos: dict[str, Path]) -> None:
    meter = MotionMeter()
    times = [frame.pts or 0 for frame in meter.watch(decode_file(videos["vp9"]))]
    assert meter.num_frames == len(times) == NUM_FRAMES
    assert times == sorted(times)
    assert len(meter.curve) == NUM_FRAMES - 1


@pytest.mark.parametrize("name", ["h264", "vp9", "mjpeg", "ffv1-10bit", "h264-rgb"])
def test_motion_is_where_the_action_is(videos: dict[str, Path], name: str) -> None:
    curve = curve_of(videos[name])
    first, last = ACTION
    assert curve[first:last].mean() > 10 * np.delete(curve, np.arange(first, last)).mean()


def test_picks_stay_inside_an_action_in_noise(tmp_path: Path) -> None:
    """Blocks average the sensor's noise away: 49 pixels at 240 pixels' height lower it seven times."""
    first, last = 30, 45
    rng = np.random.default_rng(3)
    frames = []
    for index in range(60):
        picture = np.full((240, 320), 110.0)
        moved = min(max(index, first), last) - first
        picture[40:200, 16 * moved : 16 * moved + 80] = 190
        noisy = (picture + 4 * rng.standard_normal(picture.shape)).round().clip(0, 255).astype(np.uint8)
        frames.append(np.repeat(noisy[..., None], 3, axis=-1))
    file = encode(tmp_path / "noisy.mkv", frames, "ffv1", pixel_format="gray")  # lossless

    def share_inside(motion: np.ndarray, mu: float) -> float:
        targets = [segment_targets(8, np.random.default_rng(seed)) for seed in range(50)]
        picks = np.concatenate([motion_guided_frames(motion, target, mu=mu) for target in targets])
        return float(np.mean((picks >= first) & (picks <= last)))

    curve = curve_of(file)
    every_pixel = np.abs(np.diff(decode_all(file, "gray").astype(float), axis=0)).mean(axis=(1, 2))
    still = np.r_[:first, last:59]
    assert every_pixel[still].mean() == pytest.approx(4 * 2 / np.pi**0.5, rel=0.02)  # of the difference of two normals
    assert curve[still].mean() == pytest.approx(4 * 2 / np.pi**0.5 / 7, rel=0.05)
    assert share_inside(curve, 1.0) >= 0.75
    assert share_inside(curve, 0.5) > share_inside(every_pixel, 0.5) + 0.1
