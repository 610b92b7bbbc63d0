"""Commands get a ROS domain of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from softflow_bringup.domain import VARIABLE, private_domain

SHOW = "import os; from softflow_bringup.domain import private_domain\nwith private_domain() as d: print(d)"


def test_two_processes_get_different_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with private_domain() as mine:
        assert os.environ[VARIABLE] == str(mine)
        other = {k: v for k, v in os.environ.items() if k != VARIABLE}
        done = subprocess.run(
            [sys.executable, "-c", SHOW], env=other, capture_output=True, text=True, check=True
        )
        assert int(done.stdout) != mine
    assert VARIABLE not in os.environ


def test_a_chosen_domain_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "42")
    with private_domain() as domain:
        assert domain == 42
    assert os.environ[VARIABLE] == "42"


def test_an_error_inside_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(OSError, match="disk full"), private_domain():
        raise OSError("disk full")
