"""Simulated cameras: they show what another scene knows, where their optics say, over the whole task."""

from __future__ import annotations

import numpy as np
import pytest

from softflow_sim.cameras import SimulatedCamera, camera_names, optics
from softflow_sim.catalogue import make_scene, make_teacher
from softflow_sim.tool_env import ToolCutEnv
from softflow_tasks import gantry
from softflow_tasks.task import FloatArray, HandSample, Objects
from softflow_tasks.tool_cut import TAPES

TOOL = "ToolCut-v0"
SEEDS = 5, 11
"""Of a teacher's cuts at either tape."""


@pytest.fixture(scope="module")
def moments() -> list[tuple[HandSample, Objects, FloatArray]]:
    """Hand, objects and fingertips (4, 3) at each state of two successful episodes."""
    env, found = ToolCutEnv(), []
    for seed in SEEDS:
        state, _ = env.reset(seed=seed)
        teacher, ended, steps, info = make_teacher(TOOL, seed, 0.02), False, 0, {}
        while not ended:
            tips = np.array([env.scene.data.geom(f"finger{i}_tip").xpos for i in range(4)])
            found.append((env.scene.hand(), env.scene.objects(), tips))
            if steps % 5 == 0:
                teacher.observe(state)
            state, _, terminated, truncated, info = env.step(teacher().astype(np.float32))
            ended, steps = terminated or truncated, steps + 1
        assert info["success"]
    return found


def pixels(points: FloatArray, name: str = "front") -> FloatArray:
    """(N, 2) of points (N, 3) in the hand's base frame."""
    eye = optics(TOOL, name)
    seen = (points - eye.position) @ eye.rotation @ eye.matrix.T
    return seen[:, :2] / seen[:, 2:]


def test_a_shown_scene_has_hand_and_objects_where_they_are(
    moments: list[tuple[HandSample, Objects, FloatArray]],
) -> None:
    """Also the second arm of the scissors, which is a hinge, and the tapes, which no joint moves."""
    scene = make_scene(TOOL)
    for hand, objects, tips in moments:
        scene.show(hand.position, objects)
        shown = scene.objects()
        for name, sample in objects.items():
            np.testing.assert_allclose(shown[name].position, sample.position, atol=1e-9)
            assert abs(shown[name].quaternion @ sample.quaternion) == pytest.approx(1.0, abs=1e-9)
        found = np.array([scene.data.geom(f"finger{i}_tip").xpos for i in range(4)])
        # MuJoCo computes places at the beginning of a step: those of `tips` are one physics step old.
        np.testing.assert_allclose(found, tips, atol=2e-3)


def test_tool_tapes_and_fingertips_are_in_the_picture_over_the_whole_task(
    moments: list[tuple[HandSample, Objects, FloatArray]],
) -> None:
    for _, objects, tips in moments:
        u, v = pixels(np.concatenate([[o.position for o in objects.values()], tips])).T
        assert (u > 20).all() and (u < 620).all() and (v > 20).all() and (v < 460).all()


def test_the_picture_shows_things_where_the_optics_say(
    moments: list[tuple[HandSample, Objects, FloatArray]],
) -> None:
    eye = SimulatedCamera(TOOL, "front")
    hand, objects, _ = moments[0]
    picture = eye.render(hand.position, objects)
    again = eye.render(hand.position, objects)
    eye.close()
    assert picture.shape == (480, 640, 3) and (picture != again).any()
    for tape in TAPES:
        ((u, v),) = np.rint(pixels(objects[tape].position[None])).astype(int)
        near = picture[v - 2 : v + 3, u - 2 : u + 3].astype(float)
        yellow = near[..., :2].min(axis=-1) - near[..., 2]
        assert yellow.max() > 80, (tape, u, v)


def test_a_carried_camera_goes_with_the_palm(
    moments: list[tuple[HandSample, Objects, FloatArray]],
) -> None:
    """A tape is drawn where the optics have it once the gantry's position is added, wherever the hand is."""
    wrist = optics(TOOL, "wrist")
    eye = SimulatedCamera(TOOL, "wrist")
    seen = 0
    for hand, objects, _ in moments[::10]:
        picture = eye.render(hand.position, objects)
        palm = hand.position[gantry.GANTRY] + (0.0, 0.0, gantry.PALM_HEIGHT)
        point = (objects["tool"].position + (0.0, 0.0, 0.039) - palm - wrist.position) @ wrist.rotation
        u, v = np.rint((wrist.matrix @ point / point[2])[:2]).astype(int)
        assert 0 <= u < 640 and 0 <= v < 480
        near = picture[max(0, v - 12) : v + 13, max(0, u - 12) : u + 13].astype(float)
        # One handle is red, the other blue, and nothing else is; a finger may be in front.
        seen += bool((np.abs(near[..., 0] - near[..., 2]) > 80).any())
    eye.close()
    assert wrist.carried and seen > 0.8 * len(moments[::10])


def test_unknown_cameras_and_tasks_without_are_named() -> None:
    assert camera_names(TOOL) == ("front", "wrist") and "right" in camera_names("CubeRotation-v0")
    with pytest.raises(ValueError, match="camera: 'nose' is unknown; known: front, wrist"):
        SimulatedCamera(TOOL, "nose")
    with pytest.raises(
        ValueError, match="task: 'x' has no simulated cameras; known: CubeRotation-v0, ToolCut"
    ):
        optics("x", "front")
