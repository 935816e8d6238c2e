"""Asking a store on behalf of a call: the remote decision that the call waits for, in its caller's colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._courier import Operation, Undo
from ._ledger import Reply
from ._wait import Owner, Wait
from .exceptions import StoreUnavailableError
from .store import Store


class Asking:
    """One question, and what its answer or the store's trouble means: each a permit, a further Wait, or a rejection."""

    __slots__ = ("_answered", "_failed", "_policy", "_question", "_store", "_undo")

    def __init__(
        self,
        policy: Owner,
        store: Store,
        question: Operation,
        answered: Callable[[Reply], Any],
        failed: Callable[[], Any],
        undo: Undo | None,
    ) -> None:
        self._policy = policy
        self._store = store
        self._question = question
        self._answered = answered
        self._failed = failed
        self._undo = undo

    def block(self) -> Any:
        if not self._store.immediate:
            self._policy._warn_if_blocking_a_loop()
        try:
            reply = self._store.ask(self._question)
        except StoreUnavailableError:
            return self._failed()
        return self._answered(reply)

    async def suspend(self) -> Any:
        try:
            reply = await self._store.aask(self._question, self._undo)
        except StoreUnavailableError:
            return self._failed()
        return self._answered(reply)


def asked(
    policy: Owner,
    store: Store,
    question: Operation,
    answered: Callable[[Reply], Any],
    failed: Callable[[], Any],
    undo: Undo | None = None,
) -> Any:
    """What `admit` returns for a call that depends on a store's answer: a Wait, unless there is nothing to wait for."""
    if store.refuses:
        return failed()
    asking = Asking(policy, store, question, answered, failed, undo)
    return asking.block() if store.immediate else Wait(policy, None, decision=asking)


class Then:
    """A wait whose permit means something else to who asked for it."""

    __slots__ = ("_meaning", "_wait")

    def __init__(self, wait: Wait, meaning: Callable[[Any], Any]) -> None:
        self._wait = wait
        self._meaning = meaning

    def block(self) -> Any:
        return self._meaning(self._wait.block())

    async def suspend(self) -> Any:
        return self._meaning(await self._wait.suspend())
