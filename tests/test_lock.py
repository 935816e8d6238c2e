"""The lock under every machine: a token in a deque."""

from __future__ import annotations

import threading

import pytest

from resilience import _lock, clock
from resilience._lock import Lock


def test_a_free_lock_is_taken_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[float] = []
    monkeypatch.setattr(clock, "give_way", ways.append)
    lock = Lock()
    assert repr(lock) == "<Lock: free>"
    assert lock.acquire()
    assert repr(lock) == "<Lock: taken>"
    assert not lock.acquire(False)
    lock.release()
    assert lock.acquire(False)
    assert ways == [], "who only tries never waits"


def test_a_block_holds_the_lock_and_gives_it_back_when_it_raises() -> None:
    lock = Lock()
    with pytest.raises(KeyError), lock:
        assert not lock.acquire(False)
        raise KeyError
    assert lock.acquire(False)


@pytest.mark.parametrize("with_block", [False, True])
def test_who_finds_it_taken_gives_way_until_it_is_free(with_block: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock()
    lock.acquire()
    ways: list[float] = []

    def give_way(seconds: float) -> None:
        ways.append(seconds)
        if len(ways) == 3:
            lock.release()

    monkeypatch.setattr(clock, "give_way", give_way)
    monkeypatch.setattr(_lock, "_BRISK", 3)
    if with_block:
        with lock:
            assert not lock.free
    else:
        assert lock.acquire()
    assert ways == [0.0, 0.0, 1e-4]


def test_a_lost_token_is_made_anew_and_said_so(monkeypatch: pytest.MonkeyPatch, taken_over: list[str]) -> None:
    """A signal handler that raises right after the token was taken would else make the policy unusable for ever."""
    ways: list[float] = []
    monkeypatch.setattr(clock, "give_way", ways.append)
    monkeypatch.setattr(_lock, "_PATIENCE", 5)
    lock = Lock()
    lock.free.pop()
    assert lock.acquire()
    assert len(ways) == 4
    assert len(taken_over) == 1
    taken_over.clear()
    lock.release()
    lock.release()  # the lost one turns up
    assert lock.acquire(False)
    assert not lock.acquire(False), "there is only one token"


def test_threads_exclude_each_other() -> None:
    lock = Lock()
    inside = 0
    total = 0

    def work() -> None:
        nonlocal inside, total
        for _ in range(300):
            with lock:
                inside += 1
                seen = total
                clock.give_way()  # the worst moment to be switched out
                assert inside == 1
                total = seen + 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert total == 6 * 300
    assert len(lock.free) == 1
