"""From a motion curve to frame numbers: pure NumPy functions, no video and no GPU.

Frames are counted from 0. A *motion curve* of a video with ``F`` frames has ``F - 1`` values: ``motion[j]`` is the
change from frame ``j`` to frame ``j + 1``. *Targets* are positions in ``[0, 1)``: for motion-guided picks a share of
all the motion, for uniform picks a share of the time. A clip of ``T`` segments has ``T`` targets, one in each of the
``T`` equal strata of ``[0, 1)``.

The motion-guided rules are those of MGSampler (ICCV 2021, arXiv 2104.09952) and of the code that its authors released;
the uniform and dense rules are those of mmaction2's ``SampleFrames`` and ``DenseSampleFrames``.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Frames = npt.NDArray[np.int64]

PICKS = ("nearest", "inverse")
LOADER_MEASURES = ("pixel", "packet")


class Sampler(Protocol):
    """A rule that chooses frames. One of your own has these members; see ``examples/own_sampler.py``.

    A sampler that trains on less than it should be evaluated on has besides them ``for_evaluation()``, the sampler to
    evaluate with.
    """

    @property
    def num_segments(self) -> int:
        """``T``, frames per clip."""

    @property
    def needs_motion(self) -> bool:
        """Whether `frames` wants a motion curve. Measuring one takes decoding the whole clip, or an index."""

    def targets(self, *, num_clips: int = 1, rng: np.random.Generator | None = None) -> Floats:
        """Return what is decided before anything is known of the video, such as where in it frames are taken.

        Args:
            num_clips: clips of the video, at least 1; at most 1 with `rng`.
            rng: draw one clip at random (training). Without one, what evaluation takes, which is always the same.

        Returns:
            (N,) float64, clip after clip; N is the same for every video.

        Raises:
            ValueError: there is no such number of clips.
        """

    def frames(self, num_frames: int, targets: Floats, motion: Any, /) -> Frames:
        """Return the frames of the clips.

        Args:
            num_frames: ``F``, frames of the video, at least 1.
            targets: as `targets` gives them.
            motion: (F - 1,) float32, the motion curve; None where `needs_motion` is False.

        Returns:
            (num_clips * T,) int64 frames in ``[0, F - 1]``, clip after clip.
        """


@dataclass(frozen=True)
class MotionGuided:
    """Sample where the video moves: `motion_guided_frames` with these parameters.

    Attributes:
        num_segments: frames per clip, at least 1.
        mu: exponent that smooths the motion: 0 is uniform in time, 1 is the raw motion, 0.5 is the published value.
        floor: share of the mean motion that is added to every gap, so that still parts keep some frames. 0 adds none.
        pick: ``"nearest"`` (the released code) or ``"inverse"`` (can reach the last frame).
        measure: how a loader without a motion index measures the motion: ``"pixel"``, which decodes the whole video,
            ``"packet"``, the sizes of its compressed frames, for which nothing is decoded, or a measure of your own for
            which nothing is decoded either (:class:`mgs_dali.motion.measure.Measure`).
    """

    num_segments: int = 8
    mu: float = 0.5
    floor: float = 0.0
    pick: str = "nearest"
    measure: Any = "pixel"

    needs_motion: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_count("num_segments", self.num_segments)
        _check_smoothing(self.mu, self.floor)
        _check_pick(self.pick)
        if getattr(self.measure, "needs_decoding", True) and self.measure not in LOADER_MEASURES:
            allowed = ", ".join(map(repr, LOADER_MEASURES))
            raise ValueError(
                f"measure must be one of {allowed}, found {self.measure!r}. Others need a motion index: mgs-dali index "
                "LIST --measure NAME."
            )

    def targets(self, *, num_clips: int = 1, rng: np.random.Generator | None = None) -> Floats:
        """Return shares of the motion, one in each stratum of each clip: see `Sampler` and `strata_targets`."""
        return strata_targets(self.num_segments, num_clips=num_clips, rng=rng, of=type(self).__name__)

    def frames(self, num_frames: int, targets: npt.ArrayLike, motion: npt.ArrayLike | None = None) -> Frames:
        """Return the frames that the targets fall on in the motion: see `Sampler` and `motion_guided_frames`."""
        assert motion is not None
        motion = np.asarray(motion)
        assert len(motion) == num_frames - 1
        return motion_guided_frames(motion, targets, mu=self.mu, floor=self.floor, pick=self.pick)


@dataclass(frozen=True)
class Uniform:
    """Sample evenly in time, as TSN and TSM do: `uniform_frames`.

    Attributes:
        num_segments: frames per clip, at least 1.
        keep_tail: False leaves out the last ``F % num_segments`` frames in training, as the published TSM models did.
            Evaluation always sees the whole video.
    """

    num_segments: int = 8
    keep_tail: bool = True

    needs_motion: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_count("num_segments", self.num_segments)

    def targets(self, *, num_clips: int = 1, rng: np.random.Generator | None = None) -> Floats:
        """Return shares of the time, one in each stratum of each clip: see `Sampler` and `strata_targets`."""
        return strata_targets(self.num_segments, num_clips=num_clips, rng=rng, of=type(self).__name__)

    def frames(self, num_frames: int, targets: npt.ArrayLike, motion: npt.ArrayLike | None = None) -> Frames:
        """Return the frames at these shares of the time: see `Sampler` and `uniform_frames`."""
        return uniform_frames(num_frames, targets, keep_tail=self.keep_tail)

    def for_evaluation(self) -> "Uniform":
        """Return the sampler that sees the whole video."""
        return replace(self, keep_tail=True)


@dataclass(frozen=True)
class Dense:
    """Sample evenly in one stretch of the video, as TSM does for its dense models on Kinetics: `dense_frames`.

    Attributes:
        num_segments: frames per clip, at least 1 and at most `span_frames`.
        span_frames: length of the stretch in frames; 64 is the published value.
    """

    num_segments: int = 8
    span_frames: int = 64

    needs_motion: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_span(self.num_segments, self.span_frames)

    def targets(self, *, num_clips: int = 1, rng: np.random.Generator | None = None) -> Floats:
        """Return where the stretches start, (num_clips,) float64 from 0 to 1: see `Sampler`.

        Those of evaluation are evenly spread from the first to the last possible start; a single one is in the middle.
        """
        assert rng is None or num_clips == 1
        if rng is not None:
            return np.array([rng.random()])
        return dense_starts(num_clips) if num_clips > 1 else np.array([0.5])

    def frames(self, num_frames: int, targets: npt.ArrayLike, motion: npt.ArrayLike | None = None) -> Frames:
        """Return the frames of the stretches that start there: see `Sampler` and `dense_frames`."""
        starts = np.asarray(targets, np.float64).tolist()
        clips = [dense_frames(num_frames, self.num_segments, start, span_frames=self.span_frames) for start in starts]
        return np.concatenate(clips)


def check_sampler(sampler: Any) -> None:
    """Check that something is a sampler: one of `MotionGuided`, `Uniform` and `Dense`, or has the members of `Sampler`.

    Raises:
        ValueError: it is not; the message tells what is missing.
    """
    allowed = "Give MotionGuided(...), Uniform(...), Dense(...), or an object of your own with the members of Sampler"
    if isinstance(sampler, type):
        raise ValueError(
            f"sampler ({sampler.__name__}) is a class, not a sampler. Call it: {sampler.__name__}(num_segments=8)."
        )
    members: dict[str, Callable[[Any], bool]] = {
        "num_segments": lambda value: isinstance(value, int | np.integer) and bool(value >= 1),
        "needs_motion": lambda value: isinstance(value, bool),
        "targets": callable,
        "frames": callable,
    }
    for name, is_right in members.items():
        if not hasattr(sampler, name):
            raise ValueError(f"sampler ({sampler!r}) is no sampler: it has no {name!r}. {allowed}.")
        if not is_right(getattr(sampler, name)):
            raise ValueError(
                f"sampler ({sampler!r}) is no sampler: its {name!r} is {getattr(sampler, name)!r}, where num_segments "
                "is a whole number of at least 1, needs_motion True or False, and targets and frames are methods."
            )


def evaluated(sampler: Sampler) -> Sampler:
    """Return the sampler to evaluate with: itself, or what its ``for_evaluation()`` gives."""
    of_its_own: Callable[[], Sampler] | None = getattr(sampler, "for_evaluation", None)
    return sampler if of_its_own is None else of_its_own()


def strata_targets(num_segments: int, *, num_clips: int, rng: np.random.Generator | None, of: str) -> Floats:
    """Return targets in the strata of each clip of a video.

    Args:
        num_segments: ``T``, at least 1.
        num_clips: the first clip has the strata's centres and the second their starts (mmaction2's ``twice_sample``),
            and there are no more.
        rng: draw one clip at random instead (training).
        of: what to call the sampler in errors.

    Returns:
        (num_clips * T,) float64 positions in [0, 1), clip after clip.

    Raises:
        ValueError: there is no such number of clips.
    """
    assert rng is None or num_clips == 1
    if rng is not None:
        return segment_targets(num_segments, rng)
    if num_clips not in (1, 2):
        raise ValueError(
            f"{num_clips} clips of a video asked for, but {of} has at most 2: the centres of the strata and their "
            "starts. Use the sampler Dense, or other views."
        )
    return np.concatenate([segment_targets(num_segments), stratum_starts(num_segments)][:num_clips])


def segment_targets(num_segments: int, rng: np.random.Generator | None = None) -> Floats:
    """Return one target in each of the `num_segments` equal strata of (0, 1).

    Args:
        num_segments: ``T``, at least 1.
        rng: without one, the centres ``(2k + 1) / 2T`` (evaluation); with one, a uniform draw per stratum (training).

    Returns:
        (T,) float64, increasing, each strictly inside its stratum ``(k/T, (k+1)/T)``.
    """
    num_segments = _check_count("num_segments", num_segments)
    if rng is None:
        return (2 * np.arange(num_segments) + 1) / (2 * num_segments)
    # The middle of one of 2**32 equal cells of the stratum: unlike rng.random(), never 0 and never rounded up to 1.
    inside = (rng.integers(2**32, size=num_segments, dtype=np.uint64) + 0.5) / 2**32
    return (np.arange(num_segments) + inside) / num_segments


def stratum_starts(num_segments: int) -> Floats:
    """Return the starts ``k / T`` of the strata, (T,) float64: the second clip of mmaction2's ``twice_sample``."""
    num_segments = _check_count("num_segments", num_segments)
    return np.arange(num_segments) / num_segments


def motion_cdf(motion: npt.ArrayLike, *, mu: float = 0.5, floor: float = 0.0) -> Floats:
    """Return the cumulative distribution of the motion over time.

    With ``w[j] = motion[j] ** mu + floor * mean(motion ** mu)`` it is ``cumsum(w) / cumsum(w)[-1]``, all in float64.
    It never falls and its last value is exactly 1.0. ``0 ** 0`` counts as 1, so ``mu=0`` is uniform in time.

    Args:
        motion: (F - 1,) changes between neighbouring frames in any unit: scaling them changes nothing.
        mu: exponent, at least 0; 0.5 in the paper.
        floor: at least 0; the share of the mean weight added to every gap. Not in the paper.

    Returns:
        (F - 1,) float64; value ``j`` is the share of the motion seen when frame ``j + 1`` is reached.

    Raises:
        ValueError: a value is negative, NaN or infinite, `mu` or `floor` is not a finite number of at least 0, or there
            is no motion at all (no gaps, or every value 0), for which no distribution exists.
    """
    _check_smoothing(mu, floor)
    motion = _checked_motion(motion)
    if not motion.any():
        raise ValueError(
            f"motion has no value above 0 ({len(motion)} values), so it has no distribution. "
            "Use uniform_frames for such a video; motion_guided_frames does so by itself."
        )
    with np.errstate(over="ignore"):
        weights = motion**mu
        if floor:
            weights = weights + floor * weights.mean()
        cumulative = np.cumsum(weights)
    if not 0 < cumulative[-1] < math.inf:
        raise ValueError(
            f"motion ** mu sums to {cumulative[-1]} with mu={mu} and a largest motion of {motion.max()}: outside what "
            "float64 can hold. Use a smaller mu or floor, or scale the motion."
        )
    return np.asarray(cumulative / cumulative[-1])


def motion_guided_frames(
    motion: npt.ArrayLike, targets: npt.ArrayLike, *, mu: float = 0.5, floor: float = 0.0, pick: str = "nearest"
) -> Frames:
    """Return the frame that each target falls on in the cumulative motion of the video.

    With ``c = motion_cdf(motion)``, ``C[0] = 0``, ``C[j + 1] = c[j]`` and ``p[j] = C[j + 1] - C[j]``:

    * ``"nearest"`` is the released MGSampler rule: ``argmin_j |c[j] - u|``, the first of equals. Frame ``j`` is the
      earlier one of gap ``j``, so the last frame of a video is never picked. (The released code returns ``j + 1``, the
      number of the same frame where file numbers start at 1.)
    * ``"inverse"`` inverts the piecewise-linear function that is ``C[j]`` at frame ``j``:
      ``x = sum_j clip((u - C[j]) / p[j], 0, 1)``, rounded by ``floor(x + 0.5)``. Still gaps (``p[j] = 0``) count as
      passed when ``u > C[j]``, so a target on a plateau gives the plateau's first frame. The same thing as a count:
      the frame is the number of gaps ``j`` with ``u > C[j]`` and ``u - C[j] >= p[j] / 2``.

    A video without any motion (every value 0) and a video of one frame (no values) get
    ``uniform_frames(len(motion) + 1, targets)``, whatever `mu` is.

    Args:
        motion: (F - 1,) changes between neighbouring frames, finite and at least 0.
        targets: (T,) positions in ``[0, 1)``, from `segment_targets` or `stratum_starts`.
        mu: as in `motion_cdf`.
        floor: as in `motion_cdf`.
        pick: ``"nearest"`` or ``"inverse"``.

    Returns:
        (T,) int64 frames in ``[0, F - 1]``, in the order of the targets; the same frame may come more than once.

    Raises:
        ValueError: a bad motion value, target, `mu`, `floor` or `pick`.
    """
    _check_pick(pick)
    _check_smoothing(mu, floor)
    motion = _checked_motion(motion)
    targets = _checked_targets(targets)
    if not motion.any():
        return uniform_frames(len(motion) + 1, targets)
    ends = motion_cdf(motion, mu=mu, floor=floor)
    if pick == "nearest":
        frames = np.abs(ends - targets[:, None]).argmin(axis=1)
    else:
        starts = np.concatenate([[0.0], ends[:-1]])
        beyond = targets[:, None] - starts
        frames = np.count_nonzero((beyond > 0) & (beyond >= (ends - starts) / 2), axis=1)
    return np.asarray(frames, np.int64)


def uniform_frames(num_frames: int, targets: npt.ArrayLike, *, keep_tail: bool = True) -> Frames:
    """Return frames evenly spread in time, by the rules of mmaction2's ``SampleFrames`` for clips of one frame.

    `keep_tail` keeps the whole video in reach: ``floor(u * num_frames)``. With the targets of `segment_targets` that is
    mmaction2's test rule ``i*n/S + n/2S``, with `stratum_starts` its second clip ``i*n/S`` (both exact, where
    mmaction2's floats can be one frame early), and with random targets its training with ``keep_tail_frames=True``.

    Without `keep_tail` it is mmaction2's default for training, where every stratum has ``num_frames // T`` frames and
    the rest at the end is never seen: ``k * (n // T)`` plus the target's position within stratum ``k``. Videos with
    fewer frames than segments ignore the positions: ``around(k * n / T) % n``.

    Args:
        num_frames: ``n``, frames of the video, at least 1.
        targets: (T,) positions in ``[0, 1)``. Without `keep_tail` the ``k``-th of them must be in stratum ``k``.
        keep_tail: see above.

    Returns:
        (T,) int64 frames in ``[0, num_frames - 1]``.
    """
    num_frames = _check_count("num_frames", num_frames)
    targets = _checked_targets(targets)
    if keep_tail:
        return _exact_floor(targets, num_frames)
    num_segments = len(targets)
    strata = np.arange(num_segments)
    if not np.array_equal(_exact_floor(targets, num_segments), strata):
        raise ValueError(
            f"keep_tail=False needs one target in each of the {num_segments} strata, in order, "
            f"found {targets.tolist()}. Take them from segment_targets."
        )
    per_stratum = num_frames // num_segments
    if per_stratum == 0:
        return (np.around(strata * num_frames / num_segments) % num_frames).astype(np.int64)
    positions = np.clip(targets * num_segments - strata, 0.0, 1.0)
    return strata * per_stratum + _exact_floor(positions, per_stratum)


def dense_starts(num_clips: int = 10) -> Floats:
    """Return the `num_clips` evenly spaced starts of dense testing, (num_clips,) float64 from 0 to 1, both included."""
    return np.linspace(0.0, 1.0, _check_count("num_clips", num_clips))


def dense_frames(num_frames: int, num_segments: int, start: float, *, span_frames: int = 64) -> Frames:
    """Return frames at a fixed stride from one span of the video, by the rule of mmaction2's ``DenseSampleFrames``.

    The span may start at any frame from 0 to ``last = max(0, n - span_frames)``. It starts at ``floor(start * last)``,
    has the stride ``span_frames // T``, and wraps around at the end of a video that is shorter than the span.

    Args:
        num_frames: ``n``, frames of the video, at least 1.
        num_segments: ``T``, at most `span_frames`.
        start: position in ``[0, 1]``. Training draws it from ``[0, 1)``, which (as in mmaction2) leaves out the very
            last start; testing takes one clip for each of `dense_starts`, whose last value is 1.
        span_frames: length of the span in frames.

    Returns:
        (T,) int64 frames in ``[0, num_frames - 1]``; not sorted where the span wraps around.
    """
    num_frames = _check_count("num_frames", num_frames)
    num_segments, span_frames = _check_span(num_segments, span_frames)
    if not 0 <= start <= 1:
        raise ValueError(f"start must be in [0, 1], found {start!r}.")
    last_start = max(0, num_frames - span_frames)
    # _exact_floor stays below last_start: only start = 1 reaches it
    first = last_start if start == 1 else int(_exact_floor(np.array([start]), last_start)[0])
    return (first + np.arange(num_segments) * (span_frames // num_segments)) % num_frames


def _exact_floor(positions: Floats, num_cells: int) -> Frames:
    """Return ``floor(positions * num_cells)``, at most ``num_cells - 1`` and at least 0.

    A position such as k/T is stored a rounding error away from the fraction it stands for, and (1/98) * 98 < 1. Four
    units in the last place put products back on the integer that they mean; other fractions are much further from it.
    """
    cells = np.floor(positions * num_cells * (1 + 4 * np.finfo(np.float64).eps)).astype(np.int64)
    return np.clip(cells, 0, max(num_cells - 1, 0))


def _check_count(name: str, value: int) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}.") from None
    if count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}.")
    return count


def _check_span(num_segments: int, span_frames: int) -> tuple[int, int]:
    num_segments = _check_count("num_segments", num_segments)
    span_frames = _check_count("span_frames", span_frames)
    if span_frames < num_segments:
        raise ValueError(
            f"span_frames must be at least num_segments ({num_segments}), found {span_frames}: "
            "the stride would be 0 and every frame the same."
        )
    return num_segments, span_frames


def _check_smoothing(mu: float, floor: float) -> None:
    for name, value in (("mu", mu), ("floor", floor)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, found {value!r}.")


def _check_pick(pick: str) -> None:
    if pick not in PICKS:
        raise ValueError(f"pick must be one of {', '.join(map(repr, PICKS))}, found {pick!r}.")


def _checked_motion(motion: npt.ArrayLike) -> Floats:
    values = np.asarray(motion, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"motion must have one dimension (one value per gap between frames), found {values.shape}.")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(
            f"motion[{first}] is {values[first]}: motion must be finite and at least 0. "
            f"{int(bad.sum())} of {len(values)} values are not; measure this video again."
        )
    return values


def _checked_targets(targets: npt.ArrayLike) -> Floats:
    values = np.asarray(targets, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"targets must have one dimension and at least one value, found the shape {values.shape}.")
    bad = ~((values >= 0) & (values < 1))
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(
            f"targets[{first}] is {values[first]}: targets must be in [0, 1). Take them from segment_targets."
        )
    return values
