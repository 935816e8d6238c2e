"""Keyed against a naive model: a list of keys in the order of their last use, and a count of calls for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from resilience import Keyed, KeyedStatistics, KeyEvicted, Layer
from resilience.testing import ManualClock

KEYS = st.sampled_from("abcdefg")


class Marked(Layer):
    """A layer that is at rest or not as the test says, and marks the results of what it guards."""

    def __init__(self, key: str, serial: int) -> None:
        self.key = key
        self.serial = serial
        self.resting = True

    @property
    def at_rest(self) -> bool:
        return self.resting

    def _wrap_sync(self, fn: Any) -> Any:
        return lambda *args: (self, fn(*args))

    _wrap_async = _wrap_generator = _wrap_async_generator = _wrap_sync


@dataclass
class Known:
    """What the model knows of a key."""

    key: str
    serial: int
    used: float
    calls: int = 0
    resting: bool = True


class KeyedMachine(RuleBasedStateMachine):
    blocks = Bundle("blocks")

    @initialize(max_keys=st.integers(1, 4), idle_ttl=st.sampled_from([3.0, 1000.0]))
    def start(self, max_keys: int, idle_ttl: float) -> None:
        self.clock = ManualClock(100.0)
        self.events: list[KeyEvicted] = []
        self.max_keys, self.idle_ttl = max_keys, idle_ttl
        self.serial = 0
        self.layers: dict[int, Marked] = {}
        self.keyed = Keyed(
            self.make,
            lambda key: key,
            max_keys=max_keys,
            idle_ttl=idle_ttl,
            clock=self.clock,
            listeners=[self.events.append],
        )
        self.first = self.keyed(lambda key: ("first", key))
        self.second = self.keyed(lambda key: ("second", key))
        self.model: list[Known] = []
        self.gone: list[tuple[str, str]] = []

    def make(self, key: str) -> Marked:
        self.serial += 1
        layer = self.layers[self.serial] = Marked(key, self.serial)
        return layer

    # -- the model -----------------------------------------------------------------------------------------------------

    def begun(self, key: str) -> Known:
        """A call on `key` begins; the model's entry, which is now the last used."""
        known = next((known for known in self.model if known.key == key), None)
        if known is None:
            made = True
            known = Known(key, self.serial, 0.0)
        else:
            made = False
            self.model.remove(known)
        self.model.append(known)
        known.used = self.clock.now()
        known.calls += 1
        idle = [one for one in self.model if one.calls == 0]
        if made or (idle and len(self.model) > self.max_keys):
            self.tidied()
        return known

    def ended(self, known: Known) -> None:
        known.calls -= 1
        known.used = self.clock.now()
        self.model.remove(known)
        self.model.append(known)

    def tidied(self) -> None:
        for known in list(self.model):
            if known.calls == 0 and self.clock.now() - known.used >= self.idle_ttl:
                self.model.remove(known)
                self.gone.append((known.key, "idle"))
        while len(self.model) > self.max_keys:
            idle = [known for known in self.model if known.calls == 0]
            if not idle:
                break
            choice = ([known for known in idle if known.resting] or idle)[0]
            self.model.remove(choice)
            self.gone.append((choice.key, "max_keys"))

    # -- the rules -----------------------------------------------------------------------------------------------------

    @rule(key=KEYS, second=st.booleans())
    def call(self, key: str, second: bool) -> None:
        function: Any = self.second if second else self.first
        name = "second" if second else "first"
        layer, result = function(key)
        known = self.begun(key)
        assert result == (name, key)
        assert layer is self.layers[known.serial]
        self.ended(known)

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        layer = self.keyed.layer(key)
        known = self.begun(key)
        assert layer is self.layers[known.serial]
        self.ended(known)

    @rule(target=blocks, key=KEYS)
    def begin(self, key: str) -> tuple[Any, Known]:
        block = self.keyed.using(key)
        layer = block.__enter__()
        known = self.begun(key)
        assert layer is self.layers[known.serial]
        return block, known

    @rule(block=consumes(blocks))
    def end(self, block: tuple[Any, Known]) -> None:
        block[0].__exit__(None, None, None)
        self.ended(block[1])

    @rule(key=KEYS, resting=st.booleans())
    def rest(self, key: str, resting: bool) -> None:
        for known in self.model:
            if known.key == key:
                known.resting = self.layers[known.serial].resting = resting

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def look_at_statistics(self) -> None:
        self.tidied()
        in_use = sum(known.calls > 0 for known in self.model)
        assert self.keyed.statistics() == KeyedStatistics(len(self.model), in_use, self.serial, len(self.gone))
        assert len(self.model) <= max(self.max_keys, in_use)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def keys_and_order_are_those_of_the_model(self) -> None:
        entries = list(self.keyed._machine.entries.values())
        assert [(entry.key, entry.calls, entry.used) for entry in entries] == [
            (known.key, known.calls, known.used) for known in self.model
        ]

    @invariant()
    def everything_forgotten_was_told_with_its_reason(self) -> None:
        assert [(event.key, event.reason) for event in self.events] == self.gone

    @invariant()
    def it_is_at_rest_when_every_layer_is_and_none_is_in_use(self) -> None:
        assert self.keyed.at_rest == all(known.resting and known.calls == 0 for known in self.model)


KeyedMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=35)
TestKeyed = KeyedMachine.TestCase
