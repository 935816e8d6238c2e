"""Keys: how many are told apart, when they are forgotten, tiers, and every argument that makes no sense."""

from __future__ import annotations

import math
from typing import Any

import pytest

from resilience import Quota, Rate, RateLimiter, RateLimitExceededError, SlidingWindow
from resilience._buckets import OVERFLOW, Table
from resilience._limits import Gcra
from resilience.events import KeysOverflowed
from resilience.testing import ManualClock, recorded_events
from tests.conftest import Colour


def by_key(rate: Any = 1, **options: Any) -> RateLimiter:
    return RateLimiter(rate, key=lambda key: key, **options)


def test_other_keys_never_reset_a_limit_that_is_used_up(clock: ManualClock) -> None:
    """L4: in throttled-py 1,100 other keys pushed an attacker's key out of the table, and its limit began anew."""
    limiter = by_key(1, period=60.0, max_keys=100)
    limiter.admit(("attacker",))
    for number in range(1100):
        try:
            limiter.admit((number,))
        except RateLimitExceededError:
            pass
    with pytest.raises(RateLimitExceededError):
        limiter.admit(("attacker",))
    assert len(limiter._machine.table) == 100


def test_each_key_has_its_own_limit(clock: ManualClock) -> None:
    """L5: in fastapi-limiter all clients shared one bucket by accident."""
    limiter = by_key(1)
    for number in range(50):
        limiter.admit((number,))
    assert limiter.statistics().keys == 50


@pytest.mark.parametrize("max_keys", [10, 1000])
def test_the_table_stays_bounded_while_keys_come_and_go(clock: ManualClock, max_keys: int) -> None:
    """L9: registries of keys that grow without bound, as in resilience4j."""
    limiter = by_key(2, max_keys=max_keys)
    table = limiter._machine.table
    for number in range(8000):
        clock.advance(0.6 / max_keys)
        limiter.admit((number,))
        assert len(table) <= max_keys
    assert OVERFLOW not in table.states
    assert sum(map(len, table._appointments.values())) + len(table._due) == len(table.states)


def test_keys_at_rest_are_forgotten_soon_while_new_ones_come(clock: ManualClock) -> None:
    limiter = by_key(1, max_keys=100_000)
    for number in range(5000):
        limiter.admit((number,))
    clock.advance(1.2)
    for number in range(2600):
        limiter.admit((f"new {number}",))
    assert len(limiter._machine.table) <= 2600


def test_a_key_that_keeps_coming_is_kept_and_looked_at_again_later(clock: ManualClock) -> None:
    limiter = by_key(1, burst=10)
    for number in range(200):
        limiter.admit(("regular",))
        limiter.admit((number,))
        clock.advance(1.0)
    table = limiter._machine.table
    assert "regular" in table.states
    assert len(table) < 10
    assert sum(map(len, table._appointments.values())) + len(table._due) == len(table.states)


def test_a_large_full_table_makes_room_early_for_new_keys(clock: ManualClock) -> None:
    """A key may be at rest up to an eighth of its life before its appointment; under pressure it need not wait."""
    limiter = by_key(1, period=57.0, max_keys=100)
    for number in range(100):
        limiter.admit((number,))
    clock.advance(57.0)
    limiter.admit(("new",))
    assert limiter._machine.table.states.keys() >= {"new"}
    assert len(limiter._machine.table) < 100


def test_a_small_full_table_makes_room_at_the_very_instant_a_key_is_at_rest(clock: ManualClock) -> None:
    """Its appointment is a little later, and new keys would share the overflow bucket until then."""
    limiter = by_key(1, period=0.93, max_keys=2)
    for key in ("a", "b"):
        limiter.admit((key,))
    clock.advance(limiter.peek("a").reset_after)
    limiter.admit(("c",))
    table = limiter._machine.table
    assert table.states.keys() == {"c"}
    assert sum(map(len, table._appointments.values())) + len(table._due) == 1


def test_an_appointment_of_a_key_that_is_not_there_is_passed_over() -> None:
    """An interrupt may come between making the appointment and storing the state."""
    table, limit = Table(10), Gcra(Rate(1))
    table._appoint("gone", 5.0, 4.0)
    assert table.place("new", 10.0, limit) == "new"
    assert not table._due
    assert len(table) == 0


def test_a_full_table_says_so_once_until_there_is_room_again(clock: ManualClock) -> None:
    """A look at a known key of a table that was just full counted as the event, which then never came."""
    limiter = by_key(1, max_keys=2, name="n", cost=lambda key: 1)
    with recorded_events(KeysOverflowed) as events:
        limiter.admit(("a",))
        limiter.admit(("b",))
        with pytest.raises(RateLimitExceededError):
            limiter.admit(("a",))
        assert events == []
        limiter.admit(("c",))
        assert limiter.statistics().overflowing
        with pytest.raises(RateLimitExceededError):
            limiter.admit(("d",))
        assert [(event.policy, event.key, event.max_keys) for event in events] == [("n", "c", 2)]
        assert not limiter.at_rest
        clock.advance(1.0)
        limiter.admit(("d",))
        assert not limiter.statistics().overflowing
        limiter.admit(("e",))
        limiter.admit(("f",))
        assert [event.key for event in events] == ["c", "f"]


def test_a_limiter_whose_overflow_bucket_is_in_use_is_not_at_rest(clock: ManualClock) -> None:
    limiter = by_key(1, burst=3, max_keys=1, cost=lambda key: 1 if key == "a" else 3)
    limiter.admit(("a",))
    limiter.admit(("b",))
    clock.advance(1.5)
    assert limiter.statistics().keys == 0
    assert not limiter.at_rest
    assert limiter.peek("new").remaining == 3
    clock.advance(1.5)
    assert limiter.at_rest
    assert repr(OVERFLOW) == "<the keys beyond max_keys>"


def test_a_peek_at_a_new_key_of_a_full_table_sees_the_shared_bucket(clock: ManualClock) -> None:
    limiter = by_key(1, max_keys=1)
    limiter.admit(("a",))
    assert limiter.peek("new") == Quota(1.0, 1, 0.0, 0.0)
    limiter.admit(("b",))
    assert limiter.peek("new") == Quota(1.0, 0, 1.0, 1.0)


def test_calls_that_began_together_and_pay_later_do_not_overfill_the_table(clock: ManualClock) -> None:
    """Room was found for each of them when it began; paid for all at once, they took ten times the room there was."""
    limiter = by_key(1, max_keys=5, charge_if=lambda outcome: True)
    permits = [limiter.admit((number,)) for number in range(50)]
    for permit in permits:
        limiter._finish(permit, None)
    assert len(limiter._machine.table) == 5
    assert limiter.peek("new").retry_after == 45.0


def test_an_update_brings_the_appointments_of_all_keys_forward(clock: ManualClock) -> None:
    """After a change from once a day to once a second the keys stayed for up to a day."""
    limiter = by_key(1, period=86_400.0)
    for number in range(100):
        limiter.admit((number,))
    limiter.update(period=1.0)
    clock.advance(1.2)
    for number in range(60):
        limiter.admit((f"new {number}",))
    assert len(limiter._machine.table) == 60


def test_reset_gives_one_key_its_burst_back(clock: ManualClock) -> None:
    limiter = by_key(2)
    for key in ("a", "a", "b", "b"):
        limiter.admit((key,))
    limiter.reset("a")
    limiter.reset("never seen")
    assert (limiter.peek("a").remaining, limiter.peek("b").remaining) == (2, 0)
    assert limiter._machine.table.states.keys() == {"a", "b"}


def test_keys_may_be_any_hashable_value(clock: ManualClock) -> None:
    """A limiter without keys kept its state under the empty tuple, and keyed ones then refused to look at that key."""
    limiter = by_key(1)
    keys: list[Any] = [(), 0, "", frozenset(), b""]
    for key in keys:
        limiter.admit((key,))
        assert limiter.peek(key).remaining == 0


def test_a_key_where_there_are_none_and_none_where_there_are_is_an_error(clock: ManualClock) -> None:
    for method in ("peek", "reserve", "reset"):
        with pytest.raises(TypeError, match="this limiter is keyed: pass the key"):
            getattr(by_key(1), method)()
        with pytest.raises(TypeError, match="this limiter has no keys"):
            getattr(RateLimiter(1), method)("a")


# --- tiers ------------------------------------------------------------------------------------------------------------


def test_the_rate_may_depend_on_the_key(clock: ManualClock) -> None:
    rates = {"free": 1, "paid": 10}
    limiter = by_key(lambda key: rates[key], also=[Rate(5, 1.0, burst=20)])
    assert (limiter.peek("free").limit, limiter.peek("paid").limit) == (1.0, 10.0)
    for key, count in rates.items():
        for _ in range(count):
            limiter.admit((key,))
        with pytest.raises(RateLimitExceededError) as refused:
            limiter.admit((key,))
        assert refused.value.limit == count


def test_an_update_of_tiers_keeps_what_each_key_has_used(clock: ManualClock) -> None:
    """All keys were converted at the price of one call a period, whatever their tier."""
    limiter = by_key(lambda key: 8)
    for _ in range(4):
        limiter.admit(("a",))
    limiter.update(rate=lambda key: 16)
    assert limiter.peek("a").remaining == 12
    limiter.update(period=2.0, burst=20)
    assert limiter.peek("a").remaining == 16


def test_the_shared_bucket_of_tiers_is_left_as_it_is_by_an_update(clock: ManualClock) -> None:
    limiter = by_key(lambda key: 2, max_keys=1)
    limiter.admit(("a",))
    limiter.admit(("b",))
    asked: list[Any] = []

    def rate(key: Any) -> float:
        asked.append(key)
        return 4

    limiter.update(rate=rate, period=4.0)
    assert asked == ["a"]
    assert limiter.peek("new").reset_after == 0.5


def test_tiers_are_remembered_up_to_a_bound(clock: ManualClock) -> None:
    limiter = by_key(float)
    for rate in range(1, 1200):
        limiter.admit((rate,))
    assert len(limiter._machine.tiers) == 1024
    assert limiter.peek(1199).remaining == 1198


@pytest.mark.parametrize("rate", [None, "1", True, 0, -1, math.nan, math.inf, 10**400, [1.0]])
def test_a_tier_that_makes_no_sense_is_an_error_and_changes_nothing(clock: ManualClock, rate: Any) -> None:
    limiter = by_key(lambda key: rate)
    with pytest.raises((TypeError, ValueError), match="rate must be"):
        limiter.admit(("a",))
    fine = by_key(lambda key: 2)
    fine.admit(("a",))
    with pytest.raises((TypeError, ValueError), match="rate must be"):
        fine.update(rate=lambda key: rate)
    assert fine.peek("a").remaining == 1


# --- arguments --------------------------------------------------------------------------------------------------------

NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, -1, 0, True, "3", [], 1j, 10**400]


@pytest.mark.parametrize(
    "name,values",
    [
        ("rate", [*NUMBERS, None]),
        ("period", [*NUMBERS, None]),
        ("burst", [*NUMBERS, 0.5]),
        ("max_wait", [value for value in NUMBERS if value != 0]),
        ("cost", [*NUMBERS, None]),
        ("max_keys", [*NUMBERS, 1.5, None]),
        ("key", [1, "user"]),
        ("charge_if", [1, "yes"]),
        ("also", [1, Rate(1), [1], "r", None]),
        ("limiter", [1, Rate(1), "x"]),
        ("name", [1, ""]),
        ("clock", [1, "now"]),
        ("listeners", [1, "x"]),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        arguments: dict[str, Any] = {"rate": 5, name: value}
        if name == "limiter":
            del arguments["rate"]
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b") as raised:
            RateLimiter(**arguments)
        assert len(str(raised.value)) < 300


def test_settings_that_exclude_each_other_are_refused(clock: ManualClock) -> None:
    window = SlidingWindow(1, 1.0)
    with pytest.raises(ValueError, match="limiter replaces rate, period and burst"):
        RateLimiter(1, limiter=window)
    with pytest.raises(ValueError, match="limiter replaces rate, period and burst"):
        RateLimiter(burst=1, limiter=window)
    with pytest.raises(ValueError, match="limiter replaces rate, period and burst"):
        RateLimiter(period=60.0, limiter=window)
    with pytest.raises(ValueError, match="max_wait must be 0"):
        RateLimiter(1, charge_if=bool, max_wait=1)
    with pytest.raises(ValueError, match="give key= too"):
        RateLimiter(lambda key: 1)
    with pytest.raises(ValueError, match="give key= too"):
        by_key(lambda key: 1).with_(key=None)
    with pytest.raises(TypeError, match="this limiter has a SlidingWindow"):
        RateLimiter(limiter=window).update(rate=1)
    with pytest.raises(TypeError, match="cannot turn one rate into a rate for each key"):
        RateLimiter(1).update(rate=lambda key: 1)
    with pytest.raises(TypeError, match="cannot turn one rate into a rate for each key"):
        by_key(lambda key: 1).update(rate=1)
    with pytest.raises(TypeError, match="rate must be"):
        RateLimiter()
    with pytest.raises(ValueError, match="period"):
        RateLimiter(1).update(period=0)
    with pytest.raises(ValueError, match="max_wait"):
        RateLimiter(1).reserve(max_wait=-1)


def test_a_guarded_function_waits_for_the_slot_of_its_key(colour: Colour) -> None:
    started: list[tuple[str, float]] = []
    call = colour.guarded(by_key(1, max_wait=1.0), lambda key: started.append((key, colour.clock.now())))
    for key in ("a", "b", "a"):
        call(key)
    assert started == [("a", 1000.0), ("b", 1000.0), ("a", 1001.0)]


def test_who_waits_for_a_slot_sleeps_once_and_holds_no_other_key_up(colour: Colour) -> None:
    """L6: PyrateLimiter sleeps with its lock held, others poll, and then every key waits for the slowest one."""
    limiter = by_key(1, max_wait=60.0)

    class Sleeps(list[float]):
        def append(self, seconds: float) -> None:
            super().append(seconds)
            assert limiter._machine.lock.free
            limiter.admit(("another",))

    colour.clock.sleeps = Sleeps()
    call = colour.guarded(limiter, lambda key: None)
    call("a")
    call("a")
    assert colour.clock.sleeps == [1.0]


def test_a_keyed_function_may_return_any_finished_value_and_nothing_that_runs_later(clock: ManualClock) -> None:
    class Answer:
        pass

    answer = Answer()
    assert by_key(5)(lambda key: answer)("a") is answer
    with pytest.raises(TypeError, match="returned a generator"):
        by_key(5)(lambda key: (number for number in range(3)))("a")
