"""The emulated motors behave as the manual says, seen through the vendor's SDK and byte by byte."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dynamixel_sdk import Protocol2PacketHandler
from hypothesis import given
from hypothesis import strategies as st

from hand_driver.backends import dynamixel_bus as dxl
from hand_driver.emulator import EmulatedBus, EmulatedMotor
from hand_driver.emulator.__main__ import main as emulate
from hand_driver.emulator.motor import ACCESS, OVERLOAD, RANGE
from hand_driver.emulator.packets import Decoder, Packet, crc16, stuff, unstuff

bodies = st.binary(max_size=40) | st.lists(st.sampled_from([0xFF, 0xFD, 0x00, 0x10]), max_size=30).map(bytes)


@given(bodies)
def test_the_checksum_is_the_sdks(body: bytes) -> None:
    assert crc16(body) == Protocol2PacketHandler().updateCRC(0, body, len(body))


def test_the_manuals_ping() -> None:
    """Example of the protocol's page: ping of id 1, and its answer from model 0x0406, firmware 0x26."""
    assert Packet(1, 0x01).encode() == bytes.fromhex("FFFFFD0001030001194E")
    answer = bytes.fromhex("FFFFFD000107005500060426655D")
    assert Packet(1, 0x55, bytes.fromhex("00060426")).encode() == answer


@given(bodies)
def test_stuffing_hides_every_header_and_is_undone(body: bytes) -> None:
    assert unstuff(stuff(body)) == body
    assert stuff(body).count(b"\xff\xff\xfd") == stuff(body).count(b"\xff\xff\xfd\xfd")


@given(
    st.lists(st.tuples(st.integers(0, 252), st.integers(1, 255), bodies), max_size=4),
    st.binary(max_size=9),
    st.data(),
)
def test_packets_are_found_in_any_stream_however_it_is_cut(
    sent: list[tuple[int, int, bytes]], noise: bytes, data: st.DataObject
) -> None:
    packets = [Packet(*p) for p in sent]
    wire = noise.replace(b"\xff", b"\x01") + b"".join(p.encode() for p in packets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    decoder, found = Decoder(), []
    for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += list(decoder.feed(wire[start:stop]))
    assert found == packets and decoder.corrupt == 0


def test_a_flipped_bit_costs_that_packet_alone() -> None:
    first, second = Packet(1, 2, b"abcd").encode(), Packet(2, 2, b"efgh").encode()
    decoder = Decoder()
    found = list(decoder.feed(first[:9] + bytes([first[9] ^ 4]) + first[10:] + second))
    assert [p.id for p in found] == [2] and decoder.corrupt == 1


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[tuple[EmulatedBus, dxl.Bus]]:
    link = tmp_path / "tty"
    with EmulatedBus([EmulatedMotor(i, 2000 + i) for i in (1, 2, 3)], link) as emulated:
        bus = dxl.Bus(str(link), 1_000_000, 0.1)
        bus.open()
        yield emulated, bus
        bus.close()


Wire = tuple[EmulatedBus, dxl.Bus]


def test_ping_read_and_write_by_the_sdk(wire: Wire) -> None:
    emulated, bus = wire
    assert bus.ping(2) == 1020
    assert bus.read(3, dxl.PRESENT_POSITION) == 2003
    bus.write(1, dxl.POSITION_P, 640)
    assert emulated.motors[1].get("position_p") == 640
    with pytest.raises(OSError, match=r"motor 9: ping: .*no status packet"):
        bus.ping(9)


def test_rules_of_access(wire: Wire) -> None:
    emulated, bus = wire
    bus.write(1, dxl.OPERATING_MODE, 5)
    bus.write(1, dxl.TORQUE_ENABLE, 1)
    with pytest.raises(OSError, match=r"motor 1: write 3 to 11: no access \(EEPROM while torque is on"):
        bus.write(1, dxl.OPERATING_MODE, 3)
    with pytest.raises(OSError, match="no access"):
        bus.write(1, dxl.PRESENT_POSITION, 3)
    with pytest.raises(OSError, match="value out of range"):
        bus.write(1, dxl.GOAL_CURRENT, 2047)
    motor = emulated.motors[2]
    assert motor.write(70, b"\x00") == ACCESS and motor.write(98, b"\xff") == RANGE


def test_what_looks_like_a_header_inside_an_answer_is_stuffed(wire: Wire) -> None:
    """Current -1 and speed -3 side by side are FF FF FD FF: the SDK has to take a byte out again."""
    emulated, bus = wire
    motor = emulated.motors[2]
    motor.frozen = True
    motor.set("present_current", -1)
    motor.set("present_velocity", -3)
    answers = bus.sync_read([1, 2, 3], 126, 10)
    data, error = answers[2]
    assert dxl.PRESENT_CURRENT.decode(data[:2]) == -1 and dxl.PRESENT_VELOCITY.decode(data[2:6]) == -3
    assert dxl.PRESENT_POSITION.decode(data[6:]) == 2002 and error == 0 and set(answers) == {1, 2, 3}


@pytest.mark.parametrize("late", [b"<", b"\x05\x04\x03", bytes(range(60, 70)), bytes(83)], ids=len)
def test_a_late_answer_to_another_question_is_not_taken_for_this_one(wire: Wire, late: bytes) -> None:
    emulated, bus = wire
    emulated.late = late
    assert bus.read(2, dxl.PRESENT_POSITION) == 2002
    emulated.late = late * 2  # 2, 6, 20 and 166 bytes
    data, _ = bus.sync_read([2, 3], 132, 4)[2]
    assert dxl.PRESENT_POSITION.decode(data) == 2002
    assert bus.read(2, dxl.PRESENT_POSITION) == 2002
    emulated.late = late
    assert bus.read(2, dxl.POSITION_P) == 800
    emulated.late = late
    with pytest.raises(OSError, match="no access"):
        bus.write(2, dxl.PRESENT_POSITION, 3)
    emulated.late = late * 2
    assert bus.ping(2) == 1020


def test_answers_that_come_late_are_gone_when_the_next_question_is_asked(wire: Wire) -> None:
    """Two answers to one question, because it was asked again: the second is as long as what is asked next."""
    emulated, bus = wire
    emulated.motors[2].set("torque_enable", 1)
    bus = dxl.Bus(str(emulated.link), 1_000_000, 0.1)
    bus.open()
    emulated.latency = 0.13
    assert bus.read(2, dxl.TORQUE_ENABLE) == 1
    emulated.latency = 0.0
    assert bus.read(2, dxl.OPERATING_MODE) == 3
    bus.close()


@pytest.mark.parametrize(("chain", "heard"), [(True, {1}), (False, {1, 3})])
def test_a_silent_motor_is_not_mistaken_for_its_neighbour(wire: Wire, chain: bool, heard: set[int]) -> None:
    emulated, bus = wire
    emulated.chain, emulated.motors[2].silent = chain, True
    assert set(bus.sync_read([1, 2, 3], 126, 10)) == heard


def test_a_sync_write_moves_all_with_torque(wire: Wire) -> None:
    _emulated, bus = wire
    for motor in (1, 2):
        bus.write(motor, dxl.TORQUE_ENABLE, 1)
    bus.sync_write(dxl.GOAL_POSITION, {1: 2100, 2: -50, 3: 2100})
    assert bus.read(1, dxl.GOAL_POSITION) == 2100
    time.sleep(0.3)
    assert [bus.read(i, dxl.PRESENT_POSITION) for i in (1, 2, 3)] == [2100, pytest.approx(-50, abs=2), 2003]


def test_an_error_sets_the_alert_and_only_a_reboot_clears_it(wire: Wire) -> None:
    emulated, bus = wire
    bus.write(2, dxl.TORQUE_ENABLE, 1)
    emulated.motors[2].ticks = 5000.0
    emulated.motors[2].fail(OVERLOAD)
    assert bus.sync_read([1, 2], 126, 10)[2][1] & dxl.ALERT
    assert bus.read(2, dxl.TORQUE_ENABLE) == 0
    assert dxl.hardware_errors(bus.read(2, dxl.HARDWARE_ERROR)) == "overload"
    with pytest.raises(OSError, match="no access"):
        bus.write(2, dxl.TORQUE_ENABLE, 1)
    bus.reboot(2)
    with emulated.lock:
        assert not emulated.motors[2].answers
        assert emulated.motors[2].ticks < 4096, "and whole turns are forgotten"
    time.sleep(0.2)
    assert bus.read(2, dxl.HARDWARE_ERROR) == 0 and bus.sync_read([2], 126, 10)[2][1] == 0


def test_the_watchdog_stops_a_motor_and_locks_its_goals(wire: Wire) -> None:
    emulated, bus = wire
    motor = emulated.motors[1]
    bus.write(1, dxl.TORQUE_ENABLE, 1)
    bus.write(1, dxl.PROFILE_VELOCITY, 20)
    bus.write(1, dxl.BUS_WATCHDOG, 3)
    bus.sync_write(dxl.GOAL_POSITION, {1: 4000})
    time.sleep(0.15)  # the host is dead for longer than 60 ms
    emulated.advance()
    assert motor.get("bus_watchdog") == -1 and motor.get("torque_enable") == 1
    stopped = motor.ticks
    assert stopped < 4000
    with pytest.raises(OSError, match="value out of range"):
        bus.write(1, dxl.GOAL_POSITION, 3000)
    assert motor.ticks == pytest.approx(stopped, abs=1)
    bus.write(1, dxl.BUS_WATCHDOG, 0)
    bus.write(1, dxl.GOAL_POSITION, 2100)


def test_a_drawn_cable_is_an_error_and_the_motors_live_on(wire: Wire) -> None:
    emulated, bus = wire
    bus.write(1, dxl.TORQUE_ENABLE, 1)
    emulated.unplug()
    with pytest.raises(OSError):
        bus.read(1, dxl.PRESENT_POSITION)
    with pytest.raises(OSError):
        bus.open()
    emulated.plug()
    bus.open()
    assert bus.read(1, dxl.TORQUE_ENABLE) == 1


def test_worn_wires_cost_answers_but_never_give_wrong_ones(wire: Wire) -> None:
    emulated, bus = wire
    emulated.drop = emulated.corrupt = 0.004
    for motor in emulated.motors.values():
        motor.frozen = True
    bus = dxl.Bus(str(emulated.link), 1_000_000, 0.01)
    bus.open()
    whole = 0
    for _ in range(100):
        answers = bus.sync_read([1, 2, 3], 132, 4)
        whole += len(answers) == 3
        for motor, (data, _) in answers.items():
            assert dxl.PRESENT_POSITION.decode(data) == 2000 + motor
    assert 20 < whole < 100
    bus.close()


def test_an_unknown_baudrate_is_named(wire: Wire) -> None:
    emulated, _ = wire
    with pytest.raises(OSError, match="baudrate 123456 is not offered"):
        dxl.Bus(str(emulated.link), 123456, 0.1).open()


def test_temperature_follows_the_current() -> None:
    motor = EmulatedMotor(1)
    motor.thermal.rise = 150.0
    motor.advance(1.0)
    motor.set("operating_mode", 5)
    motor.write(64, b"\x01")
    motor.blocked_at = 2048
    motor.write(116, (3000).to_bytes(4, "little"))
    motor.advance(1.2)
    assert motor.get("present_current") == 1193 and motor.get("present_temperature") > 60
    motor.advance(2.0)
    assert motor.get("hardware_error") == 4 and motor.get("torque_enable") == 0


def test_registers_are_laid_out_without_overlap() -> None:
    fields = sorted((r for r in vars(dxl).values() if isinstance(r, dxl.Register)), key=lambda r: r.address)
    assert len(fields) >= 15 and dataclasses.is_dataclass(fields[0])
    for one, following in itertools.pairwise(fields):
        assert one.address + one.size <= following.address


def test_a_hand_files_motors_can_be_had_as_a_process(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    command = [sys.executable, "-m", "hand_driver.emulator", "leap_like", str(link)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline().startswith(
            "16 motors of leap_like on"
        )
        bus = dxl.Bus(str(link), 1_000_000, 0.1)
        bus.open()
        assert bus.ping(15) == 1020 and bus.read(1, dxl.PRESENT_POSITION) == 2048 + round(0.2 * dxl.TICKS)
        bus.close()
    finally:
        process.terminate()
    assert process.wait(10.0) == 0 and not link.is_symlink()


@pytest.mark.parametrize(
    ("hand", "text"), [("mock", "mock has no motors"), ("none", "hand 'none': none.yaml")]
)
def test_a_process_without_motors_ends_with_a_line(
    hand: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        emulate([hand, "/nowhere"])
    assert ended.value.code == 2 and text in capsys.readouterr().err
