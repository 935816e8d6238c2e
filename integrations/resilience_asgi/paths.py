"""Which requests a rule is about: patterns for paths, written as in a router.

::

    /search             this path
    /items/{id}         one segment, whatever it is
    /files/*            everything below, `/files/` itself included
    *                   every path

The path is the one inside the application, decoded by the server, without the query: what `root_path` says (that of a
mount, of `uvicorn --root-path`) is not a part of it. The first rule that matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from resilience import _arguments

from .protocol import Scope

_SLASHES = re.compile("//+")
_PIECE = re.compile(r"\{[^{}/]+\}")


def pattern(name: str, text: object) -> str:
    """`text` as a regular expression for whole paths; an error that names `name` if it is no pattern."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a path pattern such as '/items/{{id}}', not {_arguments.shown(text)}")
    stem, star = (text[:-1], ".*") if text.endswith("*") else (text, "")
    plain = _PIECE.split(stem)
    if not (text == "*" or text.startswith("/")) or any(set("{}*") & set(piece) for piece in plain):
        raise ValueError(
            f"{name} must be a path that starts with '/', with {{name}} for a segment and '*' at the end only,"
            f" not {_arguments.shown(text)}"
        )
    return "[^/]+".join(map(re.escape, plain)) + star


def matcher(name: str, texts: object) -> Callable[[str], object]:
    """A test whether a path matches one of the patterns; for patterns without placeholders a look-up in a set."""
    if not isinstance(texts, Iterable) or isinstance(texts, (str, bytes)):
        raise TypeError(f"{name} must be a collection of path patterns, not {_arguments.shown(texts)}")
    given = list(texts)
    expressions = [pattern(name, text) for text in given]
    if not any(set("{}*") & set(text) for text in given):
        return frozenset(given).__contains__
    return re.compile("|".join(f"(?:{expression})" for expression in expressions), re.DOTALL).fullmatch


def with_or_without_slash(text: object) -> tuple[object, ...]:
    """The pattern, and the one for the same path with a slash at the end, or without; `matcher` tells what is none."""
    if not isinstance(text, str) or text.endswith("*") or text == "/":
        return (text,)
    return (text, text[:-1] if text.endswith("/") else f"{text}/")


def single_slashes(path: str) -> str:
    """`path` without slashes in a row."""
    return _SLASHES.sub("/", path)


def path_inside(scope: Scope, root: str | None = None) -> str:
    """The path of a request without `root`, by default its `root_path`; all of it where a proxy has taken that off."""
    path: str = scope["path"]
    if root is None:
        root = scope.get("root_path")
    if not root or not (root := root.rstrip("/")) or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return path if rest and rest[0] != "/" else rest or "/"
