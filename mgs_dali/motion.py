"""How much each frame of a video moves: four measures, each of which gives a motion curve."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from .packets import PacketTable, shown_packets
from .sampling import Sampler, check_sampler, evaluated
from .video import luma, rgb
from .videos import Reading, frames_of_span

__all__ = [
    "MEASURES",
    "WORKING_SIDE_PIXELS",
    "Filters",
    "Measure",
    "MotionMeter",
    "Pa",
    "Packet",
    "Pixel",
    "Ssim",
    "as_measure",
    "block_side",
    "choose_frames",
    "load_filters",
    "measure_of",
    "pa_motion",
    "packet_keyframes",
    "packet_motion",
    "pixel_motion",
    "ssim_motion",
]

WORKING_SIDE_PIXELS = 32
"""The short side of the picture that motion is measured on. Small enough that averaging takes the sensor's noise away
(blocks of 7 x 7 pixels for a 240-pixel video lower it seven times), large enough for a moving hand to cross blocks."""


_FRAMES_AT_ONCE = 8  # more would take their memory from the system anew each time, which costs more than it saves


class Measure(Protocol):
    """A way to put a number on how much happens between two frames. One of your own has these members; see
    ``examples/own_measure.py``. It can be pickled, since worker processes measure."""

    @property
    def name(self) -> str:
        """In a few letters, such as ``pixel``."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What else tells this measure from others: an index holds curves of one name and its parameters, as JSON."""

    @property
    def needs_decoding(self) -> bool:
        """False where packets tell enough. Then a loader needs no index, since measuring costs next to nothing."""

    def curve(self, reading: Reading) -> np.ndarray:
        """The motion curve of a clip, (N - 1,) float32, finite and at least 0.

        Args:
            reading: the video. Its ``decode()`` gives the clip's frames; its ``scan`` is of the whole video, with its
                packets; its ``span`` are the frames that are the clip.

        Raises:
            ValueError: its motion cannot be measured in this way.
        """


@dataclass(frozen=True)
class Pixel:
    """Mean absolute difference of luma, see :class:`MotionMeter`."""

    name: ClassVar[str] = "pixel"
    parameters: ClassVar[dict[str, Any]] = {"working_side_pixels": WORKING_SIDE_PIXELS}
    needs_decoding: ClassVar[bool] = True

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        return pixel_motion(reading.decode())


@dataclass(frozen=True)
class Ssim:
    """1 - SSIM, see :func:`ssim_motion`."""

    name: ClassVar[str] = "ssim"
    parameters: ClassVar[dict[str, Any]] = {}
    needs_decoding: ClassVar[bool] = True

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        return ssim_motion(reading.decode(), name=reading.name)


@dataclass(frozen=True)
class Pa:
    """Differences of low-level features, see :func:`pa_motion`."""

    filters: Filters

    name: ClassVar[str] = "pa"
    needs_decoding: ClassVar[bool] = True

    @property
    def parameters(self) -> dict[str, Any]:
        """Which filters these are."""
        return self.filters.parameters

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        return pa_motion(reading.decode(), filters=self.filters)


def _pa(*, pa_weights: Path | None = None) -> Pa:
    """The measure pa.

    Args:
        pa_weights: a PAN checkpoint or a torchvision ResNet; by default torchvision's ResNet-50
    """
    return Pa(load_filters(pa_weights))


@dataclass(frozen=True)
class Packet:
    """Sizes of compressed frames, see :func:`packet_motion`. Nothing is decoded where headers tell what is shown."""

    name: ClassVar[str] = "packet"
    parameters: ClassVar[dict[str, Any]] = {}
    needs_decoding: ClassVar[bool] = False

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        table, span, name = reading.packets, reading.span, reading.name
        if table is None:
            raise ValueError(f"{name}: {NO_PACKETS}")
        if table.level == "full" and not table.is_decoded:
            # Only decoding tells which packets give frames, and when they are shown.
            table = shown_packets(table, [frame.pts for frame in reading.decode()])
        motion = packet_motion(table, name=name)
        if table.is_decoded and reading.num_frames != len(motion) + 1:
            raise ValueError(
                f"{name}: its packets promise {len(motion) + 1} frames, {reading.num_frames} come out, so that their "
                "sizes do not tell when it moves. Use measure='pixel', or a motion index."
            )
        return motion[span.start : span.stop - 1]


MEASURES: dict[str, Callable[..., Measure]] = {"pixel": Pixel, "ssim": Ssim, "pa": _pa, "packet": Packet}
"""By name, what makes one. Its keyword arguments are options of ``mgs-dali index``."""

NO_PACKETS = (
    "measure packet takes what a video's encoder spent on each change. The pictures of a frame folder are compressed "
    "one by one, so their sizes say nothing of motion. Use measure pixel."
)


def measure_of(sampler: Sampler) -> Measure:
    """How the motion is measured that a sampler needs: by its ``measure``, an object or one of :data:`MEASURES`.

    Raises:
        ValueError: there is no such measure.
    """
    return as_measure(getattr(sampler, "measure", "pixel"))


def as_measure(measure: str | Measure) -> Measure:
    """A measure by its name; one that is an object already stays as it is.

    Raises:
        ValueError: there is no measure of this name.
    """
    if not isinstance(measure, str):
        return measure
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, found {measure!r}.")
    return MEASURES[measure]()


def choose_frames(
    video: AbstractContextManager[Reading], sampler: Sampler, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Choose frames of a clip, see :meth:`mgs_dali.video_file.VideoFile.choose`."""
    check_sampler(sampler)
    sampler = sampler if rng is not None else evaluated(sampler)
    with video as reading:
        span, table = reading.span, reading.packets
        motion = measure_of(sampler).curve(reading) if sampler.needs_motion else None
        num_frames = len(span)
        if motion is not None:
            num_frames = len(motion) + 1
        elif table is not None and table.level == "full":
            num_frames = sum(1 for _ in reading.decode())  # only decoding tells how many there are
        span = range(span.start, span.start + num_frames)
        return frames_of_span(reading.name, span, sampler=sampler, targets=sampler.targets(rng=rng), motion=motion)


# --- pixel ----------------------------------------------------------------------------------------------------------


def block_side(width: int, height: int) -> int:
    """Side in pixels of the square blocks that a picture of this size is averaged over."""
    return max(1, min(width, height) // WORKING_SIDE_PIXELS)


class MotionMeter:
    """Measures motion of frames as they pass: the mean absolute luma difference of neighbours (measure ``pixel``).

    Luma is averaged over square blocks first, see :data:`WORKING_SIDE_PIXELS`. The method's paper (MGSampler,
    ICCV 2021) subtracts neighbouring frames; the authors' released script takes 1 - SSIM and says that the two "give
    similar results".
    """

    def __init__(self) -> None:
        self.num_frames = 0
        self._block = 1
        self._values: list[np.ndarray] = []
        self._rows = np.zeros((0, 0, 0), np.uint16)
        """Sums over rows of blocks, of frames that wait: the first ``_num_waiting`` count."""
        self._num_waiting = 0

    def watch(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Pass frames on and measure each against the one before it."""
        for frame in frames:
            image = luma(frame)
            if self.num_frames == 0:
                self._block = block_side(frame.width, frame.height)
                # 16 bits hold 257 rows; a block has as many in pictures of 8224 pixels' height.
                assert self._block <= 257
                self._rows = np.empty((_FRAMES_AT_ONCE + 1, image.shape[0] // self._block, image.shape[1]), np.uint16)
            # Rows of blocks at once, while the frame is in the cache and before the decoder needs its memory again.
            _, num_rows, width = self._rows.shape
            whole = image[: num_rows * self._block].reshape(num_rows, self._block, width)
            np.add.reduce(whole, axis=1, dtype=np.uint16, out=self._rows[self._num_waiting])
            self._num_waiting += 1
            self.num_frames += 1
            # The rest for several frames at once: for arrays this small NumPy's calls cost more than its sums.
            if self._num_waiting == len(self._rows):
                self._measure()
            yield frame

    def _measure(self) -> None:
        rows, block = self._rows[: self._num_waiting], self._block
        # Differences first: they fit 16 bits, also summed over a block, in pictures of up to 383 pixels' height.
        rows = rows.view(np.int16) if 255 * block**2 < 2**15 else rows.astype(np.int32)
        change = rows[1:] - rows[:-1]
        num_frames, num_rows, num_columns = *change.shape[:2], change.shape[2] // block
        whole = change[:, :, : num_columns * block].reshape(num_frames, num_rows, num_columns, block)
        blocks = np.einsum("frcb->frc", whole)  # the sum over b; for so short an axis faster than .sum()
        totals = np.abs(blocks).reshape(num_frames, -1).sum(axis=1, dtype=np.int64)
        self._values.append((totals / (num_rows * num_columns * block**2)).astype(np.float32))
        self._rows[0] = self._rows[self._num_waiting - 1]
        self._num_waiting = 1

    @property
    def curve(self) -> np.ndarray:
        """(F - 1,) float32: ``curve[j]`` is the change from frame j to frame j + 1, in grey levels (0 to 255)."""
        if self._num_waiting > 1:
            self._measure()
        return np.concatenate([np.zeros(0, np.float32), *self._values])


def pixel_motion(frames: Iterable[VideoFrame]) -> np.ndarray:
    """The motion curve of a whole video, (F - 1,) float32 in grey levels. See :class:`MotionMeter`."""
    meter = MotionMeter()
    for _ in meter.watch(frames):
        pass
    return meter.curve


# --- ssim -----------------------------------------------------------------------------------------------------------

_WINDOW_PIXELS = 7
_K1, _K2, _DATA_RANGE = 0.01, 0.03, 255


class _Window(NamedTuple):
    """Sums over the 7 x 7 windows that lie inside a picture, (H - 6, W - 6) int32 each."""

    image: np.ndarray
    total: np.ndarray
    total_squared: np.ndarray
    spread: np.ndarray
    """49 times the sum of squares, less the square of the sum."""


def ssim_motion(frames: Iterable[VideoFrame], *, name: str = "video") -> np.ndarray:
    """1 - SSIM of neighbouring frames in grey at full resolution, (F - 1,) float32 from 0 to 2.

    The rule of the released ``generate_img_diff.py``: scikit-image's ``structural_similarity`` with its defaults (flat
    windows of 7 x 7 pixels, K1 = 0.01, K2 = 0.03, sample covariance, the mean over windows inside the picture), here
    with window sums in integers, which are exact.

    Raises:
        ValueError: frames are smaller than a window.
    """
    reformatter = VideoReformatter()
    values: list[float] = []
    previous: _Window | None = None
    for frame in frames:
        if min(frame.width, frame.height) < _WINDOW_PIXELS:
            raise ValueError(
                f"{name}: frames of {frame.width}x{frame.height} pixels; measure ssim needs at least "
                f"{_WINDOW_PIXELS}x{_WINDOW_PIXELS}. Measure pixel takes any size."
            )
        window = _window(reformatter.reformat(frame, format="gray", threads=1).to_ndarray().astype(np.int32))
        if previous is not None:
            values.append(1 - _mean_ssim(previous, window))
        previous = window
    # rounding can leave a hair below 0
    return np.maximum(np.array(values, np.float32), 0)


def _window(image: np.ndarray) -> _Window:
    total = _window_sums(image)
    total_squared = total * total
    return _Window(image, total, total_squared, _WINDOW_PIXELS**2 * _window_sums(image * image) - total_squared)


def _window_sums(values: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        across = values if axis == 0 else values.T
        inside = across.shape[0] - _WINDOW_PIXELS + 1
        pairs = across[:-1] + across[1:]
        # 7 = 4 + 2 + 1
        sums = pairs[:inside] + pairs[2 : inside + 2]
        sums += pairs[4 : inside + 4]
        sums += across[6:]
        values = sums if axis == 0 else sums.T
    return values


def _mean_ssim(a: _Window, b: _Window) -> float:
    """With n = 49, sums s and N = n (n - 1): all four factors of SSIM, times n**2 or N. Below 2**31 throughout."""
    num_pixels = _WINDOW_PIXELS**2
    level = (_K1 * _DATA_RANGE) ** 2 * num_pixels**2
    contrast = (_K2 * _DATA_RANGE) ** 2 * num_pixels * (num_pixels - 1)
    product = a.total * b.total
    covariance = num_pixels * _window_sums(a.image * b.image) - product
    above = (2 * product + level) * (2 * covariance + contrast)
    below = (a.total_squared + b.total_squared + level) * (a.spread + b.spread + contrast)
    return float((above / below).mean())


# --- pa -------------------------------------------------------------------------------------------------------------

_PA_EPSILON = 1e-6
_PAN_KEY = "module.PA.shallow_conv.weight"
_RESNET_KEYS = ("conv1.weight", "module.conv1.weight")
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Filters:
    """The convolution of the measure ``pa``.

    Attributes:
        weight: (C, 3, 7, 7) float32, for RGB frames with values from 0 to 255.
        stride: in pixels.
        source: ``PAN`` or ``ResNet``.
    """

    weight: np.ndarray
    stride: int
    source: str

    @property
    def parameters(self) -> dict[str, str]:
        """What tells these filters from others."""
        return {"filters": self.source, "sha256": hashlib.sha256(self.weight.tobytes()).hexdigest()}


def load_filters(file: Path | None = None) -> Filters:
    """Read the convolution of the measure ``pa`` from a checkpoint.

    PAN's checkpoints hold it as ``module.PA.shallow_conv.weight``, 8 filters at stride 1. Like the released
    ``generate_feature_diff.py`` it is fed frames as they are, blue first and with values from 0 to 255, although PAN
    was trained on normalised RGB. The bias cancels in differences.

    Of a torchvision ResNet the first convolution is taken as the network has it: 64 filters at stride 2, no bias, fed
    RGB normalised with ImageNet's standard deviation (the mean cancels).

    Args:
        file: a PAN checkpoint, or the state dict of a torchvision ResNet. None: torchvision's ResNet-50 with ImageNet
            weights (IMAGENET1K_V1), downloaded once.

    Raises:
        ValueError: the file holds neither, or cannot be read.
        ModuleNotFoundError: PyTorch is not installed.
    """
    torch = _import_torch()
    if file is None:
        try:
            from torchvision.models import ResNet50_Weights  # noqa: PLC0415  needs torchvision

            states: Any = ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"torchvision's ResNet-50 weights could not be downloaded ({error}). On a machine with internet fetch "
                f"{ResNet50_Weights.IMAGENET1K_V1.url} and copy it to {torch.hub.get_dir()}/checkpoints; or give a "
                "checkpoint that is here: --pa-weights FILE, a PAN checkpoint or a torchvision ResNet state dict."
            ) from error
    else:
        if not file.is_file():
            raise ValueError(f"{file}: there is no such file. Give a PAN checkpoint or a torchvision ResNet.")
        try:
            states = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{file}: cannot be read as a checkpoint of plain tensors ({str(error).splitlines()[0]}). Save it "
                "again with torch.save({'state_dict': ...})."
            ) from error
    nested = [states, *states.values()] if isinstance(states, dict) else []
    for state in nested:
        if not isinstance(state, dict):
            continue
        if _PAN_KEY in state:
            weight = _checked_filters(state[_PAN_KEY], (8, 3, 7, 7), _PAN_KEY, file)
            # trained on RGB, released on BGR: its first channel sees blue
            return Filters(np.ascontiguousarray(weight[:, ::-1]), 1, "PAN")
        for key in _RESNET_KEYS:
            if key in state:
                weight = _checked_filters(state[key], (64, 3, 7, 7), key, file)
                scale = np.array(_IMAGENET_STD, np.float32)[:, None, None] * 255
                return Filters(weight / scale, 2, "ResNet")
    raise ValueError(
        f"{file}: holds neither {_PAN_KEY} (a PAN checkpoint) nor conv1.weight (a torchvision ResNet). Give one of "
        "these two."
    )


def _checked_filters(weight: Any, shape: tuple[int, ...], key: str, file: Path | None) -> np.ndarray:
    if tuple(weight.shape) != shape:
        raise ValueError(f"{file}: {key} has the shape {tuple(weight.shape)}, expected {shape}.")
    values: np.ndarray = weight.detach().float().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"{file}: {key} holds values that are not finite.")
    return values


def pa_motion(frames: Iterable[VideoFrame], *, filters: Filters, device: str | None = None) -> np.ndarray:
    """Persistence of appearance (PAN, arXiv 2008.03462), (F - 1,) float32: change of the first features.

    The sum over pixels of the distance between the filter responses of neighbouring frames, at full resolution. As in
    PyTorch's ``PairwiseDistance``, 1e-6 is added to each difference. The convolution is linear, so it is applied to the
    difference of frames, which costs the same and loses nothing to rounding.

    Args:
        frames: of one video.
        filters: see :func:`load_filters`.
        device: where to compute; by default a GPU if there is one.
    """
    torch = _import_torch()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    weight = torch.from_numpy(filters.weight).to(place)
    reformatter = VideoReformatter()
    values: list[Any] = []  # tensors
    waiting: list[np.ndarray] = []

    def flush() -> None:
        images = torch.from_numpy(np.stack(waiting)).to(place).permute(0, 3, 1, 2).float()
        change = torch.nn.functional.conv2d(images[1:] - images[:-1], weight, stride=filters.stride, padding=3)
        values.append((change + _PA_EPSILON).square().sum(dim=1).sqrt().sum(dim=(1, 2)).cpu())
        del waiting[:-1]

    with torch.inference_mode():
        for frame in frames:
            waiting.append(rgb(frame, reformatter=reformatter))
            if len(waiting) > _FRAMES_AT_ONCE:
                flush()
        if len(waiting) > 1:
            flush()
    return torch.cat(values).numpy() if values else np.zeros(0, np.float32)


def _import_torch() -> Any:
    try:
        import torch  # noqa: PLC0415  only this measure needs it
    except ImportError as error:
        raise ModuleNotFoundError(
            "Measure pa needs PyTorch, which is not installed. Install it with: pip install 'mgs-dali[train]'",
            name="torch",
        ) from error
    return torch


# --- packet ---------------------------------------------------------------------------------------------------------


def packet_motion(table: PacketTable, *, name: str = "video") -> np.ndarray:
    """Motion from the sizes of compressed frames, (F - 1,) float32: what the encoder could not predict costs bytes.

    Nothing is decoded. Three things hide motion in the sizes, and are taken out in this order:

    1. A B-frame costs less than a P-frame of the same motion: B-frames are scaled to the mean of the P-frames.
    2. A keyframe costs bytes for its content, not for motion: it is replaced by the line between its neighbours.
    3. Encoders spend more on some frames for the sake of those that follow, and less right after (golden frames, the
       hidden frames that VP9 packs together with a shown one, the levels of B-pyramids): the geometric mean of the size
       and the median of the five frames around it, which halves such exceptions but leaves short motion in sight.

    The size of frame j + 1 stands for the change from frame j to it.

    Args:
        table: all packets of the video, see :func:`mgs_dali.packets.scan`.
        name: what to call the file in errors.

    Raises:
        ValueError: every frame is a keyframe, as in MJPEG, or packets hold two frames or none: their sizes say nothing
            of motion.
    """
    if "packed B-frames" in table.reason:
        raise ValueError(
            f"{name}: it has packed B-frames, two frames in one packet, so that packet sizes do not tell when it "
            "moves. Use measure pixel."
        )
    packets, is_reordered = _in_presentation_order(table)
    num_frames = len(packets)
    if num_frames == 0:
        raise ValueError(f"{name}: its video stream holds no frame. Take the file out of the list.")
    predicted = ~table.is_keyframe[packets]
    predicted[0] = False  # whatever it says: there is no frame before it
    if not predicted.any():
        if num_frames == 1:
            return np.zeros(0, np.float32)
        raise ValueError(
            f"{name}: all of its {num_frames} frames are keyframes, and the size of a keyframe says nothing of motion. "
            "Use measure pixel for this codec."
        )
    sizes = table.size[packets].astype(np.float64)
    forward, backward = predicted & ~is_reordered, predicted & is_reordered
    if forward.any() and backward.any():
        sizes[backward] *= sizes[forward].mean() / sizes[backward].mean()
    (known,) = predicted.nonzero()
    sizes = np.interp(np.arange(num_frames), known, sizes[known])[1:]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(sizes, 2, mode="edge"), 5)
    return np.sqrt(sizes * np.median(around, axis=1)).astype(np.float32)


def packet_keyframes(table: PacketTable) -> np.ndarray:
    """The frames that the container calls keyframes, (K,) int64, by their places in presentation order."""
    return np.flatnonzero(table.is_keyframe[_in_presentation_order(table)[0]])


def _in_presentation_order(table: PacketTable) -> tuple[np.ndarray, np.ndarray]:
    """The packets that give frames, (F,) int64, and which of them are decoded after one that is shown later."""
    order = table.order
    if table.level == "full" and table.pts.min() > np.iinfo(np.int64).min:
        # what the headers say cannot be trusted: by the container's timestamps, where all are there
        order = np.empty(len(table.pts), np.int64)
        order[np.argsort(table.pts, kind="stable")] = np.arange(len(order))
    packets = np.argsort(order)
    packets = packets[(table.shows & ~table.discard)[packets]]
    return packets, (order < np.maximum.accumulate(order))[packets]
