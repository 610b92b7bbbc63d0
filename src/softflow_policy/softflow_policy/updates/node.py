"""The policy node's weights: hears announcements, fetches, has them checked, and swaps at a chunk border."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rclpy.task import Future as RosFuture
from softflow_msgs.msg import PolicyManifest, PolicyReceipt
from softflow_msgs.srv import FetchPolicyBlock

from softflow_node.authentication import AuthenticationError, Guard
from softflow_node.messages import check_message, sign_message
from softflow_node.node import SoftflowNode, latched
from softflow_node.parameters import ParameterError
from softflow_policy.cache import RECORD, Cache
from softflow_policy.download import Download
from softflow_policy.loaded import LoadedPolicy, load_policy
from softflow_policy.loader import Loader
from softflow_policy.messages import from_manifest, to_manifest, to_receipt
from softflow_policy.versions import Announcement, State, Versions
from softflow_policy.weights import WeightsError
from softflow_tasks.task import Task

FETCH_TIMEOUT = 5.0
"""[s] after which a block is asked for again."""
SETTLE = 0.2
"""[s] that announcements are collected: a late joiner hears those of one change in any order."""
ATTEMPTS = 5
"""Answers without a block in a row after which a version is given up; another learner may answer in between."""
RECEIPTS = 10
"""Of refusals and trials, that a late learner still gets from each robot."""


class WeightsUpdates:
    """Owns the weights in force and the candidate; `at_border` is the only place where they change."""

    def __init__(self, node: SoftflowNode[Any], task: Task, learner: str, cache: str, guard: Guard) -> None:
        self._node, self._task, self._guard = node, task, guard
        self.active: LoadedPolicy | None = None
        self.candidate: LoadedPolicy | None = None
        store = self._open_cache(cache)
        self._cached = self._from_cache(store)
        self.versions = Versions(store.rolled_back if store else ())
        self._loader = Loader(task, store)
        self._heard: list[tuple[float, PolicyManifest]] = []
        self._download: Download | None = None
        self._loading: tuple[Announcement, Future[LoadedPolicy]] | None = None
        self._storing: Future[None] | None = None
        self._ready: LoadedPolicy | None = None
        self._ask_again = 0.0
        self._denied = 0
        self._call: RosFuture | None = None
        self._refused: deque[tuple[int, str, str]] = deque(maxlen=64)
        self._announce = node.create_publisher(PolicyManifest, "active_policy", latched(10))
        # A writer of its own for what is in force, so that a late learner hears that alone and not its history.
        self._in_force, self._receipts = (
            node.create_publisher(PolicyReceipt, f"{learner}/policy_receipt", latched(depth))
            for depth in (1, RECEIPTS)
        )
        self._manifests = node.create_subscription(
            PolicyManifest, f"{learner}/policy_manifest", self._on_manifest, latched(100)
        )
        self._fetch = node.create_client(FetchPolicyBlock, f"{learner}/fetch_policy_block")

    # -- Start

    def start(self, path: str) -> None:
        """Begin with the newer one of a weights file ("" = none) and what was in force when the node last ran.

        Raises:
            ParameterError: the file cannot be used.
        """
        given = self._given(path)
        found = max((w for w in (given, self._cached) if w), key=lambda w: w.info.version, default=None)
        if found is not None:
            self._ready = found
            self.at_border()

    def _given(self, path: str) -> LoadedPolicy | None:
        if not path:
            return None
        try:
            return load_policy(Path(path).read_bytes(), self._task)
        except (OSError, WeightsError) as error:
            name = self._node.get_name()
            raise ParameterError(f"{name}: parameter 'weights' is {path!r}: {error}") from error

    def _open_cache(self, directory: str) -> Cache | None:
        try:
            return Cache(Path(directory)) if directory else None
        except WeightsError as error:
            self._node.refuse("cache", error)
            # What was in force is lost to us; the learner offers it again.
            (Path(directory) / RECORD).unlink(missing_ok=True)
            return Cache(Path(directory))

    def _from_cache(self, cache: Cache | None) -> LoadedPolicy | None:
        try:
            data = cache.load() if cache else None
            return load_policy(data, self._task) if data else None
        except WeightsError as error:
            self._node.refuse("cache", error)
            return None

    # -- Announcements

    def _on_manifest(self, manifest: PolicyManifest) -> None:
        try:
            check_message(self._guard, manifest)
        except AuthenticationError as error:
            self._node.refuse("forged_manifest", error)
            return
        self._heard.append((time.monotonic(), manifest))

    def poll(self) -> None:
        """Look after announcements, the download and the loader; never waits."""
        now = time.monotonic()
        if self._heard and now - self._heard[0][0] >= SETTLE:
            heard, self._heard = [m for _, m in self._heard], []
            # Rollbacks first: they say whether an older version may come back.
            for manifest in sorted(heard, key=lambda m: -m.state):
                self._take(manifest)
        if self._download is not None and now >= self._ask_again:
            self._node.counters["fetch_timeouts"] += self._call is not None
            self._ask()
        self._look_at_loader()
        self._begin_download()
        if self.active is None:
            self.at_border()

    def _take(self, manifest: PolicyManifest) -> None:
        try:
            said = from_manifest(manifest)
            if manifest.state != State.ROLLED_BACK and said.layout_hash != self._task.layout.hash:
                raise WeightsError(
                    f"layout_hash of version {said.version} is {said.layout_hash!r}, task {self._task.id} has "
                    f"{self._task.layout.hash!r}"
                )
            if not self.versions.accept(said):
                self._node.counters["repeated_manifests"] += 1
        except WeightsError as error:
            self._refuse("manifest", manifest.version, manifest.sha256, error)

    def _refuse(self, what: str, version: int, sha256: str, error: object) -> None:
        self._node.refuse(what, error)
        told = (version, sha256, str(error))
        if told in self._refused:
            return  # the learner knows
        self._refused.append(told)
        self._receipt(version, sha256, PolicyReceipt.REFUSED, str(error))

    # -- Download and checks

    def _begin_download(self) -> None:
        if self._download is not None and not self.versions.wanted(self._download.said):
            self._download = None
            self._forget_call()
        if self._download is not None or self._loading is not None:
            return
        for said in (self.versions.goal, self.versions.trial):
            if said is None or self._is_loaded(said):
                continue
            self._download, self._denied = Download(said), 0
            self._ask()
            return

    def _is_loaded(self, said: Announcement) -> bool:
        return any(w is not None and w.sha256 == said.sha256 for w in (self._ready, self.candidate))

    def _ask(self) -> None:
        assert self._download is not None
        self._forget_call()
        ready = self._fetch.service_is_ready()
        self._ask_again = time.monotonic() + (FETCH_TIMEOUT if ready else SETTLE)
        if not ready:
            return
        d = self._download
        request = FetchPolicyBlock.Request(version=d.said.version, offset=d.offset, length=d.length)
        self._call = self._fetch.call_async(request)
        self._call.add_done_callback(self._on_block)

    def _forget_call(self) -> None:
        if self._call is not None:
            self._fetch.remove_pending_request(self._call)
            self._call = None

    def _on_block(self, call: RosFuture) -> None:
        download, answer = self._download, call.result()
        if download is None or call is not self._call or answer is None:
            return
        self._call = None
        self._denied = 0 if answer.ok else self._denied + 1
        if 0 < self._denied < ATTEMPTS:
            self._ask_again = time.monotonic() + SETTLE
            return
        try:
            if not answer.ok:
                raise WeightsError(answer.message)
            download.add(bytes(answer.data), answer.crc32, answer.size)
        except WeightsError as error:
            self._give_up(download.said, error)
            return
        if download.length:
            self._ask()
            return
        self._download = None
        self._loading = (download.said, self._loader.load(download.data, download.said))

    def _give_up(self, said: Announcement, error: object) -> None:
        self._download = None
        self.versions.give_up(said)
        self._refuse("weights", said.version, said.sha256, error)

    def _look_at_loader(self) -> None:
        if self._storing is not None and self._storing.done():
            failure = self._storing.exception()
            self._storing = None
            if failure is not None:
                self._node.refuse("cache", failure)
        if self._loading is None or not self._loading[1].done():
            return
        (said, future), self._loading = self._loading, None
        try:
            loaded = future.result()
        except WeightsError as error:
            self._give_up(said, error)
            return
        goal, trial = self.versions.goal, self.versions.trial
        if goal and goal.same_file(said):
            self._ready = loaded
        elif trial and trial.same_file(said):
            self._try_out(loaded)

    # -- Change

    def _try_out(self, loaded: LoadedPolicy) -> None:
        start = time.perf_counter()
        self.candidate = loaded
        self._announce.publish(to_manifest(loaded, State.CANDIDATE))
        if self.active is not None:
            # The last announcements are all that a driver knows that comes late.
            self._announce.publish(to_manifest(self.active, State.ACTIVE))
        held = time.perf_counter() - start
        self._receipt(loaded.info.version, loaded.sha256, PolicyReceipt.CANARY, swap_time=held)
        self._node.counters["canary_version"] = loaded.info.version
        self._node.get_logger().info(f"policy version {loaded.info.version} plays canary episodes")

    def at_border(self) -> bool:
        """Between two chunks: drop a candidate that is not wanted, put waiting weights in force; True if it did."""
        goal, trial, candidate = self.versions.goal, self.versions.trial, self.candidate
        if candidate and goal and goal.sha256 == candidate.sha256:
            self._ready = candidate
        if candidate and not (trial and trial.sha256 == candidate.sha256):
            self.candidate = None
            self._node.counters["canary_version"] = 0
        ready, self._ready = self._ready, None
        if ready is None or not self._may_act(ready):
            return False
        start = time.perf_counter()
        self.active = ready
        self._announce.publish(to_manifest(ready, State.ACTIVE))
        held = time.perf_counter() - start
        info = ready.info
        self.versions.put_in_force(info.version, ready.sha256)
        self._node.counters["policy_version"] = info.version
        self._node.get_logger().info(
            f"policy version {info.version} ({info.stage}, step {info.gradient_step}) is active"
        )
        self._receipt(info.version, ready.sha256, PolicyReceipt.ACTIVE, swap_time=held)
        if ready is not self._cached:
            self._storing = self._loader.store(ready, self.versions.rolled_back)
        return True

    def _may_act(self, ready: LoadedPolicy) -> bool:
        """At the start whatever there is; later what is still the goal."""
        goal = self.versions.goal
        return self.active is None or bool(goal and goal.sha256 == ready.sha256)

    # -- Receipts

    def _receipt(
        self, version: int, sha256: str, outcome: int, detail: str = "", swap_time: float = 0.0
    ) -> None:
        robot = self._node.get_namespace()
        message = to_receipt(robot, version, sha256, outcome, detail, swap_time)
        message.header.stamp = self._node.get_clock().now().to_msg()
        sign_message(self._guard, message)
        (self._in_force if outcome == PolicyReceipt.ACTIVE else self._receipts).publish(message)

    def close(self) -> None:
        """Finish what is being written."""
        self._loader.close()
