"""The probes of the benchmarks: they publish, listen, and note times.

Run as a module it prints the diagnostics of all nodes as a line of JSON a second: where the nodes are, on another host
say.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from softflow_msgs.msg import (
    ActionChunk,
    EpisodeEvent,
    HandDescription,
    HandState,
    LearnerStatus,
    Observation,
    PolicyManifest,
)

from softflow_bringup.bench.motion import Limits, MotionCheck
from softflow_node.messages import floats32
from softflow_node.node import latched, reliable, stream
from softflow_node.signals import StopFlag
from softflow_tasks.task import StateVector, Task


class LatencyProbe:
    """Sends observations at a fixed rate and waits for the chunks that answer them."""

    def __init__(self, context: Context, namespace: str, task: Task) -> None:
        self._node = Node("latency_probe", namespace=namespace, context=context)
        self._executor = EventsExecutor(context=context)
        self._executor.add_node(self._node)
        self._task = task
        self._sent: dict[int, float] = {}
        self.latencies: list[float] = []
        self._obs_id = 0
        self._pub = self._node.create_publisher(Observation, "observation", reliable(10))
        self._node.create_subscription(ActionChunk, "action_chunk", self._on_chunk, reliable(10))

    def _on_chunk(self, message: ActionChunk) -> None:
        began = self._sent.pop(message.obs_id, None)
        if began is not None:
            self.latencies.append(time.perf_counter() - began)

    def _publish(self, state: StateVector) -> None:
        self._obs_id += 1
        message = Observation(
            episode_id="latency",
            step=self._obs_id,
            obs_id=self._obs_id,
            steps_left=0,
            task=self._task.id,
            layout_hash=self._task.layout.hash,
            state=floats32(state),
            applied_action=floats32(np.zeros(self._task.action_dim)),
        )
        self._sent[self._obs_id] = time.perf_counter()
        self._pub.publish(message)

    def _spin_until(self, until: float) -> None:
        while (left := until - time.perf_counter()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait_for_answers(self, state: StateVector, timeout: float) -> bool:
        """Until the policy answers at all."""
        until = time.perf_counter() + timeout
        while not self.latencies and time.perf_counter() < until:
            self._publish(state)
            self._spin_until(time.perf_counter() + 0.2)
        return bool(self.latencies)

    def measure(self, states: list[StateVector], rate: float, seconds: float) -> list[float]:
        """Latencies [s] at `rate` [Hz]; an observation without an answer counts as infinitely late."""
        self._sent.clear()
        self.latencies.clear()
        due = time.perf_counter()
        for i in range(round(rate * seconds)):
            self._publish(states[i % len(states)])
            due += 1.0 / rate
            self._spin_until(due)
        self._spin_until(due + 1.0)
        return [*self.latencies, *(float("inf") for _ in self._sent)]

    def close(self) -> None:
        """Free the node."""
        self._executor.shutdown()
        self._node.destroy_node()


class DiagnosticsProbe:
    """Keeps the newest values of every node on /diagnostics."""

    def __init__(self, context: Context) -> None:
        self._node = Node("diagnostics_probe", context=context)
        self._executor = EventsExecutor(context=context)
        self._executor.add_node(self._node)
        self.values: dict[str, dict[str, str]] = {}
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_array, reliable(10))

    def _on_array(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values[status.name] = {v.key: v.value for v in status.values}

    def spin(self, seconds: float) -> None:
        """Listen for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        """Free the node."""
        self._executor.shutdown()
        self._node.destroy_node()


class Tap:
    """Listens to robots and learner: when each node last did its work, and whether the hands move as they may."""

    def __init__(self, context: Context, namespaces: Mapping[str, str]) -> None:
        """`namespaces`: what comes before a node's name in its label -> the robot's namespace."""
        self._node = Node("tap", context=context)
        self._executor = EventsExecutor(context=context)
        self._executor.add_node(self._node)
        self.signs: dict[str, float] = {}
        """Label of a node -> time of its last message."""
        self.counts: Counter[str] = Counter()
        """Label -> messages."""
        self.status: LearnerStatus | None = None
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.motion = {label: MotionCheck() for label in namespaces}
        for label, namespace in namespaces.items():
            self._listen_to_robot(label, namespace)
        self._subscribe(LearnerStatus, "/learner/status", self._on_status, reliable(10))
        self._subscribe(PolicyManifest, "/learner/policy_manifest", partial(self._sign, "learner"), latched())
        self._subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(100))

    def _subscribe(self, kind: type, topic: str, callback: Any, qos: Any) -> None:
        self._node.create_subscription(kind, topic, callback, qos)

    def _listen_to_robot(self, label: str, namespace: str) -> None:
        self._subscribe(
            HandDescription,
            f"{namespace}/hand_description",
            partial(self._on_description, self.motion[label]),
            latched(),
        )
        self._subscribe(HandState, f"{namespace}/hand_state", partial(self._on_state, label), stream())
        for name, kind, topic in (
            ("perception", Observation, "observation"),
            ("policy", ActionChunk, "action_chunk"),
            ("episode_manager", EpisodeEvent, "episode_event"),
        ):
            on_message = partial(self._sign, label + name)
            self._subscribe(kind, f"{namespace}/{topic}", on_message, stream())

    def _sign(self, label: str, message: object) -> None:
        self.signs[label] = time.monotonic()
        self.counts[label] += 1

    def _on_state(self, label: str, message: HandState) -> None:
        if message.episode_id:
            self._sign(label + "hand_driver", message)
        self.motion[label].add(message.episode_id, message.step, message.command, message.starved)

    @staticmethod
    def _on_description(motion: MotionCheck, message: HandDescription) -> None:
        step = np.asarray(message.max_velocity) / message.control_rate
        motion.limits = Limits(np.asarray(message.lower), np.asarray(message.upper), step)

    def _on_status(self, message: LearnerStatus) -> None:
        self.status = message
        self._sign("learner", message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {v.key: v.value for v in status.values}

    def topics(self) -> set[str]:
        """Names of all topics that are known now."""
        return {name for name, _ in self._node.get_topic_names_and_types()}

    def spin(self, seconds: float) -> None:
        """Listen for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        """Free the node."""
        self._executor.shutdown()
        self._node.destroy_node()


@contextmanager
def tapping(namespaces: Mapping[str, str]) -> Iterator[Tap]:
    """A `Tap` with a context of its own."""
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    tap = Tap(context, namespaces)
    try:
        yield tap
    finally:
        tap.close()
        rclpy.shutdown(context=context)


def print_diagnostics() -> int:
    """Print until a signal comes."""
    stop = StopFlag.install()
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    probe = DiagnosticsProbe(context)
    while not stop.is_set():
        probe.spin(1.0)
        print(json.dumps({"time": time.monotonic(), "nodes": probe.values}), flush=True)
        probe.values.clear()
    probe.close()
    rclpy.shutdown(context=context)
    return 0


if __name__ == "__main__":
    sys.exit(print_diagnostics())
