"""Between episodes and messages."""

from __future__ import annotations

import numpy as np
from softflow_msgs.msg import EpisodeEvent, RewardLabel, SuccessVerdict

from softflow_node.messages import floats32
from softflow_tasks.episode import Episode, Verdict


def to_label(episode: Episode, start: int, stop: int) -> RewardLabel:
    """Rewards of steps `start` to `stop`; the header is the sender's."""
    return RewardLabel(
        episode_id=episode.episode_id,
        start_step=start,
        values=floats32(np.array(episode.rewards[start:stop], dtype=np.float32)),
        source=episode.reward,
        confidence=min(episode.confidences[start:stop]),
        revision=0,
    )


def to_event(episode: Episode, kind: int, cause: str, mode: str) -> EpisodeEvent:
    """A border of the episode; the header is the sender's."""
    metrics = episode.task.metrics(episode.progress)
    return EpisodeEvent(
        episode_id=episode.episode_id,
        episode_index=episode.index,
        kind=kind,
        cause=cause,
        last_step=episode.steps,
        seed=episode.seed,
        task=episode.task.id,
        mode=mode,
        success=episode.success,
        metric_names=list(metrics),
        metric_values=list(metrics.values()),
    )


def from_verdict(message: SuccessVerdict) -> Verdict:
    """Raises ValueError that names field, value and bound."""
    return Verdict(message.step, message.probability, message.threshold, message.success_reward)
