"""Between the classifier and its messages."""

from __future__ import annotations

from softflow_msgs.msg import Observation, SuccessVerdict

from softflow_policy.success.file import ClassifierInfo


def to_verdict(observation: Observation, probability: float, info: ClassifierInfo) -> SuccessVerdict:
    """What a classifier sees in the pictures of an observation."""
    return SuccessVerdict(
        header=observation.header,
        episode_id=observation.episode_id,
        step=observation.step,
        probability=probability,
        threshold=info.threshold,
        success_reward=info.success_reward,
    )
