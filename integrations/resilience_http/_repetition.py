"""Whether a request is sent again: what the `Retry` says, as far as HTTP allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience import Retry
from resilience._attempts import Run
from resilience.exceptions import CallRejectedError

from ._body import is_replayable
from ._settings import Settings
from .methods import IDEMPOTENCY_KEY, RETRYABLE_STATUSES, is_idempotent
from .retry_after import retry_after

if TYPE_CHECKING:
    from ._sending import Sending


class Repetition(Run):
    """The attempts of one request. The `Retry` decides, but what must not be sent twice is final whatever it says."""

    __slots__ = ("_request", "_settings", "_transport")

    def __init__(self, transport: Sending, retry: Retry, settings: Settings, request: Any) -> None:
        super().__init__(retry, None, (request,), {})
        self._transport = transport
        self._settings = settings
        self._request = request

    def returned(self, result: object) -> float | None:
        return super().returned(result) if self._may_be_repeated() else None

    def _wanted(self, error: Exception) -> bool:
        never_sent = isinstance(error, CallRejectedError) or self._transport.dialect.was_never_sent(error)
        return super()._wanted(error) and (never_sent or self._may_be_repeated())

    def _may_be_repeated(self) -> bool:
        request, repeatable = self._request, self._settings.idempotent
        if repeatable is None:
            repeatable = is_idempotent(request.method, request.headers.get(IDEMPOTENCY_KEY))
        return repeatable and is_replayable(request, self._transport.dialect.client.ByteStream, self._transport._limit)


def is_unwanted(response: Any) -> bool:
    """Whether a response has a status that may pass."""
    return response.status_code in RETRYABLE_STATUSES


def asked_wait(outcome: Any) -> float | None:
    """The seconds that a response asks to wait; None for an exception."""
    headers = getattr(outcome, "headers", None)
    return None if headers is None else retry_after(headers.get)
