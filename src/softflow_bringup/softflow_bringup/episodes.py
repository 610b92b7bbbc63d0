"""Running a graph for a number of episodes, and what its bags say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from softflow_bringup.graph import load_arguments, load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_node.files import write_atomically
from softflow_recorder.bag import BagError, Summary, episode_bags, read_summary

POLL = 0.5
"""[s] between two looks at the bags."""
ATTEMPTS = 3
"""At recording an episode completely."""
FILES = ("weights", "classifier")
"""Arguments whose file makes the episodes, not its name."""
MAY_DIFFER = ("speed", "run", "episodes", "first_index")
"""Arguments that change no episode."""


class GraphFailedError(RuntimeError):
    """A node that must live has died; the text names the folder with the logs."""


class BagWatch:
    """Summaries of the bags below a directory, each read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[Path, Summary] = {}

    def summaries(self) -> list[Summary]:
        """Of the complete episodes so far, in order."""
        for path in episode_bags(self._directory) if self._directory.is_dir() else []:
            if path in self._known:
                continue
            try:
                summary = read_summary(path)
            except BagError:
                continue  # half written just now, or foreign: looked at again next time
            if summary is not None:
                self._known[path] = summary
        return [s for _, s in sorted(self._known.items()) if s.complete]


def run_graph(
    name: str,
    arguments: Mapping[str, Any],
    logs: Path,
    keep_on: Callable[[], bool],
    wait: Callable[[float], None],
) -> None:
    """Run a graph until it ends by itself or `keep_on` says no; `wait(seconds)` passes the time between looks.

    Raises:
        GraphFailedError: a required node has gone.
    """
    graph = load_graph(name, {key: str(value) for key, value in arguments.items()})
    with Supervisor(
        graph, environment=dict(os.environ), log=lambda *_: None, log_directory=logs
    ) as supervisor:
        while not supervisor.finished and keep_on():
            wait(POLL)
    if supervisor.exit_code != 0:
        raise GraphFailedError(f"{name}: a node that must live has died; its output is in {logs}")


def gaps(done: Collection[int], count: int) -> list[tuple[int, int]]:
    """(first, length) of the runs of indices in [0, count) that are not done."""
    found: list[tuple[int, int]] = []
    for index in range(count):
        if index in done:
            continue
        if found and sum(found[-1]) == index:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((index, 1))
    return found


def check_same_arguments(name: str, arguments: Mapping[str, Any], run: Path, begun: bool) -> None:
    """Episodes of a run directory belong together: RUN/arguments.json keeps what made them.

    Raises:
        ValueError: the run has `begun` with other arguments, or its file is damaged.
        OSError: a file cannot be read or written.
    """
    path = run / "arguments.json"
    defaults = {argument.name: argument.default for argument in load_arguments(name)}
    resolved = sorted({**defaults, **arguments}.items())
    wanted = {"graph": name} | {key: _identity(key, v) for key, v in resolved if key not in MAY_DIFFER}
    if begun and path.exists():
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: damaged: {error}; choose another --run") from error
        for key, value in wanted.items():
            if found.get(key, value) != value:
                raise ValueError(
                    f"{run}: its episodes have {key} {found[key]!r}, not {value!r}; choose another --run"
                )
    write_atomically(path, json.dumps(wanted, indent=1).encode())


def _identity(key: str, value: Any) -> str:
    if key in FILES and str(value):
        return "sha256 " + hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_episodes(
    name: str,
    arguments: Mapping[str, Any],
    run: Path,
    episodes: int,
    on_progress: Callable[[list[Summary]], None],
    wait: Callable[[float], None],
) -> list[Summary]:
    """Run a graph for the episodes 0 .. `episodes` - 1 in the run directory; those that are there are not repeated.

    An episode that was recorded incompletely is run again, from the same start state.

    Raises:
        GraphFailedError: a required node has gone, or episodes stay incomplete.
        ValueError, OSError: see `check_same_arguments`.
    """
    watch = BagWatch(run / "bags")
    check_same_arguments(name, arguments, run, begun=bool(watch.summaries()))

    def keep_on() -> bool:
        on_progress(watch.summaries())
        return True

    for _ in range(ATTEMPTS):
        missing = gaps({s.index for s in watch.summaries()}, episodes)
        for first, length in missing:
            given = {**arguments, "run": run, "episodes": length, "first_index": first}
            run_graph(name, given, run / "log", keep_on, wait)
        if not missing:
            break
    by_index = {s.index: s for s in watch.summaries() if s.index < episodes}
    if len(by_index) < episodes:
        raise GraphFailedError(
            f"{name}: {len(by_index)} of {episodes} episodes are complete; see {run / 'log'}"
        )
    summaries = [by_index[index] for index in range(episodes)]
    on_progress(summaries)
    return summaries
