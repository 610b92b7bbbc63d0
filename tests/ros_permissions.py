"""What an enclave's policy allows, and what a running node does, in the same words."""

from __future__ import annotations

from xml.etree import ElementTree

from rclpy.node import Node

from softflow_bringup.keystore import policy_files

Permissions = set[tuple[str, str]]
"""(right, name), such as ("publish", "/hand0/action_chunk")."""
# Simulated time is an option of every node; the driver of another process gives it. Perception takes objects from the
# simulation or from the eyes; pictures are named and recorded on request, and a classifier's verdicts taken.
OPTIONAL = {
    ("subscribe", "/clock"),
    ("subscribe", "/hand0/object_state"),
    ("subscribe", "/hand0/object_seen"),
    ("subscribe", "/hand0/camera/front/image/compressed"),
    ("subscribe", "/hand0/camera/front/health"),
    ("publish", "/hand0/camera_health"),
}
# The recorder always takes them.
OPTIONAL_OF = {"/hand0/episode_manager": {("subscribe", "/hand0/success_verdict")}}


def allowed(name: str) -> Permissions:
    """By the policy with the profile of that node, without what is optional."""
    namespace, _, node = name.rpartition("/")
    [profile] = [
        profile
        for file in policy_files()
        for profile in ElementTree.parse(file).iter("profile")
        if (profile.attrib["ns"].rstrip("/"), profile.attrib["node"]) == (namespace, node)
    ]
    rights = {
        (right, full_name(entry.text or "", namespace, node))
        for group in profile
        for right in group.attrib
        for entry in group
    }
    return rights - optional(name)


def optional(name: str) -> Permissions:
    """What a node may, and does on request only."""
    return OPTIONAL | OPTIONAL_OF.get(name, set())


def full_name(name: str, namespace: str, node: str) -> str:
    """As sros2 reads it: relative to the namespace, or with ~ to the node."""
    if name.startswith("~"):
        return f"{namespace}/{node}{name[1:]}"
    return name if name.startswith("/") else f"{namespace}/{name}"


def used(observer: Node, name: str) -> Permissions:
    """By the endpoints of a running node; an action's services and topics count as the action."""
    namespace, _, node = name.rpartition("/")
    listed = {
        "publish": observer.get_publisher_names_and_types_by_node,
        "subscribe": observer.get_subscriber_names_and_types_by_node,
        "reply": observer.get_service_names_and_types_by_node,
        "request": observer.get_client_names_and_types_by_node,
    }
    found: Permissions = set()
    for right, by_node in listed.items():
        for endpoint, _ in by_node(node, namespace or "/"):
            action, separator, _ = endpoint.partition("/_action/")
            if not separator:
                found.add((right, endpoint))
            elif right in ("reply", "request"):
                found.add(("execute" if right == "reply" else "call", action))
    return found - optional(name)
