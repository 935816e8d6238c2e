"""The notes that a Retry leaves on the exception it lets out (PEP 678): one for each attempt, and why it gave up."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ._machine import Machine

NOTE = "resilience: attempt "
MOST_NOTES = 100


class Note(str):
    """A note that knows which Retry made it; a plain string once it is copied or pickled."""

    __slots__ = ("of",)
    of: Callable[[], object]

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, (str(self),))


def annotate(error: Exception, notes: list[str], machine: Machine) -> None:
    """Put our notes on `error`, in place of those of an earlier call: an object raised again must not grow.

    Notes of another Retry stay as long as that exists: it is one inside this one.
    """
    try:
        found = getattr(error, "__notes__", ())
        inner = [note for note in found if type(note) is Note and note.of() not in (None, machine)][-MOST_NOTES:]
        others = [note for note in found if not str(note).startswith(NOTE)]
        of = weakref.ref(machine)
        made = list(map(Note, notes))
        for note in made:
            note.of = of
        error.__notes__ = [*others, *inner, *made]
    except Exception:  # noqa: BLE001 - a frozen exception takes no notes, and must come out all the same
        return
