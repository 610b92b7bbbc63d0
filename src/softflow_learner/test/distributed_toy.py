"""Toy training of every stage, alone or shared. As a program, under torchrun: every rank leaves what it ended with.

python -m torch.distributed.run --nproc-per-node 3 distributed_toy.py OUT float64 flow gaussian
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
import learner_toy as toy

from softflow_learner.agent import Agent, TrainingDivergedError
from softflow_learner.distributed import Worker
from softflow_learner.packing import mapped, part
from softflow_learner.parallel import Alone
from softflow_learner.processes import gathered, is_worker
from softflow_learner.replay import Batch, Replay
from softflow_learner.stages import OnlineLearning, run_imitation, run_offline, run_warmup

CASES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "gaussian": ({"policy": "gaussian"}, {"regulariser": "reverse_kl"}),
    "flow_matching": ({"policy": "flow_matching"}, {"actor_tau": 0.1}),
    "target": ({}, {"regulariser": "target", "batch_size": 32}),
    "best_of": ({"critic_members": 3}, {"aggregate_subset": 2, "target_best_of": 3}),
    "eyes": (
        {"cameras": "front", "image_size": 16, "image_width": 16, "image_features": 4, "hidden": (1,)},
        {"encoder_rate": 0.5},
    ),
    "flow": ({}, {}),
}
"""name -> what differs in PolicySpec, in Config"""


class Experience(Replay):
    """Windows in torch's default type of number."""

    def windows(self, starts: np.ndarray) -> Batch:
        made = super().windows(starts)
        return mapped(made, lambda t: t.to(torch.get_default_dtype()) if t.is_floating_point() else t)


def experience(cameras: Sequence[str] = ()) -> Replay:
    """Demonstrations, and online episodes with takeovers; chunks beyond an end are not imitated."""
    made = toy.replay(into=Experience(2, 2, 3, 0.9, holdout_every=4, chunk_end="drop", cameras=cameras))
    rng = np.random.default_rng(5)
    for k in range(3):
        states = rng.normal(size=(26, 2))
        made.add_episode_segment(
            states,
            rng.uniform(-1, 1, (25, 2)),
            rng.normal(size=25),
            terminated=k == 0,
            truncated=k != 0,
            source="policy",
            episode_id=str(k),
            interventions=rng.random(25) < 0.5,
            images={camera: toy.pictures(states) for camera in cameras},
        )
    return made


def fresh(name: str, replay: Replay, world: Alone, **values: object) -> Agent:
    spec, config = CASES[name]
    # 31 windows: no number of processes divides them.
    short = {"batch_size": 31, "imitation_updates": 3, "warmup_max_updates": 3, "warmup_check_every": 2}
    made = Agent(
        dataclasses.replace(toy.SPEC, **spec),  # type: ignore[arg-type]
        toy.config(**{**short, "offline_updates": 3, **config, **values}),
    )
    made.fit_normalizer(replay.states())
    made.join(world)
    return made


def left(agent: Agent) -> dict[str, torch.Tensor]:
    """Every weight, and the gradients of the last updates."""
    modules = {"policy": agent.policy, "target": agent.target_critic, "slow": agent.slow_actor}
    modules |= {"reference": agent.reference}
    out = {f"{m}/{k}": v.clone() for m, each in modules.items() if each for k, v in each.state_dict().items()}
    grads = {k: p.grad for k, p in agent.policy.named_parameters() if p.grad is not None}
    return out | {f"gradient/{k}": v.clone() for k, v in grads.items()}


def train(name: str, world: Alone) -> dict[str, torch.Tensor]:
    """What each stage left, and every scalar of every update."""
    replay = experience(("front",) if name == "eyes" else ())
    agent = fresh(name, replay, world)
    found: dict[str, torch.Tensor] = {}
    scalars: list[float] = []

    def progress(_step: int, _total: int, values: dict[str, float]) -> None:
        scalars.extend(values.values())

    for stage in (run_imitation, run_warmup, run_offline):
        stage(agent, replay, progress)
        found |= {f"{stage.__name__}/{k}": v for k, v in left(agent).items()}
    online = OnlineLearning(agent, replay)
    for k in range(4):
        progress(k, 4, online.update())
    return found | {f"online/{k}": v for k, v in left(agent).items()} | {"scalars": torch.tensor(scalars)}


def first_rows(batch: Batch, rows: int) -> Batch:
    return part(batch, range(rows))


def masks(world: Alone) -> dict[str, torch.Tensor]:
    """Batches of which the first rows may not be imitated, or none: whole processes have nothing to imitate."""
    replay = experience()
    agent, batch = fresh("flow", replay, world), replay.sample(31, 1.0, np.random.default_rng(0))
    found = {}
    for first in (11, 30, 31):
        some = dataclasses.replace(batch, imitable=torch.arange(31) >= first)
        scalars = agent.imitation_update(some) | agent.actor_update(some)
        found |= {f"{first}/{k}": torch.tensor(v) for k, v in scalars.items()}
        found |= {f"{first}/{k}": v for k, v in left(agent).items()}
    return found


def poisoned(world: Alone) -> dict[str, torch.Tensor]:
    """One row, of one process, is not a number: all skip; too many of them end the run; good ones go on."""
    replay = experience()
    agent = fresh("flow", replay, world, max_consecutive_skips=1)
    good = replay.sample(31, 1.0, np.random.default_rng(0))
    states = good.states.clone()
    states[30] = torch.nan
    bad = dataclasses.replace(good, states=states)
    agent.critic_update(good)
    agent.critic_update(bad)
    counts = [agent.gradient_step, agent.skipped]
    agent.critic_update(good)
    agent.actor_update(bad)
    try:
        agent.actor_update(bad)
    except TrainingDivergedError:
        counts.append(-1)
    agent.actor_update(good)
    return left(agent) | {"counts": torch.tensor([*counts, agent.gradient_step, agent.skipped])}


def everything(world: Alone, names: Iterable[str] = tuple(CASES)) -> dict[str, torch.Tensor]:
    """These cases; the last agent is that of the last of them."""
    found = {"masks/" + k: v for k, v in masks(world).items()}
    found |= {"poisoned/" + k: v for k, v in poisoned(world).items()}
    for name in names:
        found |= {f"{name}/{k}": v for k, v in train(name, world).items()}
    return found


@contextmanager
def numbers(dtype: str) -> Iterator[None]:
    """torch's default type for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def main(out: Path, dtype: str, *names: str) -> None:
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with numbers(dtype):
        if is_worker():
            agent = Worker(rank, size, torch.device("cpu")).serve()
            assert agent is not None
            save_file(left(agent), out / f"{rank}.safetensors")
            return
        with gathered() as world:
            save_file(everything(world, names), out / "0.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
