"""Mutants of events and errors."""

from __future__ import annotations

from . import Mutant

EVENTS, ERRORS = "resilience/events.py", "resilience/exceptions.py"
HEARD = ("tests/test_events.py",)
RAISED = ("tests/test_exceptions.py",)

MUTANTS: list[Mutant] = [
    Mutant("a subscription hears every type", EVENTS, "if isinstance(event, self._types):", "if True:", HEARD),
    Mutant(
        "a subscription does not hear subtypes",
        EVENTS,
        "if isinstance(event, self._types):",
        "if type(event) in self._types:",
        HEARD,
    ),
    Mutant(
        "a cancelled subscription still hears",
        EVENTS,
        "            SUBSCRIBERS.remove(self)\n",
        "            self = self\n",
        HEARD,
    ),
    Mutant("a subscription cannot be cancelled twice", EVENTS, "except ValueError:", "except KeyError:", HEARD),
    Mutant(
        "a block leaves its subscription",
        EVENTS,
        "    def __exit__(self, *_: object) -> None:\n        self.cancel()",
        "    def __exit__(self, *_: object) -> None:\n        return None",
        HEARD,
    ),
    Mutant(
        "anything can be subscribed to",
        EVENTS,
        "if not (inspect.isclass(kind) and issubclass(kind, Event)):",
        "if False:",
        HEARD,
    ),
    Mutant("an asynchronous listener is subscribed", EVENTS, "    checked_listener(listener)\n", "", HEARD),
    Mutant("subscribers come first", EVENTS, "(*listeners, *SUBSCRIBERS)", "(*SUBSCRIBERS, *listeners)", HEARD),
    Mutant(
        "a failing listener breaks the call",
        EVENTS,
        "except (Exception, CancelledError):",
        "except ZeroDivisionError if False else ():",
        HEARD,
    ),
    Mutant("a listener can cancel the call", EVENTS, "except (Exception, CancelledError):", "except Exception:", HEARD),
    Mutant(
        "a listener can swallow Ctrl-C", EVENTS, "except (Exception, CancelledError):", "except BaseException:", HEARD
    ),
    Mutant("a failing listener is logged each time", EVENTS, "                _reported.append(listener)\n", "", HEARD),
    Mutant("failing listeners are remembered for ever", EVENTS, "deque(maxlen=64)", "deque()", HEARD),
    Mutant(
        "failing listeners are known by their ids",
        EVENTS,
        "if not any(listener is known for known in tuple(_reported)):\n                _reported.append(listener)",
        "if id(listener) not in tuple(_reported):\n                _reported.append(id(listener))",
        HEARD,
    ),
    Mutant(
        "derived events are logged as debug",
        EVENTS,
        "for base in kind.__mro__ if base in _LEVELS",
        "for base in (kind,) if base in _LEVELS",
        HEARD,
    ),
    Mutant(
        "facts of None are logged",
        EVENTS,
        "(value := getattr(event, key)) is not None}",
        "(value := getattr(event, key)) != 0}",
        HEARD,
    ),
    Mutant(
        "errors are logged as objects",
        EVENTS,
        'facts["error"] = repr(facts["error"])',
        'facts["error"] = facts["error"]',
        HEARD,
    ),
    Mutant(
        "a logger of the standard library is accepted",
        EVENTS,
        "if isinstance(logger, logging.Logger):",
        "if False:",
        HEARD,
    ),
    Mutant("a pickled error loses its notes", ERRORS, "    error.__dict__.update(facts)\n", "", RAISED),
    Mutant("a pickled error loses its arguments", ERRORS, "    error.args = args\n", "    error.args = ()\n", RAISED),
    Mutant("a fact left out is an error", ERRORS, "if self._place < len(error.args) else None", "", RAISED),
    Mutant(
        "a retry-after of 0 is not shown",
        ERRORS,
        "        if self.retry_after is not None:\n",
        "        if self.retry_after:\n",
        RAISED,
    ),
    Mutant("notes are among the facts", ERRORS, ' if name != "__notes__"', "", RAISED),
]
