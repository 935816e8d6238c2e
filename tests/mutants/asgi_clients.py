"""Deliberate bugs about clients: those that leave, those that make mistakes, and where their paths begin."""

from __future__ import annotations

from . import Mutant
from .asgi_edges import mutant

GONE = ("tests/asgi/test_disconnects.py",)
WATCH = ("tests/asgi/test_inbox.py",)
REFUSALS = ("tests/asgi/test_refusals.py", "tests/asgi/test_deadlines.py")
DEPENDENCIES = ("tests/asgi/test_dependencies.py",)
SETTINGS = ("tests/asgi/test_settings.py",)
KEYS = ("tests/asgi/test_keys.py",)
SIGNALS = ("tests/asgi/test_signals.py",)
HEALTH = ("tests/asgi/test_health.py",)
RENDERED = ("tests/asgi/test_rendered_rejections.py",)
SLOW = ("tests/asgi/test_slow_clients.py",)
SOCKETS = ("tests/asgi/test_websockets.py",)


MUTANTS: list[Mutant] = [
    # those that leave
    mutant("inbox", "a watched application is never told", 'or message["type"] in DISCONNECTS', "or False", GONE),
    mutant("inbox", "an application is never told", "self.told = self.told or self.gone", "self.told = False", GONE),
    mutant(
        "inbox",
        "a taken-back receive() ends the watch",
        "            self._watch()\n            raise",
        "            raise",
        WATCH,
    ),
    mutant(
        "inbox",
        "a watcher that never began is waited for",
        "        if self._watcher is watcher:\n",
        "        if False:\n",
        WATCH,
    ),
    mutant(
        "inbox", "only HTTP has disconnects", '{"http.disconnect", "websocket.disconnect"}', '{"http.disconnect"}', GONE
    ),
    # those that make mistakes
    mutant("deadlines", "the last deadline counts", "(nearest is None or allowed < nearest)", "True", REFUSALS),
    mutant(
        "deadlines", "the first deadline counts", "(nearest is None or allowed < nearest)", "nearest is None", REFUSALS
    ),
    mutant(
        "dependency",
        "a missing page is a failure",
        "error.status_code if error.status_code < 500",
        "None if True",
        DEPENDENCIES,
    ),
    mutant(
        "dependency", "500 is the client's mistake", "error.status_code < 500", "error.status_code <= 500", DEPENDENCIES
    ),
    mutant(
        "dependency",
        "an internal error of a WebSocket is none",
        "None if error.code == _INTERNAL_ERROR",
        "None if False",
        DEPENDENCIES,
    ),
    mutant(
        "dependency",
        "a closed WebSocket is a failure",
        "None if error.code == _INTERNAL_ERROR",
        "None if True",
        DEPENDENCIES,
    ),
    mutant("dependency", "invalid input is a failure", "return 422", "return None", DEPENDENCIES),
    mutant("dependency", "a client that leaves is a failure", "return 499 if", "return None if", DEPENDENCIES),
    mutant(
        "dependency",
        "the outcome has no headers",
        "ResponseOutcome(status, _headers_of(answer))",
        "ResponseOutcome(status)",
        DEPENDENCIES,
    ),
    mutant("dependency", "the outcome is not told", "guard.outcome(", "(", DEPENDENCIES),
    mutant(
        "rendering",
        "a denial after accept",
        "return response.closing if accepted",
        "return response if accepted",
        DEPENDENCIES,
    ),
    # where paths begin
    mutant("paths", "a slash at the end of the root path counts", '.rstrip("/")', "", SETTINGS),
    mutant("paths", "a root path ends within a segment", 'rest and rest[0] != "/"', "False", SETTINGS),
    mutant("paths", "the root has no path", 'else rest or "/"', "else rest", SETTINGS),
    mutant("paths", "the root path is of no account", 'root = scope.get("root_path")', 'root = ""', SETTINGS),
    mutant(
        "middleware",
        "rules see the whole path",
        "rule.covers(path, scope",
        'rule.covers(scope["path"], scope',
        SETTINGS,
    ),
    mutant(
        "health", "health endpoints see the whole path", "path = path_inside(scope)", 'path = scope["path"]', HEALTH
    ),
    mutant(
        "keys", "mounts share a limit", 'path_inside(scope, scope.get("app_root_path"))', "path_inside(scope)", KEYS
    ),
    mutant(
        "keys",
        "a body is a request",
        "if all(hasattr(type(value), attribute) for attribute in _REQUEST) and",
        "if",
        KEYS,
    ),
    mutant("keys", "a request by name is not found", "(*of[1:], *named.values()):", "of[1:]:", KEYS),
    mutant("keys", "a request behind self is not found", "(*of[1:], *named.values()):", "named.values():", KEYS),
    # applications without a lifespan
    mutant(
        "shutdown",
        "a failed startup is hidden",
        "                if heard:\n                    raise\n",
        "                pass\n",
        SIGNALS,
    ),
    mutant(
        "shutdown",
        "an application without a lifespan has no handlers",
        "            if not heard:  #",
        "            if False:  #",
        SIGNALS,
    ),
    mutant("shutdown", "a lifespan has two ends", "            if not heard:  #", "            if True:  #", SIGNALS),
    # those that are slow
    mutant(
        "inbox", "a stalled upload is a failure", "self.starved = self._owing and", "self.starved = False and", SLOW
    ),
    mutant(
        "inbox",
        "waiting for a disconnect is waiting for a body",
        "self.starved = self._owing",
        "self.starved = True",
        SLOW,
    ),
    mutant("inbox", "a body has no end", "self._reserved = self._owing = False", "self._reserved = False", SLOW),
    mutant("exchange", "a stalled upload is not asked about", "else inbox.starved)", "else False)", SLOW),
    mutant(
        "exchange",
        "a download that nobody reads is a failure",
        "isinstance(error, OSError) or cancelled_by_deadline(self._deadline)",
        "isinstance(error, OSError)",
        SLOW,
    ),
    mutant(
        "exchange",
        "the end of a download that nobody reads is a failure",
        "except (OSError, CancelledError) as error:\n            self._note_undeliverable(error)\n            raise\n        self._complete",
        "except OSError as error:\n            self._note_undeliverable(error)\n            raise\n        self._complete",
        SLOW,
    ),
    mutant("plan", "HEAD gets around a limit for GET", 'if "GET" in names:', "if False:", REFUSALS),
    mutant("plan", "every rule is for HEAD", 'if "GET" in names:', "if True:", REFUSALS),
    mutant("plan", "a slash at the end gets around a rule", "with_or_without_slash(path))", "(path,))", SETTINGS),
    mutant("plan", "slashes in a row get around a rule", "not self._matches(single_slashes(path))", "True", SETTINGS),
    mutant("plan", "slashes in a row get every rule", "not self._matches(single_slashes(path))", "False", SETTINGS),
    mutant("paths", "only a missing slash is forgiven", 'text[:-1] if text.endswith("/") else ', "", SETTINGS),
    mutant("paths", "two slashes are one and the others stay", '"//+"', '"//"', SETTINGS),
    mutant(
        "exchange",
        "whoever is cancelled while a part is sent has a client that does not read",
        "isinstance(error, OSError) or cancelled_by_deadline(self._deadline)",
        "True",
        SLOW,
    ),
    mutant(
        "inbox",
        "a look for the body in vain is a slow client",
        "self._owing and cancelled_by_deadline(self._deadline)",
        "self._owing",
        SLOW,
    ),
    mutant(
        "exchange",
        "the application's own time for a part is the request's",
        "or cancelled_by_deadline(self._deadline)",
        "or cancelled_by_deadline()",
        SLOW,
    ),
    mutant(
        "inbox", "the application's own time to look is the request's", "deadline(self._deadline)", "deadline()", SLOW
    ),
    # rejections that were rendered further inside
    mutant("exchange", "a rendered rejection is a failure", "self._scope[REFUSED] == self._status", "False", RENDERED),
    mutant(
        "exchange",
        "any answer after a rendered rejection is one",
        " and self._scope[REFUSED] == self._status)",
        ")",
        RENDERED,
    ),
    mutant("exchange", "a rejection can be a success", "self._status >= 400 and self._scope", "self._scope", RENDERED),
    mutant("exchange", "only a 5xx is a rejection", "self._status >= 400 and", "self._status >= 500 and", RENDERED),
    mutant(
        "exchange",
        "a cut-off answer is a rejection",
        "elif answered and REFUSED in",
        "elif REFUSED in",
        RENDERED,
    ),
    mutant("rendering", "a rendered time-out is a rejection", "and _only_rejections(error)", "", RENDERED),
    mutant(
        "rendering", "one rejection makes a group of them", "return all(map(_only", "return any(map(_only", RENDERED
    ),
    mutant(
        "rendering",
        "the handler of a framework keeps a rejection to itself",
        ', getattr(request, "scope", None)',
        "",
        RENDERED,
    ),
    mutant(
        "rendering",
        "a response keeps a rejection to itself",
        "response_to(error, scope)",
        "response_to(error)",
        RENDERED,
    ),
    # those that nobody answers
    mutant("exchange", "a WebSocket without an answer is a success", "self._status != 0 and ", "", SOCKETS),
    mutant(
        "exchange",
        "a middleware outside gets no answer",
        "                with suppress(Exception):\n                    await response.deliver(self._scope, self._send)\n",
        "",
        GONE,
    ),
    mutant(
        "exchange",
        "an answer to nobody is an error",
        "                with suppress(Exception):\n",
        "                if True:\n",
        GONE,
    ),
    mutant(
        "exchange",
        "a client that has gone is a success outside",
        "self._scope[REFUSED] = response.status",
        "pass",
        GONE,
    ),
    mutant(
        "exchange",
        "a client that has gone is answered twice",
        "            if not self._status:  # the server drops it",
        "            if True:  # the server drops it",
        GONE,
    ),
]
