"""Episodes into bags of our own, with messages like those of the nodes. Plain Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from rosbags.interfaces import Nodetype
from rosbags.typesys.store import Typestore

from softflow_exchange.series import Times
from softflow_node.pictures import FORMAT
from softflow_recorder.bag import BagWriter, load_typestore
from softflow_recorder.episode import START, TELEOP, TERMINATED, TRUNCATED, EpisodeData
from softflow_recorder.images import KIND as IMAGE

CHUNK = 50
"""Steps of one chunk message."""
IMPORT = "import"
"""Source of rewards of which nobody knows who gave them."""


@cache
def our_types() -> Typestore:
    """Jazzy's types and those of softflow_msgs."""
    return load_typestore({"softflow_msgs": Path(get_package_share_directory("softflow_msgs")) / "msg"})


def write_episode(
    path: Path, episode: EpisodeData, times: Times, robot: str, custom: Mapping[str, str]
) -> None:
    """A closed bag of one episode. `times` (n+1,) [ns] are those of the states, `custom` tells the origin."""
    store = our_types()
    writer = BagWriter(path, store, {"robot": robot, "episode_id": episode.episode_id})
    for topic, name, stamp, message in _messages(episode, times, store):
        kind = name if "/" in name else f"softflow_msgs/msg/{name}"
        writer.write(f"{robot}/{topic}", kind, stamp, bytes(store.serialize_cdr(message, kind)))
    writer.set_custom(
        {
            "complete": "true",
            "task": episode.task,
            "index": str(episode.index),
            "mode": episode.mode,
            "source": episode.source,
            "success": str(episode.success).lower(),
            "layout_hash": episode.layout_hash,
            "metrics": json.dumps(episode.metrics),
            **custom,
        }
    )
    writer.close()


Published = tuple[str, str, int, Any]
"""Topic, name of the type (of softflow_msgs, or whole), stamp [ns], message."""


def _messages(episode: EpisodeData, times: Times, store: Typestore) -> Iterator[Published]:
    """In the order in which nodes would publish them."""
    make = _Maker(store)
    ours = {"episode_id": episode.episode_id}
    stamps = [int(time) for time in times]
    yield "episode_event", "EpisodeEvent", stamps[0], _event(make, episode, START, stamps[0])
    chunks = {chunk.start: (number, chunk) for number, chunk in enumerate(_chunks(episode), start=1)}
    applied = np.concatenate([np.zeros_like(episode.actions[:1]), episode.actions])
    for step, stamp in enumerate(stamps):
        for camera, images in episode.images.items():
            topic, data = f"camera/{camera}/image/compressed", np.frombuffer(images[step], np.uint8)
            yield topic, IMAGE, stamp, make(IMAGE, stamp, format=_format(images[step]), data=data)
        observation = make(
            "Observation",
            stamp,
            **ours,
            seed=episode.seed,
            step=step,
            obs_id=step + 1,
            task=episode.task,
            layout_hash=episode.layout_hash,
            state=episode.states[step],
            applied_action=applied[step],
        )
        yield "observation", "Observation", stamp, observation
        if step in chunks:
            number, chunk = chunks[step]
            yield from _chunk_messages(make, episode, number, chunk, stamps)
    for source, steps in _sources(episode):
        values: dict[str, Any] = {"start_step": steps.start, "values": episode.rewards[steps]}
        label = make("RewardLabel", stamps[-1], **ours, **values, source=source, confidence=1.0)
        yield "reward_label", "RewardLabel", stamps[-1], label
    kind = TERMINATED if episode.terminated else TRUNCATED
    yield "episode_event", "EpisodeEvent", stamps[-1], _event(make, episode, kind, stamps[-1])


def _chunks(episode: EpisodeData) -> list[slice]:
    """Steps that one source applied, `CHUNK` at most."""
    who = np.stack([episode.interventions.astype(np.uint64), episode.policy_versions], axis=1)
    changes = {int(i) + 1 for i in np.flatnonzero((who[1:] != who[:-1]).any(axis=1))}
    borders = sorted(changes | set(range(0, episode.steps, CHUNK)))
    return [slice(a, b) for a, b in zip(borders, [*borders[1:], episode.steps], strict=True)]


def _sources(episode: EpisodeData) -> Iterator[tuple[str, slice]]:
    """Who gave the rewards, and of which steps."""
    start = 0
    for source, steps in groupby(episode.reward_sources or (IMPORT,) * episode.steps):
        count = len(list(steps))
        yield source, slice(start, start + count)
        start += count


def _chunk_messages(
    make: _Maker, episode: EpisodeData, number: int, chunk: slice, stamps: list[int]
) -> Iterator[Published]:
    """The chunk and what became of it: all of it was applied."""
    actions = episode.actions[chunk].reshape(-1)
    count = chunk.stop - chunk.start
    by_human = bool(episode.interventions[chunk.start])
    # The first chunk names the episode's source.
    source = episode.source if number == 1 else TELEOP if by_human else _other_source(episode)
    common: dict[str, Any] = {
        "episode_id": episode.episode_id,
        "chunk_id": number,
        "obs_id": chunk.start + 1,
        "action_dim": episode.actions.shape[1],
        "policy_version": int(episode.policy_versions[chunk.start]),
        "log_prob": float("nan"),
    }
    asked = make(
        "ActionChunk",
        stamps[chunk.start],
        **common,
        source=source,
        obs_step=chunk.start,
        dt=(stamps[1] - stamps[0]) / 1e9,
        horizon=count,
        actions=actions,
        q_value=float("nan"),
        execute_steps=count,
        expiry=make.time(stamps[chunk.stop]),
    )
    yield "action_chunk", "ActionChunk", stamps[chunk.start], asked
    done = make(
        "ChunkResult",
        stamps[chunk.stop],
        **common,
        source=TELEOP if by_human else _other_source(episode),
        start_step=chunk.start,
        executed_steps=count,
        applied=actions,
    )
    yield "chunk_result", "ChunkResult", stamps[chunk.start], done


def _other_source(episode: EpisodeData) -> str:
    """Who acts while no human does."""
    return episode.source if episode.source != TELEOP else "policy"


def _event(make: _Maker, episode: EpisodeData, kind: int, stamp: int) -> Any:
    started = kind == START
    return make(
        "EpisodeEvent",
        stamp,
        episode_id=episode.episode_id,
        episode_index=episode.index,
        kind=kind,
        cause="" if started else episode.cause,
        last_step=0 if started else episode.steps,
        seed=episode.seed,
        task=episode.task,
        mode=episode.mode,
        success=episode.success and not started,
        metric_names=[] if started else list(episode.metrics),
        metric_values=np.array([] if started else list(episode.metrics.values())),
    )


def _format(image: bytes) -> str:
    """Of a CompressedImage; pictures are RGB."""
    return FORMAT if image.startswith(b"\xff\xd8") else FORMAT.replace("jpeg", "png")


class _Maker:
    """Makes messages; a field that is not given is zero or empty, also one that a later version adds."""

    def __init__(self, store: Typestore) -> None:
        self._store = store

    def __call__(self, name: str, stamp: int, **values: Any) -> Any:
        kind = name if "/" in name else f"softflow_msgs/msg/{name}"
        message = self._empty(kind)
        for key, value in values.items():
            if not hasattr(message, key):
                raise AttributeError(f"{kind} has no field {key!r}")
            object.__setattr__(message, key, value)
        object.__setattr__(message.header, "stamp", self.time(stamp))
        return message

    def time(self, stamp: int) -> Any:
        """[ns] as builtin_interfaces/Time."""
        return self._store.types["builtin_interfaces/msg/Time"](
            sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000
        )

    def _empty(self, kind: str) -> Any:
        fields = self._store.fielddefs[kind][1]
        return self._store.types[kind](**{name: self._zero(about) for name, about in fields})

    def _zero(self, about: Any) -> Any:
        node, detail = about
        if node == Nodetype.NAME:
            return self._empty(detail)
        if node == Nodetype.BASE:
            return {"string": "", "bool": False}.get(detail[0], 0)
        element, size = detail
        length = size if node == Nodetype.ARRAY else 0
        if element[0] == Nodetype.BASE and element[1][0] != "string":
            return np.zeros(length, dtype=element[1][0])
        return [self._zero(element) for _ in range(length)]
