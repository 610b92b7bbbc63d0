"""What a robot publishes in an episode, and its way through the recorder's and the learner's own parts."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from softflow_msgs.msg import ActionChunk, ChunkResult, EpisodeEvent, HandState, Observation, RewardLabel
from softflow_msgs.srv import PushExperience

from softflow_learner.journal import Journal
from softflow_learner.messages import add_payload, from_item
from softflow_learner.replay import Replay
from softflow_node.messages import floats32, to_stamp
from softflow_recorder.bag import load_typestore
from softflow_recorder.disk import DiskWatch
from softflow_recorder.images import KIND as IMAGE
from softflow_recorder.messages import to_item, to_label_payload, to_payloads
from softflow_recorder.outbox import Outbox
from softflow_recorder.recording import Options, Raw, Recordings
from softflow_recorder.spool import Spool

ROBOT, LAYOUT = "/hand0", "0" * 64
CHUNK = 5
"""[steps]"""
STATES_A_STEP = 5
"""Hand states between two observations."""
BATCH = 8
"""Items a call."""
TIME_STEP = 50_000_000
"""[ns]"""

Received = tuple[str, Any, bytes]
"""Topic, type, bytes."""


def make_messages(
    seed: int, steps: int, state: int, action: int, cameras: Sequence[str], size: int
) -> list[Received]:
    """An episode of random numbers as it comes over the wire; images of a few blurred spots each."""
    rng = np.random.default_rng(seed)
    ours: dict[str, Any] = {"episode_id": f"{seed:032x}"}
    event = partial(EpisodeEvent, **ours, episode_index=seed, task="bench", mode="train", seed=seed)
    begun = seed * (steps + 1) * TIME_STEP
    messages: list[tuple[str, Any]] = [("episode_event", event(kind=EpisodeEvent.START))]
    for step in range(steps + 1):
        stamp = to_stamp(begun + step * TIME_STEP)
        messages += [(f"{camera}/compressed", _image(rng, size, stamp)) for camera in cameras]
        messages += [("hand_state", _hand_state(rng, ours, step, action)) for _ in range(STATES_A_STEP)]
        messages.append(("observation", _observation(rng, ours, step, state, action, stamp)))
        if step == steps:
            break
        if step % CHUNK == 0:
            chunk = {**ours, "chunk_id": step // CHUNK + 1, "source": "policy", "policy_version": 3}
            values = floats32(rng.uniform(-1, 1, CHUNK * action))
            messages.append(("action_chunk", ActionChunk(**chunk, horizon=CHUNK, actions=values)))
            result = ChunkResult(**chunk, start_step=step, executed_steps=CHUNK, applied=values)
            messages.append(("chunk_result", result))
        label = RewardLabel(**ours, start_step=step, values=array("f", [rng.normal()]))
        messages.append(("reward_label", label))
    messages.append(
        ("episode_event", event(kind=EpisodeEvent.TRUNCATED, last_step=steps, cause="time_limit"))
    )
    return [(f"{ROBOT}/{topic}", type(m), bytes(serialize_message(m))) for topic, m in messages]


def _observation(
    rng: np.random.Generator, ours: dict[str, Any], step: int, state: int, action: int, stamp: Any
) -> Observation:
    made = Observation(
        **ours,
        step=step,
        task="bench",
        layout_hash=LAYOUT,
        state=floats32(rng.standard_normal(state)),
        applied_action=floats32(rng.uniform(-1, 1, action)),
    )
    made.header.stamp = stamp
    return made


def _hand_state(rng: np.random.Generator, ours: dict[str, Any], step: int, joints: int) -> HandState:
    values = [floats32(rng.standard_normal(joints)) for _ in range(5)]
    names = ("position", "velocity", "current", "applied_action", "command")
    return HandState(**ours, step=step, valid=[True] * joints, **dict(zip(names, values, strict=True)))


def _image(rng: np.random.Generator, size: int, stamp: Any) -> CompressedImage:
    pixels = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (size, size))
    made = CompressedImage(format="jpeg", data=array("B", cv2.imencode(".jpg", pixels)[1].tobytes()))
    made.header.stamp = stamp
    return made


class ExperiencePath:
    """Recorder and learner with a plain call between them."""

    def __init__(self, directory: Path, replay: Replay) -> None:
        bags = directory / "bags"
        bags.mkdir()
        share = Path(get_package_share_directory("softflow_msgs")) / "msg"
        options = Options({"robot": ROBOT}, 256_000, 1.0, True, 5.0)
        self._recordings = Recordings(
            bags, load_typestore({"softflow_msgs": share}), options, DiskWatch(bags, 0), self._closed, print
        )
        self._spool = Spool(directory / "spool")
        self._outbox = Outbox(bags, ROBOT, self._spool, partial(to_payloads, ROBOT), to_label_payload)
        self._journal = Journal(directory / "learner" / "experience")
        self._replay = replay
        self.bag_bytes = 0
        """[bytes] of the last bag."""

    def carry(self, messages: Sequence[Received]) -> list[float]:
        """An episode from its messages into the replay; [s] for bag, spool, journal and replay."""
        times = [time.perf_counter()]
        for topic, kind, data in messages:
            message = deserialize_message(data, kind)
            if kind is CompressedImage:
                self._recordings.add_shared(Raw(topic, IMAGE, data, message))
            else:
                self._recordings.add(Raw(topic, f"softflow_msgs/msg/{kind.__name__}", data, message))
        self._recordings.poll(time.monotonic())
        times.append(time.perf_counter())
        self._outbox.work()
        times.append(time.perf_counter())
        payloads = []
        while items := self._spool.pending(BATCH):
            payloads += self._push([to_item(ROBOT, self._spool.boot, item) for item in items])
            self._spool.acknowledge(self._journal.acknowledged(ROBOT, self._spool.boot))
        times.append(time.perf_counter())
        for payload in payloads:
            add_payload(self._replay, payload, LAYOUT)
        times.append(time.perf_counter())
        return np.diff(times).tolist()

    def _push(self, items: Sequence[Any]) -> list[bytes]:
        data = serialize_message(PushExperience.Request(items=list(items)))
        received = [from_item(item) for item in deserialize_message(data, PushExperience.Request).items]
        return [item.payload for item in self._journal.add(received).new]

    def _closed(self, bag: Path) -> None:
        self.bag_bytes = sum(file.stat().st_size for file in bag.iterdir())
        self._outbox.add(bag)
