"""Whether the body of a request can be sent a second time.

A body that was read from a generator or a file is gone; sending "it" again would send something shorter, or nothing.
So only what is known to begin anew is repeated: bytes (and with them JSON and forms), iterables that are no iterators,
and multipart forms whose files can be rewound and that are not larger than a limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any


def is_replayable(request: Any, byte_stream: type, limit: int) -> bool:
    """Whether sending `request` again sends the same body; `byte_stream` is the library's stream of plain bytes.

    Multipart forms of more than `limit` bytes are not sent again.
    """
    stream = request.stream
    if isinstance(stream, byte_stream):
        return True
    # Neither library says in public what a stream reads from; tests notice if these two names change.
    fields = getattr(stream, "fields", None)
    if fields is not None:
        return announced_length(request) <= limit and all(_rewinds(getattr(field, "file", b"")) for field in fields)
    source = getattr(stream, "_stream", None)
    if source is None or hasattr(source, "read") or hasattr(source, "aread"):
        return False  # a stream of the caller's own making, or a file whose beginning nobody has noted
    return not isinstance(source, (Iterator, AsyncIterator))


def announced_length(message: Any) -> float:
    """The size of the body of a request or response in bytes; infinite if its length is not known beforehand."""
    length = message.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else float("inf")


def _rewinds(file: Any) -> bool:
    """Whether a file in a form can be read again. The libraries seek to its beginning themselves."""
    if isinstance(file, (bytes, str)):
        return True
    try:
        return bool(file.seekable())
    except (AttributeError, ValueError):  # not a real file, or closed by now
        return False
