"""How an error of the toolkit becomes one that is also an error of a client library."""

from __future__ import annotations

from typing import Any, Self

from resilience.exceptions import CallRejectedError, ResilienceError


class TranslatedError(ResilienceError):
    """What the errors of both libraries inherit, in front of the two errors that each of them is.

    Pickling and the facts are the toolkit's, `.request` is the library's.
    """

    def __init__(self, *facts: Any, request: Any = None) -> None:
        super().__init__(*facts)
        setattr(self, "request", request)  # noqa: B010 - a property of the library's part

    @classmethod
    def of(cls, error: ResilienceError, request: Any) -> Self:
        """This error for `request`, with the facts and the notes of `error`."""
        translation = cls.__new__(cls)
        translation.args = error.args
        translation.__dict__.update(error.__dict__)
        setattr(translation, "request", request)  # noqa: B010
        return translation

    def __repr__(self) -> str:
        names = self._facts if isinstance(self, CallRejectedError) else ("policy", "timeout")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"
