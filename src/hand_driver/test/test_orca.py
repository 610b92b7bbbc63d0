"""The real ORCA back end over the real orca-core, on its hand in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from orca_core import MockOrcaHand, OrcaHand

from hand_driver.actions import JointActions
from hand_driver.backends import HandMismatchError, make_hand
from hand_driver.backends.orca import OrcaBackend
from hand_driver.control import Driver
from hand_driver.hand_file import load_hand
from hand_driver.hand_spec import HandSpec
from hand_driver.safety_core import Mode

SPEC = load_hand("orca_v2")
ONES = np.ones(17)


def orca_hand(tmp_path: Path) -> MockOrcaHand:
    return MockOrcaHand(
        model_version="v2", model_name="orcahand-right", calibration_path=str(tmp_path / "calibration.yaml")
    )


@pytest.fixture
def theirs(tmp_path: Path) -> MockOrcaHand:
    return orca_hand(tmp_path)


@pytest.fixture
def ours(theirs: MockOrcaHand) -> Iterator[OrcaBackend]:
    backend = OrcaBackend(SPEC, theirs)
    yield backend
    backend.disconnect()


def joint(name: str) -> int:
    return SPEC.joint_names.index(name)


def test_connecting_does_not_move_and_sets_the_current_limit(ours: OrcaBackend, theirs: MockOrcaHand) -> None:
    theirs.connect(interactive=False)
    before = theirs.get_motor_state().position
    ours.connect()
    np.testing.assert_array_equal(theirs.get_motor_state().position, before)
    np.testing.assert_allclose(
        theirs.get_motor_state().current, 450.0, atol=2.0
    )  # the mock reports its limit


def test_radians_outside_and_degrees_inside(ours: OrcaBackend, theirs: MockOrcaHand) -> None:
    ours.connect()
    rng = np.random.default_rng(0)
    lower, upper = SPEC.values("lower"), SPEC.values("upper")
    for _ in range(5):
        targets = lower + rng.random(17) * (upper - lower)
        sent = ours.command(targets, ONES)
        np.testing.assert_allclose(sent, targets, atol=1e-12)
        in_degrees = theirs.get_joint_position().as_array(SPEC.joint_names)
        np.testing.assert_allclose(np.radians(in_degrees), targets, atol=1e-9)
        reading = ours.read()
        np.testing.assert_allclose(reading.position, targets, atol=1e-9)
        assert reading.valid.all() and not reading.faults
        assert ((reading.temperature > 30.0) & (reading.temperature < 70.0)).all()
    assert -65.1 < in_degrees[joint("wrist")] < 35.1


def test_what_was_really_sent_is_returned(ours: OrcaBackend) -> None:
    ours.connect()
    sent = ours.command(np.full(17, 10.0), ONES)
    assert sent[joint("wrist")] == pytest.approx(np.radians(35.0))
    np.testing.assert_allclose(ours.read().position, sent, atol=1e-9)


def test_speed_is_converted_with_the_gear_of_each_joint(ours: OrcaBackend, theirs: MockOrcaHand) -> None:
    ours.connect()
    client = theirs.motor_client
    assert client is not None
    motor = theirs.config.joint_to_motor_map["ring_mcp"]  # turned round
    client._vel[motor] = 0.014  # 2 deg/s at 0.007 rad of motor a degree
    assert ours.read().velocity[joint("ring_mcp")] == pytest.approx(-np.radians(2.0))


def test_a_failed_read_is_an_error_and_not_old_numbers(ours: OrcaBackend, theirs: MockOrcaHand) -> None:
    ours.connect()
    assert theirs.motor_client is not None
    theirs.motor_client.last_read_ok = False
    with pytest.raises(OSError, match="orca_v2: not every motor answered"):
        ours.read()
    theirs.motor_client.last_read_ok = True
    assert ours.read().valid.all()


def test_an_uncalibrated_hand_is_refused_before_it_could_calibrate(
    ours: OrcaBackend, theirs: MockOrcaHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {**theirs.calibration.motor_limits_dict, 3: [None, None]}
    theirs.calibration = dataclasses.replace(theirs.calibration, motor_limits_dict=limits, calibrated=False)
    started: list[str] = []
    monkeypatch.setattr(theirs, "init_joints", lambda **_: started.append("init_joints"))
    with pytest.raises(OSError, match=r"orca_v2 is not calibrated according to .*calibration\.yaml"):
        ours.connect()
    assert not started


def test_the_file_must_name_a_calibration_that_exists() -> None:
    with pytest.raises(HandMismatchError, match=r"orca\.calibration is '', must be a file; calibrate first"):
        make_hand(SPEC)


def test_a_wrapped_motor_is_seen_where_orca_core_sees_it(theirs: MockOrcaHand) -> None:
    theirs.connect(interactive=False)
    assert theirs.motor_client is not None
    motor = theirs.config.joint_to_motor_map["index_mcp"]
    theirs.motor_client._pos[motor] = 0.4 - 2 * np.pi  # switched on a turn away
    backend = OrcaBackend(SPEC, theirs)
    backend.connect()
    expected = theirs.get_joint_position().as_dict()["index_mcp"]
    assert backend.read().position[joint("index_mcp")] == pytest.approx(np.radians(expected))
    backend.disconnect()


def test_one_hand_a_process(ours: OrcaBackend, tmp_path: Path) -> None:
    with pytest.raises(HandMismatchError, match="has an ORCA hand already; one process a hand"):
        OrcaBackend(SPEC, orca_hand(tmp_path))


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("wrist", {"lower": -1.3}, r"wrist is allowed \[-1\.3, 0\.6108\] rad, orcahand-right \[-1\.1345"),
        ("wrist", {"name": "elbow"}, r"orca_v2 and orcahand-right differ in joints: elbow, wrist"),
    ],
)
def test_a_file_that_does_not_fit_the_release_is_refused(
    theirs: MockOrcaHand, name: str, changed: dict[str, object], text: str
) -> None:
    joints = tuple(dataclasses.replace(j, **changed) if j.name == name else j for j in SPEC.joints)
    spec: HandSpec = dataclasses.replace(SPEC, joints=joints)
    with pytest.raises(HandMismatchError, match=text):
        OrcaBackend(spec, theirs)


def test_a_motor_that_stopped_is_reported_and_restarted_only_on_recover(
    ours: OrcaBackend, theirs: MockOrcaHand
) -> None:
    ours.connect()
    client = theirs.motor_client
    assert client is not None
    client.latched_errors[3] = 32
    ours._looked_at = -np.inf
    assert ours.read().faults == ("index_mcp reports hardware error 0x20",)
    assert client.reboot_count.get(3, 0) == 0
    limp = ours.recover()
    assert client.reboot_count[3] == 1 and limp.tolist() == [n == "index_mcp" for n in SPEC.joint_names]
    assert not ours.read().faults


def test_behind_the_driver_it_goes_to_neutral_at_a_safe_speed(ours: OrcaBackend) -> None:
    driver = Driver(ours, SPEC, JointActions(SPEC))
    driver.start(0.0)
    driver.begin("e", 0, 0.0)
    driver.home(0.0)
    last, now = ours.read().position, 0.0
    while driver.homing and now < 20.0:
        now += SPEC.period
        outcome = driver.step(now)
        assert outcome.decision.mode in (Mode.ACTIVE, Mode.HOLD) and not outcome.decision.faults
        allowed = SPEC.values("max_velocity") * SPEC.safety.takeover_share * SPEC.period
        far = np.abs(SPEC.values("neutral") - last) > 2 * SPEC.safety.takeover_jump
        assert (np.abs(driver.reading.position - last)[far] <= allowed[far] + 1e-9).all()
        last = driver.reading.position
    np.testing.assert_allclose(last, SPEC.values("neutral"), atol=1e-5)
    driver.close()


def test_it_can_be_connected_again(ours: OrcaBackend) -> None:
    ours.connect()
    before = ours.read().position
    ours.disconnect()
    ours.connect()
    np.testing.assert_allclose(ours.read().position, before, atol=1e-6)


def test_the_current_limit_is_set_again_after_another_tool(ours: OrcaBackend, theirs: MockOrcaHand) -> None:
    ours.connect()
    ours.disconnect()
    theirs.connect(interactive=False)
    theirs.set_max_current(100)
    theirs.disconnect()
    ours.connect()
    np.testing.assert_allclose(theirs.get_motor_state().current, 450.0, atol=2.0)


def test_recovering_stiffens_no_motor_of_a_relaxed_hand(
    ours: OrcaBackend, theirs: MockOrcaHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.connect()
    own, sent = theirs.set_max_current, []

    def noted(current: float | list[float]) -> None:
        sent.append(current)
        own(current)

    monkeypatch.setattr(theirs, "set_max_current", noted)
    ours.set_stiffness(0.2 * ONES)
    assert theirs.motor_client is not None
    theirs.motor_client.latched_errors[3] = 32
    ours.recover()
    assert [np.max(limits) for limits in sent] == pytest.approx([90.0, 90.0])
    ours.command(ours.read().position, ONES)
    theirs.disconnect()
    sent.clear()
    ours.recover()  # connects anew: orca-core sets its own limit, and ours comes before anything else
    relaxed = SPEC.safety.relax_stiffness * 450.0
    assert [np.max(limits) for limits in sent[1:]] == pytest.approx([relaxed, relaxed])
    np.testing.assert_allclose(theirs.get_motor_state().current, relaxed, atol=2.0)
    theirs.disconnect()
    with pytest.raises(OSError, match="orca_v2 is not connected"):
        ours.set_stiffness(ONES)


def test_it_is_the_class_of_the_package() -> None:
    assert issubclass(MockOrcaHand, OrcaHand)
