"""Problem details (RFC 9457): what went wrong, as a small JSON document that a program can read.

`problem_for` makes one from an error of the toolkit::

    RateLimitExceededError                                     429   …#quota-exceeded
    CircuitOpenError  BulkheadFullError  PoolExhaustedError    503   …#temporary-reduced-capacity
    CallTimeoutError  DeadlineExceededError                    504   about:blank

The two types are those that draft-ietf-httpapi-ratelimit-headers registers. A problem names no policy and no host by
itself: what is inside a service is nobody's business outside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from resilience.exceptions import (
    CallRejectedError,
    CallTimeoutError,
    DeadlineExceededError,
    RateLimitExceededError,
    ResilienceError,
)

MEDIA_TYPE = "application/problem+json"
BLANK = "about:blank"
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
TEMPORARY_REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

_quoted = json.encoder.encode_basestring_ascii  # what `json.dumps` does with a text
_MEMBERS = frozenset({"type", "title", "status", "detail", "instance"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: an HTTP `status`, a `title` for its `type` (a URI), a `detail` for this occurrence, extensions.

    `instance` is a URI of this occurrence. `retry_after` (seconds or None) belongs into a header, not the document.
    """

    status: int
    title: str = ""
    type: str = BLANK
    detail: str | None = None
    instance: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)
    retry_after: float | None = None

    def __post_init__(self) -> None:
        status: object = self.status
        if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
            raise ValueError(f"status must be a whole number from 100 to 599, not {status!r:.60}")
        if not _MEMBERS.isdisjoint(self.extensions):
            raise ValueError(f"extensions must not contain {', '.join(sorted(_MEMBERS & self.extensions.keys()))}")

    def document(self) -> dict[str, Any]:
        """The members as a dict in the order of the RFC, those that say nothing left out."""
        members: dict[str, Any] = {} if self.type == BLANK else {"type": self.type}
        title = self.title or _phrase(self.status)
        if title is not None:
            members["title"] = title
        members["status"] = self.status
        if self.detail is not None:
            members["detail"] = self.detail
        if self.instance is not None:
            members["instance"] = self.instance
        return members | dict(self.extensions)

    def content(self) -> bytes:
        """The document as the body of a response; ASCII, so that it survives every wrong charset."""
        return f"{{{','.join([_member(name, value) for name, value in self.document().items()])}}}".encode("ascii")


def problem_for(
    error: BaseException, *, instance: str | None = None, extensions: Mapping[str, Any] | None = None
) -> Problem | None:
    """The problem that an error of the toolkit is for a client; None for all other errors.

    `retry_after` is that of a rejection. `extensions` are further members, a correlation id, say.
    """
    if not isinstance(error, ResilienceError):
        return None
    if isinstance(error, (CallTimeoutError, DeadlineExceededError)):
        status, kind, title, detail = 504, BLANK, "", "The request took too long."
    elif isinstance(error, RateLimitExceededError):
        status, kind = 429, QUOTA_EXCEEDED
        title, detail = "Request cannot be satisfied as assigned quota has been exceeded", "Too many requests."
    elif isinstance(error, CallRejectedError):
        status, kind = 503, TEMPORARY_REDUCED_CAPACITY
        title = "Request cannot be satisfied due to temporary server capacity constraints"
        detail = "The service is overloaded or a part of it is down."
    else:
        return None
    retry_after = error.retry_after if isinstance(error, CallRejectedError) else None
    return Problem(status, title, kind, detail, instance, dict(extensions or {}), retry_after)


def _member(name: object, value: object) -> str:
    """One member as JSON. Overload is when many refusals are written, and most members are plain text."""
    if type(name) is str:
        if type(value) is str:
            return f"{_quoted(name)}:{_quoted(value)}"
        if type(value) is int:
            return f"{_quoted(name)}:{value}"
    return json.dumps({name: value}, separators=(",", ":"))[1:-1]


def _phrase(status: int) -> str | None:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a status without a name
        return None
