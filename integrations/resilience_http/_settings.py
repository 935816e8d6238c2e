"""What holds for one request: the transport's own settings, or those with the request's overrides.

::

    client.get(url, extensions={"resilience": {"timeout": None, "retry": False}})

| key               | value                                                          |
|-------------------|----------------------------------------------------------------|
| `timeout`         | seconds for the whole request, body included; None: no limit   |
| `attempt_timeout` | seconds for each attempt, up to its headers; None: no limit    |
| `idempotent`      | True or False: whether the request may be repeated             |
| `retry`           | False, True, or the number of attempts, the first included     |
| `propagate`       | True or False: whether context travels along as headers        |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from resilience import Retry, _arguments

KEY = "resilience"
"""The extension that holds a request's overrides."""

_MOST_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds or None, the `Retry` or None, and whether the request may be repeated (None: its method decides).

    `streams` is set when the caller has freed this very request from the timeout, so that its body may last for ever.
    """

    timeout: float | None
    attempt_timeout: float | None
    retry: Retry | None
    propagate: bool
    idempotent: bool | None = None
    streams: bool = False

    def overridden(self, overrides: object) -> Settings:
        """With the overrides of one request. A mistake is a TypeError or ValueError that names it."""
        if not isinstance(overrides, Mapping):
            raise TypeError(f'extensions["{KEY}"] must be a dict of overrides, not {_arguments.shown(overrides)}')
        changes: dict[str, Any] = {}
        for key, value in overrides.items():
            name = f'extensions["{KEY}"]["{key}"]'
            if key in ("timeout", "attempt_timeout"):
                changes[key] = _arguments.optional_seconds(name, value)
                if key == "timeout" and value is None:
                    changes["streams"] = True
            elif key in ("idempotent", "propagate"):
                changes[key] = _arguments.flag(name, value)
            elif key == "retry":
                changes["retry"] = self._attempts(name, value)
            else:
                known = "attempt_timeout, idempotent, propagate, retry and timeout"
                raise TypeError(f'extensions["{KEY}"] knows {known}, not {_arguments.shown(key)}')
        return replace(self, **changes)

    def _attempts(self, name: str, value: Any) -> Retry | None:
        if value is False:
            return None
        if not isinstance(value, int):
            raise TypeError(f"{name} must be True, False or a number of attempts, not {_arguments.shown(value)}")
        if value is not True:
            attempts(name, value)
        if self.retry is None:
            raise ValueError(f"{name} cannot be {value}: the transport was made with retry=None")
        return self.retry if value is True else self.retry.with_(attempts=value)


def attempts(name: str, value: int) -> int:
    """A number of attempts, the first included; a ValueError that names it if it is out of range."""
    if not 1 <= value <= _MOST_ATTEMPTS:
        raise ValueError(f"{name} must be from 1 to {_MOST_ATTEMPTS} attempts, not {_arguments.shown(value)}")
    return value
