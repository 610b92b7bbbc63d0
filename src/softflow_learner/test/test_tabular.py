"""The chunked critic's recursion against the exact values of a small MDP, by replay windows and TD targets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from softflow_learner import losses
from softflow_learner.replay import Batch, Replay

STATES, H, GAMMA = 5, 3, 0.9
CHUNKS = list(itertools.product((-1.0, 1.0), repeat=H))
"""The policy draws each of them with the same probability, whatever the state."""
REWARDS = np.random.default_rng(0).uniform(-1, 1, (STATES, 2))


def step(state: int, action: float) -> tuple[int, float, bool]:
    """Next state, reward, terminated: -1 walks on and ends behind the last state, +1 jumps."""
    reward = float(REWARDS[state, int(action > 0)])
    if action > 0:
        return (2 * state + 1) % STATES, reward, False
    return min(state + 1, STATES - 1), reward, state == STATES - 1


def play(state: int, chunk: tuple[float, ...]) -> tuple[list[int], list[float], bool]:
    """States visited, rewards, terminated."""
    states, rewards, terminated = [state], [], False
    for action in chunk:
        state, reward, terminated = step(state, action)
        states.append(state)
        rewards.append(reward)
        if terminated:
            break
    return states, rewards, terminated


def exact_values() -> np.ndarray:
    """V(s) of replanning every h steps: the linear Bellman equations, solved."""
    transition, reward = np.zeros((STATES, STATES)), np.zeros(STATES)
    for state, chunk in itertools.product(range(STATES), CHUNKS):
        states, rewards, terminated = play(state, chunk)
        reward[state] += sum(GAMMA**i * r for i, r in enumerate(rewards)) / len(CHUNKS)
        transition[state, states[-1]] += (not terminated) * GAMMA ** len(rewards) / len(CHUNKS)
    return np.linalg.solve(np.eye(STATES) - transition, reward)


def all_episodes(actions: int = H) -> tuple[Replay, np.ndarray]:
    """Every chunk once from every state, cut off by a time-out after it; places of the first steps."""
    replay, starts = Replay(1, 2, H, GAMMA, actions=actions), []
    for state, chunk in itertools.product(range(STATES), CHUNKS):
        states, rewards, terminated = play(state, chunk)
        starts.append(replay.size())
        replay.add_episode_segment(
            np.array(states, np.float32)[:, None],
            np.array(chunk[: len(rewards)])[:, None].repeat(2, 1),
            np.array(rewards),
            terminated=terminated,
            truncated=not terminated,
            source="teacher",
            episode_id=f"{state}{chunk}",
        )
    return replay, np.array(starts)


def test_the_chunked_critic_has_the_exact_values() -> None:
    replay, starts = all_episodes()
    batch = replay.windows(starts)
    following = batch.next_states[:, 0].long()
    table = torch.zeros(STATES, len(CHUNKS), dtype=torch.float64)
    for _ in range(300):
        next_values = table.mean(1)[following]
        target = losses.td_target(batch.returns.double(), batch.discounts.double(), next_values)
        table = target.reshape(table.shape)
    exact = exact_values()
    assert np.ptp(exact) > 0.5
    assert np.abs(table.mean(1).numpy() - exact).max() < 1e-3
    for state, (index, chunk) in itertools.product(range(STATES), enumerate(CHUNKS)):
        states, rewards, terminated = play(state, chunk)
        value = sum(GAMMA**i * r for i, r in enumerate(rewards))
        value += (not terminated) * GAMMA ** len(rewards) * exact[states[-1]]
        assert abs(float(table[state, index]) - value) < 1e-3


def test_windows_that_end_early_have_exact_targets_too() -> None:
    """A window that starts in the middle of a chunk is cut off by the time-out, and bootstraps there."""
    replay, _ = all_episodes()
    exact = exact_values()
    batch = replay.windows(np.arange(replay.size()))
    target = losses.td_target(
        batch.returns, batch.discounts, torch.from_numpy(exact).float()[batch.next_states[:, 0].long()]
    )
    place = 0
    for state, chunk in itertools.product(range(STATES), CHUNKS):
        states, rewards, terminated = play(state, chunk)
        value = 0.0 if terminated else exact[states[-1]]
        for i in reversed(range(len(rewards))):
            value = rewards[i] + GAMMA * value
            assert abs(float(target[place + i]) - value) < 1e-3
        place += len(rewards)
    assert place == replay.size()


def test_the_per_step_critic_learns_the_values_of_the_data_s_actions() -> None:
    """h-step returns of single actions: on data of the policy itself, exact as well."""
    replay, starts = all_episodes(actions=1)
    batch = replay.windows(starts)
    assert batch.actions.shape == (len(starts), 1, 2)
    following = batch.next_states[:, 0].long()
    first = np.array([chunk[0] > 0 for chunk in CHUNKS])
    table = torch.zeros(STATES, 2, dtype=torch.float64)
    for _ in range(300):
        next_values = table.mean(1)[following]
        target = losses.td_target(batch.returns.double(), batch.discounts.double(), next_values)
        targets = target.reshape(STATES, len(CHUNKS))
        table = torch.stack([targets[:, ~first].mean(1), targets[:, first].mean(1)], dim=1)
    assert np.abs(table.mean(1).numpy() - exact_values()).max() < 1e-3


# -- Experience as a robot makes it


def executed(rng: np.random.Generator) -> list[tuple[float, bool]]:
    """What is applied of one chunk, (action, by a human): all of it, or cut by a stop, or a human takes over."""
    chunk = [(action, False) for action in CHUNKS[rng.integers(len(CHUNKS))]]
    kind, cut = rng.integers(3), int(rng.integers(1, H))
    if kind == 0:
        return chunk
    human = [(float(rng.choice([-1.0, 1.0])), True) for _ in range(int(rng.integers(1, 2 * H)))]
    return chunk[:cut] + (human if kind == 2 else [])


def record(replay: Replay, name: str, rng: np.random.Generator) -> None:
    """One episode, chunk after chunk, to its termination or a time-out at any step; in two segments."""
    limit, states, rewards, applied = int(rng.integers(1, 16)), [int(rng.integers(STATES))], [], []
    terminated = False
    queue: list[tuple[float, bool]] = []
    while len(rewards) < limit and not terminated:
        queue = queue or executed(rng)
        applied.append(queue.pop(0))
        state, reward, terminated = step(states[-1], applied[-1][0])
        states.append(state)
        rewards.append(reward)
    actions, by_human = (np.array(column) for column in zip(*applied, strict=True))
    middle, n = len(rewards) // 2, len(rewards)
    for first, last in ((0, middle), (middle, n)) if middle else ((0, n),):
        replay.add_episode_segment(
            np.array(states[first : last + 1], np.float32)[:, None],
            actions[first:last, None].repeat(2, 1),
            np.array(rewards[first:last]),
            terminated=terminated and last == n,
            truncated=not terminated and last == n,
            source="policy",
            episode_id=name,
            interventions=by_human[first:last],
        )


Key = tuple[int, tuple[float, ...], int]
"""Of a window: state, chunk as the critic gets it, executed steps m."""


def keys(batch: Batch) -> list[Key]:
    return [
        (int(state), tuple(chunk), int(m))
        for state, chunk, m in zip(
            batch.states[:, 0], batch.actions[:, :, 0].tolist(), batch.steps, strict=True
        )
    ]


def key_of(state: int, chunk: tuple[float, ...]) -> Key:
    """The window of a chunk that is executed to its end, or to the episode's."""
    m = len(play(state, chunk)[1])
    return state, chunk[:m] + (chunk[m - 1],) * (H - m), m


@pytest.mark.parametrize("chunk_end", ["hold", "drop"])
def test_the_critic_is_exact_on_cut_chunks_takeovers_early_ends_and_padding(chunk_end: str) -> None:
    rng = np.random.default_rng(0)
    replay = Replay(1, 2, H, GAMMA, chunk_end=chunk_end)
    for index in range(150):
        record(replay, str(index), rng)
    batch = replay.windows(np.arange(replay.size()))
    early, ended = batch.steps < H, batch.discounts == 0
    assert all(kind.sum() > 20 for kind in (early & ended, early & ~ended, ~early & ended, ~early & ~ended))
    assert (~batch.imitable & ~early).sum() > 20, "a human took over in the middle"
    found, table = keys(batch), dict.fromkeys(keys(batch), 0.0)
    for _ in range(300):
        values = [np.mean([table[key_of(s, chunk)] for chunk in CHUNKS]) for s in range(STATES)]
        following = torch.tensor(values)[batch.next_states[:, 0].long()]
        target = losses.td_target(batch.returns.double(), batch.discounts.double(), following)
        table = dict(zip(found, target.tolist(), strict=True))
    exact = exact_values()
    assert np.abs(np.array(values) - exact).max() < 1e-3
    for (state, chunk, m), value in table.items():
        states, rewards, terminated = play(state, chunk[:m])
        wanted = sum(GAMMA**i * r for i, r in enumerate(rewards))
        wanted += (not terminated) * GAMMA**m * exact[states[-1]]
        assert len(rewards) == m and set(chunk[m:]) <= {chunk[m - 1]}
        assert abs(value - wanted) < 1e-3
