"""The pool of all threads. An exception at any point, Ctrl-C included, leaks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resilience._wait import metered

from ._connections import Place, Waiter
from ._exchange import SECURE, Pool, delays
from ._options import Options
from ._stream_sync import SyncStream, connect


class SyncPool(Pool):
    """Requests of threads."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._body: type[Body] = type("ResponseStream", (Body, self.binding.client.SyncByteStream), {})

    def handle(self, request: Any) -> Any:
        """Send the request; returns the response as soon as its headers are there."""
        prepared, key = self.prepared(request)
        place = self.connections.acquire(key)
        if self.connections.doomed:
            self.tidy()
        if type(place) is not Place:
            place = self._wait(place, request)
        try:
            response = self._exchange(place, request, prepared)
        except BaseException as error:
            self.release(place, False)
            self.translate(error, request)
            raise
        return self.binding.client.Response(
            response.status,
            headers=response.headers,
            stream=self._body(self, place, request, response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close everything at once."""
        self.forget()

    def drop(self, place: Place) -> None:
        """Give back the place of a response that nobody closed, from its finaliser, in any thread."""
        self.connections.drop(place)
        self.tidy()

    def _wait(self, waiter: Waiter | None, request: Any) -> Place:
        if waiter is None:
            raise self.in_vain("too many requests wait for a connection", request)
        clock = self.options.clock
        began = clock.now()
        try:
            granted = waiter.block(clock, self.patience(request))
        except BaseException:
            self.connections.leave(waiter)
            self.tidy()
            raise
        metered(clock.now() - began)
        return self.granted(waiter, granted, request)

    def _exchange(self, place: Place, request: Any, prepared: Any) -> Any:
        connection = place.connection
        if connection is not None:
            if connection.has_expired():  # the server has closed it
                self.disconnect(place)
            else:
                place.stream.begin()
                try:
                    return connection.handle_request(prepared)
                except Exception as error:
                    if not self.may_repeat(request, place, error):
                        raise
                self.disconnect(place)
        connection = self._connect(place, prepared)
        return connection.handle_request(prepared)

    def _connect(self, place: Place, prepared: Any) -> Any:
        pauses = delays(self.options.retries)
        while True:
            try:
                self._open(place, prepared)
            except (self.core.ConnectError, self.core.ConnectTimeout):
                place.stream = None
                pause = next(pauses, None)
                if pause is None:
                    raise
                with Traced(prepared, "retry", {}):
                    self.options.clock.sleep(pause)
            else:
                return self.connected(place, prepared, self.core.HTTP11Connection)

    def _open(self, place: Place, prepared: Any) -> None:
        options, origin, extensions = self.options, prepared.url.origin, prepared.extensions
        timeout = extensions.get("timeout", {}).get("connect")
        host = origin.host.decode("ascii")
        facts = {"host": host, "port": origin.port} if options.uds is None else {"path": options.uds}
        step = "connect_tcp" if options.uds is None else "connect_unix_socket"
        with Traced(prepared, step, {**facts, "timeout": timeout}) as trace:
            place.stream = trace.result = connect(
                self.core,
                host,
                origin.port,
                uds=options.uds,
                local_address=options.local_address,
                options=options.socket_options,
                timeout=timeout,
            )
        if origin.scheme in SECURE:
            stream: SyncStream = place.stream
            name = extensions.get("sni_hostname") or host
            options.context.set_alpn_protocols(["http/1.1"])
            with Traced(prepared, "start_tls", {"server_hostname": name, "timeout": timeout}) as trace:
                trace.result = stream.start_tls(options.context, name, timeout)


class Body:
    """The body of a response. It holds the place until closed; one that broke or was not read ends the connection."""

    def __init__(self, pool: SyncPool, place: Place, request: Any, stream: Any) -> None:
        self._pool = pool
        self._place: Place | None = place
        self._request = request
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except BaseException as error:
            place, self._place = self._place, None
            if place is not None:
                self._pool.release(place, False)
            self._pool.translate(error, self._request)
            raise

    def close(self) -> None:
        place, self._place = self._place, None
        if place is None:
            return
        try:
            self._stream.close()
            reusable = self._pool.reusable(place)
        except BaseException as error:
            self._pool.release(place, False)
            self._pool.translate(error, self._request)
            raise
        self._pool.release(place, reusable)

    def __del__(self) -> None:
        if self._place is not None:
            self._pool.drop(self._place)


class Traced:
    """One step of connecting, told to the `trace` extension of the request if it has one."""

    __slots__ = ("_facts", "_step", "_tell", "result")

    def __init__(self, prepared: Any, step: str, facts: dict[str, Any]) -> None:
        self._tell = prepared.extensions.get("trace")
        self._step = f"connection.{step}"
        self._facts = facts
        self.result: Any = None

    def __enter__(self) -> Traced:
        if self._tell is not None:
            self._tell(f"{self._step}.started", self._facts)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._tell is None:
            return
        if error is None:
            self._tell(f"{self._step}.complete", {"return_value": self.result})
        else:
            self._tell(f"{self._step}.failed", {"exception": error})
