"""A breaker and a bulkhead for each origin (scheme, host and port), kept as long as they are needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from resilience import Bulkhead, CircuitBreaker, Keyed, Layer, Pipeline, _arguments
from resilience._directory import Entry
from resilience._machine import SUCCESS

OriginKey = tuple[str, bytes, int | None]


class Origin(Pipeline):
    """What guards one origin; either layer may be missing. It is at rest when both are."""

    def __init__(self, name: str, breaker: CircuitBreaker | None, bulkhead: Bulkhead | None) -> None:
        super().__init__(*(layer for layer in (breaker, bulkhead) if layer is not None), name=name)
        self.breaker = breaker
        self.bulkhead = bulkhead


class Origins(Keyed):
    """The origins of a transport. Entering and leaving a known one is what every request does, so it is spelled out."""

    def enter(self, key: OriginKey, now: float) -> Entry:
        """The entry of an origin, in use from `now` on; it is made if there is none."""
        machine = self._machine
        free = machine.free
        try:
            free.pop()
        except IndexError:  # somebody is inside: the long way waits for its turn
            return self._enter(key)
        try:
            entry = machine.entries.get(key)
            if entry is not None and not machine.late:
                machine.begin_locked(entry, now)
                return entry
        finally:
            free.append(None)
        return self._enter(key)

    def leave(self, entry: Entry) -> None:
        """A request has ended. It may be a finaliser that tells us, so this never blocks."""
        machine = self._machine
        free = machine.free
        try:
            free.pop()
        except IndexError:
            self._leave(entry)
            return
        try:
            machine.end_locked((entry, self._clock.now()), SUCCESS)
        finally:
            free.append(None)
        if machine.late or machine.outbox:
            machine.unlocked()


def origin_name(key: OriginKey) -> str:
    """An origin as text, "https://api.example.com" or "http://[::1]:8080"."""
    scheme, host, port = key
    text = host.decode("ascii", "replace")
    text = f"[{text}]" if ":" in text else text
    return f"{scheme}://{text}" if port is None else f"{scheme}://{text}:{port}"


def origin_of(url: Any) -> OriginKey:
    """The origin of a URL of either library; they leave the default port of a scheme out."""
    return (url.scheme, url.raw_host, url.port)


def parsed_origin(text: Any, client: Any) -> OriginKey:
    """The key for an origin given as text or as a URL of the library; ValueError if it is none."""
    if not isinstance(text, (str, client.URL)):
        raise TypeError(f"origin must be text or a {client.__name__}.URL, not {_arguments.shown(text)}")
    try:
        url = client.URL(text)
    except client.InvalidURL:
        url = client.URL()
    if not url.scheme or not url.host or url.userinfo or url.raw_path not in (b"", b"/") or url.fragment:
        raise ValueError(f'origin must be like "https://api.example.com" or "http://host:8080", not {str(text)!r:.60}')
    return origin_of(url)


def kept_origins(
    breaker: Callable[[str], CircuitBreaker | None] | None,
    bulkhead: Callable[[str], Bulkhead | None] | None,
    max_hosts: int,
) -> Origins:
    """The origins of a transport, at most `max_hosts` (and those with requests in flight)."""

    def make(key: OriginKey) -> Origin:
        name = origin_name(key)
        return Origin(name, made_breaker(name), made_bulkhead(name))

    made_breaker = functools.partial(_made, "breaker", breaker, CircuitBreaker)
    made_bulkhead = functools.partial(_made, "bulkhead", bulkhead, Bulkhead)
    given: tuple[tuple[str, Any], ...] = (("breaker", breaker), ("bulkhead", bulkhead))
    for name, factory in given:
        # A layer can be called as well, with a function to guard.
        if factory is not None and (not callable(factory) or isinstance(factory, Layer)):
            raise TypeError(
                f"{name} must be a callable that makes one for an origin, or None, not {_arguments.shown(factory)}"
            )
        _arguments.plain(name, factory)
    return Origins(make, origin_of, max_keys=_arguments.count("max_hosts", max_hosts), name="origins")


def _made(name: str, factory: Callable[[str], Any] | None, kind: type, origin: str) -> Any:
    if factory is None:
        return None
    made = factory(origin)
    if made is not None and not isinstance(made, kind):
        raise TypeError(f"{name} must return a {kind.__name__} or None for an origin, not {_arguments.shown(made)}")
    return made
