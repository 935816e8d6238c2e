"""The keys of shared policies, as text that means the same in every process."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Hashable
from functools import lru_cache
from urllib.parse import quote

from . import _arguments

_LONGEST = 128  # characters; longer ones are known by a digest


def key_text(key: Hashable) -> str:
    """A key as text that no other key has, of a safe set of characters; keys that are equal have the same.

    Raises TypeError for a key that may not look the same in another process.
    """
    return _shortened(_tagged(key))


@lru_cache(1024)
def name_text(name: str) -> str:
    """The name of a policy as such text."""
    text = quote(name, safe="", errors="surrogatepass")
    # No name that is quoted has a bare percent sign before it, so none looks like a digest.
    return text if len(text) <= _LONGEST else "%" + _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else "h-" + hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _tagged(key: object) -> str:
    if isinstance(key, str):
        return "s-" + quote(key, safe="", errors="surrogatepass")
    if isinstance(key, bytes):
        return "b-" + quote(key, safe="")
    if isinstance(key, (int, float)):  # as keys of a dict, True, 1 and 1.0 are one
        number = int(key) if isinstance(key, int) or key.is_integer() else key
        return f"n-{number!r}" if not isinstance(number, int) else f"n-{number:x}"
    if isinstance(key, uuid.UUID):
        return f"u-{key.hex}"
    if key is None:
        return "none"
    if isinstance(key, tuple):
        parts = [_tagged(part) for part in key]
        return "t-" + "".join(f"{len(part)}.{part}" for part in parts)
    raise TypeError(
        "a key shared through a store must be a str, bytes, number, UUID, None or a tuple of those,"
        f" not {_arguments.shown(key)}: others may not be equal in another process"
    )
