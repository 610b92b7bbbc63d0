"""The episode manager: resets the scene, judges every step, announces the borders of episodes."""

from __future__ import annotations

import os
import sys
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionClient
from rclpy.task import Future
from softflow_msgs.action import ResetScene
from softflow_msgs.msg import (
    EpisodeEvent,
    HandDescription,
    HandHealth,
    Observation,
    PolicyManifest,
    RecordedEpisode,
    RewardLabel,
    SuccessVerdict,
)

from softflow_node.messages import numpy32
from softflow_node.node import SoftflowNode, latched, run_node, stream
from softflow_node.parameters import bounded
from softflow_tasks.camera_watch import CameraWatch, why_blind
from softflow_tasks.episode import (
    CLASSIFIER,
    MODES,
    REWARDS,
    TASK,
    Episode,
    Outcome,
    OutOfOrderError,
    episode_seed,
)
from softflow_tasks.hand_watch import HandWatch, Retry, why_not
from softflow_tasks.messages import from_verdict, to_event, to_label
from softflow_tasks.progress import EpisodeCount
from softflow_tasks.task import make_task, task_ids

LABEL_STEPS = {TASK: 10, CLASSIFIER: 1}
"""Rewards are sent in ranges of this many steps, and at the end of an episode. A label has one confidence: a
classifier's is another one each step."""
VERDICTS = "success_verdict"
SILENCE = 5.0
"""[s] after which a node that says nothing is not there."""
RUN_ID = "SOFTFLOW_RUN_ID"
"""Environment variable of whoever starts the graph: the same for every start of this node within one run."""
RESET_PAUSES = 1.0, 30.0
"""[s] after a reset that failed, at first and at most."""


@dataclass(frozen=True)
class EpisodeParameters:
    """Parameters of the episode manager."""

    task: str = bounded("CubeRotation-v0", choices=task_ids())
    mode: str = bounded("train", choices=MODES, doc="written into every episode")
    reward: str = bounded(
        TASK, choices=REWARDS, doc="who rewards a step and says what a success is; see docs/eyes.md"
    )
    seed: int = bounded(0, low=0, high=2**31 - 1, doc="of the start states")
    episodes: int = bounded(0, low=0, doc="end after so many; 0 = go on")
    first_index: int = bounded(0, low=0, doc="index of the first episode, to go on with an earlier run")
    progress: str = bounded(
        "", doc="file with the index of the next episode, for a restart in the same run; empty = none"
    )
    policy: bool = bounded(
        False, doc="no episode before a policy has said on `active_policy` what it acts by"
    )
    observers: int = bounded(
        3, low=1, high=100, doc="subscribers of `observation` to wait for before the first reset"
    )
    recorders: int = bounded(
        1, low=0, high=10, doc="readers of rewards and events to be matched with before it"
    )
    unseen_limit: float = bounded(
        0.5,
        low=0.0,
        high=60.0,
        unit="s",
        doc="robot time that an object may be out of sight, then the episode ends",
    )
    stall_timeout: float = bounded(
        10.0, low=1.0, high=3600.0, unit="s", doc="without an observation, or its verdict: start anew"
    )
    recorder_timeout: float = bounded(
        20.0,
        low=0.0,
        high=3600.0,
        unit="s",
        doc="wait so long for a recorder that is behind before the next episode begins without it",
    )


class EpisodeNode(SoftflowNode[EpisodeParameters]):
    """Runs episodes one after another; see `Episode` for how they are judged."""

    def __init__(self) -> None:
        super().__init__("episode_manager", EpisodeParameters)
        self.task = make_task(self.params.task)
        self.episode: Episode | None = None
        path = Path(self.params.progress) if self.params.progress else None
        self._count = EpisodeCount(path, os.environ.get(RUN_ID, ""), self.params.first_index)
        self._labelled = 0
        self._described = self._armed = False
        self._hand, self._cameras = HandWatch(), CameraWatch()
        self._retry = Retry(*RESET_PAUSES)
        self._reset_error = ""
        self._unseen, self._unseen_step = 0, 0
        self._awaited, self._awaited_since = "", 0.0
        self._robot_stamp = Time()
        self._last_seen = self._last_judged = self._started = time.monotonic()
        self._success_node = -SILENCE
        """When it last said something [s]."""
        self.event_pub = self.create_publisher(EpisodeEvent, "episode_event", latched(100))
        self.label_pub = self.create_recorded_publisher(RewardLabel, "reward_label")
        self.create_subscription(Observation, "observation", self._on_observation, stream())
        if self.params.reward == CLASSIFIER:
            self.create_subscription(SuccessVerdict, VERDICTS, self._on_verdict, stream())
        self.create_subscription(HandHealth, "hand_health", self._on_health, latched())
        self.create_subscription(DiagnosticArray, "camera_health", self._on_cameras, latched())
        self.create_subscription(PolicyManifest, "active_policy", self._on_policy, latched(10))
        self.create_subscription(HandDescription, "hand_description", self._on_description, latched())
        self.create_subscription(RecordedEpisode, "recorded_episode", self._on_recorded, latched())
        self._reset = ActionClient(self, ResetScene, "reset_scene")

    def poll(self) -> float:
        """Start the next episode when none runs and hand and cameras are well; look for a stall.

        A hand is not well before it has said so.
        """
        now = time.monotonic()
        for watch in (self._hand, self._cameras):
            if reminder := watch.reminder(now):
                self.get_logger().error(reminder)
        if self.episode is None:
            well = self._hand.heard and not self._hand.why and not self._cameras.why
            if well and self._has_weights() and now >= self._retry.due and self._is_recorded(now):
                self._begin()
        elif why := self._stalled(self.episode, now):
            self.counters["stalled_episodes"] += 1
            self.get_logger().error(f"{why}: episode is discarded")
            self._end(EpisodeEvent.DISCARDED, "stalled")
        return 0.1

    def _stalled(self, episode: Episode, now: float) -> str:
        limit = self.params.stall_timeout
        if now - self._last_seen > limit:
            return f"no observation for {limit} s"
        if episode.waits and now - self._last_judged > limit:
            what = f"{VERDICTS} of step {episode.steps + 1} has not come for {limit} s"
            return f"{what} ({episode.waits} observations wait): see what the node success says"
        return ""

    def fault(self) -> str:
        """Why no episode is played."""
        return self._hand.text() or self._cameras.text() or self._reset_error or self._silent()

    def _silent(self) -> str:
        """Who has not been heard of for too long."""
        now, limit = time.monotonic(), f"{SILENCE:.0f} s"
        late = now - self._started > SILENCE
        if late and not self._hand.heard:
            return f"hand_health has not come for {limit}: nobody knows whether the hand may be used"
        if late and not self._has_weights():
            return f"active_policy has not come for {limit}: the policy has no weights yet, its learner offers them"
        if self.params.reward == CLASSIFIER and now - max(self._success_node, self._started) > SILENCE:
            return f"the success node has said nothing for {limit}, or misses observations or pictures"
        return ""

    def _has_weights(self) -> bool:
        return self._armed or not self.params.policy

    def _begin(self) -> None:
        p = self.params
        if p.episodes and self._count.index >= p.first_index + p.episodes:
            self.finished = True
            return
        if not self._others_are_there():
            return
        seed = episode_seed(p.mode, p.seed, self._count.index)
        self.episode = Episode(self.task, uuid.uuid4().hex, self._count.index, seed, p.reward)
        self._labelled, self._last_seen = 0, time.monotonic()
        self._announce(EpisodeEvent.START, "")
        goal = ResetScene.Goal(episode_id=self.episode.episode_id, seed=seed)
        on_goal = partial(self._on_goal, goal.episode_id)
        self._reset.send_goal_async(goal).add_done_callback(on_goal)

    def _others_are_there(self) -> bool:
        p = self.params
        recorders = min(self.event_pub.get_subscription_count(), self.label_pub.get_subscription_count())
        observers = self.count_subscribers("observation")
        judged = p.reward == TASK or time.monotonic() - self._success_node <= SILENCE
        others = observers >= p.observers and recorders >= p.recorders and judged
        return bool(self._reset.server_is_ready() and others)

    def _is_recorded(self, now: float) -> bool:
        """Whether the recorder has the last episode: one that falls further behind overwrites what it has not taken."""
        if self._awaited and not self.count_publishers("recorded_episode"):
            self._awaited = ""  # Whoever records here does not say what it has.
        elif self._awaited and now - self._awaited_since > self.params.recorder_timeout:
            self.counters["recorder_behind"] += 1
            self.get_logger().error(
                f"the recorder has not got episode {self._awaited} in {self.params.recorder_timeout} s: going on"
            )
            self._awaited = ""
        return not self._awaited

    def _on_recorded(self, message: RecordedEpisode) -> None:
        if message.why:
            self.counters["incomplete_episodes"] += 1
        if message.episode_id in (self._awaited, ""):
            self._awaited = ""  # A recorder that has just begun knows of no episode before.

    def _on_goal(self, episode_id: str, future: Future) -> None:
        if not self._is_running(episode_id):
            return
        handle = future.result()
        if handle is None or not handle.accepted:
            self._reset_failed("the goal was not accepted")
        else:
            handle.get_result_async().add_done_callback(partial(self._on_reset, episode_id))

    def _is_running(self, episode_id: str) -> bool:
        """An answer about an episode that was given up meanwhile is of no use."""
        return self.episode is not None and self.episode.episode_id == episode_id

    def _on_reset(self, episode_id: str, future: Future) -> None:
        if not self._is_running(episode_id):
            return
        result = future.result()
        if result is None or not result.result.ok:
            self._reset_failed(result.result.message if result else "no result")
            return
        self._retry.succeeded()
        self._reset_error = ""

    def _reset_failed(self, why: str) -> None:
        self.counters["failed_resets"] += 1
        self._retry.failed(time.monotonic())
        self._reset_error = f"reset_scene failed: {why}"
        self.get_logger().error(f"{self._reset_error}; again in {self._retry.pause:.0f} s")
        self._end(EpisodeEvent.DISCARDED, f"reset failed: {why}")

    def _on_observation(self, message: Observation) -> None:
        episode = self.episode
        if episode is None or message.episode_id != episode.episode_id:
            self.counters["observations_of_other_episodes"] += 1
            return
        self._last_seen, self._robot_stamp = time.monotonic(), message.header.stamp
        if self._too_long_unseen(message):
            return
        if not episode.waits:
            self._last_judged = self._last_seen
        try:
            self._follow(episode, episode.observe(message.step, numpy32(message.state)))
        except OutOfOrderError as error:
            self.refuse("observation", error)
            self._end(EpisodeEvent.DISCARDED, str(error))
            return
        except ValueError as error:
            self.refuse("observation", error)

    def _on_verdict(self, message: SuccessVerdict) -> None:
        episode, self._success_node = self.episode, time.monotonic()
        if not message.episode_id:
            return
        if episode is None or message.episode_id != episode.episode_id:
            self.counters["verdicts_of_other_episodes"] += 1
            return
        try:
            self._follow(episode, episode.hear(from_verdict(message)))
        except OutOfOrderError as error:
            self.refuse("verdict", error)
            self._end(EpisodeEvent.DISCARDED, str(error))
        except ValueError as error:
            self.refuse("verdict", error)

    def _follow(self, episode: Episode, outcome: Outcome | None) -> None:
        """Say what has been judged."""
        if outcome is None:
            return
        self._last_judged = time.monotonic()
        if episode.steps - self._labelled >= LABEL_STEPS[episode.reward] or episode.outcome is not None:
            self._label()
        if episode.outcome is not None:
            kind = EpisodeEvent.TERMINATED if outcome.terminated else EpisodeEvent.TRUNCATED
            self._end(kind, outcome.cause)

    def _too_long_unseen(self, message: Observation) -> bool:
        """End the episode when a sensor has had nothing new for too long: what is judged then is not what happens."""
        names = [n for n, valid in zip(message.sensor_names, message.sensor_valid, strict=False) if not valid]
        if not names or message.step != self._unseen_step + 1:
            self._unseen = 0
        self._unseen_step = message.step
        if not names:
            return False
        self._unseen += 1
        self.counters["observations_without_sight"] += 1
        if self._unseen <= self.params.unseen_limit * self.task.control_hz:
            return False
        self._cut(f"{names[0]} out of sight")
        return True

    def _on_health(self, message: HandHealth) -> None:
        """While the hand is down there is no episode: the running one ends with the cause, the next one waits."""
        before, why = self._hand.why, why_not(message.mode, message.reason, message.faults)
        if self._hand.look(why, time.monotonic()):
            self.counters["hand_stops"] += 1
            self.get_logger().error(f"{self._hand.text()}; no new episode until then")
        elif before and not why:
            self._retry.succeeded()
            self.get_logger().info(f"the hand is well again after: {before}")
        if why:
            self._cut(why)

    def _on_cameras(self, message: DiagnosticArray) -> None:
        """While a camera is down nobody knows what happens: as with a hand that is down."""
        before = self._cameras.why
        faults = {s.name: s.message if s.level != DiagnosticStatus.OK else "" for s in message.status}
        why = why_blind(faults)
        if self._cameras.look(why, time.monotonic()):
            self.counters["camera_stops"] += 1
            self.get_logger().error(f"{self._cameras.text()}; no new episode until then")
        elif before and not why:
            self.get_logger().info(f"the cameras are well again after: {before}")
        if why:
            self._cut(why)

    def _cut(self, why: str) -> None:
        """What was judged before is worth learning from; an episode without a step is not."""
        if self.episode is None:
            return
        judged = self.episode.steps > 0
        if judged:
            self._label()
        self._end(EpisodeEvent.TRUNCATED if judged else EpisodeEvent.DISCARDED, why)

    def _on_policy(self, message: PolicyManifest) -> None:
        self._armed |= message.state == PolicyManifest.ACTIVE

    def _on_description(self, _: HandDescription) -> None:
        """A driver says once what it is: at the second time another one has come, which knows of no episode."""
        if self._described and self.episode is not None:
            self.get_logger().warning("the hand driver was started again: episode is discarded")
            self._end(EpisodeEvent.DISCARDED, "driver started again")
        self._described = True

    def _label(self) -> None:
        episode = self.episode
        assert episode is not None
        length = LABEL_STEPS[episode.reward]
        for start in range(self._labelled, episode.steps, length):
            label = to_label(episode, start, min(start + length, episode.steps))
            label.header.stamp = self._robot_stamp
            self.label_pub.publish(label)
        self._labelled = episode.steps

    def _end(self, kind: int, cause: str) -> None:
        if self.episode is None:
            return
        self._announce(kind, cause)
        if kind != EpisodeEvent.DISCARDED:
            self.counters["episodes"] += 1
            self._count.advance()
        self._awaited, self._awaited_since = self.episode.episode_id, time.monotonic()
        # The answer to a reset that is on its way is of no use any more.
        self.episode = None

    def _announce(self, kind: int, cause: str) -> None:
        episode = self.episode
        assert episode is not None
        event = to_event(episode, kind, cause, self.params.mode)
        event.header.stamp = self._robot_stamp
        self.event_pub.publish(event)
        if kind != EpisodeEvent.START:
            figures = ", ".join(
                f"{k} {v:.2f}" for k, v in zip(event.metric_names, event.metric_values, strict=True)
            )
            self.get_logger().info(f"episode {episode.index} {cause}: {figures}")

    def close(self) -> None:
        """What is cut off by the end of the node is worth learning from, but no measurement and no demonstration."""
        if self.episode is not None and self.episode.steps > 0:
            self._label()
            train = self.params.mode == "train"
            self._end(EpisodeEvent.TRUNCATED if train else EpisodeEvent.DISCARDED, "interrupted")


def main() -> None:
    """Entry point of `episode_node`."""
    sys.exit(run_node(EpisodeNode))


if __name__ == "__main__":
    main()
