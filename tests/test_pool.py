"""Lending: what is used again, what is checked, what is closed, and what a caller is told."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta
from typing import Any

import pytest

from resilience import (
    DeadlineExceededError,
    Pool,
    PoolClosedError,
    PoolCreationFailed,
    PoolExhaustedError,
    PoolResourceClosed,
    PoolResourceCreated,
    Timeout,
    Verdict,
    _errand,
    remaining,
)
from resilience.testing import ManualClock, recorded_events
from tests.conftest import Colour
from tests.pooled import Works


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errands are done by who sends them."""
    monkeypatch.setattr(_errand, "start", lambda context, work: context.run(work))


@pytest.fixture
def works(colour: Colour) -> Works:
    return Works(colour)


def test_a_resource_is_created_once_and_used_again(works: Works) -> None:
    pool = works.pool()
    assert [works.use(pool) for _ in range(5)] == [1] * 5
    statistics = pool.statistics()
    assert (statistics.created, statistics.borrowed, statistics.idle, statistics.in_use) == (1, 5, 1, 0)


def test_a_resource_is_idle_from_its_return_on(works: Works, colour: Colour) -> None:
    pool = works.pool(max_idle_time=10.0)
    lease = pool.acquire()
    number = colour.enter(lease)
    colour.clock.advance(60.0)
    colour.exit(lease)
    assert works.use(pool) == number
    assert works.checked == [], "it has just been in use"


def test_what_was_used_last_is_lent_first(works: Works, colour: Colour) -> None:
    pool = works.pool()
    leases = [pool.acquire() for _ in range(3)]
    assert [colour.enter(lease) for lease in leases] == [1, 2, 3]
    for lease in (leases[1], leases[0], leases[2]):
        colour.exit(lease)
    again = [pool.acquire() for _ in range(3)]
    assert [colour.enter(lease) for lease in again] == [3, 1, 2]
    for lease in again:
        colour.exit(lease)


def test_the_block_gets_a_resource_of_its_own(works: Works, colour: Colour) -> None:
    pool = works.pool()
    one, other = pool.acquire(), pool.acquire()
    assert colour.enter(one) != colour.enter(other)
    assert repr(pool) == "<Pool unnamed: 2 of 10 in use, 0 idle, 0 of 1000 waiting>"
    colour.exit(one)
    colour.exit(other)
    assert repr(pool) == "<Pool unnamed: 0 of 10 in use, 2 idle, 0 of 1000 waiting>"


def test_a_lease_is_for_one_loan(works: Works, colour: Colour) -> None:
    lease = works.pool().acquire()
    colour.enter(lease)
    with pytest.raises(RuntimeError, match="for one loan and was entered already"):
        colour.enter(lease)
    colour.exit(lease)
    colour.exit(lease)
    with pytest.raises(RuntimeError, match="ask the pool for a new one"):
        colour.enter(lease)


def test_what_was_used_a_moment_ago_is_not_checked_and_what_was_idle_for_a_while_is(
    works: Works, clock: ManualClock
) -> None:
    pool = works.pool()
    works.use(pool)
    clock.advance(0.5)
    works.use(pool)
    assert works.checked == []
    clock.advance(0.51)
    works.use(pool)
    assert works.checked == [1]


def test_a_check_lasts_for_half_a_second(works: Works, colour: Colour, clock: ManualClock) -> None:
    pool = works.pool()
    works.use(pool)
    clock.advance(10.0)
    lease = pool.acquire()
    colour.enter(lease)
    colour.exit(lease)
    works.use(pool)
    assert works.checked == [1]


def test_a_broken_one_is_closed_and_another_one_lent_in_its_place(works: Works, clock: ManualClock) -> None:
    pool = works.pool(max_size=1)
    works.use(pool)
    works.broken.add(1)
    clock.advance(1.0)
    with recorded_events(PoolResourceClosed) as events:
        assert works.use(pool) == 2
    assert works.scrapped == [1]
    assert [(event.reason, event.age) for event in events] == [("broken", 1.0)]
    assert pool.statistics().size == 1


def test_all_broken_ones_are_found_in_one_go(works: Works, colour: Colour, clock: ManualClock) -> None:
    """The server was restarted: whoever comes next gets a resource all the same."""
    pool = works.pool(max_size=3, max_queue=0)
    leases = [pool.acquire() for _ in range(3)]
    works.broken = {colour.enter(lease) for lease in leases}
    for lease in leases:
        colour.exit(lease)
    clock.advance(1.0)
    assert works.use(pool) == 4
    assert set(works.scrapped) == {3} | set(works.checked)


@pytest.mark.parametrize("answer,healthy", [(True, True), (None, True), (1, True), (False, False), (0, False)])
def test_a_check_says_no_by_what_is_false_but_not_by_saying_nothing(
    colour: Colour, clock: ManualClock, answer: Any, healthy: bool
) -> None:
    numbers = iter(range(1, 9))
    pool: Pool[int] = Pool(colour.function(lambda: next(numbers)), check=colour.function(lambda _: answer))
    works = Works(colour)
    assert works.use(pool) == 1
    clock.advance(1.0)
    assert works.use(pool) == (1 if healthy else 2)


def test_a_check_says_no_by_raising(works: Works, clock: ManualClock) -> None:
    def check(number: int) -> Any:
        raise OSError("reset by peer")

    works.check = check  # type: ignore[method-assign]
    pool = works.pool()
    works.use(pool)
    clock.advance(1.0)
    assert works.use(pool) == 2


def test_a_plain_check_and_close_go_with_an_asynchronous_create(works: Works, clock: ManualClock) -> None:
    pool: Pool[int] = Pool(works.colour.function(works.make), close=works.scrap, check=lambda _: False)
    assert works.use(pool) == 1
    clock.advance(1.0)
    assert works.use(pool) == 2
    assert works.scrapped == [1]


# -- how a block ends --------------------------------------------------------------------------------------------------


def test_after_an_exception_the_resource_is_checked_before_it_is_lent_again(works: Works) -> None:
    pool = works.pool()
    works.use(pool, ValueError("no such row"))
    assert works.use(pool) == 1
    assert works.checked == [1]
    assert works.use(pool) == 1
    assert works.checked == [1]


def test_after_an_exception_the_resource_is_closed_where_nothing_can_check_it(works: Works) -> None:
    pool = works.pool(check=False)
    with recorded_events(PoolResourceClosed) as events:
        works.use(pool, ValueError("no such row"))
    assert works.scrapped == [1]
    assert [event.reason for event in events] == ["failed"]


INTERRUPTIONS = [
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    TimeoutError("the answer may still come"),
    GeneratorExit(),
    ExceptionGroup("some", [ValueError(), ExceptionGroup("more", [TimeoutError()])]),
]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=repr)
def test_after_an_interruption_the_resource_is_closed(works: Works, error: BaseException) -> None:
    """Its answer may still be under way, and the next borrower would read it as the answer to its own question."""
    pool = works.pool()
    with recorded_events(PoolResourceClosed) as events:
        works.use(pool, error)
    assert works.scrapped == [1]
    assert [event.reason for event in events] == ["interrupted"]


def test_a_group_of_ordinary_errors_is_an_ordinary_error(works: Works) -> None:
    pool = works.pool()
    works.use(pool, ExceptionGroup("some", [ValueError(), KeyError()]))
    assert works.use(pool) == 1


def test_what_the_borrower_discards_is_closed(works: Works, colour: Colour) -> None:
    pool = works.pool()
    lease = pool.acquire()
    colour.enter(lease)
    lease.discard()
    assert works.scrapped == []
    colour.exit(lease)
    works.turn()
    assert works.scrapped == [1]


def test_an_item_that_was_returned_already_changes_nothing(works: Works, colour: Colour) -> None:
    pool = works.pool()
    guard = pool.guard()
    colour.enter(guard)
    item = guard.release()
    assert item.resource == 1
    pool.settle(item)
    before = pool.statistics()
    for verdict in Verdict:
        pool.settle(item, verdict)
    assert pool.statistics() == before


def test_a_guard_holds_a_resource_too(works: Works, colour: Colour) -> None:
    pool = works.pool()
    guard = pool.guard()
    colour.enter(guard)
    assert pool.statistics().in_use == 1
    colour.exit(guard)
    assert pool.statistics().idle == 1


# -- creating ----------------------------------------------------------------------------------------------------------


def test_a_failed_creation_is_the_error_of_who_it_was_for(works: Works) -> None:
    pool = works.pool(max_size=1, name="db")
    works.failing = ConnectionRefusedError("down")
    with recorded_events(PoolCreationFailed) as events, pytest.raises(ConnectionRefusedError) as caught:
        works.use(pool)
    assert caught.value is works.failing
    assert [(event.policy, event.error) for event in events] == [("db", works.failing)]
    statistics = pool.statistics()
    assert (statistics.size, statistics.failed, statistics.created) == (0, 1, 0)
    works.failing = None
    assert works.use(pool) == 1


def test_creation_is_told_with_how_long_it_took(works: Works) -> None:
    works.takes = 2.5
    pool = works.pool(name="db")
    with recorded_events(PoolResourceCreated) as events:
        works.use(pool)
    assert [(event.policy, event.seconds) for event in events] == [("db", 2.5)]


def test_create_can_see_how_much_time_it_has(works: Works) -> None:
    seen: list[float | None] = []
    make = works.make

    def looking() -> Any:
        seen.append(remaining())
        return make()

    works.make = looking  # type: ignore[method-assign]
    pool = works.pool(max_wait=5.0)
    works.use(pool)
    assert seen == [5.0]
    pool = works.pool(max_wait=None)
    works.use(pool)
    assert seen == [5.0, None]


def test_without_time_nothing_is_created_or_checked(works: Works, colour: Colour, clock: ManualClock) -> None:
    pool = works.pool(max_size=1, name="db")

    def late() -> Any:
        clock.advance(2.0)
        return pool.admit()

    with pytest.raises(DeadlineExceededError, match="db"):
        colour.guarded(Timeout(1.0, abandon=False), late)()
    assert works.made == []
    works.use(pool)
    clock.advance(1.0)
    with pytest.raises(DeadlineExceededError):
        colour.guarded(Timeout(1.0), late)()
    assert works.checked == []
    assert pool.statistics().rejected == 2
    assert works.use(pool) == 1
    assert works.checked == [1]


# -- ageing ------------------------------------------------------------------------------------------------------------


def test_a_resource_is_not_lent_beyond_its_lifetime(works: Works, clock: ManualClock) -> None:
    pool = works.pool(max_size=1, max_wait=0, max_lifetime=timedelta(seconds=100), max_idle_time=None)
    works.use(pool)
    clock.advance(89.0)
    assert works.use(pool) == 1
    clock.advance(11.0)
    with recorded_events(PoolResourceClosed) as events:
        assert works.use(pool) == 2
    assert [(event.reason, event.age) for event in events] == [("lifetime", 100.0)]


def test_what_was_returned_a_moment_ago_is_not_lent_beyond_its_lifetime_either(
    works: Works, clock: ManualClock
) -> None:
    pool = works.pool(check=False, max_lifetime=100.0, rng=random.Random(7))
    works.use(pool)
    (item,) = pool._machine.items
    clock.advance(item.expires - clock.now() - 0.1)
    assert works.use(pool) == 1
    clock.advance(item.expires - clock.now())
    assert works.use(pool) == 2


def test_who_returns_one_has_another_closed_that_nobody_needed(
    works: Works, colour: Colour, clock: ManualClock
) -> None:
    pool = works.pool(max_idle_time=30.0)
    one, other = pool.acquire(), pool.acquire()
    colour.enter(one)
    colour.enter(other)
    colour.exit(one)
    clock.advance(30.0)
    colour.exit(other)
    works.turn()
    assert works.scrapped == [1]


def test_a_resource_that_comes_back_too_old_is_closed(works: Works, colour: Colour, clock: ManualClock) -> None:
    pool = works.pool(max_lifetime=100.0)
    lease = pool.acquire()
    colour.enter(lease)
    clock.advance(100.0)
    colour.exit(lease)
    works.turn()
    assert works.scrapped == [1]


def test_resources_created_together_do_not_die_together(works: Works, colour: Colour) -> None:
    pool = works.pool(max_size=50, max_lifetime=100.0, rng=random.Random(7))
    leases = [pool.acquire() for _ in range(50)]
    for lease in leases:
        colour.enter(lease)
    for lease in leases:
        colour.exit(lease)
    expiries = [item.expires - 1000.0 for item in pool._machine.items]
    assert len(set(expiries)) == 50
    assert 90.0 <= min(expiries) < 92.0
    assert 98.0 < max(expiries) <= 100.0


def test_what_is_idle_for_too_long_is_closed_down_to_the_minimum(
    works: Works, colour: Colour, clock: ManualClock
) -> None:
    pool = works.pool(min_idle=1, max_idle_time=60.0, max_lifetime=None)
    leases = [pool.acquire() for _ in range(4)]
    for lease in leases:
        colour.enter(lease)
    for lease in leases:
        colour.exit(lease)
    works.turn()
    before = pool.statistics().idle
    assert before >= 4
    clock.advance(60.0)
    works.use(pool)
    works.turn()
    statistics = pool.statistics()
    assert statistics.idle in {1, 2}
    assert statistics.closed == before - 1


def test_the_minimum_is_filled_up_in_the_background(works: Works, colour: Colour) -> None:
    pool = works.pool(min_idle=3, max_size=10)
    assert pool.statistics().size == 0
    lease = pool.acquire()
    colour.enter(lease)
    works.turn()
    statistics = pool.statistics()
    assert (statistics.in_use, statistics.idle, statistics.creating) == (1, 3, 0)
    colour.exit(lease)


def test_the_last_spare_one_is_replaced_as_soon_as_it_is_lent(works: Works, colour: Colour) -> None:
    pool = works.pool(min_idle=1)
    leases = [pool.acquire() for _ in range(3)]
    for lease in leases:
        colour.enter(lease)
        works.turn()
        assert pool.statistics().idle == 1
    for lease in leases:
        colour.exit(lease)


def test_a_spare_one_that_cannot_be_created_is_not_tried_again_until_somebody_could(
    works: Works, colour: Colour
) -> None:
    pool = works.pool(min_idle=2)
    leases = [pool.acquire() for _ in range(4)]
    colour.enter(leases[0])
    works.turn()
    works.failing = OSError("down")
    with recorded_events(PoolCreationFailed) as events:
        for lease in leases[1:3]:
            colour.enter(lease)
            works.turn()
        assert [event.error for event in events] == [works.failing]
    works.failing = None
    colour.enter(leases[3])
    for lease in leases:
        colour.exit(lease)
    assert pool.statistics().failed == 1


# -- closing -----------------------------------------------------------------------------------------------------------


def close(works: Works, pool: Pool[int], timeout: float | None = 30.0) -> bool:
    colour = works.colour
    result: bool = colour.run(pool.aclose(timeout)) if colour.is_async else pool.close(timeout)
    return result


def test_a_closed_pool_closes_what_is_idle_now_and_what_is_lent_when_it_comes_back(
    works: Works, colour: Colour
) -> None:
    pool = works.pool(name="db")
    one, other = pool.acquire(), pool.acquire()
    colour.enter(one)
    colour.enter(other)
    colour.exit(one)
    assert close(works, pool, 0) is False
    works.turn()
    assert works.scrapped == [1]
    with pytest.raises(PoolClosedError, match=r"^db: the pool is closed$"):
        works.use(pool)
    colour.exit(other)
    works.turn()
    assert works.scrapped == [1, 2]
    assert close(works, pool) is True
    assert pool.at_rest
    assert repr(pool) == "<Pool db: 0 of 10 in use, 0 idle, 0 of 1000 waiting, closed>"


def test_closing_waits_for_so_long_and_no_longer(works: Works, colour: Colour, clock: ManualClock) -> None:
    pool = works.pool()
    lease = pool.acquire()
    colour.enter(lease)
    assert close(works, pool, 5.0) is False
    assert clock.now() == 1005.0
    assert pool._machine.drainers == []

    assert colour.guarded(Timeout(2.0), lambda: pool.aclose(None) if colour.is_async else pool.close(None))() is False
    assert clock.now() == 1007.0
    colour.exit(lease)


def test_a_pool_closes_itself_at_the_end_of_its_block(works: Works, colour: Colour) -> None:
    pool = works.pool()
    assert colour.enter(pool) is pool
    works.use(pool)
    colour.exit(pool)
    assert works.scrapped == [1]
    assert pool._machine.closed


def test_an_error_in_closing_is_logged_and_the_slot_is_free(works: Works, caplog: pytest.LogCaptureFixture) -> None:
    def scrap(number: int) -> None:
        raise OSError("already gone")

    works.scrap = scrap  # type: ignore[method-assign]
    pool = works.pool(max_size=1, name="db")
    works.use(pool, KeyboardInterrupt())
    assert works.use(pool) == 2
    assert "closing a resource of the pool 'db' failed" in caplog.text
    assert "already gone" in caplog.text


def test_without_anything_to_close_a_slot_is_free_at_once(colour: Colour) -> None:
    numbers = iter(range(1, 9))
    pool: Pool[int] = Pool(colour.function(lambda: next(numbers)), max_size=1, max_wait=0)
    works = Works(colour)
    assert works.use(pool, KeyboardInterrupt()) == 1
    assert works.use(pool) == 2
    assert pool.statistics().closed == 1


# -- resizing ----------------------------------------------------------------------------------------------------------


def test_a_smaller_pool_closes_what_is_too_many(works: Works, colour: Colour) -> None:
    pool = works.pool(max_size=3)
    leases = [pool.acquire() for _ in range(3)]
    for lease in leases:
        colour.enter(lease)
    colour.exit(leases[0])
    with recorded_events(PoolResourceClosed) as events:
        pool.resize(1)
        works.turn()
        assert works.scrapped == [1]
        colour.exit(leases[1])
        colour.exit(leases[2])
        works.turn()
    assert works.scrapped == [1, 2]
    assert [event.reason for event in events] == ["resized", "resized"]
    assert pool.statistics().max_size == 1


def test_a_larger_pool_takes_more(works: Works, colour: Colour) -> None:
    pool = works.pool(max_size=1, max_wait=0)
    one, other = pool.acquire(), pool.acquire()
    colour.enter(one)
    with pytest.raises(PoolExhaustedError):
        colour.enter(pool.acquire())
    pool.resize(2)
    assert colour.enter(other) == 2
    colour.exit(one)
    colour.exit(other)


def test_variants_share_the_resources(works: Works, colour: Colour, clock: ManualClock) -> None:
    pool = works.pool(max_size=1)
    patient = pool.with_(max_wait=5.0, name="other")
    lease = pool.acquire()
    colour.enter(lease)
    with pytest.raises(PoolExhaustedError, match="other"):
        colour.enter(patient.acquire())
    assert clock.now() == 1005.0
    with pytest.raises(TypeError, match="can change listeners, max_wait, name, not max_size"):
        pool.with_(max_size=3)
    colour.exit(lease)


def test_nothing_is_said_to_a_log_when_all_goes_well(works: Works, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "resilience")
    pool = works.pool()
    works.use(pool)
    close(works, pool)
    assert caplog.records == []
