"""The DALI operators, against the NumPy rules and PyAV. Needs DALI, not PyTorch."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NUM_FRAMES, decode_all, encode, kind, moving_disc
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
from PIL import Image

from mgs_dali import graph
from mgs_dali.decode.frames import decode_file
from mgs_dali.motion.pixel import pixel_motion
from mgs_dali.sampling import motion_guided_frames, segment_targets, uniform_frames
from mgs_dali.views.rand_augment import OPERATIONS, RandAugment, as_rand_augment, draw_operations

Arrays = Sequence[np.ndarray]


def run(operators: Callable[..., Any], *inputs: Arrays, layouts: Sequence[str] = ()) -> list[list[np.ndarray]]:
    """Run operators once on the CPU, on one batch: an argument each a list of arrays, a sample each."""

    @pipeline_def(batch_size=len(inputs[0]), num_threads=2, device_id=None, exec_dynamic=True, enable_conditionals=True)
    def pipeline() -> Any:
        nodes = [
            fn.external_source([list(batch)], batch=True, cycle="raise", layout=(*layouts, *[""] * len(inputs))[place])
            for place, batch in enumerate(inputs)
        ]
        return operators(*nodes)

    built = pipeline()
    built.build()
    return [[np.array(output.at(row)) for row in range(len(inputs[0]))] for output in built.run()]


# --- picks ----------------------------------------------------------------------------------------------------------


def random_curve(rng: np.random.Generator) -> np.ndarray:
    """A motion curve of some kind that videos have, or that breaks sums: (n,) float32."""
    num_gaps = int(rng.choice([1, 2, 3, 7, int(rng.integers(8, 60)), int(rng.integers(60, 400))]))
    motion = rng.gamma(0.7, 3.0, num_gaps)
    kind = rng.integers(7)
    if kind == 1:  # still but for spikes
        motion = motion * (rng.random(num_gaps) < 0.1)
    elif kind == 2:  # plateaus: every frame shown several times
        motion = motion * (np.arange(num_gaps) % rng.integers(2, 5) == 0)
    elif kind == 3:  # nearly still for long, then an action
        motion = np.where(np.arange(num_gaps) < 0.8 * num_gaps, 1e-6 * rng.random(num_gaps), motion)
    elif kind == 4:  # equal values
        motion = np.full(num_gaps, rng.choice([1e-7, 0.3, 200.0]))
    elif kind == 5:  # whole numbers, many equal
        motion = rng.integers(0, 3, num_gaps).astype(float)
    elif kind == 6:  # one value stands for all
        motion = np.zeros(num_gaps)
        motion[rng.integers(num_gaps)] = 5.0
    return motion.astype(np.float32)


@pytest.mark.parametrize(
    ("pick", "mu", "floor"),
    [
        ("nearest", 0.5, 0.0),
        ("nearest", 1.0, 0.1),
        ("nearest", 0.0, 0.0),
        ("nearest", 0.3, 1.0),
        ("inverse", 0.5, 0.0),
        ("inverse", 1.0, 0.0),
        ("inverse", 0.0, 0.5),
        ("inverse", 0.7, 0.2),
    ],
)
def test_picks_are_those_of_numpy(pick: str, mu: float, floor: float) -> None:
    rng = np.random.default_rng([mu > 0.4, pick == "nearest"])
    curves = [random_curve(rng) for _ in range(520)]
    targets = [segment_targets(8, rng if index % 2 else None) for index in range(520)]
    (picks,) = run(lambda m, t: graph.guided_frames(m, t, mu=mu, floor=floor, pick=pick), curves, targets)
    expected = [motion_guided_frames(m, t, mu=mu, floor=floor, pick=pick) for m, t in zip(curves, targets, strict=True)]
    assert {kind(row) for row in picks} == {("int32", (8,))}
    apart = np.abs(np.array(picks, np.int64) - expected)
    assert np.mean(apart == 0) >= 0.995
    assert apart.max() <= 1


@pytest.mark.parametrize("num_segments", [1, 3, 16])
def test_any_number_of_segments(num_segments: int) -> None:
    rng = np.random.default_rng(0)
    curves = [random_curve(rng) for _ in range(40)]
    targets = [segment_targets(num_segments, rng) for _ in range(40)]
    (picks,) = run(graph.guided_frames, curves, targets)
    expected = [motion_guided_frames(m, t) for m, t in zip(curves, targets, strict=True)]
    assert np.mean(np.array(picks) == expected) >= 0.99


def test_picks_by_hand() -> None:
    """Motion 1 4 4 1 with mu = 0.5 weighs 1 2 2 1: the CDF is 1/6, 1/2, 5/6, 1."""
    motion, targets = np.array([1, 4, 4, 1], np.float32), np.array([0.1, 0.3, 0.4, 0.7, 0.95])
    (nearest,) = run(graph.guided_frames, [motion], [targets])
    assert nearest[0].tolist() == [0, 0, 1, 2, 3]
    # Inverse: at frames 0 to 4 the motion so far is 0, 1/6, 3/6, 5/6, 1. At 0.95 it is frame 3.7.
    (inverse,) = run(lambda m, t: graph.guided_frames(m, t, pick="inverse"), [motion], [targets])
    assert inverse[0].tolist() == [1, 1, 2, 3, 4]


@pytest.mark.parametrize("pick", ["nearest", "inverse"])
@pytest.mark.parametrize(("mu", "floor"), [(0.5, 0.0), (0.0, 0.0), (1.0, 0.5)])
def test_no_motion_and_one_frame_give_uniform_picks(pick: str, mu: float, floor: float) -> None:
    rng = np.random.default_rng(1)
    lengths = [1, 1, 2, 3, 7, 8, 9, 64, 100, 333, 1000]
    curves = [np.zeros(length - 1, np.float32) for length in lengths]
    targets = [segment_targets(8, rng if index % 2 else None) for index in range(len(lengths))]
    (picks,) = run(lambda m, t: graph.guided_frames(m, t, mu=mu, floor=floor, pick=pick), curves, targets)
    for length, target, row in zip(lengths, targets, picks, strict=True):
        assert row.tolist() == uniform_frames(length, target).tolist() == np.floor(target * length).tolist()


def test_samples_of_a_batch_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(2)
    curves = [random_curve(rng) for _ in range(12)] + [np.zeros(5, np.float32), np.zeros(0, np.float32)]
    targets = [segment_targets(4, rng) for _ in curves]
    (together,) = run(graph.guided_frames, curves, targets)
    for curve, target, row in zip(curves, targets, together, strict=True):
        ((alone,),) = run(graph.guided_frames, [curve], [target])
        assert alone.tolist() == row.tolist()


@pytest.mark.parametrize("length", [2000, pytest.param(6000, marks=pytest.mark.slow)])
def test_picks_of_long_videos(length: int) -> None:
    rng = np.random.default_rng(3)
    motion = np.where(np.arange(length) > 0.95 * length, 20 * rng.random(length), 1e-3 * rng.random(length))
    targets = segment_targets(8, rng)
    ((picks,),) = run(graph.guided_frames, [motion.astype(np.float32)], [targets])
    assert np.abs(picks - motion_guided_frames(motion.astype(np.float32), targets)).max() <= 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mu": -1.0}, "mu must be a finite number of at least 0, found -1"),
        ({"mu": float("nan")}, "mu must be a finite number"),
        ({"floor": -0.1}, "floor must be a finite number of at least 0, found -0.1"),
        ({"pick": "best"}, "pick must be one of 'nearest', 'inverse', found 'best'"),
    ],
)
def test_what_guided_frames_does_not_take(options: dict[str, Any], text: str) -> None:
    motion, targets = np.ones(4, np.float32), segment_targets(2)
    with pytest.raises(ValueError, match=text):
        run(lambda m, t: graph.guided_frames(m, t, **options), [motion], [targets])


def test_spread_frames_are_those_of_numpy() -> None:
    rng = np.random.default_rng(4)
    lengths = [*range(1, 200), 300, 997, 10_000, 65_535]
    targets = [segment_targets(int(rng.integers(1, 33)), None if index % 3 else rng) for index in range(len(lengths))]
    (picks,) = run(graph.spread_frames, [np.array(length, np.int64) for length in lengths], targets)
    for length, target, row in zip(lengths, targets, picks, strict=True):
        assert row.dtype == np.int64
        assert row.tolist() == uniform_frames(length, target).tolist()


# --- motion ---------------------------------------------------------------------------------------------------------


def restated_motion(video: np.ndarray) -> np.ndarray:
    """Block averages of BT.601 luma in limited range, rounded to whole grey levels first."""
    luma = np.floor(video @ np.array([65.481, 128.553, 24.966]) / 255 + 16 + 0.5)
    block = max(min(luma.shape[1:]) // 32, 1)
    num_frames, rows, columns = len(luma), luma.shape[1] // block, luma.shape[2] // block
    squares = luma[:, : rows * block, : columns * block].reshape(num_frames, rows, block, columns, block)
    return np.abs(np.diff(squares.mean(axis=(2, 4)), axis=0)).mean(axis=(1, 2))


def test_motion_curve_of_arrays() -> None:
    sizes = [(96, 64), (64, 96), (131, 101), (33, 20), (200, 32), (48, 7), (320, 240)]
    videos = [np.array(list(moving_disc(9, width=w, height=h, action=(1, 7), noise=2.0, seed=w))) for w, h in sizes]
    (curves,) = run(graph.motion_curve, videos, layouts=["FHWC"])
    for video, curve in zip(videos, curves, strict=True):
        assert kind(curve) == ("float32", (8,))
        # Rounding of the luma differs here and there by one level, averaged over the picture.
        np.testing.assert_allclose(curve, restated_motion(video), atol=0.05)


def test_still_videos_measure_exactly_zero() -> None:
    picture = next(moving_disc(1))
    (curves,) = run(graph.motion_curve, [np.stack([picture] * 5), np.stack([picture])], layouts=["FHWC"])
    assert curves[0].tolist() == [0.0] * 4
    assert curves[1].shape == (0,)


def test_motion_curve_leaves_out_rows_and_columns_beyond_whole_blocks() -> None:
    video = np.full((2, 101, 131, 3), 80, np.uint8)
    video[1, 99:], video[1, :, 129:] = 200, 200  # blocks of 3 x 3
    ((curve,),) = run(graph.motion_curve, [video], layouts=["FHWC"])
    assert curve.tolist() == [0.0]


@pytest.mark.parametrize("name", ["vp8", "vp9", "mjpeg"])
def test_motion_of_decoded_videos_is_that_of_the_cpu(videos: dict[str, Path], name: str) -> None:
    expected = pixel_motion(decode_file(videos[name]))
    if name == "mjpeg":
        expected = expected * 219 / 255  # its planes are in full range
    encoded = np.frombuffer(videos[name].read_bytes(), np.uint8)
    ((curve,),) = run(lambda node: graph.motion_curve(graph.decode_video(node, device="cpu")), [encoded])
    assert len(curve) == NUM_FRAMES - 1
    # The limited-range luma comes back from RGB to the level, that of full range to its rounding.
    np.testing.assert_allclose(curve, expected, atol=0.1 if name == "mjpeg" else 0.01)


# --- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp8", "vp9", "mjpeg"])
def test_decoding_gives_the_frames_of_pyav(videos: dict[str, Path], name: str) -> None:
    encoded = np.frombuffer(videos[name].read_bytes(), np.uint8)
    ((video,),) = run(lambda node: graph.decode_video(node, device="cpu"), [encoded])
    assert video.shape == (NUM_FRAMES, 64, 96, 3)
    apart = np.abs(video.astype(int) - decode_all(videos[name]))
    assert apart.mean() < 0.01  # equal with the FFmpeg of PyAV 18 and DALI 1.53 and 2.4
    assert apart.max() <= 2


def test_decoding_videos_of_different_sizes_in_one_batch(tmp_path: Path) -> None:
    sizes = [(96, 64, 5), (40, 80, 9), (64, 64, 1)]
    files = [
        encode(tmp_path / f"{w}.avi", moving_disc(n, width=w, height=h), "mjpeg", pixel_format="yuvj420p")
        for w, h, n in sizes
    ]
    (videos,) = run(
        lambda node: graph.decode_video(node, device="cpu"), [np.frombuffer(f.read_bytes(), np.uint8) for f in files]
    )
    assert [video.shape for video in videos] == [(n, h, w, 3) for w, h, n in sizes]


@pytest.mark.parametrize("quality", [30, 95])
def test_parts_of_pictures_are_those_of_whole_ones(quality: int) -> None:
    pictures, encoded = [], []
    for width, height, subsampling in [(96, 64, "4:2:0"), (97, 65, "4:4:4"), (31, 80, "4:2:2")]:
        file = io.BytesIO()
        image = Image.fromarray(next(moving_disc(1, width=width, height=height)))
        image.save(file, "JPEG", quality=quality, subsampling=subsampling, progressive=width == 97)
        encoded.append(np.frombuffer(file.getvalue(), np.uint8))
        pictures.append(np.asarray(Image.open(file)))
    crops = [np.array(crop, np.int32) for crop in [(0, 0, 96, 64), (13, 7, 50, 41), (30, 79, 1, 1)]]
    (found,) = run(partial(graph.decode_picture, device="cpu"), encoded, crops)
    for picture, (x, y, w, h), clip in zip(pictures, crops, found, strict=True):
        # Pillow and DALI both use libjpeg-turbo
        np.testing.assert_array_equal(clip, picture[None, y : y + h, x : x + w])


def test_the_gpu_is_told_to_interpolate_chroma_as_the_cpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    decoders = graph._decoders()
    decoder = decoders.image_slice

    def watched(*inputs: Any, **options: Any) -> Any:
        told.update(options)
        return decoder(*inputs, **options)  # which refuses what its operator does not know

    monkeypatch.setattr(decoders, "image_slice", watched)
    with Pipeline(batch_size=1, num_threads=1, device_id=None):
        graph.decode_picture(fn.external_source(lambda: None), fn.external_source(lambda: None), device="mixed")
    assert (told["device"], told["jpeg_fancy_upsampling"]) == ("mixed", True)


def test_take_frames() -> None:
    video = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 3)).astype(np.uint8)
    frames = np.array([7, 7, 0, 8, 3], np.int32)
    ((clip,),) = run(graph.take_frames, [video], [frames], layouts=["FHWC"])
    np.testing.assert_array_equal(clip, video[frames])


# --- augmentation ---------------------------------------------------------------------------------------------------

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def test_augment_without_resizing_is_exact() -> None:
    clips = [np.random.default_rng(i).integers(0, 256, (3, 40 + i, 50, 3)).astype(np.uint8) for i in range(4)]
    crops = [np.array([5 + i, 2 * i, 32, 32], np.int32) for i in range(4)]
    flips = [np.array(i % 2, np.int32) for i in range(4)]
    (found,) = run(
        lambda clip, crop, flip: graph.augment(clip, size=32, crop=crop, flip=flip),
        clips,
        crops,
        flips,
        layouts=["FHWC"],
    )
    for i, clip in enumerate(clips):
        expected = clip[:, 2 * i : 2 * i + 32, 5 + i : 37 + i] / 255.0
        expected = (expected[:, :, ::-1] if i % 2 else expected) - MEAN
        expected = (expected / STD).transpose(0, 3, 1, 2)
        assert kind(found[i]) == ("float32", (3, 3, 32, 32))
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


@pytest.mark.parametrize("size", [32, 56, 112])
def test_augment_is_that_of_torchvision(size: int) -> None:
    torch = pytest.importorskip("torch")
    v2 = pytest.importorskip("torchvision.transforms.v2.functional")
    clips = [np.array(list(moving_disc(3, width=120, height=90, seed=i, noise=6.0))) for i in range(4)]
    crops = [np.array([3 + 7 * i, 2 * i, 60 + 10 * i, 70], np.int32) for i in range(3)] + [
        np.array([0, 0, 120, 90], np.int32)
    ]
    flips = [np.array(i % 2, np.int32) for i in range(4)]
    (found,) = run(
        lambda clip, crop, flip: graph.augment(clip, size=size, crop=crop, flip=flip),
        clips,
        crops,
        flips,
        layouts=["FHWC"],
    )
    for clip, (x, y, width, height), flip, row in zip(clips, crops, flips, found, strict=True):
        pixels = torch.from_numpy(clip[:, y : y + height, x : x + width].copy()).permute(0, 3, 1, 2)
        pixels = v2.resize(pixels, [size, size], antialias=True)
        pixels = v2.horizontal_flip(pixels) if flip else pixels
        expected = v2.normalize(v2.to_dtype(pixels, torch.float32, scale=True), MEAN.tolist(), STD.tolist())
        apart = np.abs((row - expected.numpy()) * STD[:, None, None]) * 255
        assert apart.mean() < 0.5  # of 255; rounding to whole levels, of which torchvision does two, makes 0.15 to 0.2
        assert apart.max() < 6


def test_augment_takes_other_normalisations_and_half_precision() -> None:
    clip = np.full((2, 8, 8, 3), 102, np.uint8)
    ((found,),) = run(
        lambda node: graph.augment(node, size=8, mean=(0.5, 0.4, 0.3), std=(0.1, 1.0, 0.5), dtype=types.FLOAT16),
        [clip],
        layouts=["FHWC"],
    )
    assert kind(found) == ("float16", (2, 3, 8, 8))
    np.testing.assert_allclose(found[0, :, 0, 0], [-1.0, 0.0, 0.2], atol=2e-3)


def test_augment_flips_by_number() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    ((plain,), (flipped,)) = run(
        lambda node: (graph.augment(node, size=8), graph.augment(node, size=8, flip=1)), [clip], layouts=["FHWC"]
    )
    np.testing.assert_array_equal(flipped, plain[..., ::-1])


# --- in a pipeline of one's own -------------------------------------------------------------------------------------


def test_a_pipeline_of_ones_own(videos: dict[str, Path]) -> None:
    files = [np.frombuffer(videos[name].read_bytes(), np.uint8) for name in ("vp9", "mjpeg", "vp8")]
    targets = [segment_targets(6)] * 3

    @pipeline_def(batch_size=3, num_threads=2, device_id=None, exec_dynamic=True)
    def clips_of_six() -> Any:
        encoded = fn.external_source([files], batch=True)
        video = graph.decode_video(encoded, device="cpu")
        # Motion of every second frame, doubled: a user's own arithmetic between ours.
        curve = graph.motion_curve(video[::2]) * 2
        frames = graph.guided_frames(curve, types.Constant(targets[0], device="cpu"), pick="inverse") * 2
        return graph.augment(graph.take_frames(video, frames), size=40), frames, curve

    pipeline = clips_of_six()
    pipeline.build()
    clips, frames, curves = ([np.array(out.at(row)) for row in range(3)] for out in pipeline.run())
    for clip, picks, curve in zip(clips, frames, curves, strict=True):
        assert clip.shape == (6, 3, 40, 40)
        assert picks.tolist() == (2 * motion_guided_frames(curve, targets[0], pick="inverse")).tolist()
        assert np.isfinite(clip).all()
    assert (np.array(frames) % 2 == 0).all()


# --- RandAugment ----------------------------------------------------------------------------------------------------


def augmented(clips: Arrays, operations: Sequence[Sequence[tuple[str, int]]], *, strength: int) -> Arrays:
    """Clips after these operations, each a name and whether it is negated."""
    randomly = RandAugment(len(operations[0]), strength)
    drawn = [np.array([(OPERATIONS.index(name), sign) for name, sign in row], np.int32) for row in operations]
    size = clips[0].shape[1]
    (found,) = run(
        lambda clip, row: graph.rand_augment(clip, row, randomly, size=size), clips, drawn, layouts=("FHWC",)
    )
    return found


def test_operations_by_hand() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3)).astype(np.uint8)
    names = ["identity", "posterize", "solarize", "brightness", "translate_x", "translate_y", "translate_x"]
    signs = [0, 0, 0, 1, 0, 1, 1]
    operations = [[pair] for pair in zip(names, signs, strict=True)]
    same, posterized, solarized, darker, right, up, left = augmented([clip] * 7, operations, strength=30)
    np.testing.assert_array_equal(same, clip)
    np.testing.assert_array_equal(posterized, clip & 0xF0)  # 4 bits are left
    np.testing.assert_array_equal(solarized, 255 - clip)  # from brightness 0 on
    assert np.abs(darker - 0.1 * clip).max() <= 1
    # 100/224 of 56 pixels are 25.
    np.testing.assert_array_equal(right[:, :, 25:], clip[:, :, :-25])
    np.testing.assert_array_equal(left[:, :, :-25], clip[:, :, 25:])
    np.testing.assert_array_equal(up[:, :-25], clip[:, 25:])
    assert (right[:, :, :25] == 128).all()
    assert (up[:, -25:] == 128).all()


def test_strength_is_a_matter_of_degree() -> None:
    clip = np.full((1, 8, 8, 3), 100, np.uint8)
    for strength, brightness in ((0, 100), (10, 130), (20, 160), (30, 190)):
        (found,) = augmented([clip], [[("brightness", 0)]], strength=strength)
        assert np.abs(found.astype(int) - brightness).max() <= 1


def test_operations_follow_each_other() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    one, other = augmented(
        [clip] * 2, [[("posterize", 0), ("solarize", 0)], [("solarize", 0), ("posterize", 0)]], strength=30
    )
    np.testing.assert_array_equal(one, 255 - (clip & 0xF0))
    np.testing.assert_array_equal(other, (255 - clip) & 0xF0)


def test_every_operation_treats_all_frames_alike_and_only_its_own_clip() -> None:
    frame = next(moving_disc(1, width=56, height=56))
    clip = np.stack([frame] * 4)
    operations = [[(name, sign), ("identity", 0)] for name in OPERATIONS for sign in (0, 1)]
    together = augmented([clip] * len(operations), operations, strength=15)
    for found, operation in zip(together, operations, strict=True):
        assert kind(found) == ("uint8", (4, 56, 56, 3))
        assert (found == found[:1]).all(), operation
    alone = augmented([clip], [operations[9]], strength=15)
    np.testing.assert_array_equal(alone[0], together[9])
    changed = [not np.array_equal(found, clip) for found in together]
    assert [operation[0][0] for operation, differs in zip(operations, changed, strict=True) if not differs] == [
        "identity", "identity",
    ]  # fmt: skip


def test_augment_applies_operations_between_resize_and_flip() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3)).astype(np.uint8)
    operations = np.array([[OPERATIONS.index("translate_x"), 0]], np.int32)
    (found,) = run(
        lambda pixels, row: graph.augment(
            pixels, size=56, flip=1, operations=row, randomly=RandAugment(1, 30), mean=[0] * 3, std=[1 / 255] * 3
        ),
        [clip],
        [operations],
        layouts=("FHWC",),
    )
    np.testing.assert_allclose(found[0].transpose(0, 2, 3, 1)[:, :, :31], clip[:, :, 30::-1], atol=0.01)
    np.testing.assert_allclose(found[0][..., 31:], 128, atol=0.01)


def test_draws_of_operations() -> None:
    drawn = draw_operations(10_000, np.random.default_rng(0))
    assert kind(drawn) == ("int32", (10_000, 2))
    assert np.abs(np.bincount(drawn[:, 0], minlength=14) / 10_000 - 1 / 14).max() < 0.01
    assert abs(drawn[:, 1].mean() - 0.5) < 0.02
    np.testing.assert_array_equal(drawn, draw_operations(10_000, np.random.default_rng(0)))
    assert set(OPERATIONS) == {operation.name for operation in get_rand_augment_suite()}


@pytest.mark.parametrize("values", [(0, 9), (2, -1), (2, 31), (2, 1.5)])
def test_rand_augment_that_is_not_allowed(values: Any) -> None:
    with pytest.raises(
        ValueError, match=r"rand_augment \(\[.*\]\) must be \[operations, strength\]: at least 1, and 0"
    ):
        as_rand_augment(values)
