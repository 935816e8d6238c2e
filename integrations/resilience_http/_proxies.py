"""Which proxy a request goes through: the one given, or what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say."""

from __future__ import annotations

import ipaddress
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

Exemption = Callable[[str, str, int | None], bool]


class Proxies:
    """The proxies of the environment, read once."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._proxies = {
            scheme: environment[scheme] if "://" in environment[scheme] else f"http://{environment[scheme]}"
            for scheme in ("http", "https", "all")
            if environment.get(scheme)
        }
        entries = [entry.strip() for entry in environment.get("no", "").split(",")]
        if "*" in entries:
            self._proxies.clear()
        self._exempt = [_exemption(entry) for entry in entries if entry]

    @classmethod
    def of_environment(cls) -> Proxies:
        """What the environment of this process says now."""
        return cls(urllib.request.getproxies())

    def __bool__(self) -> bool:
        return bool(self._proxies)

    def proxy_for(self, url: Any) -> str | None:
        """The address of the proxy for `url`, or None for a direct connection."""
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if proxy is not None and any(exempt(url.scheme, url.host, url.port) for exempt in self._exempt):
            return None
        return proxy


def _exemption(entry: str) -> Exemption:
    """One entry of NO_PROXY: a domain with its subdomains, `.domain` for these alone, an address, a network, a URL."""
    if "://" in entry:
        parts = urllib.parse.urlsplit(entry)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        return lambda its_scheme, its_host, its_port: (
            scheme in ("all", its_scheme) and host in ("", its_host) and port in (None, its_port)
        )
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = entry.lower()
        if name == "localhost":
            return lambda _, its_host, __: its_host == name
        if name.startswith("."):
            return lambda _, its_host, __: its_host.endswith(name)
        return lambda _, its_host, __: its_host == name or its_host.endswith(f".{name}")

    def inside(_: str, its_host: str, __: int | None) -> bool:
        try:
            return ipaddress.ip_address(its_host) in network
        except ValueError:
            return False

    return inside
