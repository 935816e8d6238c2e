"""What a client library calls things: the classes that the resilient transport raises, judges by and hands out."""

from __future__ import annotations

import ssl
from asyncio import CancelledError
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resilience.exceptions import CallTimeoutError, ResilienceError

from ._binding import Binding, counterpart


@dataclass(frozen=True, slots=True)
class Dialect:
    """One client library as the resilient transport sees it.

    `errors` maps the toolkit's errors to those of this library that are both; `unsent` are the exceptions after which
    the server has provably seen nothing, `hopeless` those that a repetition cannot cure, and `local` those that say
    nothing about the server: our own saturation and mistakes of the caller.
    """

    client: Any
    errors: Mapping[type[ResilienceError], Any]
    transport: type[Exception]
    timeout: type[Exception]
    unsent: tuple[type[Exception], ...]
    hopeless: tuple[type[Exception], ...]
    local: tuple[type[Exception], ...]

    @classmethod
    def of(cls, binding: Binding, errors: Mapping[type[ResilienceError], Any]) -> Dialect:
        """The dialect of a binding."""
        client = binding.client
        return cls(
            client,
            errors,
            client.TransportError,
            client.TimeoutException,
            (client.ConnectError, client.ConnectTimeout, client.PoolTimeout),
            (client.UnsupportedProtocol, client.LocalProtocolError, client.ProxyError),
            (client.UnsupportedProtocol, client.LocalProtocolError, client.PoolTimeout),
        )

    def is_transient(self, error: Exception) -> bool:
        """Whether an exception may pass: a failure of the transport, or an attempt that took too long."""
        if not isinstance(error, (self.transport, CallTimeoutError)) or isinstance(error, self.hopeless):
            return False
        return not _is_distrust(error)

    def was_never_sent(self, error: BaseException) -> bool:
        """Whether an exception proves that the server has seen nothing of the request."""
        return isinstance(_reason(error), self.unsent)

    def is_local(self, error: BaseException) -> bool:
        """Whether an exception says nothing about the server: our own saturation, or a mistake of the caller."""
        return isinstance(_reason(error), self.local)

    def blames_the_server(self, error: BaseException, request: Any) -> bool:
        """Whether an exception says something about the server; a bug of the caller or a full pool does not.

        A bare error of the system may also come from what the caller's body is read from, a file for example.
        """
        if isinstance(error, (self.transport, CallTimeoutError)):
            return not self.is_local(error)
        return isinstance(error, OSError) and isinstance(request.stream, self.client.ByteStream)

    def translated(self, error: BaseException, request: Any) -> BaseException:
        """The error of this library for one of the toolkit, with `request` attached; any other as it is."""
        if not isinstance(error, ResilienceError) or isinstance(error, self.transport):
            return error
        found = counterpart(self.errors, error)
        if found is None:
            return error
        translation: BaseException = found.of(error, request)
        translation.__cause__ = error.__cause__
        translation.__suppress_context__ = True
        return translation


def _reason(error: BaseException) -> BaseException | None:
    """What a timeout of ours has cut short: the library's error behind it, if it says so; else `error` itself."""
    link: BaseException | None = error
    for _ in range(2):  # a CallTimeoutError, and the cancellation that it stands for
        if isinstance(link, (CallTimeoutError, CancelledError)):
            link = link.__cause__
    return link


def _is_distrust(error: BaseException) -> bool:
    """Whether the server's certificate was not accepted, which the next attempt would not change."""
    link: BaseException | None = error
    for _ in range(2):  # the client library's, the core library's, and then that of the encryption
        link = link and (link.__cause__ or link.__context__)
    return isinstance(link, ssl.SSLCertVerificationError)
