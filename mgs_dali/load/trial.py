"""A trial of a list: which routes take its videos, and which of them is the fastest here."""

from __future__ import annotations

import itertools
import json
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..decode.packets import ScannedVideo
from ..lists.table import Clips
from ..lists.text import escaped
from ..sampling import MotionGuided, Uniform
from ..video.folder import FrameFolder
from .clip import choose_pictures
from .plan import Plan

__all__ = ["Comparison", "Measure", "Rate", "Refused", "RouteTrial", "Trial", "try_clips"]

Measure = Callable[[str, int, float], float]
"""(route, num_workers, seconds) -> clips a second, measured for about so long."""

_SAMPLERS: dict[str, MotionGuided | Uniform] = {"motion-guided": MotionGuided(), "uniform": Uniform()}
# Host routes first: PyAV names a video that is damaged, which is then left out, while DALI can only name its batch.
_ROUTES = {"motion-guided": ("host", "gpu"), "uniform": ("host-sparse", "gpu-sparse")}
_FOLDER_ROUTES = {"motion-guided": ("rawframes",)}

_NUM_SAMPLED = 64
_ENOUGH = 0.95
"""Half the workers are enough where they load at this share of the speed of all."""
_COLUMNS = 100
_NUM_SHOWN = 5


@dataclass(frozen=True)
class Refused:
    """Videos that a route does not take, for one reason."""

    reason: str
    count: int
    example: str
    """Path of one of them, as it is in the list."""


@dataclass(frozen=True)
class Rate:
    """What was measured."""

    num_workers: int
    clips_per_second: float


@dataclass(frozen=True)
class RouteTrial:
    """One route."""

    route: str
    num_taken: int
    """Of the sampled videos that can be read."""
    refused: tuple[Refused, ...] = ()
    """The most frequent reason first."""
    rates: tuple[Rate, ...] = ()
    """With the default number of workers, and of the fastest route with half of them; empty where the route was not
    measured: it cannot be used, or takes too few of the videos."""
    error: str = ""
    """Why it cannot be used at all, or how the measurement ended."""


@dataclass(frozen=True)
class Comparison:
    """Routes that do the same, measured on the same videos."""

    sampler: str
    """"motion-guided" or "uniform"."""
    num_compared: int
    """How many videos were loaded over and over: those that all measured routes take."""
    routes: tuple[RouteTrial, ...]
    fastest: str = ""
    """Empty where none could be measured."""
    loader_route: str = ""
    """The fastest, as ``route`` of a ClipLoader: "auto" for those of a GPU, which decodes on the CPU what it does not
    take."""
    num_workers: int = 0
    clips_per_second: float = 0.0
    """With so many workers."""


@dataclass(frozen=True)
class Trial:
    """What :func:`try_clips` found."""

    list_file: str
    kind: str
    """"videos" or "frame folders"."""
    device: str
    """"cuda" or "cpu"."""
    batch_size: int
    num_listed: int
    num_sampled: int
    unreadable: Mapping[str, str]
    """Path in the list -> why it cannot be read or decoded."""
    comparisons: tuple[Comparison, ...]
    fastest: str
    """Route for motion-guided frames, or for uniform ones if no other could be measured; empty if none could."""
    loader_route: str
    num_workers: int
    """For it; 0 if no route could be measured."""

    def to_json(self) -> dict[str, Any]:
        """The same as a dict of what JSON has: dicts, lists, strings and numbers."""
        return json.loads(json.dumps(asdict(self) | {"unreadable": dict(self.unreadable)}))

    def lines(self) -> list[str]:
        """The same as text, of at most 100 columns."""
        looked = f"{self.num_sampled:,} of {self.num_listed:,} {self.kind} of {self.list_file} looked at"
        found = _wrapped(looked + (f", {len(self.unreadable):,} of them cannot be read:" if self.unreadable else "."))
        for error in itertools.islice(self.unreadable.values(), _NUM_SHOWN):
            found += _wrapped(error, indent=2)
        if len(self.unreadable) > _NUM_SHOWN:
            found.append(f"  and {len(self.unreadable) - _NUM_SHOWN} more")
        num_readable = self.num_sampled - len(self.unreadable)
        for comparison in self.comparisons:
            found += _lines_of(comparison, num_readable=num_readable, kind=self.kind)
        if not self.fastest:
            return [*found, "No route could be measured."]
        chosen = f"route={self.loader_route!r}, device={self.device!r}, num_workers={self.num_workers}"
        return found + _wrapped(f"Fastest here: ClipLoader(..., {chosen})") + _wrapped(self._hint())

    def _hint(self) -> str:
        rates = {comparison.sampler: comparison for comparison in self.comparisons if comparison.fastest}
        if len(rates) < 2:
            return ""
        guided, uniform = rates["motion-guided"], rates["uniform"]
        times = uniform.clips_per_second / guided.clips_per_second if guided.clips_per_second > 0 else 0.0
        if times < 1.2:
            return ""
        return (
            f"Route {uniform.fastest}, which decodes chosen frames only, was {times:.1f} times as fast for uniform "
            "frames. It takes motion-guided ones too where their motion is known: run mgs-dali index."
        )


def try_clips(
    clips: Clips,
    *,
    seconds: float = 10.0,
    batch_size: int = 8,
    device: str = "auto",
    num_workers: int | None = None,
    measure: Measure | None = None,
) -> Trial:
    """See which routes take the videos of a list, and measure how fast each loads them.

    At most 64 clips are looked at, evenly over the list. They are loaded over and over, so that after a moment their
    files come from memory: a slow disk is not measured.

    Args:
        clips: the list.
        seconds: for all measurements together; workers start and warm up beside that.
        batch_size: clips in a batch.
        device: where clips are delivered: "cuda", "cpu" or "auto", as for :class:`mgs_dali.ClipLoader`.
        num_workers: worker processes, the loader's default number if not given; half of them are tried too.
        measure: how a route is measured, for tests; a ValueError or RuntimeError of it is noted with the route. With
            loaders by default.

    Raises:
        ValueError: not one of the clips looked at can be read (the first one's reason), or an argument is not allowed.
        ModuleNotFoundError: PyTorch or DALI is not installed.
    """
    from .loader import choose_device, default_num_workers  # noqa: PLC0415  needs PyTorch

    if seconds <= 0:
        raise ValueError(f"seconds ({seconds}) must be above 0.")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers ({num_workers}) must be at least 1.")
    num_workers = default_num_workers() if num_workers is None else num_workers
    device_type = choose_device(device).type
    rows = np.unique(np.linspace(0, len(clips) - 1, _NUM_SAMPLED).round().astype(int)).tolist() if len(clips) else []
    look = _look(clips, rows, batch_size=batch_size, device=device)
    readable = [row for row in rows if row not in look.unreadable]
    if not readable:
        raise ValueError(next(iter(look.unreadable.values()), f"{clips.list_file}: no clips."))

    plans = {}
    for sampler, routes in look.routes.items():
        measured = [route for route in routes if _is_worth(look.answers[route], len(readable), device_type=device_type)]
        together = [row for row in readable if all(row in look.answers[route].taken for route in measured)]
        plans[sampler] = (measured, together)
    loaders = _Loaders(
        clips,
        {route: together for measured, together in plans.values() for route in measured},
        batch_size=batch_size,
        device=device_type,
    )
    num_runs = sum(len(measured) + (num_workers > 1) for measured, _ in plans.values() if measured)
    share_seconds = seconds / max(1, num_runs)
    results = {
        sampler: _measure_all(measured, num_workers, share_seconds, measure or loaders)
        for sampler, (measured, _) in plans.items()
    }

    unreadable = look.unreadable | loaders.errors
    if len(unreadable) == len(rows):
        raise ValueError(next(iter(unreadable.values())))
    comparisons = tuple(
        _compared(
            sampler,
            {route: look.answers[route].without(unreadable) for route in look.routes[sampler]},
            results[sampler],
            clips=clips,
            num_compared=len([row for row in plans[sampler][1] if row not in unreadable]) if plans[sampler][0] else 0,
            device_type=device_type,
        )
        for sampler in plans
    )
    best = next((comparison for comparison in comparisons if comparison.fastest), Comparison("", 0, ()))
    return Trial(
        list_file=str(clips.list_file),
        kind="frame folders" if clips.are_folders else "videos",
        device=device_type,
        batch_size=batch_size,
        num_listed=len(clips),
        num_sampled=len(rows),
        unreadable={clips.paths[row]: unreadable[row] for row in sorted(unreadable)},
        comparisons=comparisons,
        fastest=best.fastest,
        loader_route=best.loader_route,
        num_workers=best.num_workers,
    )


# --- which routes take which videos -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    """What a route says of the sampled videos that can be read."""

    taken: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    error: str = ""
    """Why the route is not usable here."""

    def without(self, rows: Mapping[int, str]) -> _Answer:
        """The same of other videos than these."""
        refused = {row: reason for row, reason in self.refused.items() if row not in rows}
        return _Answer([row for row in self.taken if row not in rows], refused, self.error)


@dataclass(frozen=True)
class _Look:
    routes: Mapping[str, tuple[str, ...]]
    """Of each sampler."""
    answers: dict[str, _Answer]
    unreadable: dict[int, str]


def _look(clips: Clips, rows: Sequence[int], *, batch_size: int, device: str) -> _Look:
    """What each route says of the clips, which are opened and not decoded."""
    refusals: dict[str, Callable[[int, ScannedVideo], str] | None] = {}
    answers: dict[str, _Answer] = {}
    routes = _FOLDER_ROUTES if clips.are_folders else _ROUTES
    for sampler, its_routes in routes.items():
        # Without training: a clip in the middle, so that the answer is the same each time.
        plan = Plan(clips, _SAMPLERS[sampler], batch_size, False, 224)
        for route in its_routes:
            try:
                refusals[route] = _refusals(plan, route, device=device)
                answers[route] = _Answer()
            except ValueError as error:
                answers[route] = _Answer(error=str(error))
    folder_plan = Plan(clips, Uniform(), batch_size, False, 224)
    unreadable = {}
    for row in rows:
        try:
            video = clips.video(row)
            if isinstance(video, FrameFolder):
                choose_pictures(folder_plan, row, folder_plan.draws(0, row))
                reasons = dict.fromkeys(refusals, "")
            else:
                with video.scanned() as scanned:
                    reasons = {route: refuses(row, scanned) if refuses else "" for route, refuses in refusals.items()}
        except ValueError as error:
            unreadable[row] = str(error)
            continue
        for route, reason in reasons.items():
            if reason:
                answers[route].refused[row] = reason
            else:
                answers[route].taken.append(row)
    return _Look(routes, answers, unreadable)


def _refusals(plan: Plan, route: str, *, device: str) -> Callable[[int, ScannedVideo], str] | None:
    """What knows which videos a route's graph takes; None where PyAV or a decoder of pictures takes them all.

    Raises:
        ValueError: the route is not usable here.
    """
    from .loader import choose_device  # noqa: PLC0415  needs PyTorch
    from .routes import Setting, choose_route  # noqa: PLC0415

    known = not plan.sampler.needs_motion
    setting = Setting(plan, frames_known=known, device=choose_device(device), asked_device=device)
    chosen, _ = choose_route(route, setting)
    return chosen.refuses_video(replace(setting, by_name=False))


def _is_worth(answer: _Answer, num_readable: int, *, device_type: str) -> bool:
    """Whether to measure a route: it takes all videos, or most of them and route="auto" leaves the others to the CPU,
    as it does on a GPU only."""
    if answer.error or not answer.taken:
        return False
    return len(answer.taken) == num_readable or (device_type == "cuda" and 2 * len(answer.taken) >= num_readable)


def _reasons(answer: _Answer, clips: Clips) -> tuple[Refused, ...]:
    rows_of: dict[str, list[int]] = {}
    for row, reason in answer.refused.items():
        rows_of.setdefault(reason, []).append(row)
    found = [Refused(reason, len(rows), clips.paths[rows[0]]) for reason, rows in rows_of.items()]
    return tuple(sorted(found, key=lambda refused: -refused.count))


# --- how fast ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Results:
    rates: dict[str, list[Rate]]
    errors: dict[str, str]
    fastest: str


def _measure_all(routes: Iterable[str], num_workers: int, seconds: float, measure: Measure) -> _Results:
    """Measure routes for so many seconds each, and the fastest once more with half the workers."""
    found = _Results({}, {}, "")

    def run(route: str, count: int) -> None:
        try:
            found.rates.setdefault(route, []).append(Rate(count, measure(route, count, seconds)))
        except (ValueError, RuntimeError) as error:
            found.errors[route] = str(error)

    for route in routes:
        run(route, num_workers)
    usable = {route: rates[0].clips_per_second for route, rates in found.rates.items() if rates}
    if not usable:
        return found
    fastest = max(usable, key=usable.__getitem__)
    if num_workers > 1:
        run(fastest, num_workers // 2)
    return replace(found, fastest=fastest)


def _compared(
    sampler: str,
    answers: Mapping[str, _Answer],
    results: _Results,
    *,
    clips: Clips,
    num_compared: int,
    device_type: str,
) -> Comparison:
    routes = tuple(
        RouteTrial(
            route,
            num_taken=len(answer.taken),
            refused=_reasons(answer, clips),
            rates=tuple(results.rates.get(route, ())),
            error=answer.error or results.errors.get(route, ""),
        )
        for route, answer in answers.items()
    )
    if not results.fastest:
        return Comparison(sampler, num_compared, routes)
    first, *fewer = results.rates[results.fastest]
    enough = [rate for rate in fewer if rate.clips_per_second >= _ENOUGH * first.clips_per_second]
    chosen = enough[0] if enough else first
    return Comparison(
        sampler,
        num_compared,
        routes,
        fastest=results.fastest,
        loader_route=_loader_route(results.fastest, device_type=device_type),
        num_workers=chosen.num_workers,
        clips_per_second=chosen.clips_per_second,
    )


def _loader_route(route: str, *, device_type: str) -> str:
    """A route as a ClipLoader takes it. By name, those of a GPU raise for a video that they do not take, and among the
    videos that were not looked at there may be one."""
    from .routes import AUTO, ROUTES  # noqa: PLC0415  needs PyTorch

    return AUTO if ROUTES[route].in_graph and device_type == "cuda" else route


class _Loaders:
    """Measures with real loaders. Videos that turn out to be damaged are left out and noted in :attr:`errors`."""

    def __init__(
        self,
        clips: Clips,
        rows_of: Mapping[str, Sequence[int]],
        *,
        batch_size: int,
        device: str,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clips, self._rows_of = clips, rows_of
        self._batch_size, self._device = batch_size, device
        self._clock_s = clock_s
        self.errors: dict[int, str] = {}
        """Row of the list -> what is wrong."""

    def __call__(self, route: str, num_workers: int, seconds: float) -> float:
        """Clips a second of a route; a :data:`Measure`."""
        from .routes import ROUTES  # noqa: PLC0415  needs PyTorch

        while True:
            rows = [row for row in self._rows_of[route] if row not in self.errors]
            try:
                return self._run(route, rows, num_workers, seconds)
            except ValueError as error:
                damaged = [row for row in rows if str(error).startswith(self._name(row))]
                # Routes of the GPU have said already which videos they take. What they say now is of a batch.
                if not damaged or ROUTES[route].in_graph:
                    raise
                self.errors[damaged[0]] = str(error)
                if len(rows) == 1:
                    raise

    def _name(self, row: int) -> str:
        return self._clips.name(row)

    def _run(self, route: str, rows: Sequence[int], num_workers: int, seconds: float) -> float:
        import torch  # noqa: PLC0415

        from .loader import ClipLoader  # noqa: PLC0415  needs PyTorch and DALI
        from .routes import ROUTES  # noqa: PLC0415

        sampler = "uniform" if ROUTES[route].sparse else "motion-guided"
        with ClipLoader(
            self._clips.only(rows),
            sampler=_SAMPLERS[sampler],
            batch_size=self._batch_size,
            training=True,
            route=_loader_route(route, device_type=self._device),
            device=self._device,
            num_workers=num_workers,
        ) as loader:
            # Epoch after epoch. Closed before the loader is, whatever happens.
            batches = itertools.chain.from_iterable(itertools.repeat(loader))
            # The loader's workers are batches ahead when the first one comes. Until those are taken, batches come
            # faster than they are made.
            start_s = self._clock_s()
            for _ in range(max(2, num_workers) + 1):
                next(batches)
                if self._clock_s() - start_s > seconds:
                    break
            num_clips, start_s = 0, self._clock_s()
            while True:
                num_clips += len(next(batches))
                if self._clock_s() - start_s >= seconds:
                    break
            if self._device == "cuda":
                torch.cuda.synchronize()
            return num_clips / (self._clock_s() - start_s)


# --- text -------------------------------------------------------------------------------------------------------------


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    text = " ".join(escaped(text).split())
    return textwrap.wrap(
        text, _COLUMNS, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_on_hyphens=False
    )


def _lines_of(comparison: Comparison, *, num_readable: int, kind: str) -> list[str]:
    heading = f"{comparison.sampler.capitalize()} frames"
    if comparison.num_compared:
        heading += f", measured on {comparison.num_compared} {kind}"
    found = [heading + ":"]
    for route in comparison.routes:
        if route.error and not route.rates:
            found += _wrapped(f"{route.route}: {route.error}", indent=2)
            continue
        mark = "  <- fastest" if route.route == comparison.fastest and len(comparison.routes) > 1 else ""
        taken = f"takes {route.num_taken} of {num_readable}"
        # Not wrapped: columns stay columns, and with any number of workers it is short enough.
        found.append(f"  {route.route:<12} {taken:<16} {_rates_text(route.rates)}{mark}")
        for refused in route.refused[:_NUM_SHOWN]:
            found += _wrapped(f"{refused.count} not: {refused.reason}, such as {refused.example}", indent=4)
        if len(route.refused) > _NUM_SHOWN:
            count = sum(refused.count for refused in route.refused[_NUM_SHOWN:])
            found.append(f"    {count} not, for {len(route.refused) - _NUM_SHOWN} other reasons")
        if route.error:
            found += _wrapped(route.error, indent=4)
    return found


def _rates_text(rates: Sequence[Rate]) -> str:
    if not rates:
        return "not measured"
    first, *fewer = rates
    text = (
        f"{first.clips_per_second:.1f} clips/s with {first.num_workers} worker{'' if first.num_workers == 1 else 's'}"
    )
    return text + "".join(f", {rate.clips_per_second:.1f} with {rate.num_workers}" for rate in fewer)
