"""Other hands: the default is the nominal one bit by bit, each parameter does what it says, states can be restored."""

from __future__ import annotations

import numpy as np
import pytest

from softflow_node.parameters import ParameterError
from softflow_sim.cube_env import CubeRotationEnv
from softflow_sim.cube_scene import CUBE_MASS, CubeScene
from softflow_sim.dynamics import SHIFTED, TRAINING, DynamicCubeScene, Dynamics, Ranges
from softflow_sim.dynamics_env import DynamicCubeEnv
from softflow_sim.teacher import CubeTeacher
from softflow_tasks.cube_rotation import CubeRotation

TASK = CubeRotation()
REST = TASK.action_to_joints(TASK.rest_action(), np.zeros(12))


def targets(steps: int) -> list[np.ndarray]:
    """Joint targets (12,) of a demonstration: one for each step, no two alike."""
    teacher = CubeTeacher(0)
    return [TASK.action_to_joints(teacher(), REST) for _ in range(steps)]


def applied(dynamics: Dynamics, wanted: list[np.ndarray]) -> np.ndarray:
    """What the servos were told in each step (steps, 12)."""
    scene = DynamicCubeScene(dynamics)
    found = []
    for target in wanted:
        scene.set_targets(target)
        scene.step_period()
        found.append(np.array(scene.data.ctrl))
    return np.array(found)


def test_default_dynamics_are_the_nominal_hand_bit_by_bit() -> None:
    plain, dynamic = CubeRotationEnv(), DynamicCubeEnv("nominal")
    for seed in (3, 4):
        teacher = CubeTeacher(seed)
        assert plain.reset(seed=seed)[0].tobytes() == dynamic.reset(seed=seed)[0].tobytes()
        for _ in range(150):
            action = teacher().astype(np.float32)
            one, two = plain.step(action), dynamic.step(action)
            assert one[0].tobytes() == two[0].tobytes() and one[1:] == two[1:]


def test_the_nominal_hand_comes_back_after_another_one() -> None:
    scene = DynamicCubeScene(TRAINING)
    scene.reset(1)
    scene._source = Dynamics()
    scene.reset(1)
    plain = CubeScene()
    for name in ("geom_friction", "body_mass", "body_inertia", "actuator_gainprm", "dof_invweight0"):
        np.testing.assert_array_equal(getattr(scene.model, name), getattr(plain.model, name))


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_delay_shifts_what_is_applied_by_as_many_steps(delay: int) -> None:
    wanted = targets(12)
    found = applied(Dynamics(action_delay=delay), wanted)
    np.testing.assert_array_equal(found[:delay], np.tile(REST, (delay, 1)))
    np.testing.assert_array_equal(found[delay:], wanted[: 12 - delay])


def test_backlash_is_a_dead_zone_that_is_crossed_on_the_way_back() -> None:
    up, down = REST + 0.1, REST + 0.1 - 0.03
    found = applied(Dynamics(backlash=0.04), [REST, up, down, REST])
    np.testing.assert_allclose(found[0], REST)
    np.testing.assert_allclose(found[1], up - 0.02)
    np.testing.assert_array_equal(found[2], found[1])  # 0.03 back is within the slack of 0.04
    np.testing.assert_allclose(found[3], REST + 0.02)


def test_an_offset_moves_the_joint_and_is_not_read() -> None:
    offset = tuple(np.linspace(-0.05, 0.05, 12).tolist())
    plain, turned = DynamicCubeScene(), DynamicCubeScene(Dynamics(joint_offset=offset))
    plain.reset(5)
    turned.reset(5)
    np.testing.assert_allclose(turned.data.qpos[:12] - plain.data.qpos[:12], offset, atol=1e-9)
    np.testing.assert_allclose(turned.hand().position, plain.hand().position, atol=1e-9)
    np.testing.assert_allclose(turned.data.ctrl - turned.joint_targets(), offset)


def test_mass_friction_and_gain_reach_the_model() -> None:
    plain = CubeScene().model
    model = DynamicCubeScene(Dynamics(friction=0.5, cube_mass=2 * CUBE_MASS, actuator_gain=0.5)).model
    tip, post = (plain.geom(name).id for name in ("finger2_tip", "post"))
    assert model.geom_friction[tip, 0] == 0.5 and model.geom_friction[post, 0] == plain.geom_friction[post, 0]
    assert model.body("cube").mass == pytest.approx(2 * CUBE_MASS)
    np.testing.assert_allclose(model.body("cube").inertia, 2 * plain.body("cube").inertia)
    assert model.body("cube").subtreemass == pytest.approx(2 * CUBE_MASS)  # derived numbers follow
    np.testing.assert_allclose(model.actuator_gainprm[:, 0], plain.actuator_gainprm[:, 0] / 2)
    np.testing.assert_allclose(model.actuator_biasprm[:, 1:3], plain.actuator_biasprm[:, 1:3] * [0.5, 1.0])


def test_a_weak_servo_sags_more_under_the_same_load() -> None:
    def deflection(gain: float) -> float:
        scene = DynamicCubeScene(Dynamics(actuator_gain=gain))
        scene.set_targets(REST)
        scene.data.qfrc_applied[1] = 0.05
        for _ in range(20):
            scene.step_period()
        return float(scene.data.qpos[1] - REST[1])

    assert deflection(0.5) > 1.5 * deflection(1.0) > 0.0


def test_noise_is_of_readings_only_and_stays_within_a_step() -> None:
    scene = DynamicCubeScene(Dynamics(joint_noise=0.01, cube_noise=0.001))
    scene.reset(0)
    errors = []
    for _ in range(200):
        scene.set_targets(REST)
        scene.step_period()
        read, again = scene.hand().position, scene.hand().position
        np.testing.assert_array_equal(read, again)
        cube = scene.objects()["cube"].position - scene.data.body("cube").xpos
        errors.append(np.concatenate([read - scene.data.qpos[:12], 10 * cube]))
    assert np.std(errors) == pytest.approx(0.01, rel=0.1)


def test_the_shifted_hand_is_outside_of_what_training_sees() -> None:
    names = set(TRAINING.outside(SHIFTED))
    assert names == {
        "friction",
        "cube_mass",
        "action_delay",
        "backlash",
        "joint_offset",
        "actuator_gain",
    }
    drawn = [TRAINING.draw(np.random.default_rng(seed)) for seed in range(200)]
    assert not any(TRAINING.outside(dynamics) for dynamics in drawn)
    assert len({d.friction for d in drawn}) == 200 and {d.action_delay for d in drawn} == {0, 1}
    assert np.abs([d.vector() for d in drawn]).max() < 2.0


def test_each_reset_draws_another_hand_and_the_seed_fixes_it() -> None:
    one, two = DynamicCubeEnv("randomised"), DynamicCubeEnv("randomised")
    first = one.reset(seed=1)[0], one.dynamics
    second = one.reset(seed=2)[0], one.dynamics
    again = two.reset(seed=1)[0], two.dynamics
    assert first[1] == again[1] != second[1] and first[0].tobytes() == again[0].tobytes()
    action = np.zeros(8, np.float32)
    two.reset(seed=2)
    assert one.step(action)[0].tobytes() == two.step(action)[0].tobytes()


def test_a_restored_episode_goes_on_bit_by_bit_in_any_environment() -> None:
    env = DynamicCubeEnv("randomised")
    env.reset(seed=7)
    teacher = CubeTeacher(7)
    for _ in range(60):  # Into contact, with actions on their way.
        env.step(teacher().astype(np.float32))
    saved = env.save()
    actions = [teacher().astype(np.float32) for _ in range(60)]
    first = [env.step(action) for action in actions]
    env.reset(seed=8)
    other = DynamicCubeEnv("nominal")
    for again in (env, other):
        again.restore(saved)
        for action, wanted in zip(actions, first, strict=True):
            found = again.step(action)
            assert found[0].tobytes() == wanted[0].tobytes() and found[1:] == wanted[1:]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"friction": 9.0}, r"'friction' is 9\.0, must be in \[0\.05, 3\.0\]"),
        ({"cube_mass": float("nan")}, "'cube_mass' is nan, must be finite"),
        ({"action_delay": -1}, r"'action_delay' is -1, must be in \[0, 10\] steps"),
        ({"action_delay": 0.5}, r"'action_delay' is 0\.5 \(float\), must be int"),
        ({"joint_offset": (0.0,)}, "'joint_offset' has 1 values, must have 12"),
        (
            {"joint_offset": (0.0,) * 11 + (0.3,)},
            r"'joint_offset' of finger3_pip is 0\.3, .*\[-0\.2, 0\.2\] rad",
        ),
        ({"joint_offset": (float("nan"),) * 12}, "finger0_abduction is nan"),
    ],
)
def test_bad_dynamics_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        Dynamics(**values)  # type: ignore[arg-type]


def test_bad_ranges_and_names_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"'friction' is \(2, 1\), must have low <= high"):
        Ranges(friction=(2, 1))
    with pytest.raises(ParameterError, match=r"'backlash' is 5\.0, must be in"):
        Ranges(backlash=(0.0, 5.0))
    with pytest.raises(ParameterError, match="'slippery' is unknown, allowed: nominal, randomised, shifted"):
        DynamicCubeEnv("slippery")
