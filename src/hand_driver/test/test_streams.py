"""Whatever comes, in whatever order: 100,000 control steps in which no bound is ever passed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hand_driver.safety import Refusal
from hand_driver.safety_lease import Priority
from hand_driver.trajectory import checked_trajectory

sys.path.insert(0, str(Path(__file__).parent))

import contextlib

from driver_toy import SPEC, Rig, with_safety

LOWER, UPPER = SPEC.values("lower"), SPEC.values("upper")
JOINTS = len(SPEC.joints)
EXAMPLES = 250
STEPS = 400
"""Of an example; together 100,000."""


def wander(rig: Rig, rng: np.random.Generator) -> np.ndarray:
    """Rows of targets: near or far, sometimes beyond the range, sometimes nonsense."""
    size = rng.choice([0.01, 0.1, 0.4, 3.0, 60.0], p=[0.3, 0.3, 0.25, 0.1, 0.05])
    rows = rig.driver.safety.command + np.cumsum(
        rng.normal(0, size, (int(rng.integers(1, 12)), JOINTS)), axis=0
    )
    if rng.random() < 0.05:
        rows[rng.integers(len(rows)), rng.integers(JOINTS)] = rng.choice([np.nan, np.inf, -np.inf])
    return rows


def chunk(rig: Rig, rng: np.random.Generator) -> None:
    changed: dict[str, object] = {}
    if rng.random() < 0.2:
        changed = [
            {"source": "teleop"},
            {"source": "other"},
            {"expiry": rig.driver.robot_time + float(rng.normal(0, 5))},
            {"obs_step": int(rng.integers(0, 500))},
            {"episode_id": "another"},
            {"chunk_id": int(rng.integers(0, 20))},
            {"dt": 1.0},
        ][int(rng.integers(7))]
    rig.offer(wander(rig, rng), **changed)


def stream(rig: Rig, rng: np.random.Generator) -> None:
    priority = Priority(int(rng.integers(2)))
    rig.driver.stream(str(rng.choice(["glove", "gui"])), wander(rig, rng)[0], rig.now, priority)


def faults(rig: Rig, rng: np.random.Generator) -> None:
    world, joint = rig.world, int(rng.integers(JOINTS))
    kind = int(rng.integers(9))
    if kind == 0:
        world.unplugged = not world.unplugged
    elif kind == 1:
        world.deaf = not world.deaf
    elif kind == 2:
        world.silent ^= {joint}
    elif kind == 3 and not world.unplugged:
        world.frozen.pop(joint) if joint in world.frozen else rig.hand.freeze(joint)
    elif kind == 4:
        world.extra_current = {} if world.extra_current else {joint: float(rng.uniform(0.3, 2.0))}
    elif kind == 5:
        world.temperature[joint] = rng.uniform(20, 90)
    elif kind == 6:
        world.alarms = {} if world.alarms else {joint: "overload"}
    elif kind == 7:
        world.torque[joint] = False
    else:
        world.position = world.position + rng.normal(0, 0.2, JOINTS)  # pushed


def heal(rig: Rig, rng: np.random.Generator) -> None:
    """Everything is repaired; somebody says so."""
    world = rig.world
    world.unplugged = world.deaf = False
    world.silent, world.frozen, world.extra_current, world.alarms = set(), {}, {}, {}
    world.temperature[:] = 30.0
    for _ in range(int(rng.integers(1, 40))):
        rig.step()
    rig.recover()


def operate(rig: Rig, rng: np.random.Generator) -> None:
    driver = rig.driver
    kind = int(rng.integers(9))
    if kind == 0:
        driver.safety.estop("button")
    elif kind in (1, 2):
        driver.safety.reset_estop("all clear")
    elif kind == 3:
        driver.safety.hold("break")
    elif kind in (4, 5):
        driver.safety.follow()
    elif kind == 6:
        driver.home(rig.now)
    elif kind == 7:
        driver.give_back("glove")
    else:
        rig.begin(str(rng.integers(1000)))


def wait(rig: Rig, rng: np.random.Generator) -> None:
    """Time that passes, stands still, jumps or is no number."""
    now = rig.now
    rig.step(float(rng.choice([0.0, 0.3, 5.0, 3600.0, -10.0, np.nan, np.inf])))
    if not np.isfinite(rig.now) or rig.now < now:
        rig.now = now


def trajectory(rig: Rig, rng: np.random.Generator) -> None:
    """Of some joints, near or far, slow or much too fast, with and without velocities."""
    names = list(rng.permutation(SPEC.joint_names)[: rng.integers(1, JOINTS + 1)])
    where = [SPEC.joint_names.index(n) for n in names]
    count = int(rng.integers(1, 4))
    times = np.cumsum(rng.uniform(0.005, 0.3, count)).tolist()
    positions = list(rng.uniform(LOWER[where], UPPER[where], (count, len(where))))
    velocities = list(rng.uniform(-4.0, 4.0, (count, len(where)) if rng.random() < 0.5 else (count, 0)))
    stamp = float(rng.choice([0.0, rig.driver.robot_time + rng.uniform(-1.0, 1.0)]))
    rig.driver.follow(checked_trajectory(names, times, positions, velocities, SPEC), max(stamp, 0.0), rig.now)


DEEDS: dict[str, Callable[[Rig, np.random.Generator], None]] = {
    "chunk": chunk,
    "stream": stream,
    "trajectory": trajectory,
    "faults": faults,
    "heal": heal,
    "operate": operate,
    "wait": wait,
    "nothing": lambda rig, rng: None,
}
WEIGHTED = (
    ["chunk"] * 6
    + ["stream"] * 3
    + ["trajectory"] * 2
    + ["faults", "heal", "operate", "operate", "wait", "nothing"]
)
deeds = st.lists(
    st.tuples(st.sampled_from(WEIGHTED), st.integers(1, 15), st.integers(0, 2**32 - 1)), min_size=1
)
taken: list[int] = []


def replay(script: list[tuple[str, int, int]], rig: Rig) -> int:
    """Do what the script says, over and over, until there were STEPS steps; returns how many the hand followed."""
    followed = count = turn = 0
    while count < STEPS:
        name, periods, seed = script[turn % len(script)]
        with contextlib.suppress(Refusal):
            DEEDS[name](rig, np.random.default_rng((seed, turn)))
        for _ in range(periods):
            followed += rig.step().decision.mode.value == "active"
        count += periods
        turn += 1
    taken.append(count)
    return followed


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
# A joint that is not read while the hand is taken up again: chance finds it rarely.
@example(script=[("chunk", 1, 0), ("faults", 1, 0), ("heal", 1, 0)], jump=0.3, start=0.0)
@given(script=deeds, jump=st.sampled_from([0.3, 1.0, 1e6]), start=st.floats(-0.3, 0.3))
def run_streams(script: list[tuple[str, int, int]], jump: float, start: float) -> None:
    rig = Rig(with_safety(max_jump=jump, starve_relax=0.3, max_action=1e6))
    rig.world.position[:] += start
    replay(script, rig)


def test_no_bound_is_ever_passed_in_a_hundred_thousand_steps() -> None:
    taken.clear()
    run_streams()
    assert sum(taken) >= 100_000


def test_the_streams_do_move_the_hand() -> None:
    """Or the bounds would be kept by standing still."""
    rig = Rig(with_safety(max_jump=1e6))
    script = [("chunk", 8, seed) for seed in range(40)] + [("operate", 3, 5), ("stream", 5, 1)]
    assert replay(script, rig) > STEPS // 4
    assert np.abs(np.diff(np.array(rig.hand.sent), axis=0)).max() > 0.9 * 4.0 * SPEC.period
