"""Bags -> spool -> journal -> replay input, with a learner that loses its disk and crashes on both sides."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from softflow_msgs.msg import EpisodeSegment, RewardLabel

from softflow_learner.journal import LABEL, Journal
from softflow_learner.messages import add_payload, from_item
from softflow_learner.replay import Replay
from softflow_recorder import messages
from softflow_recorder.labelling import label_bag
from softflow_recorder.messages import to_item, to_label_payload, to_payloads
from softflow_recorder.outbox import Outbox
from softflow_recorder.shipping import Answer, Shipping
from softflow_recorder.spool import Item, Spool, SpoolFullError

sys.path.insert(0, str(Path(__file__).parents[2] / "softflow_recorder" / "test"))

from recorder_toy import TASK, Toy

STEPS = 12


class CrashError(BaseException):
    """The end of a process at this very place."""


@dataclass
class Crashes:
    """Ends a process after `left` more operations on the disk."""

    left: int = 10**9

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.left = 10**9
            raise CrashError


class DyingSpool(Spool):
    """May end before and after each of its operations."""

    def __init__(self, directory: Path, crashes: Crashes, limit: int = 0) -> None:
        self.crashes = crashes
        super().__init__(directory, limit)

    def append(self, payload: bytes, kind: int = 0) -> Item:
        self.crashes.tick()
        item = super().append(payload, kind)
        self.crashes.tick()
        return item

    def begin_anew(self) -> None:
        self.crashes.tick()
        super().begin_anew()
        self.crashes.tick()

    def acknowledge(self, seq: int) -> None:
        self.crashes.tick()
        super().acknowledge(seq)
        self.crashes.tick()


@dataclass
class World:
    """A robot with its bags, and learners that come and go. Every process begins from what is on the disk."""

    folder: Path
    crashes: Crashes = field(default_factory=Crashes)
    limit: int = 0
    recorded: list[str] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        (self.folder / "bags").mkdir(parents=True)
        self.start_recorder()
        self.start_learner()

    @property
    def journal_folder(self) -> Path:
        return self.folder / "journal"

    def start_recorder(self) -> None:
        self.spool = DyingSpool(self.folder / "spool", self.crashes, self.limit)
        self.outbox = Outbox(
            self.folder / "bags", "/hand0", self.spool, lambda e: to_payloads("/hand0", e), to_label_payload
        )
        self.shipping = Shipping(self.spool, 2, self.outbox.begin_anew, lambda _: None)

    def start_learner(self) -> None:
        self.journal = Journal(self.journal_folder)

    def record(self) -> None:
        n = len(self.recorded)
        episode = f"{n:08x}"
        toy = Toy.make(seed=n, steps=STEPS, episode_id=episode, mode="train")
        bag = toy.write(self.folder / "bags" / f"{n:04d}-{episode}")
        self.recorded.append(episode)
        self.outbox.add(bag)

    def turn(self) -> bool:
        """One turn of the recorder's loop; whether items were sent."""
        self.now += 10.0
        with contextlib.suppress(SpoolFullError):
            self.outbox.work(2)
        call = self.shipping.next_call(self.now)
        if call is None:
            return False
        error = ""
        if not call.asks:
            items = [from_item(to_item("/hand0", call.boot, item)) for item in call.items]
            self.crashes.tick()
            error = self.journal.add(items).error
            self.crashes.tick()
        number = self.journal.acknowledged("/hand0", call.boot)
        self.shipping.on_answer(call, Answer(number, 8, [error] if error else []), self.now)
        return not call.asks

    def drain(self) -> None:
        idle = 0
        while idle < 3:
            idle = 0 if self.turn() or len(self.outbox) else idle + 1
        assert self.spool.waiting == 0

    def parts(self) -> list[tuple[str, int]]:
        """(episode, first step) of what the replay gets; labels as (episode, -revision)."""
        found = []
        for stored in Journal(self.journal_folder).stored():
            if stored.kind == LABEL:
                label: RewardLabel = deserialize_message(stored.payload, RewardLabel)
                found.append((label.episode_id, -label.revision))
            else:
                segment: EpisodeSegment = deserialize_message(stored.payload, EpisodeSegment)
                found.append((segment.episode_id, segment.start_step))
        return found

    def check(self) -> None:
        """Every episode that was recorded is in the replay's input once, in the order of the robot."""
        into = Replay(TASK.layout.size, TASK.action_dim, horizon=3, gamma=0.9)
        for stored in Journal(self.journal_folder).stored():
            if stored.kind != LABEL:
                # A step that comes twice or out of order is an error.
                add_payload(into, stored.payload, TASK.layout.hash)
        assert into.size() == STEPS * len(self.recorded)
        states = [Toy.make(seed=n, steps=STEPS).states[:-1] for n in range(len(self.recorded))]
        order = [int(episode, 16) for episode, start in self.parts() if start == 0]
        assert sorted(order) == list(range(len(self.recorded)))
        np.testing.assert_array_equal(into.states(), np.concatenate([states[n] for n in order]))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # Three segments an episode.
    monkeypatch.setattr(messages, "ITEM_BYTES", 2_000 + 136 + 4 * 181)
    return World(tmp_path / "world")


def test_an_episode_travels_in_segments(world: World) -> None:
    world.record()
    world.drain()
    assert world.parts() == [("00000000", 0), ("00000000", 4), ("00000000", 8)]
    world.check()


def test_a_learner_without_a_journal_gets_everything_from_the_bags(world: World) -> None:
    for _ in range(3):
        world.record()
    world.drain()
    shutil.rmtree(world.journal_folder)
    world.start_learner()
    world.record()
    world.drain()
    world.check()
    assert [episode for episode, start in world.parts() if start == 0] == world.recorded


def test_a_learner_with_an_older_copy_of_its_journal_gets_what_it_lacks(world: World) -> None:
    copy = world.folder / "copy"
    world.record()
    world.drain()
    shutil.copytree(world.journal_folder, copy)
    label_bag(bag := next(world.folder.glob("bags/*")), 0, [0.5], "human", 1.0)
    world.outbox.add(bag)
    world.record()
    world.record()
    world.drain()
    shutil.rmtree(world.journal_folder)
    copy.rename(world.journal_folder)
    world.start_learner()
    world.record()
    world.drain()
    world.check()
    assert ("00000000", -1) in world.parts() and len(world.parts()) == 4 * 3 + 1


def test_the_first_learner_that_comes_back_gets_what_it_has_missed(world: World) -> None:
    world.record()
    world.drain()
    away = world.folder / "away"
    world.journal_folder.rename(away)
    world.start_learner()
    world.record()
    world.drain()
    shutil.rmtree(world.journal_folder)
    away.rename(world.journal_folder)
    world.start_learner()
    world.drain()
    world.check()
    assert [episode for episode, start in world.parts() if start == 0] == world.recorded


@pytest.mark.parametrize("seed", range(12))
def test_whatever_crashes_and_is_lost_every_episode_is_there_once(
    world: World, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    world.limit = int(rng.choice([0, 4_000]))
    world.start_recorder()
    copy = tmp_path / "copy"
    for _ in range(40):
        event = rng.choice(
            ["record", "crash", "turn", "copy", "older", "lost"], p=[0.2, 0.3, 0.35, 0.05, 0.05, 0.05]
        )
        try:
            if event == "record" and len(world.recorded) < 8:
                world.record()
            elif event == "crash":
                world.crashes.left = int(rng.integers(0, 6))
                for _ in range(4):
                    world.turn()
                world.crashes.left = 10**9
            elif event == "turn":
                world.turn()
            elif event == "copy":
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(world.journal_folder, copy)
            elif event == "lost" or copy.exists():
                shutil.rmtree(world.journal_folder)
                if event == "older":
                    copy.rename(world.journal_folder)
                world.start_learner()
        except CrashError:
            # Which of the two died is drawn; the other's call is never answered.
            if rng.random() < 0.7:
                world.start_recorder()
            if rng.random() < 0.7:
                world.start_learner()
    world.start_recorder()
    world.drain()
    world.check()
