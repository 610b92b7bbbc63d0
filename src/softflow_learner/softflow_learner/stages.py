"""The four stages as loops around the agent's updates (METHOD.md, The four stages)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softflow_learner.agent import Agent, Scalars
from softflow_learner.replay import Batch, Replay

Progress = Callable[[int, int, Scalars], None]
"""Called after every update with (updates done, updates planned, scalars of this update)."""
Stop = Callable[[], bool]
"""Asked before every update; True ends the stage early."""


def never() -> bool:
    """A `Stop` that lets a stage run to its end."""
    return False


def run_imitation(agent: Agent, replay: Replay, progress: Progress, stop: Stop = never) -> int:
    """Stage 1. Returns the number of updates done."""

    def update() -> Scalars:
        return agent.imitation_update(_sample(agent, replay))

    return _loop(update, agent.config.imitation_updates, progress, stop)


@dataclass(frozen=True)
class WarmupReport:
    """How the critic warm-up ended."""

    updates: int
    td_loss: float
    """Mean since the last look."""
    unexplained: float
    """The same as a share of the targets' variance."""
    rank_correlation: float
    """Spearman's, between Q and the discounted return on held-out episodes; NaN without any."""
    plateau: bool
    passed: bool
    """The gate opened; otherwise the stage ran out of updates or was stopped."""


def run_warmup(agent: Agent, replay: Replay, progress: Progress, stop: Stop = never) -> WarmupReport:
    """Stage 2. The policy stays frozen. Ends when the gate opens, or after `warmup_max_updates`."""
    gate = WarmupGate(agent, replay)

    def update() -> Scalars:
        batch = _sample(agent, replay, failures=True)
        scalars = agent.critic_update(batch)
        return scalars | gate.observe(scalars["td_loss"], batch)

    gate.updates = _loop(update, agent.config.warmup_max_updates, progress, lambda: gate.passed or stop())
    return gate.report()


def run_offline(
    agent: Agent, replay: Replay, progress: Progress, stop: Stop = never, *, updates: int | None = None
) -> int:
    """Stage 3: a critic and an actor update each time, `offline_updates` times if not told. Returns the rounds done."""
    agent.beta_scale = 1.0  # An online stage before this one has annealed it.

    def update() -> Scalars:
        batch = _sample(agent, replay, failures=True)
        return agent.critic_update(batch) | agent.actor_update(_without_failures(agent, replay, batch))

    return _loop(update, agent.config.offline_updates if updates is None else updates, progress, stop)


class OnlineLearning:
    """Stage 4: updates in step with the experience that comes in."""

    def __init__(self, agent: Agent, replay: Replay) -> None:
        self.agent, self.replay = agent, replay
        self.rounds = 0
        """Done so far; whoever resumes sets it."""

    def counts(self) -> dict[str, Any]:
        """What `resume` needs, for a checkpoint's `extra`: rounds, and those allowed for each step."""
        rate = self.agent.config.update_to_data / self.replay.horizon
        return {"online_rounds": self.rounds, "online_rate": rate}

    def resume(self, extra: Mapping[str, Any]) -> None:
        """Go on from `counts` of a checkpoint, once the replay is filled again.

        At another rate than then, what was due stays due: a new rate is one for the steps to come.
        """
        self.rounds = int(extra.get("online_rounds", 0))
        rate = extra.get("online_rate")
        if rate is not None and rate != self.counts()["online_rate"]:
            due = int(rate * self.replay.online_steps) - self.rounds
            self.rounds = self._allowed() - due

    def due(self) -> int:
        """Rounds that the experience so far allows, less those done; 0 until there is enough of it."""
        if self.replay.online_steps < self.agent.config.online_min_steps:
            return 0
        return self._allowed() - self.rounds

    def _allowed(self) -> int:
        return int(self.agent.config.update_to_data * self.replay.online_steps / self.replay.horizon)

    def update(self) -> Scalars:
        """One round: a critic update, and every `actor_every` rounds an actor update."""
        agent, config, steps = self.agent, self.agent.config, self.replay.online_steps
        agent.beta_scale = annealed(config.beta_final, steps / config.beta_anneal_steps)
        fraction = config.offline_fraction if steps >= config.online_min_steps else 1.0
        batch = _sample(agent, self.replay, fraction, failures=True)
        scalars = agent.critic_update(batch)
        self.rounds += 1
        if steps >= config.online_critic_only_steps and self.rounds % config.actor_every == 0:
            scalars |= agent.actor_update(_without_failures(agent, self.replay, batch, fraction))
        return scalars


class WarmupGate:
    """The TD loss is on a plateau, and Q ranks held-out states as their returns do.

    (ours) Plateau: over the last `LOOKS` looks the TD loss changed by at most `warmup_plateau` of the targets'
    variance. That does not depend on the reward's scale, and a loss that is small against what there is to explain
    counts as settled, whichever way it goes. The values' common level may still rise: that moves no ranks.
    """

    LOOKS = 3

    def __init__(self, agent: Agent, replay: Replay) -> None:
        self.agent, self.config = agent, agent.config
        self.updates = 0
        self.passed = self.plateau = False
        self.td_loss = self.unexplained = self.rank = float("nan")
        self._losses: list[float] = []
        self._looks: deque[float] = deque(maxlen=self.LOOKS)
        self._held_out, self._returns = replay.held_out()
        self._ranked = replay.holdout_every > 0

    def observe(self, td_loss: float, batch: Batch) -> Scalars:
        """After each update; looks every `warmup_check_every`. Returns a look's scalars, else nothing."""
        self.updates += 1
        self._losses.append(td_loss)
        if self.updates % self.config.warmup_check_every:
            return {}
        self._look(self.agent.values(batch))
        return {
            "rank_correlation": self.rank,
            "unexplained": self.unexplained,
            "plateau": float(self.plateau),
        }

    def _look(self, values: np.ndarray) -> None:
        finite = [loss for loss in self._losses if np.isfinite(loss)]
        self.td_loss = float(np.mean(finite)) if finite else float("nan")
        self._losses.clear()
        self.unexplained = unexplained(self.td_loss, values)
        self._looks.append(self.unexplained)
        full = len(self._looks) == self.LOOKS
        self.plateau = full and bool(np.ptp(list(self._looks)) <= self.config.warmup_plateau)
        self.rank = self._rank_correlation()
        # Without held-out episodes by choice there is no rank; with them, but none of use, it is not known.
        ranked = not self._ranked or self.rank >= self.config.warmup_rank_correlation
        self.passed = bool(self.plateau and ranked and self.updates >= self.config.warmup_min_updates)

    def _rank_correlation(self) -> float:
        if len(self._returns) < 2:
            return float("nan")
        return spearman(self.agent.values(self._held_out), self._returns)

    def report(self) -> WarmupReport:
        """What is known at the end."""
        return WarmupReport(
            self.updates, self.td_loss, self.unexplained, self.rank, self.plateau, self.passed
        )


def unexplained(td_loss: float, values: np.ndarray) -> float:
    """TD loss as a share of the targets' variance, estimated as that of the values plus the loss itself.

    0 where both are 0; NaN if the loss is.
    """
    total = td_loss + float(np.var(values))
    return td_loss / total if total != 0.0 else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two vectors (N,), ties sharing their mean rank; 0 if one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def annealed(final: float, progress: float) -> float:
    """Linear from 1 at progress 0 to `final` at progress 1 and beyond."""
    return 1.0 + (final - 1.0) * min(1.0, progress)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - 0.5 * (counts - 1))[inverse]
    return ranks


def _sample(agent: Agent, replay: Replay, fraction: float = 1.0, *, failures: bool = False) -> Batch:
    return replay.sample(agent.config.batch_size, fraction, agent.numpy_rng, failures=failures)


def _without_failures(agent: Agent, replay: Replay, batch: Batch, fraction: float = 1.0) -> Batch:
    """What the actor learns from: the critic's batch, or one of its own where failed demonstrations may be in that.

    (ours) They tell the critic what not to do. The likelihood would teach that, and where nothing holds the policy to
    the data, it climbs the critic's errors.
    """
    return _sample(agent, replay, fraction) if replay.sampleable("failed") else batch


def _loop(update: Callable[[], Scalars], total: int, progress: Progress, stop: Stop) -> int:
    for done in range(total):
        if stop():
            return done
        progress(done + 1, total, update())
    return total
