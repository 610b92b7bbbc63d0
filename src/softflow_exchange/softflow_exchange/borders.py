"""Where episodes begin and end in a recording, and the control steps of which everything is known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from softflow_exchange.mapping import Mapping
from softflow_exchange.report import SourceReport
from softflow_exchange.series import BoolArray, FloatArray, Recording, Times, resample, runs, seconds

MAX_STEPS = 10_000_000
"""Of a span: more come from a stamp that is wrong, and would not fit into the memory."""


@dataclass(frozen=True)
class Span:
    """From a border (inclusive) to the next (exclusive), [ns]."""

    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """n control steps without a gap."""

    times: Times
    """(n+1,) [ns]"""
    inputs: dict[str, FloatArray]
    """(n+1, k) at those times; the last action and the first reward mean nothing"""
    cut: bool = False
    """A gap ended it, and the episode went on."""


def spans(recording: Recording, mapping: Mapping) -> list[Span]:
    """The recording, divided as `episodes` says; in the order of time."""
    how = mapping.episodes
    stamps = np.unique(np.concatenate([recording.series[name].times for name in _aligned(mapping)]))
    begin, end = int(stamps[0]), int(stamps[-1]) + 1
    if how.by == "gap":
        breaks = np.flatnonzero(np.diff(stamps) > seconds(how.gap))
        starts = [begin, *(int(stamps[i + 1]) for i in breaks)]
        return [Span(a, b) for a, b in itertools.pairwise([*starts, end])]
    if how.by == "flag":
        flag = recording.series[how.input]
        return [
            Span(int(flag.times[on.start]), int(flag.times[on.stop]) if on.stop < len(flag.times) else end)
            for on in runs(flag.values[:, 0] > 0.5)
        ]
    if how.by == "event":
        return _between_events(recording, mapping, end)
    return [Span(begin, end)]


def _between_events(recording: Recording, mapping: Mapping, end: int) -> list[Span]:
    how, found, start = mapping.episodes, [], None
    times, texts = recording.texts[how.input]
    for time, text in zip(times, texts, strict=True):
        if start is not None and (text == how.stop if how.stop else text == how.start):
            found.append(Span(start, int(time)))
            start = None
        if text == how.start and start is None:
            start = int(time)
    return found + ([Span(start, end)] if start is not None else [])


def _aligned(mapping: Mapping) -> list[str]:
    """Inputs of state and action."""
    return list(dict.fromkeys([*mapping.state_inputs(), mapping.action]))


def parts(recording: Recording, mapping: Mapping, span: Span, report: SourceReport) -> list[Part]:
    """The stretches of a span in which every input is there at every control step, in order.

    None where all of them are shorter than `min_steps`, and with `on_gap: refuse` in a span with a gap; what is left
    out is said in the report. Short ones beside others are to be seen by the task, but not to be imported.
    """
    grid = _grid(recording, mapping, span)
    if len(grid) < 2:
        report.problems.append(f"{_place(recording, span.start)}: an episode of less than one control step")
        return []
    values, steps = _sample(recording, mapping, grid)
    bad = [name for name, good in steps.items() if not good.all()]
    whole = np.logical_and.reduce(list(steps.values()))
    if bad:
        first = int(np.flatnonzero(~whole)[0])
        missing = ", ".join(f"{name!r} ({int((~steps[name]).sum())} steps)" for name in bad)
        text = f"{_place(recording, int(grid[first]))}: no sample within max_age of {missing}"
        if mapping.episodes.on_gap == "refuse":
            report.problems.append(f"{text}: the episode is refused")
            return []
        report.notes.append(f"{text}: the episode is cut there")
    found = runs(whole)
    short = sum(run.stop - run.start < mapping.episodes.min_steps for run in found)
    if short:
        report.notes.append(f"{short} pieces of fewer than {mapping.episodes.min_steps} steps are left out")
    if short == len(found):
        return []
    return [_part(grid, values, run, _goes_on(steps, run.stop)) for run in found]


def _goes_on(steps: dict[str, BoolArray], stop: int) -> bool:
    """Whether an input that is missing at step `stop` comes back; one that does not has ended the episode."""
    return any(not good[stop] and good[stop:].any() for good in steps.values() if stop < len(good))


def _place(recording: Recording, time: int) -> str:
    """A time as seconds from the recording's start."""
    start = min(int(series.times[0]) for series in recording.series.values())
    return f"at {(time - start) / 1e9:.2f} s"


def _grid(recording: Recording, mapping: Mapping, span: Span) -> Times:
    """Times of the control steps, from when every input is there to when the state ends."""
    starts, ends = [span.start], [span.end - 1]
    for name in _aligned(mapping):
        how, times = mapping.inputs[name], recording.series[name].times - seconds(mapping.inputs[name].shift)
        inside = times[(times >= span.start) & (times < span.end)]
        held = how.resample == "hold" and bool((times <= span.start).any())
        if not held:
            if not len(inside):
                return np.zeros(0, dtype=np.int64)
            starts.append(int(inside[0]))
        if name != mapping.action and len(inside):
            ends.append(int(inside[-1]) + (seconds(how.max_age) if how.resample == "hold" else 0))
    start, end, rate = max(starts), min(ends), mapping.task.control_hz
    count = int((end - start + 1_000) * rate // 1_000_000_000) + 1 if end >= start else 0
    if count > MAX_STEPS:
        raise ValueError(f"{recording.origin}: a span has {count} control steps, must be at most {MAX_STEPS}")
    # Not by adding up a rounded period: 1/30 s would drift.
    return start + np.round(np.arange(count) * (1e9 / rate)).astype(np.int64)


def _sample(
    recording: Recording, mapping: Mapping, grid: Times
) -> tuple[dict[str, FloatArray], dict[str, BoolArray]]:
    """Values on the grid (g, k), and for each input the steps (g-1,) that it allows."""
    values: dict[str, FloatArray] = {}
    steps: dict[str, BoolArray] = {}
    state = set(mapping.state_inputs())
    for name in mapping.gridded():
        values[name], good = resample(recording.series[name], grid, mapping.inputs[name])
        allowed = np.ones(len(grid) - 1, dtype=np.bool_)
        if name in state:
            allowed &= good[:-1] & good[1:]
        if name == mapping.action:
            allowed &= good[:-1]
        if mapping.reward.by == "input" and name == mapping.reward.input:
            allowed &= good[1:]
        steps[name] = allowed
    return values, steps


def _part(grid: Times, values: dict[str, FloatArray], run: slice, cut: bool) -> Part:
    points = slice(run.start, run.stop + 1)
    return Part(grid[points], {name: rows[points] for name, rows in values.items()}, cut)
