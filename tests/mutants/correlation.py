"""Mutants of correlation ids."""

from __future__ import annotations

from . import Mutant

CORRELATION = "resilience/correlation.py"
HINTS = ("tests/test_retry_hints.py",)
IDS = ("tests/test_correlation.py",)
LAYER = ("tests/test_correlated.py",)

MUTANTS: list[Mutant] = [
    Mutant("a new id has another version", CORRELATION, "0x70 | byte", "0x40 | byte", IDS),
    Mutant("a new id has another variant", CORRELATION, "0x80 | byte", "0xC0 | byte", IDS),
    Mutant(
        "the time of an id overflows", CORRELATION, "unix_milliseconds() & 0xFFFF_FFFF_FFFF", "unix_milliseconds()", IDS
    ),
    Mutant("the first 12 bits of chance are fewer", CORRELATION, "byte & 0x0F", "byte & 0x07", IDS),
    Mutant("the other bits of chance are fewer", CORRELATION, "byte & 0x3F", "byte & 0x1F", IDS),
    Mutant("an end of an id is used twice", CORRELATION, "end = _ends.pop()", "end = _ends[-1]", IDS),
    Mutant(
        "a child repeats the ids of its parent",
        CORRELATION,
        "os.register_at_fork(after_in_child=_ends.clear)\n",
        "",
        ("tests/test_processes.py",),
    ),
    Mutant("an id of 129 characters is accepted", CORRELATION, "{1,128}", "{1,129}", IDS),
    Mutant("an id of 128 characters is refused", CORRELATION, "{1,128}", "{1,127}", IDS),
    Mutant("an empty id is accepted", CORRELATION, "{1,128}", "{0,128}", IDS),
    Mutant(
        "a line break at the end is accepted",
        CORRELATION,
        "_SAFE.fullmatch(candidate)",
        "re.match(_SAFE.pattern + '$', candidate)",
        IDS,
    ),
    Mutant(
        "only the beginning of an id is checked",
        CORRELATION,
        "_SAFE.fullmatch(candidate)",
        "_SAFE.match(candidate)",
        IDS,
    ),
    Mutant("an id that is no text is looked at", CORRELATION, "isinstance(candidate, str) and ", "", IDS),
    Mutant(
        "an unacceptable id is bound",
        CORRELATION,
        "identity is not None and valid_id(identity)",
        "identity is not None",
        IDS,
    ),
    Mutant(
        "a block does not unbind",
        CORRELATION,
        '        yield _current.get() or ""\n    finally:\n        restore(_current, token)',
        '        yield _current.get() or ""\n    finally:\n        pass',
        IDS,
    ),
    Mutant(
        "an attempt id is that of the first", CORRELATION, 'f"{identity}-{attempt_number()}"', 'f"{identity}-1"', IDS
    ),
    Mutant("a number is that of the attempt for ever", CORRELATION, "        self.number = 1\n", "", HINTS),
    Mutant("further attempts are not counted", CORRELATION, "FURTHER.append(None)", "pass", HINTS),
    Mutant("further attempts never end", CORRELATION, "FURTHER.pop()", "pass", HINTS),
    Mutant("first attempts count as further ones", CORRELATION, "number > 1", "number > 0", HINTS),
    Mutant(
        "an attempt has an id without a request", CORRELATION, "return None if identity is None else f", "return f", IDS
    ),
    Mutant("threads share one context", CORRELATION, "context.copy().run(", "context.run(", IDS),
    Mutant(
        "coroutine functions are carried in vain", CORRELATION, 'and colour_of(target) != "sync":', "and False:", IDS
    ),
    Mutant(
        "classes cannot be carried", CORRELATION, "if not isinstance(target, type) and colour_of", "if colour_of", IDS
    ),
    Mutant(
        "a filter overwrites the id of a record",
        CORRELATION,
        'if not hasattr(record, "correlation_id"):',
        "if True:",
        IDS,
    ),
    Mutant(
        "a filter drops what has no id",
        CORRELATION,
        '_current.get() or "-"\n        return True',
        '_current.get() or "-"\n        return record.correlation_id != "-"',
        IDS,
    ),
    Mutant(
        "structlog overwrites the caller's id",
        CORRELATION,
        'event.setdefault("correlation_id", identity)',
        'event["correlation_id"] = identity',
        IDS,
    ),
    Mutant(
        "structlog adds an id of None",
        CORRELATION,
        "    if identity is not None:\n        event",
        "    if True:\n        event",
        IDS,
    ),
    Mutant(
        "a plain call gets a new id within a request",
        CORRELATION,
        "            if _current.get() is not None:\n                return fn(",
        "            if False:\n                return fn(",
        LAYER,
    ),
    Mutant(
        "an asynchronous call gets a new id within a request",
        CORRELATION,
        "            if _current.get() is not None:\n                return await",
        "            if False:\n                return await",
        LAYER,
    ),
    Mutant(
        "a plain call leaves its id bound",
        CORRELATION,
        "result, fn)\n            finally:\n                restore(_current, token)",
        "result, fn)\n            finally:\n                pass",
        LAYER,
    ),
    Mutant(
        "an asynchronous call leaves its id bound",
        CORRELATION,
        "                return await fn(*args, **kwargs)\n            finally:\n                restore(_current, token)",
        "                return await fn(*args, **kwargs)\n            finally:\n                pass",
        LAYER,
    ),
    Mutant(
        "an awaitable runs without the id",
        CORRELATION,
        "        token = _current.set(identity)\n",
        "        token = _current.set(None)\n",
        LAYER,
    ),
    Mutant(
        "an awaitable leaves its id bound",
        CORRELATION,
        "            return await awaitable\n        finally:\n            restore(_current, token)",
        "            return await awaitable\n        finally:\n            pass",
        LAYER,
    ),
    Mutant(
        "a generator has a new id for each step",
        CORRELATION,
        "return (yield from stepped(fn(*args, **kwargs), lambda: bound(identity)))",
        "return (yield from stepped(fn(*args, **kwargs), bound))",
        LAYER,
    ),
    Mutant(
        "a generator stays bound across a yield",
        CORRELATION,
        "            return (yield from stepped(fn(*args, **kwargs), lambda: bound(identity)))",
        "            with bound(identity):\n                return (yield from fn(*args, **kwargs))",
        LAYER,
    ),
    Mutant(
        "an async generator has a new id for each step",
        CORRELATION,
        "yield Stream(fn(*args, **kwargs), lambda: bound(identity))",
        "yield Stream(fn(*args, **kwargs), bound)",
        LAYER,
    ),
    Mutant(
        "a generator ignores the id of the request",
        CORRELATION,
        "            identity = _current.get() or new_id()\n            return (",
        "            identity = new_id()\n            return (",
        LAYER,
    ),
]
