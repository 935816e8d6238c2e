"""The retry budget: shares, threads, and arguments that make no sense."""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from typing import Any

import pytest

from resilience import RetryBudget, RetryBudgetStatistics
from resilience.budget import checked_budget
from resilience.testing import ManualClock


def test_retries_are_a_share_of_the_first_attempts_and_a_few_besides(clock: ManualClock) -> None:
    """R14: budgets that were never refilled (aws-sdk-go-v2), or charged after completion only (go-zero)."""
    budget = RetryBudget(ratio=0.2, minimum_per_second=0.5, window=10.0)
    assert sum(budget.withdraw() for _ in range(20)) == 5
    for _ in range(100):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(50)) == 20
    assert (budget.statistics().refused, budget.statistics().balance) == (45, 0.0)
    clock.advance(10.0)
    assert budget.statistics().balance == 5.0
    assert sum(budget.withdraw() for _ in range(20)) == 5


@pytest.mark.parametrize("ratio", [0.1, 0.29, 0.7, 1 / 3])
def test_a_share_that_adds_up_to_whole_retries_allows_all_of_them(clock: ManualClock, ratio: float) -> None:
    budget = RetryBudget(ratio, minimum_per_second=0.0)
    for _ in range(200):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(200)) == math.floor(200 * ratio + 1e-6)


def test_the_window_forgets_a_tenth_at_a_time(clock: ManualClock) -> None:
    budget = RetryBudget(1.0, 0.0, window=timedelta(seconds=10))
    for _ in range(10):
        budget.deposit()
        clock.advance(1.0)
    assert budget.statistics().deposits == 9
    clock.advance(8.5)
    assert budget.statistics().deposits == 1
    clock.advance(0.5)
    assert budget.statistics().deposits == 0


def test_first_attempts_that_leave_before_their_retries_leave_no_debt_behind(clock: ManualClock) -> None:
    budget = RetryBudget(1.0, 0.0)
    budget.deposit()
    clock.advance(5.0)
    assert budget.withdraw()
    clock.advance(5.0)
    assert budget.statistics() == RetryBudgetStatistics(deposits=0, withdrawals=1, balance=0.0, refused=0)


def test_a_clock_read_before_another_thread_moved_on_counts_as_now(clock: ManualClock) -> None:
    late = ManualClock(500.0)
    budget = RetryBudget(1.0, 0.0, clock=late)
    budget.deposit()
    late._now = 499.0
    budget.deposit()
    assert budget.statistics().deposits == 2


def test_threads_together_withdraw_no_more_than_there_is() -> None:
    budget = RetryBudget(0.5, 0.0, clock=ManualClock(1000.0))
    allowed: list[int] = []
    barrier = threading.Barrier(8)

    def worker() -> None:
        barrier.wait()
        for _ in range(100):
            budget.deposit()
        barrier.wait()
        allowed.append(sum(budget.withdraw() for _ in range(200)))

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 400
    assert budget.statistics().refused == 1200


@pytest.mark.parametrize("name,zero", [("ratio", True), ("minimum_per_second", True), ("window", False)])
def test_an_argument_that_makes_no_sense_is_named(name: str, zero: bool) -> None:
    values: list[Any] = [math.nan, math.inf, -1, -1e-9, True, "1", None, [], 10**400, *([] if zero else [0, 1e-300])]
    for value in values:
        with pytest.raises((TypeError, ValueError), match=name):
            RetryBudget(**{name: value})


def test_a_ratio_is_bounded_and_something_must_be_allowed() -> None:
    with pytest.raises(ValueError, match=r"ratio must be .* at most 1000"):
        RetryBudget(1000.5)
    with pytest.raises(ValueError, match="or nothing is ever retried"):
        RetryBudget(0.0, 0.09, 10.0)
    assert RetryBudget(0.0, 0.1, 10.0).withdraw()
    with pytest.raises(TypeError, match="name"):
        RetryBudget(name=1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="clock"):
        RetryBudget(clock=1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_only_a_budget_is_taken_for_one() -> None:
    budget = RetryBudget(name="shared")
    assert checked_budget(budget) is budget
    assert checked_budget(None) is None
    with pytest.raises(TypeError, match="budget must be a RetryBudget or None, not 5"):
        checked_budget(5)


def test_a_budget_shows_itself_in_words() -> None:
    assert repr(RetryBudget(name="api")) == "<RetryBudget api: 0.2 of first attempts and 1 a second>"
    assert repr(RetryBudget(0.5, 3)) == "<RetryBudget unnamed: 0.5 of first attempts and 3 a second>"
