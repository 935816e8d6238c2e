"""The settings of a pooled transport, checked once, before anything is opened."""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from resilience import _arguments
from resilience.clock import Clock, checked

from ._binding import Binding

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
"""The arguments of one `socket.setsockopt` call."""

_MAX_CONNECTIONS, _KEEPALIVE_EXPIRY = 100, 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """What both colours need to know. Durations are seconds; a limit of None is no limit."""

    binding: Binding
    max_connections: int | None
    max_per_host: int | None
    max_idle: int | None
    max_queue: int
    keepalive_expiry: float | None
    context: ssl.SSLContext
    http1: bool
    http2: bool
    local_address: str | None
    uds: str | None
    socket_options: tuple[SocketOption, ...]
    retries: int
    clock: Clock


def checked_options(
    binding: Binding,
    *,
    max_connections: int | None,
    max_per_host: int | None,
    max_queue: int,
    keepalive_expiry: float | timedelta | None,
    limits: Any,
    verify: ssl.SSLContext | str | bool,
    cert: Any,
    trust_env: bool,
    http1: bool,
    http2: bool,
    local_address: str | None,
    uds: str | None,
    socket_options: Iterable[SocketOption] | None,
    retries: int,
    clock: Clock | None,
) -> Options:
    """The options; a mistake is a TypeError or ValueError that names it. Makes the one SSL context (20 to 40 ms)."""
    max_idle: int | None = None
    if limits is not None:
        if not isinstance(limits, binding.client.Limits):
            raise TypeError(f"limits must be a {binding.name}.Limits or None, not {_arguments.shown(limits)}")
        if (max_connections, keepalive_expiry) != (_MAX_CONNECTIONS, _KEEPALIVE_EXPIRY):
            raise ValueError("max_connections and keepalive_expiry are part of limits: give the one or the other")
        max_connections, keepalive_expiry = limits.max_connections, limits.keepalive_expiry
        max_idle = _limit("limits.max_keepalive_connections", limits.max_keepalive_connections, minimum=0)
    for name, flag in (("http1", http1), ("http2", http2), ("trust_env", trust_env)):
        _arguments.flag(name, flag)
    if not (http1 or http2):
        raise ValueError("http1 and http2 must not both be False")
    if http2 and importlib.util.find_spec("h2") is None:
        raise ModuleNotFoundError(f"http2=True needs h2: pip install '{binding.name}[http2]'")
    if not isinstance(verify, (ssl.SSLContext, str, bool)):
        raise TypeError(f"verify must be an ssl.SSLContext, a path, True or False, not {_arguments.shown(verify)}")
    return Options(
        binding=binding,
        max_connections=_limit("max_connections", max_connections, minimum=1),
        max_per_host=_limit("max_per_host", max_per_host, minimum=1),
        max_idle=max_idle,
        max_queue=_arguments.count("max_queue", max_queue, minimum=0),
        keepalive_expiry=_arguments.optional_seconds("keepalive_expiry", keepalive_expiry, zero=True),
        http1=http1,
        http2=http2,
        local_address=_arguments.text("local_address", local_address),
        uds=_arguments.text("uds", uds),
        socket_options=_socket_options(socket_options),
        retries=_arguments.count("retries", retries, minimum=0),
        clock=checked(clock),
        context=binding.client.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env),
    )


def _limit(name: str, value: Any, *, minimum: int) -> int | None:
    return None if value is None else _arguments.count(name, value, minimum=minimum)


def _socket_options(value: object) -> tuple[Any, ...]:
    if value is None:
        return ()
    allowed = "a collection of tuples of arguments for socket.setsockopt"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"socket_options must be {allowed}, not {_arguments.shown(value)}")
    options: tuple[Any, ...] = tuple(value)
    for option in options:
        if not isinstance(option, tuple) or len(option) not in (3, 4):
            raise TypeError(f"socket_options must be {allowed}, not with {_arguments.shown(option)} in it")
    return options
