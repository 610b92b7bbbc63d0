"""The hand-over to the learner as a state machine: what to send next, and what an answer means. Plain Python.

A question for the resume point, then items call by call; after any failure the question again. Who carries the calls
gives the time, and hands in the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from softflow_recorder.spool import Item, Spool

ANSWER_TIMEOUT = 5.0
"""[s] after which a call to the learner is given up and repeated."""
RETRY, MOST_RETRY = 0.5, 5.0
"""[s] between attempts while the learner is away or refuses: the first, doubled with each failure up to the second."""
ASK_PERIOD = 5.0
"""[s] between questions while nothing waits: another learner may have taken the place of the one that has it all."""
CALL_BYTES = 1_900_000
"""Of the items in one call together, unless one alone has more."""


@dataclass(frozen=True)
class Call:
    """What to send: items, or without any the question for the resume point."""

    boot: str
    items: Sequence[Item] = ()

    @property
    def asks(self) -> bool:
        """For the resume point."""
        return not self.items


@dataclass(frozen=True)
class Answer:
    """What the learner said, checked to be its own."""

    acknowledged: int
    credits: int
    """Items that may be sent next; 0 = none now, and its number says nothing."""
    errors: Sequence[str] = ()


class Shipping:
    """One call at a time."""

    def __init__(
        self, spool: Spool, batch: int, begin_anew: Callable[[], None], say: Callable[[str], object]
    ) -> None:
        """
        Args:
            spool: what to hand over.
            batch: items in one call, at most.
            begin_anew: called when the learner lacks what it had; the spool then has another boot. May raise OSError.
            say: takes a line for the log.
        """
        self._spool, self._batch = spool, batch
        self._begin_anew, self._say = begin_anew, say
        self._credits = 0
        self._resumed = False
        self._open: Call | None = None
        self._started = self._next_try = 0.0
        self._failures = 0
        self.counters: Counter[str] = Counter()

    def next_call(self, now: float, ready: bool = True) -> Call | None:
        """The call to make now, if any.

        Args:
            now: [s], monotonic.
            ready: both of the learner's services are there.
        """
        if self._open is not None:
            if now - self._started <= ANSWER_TIMEOUT:
                return None
            self.fail("no answer from the learner", now)
        if now < self._next_try:
            return None
        if not ready:
            self._resumed, self._next_try = False, now + RETRY
            return None
        items: Sequence[Item] = ()
        if self._resumed:
            items = self._spool.pending(min(self._batch, self._credits), CALL_BYTES)
            if not items and now - self._started < ASK_PERIOD:
                return None
        self._open, self._started = Call(self._spool.boot, items), now
        return self._open

    def awaits(self, call: Call) -> bool:
        """Whether its answer still counts."""
        return self._open is call

    def on_answer(self, call: Call, answer: Answer, now: float) -> None:
        """The answer to a call; to one that was given up it is ignored."""
        if not self.awaits(call):
            return
        if answer.credits == 0 or answer.errors:
            self._keep(answer, call)
            self.fail(answer.errors[0] if answer.errors else "the learner takes nothing now", now)
            return
        if answer.acknowledged < self._spool.acknowledged:
            if not call.asks:
                self.fail(f"the learner has {answer.acknowledged} of {self._spool.acknowledged} items", now)
                return
            self._restart(answer.acknowledged, now)
            return
        if not self._keep(answer, call):
            self.fail("the learner has items that were never sent", now)
            return
        self._open, self._resumed, self._failures = None, True, 0
        self._credits = answer.credits

    def damaged(self, why: object, now: float) -> None:
        """The items of the open call cannot be read from the spool: they come again from their bags."""
        self._say(f"hand-over: {why}; everything is handed over again")
        self._anew(now)

    def fail(self, why: str, now: float, forged: bool = False) -> None:
        """The open call came to nothing; ask again after a while, which grows unless somebody forged the answer."""
        self.counters["hand_over_failures"] += 1
        wait = min(RETRY * 2 ** min(self._failures, 10), MOST_RETRY)
        self._failures += not forged
        self._say(f"hand-over: {why}; trying again in {wait:.1f} s")
        self._open, self._resumed, self._next_try = None, False, now + wait

    def _restart(self, acknowledged: int, now: float) -> None:
        self._say(
            f"hand-over: the learner has {acknowledged} of {self._spool.acknowledged} items that were acknowledged; "
            f"everything is handed over again"
        )
        self._anew(now)

    def _anew(self, now: float) -> None:
        try:
            self._begin_anew()
        except OSError as error:
            self.fail(f"cannot begin anew: {error}", now)
            return
        self.counters["hand_overs_begun_anew"] += 1
        self._open, self._resumed = None, False

    def _keep(self, answer: Answer, call: Call) -> bool:
        """Note what the learner has; False for a number that cannot be."""
        if not answer.credits or call.boot != self._spool.boot:
            return True
        try:
            self._spool.acknowledge(answer.acknowledged)
        except ValueError as error:
            self.counters["refused_acknowledgement"] += 1
            self._say(f"hand-over: {error}")
            return False
        return True
