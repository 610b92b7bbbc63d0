"""Results of the comparison as a table and curves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from softflow_experiments.methods import METHODS
from softflow_experiments.statistics import Estimate, bootstrap_nested
from softflow_experiments.tasks import TASKS, BenchTask
from softflow_experiments.trial import STAGES
from softflow_node.files import write_atomically
from softflow_policy.policy import DEPLOYED_TEMPERATURE

BEGIN, END = "<!-- method:begin -->", "<!-- method:end -->"
Results = dict[str, list[dict[str, Any]]]
"""Method -> one result for each seed."""


def write_report(out: Path, document: Path | None = None, images: Path | None = None) -> str:
    """Tables of all results below `out`, and a curve of each task; returns the text.

    It also goes between the markers of `document`, if one is given. Raises ValueError without the markers.
    """
    parts = []
    for task in TASKS.values():
        results = load_results(out / task.name)
        if results:
            folder = images or out
            folder.mkdir(parents=True, exist_ok=True)
            picture = folder / f"method_{task.name}.png"
            plot(task, results, picture)
            parts.append("\n".join(table(task, results)))
    text = "\n\n".join(parts) or "no results yet"
    if document is not None:
        replace_between(document, text)
    return text


def load_results(directory: Path) -> Results:
    """Results of one task, in the order of `METHODS`. Raises ValueError for a damaged one."""
    found: Results = defaultdict(list)
    for path in sorted(directory.glob("*/*/result.json"), key=lambda p: (p.parts[-3], int(p.parts[-2]))):
        try:
            result = json.loads(path.read_text())
            found[result["method"]].append(result)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged: {error}; remove it, and its cell runs anew") from error
    return {name: found[name] for name in METHODS if name in found}


def table(task: BenchTask, results: Results) -> list[str]:
    """Markdown lines: a row for each method, a column for each stage, the last one with all metrics."""
    first = next(iter(results.values()))[0]
    others = [
        f"{heading}, {when}"
        for metric, heading in task.metrics.items()
        if metric != task.metric
        for when in ("end", "deployed")
    ]
    heading = task.metrics[task.metric]
    lines = [
        f"**{task.name}**, {heading}; teacher {first['teacher'][task.metric]:.2f} (seed {first['seed']}).",
        "",
        "| method | seeds | imitation | warm-up | offline | online, half | online, end | deployed | robot min | "
        + " | ".join(others)
        + " |",
        "|---" * (9 + len(others)) + "|",
    ]
    for name, found in results.items():
        cells = [figure(found, stage, task.metric) for stage in STAGES]
        minutes = np.mean([r["robot_minutes"] for r in found])
        more = [
            figure(found, stage, m)
            for m in task.metrics
            if m != task.metric
            for stage in ("online", "deployed")
        ]
        seeds = ", ".join(str(r["seed"]) for r in found)
        lines.append(f"| {name} | {seeds} | " + " | ".join([*cells, f"{minutes:.1f}", *more]) + " |")
    return lines + ["", *compared(task, results), "", provenance(results)]


def estimate(found: Sequence[dict[str, Any]], stage: str, metric: str) -> Estimate:
    """Over seeds and episodes."""
    return bootstrap_nested([[e[metric] for e in r["stages"][stage]] for r in found])


def figure(found: Sequence[dict[str, Any]], stage: str, metric: str) -> str:
    """`estimate`, or a dash: results of earlier releases lack a stage until their cells are run again."""
    known = all(stage in result["stages"] for result in found)
    return str(estimate(found, stage, metric)) if known else "-"


MIN_SEEDS = 3
"""Fewer say next to nothing of how seeds differ: the interval of one seed tells of its episodes only."""


def position(full: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], stage: str, metric: str) -> str:
    """Where a method's interval lies beside the full method's, if it can be told.

    An interval without width comes from episodes that are all alike, as when all succeed: how far it would reach with
    more of them is not known.
    """
    ours, theirs = estimate(full, stage, metric), estimate(other, stage, metric)
    if min(len(full), len(other)) < MIN_SEEDS or ours.low == ours.high or theirs.low == theirs.high:
        return "no verdict"
    return "below" if theirs.high < ours.low else "above" if theirs.low > ours.high else "overlapping"


def compared(task: BenchTask, results: Results) -> list[str]:
    """Which methods' intervals lie apart from the full method's, half-way, at the end and deployed."""
    lines = []
    stages = {"half": "half-way through online RL", "online": "at the end", "deployed": "deployed"}
    for stage, when in stages.items():
        apart: dict[str, list[str]] = {"below": [], "above": [], "overlapping": [], "no verdict": []}
        for name, found in results.items():
            known = all(stage in r["stages"] for r in [*found, *results.get("softflow", [])])
            if name != "softflow" and "softflow" in results and known:
                apart[position(results["softflow"], found, stage, task.metric)].append(name)
        said = [f"{where}: {', '.join(names)}" for where, names in apart.items() if names]
        lines += [f"Intervals beside that of `softflow` {when}: " + "; ".join(said) + "."] if said else []
    return lines


def provenance(results: Results) -> str:
    """What was measured how: command, machine, date, versions; every value that occurs."""
    found = [r for rs in results.values() for r in rs]

    def values(name: str, results: Sequence[dict[str, Any]] = found) -> str:
        return " and ".join(sorted({str(r.get(name, f"{name} not noted")) for r in results}))

    first, software = found[0], [r.get("software", {}) for r in found]
    seeds = " ".join(str(s) for s in sorted({r["seed"] for r in found}))
    command = f"./softflow bench method --tasks {first['task']} --methods {' '.join(results)} --seeds {seeds}"
    versions = ", ".join(f"{n} {values(n, software)}" for n in sorted({n for s in software for n in s}))
    episodes = sorted({len(e) for r in found for e in r["stages"].values()})
    return (
        f"`{command}`, {values('date')}, on {values('machine')}, one thread a cell; "
        f"{versions or 'versions not noted'}; {' or '.join(map(str, episodes))} episodes a seed after each stage, "
        f"on the same start states, deployed at temperature {DEPLOYED_TEMPERATURE}, else at 1; "
        f"{sum(r['skipped'] for r in found)} skipped updates. Brackets: bootstrap, 95 % of it, seeds resampled, "
        f"then episodes; of one seed they tell of its episodes only, of {MIN_SEEDS} they are somewhat narrow. "
        f"No verdict: fewer than {MIN_SEEDS} seeds, or episodes that are all alike."
    )


def plot(task: BenchTask, results: Results, path: Path) -> None:
    """Learning curves: mean over seeds, the band from the worst to the best seed. A line for what learned offline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
    for name, found in results.items():
        curves = [r["curve"] for r in found if r["curve"]]
        if not curves:  # Nothing was learned online: where it stands, for comparison.
            level = estimate(found, "online", task.metric).mean
            axes.axhline(level, label=name, color="0.6", linestyle="--")
            continue
        length = min(len(c) for c in curves)
        x = np.mean([[p[0] for p in c[:length]] for c in curves], axis=0)
        y = np.array([[p[1][task.metric] for p in c[:length]] for c in curves])
        (line,) = axes.plot(x, y.mean(axis=0), label=name)
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=line.get_color(), alpha=0.15)
    axes.set_xlabel("robot minutes online")
    axes.set_ylabel(f"{task.metrics[task.metric]} while learning")
    axes.set_title(f"{task.name} (simulated hand)")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def replace_between(document: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put a text between two markers of a document. Raises ValueError if they are not there once each, in order."""
    old = document.read_text()
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{document}: must have one {begin} and after it one {end}")
    head, rest = old.split(begin)
    write_atomically(document, f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}".encode())
