"""Running a graph for a number of episodes, and what its bags say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_recorder.bag import BagError, Summary, episode_bags, read_summary

POLL = 0.5
"""[s] between two looks at the bags."""


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


def run_episodes(
    name: str,
    arguments: Mapping[str, Any],
    run: Path,
    episodes: int,
    on_progress: Callable[[list[Summary]], None],
    wait: Callable[[float], None],
) -> list[Summary]:
    """Run a graph for `episodes` episodes in the run directory, counting those of an interrupted run.

    Raises:
        GraphFailedError: a required node has gone, or too many episodes were lost.
    """
    watch = BagWatch(run / "bags")
    done = len(watch.summaries())
    if done < episodes:

        def keep_on() -> bool:
            on_progress(watch.summaries())
            return True

        given = {**arguments, "run": run, "episodes": episodes - done, "first_index": done}
        run_graph(name, given, run / "log", keep_on, wait)
    summaries = watch.summaries()
    if len(summaries) < episodes:
        raise GraphFailedError(
            f"{name}: {len(summaries)} of {episodes} episodes were recorded; see {run / 'log'}"
        )
    on_progress(summaries)
    return summaries
