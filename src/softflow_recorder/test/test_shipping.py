"""What to send next and what an answer means; the clock and the learner are the test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from softflow_recorder.shipping import (
    ANSWER_TIMEOUT,
    ASK_PERIOD,
    CALL_BYTES,
    MOST_RETRY,
    RETRY,
    Answer,
    Call,
    Shipping,
)
from softflow_recorder.spool import Spool


class Bench:
    """A shipping, its spool and a clock."""

    def __init__(self, folder: Path, items: int = 5, batch: int = 3) -> None:
        self.spool = Spool(folder)
        for n in range(items):
            self.spool.append(bytes([n]))
        self.lines: list[str] = []
        self.shipping = Shipping(self.spool, batch, self.spool.begin_anew, self.lines.append)
        self.now = 100.0

    def call(self) -> Call:
        call = self.shipping.next_call(self.now)
        assert call is not None
        return call

    def answer(self, call: Call, acknowledged: int, credits_: int = 8, *errors: str) -> None:
        self.shipping.on_answer(call, Answer(acknowledged, credits_, errors), self.now)

    def resume(self, acknowledged: int = 0, credits_: int = 8) -> None:
        call = self.call()
        assert call.asks
        self.answer(call, acknowledged, credits_)

    def failures(self) -> int:
        return self.shipping.counters["hand_over_failures"]


def seqs(call: Call) -> list[int]:
    return [item.seq for item in call.items]


def test_it_asks_first_and_then_sends_in_order_call_by_call(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume(1)
    call = bench.call()
    assert seqs(call) == [2, 3, 4] and call.boot == bench.spool.boot
    assert bench.shipping.next_call(bench.now) is None
    bench.answer(call, 4)
    call = bench.call()
    assert seqs(call) == [5]
    bench.answer(call, 5)
    assert bench.shipping.next_call(bench.now) is None and bench.spool.waiting == 0
    bench.spool.append(b"new")
    assert seqs(bench.call()) == [6] and bench.failures() == 0


def test_no_more_items_than_credits_and_no_more_bytes_than_a_call_may_have(tmp_path: Path) -> None:
    bench = Bench(tmp_path, items=3, batch=8)
    bench.resume(0, credits_=2)
    call = bench.call()
    assert seqs(call) == [1, 2]
    bench.answer(call, 3, credits_=8)
    for size in (CALL_BYTES - 10, 10, 1):
        bench.spool.append(bytes(size))
    call = bench.call()
    assert seqs(call) == [4, 5]
    bench.answer(call, 5)
    assert seqs(bench.call()) == [6]


def test_without_an_answer_it_asks_again_and_the_late_answer_is_ignored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume()
    late = bench.call()
    bench.now += ANSWER_TIMEOUT
    assert bench.shipping.next_call(bench.now) is None and bench.failures() == 0
    bench.now += 0.1
    assert bench.shipping.next_call(bench.now) is None and bench.failures() == 1
    bench.answer(late, 3)
    assert bench.spool.acknowledged == 0
    bench.now += RETRY
    bench.resume(3)  # it had been stored: only the answer was lost
    assert seqs(bench.call()) == [4, 5]


def test_attempts_become_rarer_up_to_a_bound_and_a_success_begins_anew(tmp_path: Path) -> None:
    bench, waits = Bench(tmp_path), []
    for _ in range(8):
        bench.shipping.fail("no", bench.now)
        begun = bench.now
        while bench.shipping.next_call(bench.now) is None:
            bench.now += 0.1
        waits.append(bench.now - begun)
    assert waits[0] == pytest.approx(RETRY, abs=0.11) and waits[1] == pytest.approx(2 * RETRY, abs=0.11)
    assert waits == sorted(waits) and waits[-1] == pytest.approx(MOST_RETRY, abs=0.11)
    call = bench.shipping._open
    assert call is not None
    bench.answer(call, 0)
    bench.shipping.fail("no", bench.now)
    assert bench.shipping.next_call(bench.now + RETRY + 0.01) is not None


def test_a_refused_item_keeps_what_was_stored_before_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume()
    bench.answer(bench.call(), 2, 8, "crc32 of item 3 is wrong")
    assert bench.spool.acknowledged == 2 and bench.failures() == 1
    assert bench.shipping.next_call(bench.now) is None
    bench.now += RETRY
    bench.resume(2)
    assert seqs(bench.call()) == [3, 4, 5]


def test_without_credits_the_number_means_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume(2)
    boot = bench.spool.boot
    bench.answer(bench.call(), 0, 0)
    for _ in range(3):
        bench.now += MOST_RETRY
        bench.resume(0, 0)
    assert bench.spool.boot == boot and bench.spool.acknowledged == 2 and bench.failures() == 4


def test_a_learner_that_lost_something_gets_a_new_boot_after_it_was_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume(2)
    boot = bench.spool.boot
    bench.answer(bench.call(), 0, 8, "seq is 3, must be 1")  # another learner, in the middle
    assert bench.spool.boot == boot
    bench.now += RETRY
    bench.resume(0)
    assert bench.spool.boot != boot and "has 0 of 2 items" in bench.lines[-1]
    assert bench.shipping.counters["hand_overs_begun_anew"] == 1
    bench.spool.append(b"again")
    call = bench.call()
    assert call.asks and call.boot == bench.spool.boot
    bench.answer(call, 0)
    assert seqs(bench.call()) == [1]


def test_without_room_for_a_new_boot_the_old_one_stays_and_it_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume(2)
    full = True

    def begin_anew() -> None:
        if full:
            raise OSError(28, "No space left on device")
        bench.spool.begin_anew()

    bench.shipping = Shipping(bench.spool, 3, begin_anew, bench.lines.append)
    boot = bench.spool.boot
    bench.resume(1)
    assert bench.spool.boot == boot and bench.failures() == 1
    full = False
    bench.now += RETRY
    bench.resume(1)
    assert bench.spool.boot != boot


def test_an_acknowledgement_of_the_future_is_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume()
    bench.answer(bench.call(), 6)
    assert bench.spool.waiting == 5 and bench.shipping.counters["refused_acknowledgement"] == 1
    assert bench.shipping.next_call(bench.now) is None


def test_while_the_services_are_away_nothing_is_sent_and_then_it_asks(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.resume()
    assert bench.shipping.next_call(bench.now, ready=False) is None
    assert bench.shipping.next_call(bench.now) is None
    bench.now += RETRY
    assert bench.call().asks and bench.failures() == 0


def test_while_nothing_waits_it_asks_now_and_then_whether_the_learner_still_has_everything(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, items=1)
    bench.resume()
    bench.answer(bench.call(), 1)
    boot = bench.spool.boot
    assert bench.shipping.next_call(bench.now + ASK_PERIOD - 0.1) is None
    bench.now += ASK_PERIOD
    bench.resume(1)
    assert bench.spool.boot == boot
    bench.now += ASK_PERIOD
    bench.resume(0)
    assert bench.spool.boot != boot
