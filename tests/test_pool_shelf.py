"""The book-keeper of a pool alone: every border, by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from resilience._machine import ABANDONED, FAILURE, SUCCESS
from resilience._shelf import Shelf
from resilience._slot import CLOSING, GONE, IDLE, LENT, VACANT, Item, Place


class NoChance(random.Random):
    """Takes nothing off a lifetime."""

    def random(self) -> float:
        return 0.0


def shelf_of(**settings: Any) -> Shelf:
    usual: dict[str, Any] = {
        "max_size": 3,
        "min_idle": 0,
        "max_queue": 10,
        "max_idle_time": 30.0,
        "max_lifetime": 100.0,
        "leak_after": None,
        "checks": True,
        "closes": True,
        "rng": NoChance(),
    }
    return Shelf(**{**usual, **settings})


def lent(shelf: Shelf, number: int, now: float = 0.0) -> Item:
    """A new item, lent."""
    item = shelf.reserve_locked()
    assert item is not None
    assert shelf.made_locked(item, number, now) == []
    assert item.state is LENT
    return item


def waiting(shelf: Shelf) -> Place:
    place = Place(lambda ticket, verdict: [])
    shelf.join_locked(place)
    return place


def test_what_came_back_last_is_lent_first() -> None:
    shelf = shelf_of()
    items = [lent(shelf, number) for number in range(3)]
    for item in items:
        shelf.put_locked(item, SUCCESS, 1.0)
        assert item.state is IDLE
    assert [shelf.take_locked(2.0) for _ in range(3)] == items[::-1]
    assert shelf.take_locked(2.0) is None


def test_a_life_ends_at_its_very_end() -> None:
    shelf = shelf_of(max_idle_time=1e9)
    old = lent(shelf, 1, 0.0)
    young = lent(shelf, 2, 50.0)
    shelf.put_locked(young, SUCCESS, 60.0)
    shelf.put_locked(old, SUCCESS, 60.0)
    with_life = shelf.next_locked(99.9)
    assert with_life is old
    shelf.put_locked(old, SUCCESS, 99.9)
    assert shelf.next_locked(100.0) is young
    assert (old.state, old.reason) == (CLOSING, "lifetime")


def test_what_comes_back_at_the_end_of_its_life_is_not_for_who_waits() -> None:
    shelf = shelf_of(max_size=1)
    item = lent(shelf, 1)
    place = waiting(shelf)
    assert shelf.put_locked(item, SUCCESS, 100.0) == []
    assert (item.state, item.reason, place.granted) == (CLOSING, "lifetime", False)
    assert shelf.closed_locked(item, 100.0) == [place]
    assert place.item is not None
    assert place.item.state is VACANT


def test_the_idle_end_with_their_life_even_below_the_minimum() -> None:
    shelf = shelf_of(min_idle=2, max_idle_time=1e9)
    old, young = lent(shelf, 1, 0.0), lent(shelf, 2, 50.0)
    shelf.put_locked(old, SUCCESS, 60.0)
    shelf.put_locked(young, SUCCESS, 60.0)
    shelf.evict_locked(99.9)
    assert old.state is IDLE
    assert shelf.take_locked(100.0) is young
    assert (old.state, old.reason) == (CLOSING, "lifetime")


def test_the_idle_end_when_they_are_not_needed_oldest_first() -> None:
    shelf = shelf_of(min_idle=1)
    items = [lent(shelf, number) for number in range(3)]
    for number, item in enumerate(items):
        shelf.put_locked(item, SUCCESS, float(number))
    shelf.evict_locked(29.9)
    assert len(shelf.idle) == 3
    shelf.evict_locked(30.0)
    assert list(shelf.idle) == items[1:]
    assert items[0].reason == "idle"
    shelf.evict_locked(60.0)
    assert list(shelf.idle) == items[2:]


def test_who_returns_something_evicts_what_is_not_needed() -> None:
    shelf = shelf_of()
    one, other = lent(shelf, 1), lent(shelf, 2)
    shelf.put_locked(one, SUCCESS, 0.0)
    shelf.put_locked(other, SUCCESS, 30.0)
    assert list(shelf.idle) == [other]


@pytest.mark.parametrize(
    "doubtful,idle,due", [(False, 0.0, False), (False, 0.5, False), (False, 0.51, True), (True, 0.0, True)]
)
def test_a_check_is_due_after_more_than_half_a_second_or_a_doubt(doubtful: bool, idle: float, due: bool) -> None:
    shelf = shelf_of()
    item = lent(shelf, 1)
    shelf.put_locked(item, FAILURE if doubtful else SUCCESS, 8.0)
    assert shelf.due(item, 8.0 + idle) is due
    assert not shelf_of(checks=False).due(item, 100.0)


def test_what_was_never_used_keeps_its_doubts() -> None:
    shelf = shelf_of()
    item = lent(shelf, 1)
    shelf.put_locked(item, SUCCESS, 0.0)
    assert shelf.take_locked(10.0) is item
    shelf.give_up_locked(item, 10.0)
    assert item.doubtful
    assert shelf.take_locked(10.0) is item
    shelf.put_locked(item, SUCCESS, 10.0)
    assert not item.doubtful
    assert shelf.take_locked(10.1) is item
    shelf.give_up_locked(item, 10.1)
    assert not item.doubtful


def test_what_is_being_closed_takes_a_slot_but_is_not_too_many() -> None:
    shelf = shelf_of(max_size=2)
    one, other = lent(shelf, 1), lent(shelf, 2)
    shelf.resize_locked(1, 0.0)
    shelf.put_locked(one, SUCCESS, 0.0)
    assert (one.state, one.reason) == (CLOSING, "resized")
    assert shelf.reserve_locked() is None
    shelf.put_locked(other, SUCCESS, 0.0)
    assert other.state is IDLE
    assert shelf.next_locked(0.0) is other
    assert shelf.closed_locked(one, 0.0) == []
    assert (one.state, len(shelf.items)) == (GONE, 1)


def test_a_slot_is_for_the_next_in_line_however_it_got_free() -> None:
    shelf = shelf_of(max_size=1, closes=False)
    for end in ("failed", "cancelled", "interrupted", "in doubt"):
        item = shelf.reserve_locked()
        assert item is not None
        place = waiting(shelf)
        if end == "failed":
            woken = shelf.failed_locked(item, 0.0, wary=True)
        elif end == "cancelled":
            woken = shelf.give_up_locked(item, 0.0)
        else:
            shelf.made_locked(item, 1, 0.0)
            shelf.checks = False
            woken = shelf.put_locked(item, ABANDONED if end == "interrupted" else FAILURE, 0.0)
        assert woken == [place]
        assert place.granted
        assert place.item is not None
        assert shelf.give_up_locked(place.item, 0.0) == []
        assert not shelf.items


def test_only_a_failure_makes_the_pool_wary_and_only_success_ends_that() -> None:
    shelf = shelf_of()
    item = shelf.reserve_locked()
    assert item is not None
    shelf.failed_locked(item, 0.0, wary=False)
    assert (shelf.wary, shelf.failed) == (False, 0)
    first, second = shelf.reserve_locked(), shelf.reserve_locked()
    assert first is not None
    assert second is not None
    shelf.failed_locked(first, 0.0, wary=True)
    assert (shelf.wary, shelf.failed, shelf.creating) == (True, 1, 1)
    assert shelf.reserve_locked() is None
    places = [waiting(shelf), waiting(shelf), waiting(shelf)]
    assert shelf.failed_locked(second, 0.0, wary=False) == places[:1]
    assert shelf.wary
    assert places[0].item is not None
    assert shelf.made_locked(places[0].item, 1, 0.0) == places[1:]
    assert not shelf.wary


def test_one_refills_at_a_time_and_no_more_than_there_is_room_for() -> None:
    shelf = shelf_of(min_idle=2, max_size=2)
    one = shelf.spare_locked()
    assert one is not None
    assert shelf.spare_locked() is None
    shelf.refilling = False
    assert shelf.spare_locked() is not None
    shelf.refilling = False
    assert shelf.spare_locked() is None
    assert not shelf.refilling


def test_growing_lets_in_as_many_as_there_is_room_for() -> None:
    shelf = shelf_of(max_size=1)
    lent(shelf, 1)
    places = [waiting(shelf) for _ in range(3)]
    assert shelf.resize_locked(3, 0.0) == places[:2]
    assert list(shelf.queue) == places[2:]


def test_a_waiter_gets_what_comes_back_in_the_order_of_coming() -> None:
    shelf = shelf_of(max_size=1)
    item = lent(shelf, 1)
    late, early = waiting(shelf), waiting(shelf)
    first = Place(lambda ticket, verdict: [])
    shelf.join_locked(first, first=True)
    for place in (first, late, early):
        assert shelf.put_locked(item, SUCCESS, 7.0) == [place]
        assert place.item is item
        assert item.returned == 7.0
    assert shelf.put_locked(item, SUCCESS, 8.0) == []


@pytest.mark.parametrize(
    "patient,queued,closing,may",
    [
        *((True, 0, 0, True), (True, 1, 0, True), (True, 2, 0, False), (False, 0, 0, False), (False, 0, 1, True)),
        *((False, 1, 1, False), (False, 1, 2, True), (True, 2, 3, True), (True, 2, 2, False)),
    ],
)
def test_who_may_wait(patient: bool, queued: int, closing: int, may: bool) -> None:
    shelf = shelf_of(max_size=9, max_queue=2)
    for _ in range(queued):
        waiting(shelf)
    shelf.closing = closing
    assert shelf.may_join_locked(patient=patient) is may


def test_what_is_not_lent_or_not_ours_changes_nothing_when_it_comes_back() -> None:
    shelf = shelf_of()
    item, parents = lent(shelf, 1), lent(shelf, 2)
    shelf.put_locked(item, SUCCESS, 0.0)
    parents.generation -= 1
    for verdict in (SUCCESS, FAILURE, ABANDONED):
        for wrong in (item, parents):
            before = (wrong.state, list(shelf.idle), list(shelf.doomed), shelf.closing, len(shelf.items))
            assert shelf.put_locked(wrong, verdict, 1.0) == []
            assert shelf.closed_locked(wrong, 1.0) == []
            assert shelf.lost_locked(wrong, 1.0) == []
            if wrong is parents:
                assert shelf.give_up_locked(wrong, 1.0) == []
            assert (wrong.state, list(shelf.idle), list(shelf.doomed), shelf.closing, len(shelf.items)) == before
    assert shelf.leaked == 0
    assert shelf.failed_locked(item, 1.0, wary=True) == []
    assert not shelf.wary


def test_what_was_doomed_is_closed_once() -> None:
    shelf = shelf_of()
    item = lent(shelf, 1)
    shelf.put_locked(item, ABANDONED, 0.0)
    shelf.closed_locked(item, 0.0)
    shelf.closed_locked(item, 0.0)
    assert (shelf.closing, shelf.closed_count) == (0, 1)


def test_a_shut_pool_gives_nothing_to_those_who_wait_and_tells_when_it_is_empty() -> None:
    shelf = shelf_of(max_size=2)
    item, other = lent(shelf, 1), lent(shelf, 2)
    shelf.put_locked(other, SUCCESS, 0.0)
    assert shelf.next_locked(0.0) is other
    place = waiting(shelf)
    assert shelf.shut_locked() == [place]
    assert (place.granted, place.item) == (True, None)
    drained = Place(lambda ticket, verdict: [])
    shelf.drainers.append(drained)
    assert shelf.drained_locked() == []
    shelf.put_locked(other, SUCCESS, 0.0)
    shelf.closed_locked(other, 0.0)
    assert not drained.granted
    assert shelf.put_locked(item, SUCCESS, 0.0) == []
    assert (item.reason, shelf.reserve_locked()) == ("closed", None)
    assert shelf.closed_locked(item, 0.0) == [drained]
    assert drained.granted
    late = waiting(shelf)
    assert (late.granted, len(shelf.queue)) == (True, 0)


def test_the_longest_wait_and_all_of_them_are_counted() -> None:
    shelf = shelf_of()
    assert (shelf.wait_time, shelf.longest_wait) == (0.0, 0.0)
    for seconds in (1.0, 3.0, 2.0):
        shelf.waited_locked(seconds)
    assert (shelf.wait_time, shelf.longest_wait) == (6.0, 3.0)


def test_loans_are_leaks_once_they_have_lasted_for_so_long() -> None:
    shelf = shelf_of(leak_after=10.0)
    items = [lent(shelf, number) for number in range(3)]
    for number, item in enumerate(items):
        shelf.watch_locked(item, float(number), f"stack {number}")
    shelf.put_locked(items[1], SUCCESS, 3.0)
    assert items[1].stack is None, "what it refers to must not be kept alive"
    shelf.look_for_leaks_locked(9.9)
    assert shelf.leaked == 0
    shelf.look_for_leaks_locked(10.0)
    assert list(shelf.overdue) == [(10.0, "stack 0")]
    shelf.look_for_leaks_locked(13.0)
    assert list(shelf.overdue) == [(10.0, "stack 0"), (11.0, "stack 2")]
    shelf.lost_locked(items[0], 14.0)
    assert shelf.leaked == 2
    assert items[0].reason == "interrupted"


def test_what_is_emptied_out_is_what_has_a_resource_in_it() -> None:
    shelf = shelf_of(max_size=4)
    out, idle, closing = (lent(shelf, number) for number in range(3))
    shelf.put_locked(idle, SUCCESS, 0.0)
    shelf.put_locked(closing, ABANDONED, 0.0)
    vacant = shelf.reserve_locked()
    assert vacant is not None
    assert shelf.items == {out, idle, closing, vacant}
    assert set(shelf.emptied_locked()) == {out, idle}
    assert not shelf.items


def test_in_a_child_there_is_nothing_and_what_the_parent_has_is_kept_out_of_reach() -> None:
    shelf = shelf_of(leak_after=1.0, min_idle=1)
    items = [lent(shelf, number) for number in range(3)]
    shelf.put_locked(items[0], SUCCESS, 0.0)
    shelf.put_locked(items[1], ABANDONED, 0.0)
    shelf.watch_locked(items[2], 0.0, None)
    shelf.look_for_leaks_locked(2.0)
    shelf.watch_locked(items[2], 0.0, None)
    waiting(shelf)
    shelf.drainers.append(waiting(shelf))
    shelf.wary = shelf.refilling = True
    shelf.creating = 1
    shelf.forked()
    for empty in (shelf.items, shelf.idle, shelf.queue, shelf.doomed, shelf.out, shelf.overdue, shelf.drainers):
        assert not empty
    assert (shelf.creating, shelf.closing, shelf.wary, shelf.refilling) == (0, 0, False, False)
    assert set(shelf.inherited) == set(items)
    assert shelf.generation == items[0].generation + 1
