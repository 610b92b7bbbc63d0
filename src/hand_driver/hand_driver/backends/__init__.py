"""Back ends by name. A back end is imported only when it is chosen, so that no vendor package is needed otherwise."""

from __future__ import annotations

import importlib

from hand_driver.device import Hand
from hand_driver.hand_spec import BACKENDS, HandSpec
from softflow_tasks import Task


class HandMismatchError(ValueError):
    """A hand, a back end and a task that do not fit together."""


def backend_names() -> tuple[str, ...]:
    """Names that `make_hand` knows."""
    return BACKENDS


def make_hand(spec: HandSpec, backend: str = "", task: Task | None = None) -> Hand:
    """Make the hand of a back end; `backend` empty: the one of its file, `task`: what it is to be used for.

    Raises:
        HandMismatchError: unknown name, a task for another hand, or a vendor package that is not installed.
    """
    name = backend or spec.backend
    if name not in BACKENDS:
        raise HandMismatchError(f"backend: {name!r} is unknown; known: {', '.join(BACKENDS)}")
    if task is not None:
        check_task(spec, task)
    module = importlib.import_module(f"hand_driver.backends.{name}")
    try:
        hand: Hand = module.make(spec, task)
    except ImportError as error:
        raise HandMismatchError(
            f"backend {name}: {error}; `./softflow shell pip install --no-deps -r requirements/{name}.txt`"
        ) from error
    return hand


def check_task(spec: HandSpec, task: Task) -> None:
    """Whether a task's actions mean something to this hand. Raises HandMismatchError."""
    if task.joint_names != spec.joint_names:
        raise HandMismatchError(
            f"task {task.id} moves {task.joint_names}, {spec.name} has {spec.joint_names}"
        )
    if task.control_hz != spec.control_rate:
        raise HandMismatchError(
            f"task {task.id} runs at {task.control_hz} Hz, control_rate of {spec.name} is {spec.control_rate} Hz"
        )
    for joint, lower, upper in zip(spec.joints, task.hand.lower, task.hand.upper, strict=True):
        if not (joint.lower <= lower and upper <= joint.upper):
            raise HandMismatchError(
                f"task {task.id} moves {joint.name} in [{lower}, {upper}], {spec.name} allows "
                f"[{joint.lower}, {joint.upper}]"
            )
