"""The probes of the benchmarks: they publish, listen, and note times."""

from __future__ import annotations

import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from softflow_msgs.msg import ActionChunk, Observation

from softflow_node.messages import floats32
from softflow_node.node import reliable
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
