"""Our success rates beside the published ones."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softflow_experiments.ogbench.environment import FAMILIES
from softflow_experiments.ogbench.settings import SETTINGS
from softflow_experiments.report import replace_between
from softflow_experiments.statistics import bootstrap_nested
from softflow_learner.config import Config
from softflow_policy.spec import PolicySpec

BEGIN, END = "<!-- ogbench:begin -->", "<!-- ogbench:end -->"
COLUMNS = ("QC", "QC-FQL", "BFN", "BFN-n", "FQL", "ReBRAC", "RLPD", "RLPD-AC")
PUBLISHED = {
    "puzzle-3x3": (0.95, 0.22, 0.10, 0.10, 0.0, 0.01, 0.01, 1.0),
    "scene": (0.97, 0.61, 0.91, 0.11, 0.22, 0.06, 0.98, 1.0),
    "cube-double": (0.46, 0.20, 0.19, 0.02, 0.14, 0.17, 0.46, 0.86),
}
"""Q-chunking's released results (arXiv 2507.07969) after 0.1 M updates, RLPD's after 0.1 M steps; METHOD.md."""
KINDS = ("offline", "online", "offline-online")
DEFAULTS = {field.name: field.default for kind in (PolicySpec, Config) for field in dataclasses.fields(kind)}
"""Of what a cell's settings need not name."""
Results = dict[tuple[str, str], list[dict[str, Any]]]
"""(environment, kind) -> one result for each seed."""


def write_report(out: Path, document: Path | None = None) -> str:
    """The table of all results below `out`; it also goes between the markers of `document`, if one is given.

    Raises ValueError without the markers, or for a damaged result.
    """
    results = load_results(out)
    text = "\n".join(table(results)) if results else "no results yet"
    if document is not None:
        replace_between(document, text, BEGIN, END)
    return text


def load_results(out: Path) -> Results:
    """Of the tasks with published figures. Raises ValueError for a damaged one."""
    found: Results = defaultdict(list)
    for name, about in FAMILIES.items():
        for kind in KINDS:
            for path in sorted((out / f"{name}-task{about.task}" / kind).glob("*/result.json")):
                try:
                    result = json.loads(path.read_text())
                    bootstrap_nested([result["success"]], resamples=1)
                    _deployed([result])
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path}: damaged: {error}; remove it, and its cell runs anew"
                    ) from error
                found[name, kind].append(result)
    return dict(found)


def table(results: Results) -> list[str]:
    """Markdown lines: a row for each task, ours first."""
    kinds = [kind for kind in KINDS if any(k == kind for _, k in results)]
    ours = [f"ours, {kind}" for kind in kinds]
    lines = [
        "| task | " + " | ".join([*ours, *COLUMNS]) + " |",
        "|---" * (1 + len(ours) + len(COLUMNS)) + "|",
    ]
    for name, about in FAMILIES.items():
        if any(n == name for n, _ in results):
            cells = [_ours(results.get((name, kind), ())) for kind in kinds]
            published = [f"{value:.2f}" for value in PUBLISHED[name]]
            sparse = " (sparse)" if about.sparse else ""
            lines.append(f"| {name} task{about.task}{sparse} | " + " | ".join([*cells, *published]) + " |")
    return [*lines, "", provenance(results)]


def _ours(found: Sequence[dict[str, Any]]) -> str:
    """Success over seeds and episodes, after how much."""
    if not found:
        return "-"
    estimate = bootstrap_nested([r["success"] for r in found])
    after = {
        " + ".join(
            f"{r[k]:,} {what}" for k, what in (("updates", "updates"), ("online_steps", "steps")) if r[k]
        )
        for r in found
    }
    seeds = ", ".join(str(r["seed"]) for r in found)
    amounts = " or ".join(sorted({_data(r)[1] for r in found}))
    changed = " or ".join(sorted({_changed(r) for r in found} - {""}))
    settings = f", `--set {changed}`" if changed else ""
    return f"{estimate}, seeds {seeds}, after {' or '.join(sorted(after))}, {amounts}{settings}{_deployed(found)}"


def _deployed(found: Sequence[dict[str, Any]]) -> str:
    """The same policies with less noise, of the seeds that were measured so."""
    measured = [r for r in found if r.get("deployed")]
    if not measured:
        return ""
    seeds = "" if len(measured) == len(found) else ", seeds " + ", ".join(str(r["seed"]) for r in measured)
    how = " or ".join(sorted({f"{r['deployed_temperature']:g}" for r in measured}))
    return f"; deployed at temperature {how}: {bootstrap_nested([r['deployed'] for r in measured])}{seeds}"


def _data(result: dict[str, Any]) -> tuple[str, str]:
    """Where the play data are from, and how much."""
    origin, _, amount = result["data"].rpartition(", ")
    return origin, amount


def _changed(result: dict[str, Any]) -> str:
    """NAME=VALUE of what is not as the environment has it now: other values of a setting, then or since."""
    usual = DEFAULTS | SETTINGS[result["env"]] | {"seed": result["seed"]}
    had = DEFAULTS | result["settings"]
    return " ".join(f"{k}={v}" for k, v in sorted(had.items()) if usual.get(k) != v)


def provenance(results: Results) -> str:
    """What was measured how, and what is not the same as in the published figures."""
    found = [r for rs in results.values() for r in rs]

    def values(name: str) -> str:
        return " and ".join(sorted({str(r[name]) for r in found}))

    origins = " and ".join(sorted({_data(r)[0] for r in found}))
    hours = sum(sum(r["seconds"].values()) for r in found) / 3600.0
    return (
        "Ours: `./softflow bench ogbench`; success rate over "
        f"{values('evaluation_episodes')} episodes a seed, brackets: 95 %, seeds resampled, then episodes. **The play "
        f"data are not the published ones but {origins}** (published: 1,000,000 transitions); {values('date')} "
        f"on {values('machine')}, one thread a cell, {hours:.1f} h together. The other columns are Q-chunking's "
        "released results (arXiv 2507.07969), offline agents after 100,000 updates, RLPD and RLPD-AC after 100,000 "
        "environment steps; they come from other code, other networks, other versions of MuJoCo and the original data."
    )
