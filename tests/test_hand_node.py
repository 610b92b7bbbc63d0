"""The driver node as ROS users see it: states, services, actions, trajectories, lifecycle, and sources that die."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from hand_probe import Driver, commands, driver_alone, pid_gone, publisher, stays_within_slew
from lifecycle_msgs.msg import Transition
from softflow_msgs.msg import ChunkResult, HandHealth
from std_msgs.msg import String

from hand_driver.calibration import calibration_hash, load_calibration
from hand_driver.hand_file import load_hand
from softflow_node.node import reliable

pytestmark = [pytest.mark.ros, pytest.mark.slow]
of_a_hand_at_rest = pytest.mark.usefixtures("at_rest")
SPEC = load_hand("mock")
NAMES, NEUTRAL = list(SPEC.joint_names), SPEC.values("neutral")


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver of the hand in memory, at 100 Hz."""
    calibration = tmp_path_factory.mktemp("hand") / "mock.calibration"
    with driver_alone(SPEC, hand="mock", task='""', calibration=calibration) as driver:
        yield driver


@pytest.fixture
def at_rest(hand: Driver) -> Iterator[None]:
    """Each test begins with an active hand in an episode, at neutral, that nobody holds."""
    assert hand.act("reset_scene", episode_id=os.urandom(4).hex(), seed=0).ok
    result = hand.act("home", holder="test")
    assert result.ok, result.message
    hand.until(lambda: hand.health.holder == "" and hand.health.mode == HandHealth.MODE_ACTIVE, "rest")
    hand.until(lambda: len(hand.states) > 2, "states")
    first = len(hand.states)
    yield
    # Whatever a test did: no target jumped.
    hand.see(3)
    stays_within_slew(hand.states[first:], SPEC)


@of_a_hand_at_rest
def test_it_says_what_the_hand_is_how_it_is_and_where_it_is(hand: Driver) -> None:
    said = hand.descriptions[-1]
    for name in (
        "lower",
        "upper",
        "max_velocity",
        "max_acceleration",
        "neutral",
        "soft_current",
        "max_current",
    ):
        np.testing.assert_array_equal(getattr(said, name), SPEC.values(name))
    assert list(said.joint_names) == NAMES == list(said.action_names) and said.backend == "mock"
    hand.send_targets(NEUTRAL + 0.1, "glove")
    hand.until(lambda: hand.health.holder == "glove", "the glove in health")
    health = hand.health
    assert health.holder_priority == HandHealth.PRIORITY_HUMAN and list(health.faults) == []
    assert list(health.derating) == [1.0] * len(NAMES) and len(health.temperature) == len(NAMES)
    assert health.failed_reads == health.failed_writes == 0
    hand.until(lambda: hand.states[-1].source == "glove", "the glove in the state")
    hand.until(lambda: hand.health.holder == "", "silence frees the hand")
    state, joints = hand.states[-1], hand.joints
    assert state.source == "" and list(state.stiffness) == [1.0] * len(NAMES)
    [same] = [j for j in joints if j.header.stamp == hand.states[-3].header.stamp]
    assert list(same.name) == NAMES
    np.testing.assert_array_equal(np.float32(same.position), hand.states[-3].position)
    np.testing.assert_array_equal(np.float32(same.effort), hand.states[-3].current)


@of_a_hand_at_rest
def test_without_anything_to_follow_it_relaxes_and_is_taken_up_again(hand: Driver) -> None:
    hand.until(lambda: hand.health.mode == HandHealth.MODE_RELAX, "relaxed")
    assert hand.health.reason == "nothing to follow for 2.0 s"
    hand.until(lambda: hand.states[-1].stiffness[0] < 1.0, "soft")
    assert list(hand.states[-1].stiffness) == pytest.approx([SPEC.safety.relax_stiffness] * len(NAMES))
    hand.move(NAMES, NEUTRAL + 0.2)
    assert hand.health.mode == HandHealth.MODE_ACTIVE and hand.states[-1].stiffness[0] == 1.0


@of_a_hand_at_rest
def test_a_chunk_source_that_is_killed_leaves_a_hand_that_holds(hand: Driver) -> None:
    """Within two control periods after the last step that it had asked for."""
    body = f"""
    if t == 0 or 'probe' not in globals():
        from hand_probe import Driver
        Driver.start = lambda self: None
        from hand_driver.hand_file import load_hand
        spec = load_hand("mock")
        probe = Driver(rclpy.get_default_context(), spec, {hand.namespace!r})
    probe.executor.spin_once(timeout_sec=0.0)
    for _ in range(20):
        probe.executor.spin_once(timeout_sec=0.0)
    if probe.states and probe.states[-1].steps_left <= 5:
        probe.ids = max(probe.ids, int(t * 1000))
        probe.chunks.publish(probe.chunk(spec.values("neutral") + 0.3 * math.sin(3 * t), 10))
"""
    source = publisher(hand.namespace, "unused", body.strip())
    hand.until(lambda: sum(s.source == "policy" for s in hand.states[-50:]) > 25, "chunks played")
    pid_gone(source)
    killed = len(hand.states)
    hand.until(lambda: all(s.starved for s in hand.states[-20:]) and len(hand.states) > killed + 40, "a hold")
    played = [i for i, s in enumerate(hand.states) if s.source == "policy"]
    last = played[-1]
    assert hand.states[last].steps_left == 0
    assert all(s.starved and s.source == "" for s in hand.states[last + 1 :])
    # Braking takes as many periods as the acceleration limit asks for; from then on nothing moves.
    after = commands(hand.states[last:])
    assert np.abs(np.diff(after, axis=0))[10:].max() == 0.0


@of_a_hand_at_rest
def test_joint_targets_of_a_source_that_is_killed_are_not_continued(hand: Driver) -> None:
    wave = f"[v + 0.3 * math.sin(3 * t) for v in {NEUTRAL.tolist()}]"
    body = f"pub.publish(JointState(name={NAMES}, position=array('d', {wave})))"
    source = publisher(hand.namespace, "joint_targets", body)
    hand.until(lambda: np.abs(np.array(hand.states[-1].command) - NEUTRAL).max() > 0.2, "movement")
    assert hand.states[-1].source == "teleop"
    pid_gone(source)
    hand.until(lambda: hand.states[-1].source == "" and hand.health.holder == "", "the hand is free")
    held = hand.see(20)
    np.testing.assert_array_equal(commands(held), commands(held[:1]).repeat(20, axis=0))


@of_a_hand_at_rest
def test_two_who_publish_the_first_has_the_hand(hand: Driver) -> None:
    refused = hand.health.refused_targets
    hand.send_targets(NEUTRAL + 0.2, "first")
    hand.until(lambda: hand.states[-1].source == "first", "the first one's turn")
    # Only from here on: states of the way to neutral may come after its result.
    first = len(hand.states)

    def both() -> bool:
        hand.send_targets(NEUTRAL - 0.2, "second")
        hand.send_targets(NEUTRAL + 0.2, "first")
        return bool(hand.health.refused_targets >= refused + 20)

    hand.until(both, "refusals in health")
    assert {s.source for s in hand.states[first:]} <= {"first", ""}
    assert commands(hand.states[first:]).min(axis=0)[0] > NEUTRAL[0] - 1e-3
    hand.until(lambda: int(hand.status.get("refused_joint_targets", 0)) >= 20, "refusals on /diagnostics")
    hand.until(lambda: hand.health.holder == "", "silence")
    hand.send_targets(NEUTRAL, "second")
    hand.until(lambda: hand.states[-1].source == "second", "the second one's turn")


@of_a_hand_at_rest
def test_an_emergency_stop_in_the_middle_of_a_chunk(hand: Driver) -> None:
    hand.chunks.publish(hand.chunk(NEUTRAL + 0.4, 60))
    hand.until(lambda: hand.states[-1].source == "policy" and hand.states[-1].steps_left < 50, "movement")
    first = len(hand.states)
    assert hand.ask("estop", reason="button").ok
    hand.until(lambda: hand.health.mode == HandHealth.MODE_ESTOP, "the stop in health")
    hand.see(20)
    since = hand.states[first:]
    speed = np.abs(np.diff(commands(since), axis=0)).max(axis=1)
    stopped = int(np.flatnonzero([s.source == "" for s in since])[0])
    assert speed[stopped:].max() == 0.0
    hand.until(lambda: hand.results[-1].reason == ChunkResult.STOPPED, "the end of the chunk")
    assert hand.results[-1].executed_steps < 60 and "button" in hand.results[-1].detail
    hand.chunks.publish(hand.chunk(NEUTRAL, 10))
    hand.until(lambda: hand.results[-1].reason == ChunkResult.REFUSED, "a refusal")
    assert not hand.ask("set_mode", mode=HandHealth.MODE_ACTIVE, reason="please").ok
    answer = hand.ask("reset_estop", reason=" ")
    assert not answer.ok and "reason is empty" in answer.message
    answer = hand.act("home", holder="test")
    assert not answer.ok and "estop: button" in answer.message
    assert hand.ask("reset_estop", reason="looked after").ok


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (NAMES, [math.nan] * 6),
        (NAMES, [math.inf] * 6),
        (NAMES, np.degrees(NEUTRAL + 0.5).tolist()),
        (NAMES[:-1], [0.0] * 6),
        (["nose"], [0.0]),
        ([NAMES[0]] * 2, [0.0] * 2),
    ],
)
@of_a_hand_at_rest
def test_nonsense_moves_nothing_and_is_counted(
    hand: Driver, names: list[str], positions: list[float]
) -> None:
    before, command = hand.health.refused_targets, list(hand.states[-1].command)
    hand.send_targets(positions, names=names)
    hand.until(lambda: hand.health.refused_targets > before, "a refusal in health")
    assert list(hand.see(3)[-1].command) == command
    assert hand.health.mode == HandHealth.MODE_ACTIVE


@of_a_hand_at_rest
def test_joints_come_in_any_order_and_any_number(hand: Driver) -> None:
    wanted = {NAMES[i]: float(NEUTRAL[i] + 0.02 * i) for i in (4, 1, 5)}
    for _ in range(60):
        hand.send_targets(wanted)
        hand.see(2)
    expected = NEUTRAL.copy()
    for name, value in wanted.items():
        expected[NAMES.index(name)] = value
    np.testing.assert_allclose(hand.states[-1].command, expected, atol=1e-4)
    # Wrong names for the values: the largest jump that is still none in radians.
    hand.send_targets(list(reversed(NEUTRAL)), names=list(reversed(NAMES)))
    hand.see(30)
    np.testing.assert_allclose(hand.states[-1].command, NEUTRAL, atol=1e-3)


@of_a_hand_at_rest
def test_trajectories_beside_chunks(hand: Driver) -> None:
    goal = [NEUTRAL[3] + 0.3, NEUTRAL[0] - 0.2]
    hand.send_trajectory([NAMES[3], NAMES[0]], (0.4, [NEUTRAL[3], NEUTRAL[0]]), (0.8, goal))
    hand.until(lambda: hand.health.holder == "trajectory", "the trajectory has the hand")
    hand.results.clear()
    hand.chunks.publish(hand.chunk(NEUTRAL, 10))
    hand.until(lambda: hand.results and hand.results[-1].reason == ChunkResult.REFUSED, "a chunk refused")
    assert "held by 'trajectory'" in hand.results[-1].detail
    hand.until(lambda: hand.states[-1].source == "" and hand.health.holder == "", "its end")
    expected = NEUTRAL.copy()
    expected[[3, 0]] = goal
    np.testing.assert_allclose(hand.states[-1].command, expected, atol=1e-4)
    before = hand.health.refused_targets
    hand.send_trajectory([NAMES[0]], (1.0, [57.3]))
    hand.until(lambda: hand.health.refused_targets > before, "degrees refused")
    played = hand.chunk(hand.states[-1].command, 10)
    hand.chunks.publish(played)
    hand.until(lambda: hand.results[-1].chunk_id == played.chunk_id, "the chunk played")
    assert hand.results[-1].reason == ChunkResult.COMPLETED


@of_a_hand_at_rest
def test_the_lease_by_service(hand: Driver) -> None:
    taken = hand.ask("lease", holder="glove", priority=HandHealth.PRIORITY_HUMAN)
    assert taken.ok and taken.timeout == pytest.approx(SPEC.safety.lease_timeout)
    for holder, priority, words in (
        ("robot", HandHealth.PRIORITY_POLICY, "held by 'glove'"),
        ("", HandHealth.PRIORITY_HUMAN, "holder is empty"),
        ("driver", HandHealth.PRIORITY_HUMAN, "the driver's own"),
        ("pad", HandHealth.PRIORITY_NONE, "priority is 0, must be one of [1, 2]"),
    ):
        answer = hand.ask("lease", holder=holder, priority=priority)
        assert not answer.ok and words in answer.message
    answer = hand.ask("lease", holder="pad", release=True)
    assert not answer.ok and "glove" in answer.message
    assert hand.ask("lease", holder="glove", release=True).ok
    hand.until(lambda: hand.health.holder == "", "given back")
    # Who only takes it, and sends nothing, loses it.
    assert hand.ask("lease", holder="glove", priority=HandHealth.PRIORITY_HUMAN).ok
    assert hand.health.holder == "glove" or hand.see(2)
    hand.until(lambda: hand.health.holder == "", "silence frees it")
    assert hand.ask("lease", holder="pad", priority=HandHealth.PRIORITY_HUMAN).ok


@of_a_hand_at_rest
def test_recovering_wants_a_reason_and_a_fault(hand: Driver) -> None:
    answer = hand.ask("recover_hand", reason="")
    assert not answer.ok and "reason is empty" in answer.message
    answer = hand.ask("recover_hand", reason="I like to")
    assert not answer.ok and "no fault" in answer.message


@of_a_hand_at_rest
def test_home_reports_its_progress_and_can_be_cancelled(hand: Driver) -> None:
    hand.move(NAMES[1:4], NEUTRAL[1:4] + 0.9)
    handle = hand.begin("home", holder="test")
    hand.until(lambda: hand.feedback and hand.feedback[-1].progress > 0.1, "progress")
    assert hand.states[-1].source == "driver"
    refused = hand.act("home", holder="another")
    assert not refused.ok and "another action moves the hand" in refused.message
    cancelled = handle.cancel_goal_async()
    hand.until(cancelled.done, "an answer")
    done = hand.end(handle)
    assert done.status == GoalStatus.STATUS_CANCELED and not done.result.ok
    assert done.result.message == "cancelled"
    hand.until(lambda: hand.states[-1].source == "", "nobody moves it")
    last = max(i for i, s in enumerate(hand.states) if s.source == "driver")
    hand.see(20)
    speed = np.abs(np.diff(commands(hand.states[last:]), axis=0)).max(axis=1)
    assert speed[6:].max() == 0.0 and np.abs(hand.states[-1].command - NEUTRAL).max() > 0.3
    done = hand.end(hand.begin("home", holder="test"))
    assert done.status == GoalStatus.STATUS_SUCCEEDED and done.result.ok
    np.testing.assert_allclose(done.result.position, NEUTRAL, atol=0.05)  # joints lag their targets
    assert [f.progress for f in hand.feedback] == sorted(f.progress for f in hand.feedback)


@of_a_hand_at_rest
def test_calibrating_is_verified_written_and_hashed(hand: Driver) -> None:
    path = Path(str(hand.parameters["calibration"]))
    before = hand.descriptions[-1].calibration_hash
    assert before == SPEC.digest() and not path.exists()
    refused = hand.act("calibrate", joints=["nose"])
    assert not refused.ok and "joints[0] is 'nose'" in refused.message and not path.exists()
    handle = hand.begin("calibrate", joints=["index_mcp", "thumb_abd"])
    hand.until(lambda: {f.joint for f in hand.feedback} >= {"index_mcp", "thumb_abd"}, "joint by joint")
    result = hand.end(handle).result
    assert result.ok, result.message
    measured, file_hash = load_calibration(path, SPEC)
    assert measured is not None and set(measured.offsets) == {"index_mcp", "thumb_abd"}
    assert result.calibration_hash == calibration_hash(SPEC, file_hash) != before
    hand.until(lambda: hand.descriptions[-1].calibration_hash == result.calibration_hash, "the new hash")
    cancelled = hand.begin("calibrate", joints=["index_pip"])
    hand.until(lambda: hand.feedback, "feedback")
    future = cancelled.cancel_goal_async()
    hand.until(future.done, "an answer")
    assert hand.end(cancelled).status == GoalStatus.STATUS_CANCELED
    assert load_calibration(path, SPEC)[1] == file_hash


@of_a_hand_at_rest
def test_tension_where_there_are_no_tendons_says_so(hand: Driver) -> None:
    done = hand.end(hand.begin("tension", joints=["index_mcp"], current=0.1))
    assert done.status == GoalStatus.STATUS_ABORTED
    assert "mock has no tendons that are known here" in done.result.message and list(done.result.slack) == []


def inactive(hand: Driver) -> None:
    """What holds in every state but active: it is said, and whatever would move the hand is refused."""
    hand.until(lambda: hand.health.mode == HandHealth.MODE_INACTIVE, "inactive in health")
    refused, chunks = hand.health.refused_targets, len(hand.results)
    hand.chunks.publish(hand.chunk(NEUTRAL + 0.3, 10))
    hand.send_targets(NEUTRAL + 0.3)
    hand.send_trajectory(NAMES[:1], (0.5, [0.5]))
    hand.until(lambda: hand.health.refused_targets >= refused + 2, "targets refused")
    hand.until(lambda: len(hand.results) > chunks, "the chunk refused")
    assert hand.results[-1].reason == ChunkResult.REFUSED
    for answer in (
        hand.act("home", holder="test"),
        hand.ask("lease", holder="glove", priority=HandHealth.PRIORITY_HUMAN),
        hand.ask("set_mode", mode=HandHealth.MODE_ACTIVE, reason="please"),
        hand.act("reset_scene", episode_id="another", seed=0),
    ):
        assert not answer.ok and "the driver is" in answer.message


@of_a_hand_at_rest
def test_the_states_of_its_lifecycle(hand: Driver) -> None:
    def state() -> str:
        return str(hand.ask("hand_driver/get_state").current_state.label)

    assert state() == "active"
    for wrong in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP, 77):
        assert not hand.change(wrong) and state() == "active"
    hand.chunks.publish(hand.chunk(NEUTRAL + 0.4, 60))
    hand.until(lambda: hand.states[-1].source == "policy", "a chunk played")
    hand.events.clear()
    assert hand.change(Transition.TRANSITION_DEACTIVATE) and state() == "inactive"
    hand.until(lambda: hand.results[-1].detail == "deactivated", "the end of the chunk")
    inactive(hand)
    held = hand.see(10)
    assert np.ptp(commands(held), axis=0).max() == 0.0 and list(held[-1].stiffness) == [1.0] * len(NAMES)
    assert hand.change(Transition.TRANSITION_CLEANUP) and state() == "unconfigured"
    seen = len(hand.states)
    inactive(hand)
    assert len(hand.states) == seen, "the hand is not read any more"
    answer = hand.ask("recover_hand", reason="please")
    assert not answer.ok and answer.message == "the driver is unconfigured; change_state configures it"
    assert hand.change(Transition.TRANSITION_CONFIGURE) and state() == "inactive"
    hand.see(50)
    np.testing.assert_allclose(commands(hand.states[-1:]), commands(held[-1:]), atol=1e-3)
    assert hand.change(Transition.TRANSITION_ACTIVATE) and state() == "active"
    hand.until(lambda: hand.health.mode == HandHealth.MODE_ACTIVE, "active in health")
    hand.until(lambda: hand.events[-1:] == ["active"], "transition events")
    assert {"inactive", "unconfigured", "active"} <= set(hand.events)
    hand.move(NAMES[:1], [0.5])


@of_a_hand_at_rest
def test_an_emergency_stop_by_topic_is_as_latched_as_one_by_service(hand: Driver) -> None:
    button = hand.node.create_publisher(String, "estop", reliable(10))
    hand.until(lambda: button.get_subscription_count() > 0, "the driver hears the button")
    button.publish(String(data="red button"))
    hand.until(lambda: hand.health.mode == HandHealth.MODE_ESTOP, "the stop in health")
    assert hand.health.reason.endswith("red button")
    assert not hand.ask("set_mode", mode=HandHealth.MODE_ACTIVE, reason="please").ok
    assert hand.ask("reset_estop", reason="looked after").ok
    hand.node.destroy_publisher(button)


@of_a_hand_at_rest
def test_an_emergency_stop_outlives_the_lifecycle(hand: Driver) -> None:
    assert hand.ask("estop", reason="button").ok
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
    ):
        assert hand.change(transition)
    hand.see(50)
    assert hand.change(Transition.TRANSITION_ACTIVATE)
    hand.until(lambda: hand.health.mode == HandHealth.MODE_ESTOP, "still stopped")
    answer: Any = hand.act("home", holder="test")
    assert not answer.ok and "estop: button" in answer.message
    assert hand.ask("reset_estop", reason="looked after").ok


def test_a_simulated_hand_waits_to_be_configured_and_moves_in_lock_step() -> None:
    spec = load_hand("palmdown4")
    with driver_alone(spec, speed="max", autostart="false") as hand:
        assert (
            not hand.descriptions and hand.ask("hand_driver/get_state").current_state.label == "unconfigured"
        )
        assert not hand.change(Transition.TRANSITION_ACTIVATE)
        for _ in range(2):  # a scene that was closed is made anew
            assert hand.change(Transition.TRANSITION_CONFIGURE) and hand.change(
                Transition.TRANSITION_ACTIVATE
            )
            assert hand.act("reset_scene", episode_id=os.urandom(4).hex(), seed=1).ok
            hand.move(spec.joint_names[:1], [float(spec.values("neutral")[0]) + 0.1], 0.5)
            result = hand.act("home", holder="test")
            assert result.ok, result.message
            waiting = len(hand.states)
            hand.until(lambda seen=waiting: len(hand.states) > seen + 1, "the state said again")
            assert hand.states[-1].step == hand.states[-2].step, "the world waits for a chunk"
            assert hand.change(Transition.TRANSITION_DEACTIVATE) and hand.change(
                Transition.TRANSITION_CLEANUP
            )
        refused = hand.act("calibrate")
        assert not refused.ok and "the driver is unconfigured" in refused.message
        assert hand.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert hand.ask("hand_driver/get_state").current_state.label == "finalized"


def test_before_the_first_episode_time_stands_still_in_the_simulation() -> None:
    with driver_alone(load_hand("palmdown4")) as hand:
        refused = hand.act("home", holder="test")
        assert not refused.ok and "time stands still" in refused.message
        assert hand.act("reset_scene", episode_id="e", seed=1).ok
        refused = hand.act("calibrate")
        assert not refused.ok and "palmdown4 is simulated" in refused.message
        refused = hand.act("tension")
        assert not refused.ok and "backend is 'sim', must be dynamixel or mock" in refused.message
