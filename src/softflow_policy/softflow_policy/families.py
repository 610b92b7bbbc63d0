"""The policy families by name: one option, the same code around them."""

from __future__ import annotations

from collections.abc import Callable

from softflow_policy.actor import Actor
from softflow_policy.flow import ConditionalFlow
from softflow_policy.flow_matching import FlowMatching
from softflow_policy.gaussian import ConditionalGaussian
from softflow_policy.spec import PolicySpec

FAMILIES: dict[str, Callable[[PolicySpec], Actor]] = {
    "flow": ConditionalFlow,
    "gaussian": ConditionalGaussian,
    "flow_matching": FlowMatching,
}
"""`PolicySpec.policy` -> constructor."""


def build_actor(spec: PolicySpec) -> Actor:
    """The policy network that a spec describes, at its start: the standard normal."""
    return FAMILIES[spec.policy](spec)
