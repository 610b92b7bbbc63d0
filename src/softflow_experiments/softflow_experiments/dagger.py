"""Distilling a teacher into the chunk policy: labelled states, and rounds on the student's own states.

DAgger (arXiv 1011.0686) with chunks: the label of a state is the chunk that the teacher would have executed from there,
found by rolling the teacher forward from the saved simulator and going back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from softflow_experiments.privileged import Teacher
from softflow_experiments.rollout import ActingPolicy
from softflow_learner.replay import Batch
from softflow_sim.dynamics_env import DynamicCubeEnv

Floats32 = NDArray[np.float32]


@dataclass
class LabelledChunks:
    """States (N, S) and the teacher's chunks (N, h, A), aggregated over all rounds."""

    states: list[Floats32] = field(default_factory=list)
    chunks: list[Floats32] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.states)

    def add(self, state: Floats32, chunk: Floats32) -> None:
        """One more pair, copied."""
        self.states.append(np.array(state, np.float32))
        self.chunks.append(np.array(chunk, np.float32))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, S), (N, h, A). Raises ValueError when there is none."""
        if not self.states:
            raise ValueError("labelled chunks has 0 entries, must have at least 1")
        return torch.from_numpy(np.array(self.states)), torch.from_numpy(np.array(self.chunks))


def imitation_batch(states: torch.Tensor, chunks: torch.Tensor) -> Batch:
    """For `Agent.imitation_update`, which looks at nothing else; the rest holds no rewards."""
    count = len(states)
    return Batch(
        states,
        chunks,
        returns=torch.zeros(count),
        discounts=torch.zeros(count),
        next_states=states,
        steps=torch.full((count,), chunks.shape[1]),
        imitable=torch.ones(count, dtype=torch.bool),
    )


def teacher_chunk(env: DynamicCubeEnv, teacher: Teacher, state: Floats32, horizon: int) -> Floats32 | None:
    """The chunk (h, A) that the teacher would execute from here, looking at every step; the episode stays where it is.

    None where the episode would end before the chunk does.
    """
    saved = env.save()
    actions = []
    ended = False
    for _ in range(horizon):
        if ended:
            break
        actions.append(teacher(state, env.dynamics))
        state, _, terminated, truncated, _ = env.step(actions[-1])
        ended = terminated or truncated
    env.restore(saved)
    return np.array(actions) if len(actions) == horizon else None


def teacher_episode(
    env: DynamicCubeEnv, teacher: Teacher, seed: int, horizon: int, data: LabelledChunks
) -> None:
    """The teacher acts; every window of h steps becomes a pair."""
    state, _ = env.reset(seed=seed)
    states, actions = [state], []
    ended = False
    while not ended:
        actions.append(teacher(state, env.dynamics))
        state, _, terminated, truncated, _ = env.step(actions[-1])
        states.append(state)
        ended = terminated or truncated
    for start in range(len(actions) - horizon + 1):
        data.add(states[start], np.array(actions[start : start + horizon]))


def student_episode(
    env: DynamicCubeEnv,
    teacher: Teacher,
    student: ActingPolicy,
    *,
    seed: int,
    beta: float,
    label_every: int,
    data: LabelledChunks,
) -> int:
    """The student acts, each chunk the teacher's with probability `beta`; the teacher labels every so manieth state.

    Returns the episode's steps.
    """
    horizon = student.policy.spec.horizon
    rng = np.random.default_rng([seed, 2])
    state, _ = env.reset(seed=seed)
    step, ended = 0, False
    chunk: Floats32 = np.empty((0, 0), np.float32)
    while not ended:
        begins = step % horizon == 0
        label = teacher_chunk(env, teacher, state, horizon) if begins or step % label_every == 0 else None
        if label is not None:
            data.add(state, label)
        if begins:
            by_teacher = label is not None and rng.uniform() < beta
            chunk = label if by_teacher and label is not None else student.plan(state, seed, seed, step)
        state, _, terminated, truncated, _ = env.step(chunk[step % horizon])
        step += 1
        ended = terminated or truncated
    return step
