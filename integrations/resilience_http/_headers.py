"""The headers of either library, read and extended without its detours.

Both keep a list of names, names in lower case and values, all in bytes, which is what one would want to have here; but
the list is private to them. In public one name takes 2 µs to add, because all others are searched for it, and finding
out which are there takes 1 µs. A request through all layers takes 10. So the list is used if it is there, and only in
this file. Should it change its name, the public way is taken and a test says so.
"""

from __future__ import annotations

from typing import Any

_LIST = "_list"


def names_of(headers: Any) -> list[bytes]:
    """The names of the headers in lower case."""
    entries = getattr(headers, _LIST, None)
    if entries is None:
        return [name.lower() for name, _ in headers.raw]
    return [name for _, name, _ in entries]


def extended(headers: Any, more: list[tuple[str, bytes, str]]) -> Any:
    """A copy of the headers with more of them: names that are not there yet, these in lower case, and values."""
    copy = type(headers)(headers)
    entries = getattr(copy, _LIST, None)
    if entries is None:
        for name, _, value in more:
            copy[name] = value
    else:
        entries += [(name.encode(), lower, value.encode()) for name, lower, value in more]
    return copy
