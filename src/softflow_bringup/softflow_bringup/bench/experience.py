"""Experience from the recorder's messages to the learner's batches: how much faster than the robot makes it.

The nodes' own parts one after the other in one process: messages decoded and written into a bag, with fsync; the bag
read back into segments; spool, with fsync; items encoded and decoded as by a call; journal, with fsync; replay. DDS
and two processes at once are not in it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from softflow_experiments.learner_speed import example, rates
from softflow_learner.replay import Batch, Replay

HZ, STEPS, STATE, ACTION, HORIZON = 20.0, 400, 100, 8, 5
CAMERAS = ("palm", "wrist")
SIZE = 96
"""[pixels] of an image, both ways."""
EPISODES_WARM = 2
"""Not counted: files and caches that exist once."""
PARTS = ("bag", "spool", "journal", "replay")


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="softflow bench experience", description=__doc__)
    parser.add_argument("--images", action="store_true", help=f"two {SIZE} x {SIZE} JPEG images a step too")
    parser.add_argument("--episodes", type=int, default=30, help=f"of {STEPS} steps at {HZ:.0f} Hz")
    parser.add_argument(
        "--transitions", type=int, default=1_000_000, help="in the replay that is sampled; 0 = none"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each rate")
    parser.add_argument("--directory", type=Path, default=None, help="of all files; default: a temporary one")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="softflow_bench_", dir=options.directory) as scratch:
        path(Path(scratch), options.episodes, options.images)
        if options.transitions:
            sampling(options.transitions, options.seconds, None)
            sampling(options.transitions, options.seconds, Path(scratch) / "replay")
    return 0


def path(scratch: Path, episodes: int, images: bool) -> None:
    """Print how long each part takes for an episode, and all of it beside the episode's own length."""
    from softflow_bringup.bench.messages import ExperiencePath, make_messages

    cameras = CAMERAS if images else ()
    replay = Replay(STATE, ACTION, HORIZON, 0.99, directory=scratch / "arrays", cameras=cameras)
    line = ExperiencePath(scratch, replay)
    took: list[list[float]] = []
    for k in range(EPISODES_WARM + episodes):
        messages = make_messages(k, STEPS, STATE, ACTION, cameras, SIZE)
        took.append(line.carry(messages))
    assert replay.size() == (EPISODES_WARM + episodes) * STEPS, "steps were lost"
    counted = np.array(took[EPISODES_WARM:])
    total = counted.sum(1)
    what = f"{STATE} values" + (f" and {len(cameras)} JPEG {SIZE} x {SIZE} images" if images else "")
    print(
        f"{episodes} episodes of {STEPS} steps at {HZ:.0f} Hz, {what} a step; {line.bag_bytes / 1e6:.1f} MB a bag"
    )
    print(f"{'part':<12}{'p50 ms':>10}{'p99 ms':>10}{'x real time':>14}")
    for name, seconds in [*zip(PARTS, counted.T, strict=True), ("all", total)]:
        p50, p99 = 1e3 * np.percentile(seconds, (50, 99), method="higher")
        print(f"{name:<12}{p50:>10.1f}{p99:>10.1f}{STEPS / HZ / seconds.mean():>14.0f}")
    print(f"memory of the process: {memory()}", flush=True)


def sampling(transitions: int, seconds: float, directory: Path | None) -> None:
    """Print how fast a full replay is sampled, beside what a learner takes, and the memory it needs."""
    before = resident()
    replay, episode_ms = filled(transitions, directory)
    grown = (resident() - before) / 1e6
    agent, small = example()
    size, rng = agent.config.batch_size, np.random.default_rng(0)
    batch = small.sample(size, 0.5, rng)
    drawn: list[Batch] = []

    def draw() -> None:
        drawn[:] = [replay.sample(size, 0.5, rng)]

    found = rates(
        {
            "sample": draw,
            "critic": lambda: agent.critic_update(batch),
            "actor": lambda: agent.actor_update(batch),
        },
        seconds,
    )
    learner = 1.0 / (1.0 / found["critic"] + 0.5 / found["actor"])
    where = "in memory" if directory is None else "large arrays in a file"
    print(f"\nreplay of {replay.size():,} steps of {STATE} values, {where}")
    p50, p99, worst = (*np.percentile(episode_ms, (50, 99)), max(episode_ms))
    print(f"adding {STEPS} steps [ms]: p50 {p50:.2f}, p99 {p99:.2f}, most {worst:.2f}")
    print(
        f"sampling: {found['sample']:.0f} batches/s of {size}; the default learner takes {learner:.1f}/s: "
        f"{found['sample'] / learner:.0f} x"
    )
    print(f"memory: {grown:.0f} MB more than before; now {memory()}", flush=True)


def filled(transitions: int, directory: Path | None) -> tuple[Replay, list[float]]:
    """A full replay that had to forget a tenth of what it was given; [ms] for each episode that was added."""
    replay = Replay(STATE, ACTION, HORIZON, 0.99, capacity=transitions, directory=directory)
    rng, took = np.random.default_rng(0), []
    for k in range(int(1.1 * transitions) // STEPS):
        states = rng.standard_normal((STEPS + 1, STATE), np.float32)
        actions = rng.random((STEPS, ACTION), np.float32)
        start = time.perf_counter()
        replay.add_episode_segment(
            states,
            actions,
            np.zeros(STEPS),
            terminated=False,
            truncated=True,
            source="policy" if k % 4 else "teacher",
            episode_id=str(k),
        )
        took.append(1e3 * (time.perf_counter() - start))
    return replay, took


def resident() -> int:
    """[bytes] of this process in memory, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory() -> str:
    """Resident memory of this process: its own, and pages of files, which the kernel may take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {key: int(rest.split()[0]) / 1e3 for key, rest in (s.split(":") for s in lines if " kB" in s)}
    return f"{values['RssAnon']:.0f} MB own, {values['RssFile'] + values['RssShmem']:.0f} MB of files"
