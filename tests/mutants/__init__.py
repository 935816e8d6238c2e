"""Named mutants: one deliberate bug per branch of each machine; `python -m tests.mutants` tries them one at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One deliberate bug: in `file` (relative to the project), `old` (which stands there once) becomes `new`.

    `tests` are the pytest arguments that must fail with it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
