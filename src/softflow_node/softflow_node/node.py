"""Base of all nodes: parameters into a dataclass, counters on /diagnostics, and a spin loop with a clean end."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_topic_name import validate_topic_name

from softflow_node.authentication import Guard
from softflow_node.parameters import ParameterError, from_mapping
from softflow_node.security import SecurityError, check_security, explain_failure
from softflow_node.signals import StopFlag
from softflow_node.topics import parse_topics

P = TypeVar("P")

SETTLE_LIMIT = 8.0
"""[s] that a node may take to settle after a stop was requested; well below the supervisor's patience."""
RECORDER = "SOFTFLOW_RECORDER"
"""Environment: full name of the node that records what this one publishes; not set = nobody."""
RECORDER_LIMIT = 20.0
"""[s] that a node waits at its start until the recorder hears it."""
ACKNOWLEDGE_LIMIT = 2.0
"""[s] that a node waits at its end until its readers have what it published; a dead one never says so."""
# Parameters that rclpy itself declares.
_ROS_PARAMETERS = {"use_sim_time", "start_type_description_service"}
_ROS_PREFIXES = ("qos_overrides.",)


def reliable(depth: int) -> QoSProfile:
    """Reliable, volatile."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def stream() -> QoSProfile:
    """For what the recorder must have in full: reliable, with room for seconds in which a reader gets no processor.

    A reliable writer still overwrites what a slow reader has not taken when its history is full.
    """
    return reliable(1000)


def latched(depth: int = 1) -> QoSProfile:
    """Reliable and kept for late joiners."""
    return QoSProfile(
        depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )


class SoftflowNode(Node, Generic[P]):
    """A node whose parameters are the fields of a frozen dataclass.

    Subclasses wire topics in their constructor, forward to plain Python, and may override `poll` and `close`.
    """

    def __init__(self, name: str, parameters: type[P]) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True)
        given = {
            key: parameter.value
            for key, parameter in self.get_parameters_by_prefix("").items()
            if key not in _ROS_PARAMETERS and not key.startswith(_ROS_PREFIXES)
        }
        self.params: P = from_mapping(parameters, given, where=self.get_name())
        self._declare_defaults(given)
        self.add_on_set_parameters_callback(self._refuse_change)
        self.counters: Counter[str] = Counter()
        self.finished = False
        self._link: Guard | None = None
        self.exit_code = 0
        self._last_warning: dict[str, float] = {}
        self._recorded: list[Publisher] = []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", reliable(10))
        self.create_timer(1.0, self._publish_diagnostics)

    def poll(self) -> float:
        """Called in turn with the callbacks; returns seconds until it wants to be called again at the latest."""
        return 0.2

    def idle(self) -> float:
        """Called instead of `poll` while the recorder does not hear this node yet."""
        return 0.2

    def settled(self) -> bool:
        """Asked after a stop was requested: whether the node has taken in what was sent to it before."""
        return True

    def fault(self) -> str:
        """What keeps the node from its work, in words; empty while it works. An error on /diagnostics."""
        return ""

    def activity(self) -> str:
        """What a node that works is doing, on /diagnostics."""
        return "running"

    def figures(self) -> dict[str, str]:
        """What is to be said on /diagnostics beside the counters; asked for before these are read."""
        return {}

    def close(self) -> None:
        """Called once before the context is shut down; publishing still works here."""

    def refuse(self, what: str, error: object) -> None:
        """Count bad input and say it, each kind at most once a second. The state in force stays."""
        self.counters[f"refused_{what}"] += 1
        now = time.monotonic()
        if now - self._last_warning.get(what, -10.0) >= 1.0:
            self._last_warning[what] = now
            self.get_logger().error(f"{what} refused ({self.counters[f'refused_{what}']} so far): {error}")

    def image_topics(self, text: str) -> list[str]:
        """Topics, in full, that the parameter of this name lists. Raises ParameterError."""
        try:
            topics = parse_topics(text)
            for topic in topics:
                validate_topic_name(topic)
        except NameValidationException as error:
            reason = f"parameter 'image_topics' is {text!r}: {str(error).splitlines()[0]}"
            raise ParameterError(f"{self.get_name()}: {reason}") from error
        except ValueError as error:
            raise ParameterError(f"{self.get_name()}: {error}") from error
        return [self.resolve_topic_name(topic) for topic in topics]

    def create_recorded_publisher(self, kind: type, topic: str) -> Publisher:
        """One whose messages the recorder must have from the first on: `run_node` waits until it hears them."""
        publisher = self.create_publisher(kind, topic, stream())
        self._recorded.append(publisher)
        return publisher

    def unheard(self, recorder: str) -> str:
        """A topic that this node publishes and the recorder does not hear yet; empty when it hears all."""
        for publisher in self._recorded:
            topic = publisher.topic_name
            readers = [
                f"{i.node_namespace.rstrip('/')}/{i.node_name}"
                for i in self.get_subscriptions_info_by_topic(topic)
            ]
            if recorder not in readers or publisher.get_subscription_count() < len(readers):
                return str(topic)
        return ""

    def open_guard(self, key_file: str) -> Guard:
        """The key of this node's links; once the node runs, a line says whether there is one. Raises ParameterError."""
        guard = Guard.open(key_file, self.get_name())
        self._link = guard
        return guard

    def say_link(self) -> None:
        """Whether the link is authenticated, once the node has come up."""
        if self._link is None:
            return
        if self._link.key:
            self.get_logger().info(f"the link is authenticated under key {self._link.key.id}")
        else:
            self.get_logger().warning("the link is not authenticated: parameter 'key_file' is empty")

    def _declare_defaults(self, given: dict[str, Any]) -> None:
        for key, value in vars(self.params).items():
            if key not in given:
                self.declare_parameter(key, list(value) if isinstance(value, tuple) else value)

    def _refuse_change(self, parameters: list[Parameter]) -> SetParametersResult:
        names = ", ".join(p.name for p in parameters if p.name not in _ROS_PARAMETERS)
        if not names:
            return SetParametersResult(successful=True)
        return SetParametersResult(successful=False, reason=f"{names}: read at start only; restart the node")

    def _publish_diagnostics(self) -> None:
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK, name=self.get_fully_qualified_name(), message=self.activity()
        )
        refused = sum(count for key, count in self.counters.items() if key.startswith("refused_"))
        if refused:
            status.level = DiagnosticStatus.WARN
            status.message = f"{refused} inputs refused"
        if self.fault():
            status.level, status.message = DiagnosticStatus.ERROR, self.fault()
        figures = self.figures()
        values = {key: str(count) for key, count in self.counters.items()} | figures
        status.values = [KeyValue(key=key, value=value) for key, value in sorted(values.items())]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def run_node(make: Callable[[], SoftflowNode[Any]]) -> int:
    """Run one node until SIGINT, SIGTERM or its own end; returns the process's exit code.

    The signal handlers are ours: rclpy's would close the context before a last message can be published.
    """
    stop = StopFlag.install()
    try:
        node = _start(make)
    except (ParameterError, SecurityError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 2
    node.say_link()
    _wait_for_recorder(node, stop)
    executor = EventsExecutor()
    executor.add_node(node)
    gc.collect()
    gc.freeze()
    try:
        while not stop.is_set() and not node.finished and rclpy.ok():
            executor.spin_once(timeout_sec=max(0.0, node.poll()))
        until = time.monotonic() + SETTLE_LIMIT
        while not node.settled() and time.monotonic() < until and rclpy.ok():
            executor.spin_once(timeout_sec=0.05)
    except ExternalShutdownException:
        pass
    finally:
        node.close()
        _wait_for_readers(node)
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return node.exit_code


def _start(make: Callable[[], SoftflowNode[Any]]) -> SoftflowNode[Any]:
    """The node in its context. Raises ParameterError; SecurityError where security is asked for but would not hold."""
    secured = check_security(os.environ)
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        return make()
    except RCLError as error:
        if secured:
            raise SecurityError(explain_failure(error)) from error
        raise


def _wait_for_recorder(node: SoftflowNode[Any], stop: StopFlag) -> None:
    """A reader that is found only after the first messages of an episode does not get them: the episode would be lost.

    Nothing is received meanwhile, so nobody can ask the node to begin.
    """
    recorder, until = os.environ.get(RECORDER, ""), time.monotonic() + RECORDER_LIMIT
    while recorder and not stop.is_set() and (topic := node.unheard(recorder)):
        if time.monotonic() > until:
            node.get_logger().warning(
                f"{recorder} does not hear {topic} after {RECORDER_LIMIT:.0f} s: going on"
            )
            return
        time.sleep(min(0.01, node.idle()))


def _wait_for_readers(node: SoftflowNode[Any]) -> None:
    """A writer takes what a reader has not fetched yet, such as the end of an episode, with it when it goes."""
    until = time.monotonic() + ACKNOWLEDGE_LIMIT
    for publisher in node.publishers:
        publisher.wait_for_all_acked(Duration(seconds=max(0.0, until - time.monotonic())))
