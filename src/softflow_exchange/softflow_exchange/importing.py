"""An import from start to end: understand everything, say so, and only then write."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from softflow_exchange.episodes import Imported, make_episodes
from softflow_exchange.mapping import Mapping
from softflow_exchange.report import SourceReport, shorten
from softflow_exchange.rosbag import SourceError, read_rosbag
from softflow_exchange.series import Recording
from softflow_exchange.write import write_episode

ROBOT = "/imported"
"""Namespace of the topics in the bags that an import writes."""
CLOCKS = 1.0
"""[s] by which header stamps and receive times may differ where a mapping mixes them."""

Read = tuple[Recording | None, SourceReport]


@dataclass
class Import:
    """What was understood."""

    mapping: Mapping
    episodes: list[Imported] = field(default_factory=list)
    reports: list[SourceReport] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """Parts of recordings that are not imported."""
        return sum(len(report.all_problems()) for report in self.reports)

    def lines(self) -> list[str]:
        """As people read it."""
        task = self.mapping.task
        lines = [f"{self.mapping.path}: {task.id}, {task.control_hz:g} Hz, time: {self.mapping.time}"]
        for report in self.reports:
            lines += report.lines()
        for item in self.episodes[:1]:
            lines.append("first episode:")
            for name, where in task.layout.slices().items():
                unit = next(unit for block, _, unit in task.layout.blocks if block == name)
                column = item.episode.states[:, where]
                lines.append(
                    f"  {name} [{unit}]: first {shorten(column[0].tolist())}; "
                    f"range [{column.min():.4g}, {column.max():.4g}]"
                )
            actions = item.episode.actions
            lines.append(
                f"  action: first {shorten(actions[0].tolist())}; range [{actions.min():.4g}, {actions.max():.4g}]"
            )
        steps = [item.episode.steps for item in self.episodes]
        good = sum(item.episode.success for item in self.episodes)
        lines.append(
            f"{len(steps)} episodes, {sum(steps)} steps ({sum(steps) / task.control_hz:.1f} s), "
            f"{good} successful, {self.problems} problems"
        )
        return lines


def read_rosbags(bags: Iterable[Path], mapping: Mapping) -> Iterator[Read]:
    """Each bag's inputs; None where it cannot be read."""
    for path in bags:
        try:
            yield read_rosbag(path, mapping)
        except SourceError as error:
            yield None, SourceReport(str(path), problems=[str(error)])


def understand(recordings: Iterable[Read], mapping: Mapping) -> Import:
    """Work out every episode; nothing is written."""
    result = Import(mapping)
    for recording, report in recordings:
        _check_clocks(report, mapping)
        if recording is not None:
            result.episodes += make_episodes(recording, mapping, report, len(result.episodes))
        result.reports.append(report)
    return result


def _check_clocks(report: SourceReport, mapping: Mapping) -> None:
    """Inputs by header stamp and by receive time fit together only where the two clocks agree."""
    lags = [about.lag for about in report.inputs if about.lag is not None]
    mixed = len({mapping.time_of(about.name) for about in report.inputs}) > 1
    if mixed and lags and np.abs(lags).max() > CLOCKS:
        worst = max(lags, key=abs)
        report.problems.append(
            f"header stamps are {worst:.3f} s before the receive times, must be within {CLOCKS:g} s where the mapping "
            "uses both (time)"
        )


class OutputError(ValueError):
    """The episodes cannot be written there; the text names the directory and why."""


def write(result: Import, out: Path) -> list[Path]:
    """Write every episode as a bag below `out`: all of them, or after an error none.

    Raises:
        OutputError: one of them is there already, or remains of an interrupted import are in the way.
    """
    mapping = result.mapping
    custom = {"mapping": mapping.path.name, "mapping_sha256": mapping.sha256}
    return write_all(result.episodes, out, custom)


def _name(item: Imported) -> str:
    """Names sort by time. The rest is a hash: an id that came with the data is no name of a file."""
    start, digest = int(item.times[0]), hashlib.sha256(item.episode.episode_id.encode()).hexdigest()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(start // 1_000_000_000))
    return f"{stamp}-{start % 1_000_000_000:09d}-{digest[:16]}"


def write_all(items: Sequence[Imported], out: Path, custom: MappingOf[str, str]) -> list[Path]:
    """A bag below `out` for each episode. Raises OutputError."""
    names = [_name(item) for item in items]
    targets = [out / name for name in names]
    for target in targets:
        if target.exists():
            raise OutputError(f"{target}: is there already: this episode was imported before")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise OutputError(f"{out / twice[0]}: would be written twice: the same recording was given twice")
    # Beside `out`, so that a reader of `out` never sees half of an import and the last step is a rename.
    staging = out.with_name(out.name + ".partial")
    if staging.exists():
        raise OutputError(f"{staging}: is left of an import that was interrupted; delete it")
    try:
        for name, item in zip(names, items, strict=True):
            about = {**custom, "imported_from": item.origin}
            write_episode(staging / name, item.episode, item.times, ROBOT, about)
        out.mkdir(parents=True, exist_ok=True)
        for target in targets:
            (staging / target.name).rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return targets
