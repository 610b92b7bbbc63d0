"""The replay's arrays: draws, files, images that go with their steps, rewards that change later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from softflow_learner.images import Arena
from softflow_learner.replay import Batch, Replay
from softflow_learner.segments import SegmentError

S, A, H, GAMMA = 4, 2, 3, 0.9
CAMERAS = ("palm", "wrist")


def picture(number: int, height: int = 12) -> np.ndarray:
    """RGB, another one for each number."""
    image = np.zeros((height, 16, 3), np.uint8)
    image[:] = (number % 251, number // 251, 7)
    return image


def png(number: int, height: int = 12) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture(number, height), cv2.COLOR_RGB2BGR))[1].tobytes()


class Feeder:
    """Random episodes in interleaved segments; it remembers them."""

    def __init__(self, seed: int, cameras: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.cameras = cameras
        self.episodes: dict[str, dict[str, Any]] = {}
        self.given: dict[str, int] = {}

    def feed(self, replay: Replay, segments: int, source: str = "policy") -> None:
        for _ in range(segments):
            open_ones = [name for name, e in self.episodes.items() if self.given[name] < len(e["rewards"])]
            if len(open_ones) < 3:
                open_ones.append(self._begin())
            name = str(self.rng.choice(open_ones))
            first, n = self.given[name], len(self.episodes[name]["rewards"])
            self.give(replay, name, first, int(self.rng.integers(first + 1, n + 1)), source)

    def give(self, replay: Replay, name: str, first: int, last: int, source: str = "policy") -> None:
        e = self.episodes[name]
        replay.add_episode_segment(
            e["states"][first : last + 1],
            e["actions"][first:last],
            e["rewards"][first:last],
            terminated=last == len(e["rewards"]),
            truncated=False,
            source=source,
            episode_id=name,
            start_step=first,
            images={c: e[c][first : last + 1] for c in CAMERAS} if self.cameras else None,
        )
        self.given[name] = last

    def _begin(self) -> str:
        n, name = int(self.rng.integers(1, 12)), f"e{len(self.episodes)}"
        e: dict[str, Any] = {
            "states": self.rng.normal(size=(n + 1, S)).astype(np.float32),
            "actions": self.rng.uniform(-1, 1, (n, A)).astype(np.float32),
            "rewards": self.rng.normal(size=n).astype(np.float32),
        }
        for k, camera in enumerate(CAMERAS):
            e[camera] = [png(40 * len(self.episodes) + 20 * k + i) for i in range(n + 1)]
        self.episodes[name], self.given[name] = e, 0
        return name


def values(batch: Batch) -> list[torch.Tensor]:
    return [batch.states, batch.actions, batch.returns, batch.discounts, batch.next_states, batch.steps]


@pytest.mark.parametrize("capacity", [5000, 200])
def test_the_same_windows_are_drawn_whatever_rows_they_lie_in(capacity: int) -> None:
    """The rule: `choice` among complete windows in the order of completion; by age what was there when some went."""
    feeder, replay, drawn = Feeder(1), Replay(S, A, H, GAMMA, capacity=capacity), 0
    order: list[bytes] = []
    seen: set[bytes] = set()
    ages: dict[bytes, int] = {}
    for k in range(400):
        before = dict(feeder.given)
        feeder.feed(replay, 1)
        stored = {s.tobytes() for s in replay.states("online")}
        if not stored.issuperset(order):
            order = sorted((key for key in order if key in stored), key=ages.__getitem__)
        for name, last in feeder.given.items():
            e, first = feeder.episodes[name], before.get(name, 0)
            ended, n = last == len(e["rewards"]), last
            keys = [s.tobytes() for s in e["states"][:n]]
            ages |= {key: len(ages) + i for i, key in enumerate(keys[first:last])}
            complete = n if ended else max(0, n - H + 1)
            order += [key for key in keys[:complete] if key not in seen]
            seen |= set(keys[:complete])
        if order:
            batch = replay.sample(8, 0.5, np.random.default_rng(k))
            picks = np.random.default_rng(k).choice(len(order), 8)
            assert [s.tobytes() for s in batch.states.numpy()] == [order[i] for i in picks]
            drawn += 1
    assert drawn > 300 and (len(replay.episodes()) < 500) and (capacity == 5000 or replay.size() <= 200)


@pytest.mark.parametrize("capacity", [5000, 150])
def test_in_a_file_everything_is_as_in_memory(tmp_path: Path, capacity: int) -> None:
    made = []
    for directory in (None, tmp_path / "replay"):
        replay = Replay(S, A, H, GAMMA, capacity=capacity, directory=directory, cameras=CAMERAS)
        Feeder(2, cameras=True).feed(replay, 150)
        made.append(replay)
    one, two = (r.sample(50, 0.5, np.random.default_rng(3)) for r in made)
    assert all(torch.equal(a, b) for a, b in zip(values(one), values(two), strict=True))
    assert one.images is not None and two.images is not None
    assert all(torch.equal(one.images[c], two.images[c]) for c in CAMERAS)
    assert isinstance(made[1]._storage.states, np.memmap) and not isinstance(
        made[0]._storage.states, np.memmap
    )
    assert list((tmp_path / "replay").iterdir()) == [], "nothing that a later process could believe"


def test_a_disk_or_memory_too_small_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"."):
        Replay(100, 8, H, GAMMA, capacity=10**11, directory=tmp_path)
    with pytest.raises(ValueError, match="capacity is 1000000000000"):
        Replay(100, 8, H, GAMMA, capacity=10**12)


@pytest.mark.parametrize("capacity", [5000, 120])
def test_images_are_those_of_the_windows_ends(capacity: int) -> None:
    feeder, replay = Feeder(4, cameras=True), Replay(S, A, H, GAMMA, capacity=capacity, cameras=CAMERAS)
    feeder.feed(replay, 200)
    numbers = {
        s.tobytes(): 40 * k + i
        for k, e in enumerate(feeder.episodes.values())
        for i, s in enumerate(e["states"])
    }
    batch = replay.sample(200, 0.5, np.random.default_rng(0))
    assert batch.images is not None and batch.next_images is not None
    for states, images in ((batch.states, batch.images), (batch.next_states, batch.next_images)):
        for i, state in enumerate(states.numpy()):
            number = numbers[state.tobytes()]
            assert np.array_equal(images["palm"][i].numpy(), picture(number))
            assert np.array_equal(images["wrist"][i].numpy(), picture(number + 20))
    both = Batch.cat(batch[:5], batch[torch.arange(5, 12)])
    assert torch.equal(both.states, batch.states[:12]) and both.images is not None
    assert torch.equal(both.images["palm"], batch.images["palm"][:12])


def test_without_cameras_images_cost_nothing() -> None:
    feeder, replay = Feeder(4, cameras=True), Replay(S, A, H, GAMMA)
    feeder.feed(replay, 20)
    batch = replay.sample(5, 0.5, np.random.default_rng(0))
    assert batch.images is None and Batch.cat(batch, batch).next_images is None and replay.image_bytes == 0


BAD = {
    "images has no camera 'wrist', must have palm, wrist": {"palm": [png(0)] * 3},
    r"images\['palm'\] has 2 images, must have 3": {"palm": [png(0)] * 2, "wrist": [png(0)] * 3},
    r"images\['palm'\]\[1\] of 9 bytes cannot be decoded": {"palm": [png(0), b"no image!", png(0)]},
    r"images\['palm'\]\[2\] of 0 bytes cannot": {"palm": [png(0), png(0), b""]},
    r"images\['palm'\]\[0\] has shape \(13, 16, 3\), must be \(12, 16, 3\)": {"palm": [png(0, 13)] * 3},
}


@pytest.mark.parametrize("text", BAD)
def test_images_that_do_not_fit_are_named_and_nothing_is_stored(text: str) -> None:
    feeder, replay = Feeder(0, cameras=True), Replay(S, A, H, GAMMA, cameras=CAMERAS)
    feeder.feed(replay, 3)
    before = replay.size(), replay.image_bytes
    with pytest.raises(SegmentError, match=text):
        replay.add_episode_segment(
            np.zeros((3, S)),
            np.zeros((2, A)),
            np.zeros(2),
            terminated=True,
            truncated=False,
            source="policy",
            episode_id="x",
            images=BAD[text],
        )
    assert (replay.size(), replay.image_bytes) == before


@pytest.mark.parametrize("in_file", [True, False])
def test_space_of_forgotten_images_comes_back_by_generations(tmp_path: Path, in_file: bool) -> None:
    arena, kept = Arena(tmp_path if in_file else None, generation=1000), []
    for k in range(200):
        items = [bytes([k]) * (50 + k), bytes([k, 1]) * 40]
        positions = arena.append(items)
        arena.use(positions)
        kept.append((items, positions))
        if len(kept) > 10:
            arena.forget(kept.pop(0)[1])
        assert all([arena.read(int(p)) for p in where] == what for what, where in kept)
        assert arena.size < 6500
    assert sum(len(i) for items, _ in kept for i in items) > 1500


def test_later_rewards_overrule_and_older_ones_do_not() -> None:
    feeder, replay = Feeder(5), Replay(S, A, H, GAMMA)
    feeder.feed(replay, 60)
    name = next(n for n, e in feeder.episodes.items() if feeder.given[n] == len(e["rewards"]) > 6)
    truth = feeder.episodes[name]["rewards"].copy()
    assert replay.relabel(name, 1, np.array([10.0, 11.0, 12.0]), 2) == 3
    assert replay.relabel(name, 0, np.array([20.0, 21.0]), 1) == 1
    assert replay.relabel(name, 1, np.array([30.0]), 2) == replay.relabel(name, 0, np.full(6, 9.0), 0) == 0
    truth[:4] = [20.0, 10.0, 11.0, 12.0]
    assert np.array_equal(replay.episode(name).rewards, truth)
    others = {n: e["rewards"][: feeder.given[n]] for n, e in feeder.episodes.items() if n != name}
    assert all(np.array_equal(replay.episode(n).rewards, r) for n, r in others.items())
    start = replay._book.kept(name).places()[:1]
    assert float(replay.windows(start).returns[0]) == pytest.approx(20 + 10 * GAMMA + 11 * GAMMA**2)


def test_rewards_of_forgotten_steps_are_passed_over() -> None:
    feeder, replay = Feeder(6), Replay(S, A, H, GAMMA, capacity=100)
    feeder.feed(replay, 150)
    partly = [n for n in replay.episodes() if 0 < replay.episode(n).start_step < feeder.given[n]]
    gone = [n for n in replay.episodes() if replay.episode(n).start_step == feeder.given[n]]
    assert partly and gone
    for name in partly:
        n, first = feeder.given[name], replay.episode(name).start_step
        assert replay.relabel(name, 0, np.arange(n) + 50.0, 1) == n - first
        assert replay.episode(name).rewards.tolist() == [50.0 + i for i in range(first, n)]
    assert replay.relabel(gone[0], 0, np.ones(feeder.given[gone[0]]), 1) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nobody", 0, np.ones(1), 1), "episode_id is 'nobody'"),
        (("e0", -1, np.ones(1), 1), "start_step is -1"),
        (("e0", 1, np.ones(5), 1), "start_step is 1 with 5 values, must lie within the 5 steps"),
        (("e0", 0, np.array([1.0, np.nan]), 1), r"values\[1\] is nan"),
    ],
)
def test_labels_that_do_not_fit_are_named(arguments: tuple[str, int, np.ndarray, int], text: str) -> None:
    replay, rewards = Replay(S, A, H, GAMMA), np.arange(5.0)
    replay.add_episode_segment(
        np.zeros((6, S)),
        np.zeros((5, A)),
        rewards,
        terminated=True,
        truncated=False,
        source="policy",
        episode_id="e0",
    )
    with pytest.raises(ValueError, match=text):
        replay.relabel(*arguments)
    assert np.array_equal(replay.episode("e0").rewards, rewards)
