"""Play data, regenerated with the wheel's own oracles: shards that are pure functions of (env, seed, number).

As OGBench describes its `play` sets (arXiv 2410.20092, appendix on data): non-Markovian oracles follow plans with
temporally correlated noise and take a new random target whenever one is done; episodes of 1000 steps, no random
actions. The Markov oracles of the wheel are for its `noisy` sets.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow_experiments.ogbench.environment import family, play_environment
from softflow_node.files import write_atomically

EPISODE_STEPS = 1000
SHARD_EPISODES = 10
SHARD_STEPS = EPISODE_STEPS * SHARD_EPISODES
PLAN_NOISE, NOISE_SMOOTHING = 0.1, 0.5
"""Of the oracles' plans: share of the noise's full size, and its correlation in time [steps]."""
MAX_STACKING = 0.25
"""Highest probability that a cube's new place is on another cube; drawn for each episode."""
LEEWAY = 0.1
"""[m] that a cube may be outside of the work space. The physics of a drawer that locks on a cube may throw it out."""
ARRAYS = ("observations", "actions", "qpos", "button_states")


@dataclass(frozen=True)
class Play:
    """Episodes of one environment; T = 1000 steps."""

    observations: NDArray[np.float32]
    """(E, T+1, S)."""
    actions: NDArray[np.float32]
    """(E, T, A) in [-1, 1]."""
    qpos: NDArray[np.float64]
    """(E, T+1, nq), positions of everything in the scene: tasks are relabelled from them [m or rad]."""
    button_states: NDArray[np.int64]
    """(E, T+1, number of buttons); no buttons: (E, T+1, 0)."""

    @property
    def transitions(self) -> int:
        return self.actions.shape[0] * self.actions.shape[1]


def generate(
    name: str, seed: int, shard: int, env: Any, *, episodes: int = SHARD_EPISODES, steps: int = EPISODE_STEPS
) -> Play:
    """One shard, with the play environment of that name; what it did before does not matter."""
    oracles = _oracles(name, env)
    kept: list[dict[str, NDArray[Any]]] = []
    attempt = 0
    while len(kept) < episodes:
        entropy = np.random.SeedSequence([seed, shard, attempt]).generate_state(1)[0]
        episode = _episode(env, oracles, int(entropy) % 2**31, steps)
        attempt += 1
        if _inside(env, episode["qpos"]):
            kept.append(episode)
    return Play(**{key: np.stack([episode[key] for episode in kept]) for key in ARRAYS})


def _oracles(name: str, env: Any) -> dict[str, Any]:
    """By the kind of target that they serve."""
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    noise = {"env": env, "noise": PLAN_NOISE, "noise_smoothing": NOISE_SMOOTHING}
    closed = {"gripper_always_closed": True} if name.startswith("puzzle") else {}  # Nothing to grasp there.
    kinds = {
        "cube": lambda: CubePlanOracle(**noise),
        "button": lambda: ButtonPlanOracle(**closed, **noise),
        "drawer": lambda: DrawerPlanOracle(**noise),
        "window": lambda: WindowPlanOracle(**noise),
    }
    return {kind: kinds[kind]() for kind in family(name).oracles}


def _episode(env: Any, oracles: dict[str, Any], seed: int, steps: int) -> dict[str, NDArray[Any]]:
    """Target after target for `steps` steps."""
    np.random.seed(seed)
    state, info = env.reset(seed=seed)
    stacking = np.random.default_rng(seed).uniform(0.0, MAX_STACKING)
    rows: dict[str, list[NDArray[Any]]] = {key: [] for key in ARRAYS}
    oracle = _serve(oracles, state, info)
    _note(rows, state, info)
    for _ in range(steps):
        action = np.clip(oracle.select_action(state, info), -1.0, 1.0).astype(np.float32)
        state, _, _, _, info = env.step(action)
        rows["actions"].append(action)
        _note(rows, state, info)
        if oracle.done:
            state, info = env.set_new_target(p_stack=stacking)
            oracle = _serve(oracles, state, info)
    return {key: np.array(values) for key, values in rows.items()}


def _serve(oracles: dict[str, Any], state: NDArray[Any], info: dict[str, Any]) -> Any:
    """The oracle for the present target, with a plan."""
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(state, info)
    return oracle


def _note(rows: dict[str, list[NDArray[Any]]], state: NDArray[Any], info: dict[str, Any]) -> None:
    rows["observations"].append(np.asarray(state, np.float32))
    rows["qpos"].append(np.array(info["qpos"], np.float64))
    rows["button_states"].append(np.array(info.get("button_states", ()), np.int64))


def _inside(env: Any, qpos: NDArray[Any]) -> bool:
    """No cube has been thrown out of the work space; positions of the scene (T, nq)."""
    cubes = qpos[:, 14 : 14 + 7 * getattr(env, "_num_cubes", 0)].reshape(len(qpos), -1, 7)[..., :3]
    low, high = env._workspace_bounds[0] - LEEWAY, env._workspace_bounds[1] + LEEWAY
    return bool(((cubes > low) & (cubes < high)).all())


# -- Disk


def shard_path(root: Path, name: str, seed: int, shard: int) -> Path:
    """Where a shard lies."""
    return root / f"{name}-play-seed{seed}-shard{shard:03d}.npz"


def save(path: Path, play: Play) -> None:
    """Atomically. Raises OSError."""
    buffer = io.BytesIO()
    np.savez(buffer, **{key: getattr(play, key) for key in ARRAYS})
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> Play:
    """Raises OSError, ValueError or KeyError for a file that is not a shard."""
    with np.load(path, allow_pickle=False) as arrays:
        return Play(**{key: arrays[key] for key in ARRAYS})


def ensure(
    root: Path, name: str, seed: int, transitions: int, say: Callable[[str], None], stop: Callable[[], bool]
) -> list[Path]:
    """The shards that hold so many transitions; generates those that are missing, unless `stop` says to end.

    Raises OSError.
    """
    paths = [shard_path(root, name, seed, k) for k in range(-(-transitions // SHARD_STEPS))]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    env = play_environment(name) if missing else None
    for number in missing:
        if stop():
            break
        start = time.monotonic()
        save(paths[number], generate(name, seed, number, env))
        say(f"{paths[number].name}: {SHARD_STEPS / (time.monotonic() - start):.0f} steps/s")
    return paths
