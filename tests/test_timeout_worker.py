"""Timeout(abandon=True): plain functions on threads that are left behind when time is up."""

from __future__ import annotations

import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError, CallTimeoutError, Pipeline, Timeout
from resilience.clock import give_way
from resilience.correlation import bound, correlation_id
from resilience.deadline import remaining, shield
from resilience.events import CallRejected
from resilience.testing import ManualClock, recorded_events, run, use_clock


@pytest.fixture
def still() -> Iterator[ManualClock]:
    """A clock that only the test moves, so that a worker has all the real time it needs."""
    with use_clock(ManualClock(1000.0, auto=False)) as clock:
        assert isinstance(clock, ManualClock)
        yield clock


class Stuck:
    """Functions that hang until they are released, and threads to wait for."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.threads: list[threading.Thread] = []

    def body(self) -> str:
        self.threads.append(threading.current_thread())
        self.gate.wait(30.0)
        return "too late"

    def release(self) -> None:
        self.gate.set()
        for thread in self.threads:
            thread.join(30.0)
            assert not thread.is_alive()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    stuck = Stuck()
    yield stuck
    stuck.release()


def test_the_result_comes_from_a_daemon_thread_with_the_callers_context(still: ManualClock) -> None:
    """T3 and T4: interlock and redress lose the context; a worker that is no daemon delays the interpreter's exit."""

    def body(*args: int, **kwargs: int) -> Any:
        thread = threading.current_thread()
        return thread.daemon, thread.name, correlation_id(), remaining(), args, kwargs

    guarded = Timeout(5, abandon=True, name="n")(body)
    with bound("request"):
        assert guarded(1, two=2) == (True, "resilience-timeout-n", "request", 5.0, (1,), {"two": 2})
    assert Timeout(5, abandon=True)(threading.current_thread)().name == "resilience-timeout-unnamed"
    assert Timeout(None, abandon=True)(remaining)() is None


@pytest.mark.parametrize("kind", [ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_the_function_raises_is_the_callers_with_its_traceback(
    still: ManualClock, kind: type[BaseException]
) -> None:
    def fails() -> None:
        raise kind("from the worker")

    timeout = Timeout(5, abandon=True)
    with pytest.raises(kind, match="from the worker") as caught:
        timeout(fails)()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fails"
    assert timeout.statistics().abandoned == 0


def test_when_time_is_up_the_caller_goes_on_and_the_late_end_is_dropped(clock: ManualClock, stuck: Stuck) -> None:
    timeout = Timeout(5, abandon=True, name="n")
    with pytest.raises(CallTimeoutError) as caught:
        timeout(stuck.body)()
    assert (caught.value.policy, caught.value.timeout, caught.value.__cause__) == ("n", 5.0, None)
    assert clock.now() == 1005.0
    assert (timeout.statistics().timed_out, timeout.statistics().abandoned) == (1, 1)
    stuck.release()
    assert (timeout.statistics().timed_out, timeout.statistics().abandoned) == (1, 0)


def test_a_failure_that_comes_too_late_is_dropped_as_well(clock: ManualClock, stuck: Stuck) -> None:
    def fails() -> None:
        stuck.body()
        raise ValueError

    timeout = Timeout(5, abandon=True)
    with pytest.raises(CallTimeoutError):
        timeout(fails)()
    stuck.release()
    assert timeout.statistics().abandoned == 0


def test_while_too_many_are_left_behind_further_calls_are_refused(clock: ManualClock, stuck: Stuck) -> None:
    timeout = Timeout(1, abandon=True, max_abandoned=2, name="n")
    for _ in range(2):
        with pytest.raises(CallTimeoutError):
            timeout(stuck.body)()
    calls: list[int] = []
    with recorded_events(CallRejected) as events, pytest.raises(BulkheadFullError) as caught:
        timeout(lambda: calls.append(1))()
    assert str(caught.value) == "n: 2 threads (max_abandoned) are running or left behind"
    assert caught.value.policy == "n"
    assert len(events) == 1
    assert calls == []
    stuck.release()
    with pytest.raises(CallTimeoutError):
        timeout(Stuck().gate.wait)(30.0)


def test_callers_that_wait_at_once_cannot_leave_more_threads_behind_than_the_bound(still: ManualClock) -> None:
    """Twenty callers, each with a thread that may hang, once left twenty behind where five were allowed."""
    stuck = Stuck()
    timeout = Timeout(1, abandon=True, max_abandoned=5)
    outcomes: list[type[BaseException]] = []

    def call() -> None:
        try:
            timeout(stuck.body)()
        except (BulkheadFullError, CallTimeoutError) as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    while len(outcomes) < 15:
        give_way(0.001)
    still.advance(2.0)
    for thread in threads:
        thread.join(30.0)
    assert outcomes.count(BulkheadFullError) == 15
    assert outcomes.count(CallTimeoutError) == timeout.statistics().abandoned == 5
    stuck.release()
    while timeout.statistics().abandoned:
        give_way(0.001)
    assert timeout(lambda: "result")() == "result"


def test_a_thread_that_cannot_be_started_takes_up_no_room(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    timeout = Timeout(1, abandon=True, max_abandoned=1)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                timeout(lambda: None)()
    for _ in range(2):
        assert timeout(lambda: "result")() == "result"


def test_a_caller_of_before_a_fork_frees_no_room_in_the_child(clock: ManualClock) -> None:
    timeout = Timeout(1, abandon=True, max_abandoned=1)
    timeout(timeout._machine.forked)()
    assert timeout._machine.attended == 0
    assert timeout(lambda: timeout._machine.attended)() == 1


def test_a_nearer_inherited_deadline_leaves_the_thread_behind_and_names_its_owner(
    clock: ManualClock, stuck: Stuck
) -> None:
    with Timeout(1, name="outer").guard(), pytest.raises(CallTimeoutError, match="outer"):
        Timeout(None, abandon=True, name="inner")(stuck.body)()
    assert clock.now() == 1001.0


def test_a_shielded_worker_is_waited_for(still: ManualClock) -> None:
    with Timeout(1).guard(), shield():
        assert Timeout(None, abandon=True)(lambda: "result")() == "result"


def test_an_interrupted_wait_leaves_the_thread_behind(stuck: Stuck) -> None:
    class Interrupted(ManualClock):
        def wait(self, lock: Any, seconds: float | None) -> bool:
            raise KeyboardInterrupt

    timeout = Timeout(5, abandon=True, clock=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        timeout(stuck.body)()
    assert timeout.statistics().abandoned in {0, 1}
    stuck.release()
    assert timeout.statistics().abandoned == 0


def test_a_result_that_comes_just_as_the_wait_ends_counts(stuck: Stuck) -> None:
    class Slow(ManualClock):
        """Its wait says that time is up, once the result is there."""

        def wait(self, lock: Any, seconds: float | None) -> bool:
            assert lock.acquire(timeout=30.0)
            return False

    timeout = Timeout(5, abandon=True, clock=Slow())
    assert timeout(lambda: "result")() == "result"
    assert (timeout.statistics().timed_out, timeout.statistics().abandoned) == (0, 0)


def test_a_fork_forgets_the_threads_that_were_left_behind(clock: ManualClock, stuck: Stuck) -> None:
    timeout = Timeout(1, abandon=True, max_abandoned=1)
    with pytest.raises(CallTimeoutError):
        timeout(stuck.body)()
    timeout._machine.forked()
    assert timeout.statistics().abandoned == 0
    stuck.release()
    assert timeout.statistics().abandoned == 0  # what ended belongs to an earlier generation


def test_many_threads_share_one_timeout(still: ManualClock) -> None:
    guarded: Callable[[int], int] = Timeout(60, abandon=True)(lambda number: number * 2)
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(guarded(n))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert sorted(results) == [2 * number for number in range(20)]


def test_a_coroutine_made_on_the_thread_is_awaited_by_the_caller(still: ManualClock) -> None:
    async def later() -> str:
        return "awaited"

    def make() -> Any:
        return later()

    async def main() -> str:
        result: str = await Timeout(5, abandon=True)(make)()
        return result

    assert run(main(), still) == "awaited"


def test_a_generator_function_cannot_be_left_behind_and_is_refused() -> None:
    """Its steps run in the thread of whoever consumes them, so `abandon` would do nothing, and nobody would know."""

    def steps() -> Iterator[int]:
        yield 1

    async def asynchronous_steps() -> AsyncIterator[int]:
        yield 1

    timeout = Timeout(1.0, abandon=True)
    with pytest.raises(
        TypeError, match=r"^abandon=True cannot leave .*\.steps behind: a generator runs in its consumer's"
    ):
        timeout(steps)
    with pytest.raises(TypeError, match="cannot leave"):
        Pipeline(Bulkhead(1), timeout)(steps)
    assert list(timeout.with_(abandon=False)(steps)()) == [1]
    timeout(asynchronous_steps)  # a task is cancelled, which is better
