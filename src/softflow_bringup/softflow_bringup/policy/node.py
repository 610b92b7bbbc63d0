"""Asks a running learner to promote or roll back a version."""

from __future__ import annotations

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from softflow_msgs.srv import PromotePolicy, RollbackPolicy

from softflow_node.authentication import Guard
from softflow_node.messages import sign_command

SERVICES = {
    "promote": (PromotePolicy, "promote_policy"),
    "rollback": (RollbackPolicy, "rollback_policy"),
}
FOUND_WITHIN, ANSWERED_WITHIN = 10.0, 30.0
"""[s]"""


def ask_learner(command: str, learner: str, version: int, reason: str, guard: Guard) -> tuple[bool, str]:
    """Returns whether it was done, and the learner's words."""
    if version < 0:
        return False, f"version is {version}, must be at least 0"
    kind, name = SERVICES[command]
    service = f"{learner.rstrip('/')}/{name}"
    context = Context()
    rclpy.init(context=context)
    node = Node("softflow_policy_client", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        client = node.create_client(kind, service)
        if not client.wait_for_service(timeout_sec=FOUND_WITHIN):
            return False, f"no learner offers {service} in ROS_DOMAIN_ID {context.get_domain_id()}"
        request = kind.Request(version=version, reason=reason)
        sign_command(guard, request)
        call = client.call_async(request)
        executor.spin_until_future_complete(call, timeout_sec=ANSWERED_WITHIN)
        answer = call.result()
        if answer is None:
            return False, f"{service} did not answer within {ANSWERED_WITHIN:.0f} s"
        return bool(answer.ok), str(answer.message)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
