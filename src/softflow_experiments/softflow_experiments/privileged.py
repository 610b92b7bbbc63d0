"""A teacher in simulation: it sees the observation and, what no robot can, the dynamics of the hand.

Its file is data: tensors and a JSON description, safetensors. It acts without Stable-Baselines3.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from softflow_node.files import write_atomically
from softflow_sim.dynamics import Dynamics, Ranges
from softflow_sim.dynamics_env import DynamicCubeEnv
from softflow_tasks import make_task

FORMAT = "softflow-teacher/1"
FILE = "teacher.safetensors"
TASK = make_task("CubeRotation-v0")
EXTRA = len(Dynamics().vector())
INPUTS = TASK.layout.size + EXTRA
PARAMETERS = hashlib.sha256(
    json.dumps([TASK.layout.hash, [f.name for f in dataclasses.fields(Dynamics)]]).encode()
).hexdigest()
"""A teacher of another observation, or of other parameters, is refused."""
MAX_WIDTH, MAX_LAYERS = 4096, 8

Floats32 = NDArray[np.float32]


class TeacherError(ValueError):
    """A teacher's file that cannot be used. The text names file, field, value and bound."""


def privileged(state: Floats32, dynamics: Dynamics) -> Floats32:
    """State (S,) and dynamics (7 + J,) side by side."""
    return np.concatenate([state, dynamics.vector()]).astype(np.float32)


class PrivilegedCubeEnv(gym.Env[Floats32, Floats32]):
    """`DynamicCubeEnv` whose observation goes on with the dynamics of the episode's hand."""

    def __init__(self, dynamics: Dynamics | Ranges | str = "randomised", smoothness: float = 0.0) -> None:
        """`smoothness`: reward lost for a mean square change of action of 1 in a step."""
        self.inner = DynamicCubeEnv(dynamics)
        self.smoothness = smoothness
        self.action_space = self.inner.action_space
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (INPUTS,), np.float32)
        self._last = np.zeros(TASK.action_dim, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats32, dict[str, Any]]:
        state, info = self.inner.reset(seed=seed, options=options)
        self._last = TASK.rest_action().astype(np.float32)
        return privileged(state, self.inner.dynamics), info

    def step(self, action: Floats32) -> tuple[Floats32, float, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.inner.step(action)
        reward -= self.smoothness * float(np.mean(np.square(action - self._last)))
        self._last = np.array(action)
        return privileged(state, self.inner.dynamics), reward, terminated, truncated, info


@dataclass(frozen=True)
class Teacher:
    """The mean of a trained policy: tanh layers and a linear head over normalised inputs."""

    mean: Floats32
    std: Floats32
    layers: tuple[tuple[Floats32, Floats32], ...]
    """(weight (O, I), bias (O,)) of each, the last one without tanh."""
    steps: int
    """Simulated, of the training."""

    CLIP = 8.0
    """[standard deviations] of inputs, as `Normalizer` has it."""

    def __call__(self, state: Floats32, dynamics: Dynamics) -> Floats32:
        """The action (A,) in [-1, 1] for a state (S,) of a hand with these dynamics."""
        x = (privileged(state, dynamics) - self.mean) / self.std
        x = np.clip(x, -self.CLIP, self.CLIP)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(weight @ x + bias)
        weight, bias = self.layers[-1]
        return np.clip(weight @ x + bias, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class TeacherFile:
    """Everything in a teacher's file."""

    tensors: dict[str, NDArray[Any]]
    """`policy/...`, and, to go on with, `optimizer/...`."""
    widths: tuple[int, ...]
    about: dict[str, Any]
    """JSON of whoever trained it: seed, steps, settings, history."""

    @property
    def shapes_to_act(self) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of the tensors that an acting teacher needs."""
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys((_MEAN, _STD), (INPUTS,))
        sizes = (INPUTS, *self.widths)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            shapes[f"policy/mlp_extractor.policy_net.{2 * index}.weight"] = (outputs, inputs)
            shapes[f"policy/mlp_extractor.policy_net.{2 * index}.bias"] = (outputs,)
        shapes["policy/action_net.weight"] = (TASK.action_dim, sizes[-1])
        shapes["policy/action_net.bias"] = (TASK.action_dim,)
        return shapes

    def teacher(self) -> Teacher:
        """To act with."""
        names = [name for name in self.shapes_to_act if name not in (_MEAN, _STD)]
        flat = [self.tensors[name] for name in names]
        layers = tuple(zip(flat[0::2], flat[1::2], strict=True))
        steps = int(self.about["steps"])
        return Teacher(self.tensors[_MEAN], self.tensors[_STD], layers, steps)


_MEAN, _STD = "policy/features_extractor.normalizer.mean", "policy/features_extractor.normalizer.std"


def save_teacher(
    directory: Path, tensors: Mapping[str, NDArray[Any]], widths: Sequence[int], about: Mapping[str, Any]
) -> Path:
    """Write DIR/teacher.safetensors atomically; returns its path.

    Raises OSError, and TeacherError for numbers that are not finite: the good file of before stays.
    """
    check_finite(directory / FILE, tensors)
    description = {"format": FORMAT, "parameters": PARAMETERS, "widths": list(widths), "about": dict(about)}
    arrays = {name: np.array(array, order="C") for name, array in tensors.items()}
    path = directory / FILE
    write_atomically(path, save(arrays, {"softflow": json.dumps(description, sort_keys=True)}))
    return path


def load_teacher_file(directory: Path) -> TeacherFile:
    """What `save_teacher` wrote.

    Raises:
        TeacherError: missing, truncated or foreign file, of another observation, wrong sizes, or numbers that are
            not finite.
    """
    path = directory / FILE
    try:
        with safe_open(path, framework="numpy") as file:
            description = json.loads((file.metadata() or {}).get("softflow", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, ValueError, SafetensorError) as error:
        raise TeacherError(f"{path}: not a usable safetensors file: {error}") from error
    widths, about = _description(path, description)
    found = TeacherFile(tensors, widths, about)
    for name, shape in found.shapes_to_act.items():
        got = tensors[name].shape if name in tensors else None
        if got != shape:
            raise TeacherError(f"{path}: tensor {name!r} has shape {got}, must have {shape}")
    check_finite(path, tensors)
    if not (tensors[_STD] > 0).all():
        raise TeacherError(f"{path}: tensor {_STD!r} has minimum {tensors[_STD].min()}, must be > 0")
    return found


def check_finite(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raises TeacherError that names the tensor."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise TeacherError(f"{path}: tensor {name!r} has numbers that are not finite")


def load_teacher(directory: Path) -> Teacher:
    """The acting part. Raises TeacherError, see `load_teacher_file`."""
    return load_teacher_file(directory).teacher()


def _description(path: Path, description: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise TeacherError(f"{path}: format is {found!r}, must be {FORMAT!r}")
    if description.get("parameters") != PARAMETERS:
        raise TeacherError(
            f"{path}: parameters is {description.get('parameters')!r}, must be {PARAMETERS!r}: "
            "made for another observation or other dynamics"
        )
    return _widths(path, description.get("widths")), _about(path, description.get("about"))


def _widths(path: Path, found: Any) -> tuple[int, ...]:
    sizes = found if isinstance(found, list) and 0 < len(found) <= MAX_LAYERS else [None]
    if any(type(size) is not int or not 0 < size <= MAX_WIDTH for size in sizes):
        raise TeacherError(
            f"{path}: widths is {found!r}, must be 1 to {MAX_LAYERS} integers in [1, {MAX_WIDTH}]"
        )
    return tuple(sizes)


def _about(path: Path, found: Any) -> dict[str, Any]:
    steps = found.get("steps") if isinstance(found, dict) else None
    if type(steps) is not int or steps < 0:
        raise TeacherError(f"{path}: about.steps is {steps!r}, must be an integer >= 0")
    return dict(found)
