"""The replay's windows against a brute-force reference, and its book-keeping of open episodes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from softflow_learner.replay import Batch, Replay
from softflow_learner.segments import SegmentError
from softflow_learner.storage import ReplayFullError

S, A, GAMMA = 3, 2, 0.9
TENSORS = [f.name for f in dataclasses.fields(Batch) if "images" not in f.name]


@dataclass
class Episode:
    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    source: str
    name: str
    interventions: np.ndarray | None = None

    @property
    def steps(self) -> int:
        return len(self.rewards)


def random_episode(rng: np.random.Generator, index: int, source: str | None = None) -> Episode:
    n = int(rng.integers(1, 14))
    return Episode(
        rng.normal(size=(n + 1, S)).astype(np.float32),
        rng.uniform(-1, 1, (n, A)).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
        bool(rng.integers(2)),
        source or ("teacher" if rng.integers(2) else "policy"),
        f"e{index}",
    )


def add(replay: Replay, episode: Episode, first: int, last: int, failed: bool = False) -> None:
    """Steps [first, last) as one segment."""
    ends = last == episode.steps
    replay.add_episode_segment(
        episode.states[first : last + 1],
        episode.actions[first:last],
        episode.rewards[first:last],
        terminated=ends and episode.terminated,
        truncated=ends and not episode.terminated,
        source=episode.source,
        episode_id=episode.name,
        start_step=first,
        interventions=None if episode.interventions is None else episode.interventions[first:last],
        failed=failed,
    )


def taken_over(rng: np.random.Generator, index: int, source: str | None = None) -> Episode:
    """A random episode with stretches that a human applied, of any length."""
    episode = random_episode(rng, index, source)
    switches = rng.random(episode.steps) < 0.25
    episode.interventions = np.cumsum(switches) % 2 == 1
    return episode


def reference(episode: Episode, t: int, h: int) -> tuple[np.ndarray, ...]:
    """One window, step by step."""
    m = min(h, episode.steps - t)
    total = sum(GAMMA**i * float(episode.rewards[t + i]) for i in range(m))
    chunk = np.stack([episode.actions[min(t + i, t + m - 1)] for i in range(h)])
    done = episode.terminated and t + m == episode.steps
    return (
        episode.states[t],
        chunk,
        np.float64(total),
        np.float64(GAMMA**m * (not done)),
        episode.states[t + m],
        np.int64(m),
        np.bool_(hands(episode, t, h) != "mixed"),
    )


def hands(episode: Episode, t: int, h: int) -> str:
    """Who applied the steps of a window: "human", "other" or "mixed"."""
    if episode.interventions is None:
        return "other"
    by_human = {bool(episode.interventions[k]) for k in range(t, min(t + h, episode.steps))}
    return "mixed" if len(by_human) > 1 else "human" if by_human == {True} else "other"


def rows(batch: Batch) -> dict[bytes, tuple[np.ndarray, ...]]:
    """By the first state, which is unique."""
    parts = [getattr(batch, name) for name in TENSORS]
    return {s.tobytes(): tuple(p[i].numpy() for p in parts) for i, s in enumerate(batch.states.numpy())}


def assert_same(found: dict[bytes, tuple[np.ndarray, ...]], episodes: list[Episode], h: int) -> None:
    wanted = {e.states[t].tobytes(): reference(e, t, h) for e in episodes for t in range(e.steps)}
    assert found.keys() == wanted.keys()
    for key, row in found.items():
        for value, truth in zip(row, wanted[key], strict=True):
            assert np.allclose(value, truth, atol=1e-6)


@pytest.mark.parametrize("h", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(3))
def test_every_window_equals_the_reference(h: int, seed: int) -> None:
    """Random episodes, cut into random segments that arrive interleaved."""
    rng = np.random.default_rng(seed)
    episodes = [random_episode(rng, i) for i in range(30)]
    replay, progress = Replay(S, A, h, GAMMA), [0] * 30
    while any(progress[i] < e.steps for i, e in enumerate(episodes)):
        i = int(rng.choice([i for i, e in enumerate(episodes) if progress[i] < e.steps]))
        last = int(rng.integers(progress[i] + 1, episodes[i].steps + 1))
        add(replay, episodes[i], progress[i], last)
        progress[i] = last
    for part, source in (("offline", "teacher"), ("online", "policy")):
        starts = replay._storage.ready(("offline", "online").index(part))
        mine = [e for e in episodes if e.source == source]
        assert_same(rows(replay.windows(starts)), mine, h)
        assert replay.size(part) == replay.sampleable(part) == sum(e.steps for e in mine)


@pytest.mark.parametrize("h", [1, 2, 5])
@pytest.mark.parametrize("capacity", [10_000, 150])
def test_takeovers_are_demonstrations_and_mixed_windows_train_the_critic_only(h: int, capacity: int) -> None:
    """Interleaved segments; with a small capacity the storage also forgets and moves its steps."""
    rng = np.random.default_rng(h)
    replay = Replay(S, A, h, GAMMA, capacity=capacity)
    episodes = [taken_over(rng, 0, "teacher"), *(taken_over(rng, i, "policy") for i in range(1, 40))]
    for one, two in zip(episodes[::2], episodes[1::2], strict=True):
        middle = one.steps // 2
        if middle:
            add(replay, one, 0, middle)
        add(replay, two, 0, two.steps)
        add(replay, one, middle, one.steps)
    wanted = {
        e.states[t].tobytes(): ("offline" if e.source == "teacher" or hands(e, t, h) == "human" else "online")
        for e in episodes
        for t in range(e.steps)
    }
    truth = {e.states[t].tobytes(): reference(e, t, h) for e in episodes for t in range(e.steps)}
    found = {}
    for part in ("offline", "online"):
        some = rows(replay.windows(replay._storage.ready(("offline", "online").index(part))))
        assert {wanted[key] for key in some} == {part} and replay.sampleable(part) == len(some)
        found |= some
    assert len(found) == replay.size() and (len(found) == len(wanted) or capacity == 150)
    for key, row in found.items():
        assert all(np.allclose(v, w, atol=1e-6) for v, w in zip(row, truth[key], strict=True))
    kinds = {hands(e, t, h) for e in episodes for t in range(e.steps)}
    assert kinds == ({"human", "other"} if h == 1 else {"human", "other", "mixed"})


def test_takeovers_are_drawn_with_the_offline_half() -> None:
    rng, h = np.random.default_rng(0), 3
    replay, taken = Replay(S, A, h, GAMMA), random_episode(rng, 0, "policy")
    while taken.steps < 8:
        taken = random_episode(rng, 0, "policy")
    taken.interventions = np.arange(taken.steps) >= 4
    add(replay, taken, 0, taken.steps)
    batch = replay.sample(100, 0.5, rng)
    first = {s.tobytes() for s in taken.states[4:]}
    drawn = np.array([s.tobytes() in first for s in batch.states.numpy()])
    assert drawn[:50].all() and not drawn[50:].any()
    assert batch.imitable[:50].all() and not batch.imitable[50:].all()
    assert replay.size("online") == replay.online_steps == taken.steps, "experience all the same"


@pytest.mark.parametrize("h", [1, 2, 5, 20])
def test_dropped_ends_train_the_critic_but_are_not_imitable(h: int) -> None:
    rng = np.random.default_rng(0)
    episodes = [taken_over(rng, i) for i in range(30)]
    held, dropped = Replay(S, A, h, GAMMA), Replay(S, A, h, GAMMA, chunk_end="drop")
    for e in episodes:
        add(held, e, 0, e.steps)
        add(dropped, e, 0, e.steps)
    one, two = (r.sample(500, 0.5, np.random.default_rng(1)) for r in (held, dropped))
    for name in set(TENSORS) - {"imitable"}:
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert torch.equal(two.imitable, one.imitable & (two.steps == h))
    assert (two.steps < h).any() == (h > 1)


def test_the_chunk_decides_what_may_be_imitated_not_the_window_of_the_return() -> None:
    """A critic of single actions: the window goes on past the one action that is learned."""
    episode = random_episode(np.random.default_rng(2), 0, "policy")
    assert episode.steps > 3
    episode.interventions = np.arange(episode.steps) == 1
    replay = Replay(S, A, 3, GAMMA, actions=1, chunk_end="drop")
    add(replay, episode, 0, episode.steps)
    assert replay.windows(np.arange(episode.steps)).imitable.all()


def test_without_takeovers_every_window_is_imitable() -> None:
    rng = np.random.default_rng(0)
    with_mask, without = Replay(S, A, 4, GAMMA), Replay(S, A, 4, GAMMA)
    for i in range(20):
        e = random_episode(rng, i)
        add(without, e, 0, e.steps)
        e.interventions = np.zeros(e.steps, bool)
        add(with_mask, e, 0, e.steps)
    one, two = (r.sample(200, 0.5, np.random.default_rng(1)) for r in (with_mask, without))
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS)
    assert one.imitable.all()


def test_an_unknown_chunk_end_is_named() -> None:
    with pytest.raises(ValueError, match="chunk_end is 'cut', allowed: hold, drop"):
        Replay(S, A, 4, GAMMA, chunk_end="cut")


def test_the_head_of_an_open_episode_waits() -> None:
    rng, h = np.random.default_rng(0), 4
    episode = random_episode(rng, 0, "policy")
    while episode.steps < 10:
        episode = random_episode(rng, 0, "policy")
    replay = Replay(S, A, h, GAMMA)
    for last in range(1, episode.steps):
        add(replay, episode, last - 1, last)
        assert replay.sampleable("online") == max(0, last - h + 1)
    add(replay, episode, episode.steps - 1, episode.steps)
    assert replay.sampleable("online") == episode.steps == replay.online_steps


def test_an_empty_final_segment_ends_an_episode() -> None:
    episode = random_episode(np.random.default_rng(3), 0, "policy")
    replay = Replay(S, A, 4, GAMMA)
    replay.add_episode_segment(
        episode.states,
        episode.actions,
        episode.rewards,
        terminated=False,
        truncated=False,
        source="policy",
        episode_id="a",
    )
    replay.add_episode_segment(
        episode.states[-1:],
        episode.actions[:0],
        episode.rewards[:0],
        terminated=True,
        truncated=False,
        source="policy",
        episode_id="a",
    )
    episode.terminated = True
    assert_same(rows(replay.windows(replay._storage.ready(1))), [episode], 4)


def test_final_without_terminated_bootstraps() -> None:
    """An episode that a safety stop cut off is a time-out, not a termination."""
    replay = Replay(S, A, 2, GAMMA)
    replay.add_episode_segment(
        np.zeros((2, S)),
        np.zeros((1, A)),
        np.ones(1),
        terminated=False,
        truncated=False,
        final=True,
        source="policy",
        episode_id="a",
    )
    batch = replay.windows(np.array([0]))
    assert float(batch.discounts[0]) == pytest.approx(GAMMA)


def test_batches_mix_the_partitions() -> None:
    rng = np.random.default_rng(0)
    replay = Replay(S, A, 3, GAMMA)
    with pytest.raises(ValueError, match="0 windows"):
        replay.sample(8, 0.5, rng)
    teacher = [random_episode(rng, i, "teacher") for i in range(5)]
    online = [random_episode(rng, 10 + i, "policy") for i in range(5)]
    for e in teacher:
        add(replay, e, 0, e.steps)
    assert len(replay.sample(40, 0.25, rng)) == 40
    for e in online:
        add(replay, e, 0, e.steps)
    from_teacher = {e.states[t].tobytes() for e in teacher for t in range(e.steps)}
    states = replay.sample(400, 0.25, rng).states.numpy()
    assert sum(s.tobytes() in from_teacher for s in states) == 100


def test_failed_demonstrations_are_drawn_only_where_they_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    replay = Replay(S, A, 3, GAMMA)
    good, bad, online = (random_episode(rng, i, s) for i, s in enumerate(("teacher", "teacher", "policy")))
    add(replay, bad, 0, bad.steps, failed=True)
    add(replay, online, 0, online.steps)
    assert replay.size("failed") == replay.sampleable("failed") == bad.steps
    assert replay.size("offline") == 0 and not len(replay.states("offline"))
    failed = {s.tobytes() for s in bad.states}

    def share(**asked: bool) -> float:
        states = replay.sample(1000, 0.5, rng, **asked).states.numpy()
        return float(np.mean([s.tobytes() in failed for s in states]))

    assert share() == 0.0 and share(failures=True) == 0.5
    add(replay, good, 0, good.steps)
    expected = 0.5 * bad.steps / (bad.steps + good.steps)
    assert share() == 0.0 and share(failures=True) == pytest.approx(expected, abs=0.06)
    with pytest.raises(ValueError, match="0 windows"):
        alone = Replay(S, A, 3, GAMMA)
        add(alone, bad, 0, bad.steps, failed=True)
        alone.sample(8, 1.0, rng)


def test_failed_demonstrations_are_held_out_like_others() -> None:
    rng = np.random.default_rng(0)
    replay = Replay(S, A, 3, GAMMA, holdout_every=2)
    episodes = [random_episode(rng, i, "teacher") for i in range(4)]
    for index, e in enumerate(episodes):
        add(replay, e, 0, e.steps, failed=index > 1)
    assert replay.size("held_out") == episodes[1].steps + episodes[3].steps
    assert replay.size("failed") == episodes[2].steps


def test_sampling_repeats_with_its_generator() -> None:
    replay, rng = Replay(S, A, 3, GAMMA), np.random.default_rng(0)
    for i in range(5):
        e = random_episode(rng, i)
        add(replay, e, 0, e.steps)
    one, two = (replay.sample(32, 0.5, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one.states, two.states) and np.array_equal(one.returns, two.returns)


def test_held_out_episodes_are_never_sampled_and_their_returns_are_exact() -> None:
    rng, h = np.random.default_rng(0), 3
    replay = Replay(S, A, h, GAMMA, holdout_every=4)
    episodes = [random_episode(rng, i, "teacher") for i in range(12)]
    for e in episodes:
        add(replay, e, 0, e.steps)
    held = episodes[3::4]
    batch, returns = replay.held_out(max_weight=1.0)
    assert_same(rows(batch), held, h)
    truth = {
        e.states[t].tobytes(): sum(GAMMA ** (k - t) * e.rewards[k] for k in range(t, e.steps))
        for e in held
        for t in range(e.steps)
    }
    assert all(
        r == pytest.approx(truth[s.tobytes()], abs=1e-5)
        for s, r in zip(batch.states.numpy(), returns, strict=True)
    )
    assert replay.size("held_out") == sum(e.steps for e in held)
    sampled = {s.tobytes() for s in replay.sample(500, 1.0, rng).states.numpy()}
    assert not sampled & truth.keys()


def test_at_capacity_the_oldest_online_steps_go_and_windows_stay_exact() -> None:
    rng, h = np.random.default_rng(1), 4
    replay = Replay(S, A, h, GAMMA, capacity=120)
    teacher, online = (
        random_episode(rng, 999, "teacher"),
        [random_episode(rng, i, "policy") for i in range(60)],
    )
    add(replay, teacher, 0, teacher.steps)
    for e in online:
        middle = e.steps // 2
        if middle:
            add(replay, e, 0, middle)
        add(replay, e, middle, e.steps)
        assert replay.size() <= 120
    assert replay.size("offline") == teacher.steps
    assert replay.online_steps == sum(e.steps for e in online)
    found = rows(replay.windows(replay._storage.ready(1)))
    wanted = {e.states[t].tobytes(): reference(e, t, h) for e in online for t in range(e.steps)}
    assert len(found) == replay.sampleable("online") > 60
    for key, row in found.items():
        assert all(np.allclose(v, w, atol=1e-6) for v, w in zip(row, wanted[key], strict=True))
    assert online[-1].states[0].tobytes() in found


def test_a_replay_full_of_demonstrations_says_so() -> None:
    rng, replay = np.random.default_rng(0), Replay(S, A, 3, GAMMA, capacity=20)
    with pytest.raises(ReplayFullError, match="capacity is 20"):
        for i in range(50):
            e = random_episode(rng, i, "teacher")
            add(replay, e, 0, e.steps)


BAD = {
    "states has shape": {"states": np.zeros((3, S))},
    "actions has shape": {"actions": np.zeros((3, A))},
    r"states\[1, 2\] is nan": {
        "states": np.array([[0, 0, 0], [0, 0, np.nan], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    },
    "actions have the magnitude 1.5": {"actions": np.full((4, A), -1.5)},
    r"rewards\[0\] is inf": {"rewards": np.full(4, np.inf)},
    r"interventions has shape \(3,\), must be \(4,\)": {"interventions": np.zeros(3, bool)},
    r"interventions has shape \(4, 1\), must be \(4,\)": {"interventions": np.zeros((4, 1), bool)},
    "interventions has dtype float64, must be bool": {"interventions": np.zeros(4)},
    "start_step is 9, must be 0": {"start_step": 9},
    "final is False": {"terminated": True, "final": False},
}


@pytest.mark.parametrize("text", BAD)
def test_bad_segments_are_refused_by_name_and_change_nothing(text: str) -> None:
    replay = Replay(S, A, 2, GAMMA)
    good = {
        "states": np.zeros((5, S)),
        "actions": np.zeros((4, A)),
        "rewards": np.zeros(4),
        "terminated": False,
        "truncated": False,
        "source": "policy",
        "episode_id": "a",
    }
    with pytest.raises(SegmentError, match=text):
        replay.add_episode_segment(**{**good, **BAD[text]})  # type: ignore[arg-type]
    assert replay.size() == 0
    replay.add_episode_segment(**good)  # type: ignore[arg-type]
    assert replay.size() == 4


def test_order_is_checked() -> None:
    episode = random_episode(np.random.default_rng(5), 0, "policy")
    replay = Replay(S, A, 2, GAMMA)
    add(replay, episode, 0, 2)
    with pytest.raises(SegmentError, match="start_step is 0, must be 2"):
        add(replay, episode, 0, 2)
    broken = Episode(**{**episode.__dict__, "states": episode.states + 1})
    with pytest.raises(SegmentError, match=r"states\[0\] must equal"):
        add(replay, broken, 2, episode.steps)
    add(replay, episode, 2, episode.steps)
    with pytest.raises(SegmentError, match="has ended"):
        add(replay, episode, 0, episode.steps)
