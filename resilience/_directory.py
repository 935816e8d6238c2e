"""The layers that `Keyed` keeps, one for each key: which are in use, which was used last, which can go.

An entry is used when a call begins and when it ends. Entries stand in the order of their last use; one with calls in
flight is never forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from ._layer import Layer
from ._machine import Machine, Verdict
from ._ticket import Ticket

CANDIDATES = 64
"""Idle entries that are asked whether they are at rest, for each one that has to go."""


class Entry:
    """The layer of one key. Guarded by the lock: `calls` (in flight) and `used` (when a call last began or ended).

    `states` are what the layer shares with other processes.
    """

    __slots__ = ("calls", "key", "layer", "states", "used")

    def __init__(self, key: Hashable, layer: Layer, used: float, states: Iterable[Hashable] = ()) -> None:
        self.key = key
        self.layer = layer
        self.calls = 0
        self.used = used
        self.states = frozenset(states)


class Directory(Machine):
    """Entries, least recently used first. `busy` of them have calls in flight."""

    __slots__ = ("busy", "created", "entries", "evicted", "owners")

    def __init__(self) -> None:
        super().__init__()
        self.entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self.busy = 0
        self.created = 0
        self.evicted = 0
        self.owners: dict[Hashable, Hashable] = {}  # the key of each shared state

    def add_locked(self, entry: Entry) -> None:
        """Keep the entry of a new key."""
        self.entries[entry.key] = entry
        self.owners.update(dict.fromkeys(entry.states, entry.key))
        self.created += 1

    def begin_locked(self, entry: Entry, now: float) -> None:
        if not entry.calls:
            self.busy += 1
        entry.calls += 1
        entry.used = now
        self.entries.move_to_end(entry.key)

    def end_locked(self, ended: tuple[Entry, float], verdict: Verdict) -> Iterable[Ticket]:
        entry, now = ended
        if self.entries.get(entry.key) is not entry:
            return ()  # a fork has forgotten the calls of the parent
        entry.calls -= 1
        if not entry.calls:
            self.busy -= 1
        entry.used = now
        self.entries.move_to_end(entry.key)
        return ()

    def forked(self) -> None:
        super().forked()
        # New entries, so that the calls of the parent count for nothing when they end in the child.
        self.entries = OrderedDict(
            (key, Entry(key, old.layer, old.used, old.states)) for key, old in self.entries.items()
        )
        self.busy = 0

    def forget_locked(self, entry: Entry) -> bool:
        """Forget an entry, unless it came into use or was forgotten meanwhile."""
        if entry.calls or self.entries.get(entry.key) is not entry:
            return False
        del self.entries[entry.key]
        for state in entry.states:
            self.owners.pop(state, None)
        self.evicted += 1
        return True

    def superfluous(self, now: float, max_keys: int, idle_ttl: float) -> list[tuple[Entry, str]]:
        """The entries to forget, with the reason: those idle too long, and the idle ones beyond `max_keys`.

        Of the latter, those at rest go first. Only so many are asked that making room takes the same time however many
        entries there are: the least recently used ones, `CANDIDATES` of them for each that has to go.
        """
        stale: list[tuple[Entry, str]] = []
        candidates: list[Entry] = []
        with self.lock:
            self.caught_up_locked()
            excess = len(self.entries) - max_keys
            wanted = max(0, excess) * CANDIDATES
            # In the order of their last use, so behind the first that is not stale none is.
            for entry in self.entries.values():
                if now - entry.used >= idle_ttl:
                    if not entry.calls:
                        stale.append((entry, "idle"))
                elif len(candidates) >= wanted:
                    break
                elif not entry.calls:
                    candidates.append(entry)
        excess = max(0, excess - len(stale))
        at_rest: list[tuple[Entry, str]] = []
        others: list[tuple[Entry, str]] = []
        for entry in candidates:
            if len(at_rest) == excess:
                break
            # Asks the layer, which may have a lock of its own: hence outside ours.
            (at_rest if entry.layer.at_rest else others).append((entry, "max_keys"))
        return stale + (at_rest + others)[:excess]
