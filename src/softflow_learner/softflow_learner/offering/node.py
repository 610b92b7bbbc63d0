"""The learner node's weights: announces them, serves them, hears what robots did with them, promotes and rolls back."""

from __future__ import annotations

import time
import zlib
from array import array
from dataclasses import dataclass
from typing import Any

from rclpy.service import Service
from softflow_msgs.msg import PolicyManifest, PolicyReceipt
from softflow_msgs.srv import FetchPolicyBlock, PromotePolicy, RollbackPolicy

from softflow_learner.canary import Canary, Margin
from softflow_learner.disk import WriteFaults
from softflow_learner.messages import canary_part, to_manifest
from softflow_learner.session import Session
from softflow_learner.shelf import ShelfError
from softflow_node.authentication import AuthenticationError, Freshness, Guard
from softflow_node.messages import check_command, check_message, sign_message
from softflow_node.node import SoftflowNode, latched
from softflow_policy.versions import State

WEIGHTS = "weights"
"""What of an offer may fail to be written."""
LISTEN = 2.0
"""[s] that a learner with an empty shelf listens for what robots have in force before its first offer."""
YIELD = 10.0
"""[s] for which a learner serves no weights after another one announced newer ones; if robots take them, it ends."""
ROLLED_BACK_TOLD = 32
"""Rolled back versions that a late robot still hears of."""


@dataclass(frozen=True)
class OfferRules:
    """When a new version is offered, and as what."""

    publish_updates: int
    canary_episodes: int
    """0 = every version is active at once"""
    canary_period: int
    margin: Margin


class Offering:
    """Announces each state on a latched writer of its own, so that a late robot hears the last of each."""

    def __init__(
        self,
        node: SoftflowNode[Any],
        session: Session,
        rules: OfferRules,
        guard: Guard,
        writes: WriteFaults,
    ) -> None:
        self._node, self.session, self.rules, self._guard = node, session, rules, guard
        self._writes = writes
        self._freshness = Freshness()
        self.canary: Canary | None = None
        self._robots: dict[str, int] = {}
        """Version in force, by robot."""
        self._updates = 0
        self._led: set[str] = set()
        """Robots that had one of our versions in force."""
        self._offered = self._superseded = False
        self._again = False
        """The last offer could not be written."""
        self._listen_until = self._serve_from = 0.0
        # Only the learner that leads serves: the other one's "not on offer" would come first, being shorter.
        self._service: Service | None = None
        depths = {State.ROLLED_BACK: ROLLED_BACK_TOLD, State.ACTIVE: 1, State.CANDIDATE: 1}
        self._writers = {
            state: node.create_publisher(PolicyManifest, "learner/policy_manifest", latched(depth))
            for state, depth in depths.items()
        }
        node.create_subscription(PolicyReceipt, "learner/policy_receipt", self._on_receipt, latched(100))
        node.create_subscription(PolicyManifest, "learner/policy_manifest", self._on_manifest, latched(100))
        node.create_service(PromotePolicy, "learner/promote_policy", self._on_promote)
        node.create_service(RollbackPolicy, "learner/rollback_policy", self._on_rollback)
        # Before old experience is read again: the episodes that a candidate has played are part of it.
        if rules.canary_episodes and session.shelf.active and session.shelf.candidate:
            self._begin_canary(session.shelf.candidate)

    # -- Offers

    def start(self) -> None:
        """Announce what the shelf says is in force; what was rolled back is not offered again."""
        shelf = self.session.shelf
        self._listen_until = time.monotonic() + LISTEN
        if not shelf.active:
            return  # robots may run a version that this learner has yet to hear of
        self._offered = True
        for version in shelf.rolled_back[-ROLLED_BACK_TOLD:]:
            self._announce(version)
        self._announce(shelf.active)
        if self.canary is not None:
            self._announce(self.canary.candidate)

    def poll(self) -> None:
        """The first offer of a learner that comes to robots with an empty shelf; the end of a canary."""
        self._serve()
        if not self._writes.due(WEIGHTS):
            return
        first = not self._offered and time.monotonic() >= self._listen_until
        if first or (self._again and self.canary is None):
            self.offer()
        if self.canary is not None:
            self._judge(self.canary)

    def _judge(self, canary: Canary) -> None:
        verdict, version = canary.verdict(), canary.candidate
        if verdict is None:
            return
        try:
            if verdict.promoted:
                self.session.shelf.promote(version, verdict.reason)
            else:
                self.session.shelf.withdraw(version, verdict.reason)
        except OSError as error:
            self._writes.failed(WEIGHTS, error)
            return
        self._writes.written(WEIGHTS)
        self.canary = None
        self._announce(version)

    def after_update(self) -> None:
        """Count an update; offer a new version when it is time."""
        self._updates += 1
        rules = self.rules
        wait = rules.canary_period if rules.canary_episodes else rules.publish_updates
        if self._updates >= wait and self.canary is None and self._offered:
            self.offer()

    def next_state(self) -> State:
        """What the next version is: it goes on trial, waits for a word, or is in force at once."""
        tried = self.rules.canary_episodes > 0 and self._in_force() > 0
        waits = self.session.shelf.held or self._superseded
        return State.CANDIDATE if tried or waits else State.ACTIVE

    def offer(self) -> None:
        """Put the policy as it is now on the shelf, and announce it if it is for the robots.

        `poll` tries again what the disk did not take: nothing is announced that is not on it.
        """
        self._updates, self._again = 0, False
        if self._superseded:
            return
        state = self.next_state()
        try:
            info = self.session.publish(state).info
        except OSError as error:
            self._again = True
            self._writes.failed(WEIGHTS, error)
            return
        self._writes.written(WEIGHTS)
        self._offered = True
        if state is State.CANDIDATE and not self.rules.canary_episodes:
            self._say(f"policy version {info.version} waits on the shelf: the last one was rolled back")
            return
        if state is State.CANDIDATE:
            self._begin_canary(info.version)
        self._serve_from = 0.0
        self._announce(info.version)

    def _begin_canary(self, version: int) -> None:
        rules = self.rules
        self.canary = Canary(version, self._in_force(), rules.canary_episodes, rules.margin)

    def judge(self, payload: bytes) -> None:
        """A segment that was added to the replay."""
        if self.canary is not None:
            self.canary.add(canary_part(payload))

    def _in_force(self) -> int:
        """The version that robots have, be it another learner's; 0 = none."""
        shelf = self.session.shelf
        foreign = [v for v in self._robots.values() if v not in shelf.entries]
        return max([shelf.active, *foreign])

    def _announce(self, version: int) -> None:
        entry = self.session.shelf.entries[version]
        message = to_manifest(entry)
        message.header.stamp = self._node.get_clock().now().to_msg()
        sign_message(self._guard, message)
        self._writers[entry.state].publish(message)
        self._node.counters["policy_version"] = self.session.shelf.active
        self._node.counters["canary_version"] = self.canary.candidate if self.canary else 0
        why = f": {entry.reason}" if entry.reason else ""
        state = entry.state.name.lower().replace("_", " ")
        self._say(f"policy version {version} (step {entry.gradient_step}) announced as {state}{why}")

    def _say(self, text: str) -> None:
        self._node.get_logger().info(text)

    # -- What robots say

    def _on_receipt(self, receipt: PolicyReceipt) -> None:
        if not self._genuine("forged_receipt", receipt):
            return
        entry = self.session.shelf.entries.get(receipt.version)
        ours = entry is not None and entry.sha256 == receipt.sha256
        if receipt.outcome == PolicyReceipt.REFUSED:
            self._on_refusal(receipt, ours)
            return
        if receipt.outcome != PolicyReceipt.ACTIVE:
            return
        if ours:
            self._led.add(receipt.robot)
        self._robots[receipt.robot] = receipt.version
        if not ours and receipt.version >= self.session.version:
            self._on_foreign(receipt)
        elif ours and receipt.version in self.session.shelf.rolled_back:  # it was away when that was said
            self._announce(receipt.version)
            if self.session.shelf.active:
                self._announce(self.session.shelf.active)

    def _on_refusal(self, receipt: PolicyReceipt, ours: bool) -> None:
        text = f"{receipt.robot} refused version {receipt.version}: {receipt.detail}"
        self._node.refuse("weights", text)
        if ours and self.canary is not None and receipt.version == self.canary.candidate:
            self.canary.refuse(text)

    def _on_foreign(self, receipt: PolicyReceipt) -> None:
        """A robot that comes with another learner's weights gets newer ones; one that went over to it is lost."""
        said = f"{receipt.robot} has version {receipt.version} of another learner in force"
        if receipt.robot in self._led:
            # Two that serve the same robots would take each other's experience.
            self._superseded, self.canary, self._node.finished = True, None, True
            self._node.refuse("other_learner", f"{said}; this learner ends, start it again to take over")
            return
        self._say(f"{said}; versions go on from there")
        self.session.skip_to(receipt.version)
        if self._offered:
            self.canary = None
            self.offer()

    def _genuine(self, what: str, message: Any) -> bool:
        try:
            check_message(self._guard, message)
        except AuthenticationError as error:
            self._node.refuse(what, error)
            return False
        return True

    def _on_manifest(self, manifest: PolicyManifest) -> None:
        if not self._genuine("forged_manifest", manifest):
            return
        entry = self.session.shelf.entries.get(manifest.version)
        ours = entry is not None and entry.sha256 == manifest.sha256
        if not ours and manifest.version >= self.session.version and manifest.state != State.ROLLED_BACK:
            self._node.counters["manifests_of_others"] += 1
            self._serve_from = time.monotonic() + YIELD

    # -- Services

    def _serve(self) -> None:
        wanted = self._offered and time.monotonic() >= self._serve_from
        if wanted and self._service is None:
            name = "learner/fetch_policy_block"
            self._service = self._node.create_service(FetchPolicyBlock, name, self._on_fetch)
        elif not wanted and self._service is not None:
            self._node.destroy_service(self._service)
            self._service = None

    def _on_fetch(
        self, request: FetchPolicyBlock.Request, response: FetchPolicyBlock.Response
    ) -> FetchPolicyBlock.Response:
        try:
            data, size = self.session.shelf.block(request.version, request.offset, request.length)
        except (ValueError, OSError) as error:
            self._node.refuse("policy_block", error)
            response.message = str(error)
            return response
        response.ok, response.size, response.crc32 = True, size, zlib.crc32(data)
        response.data = array("B", data)
        return response

    def _on_promote(
        self, request: PromotePolicy.Request, response: PromotePolicy.Response
    ) -> PromotePolicy.Response:
        try:
            check_command(self._guard, self._freshness, request)
            version = self.promote(request.version, request.reason)
            response.ok, response.message = True, f"version {version} is announced as active"
        except AuthenticationError as error:
            self._node.refuse("forged_promotion", error)
            response.message = str(error)
        except (ValueError, OSError) as error:
            self._node.refuse("promotion", error)
            response.message = str(error)
        return response

    def promote(self, version: int, reason: str) -> int:
        """Put a version of the shelf in force; returns its number, a new one if it had been rolled back.

        Raises:
            ShelfError: naming field, value and bound.
        """
        self._check_request(reason)
        shelf = self.session.shelf
        if version in shelf.rolled_back:
            version = self.session.republish(version, reason).info.version
        else:
            shelf.promote(version, reason)
        self._end_canary(version)
        self._updates = 0
        self._announce(version)
        return version

    def _end_canary(self, promoted: int) -> None:
        """A newer candidate is judged anew, against the version that was promoted; an older one is withdrawn."""
        if self.canary is None:
            return
        candidate = self.canary.candidate
        if candidate < promoted:
            self.canary.refuse(f"version {promoted} was promoted in its place")
            return
        self.canary = None
        if candidate > promoted:
            self._begin_canary(candidate)

    def _on_rollback(
        self, request: RollbackPolicy.Request, response: RollbackPolicy.Response
    ) -> RollbackPolicy.Response:
        try:
            check_command(self._guard, self._freshness, request)
            response.version = self.rollback(request.version, request.reason)
            response.ok, response.message = True, f"version {response.version} is announced as active"
            if not self.rules.canary_episodes:
                response.message += "; new versions wait on the shelf until one is promoted"
        except AuthenticationError as error:
            self._node.refuse("forged_rollback", error)
            response.message = str(error)
        except (ValueError, OSError) as error:
            self._node.refuse("rollback", error)
            response.message = str(error)
        return response

    def rollback(self, version: int, reason: str) -> int:
        """Go back to an older version, 0 = the one before; returns its number.

        Raises:
            ShelfError: naming field, value and bound.
        """
        self._check_request(reason)
        target, newer = self.session.shelf.roll_back(version, reason)
        self.canary, self._updates = None, 0
        for withdrawn in newer:
            self._announce(withdrawn)
        self._announce(target)
        return target

    def _check_request(self, reason: str) -> None:
        if not reason.strip():
            raise ShelfError("reason is empty, must say why")
