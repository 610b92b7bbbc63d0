"""The methods that are compared: one option each of the same code (METHOD.md, Baselines)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """Settings beside the task's own, and what is left out."""

    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    online: bool = True


METHODS: dict[str, Method] = {
    "softflow": Method("flow, chunk critic, likelihood of the data's chunks, all four stages"),
    # Networks of about the flow's size: width and layers make up for the missing couplings.
    "gaussian": Method(
        "a Gaussian over chunks instead of the flow",
        {"policy": "gaussian", "width": 284, "conditioner_layers": 3},
    ),
    "flow_matching": Method(
        "flow matching in ten Euler steps instead of the flow; no likelihood, its own loss instead",
        {"policy": "flow_matching", "width": 248, "conditioner_layers": 3},
    ),
    "per_step": Method(
        "single actions and a critic of single actions with h-step returns",
        {"critic": "per_step"},
    ),
    "no_warmup": Method(
        "offline RL from an untrained critic", {"warmup_min_updates": 0, "warmup_max_updates": 0}
    ),
    "no_offline": Method("online RL right after the warm-up", {"offline_updates": 0}),
    "no_regulariser": Method("nothing keeps the policy near the data", {"regulariser": "none"}),
    "reverse_kl": Method(
        "exact KL to the imitated policy instead of the data's likelihood", {"regulariser": "reverse_kl"}
    ),
    "target_penalty": Method(
        "that KL, and the same as a penalty in the critic's targets", {"regulariser": "target"}
    ),
    "best_of_1": Method("acts by a single sample; the critic does not choose", {"best_of": 1}),
    "bc": Method(
        "imitation only",
        {"warmup_min_updates": 0, "warmup_max_updates": 0, "offline_updates": 0, "best_of": 1},
        online=False,
    ),
}
"""Method name -> what it changes."""


def combined(task: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings and a method's upon them.

    A critic of single actions sums as many rewards as the other methods' chunks have steps. So its values travel back
    as fast, and, since updates are counted by such windows, it makes as many updates in a robot minute.
    """
    settings = {**task, **method}
    if settings.get("critic") == "per_step" and "horizon" in settings:
        settings["return_steps"] = settings.pop("horizon")
    return settings
