"""The classes of one client family. What is written once is handed one of these instead of importing a library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# Each of these names is an exception of the core library and one of the client library. How the clients translate
# them is private to them; the names are not.
ERRORS = (
    "ConnectError",
    "ConnectTimeout",
    "LocalProtocolError",
    "NetworkError",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
    "TimeoutException",
    "UnsupportedProtocol",
    "WriteError",
    "WriteTimeout",
)


@dataclass(frozen=True, slots=True)
class Binding:
    """One client library (`httpx` or its successor) and the core library that it stands on.

    Both are modules whose public names are used as attributes. `errors` maps the exceptions of `core` to those of
    `client`; use `translated`, which also knows their subclasses.
    """

    client: Any
    core: Any
    errors: Mapping[type[BaseException], Callable[..., Exception]]

    @classmethod
    def of(cls, client: Any, core: Any) -> Binding:
        """The binding of two modules."""
        table = {getattr(core, name): getattr(client, name) for name in ERRORS}
        return cls(client, core, MappingProxyType(table))

    @property
    def name(self) -> str:
        """The name of the client library."""
        name: str = self.client.__name__
        return name

    def translated(self, error: BaseException, request: Any = None) -> Exception | None:
        """The client's exception for one of the core's, with `request` attached; None for any other exception."""
        found = counterpart(self.errors, error)
        return None if found is None else found(str(error), request=request)


def counterpart(table: Mapping[type[Any], Any], error: BaseException) -> Any:
    """What a table of exceptions has for one: for its class, or the nearest of those that it inherits; or None."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)
