"""Deliberate bugs at the edges: refusals, correlation, keys, paths, quotas, health and shutdown."""

from __future__ import annotations

from . import Mutant

FOLDER = "integrations/resilience_asgi"
REFUSALS = ("tests/asgi/test_refusals.py",)
SETTINGS = ("tests/asgi/test_settings.py",)
SOCKETS = ("tests/asgi/test_websockets.py",)
QUOTAS = ("tests/asgi/test_quota_fields.py",)
CORRELATION = ("tests/asgi/test_correlation_middleware.py",)
KEYS = ("tests/asgi/test_keys.py",)
HEALTH = ("tests/asgi/test_health.py",)
SHUTDOWN = ("tests/asgi/test_shutdown.py",)
SIGNALS = ("tests/asgi/test_signals.py",)


def mutant(module: str, name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"asgi: {name}", f"{FOLDER}/{module}.py", old, new, tests)


def rendering(name: str, old: str, new: str, tests: tuple[str, ...] = REFUSALS) -> Mutant:
    return mutant("rendering", name, old, new, tests)


def problem(name: str, old: str, new: str) -> Mutant:
    return Mutant(
        f"problem: {name}", "integrations/resilience_http/problem.py", old, new, ("tests/http/test_problem.py",)
    )


def correlation(name: str, old: str, new: str) -> Mutant:
    return mutant("correlation", name, old, new, CORRELATION)


def forwarded(name: str, old: str, new: str) -> Mutant:
    return mutant("forwarded", name, old, new, KEYS)


def keys(name: str, old: str, new: str) -> Mutant:
    return mutant("keys", name, old, new, KEYS)


def shutdown(name: str, old: str, new: str, tests: tuple[str, ...] = SHUTDOWN) -> Mutant:
    return mutant("shutdown", name, old, new, tests)


MUTANTS = [
    # rendering
    rendering("a header stands twice", "if _raw(name) not in known}", "}"),
    rendering("HEAD has a body", 'b"" if scope.get("method") == "HEAD" else self.body', "self.body"),
    rendering("the length is missing", '        headers[b"content-length"] = b"%d" % len(self.body)\n', ""),
    rendering(
        "a mixed group is a rejection",
        "return problems[0] if None not in problems else None",
        "return next(filter(None, problems), None)",
    ),
    rendering(
        "a group is nobody's",
        "    if isinstance(error, BaseExceptionGroup):\n        problems",
        "    if False:\n        problems",
    ),
    rendering("a refusal has no id", '{"correlation_id": identity}', "{}"),
    rendering("nobody is told when to come back", "    if problem.retry_after is not None:\n", "    if False:\n"),
    rendering(
        "a zero is no time to come back", "    if problem.retry_after is not None:\n", "    if problem.retry_after:\n"
    ),
    rendering("names keep their case", "return name.lower().encode", "return name.encode"),
    problem("True is written as Python has it", "type(value) is int:", "isinstance(value, int):"),
    problem("a name that is no text is no name", "    if type(name) is str:\n", "    if True:\n"),
    problem("text is not escaped", "_quoted = json.encoder.encode_basestring_ascii", "_quoted = '\"{}\"'.format"),
    problem("a problem has no title", "        if title is not None:\n", "        if False:\n"),
    problem("no phrase is a title", "        if title is not None:\n", "        if True:\n"),
    problem("a blank type is written", "{} if self.type == BLANK else ", ""),
    problem("members can be replaced", "if not _MEMBERS.isdisjoint(self.extensions):", "if False:"),
    rendering("caches may keep a refusal", '"Cache-Control": "no-store"}, problem', "}, problem"),
    rendering("other errors are rendered", "    if response is None:\n        raise error\n", ""),
    rendering(
        "a denial is sent where there is none",
        'elif "websocket.http.response" in (scope.get("extensions") or ()):',
        "elif True:",
        SOCKETS,
    ),
    rendering(
        "a denial is never sent",
        'elif "websocket.http.response" in (scope.get("extensions") or ()):',
        "elif False:",
        SOCKETS,
    ),
    rendering("a close says nothing", '"code": _TRY_AGAIN_LATER', '"code": 1000', SOCKETS),
    rendering("a field is made of nothing", " or error.remaining is None:", ":", QUOTAS),
    # deadlines
    mutant(
        "deadlines",
        "a client waits for ages",
        "nearest is not None and nearest <= _LONGEST",
        "nearest is not None",
        REFUSALS,
    ),
    mutant("deadlines", "grpc-timeout is not read", "elif name == _GRPC:", "elif False:", REFUSALS),
    # the middleware and its rules
    mutant(
        "middleware",
        "exempt paths are guarded",
        "self._exempt(path := path_inside(scope)):",
        "not (path := path_inside(scope)):",
        REFUSALS,
    ),
    mutant("middleware", "a lifespan is guarded", 'if (kind != "http" and kind != "websocket") or', "if", REFUSALS),
    mutant("middleware", "the last rule counts", "                break\n", "", REFUSALS),
    mutant("middleware", "a rule replaces the layers", "own + rule.policies", "rule.policies", REFUSALS),
    mutant("middleware", "a rule forgets the settings", "settings | rule.settings", "settings", REFUSALS),
    mutant(
        "plan",
        "a rule is for all methods",
        "return self._methods is None or method in self._methods",
        "return True",
        REFUSALS,
    ),
    mutant(
        "plan", "methods are spelled in capitals only", "names.append(method.upper())", "names.append(method)", REFUSALS
    ),
    mutant("plan", "a pipeline is not opened", "    found += policies(name, layer.layers)", "    pass", REFUSALS),
    mutant("plan", "a Retry is accepted", "if isinstance(layer, Retry):", "if False:", SETTINGS),
    mutant("plan", "a Timeout is accepted", "if isinstance(layer, Timeout):", "if False:", SETTINGS),
    mutant(
        "plan",
        "no None for a rule",
        "if value is not INHERITED",
        "if value is not INHERITED and value is not None",
        REFUSALS,
    ),
    mutant("paths", "a placeholder is two segments", '"[^/]+".join', '".+".join', SETTINGS),
    mutant("paths", "a placeholder may be empty", '"[^/]+".join', '"[^/]*".join', SETTINGS),
    mutant("paths", "a dot is any character", "map(re.escape, plain)", "plain", SETTINGS),
    mutant("paths", "a star is a segment", '(text[:-1], ".*")', '(text[:-1], "[^/]*")', SETTINGS),
    mutant("paths", "a newline ends a path", ", re.DOTALL).fullmatch", ").fullmatch", SETTINGS),
    mutant("paths", "a pattern is a prefix", ".fullmatch\n", ".match\n", SETTINGS),
    # quotas
    mutant("quotas", "an exempt request is counted", "            continue\n", "            pass\n", QUOTAS),
    mutant(
        "quotas",
        "the last one waits for all",
        "quota.reset_after if quota.remaining else quota.retry_after",
        "quota.reset_after",
        QUOTAS,
    ),
    mutant(
        "quotas",
        "a tier has the window of another",
        "(first if tier is None else first.at(tier(key)))",
        "first",
        QUOTAS,
    ),
    # correlation
    correlation("strangers are trusted", "        if self._trusting:\n", "        if True:\n"),
    correlation("the last id counts", "given = value if given is None else given", "given = value"),
    correlation("any id is accepted", "if given is not None and not _safe(given):", "if False:"),
    correlation("a trace names nothing", "identity = trace.trace_id", "identity = new_id()"),
    correlation(
        "a trace overrides the id", "        if given is not None:\n", "        if given is not None and not trace:\n"
    ),
    correlation("an invalid trace has an id of its own", "trace = begin_trace(identity)", "trace = begin_trace()"),
    correlation("an invalid trace is no trace", "if traced and trace is None:", "if False:"),
    correlation("a trace is not bound", "None if trace is None else bind_trace(trace)", "None"),
    correlation("a trace stays bound", "                unbind_trace(trace_token)\n", "                pass\n"),
    correlation("the id stays bound", "                _current.reset(token)\n", ""),
    correlation("structlog keeps the id", "                self._structlog.reset(logged)\n", ""),
    correlation(
        "structlog never hears of it", "logged = self._structlog.set(identity)", "logged = self._structlog.set(None)"
    ),
    correlation("a WebSocket has no id", '"websocket.accept", ', ""),
    correlation("a denied WebSocket has no id", ', "websocket.http.response.start"', ""),
    correlation("an id stands twice", "            break\n    else:\n", "            pass\n    else:\n"),
    correlation(
        "what was never sent has started",
        "return _start(message, send, echo, started) if",
        "started.append(None)\n            return _start(message, send, echo, started) if",
    ),
    correlation("an id in capitals is not seen", "other.lower() == name", "other == name"),
    correlation(
        "the headers of the application are changed",
        'headers = [*message.get("headers", ())]',
        'headers = message.setdefault("headers", [])',
    ),
    correlation("a 500 is sent after the start", "if not started and kind", "if kind"),
    correlation("a 500 goes over a WebSocket", ' and kind == "http" and "app"', ' and "app"'),
    correlation("a framework is forestalled", ' and "app" not in scope', ""),
    correlation(
        "an error ends here",
        "                await _internal_server_error(scope, echoing)\n            raise",
        "                await _internal_server_error(scope, echoing)",
    ),
    correlation("the 500 to HEAD has a body", 'b"" if scope.get("method") == "HEAD" else _FAILURE', "_FAILURE"),
    # keys
    forwarded("a port is part of the address", '    elif text.count(":") == 1:\n', "    elif False:\n"),
    forwarded("brackets are part of the address", '    if text.startswith("["):\n', "    if False:\n"),
    forwarded(
        "IPv4 in IPv6 is another client",
        "    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:\n",
        "    if False:\n",
    ),
    forwarded("a zone is part of the address", 'text.partition("%")[0]', "text"),
    forwarded("a hop may be endless", "parsed(text) if len(text) <= _LONGEST_HOP else None", "parsed(text)"),
    forwarded("everybody is followed", "or not trusted(client):", "or False:"),
    forwarded("every hop is followed", "number == MOST_HOPS or", "False or"),
    forwarded("a hop too many is followed", "number == MOST_HOPS or", "number > MOST_HOPS or"),
    forwarded(
        "garbage is skipped",
        "        if address is None:\n            break",
        "        if address is None:\n            continue",
    ),
    forwarded(
        "the first header counts most",
        "    for value in reversed(values):\n        rest",
        "    for value in values:\n        rest",
    ),
    forwarded(
        "the left-most entry counts", "rest, comma, last = rest.rpartition", "last, comma, rest = rest.partition"
    ),
    forwarded(
        "the first Forwarded counts most",
        "    for value in reversed(values):\n        elements",
        "    for value in values:\n        elements",
    ),
    forwarded("the left-most element counts", "map(_for, reversed(elements))", "map(_for, elements)"),
    forwarded(
        "a broken header is read as far as it goes",
        '                yield ""\n                return',
        "                break",
    ),
    forwarded("one of two is taken", "return found[0] if len(found) == 1 else", "return found[0] if found else"),
    forwarded("For is not for", "pair[1].lower()", "pair[1]"),
    keys("headers count without proxies", "return behind_proxies if trusted else peer", "return behind_proxies"),
    keys(
        "a socket is nobody's",
        "        if address is None:  # a Unix",
        "        if address is None:\n            return UNKNOWN\n        if False:  # a Unix",
    ),
    keys("IPv6 is not grouped", "or prefix == 128:", "or True:"),
    keys("a client has many IPv4 addresses", "isinstance(address, IPv4Address) or", "False or"),
    keys("one of two values counts", '", ".join(values)', "values[0]"),
    keys("a key is as long as a client likes", "    if len(text) <= _LONGEST_KEY:\n", "    if True:\n"),
    keys("a key of 256 is hashed", "len(text) <= _LONGEST_KEY", "len(text) < _LONGEST_KEY"),
    keys("a segment too many", 'split("/", count + 1)[: count + 1]', 'split("/", count + 2)[: count + 2]'),
    # health
    mutant(
        "health",
        "liveness looks at the checks",
        'await _answer({"status": "ok"}, 200)(scope',
        "await (await self._readiness_answer())(scope",
        HEALTH,
    ),
    mutant("health", "a false check passes", "return bool(await result", "return True or bool(await result", HEALTH),
    mutant(
        "health",
        "a failed check is an error",
        "    except Exception:  # noqa: BLE001 - whatever it is, the",
        "    except KeyError:  # noqa: BLE001 - whatever it is, the",
        HEALTH,
    ),
    mutant(
        "health",
        "a check that hangs is an error",
        "        except CallTimeoutError:",
        "        except KeyError:",
        HEALTH,
    ),
    mutant("health", "unready answers 200", "200 if ready else 503)", "200)", HEALTH),
    mutant("health", "POST is answered", ' and scope["method"] in ("GET", "HEAD"):', ":", HEALTH),
    # shutdown
    shutdown("readiness does not flip", "        self._begun = True\n", "        self._begun = False\n"),
    shutdown("nothing is refused", "        elif self._refusing:\n", "        elif False:\n"),
    shutdown("everything is refused at once", "        if self._notice:\n", "        if False:\n"),
    shutdown("connections stay open", ', "Connection": "close"}', "}"),
    shutdown(
        "HTTP/2 is told to close",
        '        if scope.get("http_version", "1.1").startswith(("2", "3")):',
        "        if not scope and headers:",
    ),
    shutdown("a call is counted for ever", "            calls.discard(call)\n", ""),
    shutdown(
        "nobody hears of the last one", "            if not calls:\n                idle.set()", "            pass"
    ),
    shutdown(
        "the first to end is the last",
        "            if not calls:\n                idle.set()",
        "            idle.set()",
    ),
    shutdown("streams run on", "            if call.endless:\n                call.end()", "            pass"),
    shutdown("everything is ended at once", "            if call.endless:\n", "            if True:\n"),
    shutdown(
        "a late stream runs on",
        "        if self.endless and self.started and self._owner._refusing:\n",
        "        if False:\n",
    ),
    shutdown(
        "nothing is cut off",
        "        for call in list(self._calls):\n            call.end()\n\n    # -- signals",
        "        pass\n\n    # -- signals",
    ),
    shutdown(
        "the stubborn are waited for",
        "self._clock.call_later(loop, self._drain_timeout + _LAST_WORDS, self._idle.set),",
        "",
    ),
    shutdown(
        "an error becomes a goodbye",
        "if not ended or not isinstance(error, CancelledError):",
        "if not ended:",
    ),
    shutdown("a foreign cancellation becomes a goodbye", "return left <= self._before", "return True"),
    shutdown(
        "our cancellation is not taken back",
        "left, self.task = self.task.uncancel(), None",
        "left, self.task = 0, None",
    ),
    shutdown("a complete response is followed by another", "        if call.whole:\n            return\n", ""),
    shutdown(
        "an unanswered request is left alone",
        "        elif not call.started:\n            await self._refuse(scope, receive, send)\n",
        "        elif not call.started:\n            return\n",
    ),
    shutdown("a stream has no end", "        elif call.endless:\n", "        elif False:\n"),
    shutdown("every response is completed", "        elif call.endless:\n", "        else:\n"),
    shutdown("a WebSocket closes without a reason", '"code": _GOING_AWAY', '"code": 1000'),
    shutdown("draining twice", "        if self._draining is None:\n", "        if True:\n"),
    shutdown(
        "a second loop has drained already",
        "            if self._begun:\n                self._start_draining()",
        "            pass",
    ),
    shutdown(
        "a call that has ended is ended again",
        "        if not self._ending and self.task is not None:",
        "        if self.task is not None:",
    ),
    shutdown("the task of a call is kept", "            call.task = None\n", ""),
    shutdown(
        "the server's handlers are lost",
        "                signal.signal(number, handler)\n",
        "                pass\n",
        SIGNALS,
    ),
    shutdown("the second signal drains too", "if self._begun or loop is None:", "if loop is None:", SIGNALS),
    shutdown(
        "the server hears of it at once",
        "            await self.drained()\n            _hand_on",
        "            _hand_on",
        SIGNALS,
    ),
    shutdown(
        "the server never hears of it",
        "            await self.drained()\n            _hand_on(before, number, None)",
        "            await self.drained()",
        SIGNALS,
    ),
    shutdown("an ignored signal kills", "    elif before != signal.SIG_IGN:", "    else:", SIGNALS),
    shutdown(
        "threads install handlers", " or threading.current_thread() is not threading.main_thread():", ":", SIGNALS
    ),
]
