"""The errors: their hierarchy, what they carry, how they read, and that they survive copying and pickling."""

from __future__ import annotations

import copy
import gc
import pickle
import traceback
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from resilience import Bulkhead, CircuitBreaker, RateLimiter, Timeout, exceptions
from resilience.exceptions import (
    BulkheadFullError,
    CallRejectedError,
    CallTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    PipelineWarning,
    PoolClosedError,
    PoolExhaustedError,
    RateLimitExceededError,
    ResilienceError,
    StoreUnavailableError,
)
from resilience.testing import ManualClock
from tests.conftest import Colour

TREE: dict[type[Exception], tuple[type[Exception], ...]] = {
    ResilienceError: (Exception,),
    CallRejectedError: (ResilienceError,),
    CircuitOpenError: (CallRejectedError,),
    BulkheadFullError: (CallRejectedError,),
    RateLimitExceededError: (CallRejectedError,),
    PoolExhaustedError: (CallRejectedError,),
    PoolClosedError: (CallRejectedError,),
    DeadlineExceededError: (CallRejectedError, TimeoutError),
    CallTimeoutError: (ResilienceError, TimeoutError),
    StoreUnavailableError: (ResilienceError,),
    PipelineWarning: (UserWarning,),
}


class TeamError(RateLimitExceededError):
    """What a user derives: another initialiser, and a fact of its own."""

    def __init__(self, team: str) -> None:
        super().__init__("limiter of the team", 2.0, limit=10.0)
        self.team = team


def examples() -> list[Exception]:
    return [
        ResilienceError("plain", 3),
        CallRejectedError(),
        CircuitOpenError("payments", 1.5),
        BulkheadFullError(policy="db"),
        RateLimitExceededError("search", 0.25, 100.0, 3, 9.5),
        PoolExhaustedError("pool", None),
        PoolClosedError("pool"),
        DeadlineExceededError("total", 4.0),
        CallTimeoutError("attempt", 2.5),
        StoreUnavailableError("redis", 0.5),
        TeamError("red"),
    ]


FACTS = ("policy", "retry_after", "limit", "remaining", "reset_after", "timeout", "team")


def facts(error: Exception) -> dict[str, Any]:
    found = {name: getattr(error, name) for name in FACTS if hasattr(error, name)}
    return {"type": type(error), "args": error.args, "text": str(error), "repr": repr(error), **found}


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_its_place_in_the_hierarchy(kind: type[Exception]) -> None:
    assert kind.__bases__ == TREE[kind]


def test_the_hierarchy_is_complete() -> None:
    public = {kind for name, kind in vars(exceptions).items() if isinstance(kind, type) and not name.startswith("_")}
    public = {kind for kind in public if kind.__module__ == exceptions.__name__}
    assert public == set(TREE)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    missing = [kind.__name__ for kind in TREE if kind.__name__ not in (exceptions.__doc__ or "")]
    assert missing == []


@pytest.mark.parametrize("error", [DeadlineExceededError("total"), CallTimeoutError("total", 1.0)], ids=repr)
def test_what_ran_out_of_time_is_a_timeout_error(error: Exception) -> None:
    assert isinstance(error, TimeoutError)
    assert error.errno is None
    assert error.strerror is None


@pytest.mark.parametrize(
    "error,text",
    [
        (CallRejectedError(), "the call was rejected"),
        (CircuitOpenError("payments", 1.5), "payments: the circuit is open; retry after 1.500 s"),
        (BulkheadFullError("db"), "db: the bulkhead is full"),
        (RateLimitExceededError("search", 0.25), "search: the rate limit is exceeded; retry after 0.250 s"),
        (PoolExhaustedError(retry_after=0.0), "the pool is exhausted; retry after 0.000 s"),
        (DeadlineExceededError("total"), "total: the deadline leaves no time for the call"),
        (CallTimeoutError(), "the call took too long and was cut off"),
        (CallTimeoutError("total", 2.5), "total: the call took longer than 2.5 s and was cut off"),
        (CallTimeoutError(timeout=30.0), "the call took longer than 30 s and was cut off"),
        (ResilienceError("plain"), "plain"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_message_says_who_what_and_when_to_come_back(error: Exception, text: str) -> None:
    assert str(error) == text


def test_the_facts_are_attributes() -> None:
    error = RateLimitExceededError("search", 0.25, limit=100.0, remaining=3, reset_after=9.5)
    assert (error.policy, error.retry_after) == ("search", 0.25)
    assert (error.limit, error.remaining, error.reset_after) == (100.0, 3, 9.5)
    bare = RateLimitExceededError()
    assert [bare.policy, bare.retry_after, bare.limit, bare.remaining, bare.reset_after] == [None] * 5


def test_the_facts_can_be_looked_up_on_the_class() -> None:
    for kind, name in ((CallRejectedError, "policy"), (RateLimitExceededError, "limit")):
        assert getattr(kind, name) is vars(kind)[name]


def test_an_error_made_without_its_initialiser_has_no_facts_but_can_be_read() -> None:
    error = CircuitOpenError.__new__(CircuitOpenError)
    assert (error.policy, error.retry_after) == (None, None)
    assert str(error) == "the circuit is open"


def test_the_repr_shows_the_facts_and_not_the_notes() -> None:
    rejected = CircuitOpenError("payments", 1.5)
    timed_out = CallTimeoutError("total", 2.0)
    for error in (rejected, timed_out):
        error.add_note("tried twice")
    assert repr(rejected) == "CircuitOpenError(policy='payments', retry_after=1.5)"
    assert repr(timed_out) == "CallTimeoutError(policy='total', timeout=2.0)"
    assert repr(ResilienceError("plain", 3)) == "ResilienceError('plain', 3)"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("which", range(9), ids=lambda which: type(examples()[which]).__name__)
def test_an_error_survives_pickling_with_its_facts_and_notes(which: int, protocol: int) -> None:
    error = examples()[which]
    error.add_note("resilience: attempt 1 of 3 raised OSError()")
    again: Exception = pickle.loads(pickle.dumps(error, protocol))
    assert facts(again) == facts(error)
    assert again.__notes__ == error.__notes__


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("which", range(9), ids=lambda which: type(examples()[which]).__name__)
def test_an_error_survives_copying(which: int, duplicate: Callable[[Exception], Exception]) -> None:
    error = examples()[which]
    error.add_note("a note")
    again = duplicate(error)
    assert again is not error
    assert facts(again) == facts(error)
    assert again.__notes__ == ["a note"]


def test_a_pickled_group_of_errors_comes_back_whole() -> None:
    group = ExceptionGroup("both", [CircuitOpenError("a", 1.0), CallTimeoutError("b", 2.0)])
    again: ExceptionGroup[Exception] = pickle.loads(pickle.dumps(group))
    assert [facts(leaf) for leaf in again.exceptions] == [facts(leaf) for leaf in group.exceptions]


def test_a_pipeline_warning_reads_as_code_and_sentence_and_survives_pickling() -> None:
    warning = PipelineWarning("layer-twice", "It is there twice.")
    again: PipelineWarning = pickle.loads(pickle.dumps(warning))
    for one in (warning, again):
        assert (one.code, str(one)) == ("layer-twice", "[layer-twice] It is there twice.")


def rejecting(layer: Any, colour: Colour, prepare: Callable[[], object] | None) -> Callable[[], Exception]:
    guarded = colour.guarded(layer, lambda: None)
    if prepare is not None:
        prepare()

    def reject() -> Exception:
        with pytest.raises(CallRejectedError) as caught:
            guarded()
        return caught.value

    return reject


@pytest.mark.parametrize("which", ["breaker", "bulkhead", "limiter", "timeout"])
def test_every_rejection_is_a_fresh_object_whose_traceback_does_not_grow(
    colour: Colour, clock: ManualClock, which: str
) -> None:
    """purgatory raises one instance for ever: its traceback grows by six frames per rejection (B9)."""
    breaker, bulkhead, limiter = CircuitBreaker("b"), Bulkhead(1, name="s"), RateLimiter(1, 60.0, name="l")
    reject = {
        "breaker": rejecting(breaker, colour, breaker.isolate),
        "bulkhead": rejecting(bulkhead, colour, bulkhead.admit),
        "limiter": rejecting(limiter, colour, limiter.admit),
        "timeout": rejecting(Timeout(lambda: 0.0), colour, None),
    }[which]
    errors = [reject() for _ in range(20)]
    assert len({id(error) for error in errors}) == 20
    depths = {len(traceback.extract_tb(error.__traceback__)) for error in errors}
    assert len(depths) == 1
    assert all(error.__context__ is None and error.__cause__ is None for error in errors)


def test_rejections_that_are_caught_leave_nothing_behind(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    guarded = bulkhead(lambda: None)
    bulkhead.admit()

    def reject_many() -> None:
        for _ in range(500):
            with pytest.raises(BulkheadFullError):
                guarded()

    reject_many()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        reject_many()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def test_the_message_is_built_only_when_it_is_read() -> None:
    class Name(str):
        __slots__ = ()
        formatted = 0

        def __format__(self, spec: str) -> str:
            Name.formatted += 1
            return super().__format__(spec)

    error = CircuitOpenError(Name("payments"), 1.0)
    assert Name.formatted == 0
    assert str(error).startswith("payments: ")
    assert Name.formatted == 1
