"""Half-open: probes are leases. How many, how long, and what becomes of results that come too late."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import CircuitBreaker, CircuitOpenError, State, Verdict
from resilience.testing import ManualClock
from tests.conftest import Colour

SUCCESS, FAILURE, ABANDONED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.ABANDONED


def state(breaker: CircuitBreaker) -> State:
    """A function, because mypy takes a property that was compared once for unchanging."""
    return breaker.state


def half_open(clock: ManualClock, places: int = 3, needed: int = 2, **options: Any) -> CircuitBreaker:
    """A breaker whose recovery time is over: the next call is the first probe."""
    options = {"recovery_time": 5.0, "jitter": 0.0, "probe_lease": 30.0} | options
    breaker = CircuitBreaker("db", failure_threshold=1, half_open_max_calls=places, success_threshold=needed, **options)
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(5.0)
    return breaker


def refusal(breaker: CircuitBreaker) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        breaker.admit()
    return caught.value


def test_a_probe_that_never_comes_back_fails_when_its_lease_ends(clock: ManualClock) -> None:
    """B1: a hung or lost probe wedged the circuit for ever in interlock-cb, nopanic, redress and resilience4j."""
    breaker = half_open(clock, 1, 1)
    lost = breaker.admit()
    clock.advance(29.75)
    assert refusal(breaker).retry_after == 0.25
    clock.advance(0.25)
    assert refusal(breaker).retry_after == 10.0, "the lost probe failed the round at this very instant"
    assert state(breaker) is State.OPEN
    clock.advance(10.0)
    breaker.settle(breaker.admit())
    assert state(breaker) is State.CLOSED
    breaker.settle(lost, FAILURE)
    assert state(breaker) is State.CLOSED


def test_a_lease_fails_at_its_own_instant_however_late_somebody_looks(clock: ManualClock) -> None:
    breaker = half_open(clock, 1, 1)
    breaker.admit()
    clock.advance(30.0 + 9.0)  # it failed 9 s ago, and the circuit has been open since, for 10 s
    assert refusal(breaker).retry_after == 1.0
    clock.advance(1.0)
    breaker.admit()
    assert state(breaker) is State.HALF_OPEN


def test_a_failure_long_past_whose_pause_is_over_too_lets_the_next_probe_go_at_once(clock: ManualClock) -> None:
    breaker = half_open(clock, 1, 1)
    breaker.admit()
    clock.advance(1000.0)
    breaker.settle(breaker.admit())
    assert state(breaker) is State.CLOSED


def test_asking_for_statistics_sees_the_expired_lease_too(clock: ManualClock) -> None:
    """They said "a call can pass now" of a circuit that refused the next call for its whole recovery time."""
    breaker = half_open(clock, 1, 1)
    breaker.admit()
    assert breaker.statistics().probes == 1
    assert breaker.statistics().retry_after == 30.0
    clock.advance(31.0)
    statistics = breaker.statistics()
    assert (statistics.state, statistics.probes, statistics.retry_after) == (State.OPEN, 0, 9.0)
    assert refusal(breaker).retry_after == 9.0


def test_the_late_result_of_an_expired_probe_is_ignored(clock: ManualClock) -> None:
    breaker = half_open(clock, 3, 1)
    late = breaker.admit()
    clock.advance(30.0)
    breaker.settle(late)  # a success, but at the very instant its lease ended
    assert state(breaker) is State.HALF_OPEN
    breaker.settle(breaker.admit())
    assert state(breaker) is State.CLOSED


def test_an_expired_probe_uses_its_place_up(clock: ManualClock) -> None:
    breaker = half_open(clock, 2, 1)
    breaker.admit()
    clock.advance(30.0)
    breaker.admit()
    assert refusal(breaker).retry_after == 30.0


def test_a_late_success_of_the_closed_state_does_not_close_an_open_circuit(clock: ManualClock) -> None:
    """B2: nopanic, redress, circuitbreaker, Polly, resilience4j and failsafe-go mixed the rounds."""
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1, jitter=0.0)
    slow = breaker.admit()
    breaker.settle(breaker.admit(), FAILURE)
    breaker.settle(slow)
    assert state(breaker) is State.OPEN
    clock.advance(5.0)
    probe = breaker.admit()
    breaker.settle(slow)
    assert state(breaker) is State.HALF_OPEN
    breaker.settle(probe)
    assert state(breaker) is State.CLOSED


def test_a_late_failure_of_an_earlier_round_does_not_reopen_the_circuit(clock: ManualClock) -> None:
    """B2, the other way round: a probe of the first round fails during the second."""
    breaker = half_open(clock, 2, 2)
    stale = breaker.admit()
    breaker.settle(breaker.admit(), FAILURE)
    assert state(breaker) is State.OPEN
    clock.advance(10.0)
    first, second = breaker.admit(), breaker.admit()
    breaker.settle(stale, FAILURE)
    assert state(breaker) is State.HALF_OPEN
    breaker.settle(first)
    breaker.settle(stale, FAILURE)
    breaker.settle(second)
    assert state(breaker) is State.CLOSED
    breaker.settle(stale, FAILURE)
    statistics = breaker.statistics()
    assert (statistics.state, statistics.calls, statistics.failures) == (State.CLOSED, 0, 0)


def test_a_late_failure_from_before_the_reset_counts_for_nothing(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    stale = breaker.admit()
    breaker.reset()
    breaker.settle(stale, FAILURE)
    assert state(breaker) is State.CLOSED
    assert breaker.statistics().calls == 0


def test_half_open_lets_no_more_through_than_the_quota(colour: Colour) -> None:
    """B3: circuitbreaker, aiobreaker, purgatory and pyresilience let 50 of 50 in."""
    breaker = half_open(colour.clock)
    guards = [breaker.guard() for _ in range(50)]
    entered = []
    for guard in guards:
        try:
            colour.enter(guard)
        except CircuitOpenError:
            continue
        entered.append(guard)
    assert entered == guards[:3]
    assert breaker.statistics().probes == 3
    for guard in entered:
        colour.exit(guard)
    assert state(breaker) is State.CLOSED


def test_abandoned_probes_are_issued_again_but_never_beyond_the_quota(clock: ManualClock) -> None:
    """B4: resilience4j #1432 let more probes in than the quota after ignored calls gave their permits back."""
    breaker = half_open(clock)
    probes = [breaker.admit() for _ in range(3)]
    for _ in range(5):
        for probe in probes[:2]:
            breaker.settle(probe, ABANDONED)
            breaker.settle(probe, ABANDONED)  # giving back twice frees nothing more
        probes[:2] = [breaker.admit(), breaker.admit()]
        refusal(breaker)
    assert breaker.statistics().probes == 3


def test_an_abandoned_probe_neither_closes_nor_opens_nor_frees_the_probe_of_another(clock: ManualClock) -> None:
    """B5: a cancelled call closed the circuit in circuitbreaker, opened it in hyx, freed another's probe in Polly."""
    breaker = half_open(clock, 1, 1)
    first = breaker.admit()
    breaker.settle(first, ABANDONED)
    assert state(breaker) is State.HALF_OPEN
    breaker.admit()
    breaker.settle(first, ABANDONED)
    breaker.settle(first)
    assert state(breaker) is State.HALF_OPEN
    refusal(breaker)


def test_it_reopens_as_soon_as_enough_successes_have_become_impossible(clock: ManualClock) -> None:
    """B6: ten failing probes went through before re-opening in interlock and fluxgate."""
    breaker = half_open(clock, 3, 2)
    probes = [breaker.admit() for _ in range(3)]
    breaker.settle(probes[0], FAILURE)
    assert state(breaker) is State.HALF_OPEN, "two successes are still possible"
    breaker.settle(probes[1], FAILURE)
    assert state(breaker) is State.OPEN
    breaker.settle(probes[2])
    assert state(breaker) is State.OPEN


def test_with_one_probe_the_first_failure_reopens(clock: ManualClock) -> None:
    breaker = half_open(clock, 1, 1)
    breaker.settle(breaker.admit(), FAILURE)
    assert state(breaker) is State.OPEN
    assert breaker.statistics().reopened == 2


def test_it_closes_on_exactly_the_number_of_successes_asked_for(clock: ManualClock) -> None:
    breaker = half_open(clock, 5, 3)
    for _ in range(2):
        breaker.settle(breaker.admit())
        assert state(breaker) is State.HALF_OPEN
    breaker.settle(breaker.admit(), FAILURE)
    breaker.settle(breaker.admit())
    assert state(breaker) is State.CLOSED


def test_a_probe_that_was_settled_counts_once(clock: ManualClock) -> None:
    breaker = half_open(clock)
    probe = breaker.admit()
    breaker.settle(probe)
    breaker.settle(probe)
    assert state(breaker) is State.HALF_OPEN


def test_a_round_starts_with_nothing_of_the_round_before(clock: ManualClock) -> None:
    breaker = half_open(clock, 3, 2)
    probes = [breaker.admit() for _ in range(3)]
    breaker.settle(probes[0])
    breaker.settle(probes[1], FAILURE)
    breaker.settle(probes[2], FAILURE)
    clock.advance(10.0)
    breaker.settle(breaker.admit())
    assert state(breaker) is State.HALF_OPEN, "one success, and the one of the first round does not count"


def test_after_closing_the_old_failures_are_forgotten(clock: ManualClock) -> None:
    breaker = half_open(clock, 1, 1)
    breaker.settle(breaker.admit())
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.failures, statistics.streak, statistics.reopened) == (0, 0, 0, 0)


def test_a_half_open_refusal_never_says_zero(clock: ManualClock) -> None:
    """B8: nopanic said `retry_after=0`. The first lease to end is what can free a place."""
    breaker = half_open(clock, 2, 1)
    breaker.admit()
    clock.advance(10.0)
    breaker.admit()
    assert refusal(breaker).retry_after == 20.0
    clock.advance(19.75)
    error = refusal(breaker)
    assert (error.policy, error.retry_after) == ("db", 0.25)
    assert breaker.statistics().retry_after == 0.25


def test_every_refusal_is_a_fresh_error(colour: Colour) -> None:
    """B9: purgatory raised one instance for ever, whose traceback grew by six frames per rejection."""
    breaker = CircuitBreaker(failure_threshold=1)
    breaker.settle(breaker.admit(), FAILURE)
    guarded = colour.guarded(breaker, lambda: None)
    errors = []
    for _ in range(3):
        with pytest.raises(CircuitOpenError) as caught:
            guarded()
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3

    def depth(error: BaseException) -> int:
        trace, frames = error.__traceback__, 0
        while trace is not None:
            trace, frames = trace.tb_next, frames + 1
        return frames

    assert len({depth(error) for error in errors}) == 1


def test_a_slow_probe_has_not_shown_that_the_dependency_is_back(clock: ManualClock) -> None:
    breaker = half_open(clock, 1, 1, slow_call_duration=1.0)
    probe = breaker.admit()
    clock.advance(1.25)
    breaker.settle(probe)
    assert state(breaker) is State.OPEN
