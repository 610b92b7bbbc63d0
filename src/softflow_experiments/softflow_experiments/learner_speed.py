"""`./softflow bench learner`: updates per second beside the first version's, and the cost of one chunk.

Ratios of two times measured in turn, so that another load on the machine meets both alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch

from softflow_experiments.first_version import FirstVersion
from softflow_experiments.ogbench.settings import SETTINGS, new_agent
from softflow_learner.agent import Agent
from softflow_learner.config import Config
from softflow_learner.parallel import DEVICES
from softflow_learner.processes import gathered
from softflow_learner.replay import Replay
from softflow_policy.flow import ConditionalFlow
from softflow_policy.native import NativeFlow, available
from softflow_policy.policy import ChunkPolicy
from softflow_policy.spec import PolicySpec

EPISODES, STEPS = 40, 400
SIZES = {
    "default": PolicySpec(),
    "width 512": PolicySpec(width=512),
    "h 32, A 24, width 512, K 12": PolicySpec(horizon=32, action_dim=24, width=512, couplings=12),
}


def example(config: Config | None = None, spec: PolicySpec | None = None) -> tuple[Agent, Replay]:
    """An agent, of the default sizes if not told, and a replay of random episodes, half of them online."""
    config, spec = config or Config(), spec or PolicySpec()
    replay = Replay(spec.state_dim, spec.action_dim, spec.horizon, config.gamma)
    rng = np.random.default_rng(0)
    for k in range(EPISODES):
        replay.add_episode_segment(
            rng.standard_normal((STEPS + 1, spec.state_dim), np.float32),
            np.clip(0.5 * rng.standard_normal((STEPS, spec.action_dim), np.float32), -1.0, 1.0),
            0.1 * rng.standard_normal(STEPS, np.float32),
            terminated=k % 4 == 0,
            truncated=k % 4 != 0,
            source="policy" if k % 2 else "teacher",
            episode_id=str(k),
        )
    agent = Agent(spec, config)
    agent.fit_normalizer(replay.states())
    return agent, replay


def rates(actions: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median calls per second of each, in turn for `seconds` each."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    end = time.perf_counter() + seconds * len(actions)
    while time.perf_counter() < end:
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    return {name: 1.0 / float(np.median(each)) for name, each in times.items()}


def learner(like: Agent, settings: dict[str, dict[str, object]], seconds: float) -> list[str]:
    """A line for each variant: critic and actor updates/s, and rounds/s with an actor update every second round.

    Of agents with the spec and config of `like`, changed by each variant's fields of `Config`.
    """
    agent, replay = example(like.config, like.spec)
    batch = replay.sample(agent.config.batch_size, 0.5, agent.numpy_rng)
    first = FirstVersion(agent)
    actions: dict[str, Callable[[], object]] = {
        "first version/critic": lambda: first.critic_update(batch),
        "first version/actor": lambda: first.actor_update(batch),
    }
    for name, values in settings.items():
        made, _ = example(dataclasses.replace(like.config, **values), like.spec)  # type: ignore[arg-type]
        actions[f"{name}/critic"] = lambda made=made: made.critic_update(batch)  # type: ignore[misc]
        actions[f"{name}/actor"] = lambda made=made: made.actor_update(batch)  # type: ignore[misc]
    found = rates(actions, seconds)
    lines, base = [], 0.0
    for name in ["first version", *settings]:
        critic, actor = found[f"{name}/critic"], found[f"{name}/actor"]
        rounds = 1.0 / (1.0 / critic + 0.5 / actor)
        base = base or rounds
        lines.append(f"| {name} | {critic:.1f} | {actor:.1f} | {rounds:.1f} | {rounds / base:.2f} |")
    return lines


def shared(processes: int, batch: int, device: str, seconds: float) -> float:
    """Rounds/s of so many processes: a batch is sampled, a critic and an actor update learn from it."""
    agent, replay = example(dataclasses.replace(Config(), batch_size=batch))

    def action() -> None:
        drawn = replay.sample(batch, 0.5, agent.numpy_rng)
        agent.critic_update(drawn)
        agent.actor_update(drawn)

    with gathered(processes, device) as world:
        agent.join(world)
        return rates({"round": action}, seconds)["round"]


def chunk_cost(spec: PolicySpec, seconds: float) -> tuple[int, dict[str, float]]:
    """Parameters of the flow; seconds for one chunk at batch 1 by PyTorch ("torch") and by what acts ("native"), and
    for one product that reads as many weights ("stream")."""
    flow = cast(ConditionalFlow, ChunkPolicy(spec).flow)
    acting = NativeFlow(flow) if available(flow) else None
    count = sum(p.numel() for p in flow.parameters())
    state, noise = torch.randn(1, spec.state_dim), torch.randn(1, spec.horizon, spec.action_dim)
    given = state.numpy(), noise.numpy()
    weights, vector = torch.randn(count // 128, 128), torch.randn(128)
    with torch.inference_mode():
        found = rates(
            {
                "torch": lambda: flow.sample(state, noise),
                "native": lambda: acting.sample(*given) if acting else flow.sample(state, noise),
                "stream": lambda: torch.mv(weights, vector),
            },
            seconds,
        )
    return count, {name: 1.0 / rate for name, rate in found.items()}


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="softflow bench learner", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--compiled", action="store_true", help="torch.compile too; takes a minute to start")
    parser.add_argument(
        "--ogbench", action="store_true", help="sizes and settings of `bench ogbench`, no others"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[], help="only: so many share an update")
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 2048], help="windows, with --processes")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="with --processes")
    options = parser.parse_args(argv)
    if options.processes:
        torch.set_num_threads(options.threads[0])
        print(f"{options.device}, {options.threads[0]} thread(s) a process\n")
        print("| batch | processes | rounds/s |\n|---|---|---|")
        for batch, count in itertools.product(options.batch, options.processes):
            rounds = shared(count, batch, options.device, options.seconds)
            print(f"| {batch} | {count} | {rounds:.1f} |", flush=True)
        return 0
    variants: dict[str, dict[str, object]] = {"float32": {}, "bfloat16": {"precision": "bfloat16"}}
    if options.compiled:
        variants |= {f"{k}, compiled": {**v, "compiled": True} for k, v in list(variants.items())}
    base = _ogbench() if options.ogbench else Agent(PolicySpec(), Config())
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"\n{threads} thread(s), batch {base.config.batch_size}\n")
        print(
            "| learner step | critic updates/s | actor updates/s | rounds/s | ratio |\n|---|---|---|---|---|"
        )
        print("\n".join(learner(base, variants, options.seconds)), flush=True)
    if options.ogbench:
        return 0
    torch.set_num_threads(1)
    print(
        "\n| flow | parameters | chunk, PyTorch [us] | acting [us] | weights once [us] | acting / weights |"
    )
    print("|---|---|---|---|---|---|")
    for name, spec in SIZES.items():
        count, cost = chunk_cost(spec, options.seconds)
        columns = " | ".join(f"{cost[part] * 1e6:.0f}" for part in ("torch", "native", "stream"))
        print(f"| {name} | {count:,} | {columns} | {cost['native'] / cost['stream']:.2f} |")
    return 0


def _ogbench() -> Agent:
    """As its cells have it; every environment has the same settings, and scene's sizes."""
    return new_agent(SETTINGS["scene"], state_dim=40, action_dim=5)
