"""A hand that goes down in an online run: the episode ends with the cause, learning waits, both go on afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import domain_coordinator
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from softflow_msgs.msg import EpisodeEvent, HandHealth, HandState, LearnerStatus
from softflow_msgs.srv import EStop, ResetEStop, SetMode

from softflow_bringup.bench.ledger import waiting_items
from softflow_bringup.bench.system import ONLINE, impatient, prepare_learner, until
from softflow_bringup.episodes import BagWatch
from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_learner.journal import read_journal
from softflow_node.node import latched, reliable, stream
from softflow_recorder.bag import read_episode
from softflow_tasks import make_task

pytestmark = [pytest.mark.ros, pytest.mark.slow]
TIMEOUT = 90.0
TASK = "ToolCut-v0"
"""Its episodes last, whatever an untrained policy does: none ends while the hand is being stopped."""


class Operator:
    """A person with the hand's services, who sees episodes, health, diagnostics and the learner."""

    def __init__(self, context: Context) -> None:
        self.node = Node("operator", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.events: list[EpisodeEvent] = []
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.health = HandHealth()
        self.learner = LearnerStatus()
        self.state = HandState()
        self.clients: dict[str, Client] = {}
        node = self.node
        node.create_subscription(EpisodeEvent, "/hand0/episode_event", self.events.append, latched(100))
        node.create_subscription(HandHealth, "/hand0/hand_health", self._on_health, latched())
        node.create_subscription(HandState, "/hand0/hand_state", self._on_state, stream())
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(100))
        node.create_subscription(LearnerStatus, "/learner/status", self._on_learner, reliable(10))

    def _on_health(self, message: HandHealth) -> None:
        self.health = message

    def _on_state(self, message: HandState) -> None:
        self.state = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics |= {status.name: status for status in message.status}

    def _on_learner(self, message: LearnerStatus) -> None:
        self.learner = message

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        assert until(condition, TIMEOUT, lambda _: self.spin(0.02)), what

    def connect(self, kind: Any, name: str) -> None:
        """A call that must not come late is not kept waiting by discovery then."""
        if name not in self.clients:
            self.clients[name] = self.node.create_client(kind, f"/hand0/{name}")
        self.wait(self.clients[name].service_is_ready, name)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        self.connect(kind, name)
        future = self.clients[name].call_async(request)
        self.wait(future.done, name)
        return future.result()

    def ends(self, part: str) -> list[EpisodeEvent]:
        """Ends of episodes whose cause holds this."""
        return [e for e in self.events if e.kind != EpisodeEvent.START and part in e.cause]

    def played(self) -> int:
        """Steps of all episodes that ended."""
        return sum(e.last_step for e in self.ends("") if e.kind != EpisodeEvent.DISCARDED)

    def in_mid_episode(self) -> bool:
        """Whether an episode has steps, and more to come."""
        over = {e.episode_id for e in self.ends("")}
        inside = 2 <= self.state.step <= make_task(TASK).horizon // 2
        return inside and bool(self.state.episode_id) and self.state.episode_id not in over

    def starts(self) -> int:
        return sum(e.kind == EpisodeEvent.START for e in self.events)


@pytest.fixture
def operator() -> Iterator[Operator]:
    with domain_coordinator.domain_id() as domain, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        context = Context()
        rclpy.init(context=context)
        found = Operator(context)
        yield found
        found.node.destroy_node()
        rclpy.shutdown(context=context)


def rounds(learner: Path) -> int:
    """Online rounds that the learner has done: updates of its critic."""
    return int(json.loads((learner / "status.json").read_text())["step"])


def test_an_emergency_stop_ends_the_episode_and_learning_waits_for_the_next(
    operator: Operator, tmp_path: Path
) -> None:
    weights = prepare_learner(tmp_path / "learner", task_id=TASK)
    arguments = {
        "task": TASK,
        "speed": "4",
        "run": tmp_path / "robot",
        "learner_run": tmp_path / "learner",
        "weights": weights,
        "settings": ONLINE,
    }
    with Supervisor(impatient(load_graph("online_rl", arguments)), log_directory=tmp_path / "log"):
        operator.wait(lambda: operator.learner.gradient_step > 0, "the learner has begun")
        operator.connect(EStop, "estop")
        operator.wait(operator.in_mid_episode, "an episode is in its middle")
        assert operator.call(EStop, "estop", EStop.Request(reason="a finger is in the way")).ok
        operator.wait(lambda: bool(operator.ends("estop")), "the episode ends with the cause")
        (cut,) = operator.ends("estop")
        assert (cut.kind, cut.cause) == (EpisodeEvent.TRUNCATED, "estop: a finger is in the way")
        assert cut.last_step > 0

        def told(node: str) -> DiagnosticStatus:
            return operator.diagnostics.get(node, DiagnosticStatus())

        operator.wait(
            lambda: (
                "the hand is down: estop: a finger is in the way" in told("/hand0/episode_manager").message
            ),
            "the reason is on /diagnostics",
        )
        assert told("/hand0/episode_manager").level == DiagnosticStatus.ERROR
        operator.wait(
            lambda: told("/learner").message.startswith("waits for experience"),
            "the learner says that it waits",
        )
        operator.wait(lambda: operator.learner.online_transitions == operator.played(), "all steps are there")
        operator.wait(lambda: operator.learner.updates_per_second == 0.0, "what they allow is done")
        learned, begun = operator.learner.gradient_step, operator.starts()
        assert 0 < rounds(tmp_path / "learner") <= 0.1 * operator.played() / 5, "as the ratio allows"
        operator.spin(3.0)
        assert operator.starts() == begun, "no episode while the hand is down"
        assert operator.learner.gradient_step == learned

        refused = operator.call(
            SetMode, "set_mode", SetMode.Request(mode=HandHealth.MODE_ACTIVE, reason="go")
        )
        assert not refused.ok and "estop" in refused.message
        assert not operator.call(ResetEStop, "reset_estop", ResetEStop.Request(reason="")).ok
        assert operator.call(ResetEStop, "reset_estop", ResetEStop.Request(reason="it is out")).ok
        go = SetMode.Request(mode=HandHealth.MODE_ACTIVE, reason="it is out")
        assert operator.call(SetMode, "set_mode", go).ok
        operator.wait(lambda: operator.starts() > begun, "the next episode begins")
        operator.wait(lambda: len(operator.ends("")) > len(operator.ends("estop")) + 1, "and ends by itself")
        operator.wait(lambda: told("/hand0/episode_manager").level == DiagnosticStatus.OK, "all is well")
        operator.wait(operator.in_mid_episode, "an episode is in its middle")
        hold = SetMode.Request(mode=HandHealth.MODE_HOLD, reason="a look at the tendons")
        assert operator.call(SetMode, "set_mode", hold).ok
        operator.wait(lambda: bool(operator.ends("hold: a look at the tendons")), "a hold ends it too")
        begun = operator.starts()
        assert operator.call(SetMode, "set_mode", go).ok
        operator.wait(lambda: operator.starts() > begun, "and the next begins")

        done = tmp_path / "robot"
        operator.wait(
            lambda: (
                waiting_items(done / "spool") == 0
                and len(list(read_journal(tmp_path / "learner" / "experience"))) >= 3
            ),
            "everything is handed over",
        )
    summaries = BagWatch(tmp_path / "robot" / "bags").summaries()
    causes = [read_episode(summary.path).cause for summary in summaries]
    assert causes.count("estop: a finger is in the way") == 1
    assert len(list(read_journal(tmp_path / "learner" / "experience"))) + waiting_items(
        done / "spool"
    ) == len(summaries)
