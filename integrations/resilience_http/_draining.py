"""What becomes of a response that is not wanted, because the request is sent again.

It is closed first, or the connection would stay taken. A connection whose response was not read to its end is of no
more use, though, and then each 503 costs a new one. So a small body whose length the server has announced is read, if
that takes next to no time. Whatever goes wrong with it, the request is sent again all the same.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from resilience import Timeout, deadline

from ._body import announced_length

_MOST_BYTES = 65_536
_PATIENCE = 0.5  # seconds, but never more than a tenth of what is left


def dispose(response: Any, timeout: Timeout) -> None:
    """Close a response, read to its end if that is quickly done.

    A thread looks at the time between two chunks. An inner transport that does not ask for the deadline can be held up
    for one read timeout by a server that stops in the middle of one. `timeout` is that of the transport, for its clock.
    """
    with suppress(Exception):
        try:
            if _is_small(response):
                with timeout.with_(seconds=_patience()).guard():
                    length = 0
                    for chunk in response.stream.stream:
                        length += len(chunk)
                        if length > _MOST_BYTES or deadline.remaining() == 0.0:
                            break
        finally:
            response.close()


async def adispose(response: Any, timeout: Timeout) -> None:
    """The same for tasks; `timeout` cuts the reading off."""
    with suppress(Exception):
        try:
            if _is_small(response):
                async with timeout.with_(seconds=_patience()).guard():
                    await _read(response.stream.stream)
        finally:
            await response.aclose()


async def _read(stream: Any) -> None:
    chunks, length = stream.__aiter__(), 0
    try:
        async for chunk in chunks:
            length += len(chunk)
            if length > _MOST_BYTES:
                break
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


def _is_small(response: Any) -> bool:
    """Whether there is a body to read, of a known and small length."""
    return not response.is_closed and announced_length(response) <= _MOST_BYTES


def _patience() -> float:
    left = deadline.remaining()
    return _PATIENCE if left is None else min(_PATIENCE, 0.1 * left)
