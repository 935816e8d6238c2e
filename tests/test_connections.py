"""The book-keeper of the HTTP connection pool: what its state machine cannot reach, and the cases worth reading."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from resilience_http._connections import DOOMED, LEASED, Connections, Place, Waiter

from resilience._machine import ABANDONED
from resilience.clock import SYSTEM
from resilience.testing import ManualClock


def connected(place: Any) -> Place:
    assert type(place) is Place
    place.connection = place.stream = "a connection"
    return place


def waiting(place: Any) -> Waiter:
    assert type(place) is Waiter
    return place


def close_doomed(connections: Connections) -> Iterator[Place]:
    while connections.doomed:
        place = connections.doomed.popleft()
        connections.closed(place)
        yield place


def test_the_oldest_waiter_gets_a_connection_of_another_host_only_once_that_is_closed() -> None:
    connections = Connections(1)
    first = connected(connections.acquire("a"))
    b, a = waiting(connections.acquire("b")), waiting(connections.acquire("a"))
    connections.release(first, True)
    assert not b.granted
    assert not a.granted, "it would be served sooner than who has waited longer"
    assert list(close_doomed(connections)) == [first]
    assert b.granted
    assert b.place is not None
    assert b.place.connection is None


def test_a_connection_goes_to_a_waiter_of_its_host_if_that_has_waited_longest() -> None:
    connections = Connections(1)
    first = connected(connections.acquire("a"))
    a, b = waiting(connections.acquire("a")), waiting(connections.acquire("b"))
    connections.release(first, True)
    assert a.place is first
    assert not b.granted
    connections.release(first, True)
    assert list(close_doomed(connections)) == [first]
    assert b.granted


def test_a_waiter_whose_host_is_full_holds_nobody_up() -> None:
    connections = Connections(3, per_host=1)
    busy = connected(connections.acquire("a"))
    held_up = waiting(connections.acquire("a"))
    assert type(connections.acquire("b")) is Place
    connections.release(busy, False)
    assert list(close_doomed(connections)) == [busy]
    assert held_up.granted


def test_a_connection_goes_to_a_waiter_of_its_own_host_even_if_that_is_full() -> None:
    connections = Connections(3, per_host=1)
    busy = connected(connections.acquire("a"))
    own = waiting(connections.acquire("a"))
    connections.release(busy, True)
    assert own.place is busy


def test_who_waits_for_a_full_host_keeps_its_turn_among_all() -> None:
    connections = Connections(1, per_host=1)
    busy = connected(connections.acquire("a"))
    own, other = waiting(connections.acquire("a")), waiting(connections.acquire("b"))
    connections.release(busy, True)
    assert own.place is busy
    connections.release(busy, False)
    assert list(close_doomed(connections)) == [busy]
    assert other.granted


def test_who_waits_for_a_full_host_costs_no_other_host_its_idle_connections() -> None:
    connections = Connections(2, per_host=1)
    connected(connections.acquire("a"))
    idle = connected(connections.acquire("b"))
    connections.release(idle, True)
    waiting(connections.acquire("a"))
    assert not connections.doomed
    assert connections.acquire("b") is idle


def test_only_as_many_idle_connections_make_room_as_requests_wait() -> None:
    connections = Connections(3)
    for place in [connected(connections.acquire(host)) for host in "abc"]:
        connections.release(place, True)
    waiters = [waiting(connections.acquire("x")), waiting(connections.acquire("y"))]
    assert [place.host.origin for place in connections.doomed] == ["a", "b"], "the least recently used go first"
    assert len(connections.idle) == 1
    assert type(connections.acquire("c")) is Place, "the last is still of use to its own host"
    assert len(list(close_doomed(connections))) == 2
    assert all(waiter.granted for waiter in waiters)


def test_a_connection_is_kept_while_room_for_all_who_wait_is_coming() -> None:
    connections = Connections(3)
    a, b, c = [connected(connections.acquire(host)) for host in "abc"]
    waiters = [waiting(connections.acquire("x")), waiting(connections.acquire("y"))]
    connections.release(a, False)
    connections.release(b, False)
    connections.release(c, True)
    assert list(connections.doomed) == [a, b]
    assert connections.acquire("c") is c
    assert len(list(close_doomed(connections))) == 2
    assert all(waiter.granted for waiter in waiters)


def test_where_none_may_be_idle_none_is_kept() -> None:
    connections = Connections(2, max_idle=0)
    place = connected(connections.acquire("a"))
    connections.release(place, True)
    assert list(close_doomed(connections)) == [place]
    assert connections.statistics().in_use == 0


def test_a_second_release_changes_nothing() -> None:
    connections = Connections(2)
    place = connected(connections.acquire("a"))
    for reusable in (True, True, False):
        connections.release(place, reusable)
        assert list(connections.idle) == [place]
        assert not connections.doomed
    assert connections.acquire("a") is place
    connections.release(place, False)
    assert list(close_doomed(connections)) == [place]
    connections.release(place, True)
    assert not connections.places


def test_a_socket_that_never_became_a_connection_is_closed() -> None:
    connections = Connections(2)
    place = connections.acquire("a")
    assert type(place) is Place
    place.stream = "a socket"
    connections.release(place, True)
    assert list(connections.doomed) == [place]


def test_an_idle_connection_expires_on_the_clock_of_the_pool() -> None:
    clock = ManualClock(0.0)
    connections = Connections(2, keepalive_expiry=5.0, clock=clock)
    place = connected(connections.acquire("a"))
    connections.release(place, True)
    clock.advance(4.999)
    assert connections.acquire("a") is place
    connections.release(place, True)
    clock.advance(5.0)
    fresh = connections.acquire("a")
    assert fresh is not place
    assert list(connections.doomed) == [place]


def test_a_refused_request_leaves_no_host_behind() -> None:
    connections = Connections(1, max_queue=1)
    connections.acquire("a")
    connections.acquire("b")
    for number in range(100):
        assert connections.acquire(f"refused {number}") is None
    assert set(connections.hosts) == {"a", "b"}


def test_a_hundred_thousand_hosts_leave_no_trace() -> None:
    connections = Connections(5)
    sizes = []
    for number in range(100_000):
        got = connections.acquire(f"https://host-{number}.test")
        for _ in close_doomed(connections):
            pass
        place = connected(got.place if type(got) is Waiter else got)
        connections.release(place, True)
        if number in (1_000, 99_999):
            sizes.append((len(connections.hosts), len(connections.places), len(connections.ready) < 200))
    assert sizes == [(5, 5, True)] * 2


def test_requests_that_come_and_go_while_nothing_moves_leave_nothing_in_the_queue() -> None:
    """5001 cancelled waiters stayed in the heap of a well-known limiter."""
    connections = Connections(1)
    place = connected(connections.acquire("a"))
    first = waiting(connections.acquire("z"))
    for number in range(5_000):
        connections.leave(waiting(connections.acquire(f"b{number % 7}")))
    assert (connections.statistics().waiting, len(connections.hosts)) == (1, 2)
    assert len(connections.ready) < 200
    connections.release(place, False)
    assert list(close_doomed(connections)) == [place]
    assert first.granted, "and the one that stayed is still known"


def test_a_ticket_of_a_closed_loop_passes_its_turn_on() -> None:
    connections = Connections(1)
    place = connected(connections.acquire("a"))
    gone, next_one = waiting(connections.acquire("a")), waiting(connections.acquire("a"))
    loop = asyncio.new_event_loop()

    async def wait() -> None:
        await gone.suspend(SYSTEM, None)

    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    connections.release(place, True)
    assert next_one.place is place
    assert (gone.granted, next_one.granted) == (False, True)
    buried: Any = task
    buried._log_destroy_pending = False
    buried.get_coro().close()


def test_starting_afresh_wakes_those_that_wait_with_nothing() -> None:
    connections = Connections(1)
    place = connected(connections.acquire("a"))
    waiter = waiting(connections.acquire("a"))
    woken: list[bool] = []
    waiter._waker = lambda: woken.append(True)
    assert connections.abandon() == [place]
    assert (woken, waiter.granted, waiter.place) == ([True], True, None)
    assert connections.withdraw(waiter) is None
    connections.leave(waiter)
    assert (connections.statistics().in_use, connections.statistics().waiting) == (0, 0)


def test_a_child_has_no_connections_and_keeps_those_of_its_parent_untouched() -> None:
    connections = Connections(3)
    places = [connected(connections.acquire("a")) for _ in range(3)]
    waiter = waiting(connections.acquire("a"))
    connections.release(places[0], False)
    connections.forked()
    assert set(connections.inherited) == set(places)
    assert not connections.doomed
    assert (connections.statistics().in_use, connections.statistics().waiting) == (0, 0)
    connections.leave(waiter)
    assert connections.statistics().waiting == 0
    assert type(connections.acquire("a")) is Place


def test_who_leaves_after_a_fresh_start_gives_nothing_back() -> None:
    connections = Connections(1)
    connections.acquire("a")
    waiter = waiting(connections.acquire("a"))
    connections.abandon()
    connections.leave(waiter)
    assert list(connections.take_back_locked(waiter, ABANDONED)) == []
    assert (connections.statistics().in_use, connections.statistics().waiting) == (0, 0)


def test_what_was_granted_is_taken_back_once() -> None:
    connections = Connections(1)
    place = connected(connections.acquire("a"))
    gone, heir, late = (waiting(connections.acquire("a")) for _ in range(3))
    connections.release(place, True)
    assert gone.place is place
    assert list(connections.take_back_locked(gone, ABANDONED)) == [heir]
    assert list(connections.take_back_locked(gone, ABANDONED)) == []
    assert not late.granted


def test_a_place_is_closed_once() -> None:
    connections = Connections(3)
    place, other = connected(connections.acquire("a")), connections.acquire("a")
    connections.release(place, False)
    connections.closed(place)
    connections.closed(place)
    assert connections.hosts["a"].used == 1
    assert connections.closing == 0
    assert connections.places == {other}


def test_starting_afresh_forgets_what_is_in_use_and_knows_what_was_handed_over() -> None:
    connections = Connections(3)
    dropped, doomed, used = (connected(connections.acquire("a")) for _ in range(3))
    connections.release(doomed, False)
    with connections.lock:
        connections.drop(dropped)
    assert set(connections.abandon()) == {dropped, doomed, used}
    assert (dropped.state, doomed.state, used.state) == (DOOMED, DOOMED, LEASED), (
        "only the last has somebody to close it"
    )
    assert not connections.late
    assert not connections.doomed
    connections.release(used, True)
    connections.release(used, True)
    assert list(connections.doomed) == [used], "once, and counted nowhere"
    assert connections.statistics().in_use == 0


def test_starting_afresh_wakes_who_was_granted_something_at_the_last_moment() -> None:
    connections = Connections(1)
    place = connections.acquire("a")
    assert type(place) is Place
    waiter = waiting(connections.acquire("b"))
    with connections.lock:
        connections.drop(place)  # it is not connected yet, so there is nothing to close
    woken: list[bool] = []
    waiter._waker = lambda: woken.append(True)
    assert connections.abandon() == [waiter.place]
    assert (woken, waiter.granted) == ([True], True)


def test_a_decision_sees_what_was_handed_over_before_it() -> None:
    connections = Connections(1, max_queue=1)
    place = connected(connections.acquire("a"))
    gone = waiting(connections.acquire("a"))
    connections.release(place, True)
    second = waiting(connections.acquire("a"))
    with connections.lock:
        connections.leave(gone)
    assert type(connections.acquire("a")) is Waiter, "there is room in the queue, for the second has its place by now"
    assert second.place is place


@pytest.mark.parametrize("step", ["acquire", "statistics"])
def test_whoever_comes_next_wakes_who_was_let_in_by_what_was_handed_over(step: str) -> None:
    connections = Connections(1)
    place = connected(connections.acquire("a"))
    gone, second = waiting(connections.acquire("a")), waiting(connections.acquire("a"))
    woken: list[bool] = []
    second._waker = lambda: woken.append(True)
    connections.release(place, True)
    with connections.lock:
        connections.leave(gone)
    if step == "acquire":
        connections.acquire("a")
    else:
        connections.statistics()
    assert (second.place, woken) == (place, [True])


def test_whoever_comes_next_applies_what_a_finaliser_handed_over() -> None:
    for step in ("acquire", "release", "closed", "withdraw", "statistics"):
        connections = Connections(2)
        dropped, held = connected(connections.acquire("a")), connected(connections.acquire("a"))
        waiter = waiting(connections.acquire("a"))
        with connections.lock:
            connections.drop(dropped)
        if step == "acquire":
            connections.acquire("b")
        elif step == "release":
            connections.release(held, True)
        elif step == "closed":
            connections.closed(Place(dropped.host, connections.generation - 1))
        elif step == "withdraw":
            connections.withdraw(waiter)
        else:
            assert connections.statistics().in_use == 2
        assert dropped in connections.doomed, step
        assert not connections.late


def test_a_statistic_sees_what_was_handed_over_before_it() -> None:
    connections = Connections(1)
    place = connections.acquire("a")
    assert type(place) is Place
    with connections.lock:
        connections.drop(place)
    assert connections.statistics().in_use == 0


def test_the_connection_used_last_is_used_first_and_the_one_used_first_is_given_up_first() -> None:
    connections = Connections(5, max_idle=3)
    places = [connected(connections.acquire("a")) for _ in range(5)]
    for place in places[:4]:
        connections.release(place, True)
    assert list(connections.doomed) == [places[0]]
    assert connections.acquire("a") is places[3]
    assert connections.acquire("a") is places[2]
    assert connections.acquire("a") is places[1]
    for _ in close_doomed(connections):
        pass
    connections.release(places[2], True)
    connections.release(places[1], True)
    assert type(connections.acquire("b")) is Place
    connections.acquire("b")
    assert list(connections.doomed) == [places[2]]


def test_every_idle_connection_that_has_expired_goes_when_somebody_comes_by() -> None:
    for step in ("acquire", "release"):
        clock = ManualClock(0.0)
        connections = Connections(5, keepalive_expiry=5.0, clock=clock)
        places = [connected(connections.acquire(host)) for host in "aabc"]
        for place in places[:3]:
            connections.release(place, True)
        clock.advance(5.0)
        if step == "acquire":
            connections.acquire("d")
        else:
            connections.release(places[3], True)
        assert list(connections.doomed) == places[:3]
        assert len(connections.idle) == (step == "release")


def test_what_is_handed_over_while_somebody_is_inside_is_applied_when_he_leaves() -> None:
    connections = Connections(1)
    place = connected(connections.acquire("a"))
    waiter = waiting(connections.acquire("a"))
    woken: list[str] = []

    def drop_more() -> None:  # a finaliser that runs while the woken are told, after the lock was given back
        woken.append("told")
        connections.late.append((connections._drop_locked, other, ABANDONED))

    other = connected(Place(place.host, connections.generation))
    waiter._waker = drop_more
    connections.release(place, True)
    assert woken == ["told"]
    assert not connections.late
    assert other in connections.doomed


def test_places_say_what_they_are() -> None:
    connections = Connections(1)
    place = connections.acquire("a")
    assert repr(place) == "<Place for a: leased>"
    connected(place)
    assert repr(place) == "<Place for a: leased, connected>"


def test_a_round_without_contention_makes_no_garbage_for_the_collector() -> None:
    connections = Connections(2, keepalive_expiry=5.0)
    gc.collect()
    for _ in range(100):
        connections.release(connected(connections.acquire("a")), True)
    assert gc.collect() == 0
