"""Tokens that an instance takes from a store ahead, a block at a time, so that most calls ask nobody.

A block is `local_share` of the burst. It is valid for as long as that many tokens take to come back, δ = n · T, and
while blocks are in use the store's burst is smaller by one of them. Calls in any time t then spend tokens taken in
t + δ, of which there are at most (burst - n) + rate · (t + δ) = burst + rate · t: however many instances there are,
all together never exceed the limit. What is left of a block when its time is over is lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Any

from ._machine import Machine
from .clock import Clock
from .exceptions import StoreUnavailableError
from .store import Store

_MOST = 10_000  # keys with a block
_GRANTED = 0  # the permit

Fetch = Any  # an Operation


class Blocks:
    """The blocks of one limiter, by key. Guarded by the limiter's lock: `_blocks`."""

    def __init__(self, store: Store, machine: Machine, clock: Clock) -> None:
        self._store = store
        self._machine = machine
        self._clock = clock
        self._blocks: dict[Hashable, list[float]] = {}  # tokens left, until when
        self._fetching: dict[tuple[int, Hashable], list[asyncio.Future[None]]] = {}

    def size(self, capacity: float) -> float:
        """The tokens in a block; 0 if none are taken ahead."""
        share = self._store.local_share
        if not share:
            return 0.0
        tokens = math.floor(capacity * share)
        return float(tokens) if tokens >= 2 else 0.0

    def take(self, key: Hashable, cost: float) -> bool | None:
        """Whether the block at hand had the tokens; None if it is not worth asking for another one yet."""
        now = self._clock.now()
        with self._machine.lock:
            block = self._blocks.get(key)
            if block is None or now >= block[1]:
                return False
            if block[0] < 0.0:
                return None
            if block[0] < cost:
                return False
            block[0] -= cost
            return True

    def put(self, key: Hashable, tokens: float, until: float) -> None:
        """A block as the store has granted it; -1 tokens: it had none, and need not be asked before `until`."""
        with self._machine.lock:
            if len(self._blocks) >= _MOST:
                now = self._clock.now()
                self._blocks = {key: block for key, block in self._blocks.items() if block[1] > now}
                if len(self._blocks) >= _MOST:
                    self._blocks.clear()  # they were only borrowed: what is lost is on the safe side
            self._blocks[key] = [tokens, until]


class FromBlock:
    """The decision of a call that found its block empty: fetch one, or wait for who does, or ask alone."""

    __slots__ = ("_alone", "_blocks", "_cost", "_key", "_lifetime", "_question", "_size")

    def __init__(
        self,
        blocks: Blocks,
        key: Hashable,
        cost: float,
        size: float,
        lifetime: float,
        question: Fetch,
        alone: Callable[[], Any],
    ) -> None:
        self._blocks = blocks
        self._key = key
        self._cost = cost
        self._size = size
        self._lifetime = lifetime
        self._question = question
        self._alone = alone

    def block(self) -> Any:
        asked_at = self._blocks._clock.now()
        try:
            reply = self._blocks._store.ask(self._question)
        except StoreUnavailableError:
            return self._alone()
        return self._fetched(asked_at, reply)

    async def suspend(self) -> Any:
        blocks = self._blocks
        place = (id(asyncio.get_running_loop()), self._key)
        while True:
            waiting = blocks._fetching.get(place)
            if waiting is None:
                return await self._fetch(place)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiting.append(future)
            await future
            taken = blocks.take(self._key, self._cost)
            if taken:
                return _GRANTED
            if taken is None:
                return self._alone()

    async def _fetch(self, place: tuple[int, Hashable]) -> Any:
        blocks = self._blocks
        waiting: list[asyncio.Future[None]] = []
        blocks._fetching[place] = waiting
        asked_at = blocks._clock.now()
        try:
            # Nothing to undo: a block that nobody is there to use is lost, which is the safe side.
            reply = await blocks._store.aask(self._question)
        except StoreUnavailableError:
            blocks.put(self._key, -1.0, asked_at + self._lifetime)
            return self._alone()
        else:
            return self._fetched(asked_at, reply)
        finally:
            del blocks._fetching[place]
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _fetched(self, asked_at: float, reply: tuple[float, ...]) -> Any:
        until = asked_at + self._lifetime
        if reply[0] != 1.0:
            self._blocks.put(self._key, -1.0, until)
            return self._alone()
        self._blocks.put(self._key, self._size - self._cost, until)
        return _GRANTED
