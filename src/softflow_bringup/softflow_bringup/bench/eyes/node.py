"""A robot that only says its clock and its state, and times what the eyes make of it."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from softflow_msgs.msg import HandState, ObjectState, Observation

from softflow_node.messages import floats32, from_stamp, to_stamp
from softflow_node.node import reliable, stream
from softflow_tasks.task import Task


class EyesProbe:
    """The robot's clock is this process's monotonic clock, so a picture's stamp tells how long ago it was taken."""

    def __init__(self, context: Context, namespace: str, task: Task) -> None:
        self._node = Node("eyes_probe", namespace=namespace, context=context)
        self._executor = EventsExecutor(context=context)
        self._executor.add_node(self._node)
        self._task = task
        self._began = time.monotonic_ns()
        self._step = 0
        self._last = 0
        self.seen: list[float] = []
        """[s] from a picture's stamp to the arrival of `object_seen`."""
        self.observed: list[float] = []
        """[s] from a picture's stamp to the arrival of the first observation made of it."""
        self.values: dict[str, dict[str, str]] = {}
        self._clock_pub = self._node.create_publisher(Clock, "clock", reliable(10))
        self._state_pub = self._node.create_publisher(HandState, "hand_state", stream())
        subscribe = partial(self._node.create_subscription, qos_profile=stream())
        subscribe(ObjectState, "object_seen", self._on_object)
        subscribe(Observation, "observation", self._on_observation)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics)

    def _now(self) -> int:
        return time.monotonic_ns() - self._began

    def _on_object(self, message: ObjectState) -> None:
        if message.valid:
            self.seen.append((self._now() - from_stamp(message.header.stamp)) / 1e9)

    def _on_observation(self, message: Observation) -> None:
        stamps = dict(zip(message.sensor_names, message.sensor_stamps, strict=True))
        stamp = from_stamp(stamps[self._task.objects[0]])
        if stamp > self._last:
            self._last = stamp
            self.observed.append((self._now() - stamp) / 1e9)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.values[status.name] = {v.key: v.value for v in status.values}

    def _say_state(self) -> None:
        stamp, zeros = to_stamp(self._now()), floats32(np.zeros(len(self._task.joint_names)))
        self._clock_pub.publish(Clock(clock=stamp))
        message = HandState(
            episode_id="eyes",
            step=self._step,
            position=zeros,
            velocity=zeros,
            command=zeros,
            applied_action=floats32(np.zeros(self._task.action_dim)),
        )
        message.header.stamp = stamp
        self._state_pub.publish(message)
        self._step += 1

    def clear(self) -> None:
        """Forget what was timed."""
        self.seen.clear()
        self.observed.clear()

    def run(self, seconds: float, rate: float) -> None:
        """Say clock and state at `rate` [Hz] for a while, and listen."""
        due = time.monotonic()
        until = due + seconds
        while due < until:
            self._say_state()
            due += 1.0 / rate
            while (left := due - time.monotonic()) > 0:
                self._executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        """Free the node."""
        self._executor.shutdown()
        self._node.destroy_node()
