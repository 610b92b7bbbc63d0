"""Settings of the benchmark's environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softflow_learner.agent import Agent
from softflow_learner.config import Config
from softflow_learner.session import SPEC_SETTINGS
from softflow_node.parameters import from_mapping
from softflow_policy.spec import PolicySpec

COMMON: dict[str, Any] = {
    # Q-chunking's sizes (arXiv 2507.07969): h 5, gamma 0.99, tau 0.005, two critics, their mean, best of 32.
    "horizon": 5,
    "gamma": 0.99,
    "target_tau": 0.005,
    "aggregate": "mean",
    "best_of": 32,
    # Play says little about what a good policy is worth: the best of several samples in the target, too. (ours) 8 of
    # its 32: three times as many updates an hour. Where the processor knows bfloat16, that saves a third more.
    "target_best_of": 8,
    # (ours) Half of its critic's width, and narrow conditioners: 100,000 updates in about two hours on one free core.
    "width": 128,
    "critic_width": 256,
    "critic_layers": 4,
    # METHOD.md's smaller value; the oracles themselves are noisy.
    "imitation_sigma": 0.05,
    # Values of tens, from -1 a step: gradients are large at first, and Adam does not mind.
    "gradient_clip": 100.0,
    # Best-of-N does most of the improving; the gradient of Q only tilts the flow.
    "beta": 1.0,
    # A window that success cuts short is padded; nobody played that.
    "chunk_end": "drop",
    "holdout_every": 0,
    # Online: an update a step from the first 5000 steps on, half of each batch from the play.
    "update_to_data": 5.0,
    "offline_fraction": 0.5,
    "online_min_steps": 5000,
    "online_critic_only_steps": 5000,
    "beta_final": 1.0,
}
# (ours) Imitation's held-out likelihood comes so as far in a seventh of the updates; scene's cells are from before.
FASTER_ACTOR: dict[str, Any] = {"actor_rate": 3.0, "actor_tau": 0.001}
SETTINGS: dict[str, dict[str, Any]] = {
    "puzzle-3x3": COMMON | FASTER_ACTOR,
    "scene": COMMON,
    # The gradient of Q pulls the policy out of these data: nearly all improving is left to best-of-N, as in Q-chunking.
    # Less noise on the data: imitation's held-out likelihood, of actions without noise, is better.
    "cube-double": COMMON | FASTER_ACTOR | {"beta": 100.0, "imitation_sigma": 0.01},
}
"""Environment -> fields of `PolicySpec` and `Config`."""


def new_agent(settings: Mapping[str, Any], state_dim: int, action_dim: int) -> Agent:
    """Before its first update. Raises ParameterError."""
    shape = {name: value for name, value in settings.items() if name in SPEC_SETTINGS}
    shape |= {"state_dim": state_dim, "action_dim": action_dim}
    rest = {name: value for name, value in settings.items() if name not in SPEC_SETTINGS}
    return Agent(from_mapping(PolicySpec, shape, "settings"), from_mapping(Config, rest, "settings"))
