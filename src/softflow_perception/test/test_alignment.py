"""Sensors are paired by stamp, within a bounded skew, also when a partner comes late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow_perception.alignment import LATE_AFTER, Aligner, Patience

MS = 1_000_000


def aligner(others: tuple[str, ...] = ("object",), skew: float = 0.01, depth: int = 10) -> Aligner[str]:
    return Aligner("hand", others, skew, depth)


def test_a_set_is_emitted_when_the_partner_comes_whichever_is_first() -> None:
    for order in (("hand", "object"), ("object", "hand")):
        made = aligner()
        assert made.add(order[0], 100 * MS, order[0]) == []
        (aligned,) = made.add(order[1], 100 * MS, order[1])
        assert aligned.samples == {"hand": "hand", "object": "object"} and aligned.skew == 0.0


def test_the_nearest_partner_is_taken() -> None:
    made = aligner()
    for stamp in (92, 98, 105):
        made.add("object", stamp * MS, f"o{stamp}")
    (aligned,) = made.add("hand", 100 * MS, "h")
    assert aligned.samples["object"] == "o98"
    assert aligned.stamps == {"hand": 100 * MS, "object": 98 * MS}
    assert aligned.skew == pytest.approx(0.002)


def test_the_bound_is_inclusive_and_holds() -> None:
    made = aligner()
    made.add("object", 0, "o")
    assert made.add("hand", 10 * MS + 1, "too late") == []
    made = aligner()
    made.add("object", 0, "o")
    assert len(made.add("hand", 10 * MS, "just")) == 1


def test_a_late_partner_completes_what_waits() -> None:
    made = aligner()
    for stamp in (0, 50, 100):
        assert made.add("hand", stamp * MS, f"h{stamp}") == []
    assert [a.samples["hand"] for a in made.add("object", 0, "o")] == ["h0"]
    assert [a.samples["hand"] for a in made.add("object", 50 * MS, "o")] == ["h50"]
    assert made.given_up == 0


def test_what_is_overtaken_is_given_up_and_counted() -> None:
    made = aligner()
    for stamp in (0, 50, 100):
        made.add("hand", stamp * MS, f"h{stamp}")
    (aligned,) = made.add("object", 100 * MS, "o")
    assert aligned.samples["hand"] == "h100" and made.given_up == 2
    assert made.add("object", 0, "o0") == []


def test_every_other_sensor_is_needed() -> None:
    made = aligner(("object", "camera"))
    made.add("object", 0, "o")
    assert made.add("hand", 0, "h") == []
    (aligned,) = made.add("camera", 4 * MS, "c")
    assert set(aligned.samples) == {"hand", "object", "camera"} and aligned.skew == pytest.approx(0.004)


def test_a_sensor_may_have_a_bound_of_its_own() -> None:
    for stamp, complete in ((-40, True), (-41, False), (40, True), (41, False)):
        made: Aligner[str] = Aligner("hand", ("object", "camera"), 0.01, skews={"camera": 0.04})
        made.add("object", 100 * MS, "o")
        made.add("camera", (100 + stamp) * MS, "c")
        assert len(made.add("hand", 100 * MS, "h")) == complete, stamp


def test_who_was_late_is_counted_also_when_more_wait_than_there_is_room_for() -> None:
    made = aligner(("object", "camera"), depth=3)
    for step in range(5):
        made.add("hand", step * 50 * MS, f"h{step}")
        made.add("object", step * 50 * MS, "o")
    assert made.given_up == 2 and made.late == {"camera": 2}
    (aligned,) = made.add("camera", 200 * MS, "c")
    assert aligned.samples["hand"] == "h4"
    assert made.given_up == 4 and made.late["camera"] == 4


def test_what_is_repeated_pushes_nothing_out() -> None:
    """A world waits at the end of a chunk, and a slow camera still has to draw the steps before."""
    made = aligner(("object", "camera"), depth=5)
    for step in range(4):
        made.add("object", step * 50 * MS, f"o{step}")
        made.add("hand", step * 50 * MS, f"h{step}")
    for _ in range(20):
        made.add("object", 150 * MS, "again")
        made.add("hand", 150 * MS, "again")
    found = [a.samples["hand"] for step in range(4) for a in made.add("camera", step * 50 * MS, f"c{step}")]
    assert found == ["h0", "h1", "h2", "again"] and made.given_up == 0


def test_who_is_missing_is_named_with_how_far_off_it_is() -> None:
    made: Aligner[str] = Aligner("hand", ("object", "camera"), 0.01, skews={"camera": 0.02})
    assert made.missing() == {}
    made.add("camera", 0, "c")
    made.add("hand", 50 * MS, "h")
    assert made.missing() == {"object": "no sample", "camera": "-0.050 s off, limit 0.02 s"}
    made.add("object", 50 * MS, "o")
    assert set(made.missing()) == {"camera"}
    made.add("camera", 50 * MS, "c")
    assert made.missing() == {}


def test_patience_ends_with_the_name_of_who_is_missing_and_begins_anew_with_a_set() -> None:
    patience, missing = Patience("hand"), {"front": "-0.050 s off, limit 0.025 s", "tool": "no sample"}
    assert patience.fault(missing, 100.0) == ""
    patience.heard("front", 9.0)
    patience.heard("hand", 10.0)
    patience.heard("hand", 10.9)
    assert patience.fault(missing, 10.0 + LATE_AFTER) == ""
    assert patience.fault(missing, 12.0) == (
        "no observation for 2.0 s: front last came 3.0 s ago (-0.050 s off, limit 0.025 s), tool never came"
    )
    assert patience.fault({}, 12.0) == ""
    patience.paired()
    assert patience.fault(missing, 100.0) == ""
    patience.heard("hand", 100.0)
    assert patience.fault(missing, 100.5) == "" and patience.fault(missing, 101.5) != ""


def test_an_unknown_sensor_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'nose'.*hand, object"):
        aligner().add("nose", 0, "x")


@pytest.mark.parametrize("skew", [0.0, -1.0])
def test_a_skew_of_nothing_is_refused(skew: float) -> None:
    with pytest.raises(ValueError, match="max_skew"):
        aligner(skew=skew)


@given(st.lists(st.tuples(st.sampled_from(["hand", "object", "camera"]), st.integers(0, 200)), max_size=60))
def test_whatever_comes_sets_are_in_order_within_the_skew_and_never_twice(
    events: list[tuple[str, int]],
) -> None:
    made: Aligner[int] = Aligner("hand", ("object", "camera"), 0.01)
    emitted, hands = [], 0
    for number, (sensor, stamp) in enumerate(events):
        hands += sensor == "hand"
        emitted += made.add(sensor, stamp * MS, number)
    for aligned in emitted:
        near = [abs(aligned.stamps[s] - aligned.stamps["hand"]) for s in ("object", "camera")]
        assert max(near) <= 10 * MS
        assert all(events[n] == (s, aligned.stamps[s] // MS) for s, n in aligned.samples.items())
    leading = [a.samples["hand"] for a in emitted]
    assert len(set(leading)) == len(leading) and len(leading) + made.given_up <= hands
