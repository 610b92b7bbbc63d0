"""The teacher: reproducible, slow, in two modes, and able to turn the cube."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from softflow_sim.cube_env import CubeRotationEnv
from softflow_sim.teacher import CubeTeacher, TeacherStyle


def run(seed: int) -> dict[str, float]:
    """Metrics of one demonstration."""
    env, teacher = CubeRotationEnv(), CubeTeacher(seed)
    env.reset(seed=seed)
    for _ in range(env.task.horizon):
        _, _, terminated, truncated, info = env.step(teacher().astype(np.float32))
        if terminated or truncated:
            break
    return {k: float(v) for k, v in info.items()}


def test_the_teacher_turns_the_cube_slowly() -> None:
    results = [run(seed) for seed in range(6)]
    mean = np.mean([r["rotations_per_minute"] for r in results])
    assert 1.5 < mean < 4.5, results


def test_equal_seeds_give_equal_actions_and_others_do_not() -> None:
    def first_actions(seed: int) -> bytes:
        teacher = CubeTeacher(seed)
        return np.array([teacher() for _ in range(100)]).tobytes()

    assert first_actions(1) == first_actions(1)
    assert len({first_actions(seed) for seed in range(5)}) == 5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.2))
def test_every_action_is_in_the_box(seed: int, noise: float) -> None:
    teacher = CubeTeacher(seed, noise=noise)
    actions = np.array([teacher() for _ in range(100)])
    assert actions.shape == (100, 8) and np.abs(actions).max() <= 1.0


def first_pair(seed: int) -> int:
    """Which pair of fingers re-grips first after the first twist."""
    teacher = CubeTeacher(seed, noise=0.0)
    before = teacher()
    twisted = False
    while True:
        action = teacher()
        change = (action - before).reshape(4, 2)[:, 0]
        twisted |= bool((change > 0.01).all())
        moved_back = np.flatnonzero(change < -0.01)
        if twisted and moved_back.size:
            assert moved_back.size == 2 and moved_back[1] - moved_back[0] == 2  # opposite fingers
            return int(moved_back[0])
        before = action


def test_both_orders_of_re_gripping_occur() -> None:
    pairs = [first_pair(seed) for seed in range(20)]
    assert 3 <= sum(pairs) <= 17


def test_a_style_is_slow() -> None:
    styles = [TeacherStyle.draw(np.random.default_rng(seed)) for seed in range(50)]
    assert all(1.5 <= s.twist_time <= 2.5 and s.regrip_time < s.twist_time for s in styles)
    assert len({s.twist_time for s in styles}) == 50
