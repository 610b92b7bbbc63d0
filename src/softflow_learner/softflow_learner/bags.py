"""Demonstrations from bags into the replay. Plain Python."""

from __future__ import annotations

from pathlib import Path

from softflow_learner.replay import Replay
from softflow_recorder.bag import episode_bags, read_episode


def load_bags(
    replay: Replay, directory: Path, layout_hash: str, successful_only: bool = False
) -> tuple[int, list[str]]:
    """Add every complete episode below `directory`; returns (episodes added, one line for each refused bag).

    `successful_only` passes over the episodes that did not succeed, without a word: they are no fault.

    Raises:
        ValueError: the directory holds no bag that can be used.
    """
    added, refused = 0, []
    for path in episode_bags(directory):
        try:
            episode = read_episode(path)
            if episode.layout_hash != layout_hash:
                raise ValueError(
                    f"{path}: layout_hash is {episode.layout_hash!r}, the task has {layout_hash!r}"
                )
            if successful_only and not episode.success:
                continue
            replay.add_episode_segment(
                episode.states,
                episode.actions,
                episode.rewards,
                terminated=episode.terminated,
                truncated=episode.truncated,
                source=episode.source,
                episode_id=episode.episode_id,
                final=True,
                interventions=episode.interventions,
            )
            added += 1
        except ValueError as error:
            refused.append(str(error))
    if not added:
        why = f" ({refused[0]})" if refused else ""
        kind = "successful episode" if successful_only else "usable episode"
        raise ValueError(f"demos: {str(directory)!r} holds no {kind}{why}")
    return added, refused
