"""One transport for both colours: HTTP/1.1 on our own pools, HTTP/2 and proxies on the library's own."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar

from resilience import _arguments
from resilience.clock import Clock

from ._binding import Binding
from ._borrowed import Borrowed
from ._connections import ConnectionStatistics
from ._options import SocketOption, checked_options
from ._pooled_async import AsyncPool
from ._pooled_sync import SyncPool
from ._proxies import Proxies


class Pooled:
    """What the transports of both libraries inherit. `binding` says which library."""

    binding: ClassVar[Binding]

    def __init__(
        self,
        *,
        max_connections: int | None = 100,
        max_per_host: int | None = None,
        max_queue: int = 10_000,
        keepalive_expiry: float | timedelta | None = 5.0,
        limits: Any = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        http1: bool = True,
        http2: bool = False,
        proxy: Any = None,
        trust_env: bool = True,
        local_address: str | None = None,
        uds: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
        retries: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._options = checked_options(
            self.binding,
            max_connections=max_connections,
            max_per_host=max_per_host,
            max_queue=max_queue,
            keepalive_expiry=keepalive_expiry,
            limits=limits,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            local_address=local_address,
            uds=uds,
            socket_options=socket_options,
            retries=retries,
            clock=clock,
        )
        checked_proxy = self._checked_proxy(proxy)
        self._base = Borrowed(self._options, checked_proxy) if http2 or proxy is not None else None
        explicit = proxy is not None or uds is not None
        self._proxies = Proxies.of_environment() if trust_env and not explicit else Proxies({})
        self._by_proxy: dict[str, Borrowed] = {}
        self._async_pool = AsyncPool(self._options)
        self._sync_pool = SyncPool(self._options)

    def statistics(self) -> ConnectionStatistics:
        """Our own pools at this moment, threads and tasks together; what the library's own hold is not known."""
        ours, theirs = self._async_pool.statistics(), self._sync_pool.statistics()
        return ConnectionStatistics(
            ours.max_connections,
            ours.in_use + theirs.in_use,
            ours.idle + theirs.idle,
            ours.waiting + theirs.waiting,
            ours.hosts + theirs.hosts,
            ours.opened + theirs.opened,
        )

    def close(self) -> None:
        """Close all connections opened for threads, in use or not."""
        self._sync_pool.close()
        for borrowed in self._borrowed():
            borrowed.close()

    async def aclose(self) -> None:
        """Close all connections opened for tasks, in use or not."""
        await self._async_pool.aclose()
        for borrowed in self._borrowed():
            await borrowed.aclose()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} on {self.binding.name}: {self._sync_pool} (threads), {self._async_pool} (tasks)>"
        )

    def _send(self, request: Any) -> Any:
        borrowed = self._proxied(request) if self._proxies else self._base
        return self._sync_pool.handle(request) if borrowed is None else borrowed.handle(request)

    def _asend(self, request: Any) -> Any:
        borrowed = self._proxied(request) if self._proxies else self._base
        return self._async_pool.handle(request) if borrowed is None else borrowed.ahandle(request)

    def _proxied(self, request: Any) -> Borrowed | None:
        proxy = self._proxies.proxy_for(request.url)
        if proxy is None:
            return self._base
        borrowed = self._by_proxy.get(proxy)
        if borrowed is None:
            borrowed = self._by_proxy.setdefault(proxy, Borrowed(self._options, self._checked_proxy(proxy)))
        return borrowed

    def _borrowed(self) -> list[Borrowed]:
        return [*self._by_proxy.values(), *([] if self._base is None else [self._base])]

    def _checked_proxy(self, proxy: Any) -> Any:
        client = self.binding.client
        if proxy is None or isinstance(proxy, client.Proxy):
            return proxy
        if isinstance(proxy, (str, client.URL)):
            return client.Proxy(proxy)
        raise TypeError(f"proxy must be a URL, a {self.binding.name}.Proxy or None, not {_arguments.shown(proxy)}")
