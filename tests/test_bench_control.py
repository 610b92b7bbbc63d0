"""The benchmarks of the control loop in real graphs: complete tables and counted ticks; no bound on any time."""

from __future__ import annotations

import re

import domain_coordinator
import pytest

from softflow_bringup.bench import control, soak

pytestmark = [pytest.mark.ros, pytest.mark.slow]
ROWS = ("control step late", "chunk -> first action", "bus read", "bus write")


def run(capfd: pytest.CaptureFixture[str], main: object, *arguments: str) -> str:
    """What a benchmark prints in a domain of its own."""
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setattr(control, "SETTLE", 0.5)
        assert main(arguments) == 0  # type: ignore[operator]
    return capfd.readouterr().out


def check(text: str, rate: float, processes: set[str]) -> None:
    """Every row has five numbers, every control step has read the hand."""
    counted = {}
    for row in ROWS:
        found = re.search(rf"^{row}((?: +\d+){{5}})$", text, re.MULTILINE)
        assert found, text
        *quantiles, counted[row] = map(int, found[1].split())
        assert quantiles == sorted(quantiles)
    ticks = re.search(r"^ticks (\d+), \d+ expected; missed \d+;", text, re.MULTILINE)
    assert ticks, text
    assert 0 < int(ticks[1]) < 100 * rate
    assert abs(counted["bus read"] - int(ticks[1])) <= 5  # of the same moment; a reset reads without a step
    assert 0 < counted["chunk -> first action"] < int(ticks[1])
    shares = dict(re.findall(r"^(\S+) +(-?\d+\.\d)$", text.split("CPU %")[1], re.MULTILINE))
    assert set(shares) == processes | {"bench", "others"}


def test_a_whole_graph_at_five_times_the_control_rate(capfd: pytest.CaptureFixture[str]) -> None:
    text = run(capfd, control.main, "--seconds", "5", "--rate", "100")
    check(text, 100.0, {"hand_driver", "perception", "policy", "recorder", "episode_manager"})


def test_a_hand_in_memory_at_a_rate_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    text = run(capfd, control.main, "--seconds", "2", "--rate", "200", "--backend", "mock")
    check(text, 200.0, {"mock_driver"})


def test_a_soak_says_where_everything_goes(capfd: pytest.CaptureFixture[str]) -> None:
    lines = run(capfd, soak.main, "--minutes", "0.07", "--every", "2").splitlines()
    rows = [line.split() for line in lines[1:3]]
    assert [len(row) for row in rows] == [len(soak.COLUMNS)] * 2
    assert all(float(value) >= 0.0 for row in rows for value in row)
    assert len(lines) == 3 + len(soak.COLUMNS)
    assert float(lines[4].split()[-3]) > 10.0  # [MB]


def test_slopes_are_those_of_a_line() -> None:
    minutes = [1.0, 2.0, 3.0, 4.0]
    assert soak.slope(minutes, [5.0 + 0.5 * m for m in minutes]) == pytest.approx(30.0)
    assert soak.slope(minutes, [7.0] * 4) == pytest.approx(0.0, abs=1e-9)


def test_values_out_of_bounds_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert control.main(["--rate", "2000"]) == 2
    assert "rate is 2000.0, must be in [1, 1000] Hz" in capfd.readouterr().err
    assert soak.main(["--every", "0"]) == 2
    assert "every is 0.0, must be at least 1" in capfd.readouterr().err
