"""The end of a demo: table, report.json, learning curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from softflow_node.files import write_atomically
from softflow_recorder.bag import Summary
from softflow_tasks.task import Task

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WINDOW = 10
"""Episodes of the moving mean."""


def write_report(path: Path, task: str, seed: int, stages: list[dict[str, Any]]) -> None:
    """Write report.json."""
    write_atomically(path, json.dumps({"task": task, "seed": seed, "stages": stages}, indent=1).encode())


def table(stages: list[dict[str, Any]], label: str) -> str:
    """The stages as a table for people; `label` names the metric."""
    head = f"{'stage':<11}{label:>14}  {'95 % interval':<16}{'success':>8}{'n':>5}"
    head += f"{'robot min':>11}{'wall s':>8}"
    lines = [head, "-" * len(head)]
    for s in stages:
        interval = f"[{s['ci95'][0]:.2f}, {s['ci95'][1]:.2f}]"
        lines.append(
            f"{s['stage']:<11}{s['mean']:>14.2f}  {interval:<16}{100 * s['success']:>6.0f} %{s['n']:>5}"
            f"{s['robot_minutes']:>11.1f}{s['wall_s']:>8.0f}"
        )
    return "\n".join(lines)


def learning_curve(path: Path, stages: list[dict[str, Any]], online: list[Summary], task: Task) -> None:
    """Write a PNG: what the stages reached, and the episodes of the online stage over robot minutes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True, width_ratios=(1, 1.6))
    means = [s["mean"] for s in stages]
    errors = np.array([[s["mean"] - s["ci95"][0], s["ci95"][1] - s["mean"]] for s in stages]).T
    left.bar([s["stage"] for s in stages], means, yerr=errors, capsize=4, color="#4878a8")
    left.set_ylabel(task.metric_label)
    left.set_title("after each stage (mean, 95 % interval)")
    left.tick_params(axis="x", rotation=20)
    minutes = np.cumsum([s.steps for s in online]) / task.control_hz / 60.0
    values = np.array([s.metrics[task.metric] for s in online])
    right.plot(minutes, values, ".", color="#b0b0b0", markersize=4, label="training episode")
    if len(values) >= WINDOW:
        mean = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
        right.plot(minutes[WINDOW - 1 :], mean, color="#c04040", label=f"mean of {WINDOW} episodes")
    right.set_xlabel("robot minutes online")
    right.set_title("online RL")
    right.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
