"""Whether an episode succeeded, as a human says it, until the recorder has it. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

START, DISCARDED = 0, 3
"""EpisodeEvent.kind"""
KEPT = 2
"""Episodes that can be judged: the newest, and the one before it."""
RETRY = 0.5
"""[s] between two tries; the recorder labels an episode when its bag is closed."""
ANSWER = 5.0
"""[s] after which an answer is no longer waited for: the recorder may have died."""
PATIENCE = 20.0
"""[s] after which it is given up."""


@dataclass
class Verdict:
    """What a human said of an episode."""

    episode_id: str
    success: bool
    steps: int | None
    """Of the episode; None while it runs."""
    due: float = 0.0
    """[s] not to be sent before."""
    until: float | None = None
    """[s] when it is given up; not known before it can be sent for the first time."""


class Verdicts:
    """Keeps what was said of a running episode until it has ended, and of an ended one until its bag is closed."""

    def __init__(self) -> None:
        self._steps: dict[str, int | None] = {}
        """episode -> its steps, None while it runs; oldest first"""
        self._said: dict[str, Verdict] = {}

    def on_event(self, episode_id: str, kind: int, last_step: int, now: float) -> str:
        """Take in a border of an episode; returns what the human should know of it."""
        if kind == START:
            self._steps.setdefault(episode_id, None)
            while len(self._steps) > KEPT:
                del self._steps[next(iter(self._steps))]
        elif kind == DISCARDED or last_step == 0:
            self._steps.pop(episode_id, None)
            if self._said.pop(episode_id, None):
                return f"episode {episode_id[:8]} was discarded: nothing to label"
        else:
            self._steps[episode_id] = last_step
            if episode_id in self._said:
                said = self._said[episode_id]
                said.steps, said.due = last_step, now + RETRY  # before, the bag is hardly closed
        return ""

    def say(self, success: bool, before: bool) -> str:
        """A key: of the newest episode, or of the one `before` it; returns the answer to the human."""
        word, place = "success" if success else "failure", 2 if before else 1
        if len(self._steps) < place:
            return f"{word}: no episode{' before this one' if before else ' yet'}"
        episode_id, steps = list(self._steps.items())[-place]
        self._said[episode_id] = Verdict(episode_id, success, steps)
        when = " when it has ended" if steps is None else ""
        return f"{word}: episode {episode_id[:8]} is labelled{when}"

    def next(self, now: float) -> tuple[Verdict, int] | None:
        """What is to be sent now: the verdict and the episode's steps."""
        for verdict in self._said.values():
            if verdict.steps and now >= verdict.due:
                verdict.until = now + PATIENCE if verdict.until is None else verdict.until
                verdict.due = now + ANSWER
                return verdict, verdict.steps
        return None

    def answered(self, verdict: Verdict, ok: bool, text: str, now: float) -> str:
        """The recorder's answer; returns what the human should know: empty while it is tried again."""
        if self._said.get(verdict.episode_id) is not verdict:
            return ""  # the human has thought better of it
        if not ok and verdict.until is not None and now < verdict.until:
            verdict.due = now + RETRY
            return ""
        del self._said[verdict.episode_id]
        word = "success" if verdict.success else "failure"
        return f"{word} of episode {verdict.episode_id[:8]}: {text if ok else 'NOT LABELLED: ' + text}"
