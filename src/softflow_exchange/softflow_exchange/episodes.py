"""Parts of a recording into whole episodes: rewards, success, the end."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softflow_exchange.borders import Part, parts, spans
from softflow_exchange.mapping import Mapping
from softflow_exchange.report import SourceReport
from softflow_exchange.series import Recording, Times
from softflow_exchange.states import Clipping, make_states
from softflow_recorder.episode import TELEOP, EpisodeData
from softflow_tasks.task import Outcome, StateVector

LIMIT_MARGIN = 0.02
"""[rad, m] beyond a joint's limit that a measurement may lie."""
NEVER = int(np.iinfo(np.int64).max)
"""[ns] later than every stamp."""
GAP = "gap"
"""Cause of the end of a piece that a gap in the recording ended."""


@dataclass(frozen=True)
class Imported:
    """An episode, ready to be written."""

    episode: EpisodeData
    times: Times
    """(n+1,) [ns] of the states"""
    origin: str
    """Which recording"""


def make_episodes(recording: Recording, mapping: Mapping, report: SourceReport, index: int) -> list[Imported]:
    """Every episode of a recording, counted from `index`; what is left out is said in the report."""
    sizes = {**dict.fromkeys(mapping.events(), 1), **mapping.gridded()}
    for name, size in sizes.items():
        series = recording.series.get(name)
        if series is not None and series.values.shape[1] != size:
            report.problems.append(f"input {name!r}: has {series.values.shape[1]} values, must have {size}")
    needed = {*mapping.gridded(), *mapping.events()}
    if report.all_problems() or not needed <= {*recording.series, *recording.texts}:
        report.problems.append("nothing of it is imported")
        return []
    found: list[Imported] = []
    clipping = Clipping()
    divided = spans(recording, mapping)
    if not divided:
        report.problems.append(f"input {mapping.episodes.input!r}: marks no episode")
    episodes = [pieces for span in divided if (pieces := parts(recording, mapping, span, report))]
    starts = [int(pieces[0].times[0]) for pieces in episodes]
    for pieces, between in zip(episodes, itertools.pairwise([*starts, NEVER]), strict=True):
        judge = _Judge(mapping, between)
        for made, clipped in _pieces(pieces, judge, recording, mapping, report, index + len(found)):
            found.append(made)
            clipping += clipped
    _tell_clipping(clipping, found, report)
    _tell_limits(recording, mapping, report)
    return found


def _tell_limits(recording: Recording, mapping: Mapping, report: SourceReport) -> None:
    """Joints beyond what the hand can do most often mean a wrong unit, order or sign."""
    hand = mapping.task.hand
    position = mapping.sensors.position if mapping.sensors is not None else ""
    targets = mapping.action if mapping.action_is == "joints" else ""
    for name in dict.fromkeys(name for name in (position, targets) if name):
        values = recording.series[name].values
        outside = (values < hand.lower - LIMIT_MARGIN) | (values > hand.upper + LIMIT_MARGIN)
        joint = int(outside.sum(axis=0).argmax())
        if outside.any():
            report.notes.append(
                f"input {name!r}: {100 * outside.mean():.0f} % of the values are beyond the hand's limits, most of "
                f"{hand.joint_names[joint]}: in [{values[:, joint].min():.3g}, {values[:, joint].max():.3g}], limits "
                f"[{hand.lower[joint]:.3g}, {hand.upper[joint]:.3g}]; is its unit, order or sign right?"
            )


def _tell_clipping(clipping: Clipping, found: list[Imported], report: SourceReport) -> None:
    if clipping.values:
        total = sum(item.episode.actions.size for item in found)
        report.notes.append(
            f"{clipping.values} of {total} values of actions are clipped to [-1, 1], the worst by {clipping.worst:.3g}"
        )
    if clipping.residual > 1e-6:
        report.notes.append(
            f"joint targets differ from what the task's actions can reach by up to {clipping.residual:.3g} rad (m)"
        )


class _Judge:
    """What the task says of an episode that may have gaps; `between` [ns]: its start and the next one's."""

    def __init__(self, mapping: Mapping, between: tuple[int, int]) -> None:
        self.task, self.between = mapping.task, between
        self.progress = self.task.begin()
        self.asked = "task" in (mapping.reward.by, mapping.success.by, mapping.terminated)
        self.cause = ""
        """Why the task ended the episode; empty while it has not."""
        self._last: StateVector | None = None

    def see(self, states: NDArray[np.float32]) -> list[Outcome]:
        """Outcomes of the next piece's steps up to the episode's end; none where it is over, or nobody asks.

        What changed in the gap before it counts as one step, which is not rewarded: it was not seen.
        """
        if self._last is not None:
            self._advance(self._last, states[0])
        self._last = states[-1]
        return [
            outcome
            for before, after in itertools.pairwise(states)
            if (outcome := self._advance(before, after)) is not None
        ]

    def _advance(self, before: StateVector, after: StateVector) -> Outcome | None:
        if self.cause or not self.asked:
            return None
        outcome = self.task.advance(self.progress, before, after)
        if outcome.terminated or outcome.truncated:
            self.cause = outcome.cause or "end_of_recording"
        return outcome


def _pieces(
    pieces: Sequence[Part],
    judge: _Judge,
    recording: Recording,
    mapping: Mapping,
    report: SourceReport,
    index: int,
) -> Iterator[tuple[Imported, Clipping]]:
    """What gaps have left of one episode, the first with the number `index`."""
    count = over = 0
    for part in pieces:
        try:
            states, actions, clipping = make_states(part, mapping)
        except ValueError as error:
            report.problems.append(str(error))
            continue
        judged = judge.see(states)
        if judge.cause and not judged:
            over += len(actions)
        elif len(actions) >= mapping.episodes.min_steps:
            if 0 < len(judged) < len(actions):
                text = f"after {len(judged)} of {len(actions)} steps ({judge.cause})"
                report.notes.append(f"the task ends an episode {text}")
            made = _episode(part, states, actions, judge, judged, recording, mapping, index + count)
            count += 1
            yield made, clipping
    if over:
        report.notes.append(
            f"{over} steps after a gap are left out: the task had ended the episode ({judge.cause})"
        )


def _episode(
    part: Part,
    states: NDArray[np.float32],
    actions: NDArray[np.float32],
    judge: _Judge,
    judged: list[Outcome],
    recording: Recording,
    mapping: Mapping,
    index: int,
) -> Imported:
    task, steps = mapping.task, len(judged) or len(actions)
    times, states, actions = part.times[: steps + 1], states[: steps + 1], actions[:steps]
    # Where the recording merely has a gap, nothing was achieved and nothing came to its end.
    cut = part.cut and not judge.cause
    success = not cut and _success(recording, mapping, judge)
    rewards = _rewards(recording, mapping, part, times, judged, success)
    terminated, cause = (False, GAP) if cut else _end(mapping, judged, success)
    metrics = task.metrics(judge.progress) if judged else {}
    episode = EpisodeData(
        episode_id=_identity(recording, mapping, int(times[0])),
        index=index,
        task=task.id,
        layout_hash=task.layout.hash,
        mode="demo",
        source=mapping.source,
        seed=0,
        states=states,
        actions=actions,
        rewards=rewards,
        policy_versions=np.zeros(steps, dtype=np.uint64),
        terminated=terminated,
        truncated=not terminated,
        cause=cause,
        success=success,
        metrics={**metrics, "steps": float(steps), "return": float(rewards.sum())},
        interventions=np.full(steps, mapping.source == TELEOP),
    )
    return Imported(episode, times, recording.origin)


def _identity(recording: Recording, mapping: Mapping, start: int) -> str:
    """The same for the same data through the same mapping, so that a second import is recognised."""
    text = f"{mapping.sha256} {recording.sha256} {start}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _success(recording: Recording, mapping: Mapping, judge: _Judge) -> bool:
    """A label may come after the last sample: those up to the next episode's start count."""
    how = mapping.success
    if how.by == "task":
        return bool(mapping.task.success(judge.progress))
    if how.by != "input":
        return how.by == "always"
    series = recording.series[how.input]
    start, end = judge.between
    inside = (series.times >= start) & (series.times < end)
    values = series.values[inside, 0] > 0.5
    if not len(values):
        return False
    return bool(values[-1] if how.at == "last" else values.any())


def _rewards(
    recording: Recording, mapping: Mapping, part: Part, times: Times, judged: list[Outcome], success: bool
) -> NDArray[np.float32]:
    how, steps = mapping.reward, len(times) - 1
    if how.by == "task":
        return np.array([outcome.reward for outcome in judged], dtype=np.float32)
    if how.by == "sparse":
        rewards = np.zeros(steps, dtype=np.float32)
        rewards[-1] = how.value if success else 0.0
        return rewards
    if how.take == "value":
        return part.inputs[how.input][1 : steps + 1, 0].astype(np.float32)
    series = recording.series[how.input]
    sums = np.concatenate([[0.0], np.cumsum(series.values[:, 0])])
    up_to = sums[np.searchsorted(series.times, times, side="right")]
    return np.diff(up_to).astype(np.float32)


def _end(mapping: Mapping, judged: list[Outcome], success: bool) -> tuple[bool, str]:
    """(terminated, cause)"""
    if mapping.terminated == "task":
        last = judged[-1]
        return last.terminated, last.cause or "end_of_recording"
    if mapping.terminated == "success":
        return success, "success" if success else "end_of_recording"
    return mapping.terminated == "always", "end_of_recording"
