"""Deliberate bugs in the resilient transport and in the HTTP semantics below it."""

from __future__ import annotations

from . import Mutant

FOLDER = "integrations/resilience_http/"
RETRY = "tests/http/test_resilient_retry.py"
LAYERS = "tests/http/test_resilient_layers.py"
TIME = "tests/http/test_resilient_time.py"
HEADERS = "tests/http/test_resilient_headers.py"
SWEEP = "tests/http/test_resilient_sweep.py"
DRAINING = "tests/http/test_resilient_draining.py"
ARGUMENTS = "tests/http/test_resilient_arguments.py"
PHASES = "tests/http/test_resilient_phases.py"
CUT_OFF = "tests/test_pooled_cancellation.py::test_a_request_cut_off_by_a_deadline_says_what_it_was_waiting_for"
REAL = "tests/http/test_resilient_real.py"


def mutant(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"resilient: {name}", f"{FOLDER}{file}.py", old, new, tests)


MUTANTS = [
    # what may be sent again
    mutant(
        "bytes are sent once",
        "_body",
        "        return True\n    # Neither",
        "        return False\n    # Neither",
        RETRY,
    ),
    mutant("large forms are sent again", "_body", "announced_length(request) <= limit and all(", "all(", RETRY),
    mutant(
        "forms are sent once",
        "_body",
        "return announced_length(request) <= limit and all(",
        "return False and all(",
        RETRY,
    ),
    mutant(
        "an unseekable form is sent again",
        "_body",
        "closed by now\n        return False",
        "closed by now\n        return True",
        RETRY,
    ),
    mutant("a stream of the caller's own is sent again", "_body", "if source is None or hasattr", "if hasattr", RETRY),
    mutant(
        "an iterator is sent again",
        "_body",
        "return not isinstance(source, (Iterator, AsyncIterator))",
        "return True",
        RETRY,
    ),
    mutant(
        "any method is repeated",
        "_repetition",
        "repeatable = is_idempotent(request.method, request.headers.get(IDEMPOTENCY_KEY))",
        "repeatable = True",
        RETRY,
    ),
    mutant("the key is not seen", "_repetition", ", request.headers.get(IDEMPOTENCY_KEY))", ")", RETRY),
    mutant(
        "the mark is not seen", "_repetition", "self._request, self._settings.idempotent", "self._request, None", RETRY
    ),
    mutant(
        "what was never sent needs to be idempotent",
        "_repetition",
        "and (never_sent or self._may_be_repeated())",
        "and self._may_be_repeated()",
        RETRY,
    ),
    mutant(
        "an error repeats any method",
        "_repetition",
        "and (never_sent or self._may_be_repeated())",
        "",
        RETRY,
    ),
    mutant(
        "a status repeats any method",
        "_repetition",
        "return super().returned(result) if self._may_be_repeated() else None",
        "return super().returned(result)",
        RETRY,
    ),
    mutant(
        "the body is not looked at",
        "_repetition",
        "return repeatable and is_replayable(",
        "return repeatable or is_replayable(",
        RETRY,
    ),
    mutant("mistakes of the caller are repeated", "_dialect", " or isinstance(error, self.hopeless)", "", RETRY),
    mutant(
        "what a body is read from is blamed on the server",
        "_dialect",
        " and isinstance(request.stream, self.client.ByteStream)",
        "",
        LAYERS,
    ),
    mutant(
        "a certificate that is not trusted is asked for again",
        "_dialect",
        "return not _is_distrust(error)",
        "return True",
        f"{REAL}::test_a_certificate_that_is_not_trusted_is_not_asked_for_again",
    ),
    mutant(
        "the connection does not know the deadline of a body",
        "_response",
        "token = ambient.set(self._nearest())",
        "token = ambient.set(ambient.get())",
        f"{REAL}::test_one_byte_now_and_then_does_not_outlast_the_timeout",
    ),
    mutant(
        "a reader in more of a hurry is not told who cut it off",
        "_response",
        "return own if own.remaining() < around.remaining() else around",
        "return own",
        f"{REAL}::test_a_reader_in_more_of_a_hurry_than_the_request_is_told_by_whom_it_was_cut_off",
    ),
    mutant(
        "a deadline around the reader hides that of the request",
        "_response",
        "return own if own.remaining() < around.remaining() else around",
        "return around",
        f"{REAL}::test_a_reader_with_time_does_not_lengthen_the_time_of_the_request",
    ),
    mutant(
        "a full pool is blamed on the server",
        "_dialect",
        "client.LocalProtocolError, client.PoolTimeout),",
        "client.LocalProtocolError),",
        LAYERS,
    ),
    mutant(
        "errors are not translated",
        "_dialect",
        "        if found is None:\n",
        "        if True:\n",
        LAYERS,
    ),
    mutant("a translation is translated", "_dialect", " or isinstance(error, self.transport):", ":", ARGUMENTS),
    # what is held, and until when
    mutant(
        "a failure waits for the body",
        "_response",
        "            if failed:\n",
        "            if failed and streams:\n",
        LAYERS,
    ),
    mutant("a long stream is a probe to its end", "_response", "elif streams:", "elif False:", LAYERS),
    mutant("a breaker's own judgement is ignored", "_response", "if breaker._judges_results:", "if False:", LAYERS),
    mutant(
        "the retry-after of a failure is ignored",
        "_response",
        "FAILURE, None, retry_after(response.headers.get))",
        "FAILURE, None, None)",
        LAYERS,
    ),
    mutant(
        "a response that has its body holds on",
        "_response",
        "        if response.is_closed:\n",
        "        if False:\n",
        LAYERS,
    ),
    mutant(
        "everything is released with the headers",
        "_response",
        "        if response.is_closed:\n",
        "        if True:\n",
        LAYERS,
    ),
    mutant(
        "released twice",
        "_response",
        "        entry, self._entry = self._entry, None\n",
        "        entry = self._entry\n",
        LAYERS,
    ),
    mutant(
        "the slot is not given back",
        "_response",
        "            self.bulkhead.settle(self.slot)\n",
        "            pass\n",
        LAYERS,
    ),
    mutant(
        "a success is not counted",
        "_response",
        "            self.breaker.settle(self.permit)\n",
        "            pass\n",
        LAYERS,
    ),
    mutant("the origin is never left", "_response", "        self._transport._origins.leave(entry)\n", "", LAYERS),
    mutant(
        "every error is the server's",
        "_response",
        "not dialect.blames_the_server(error, self.request)",
        "False",
        LAYERS,
    ),
    mutant(
        "no error is the server's", "_response", "not dialect.blames_the_server(error, self.request)", "True", LAYERS
    ),
    mutant(
        "the limiter does not hear of errors",
        "_response",
        "            limiter._fail(self.charge, error)\n",
        "            pass\n",
        LAYERS,
    ),
    mutant(
        "the limiter does not hear of answers",
        "_response",
        "            limiter._finish(self.charge, response)\n",
        "            pass\n",
        LAYERS,
    ),
    mutant(
        "what is dropped is a success",
        "_response",
        "                breaker.settle(self.permit, ABANDONED)\n            self.release()",
        "                breaker.settle(self.permit)\n            self.release()",
        LAYERS,
    ),
    mutant("what is dropped is lost", "_response", "ABANDONED)\n            self.release()", "ABANDONED)", LAYERS),
    mutant(
        "a body that breaks off is none of our business",
        "_response",
        "            self._tell(known)\n",
        "            pass\n",
        LAYERS,
    ),
    mutant(
        "a failed attempt keeps its permits",
        "_sending",
        "            held.broken(error, held.limit or ambient.get())\n        finally:\n            held.release()",
        "            held.broken(error, held.limit or ambient.get())\n        finally:\n            pass",
        LAYERS,
    ),
    mutant(
        "a transport of the other library is taken",
        "_resilient",
        "if libraries and client.__name__ not in libraries:",
        "if False:",
        ARGUMENTS,
    ),
    mutant(
        "a transport that inherits nothing is refused",
        "_resilient",
        "if libraries and client.__name__ not in libraries:",
        "if client.__name__ not in libraries:",
        ARGUMENTS,
    ),
    # whose timeout it was
    mutant("the limit of an attempt stays for the body", "_response", "            self._loosen()\n", "", PHASES),
    mutant(
        "the limit of an attempt stays for the body, in a task",
        "_response",
        "        self._loosen()\n        chunks",
        "        chunks",
        PHASES,
    ),
    mutant(
        "the body does not know of a nearer deadline of the request",
        "_response",
        "            if own is not None and (left is None or own.remaining() < left):",
        "            if own is not None and left is None:",
        PHASES,
    ),
    mutant(
        "the body does not know of a nearer deadline around it",
        "_response",
        "            if own is not None and (left is None or own.remaining() < left):",
        "            if own is not None:",
        PHASES,
    ),
    mutant(
        "what the attempt has cut short is the library's timeout",
        "_sending",
        "held.broken(error, held.limit or ambient.get())",
        "held.broken(error, ambient.get())",
        PHASES,
    ),
    mutant(
        "every timeout is told as the request's",
        "_response",
        "transport._total if deadline is not self.limit else transport._each",
        "transport._total",
        PHASES,
    ),
    mutant(
        "what a timeout has cut short is not looked at", "_dialect", "in range(2):  # a", "in range(0):  # a", PHASES
    ),
    mutant("only the timeout is looked behind", "_dialect", "in range(2):  # a", "in range(1):  # a", PHASES),
    mutant("a full pool is the server's fault", "_response", "if dialect.is_local(error) or (", "if (", PHASES),
    mutant(
        "a task does not say that it waited for a connection",
        "_pooled_async",
        '                self.explain(error, self.in_vain("no connection became free in time", request))',
        "                pass",
        CUT_OFF,
    ),
    mutant(
        "a request that was sent says it was not",
        "_pooled_async",
        "and (place.stream is None or not place.stream.sent)",
        "",
        CUT_OFF,
    ),
    mutant(
        "a request that was not sent does not say so",
        "_pooled_async",
        "and (place.stream is None or not place.stream.sent)",
        "and False",
        CUT_OFF,
    ),
    mutant(
        "a stranger's cancellation is explained too",
        "_exchange",
        "if deadline.cancelled_by_deadline():",
        "if True:",
        CUT_OFF,
    ),
    # time
    mutant(
        "the library's timeout stays the library's",
        "_response",
        "if theirs and deadline is not None and deadline.remaining() <= 0.0:",
        "if False:",
        TIME,
    ),
    mutant(
        "every timeout of the library is ours",
        "_response",
        "if theirs and deadline is not None and deadline.remaining() <= 0.0:",
        "if theirs and deadline is not None:",
        PHASES,
    ),
    mutant(
        "a pool timeout at the deadline is ours",
        "_response",
        "isinstance(error, (*dialect.local, ResilienceError))",
        "isinstance(error, ResilienceError)",
        TIME,
    ),
    mutant(
        "the body has no deadline between its chunks",
        "_response",
        "            if deadline is not None and deadline.remaining() <= 0.0:\n                self",
        "            if False:\n                self",
        TIME,
    ),
    mutant(
        "the body has no deadline within a chunk",
        "_response",
        "chunks.__anext__() if self.own is None else",
        "chunks.__anext__() if True else",
        TIME,
    ),
    mutant(
        "a stranger's cancellation of a body is ours",
        "_response",
        "if fired and task.uncancel() <= before:",
        "if fired and task.uncancel() is not None:",
        TIME,
    ),
    mutant(
        "a swallowed cancellation of a body stays",
        "_response",
        "                own.fired = False\n                task.uncancel()\n",
        "                own.fired = False\n",
        TIME,
    ),
    mutant(
        "a swallowed cancellation of an attempt stays",
        "_sending",
        "came, or an error\n                task.uncancel()\n",
        "came, or an error\n                pass\n",
        TIME,
    ),
    mutant(
        "an attempt does not know the total",
        "_sending",
        " and (own is None or now + limit < own.when)",
        "",
        TIME,
    ),
    mutant(
        "an attempt is never cut off",
        "_sending",
        "            if fired and task.uncancel() <= before:\n",
        "            if False:\n",
        TIME,
    ),
    mutant(
        "a stranger's cancellation of an attempt is ours",
        "_sending",
        "            if fired and task.uncancel() <= before:\n",
        "            if fired and task.uncancel() is not None:\n",
        TIME,
    ),
    mutant(
        "an inherited deadline is ignored",
        "_sending",
        "if limit is not None and ambient.get() is None:",
        "if limit is not None:",
        TIME,
    ),
    mutant(
        "phases are not cut",
        "_propagation",
        "        if seconds is None or seconds > left:\n            break\n",
        "        if seconds is None:\n            break\n",
        TIME,
    ),
    mutant(
        "open phases stay open",
        "_propagation",
        "        if seconds is None or seconds > left:\n            break\n",
        "        if seconds is not None and seconds > left:\n            break\n",
        TIME,
    ),
    mutant("a phase is cut to nothing", "_propagation", "    left = max(left, _SHORTEST)\n", "", TIME),
    mutant(
        "the attempts of others are counted on",
        "_sending",
        "number > 1 or FURTHER else None\n                try:\n                    response = self",
        "number > 1 else None\n                try:\n                    response = self",
        RETRY,
    ),
    mutant(
        "the attempts of other tasks are counted on",
        "_sending",
        "number > 1 or FURTHER else None\n                try:\n                    response = await",
        "number > 1 else None\n                try:\n                    response = await",
        RETRY,
    ),
    mutant(
        "attempts are not counted", "_sending", "    counted = numbered(number)\n", "    counted = numbered(1)\n", RETRY
    ),
    mutant(
        "the budget knows no first attempts",
        "_sending",
        "            retry._budget.deposit()\n",
        "            pass\n",
        f"{RETRY}::test_the_budget_counts_first_attempts",
    ),
    mutant(
        "a stop strategy starts late",
        "_sending",
        "return None if retry._stop is None else Repetition",
        "return None if True else Repetition",
        f"{RETRY}::test_a_stop_strategy_counts_from_the_start_of_the_request",
    ),
    mutant(
        "only our own statuses are looked at",
        "_sending",
        "retry._inspects_results or retry._retry_if is not is_unwanted or is_unwanted(response)",
        "is_unwanted(response)",
        RETRY,
    ),
    mutant(
        "an attempt's time begins before it may run",
        "_sending",
        "slot, now = await slot.suspend(), clock.now()",
        "slot = await slot.suspend()",
        TIME,
    ),
    mutant(
        "a thread's attempt's time begins before it may run",
        "_sending",
        "slot, now = slot.block(), clock.now()",
        "slot = slot.block()",
        TIME,
    ),
    mutant(
        "an attempt's time begins before the rate allows it",
        "_sending",
        "charge, now = await charge.suspend(), clock.now()",
        "charge = await charge.suspend()",
        TIME,
    ),
    mutant(
        "a thread's attempt's time begins before the rate allows it",
        "_sending",
        "charge, now = charge.block(), clock.now()",
        "charge = charge.block()",
        TIME,
    ),
    mutant(
        "all attempts begin with the first",
        "_sending",
        "                retry._prepare(run, wait)\n                number, now = run.number, self._total._clock.now()",
        "                retry._prepare(run, wait)\n                number = run.number",
        TIME,
    ),
    mutant(
        "all attempts of a task begin with the first",
        "_sending",
        "await retry._aprepare(run, wait)\n                number, now = run.number, self._total._clock.now()",
        "await retry._aprepare(run, wait)\n                number = run.number",
        TIME,
    ),
    # what travels
    mutant(
        "the id overwrites",
        "_propagation",
        "identity is not None and _REQUEST_ID not in present",
        "identity is not None",
        HEADERS,
    ),
    mutant(
        "the trace overwrites",
        "_propagation",
        "trace is not None and _TRACEPARENT not in present",
        "trace is not None",
        HEADERS,
    ),
    mutant(
        "the state overwrites", "_propagation", "child.state and _TRACESTATE not in present", "child.state", HEADERS
    ),
    mutant(
        "the time overwrites",
        "_propagation",
        "left is not None and _REQUEST_TIMEOUT not in present",
        "left is not None",
        HEADERS,
    ),
    mutant("the attempt overwrites", "_propagation", "number > 1 and _ATTEMPT not in present", "number > 1", HEADERS),
    mutant(
        "the first attempt is numbered", "_propagation", "number > 1 and _ATTEMPT", "number > 0 and _ATTEMPT", HEADERS
    ),
    mutant("the parent-id stays", "_propagation", "child = trace.child()", "child = trace", HEADERS),
    mutant("the caller's headers are changed", "_headers", "copy = type(headers)(headers)", "copy = headers", HEADERS),
    mutant(
        "names are compared as they are written", "_headers", "return [name.lower() for", "return [name for", HEADERS
    ),
    # a response that is not wanted
    mutant(
        "what is not wanted is not read",
        "_draining",
        "return not response.is_closed and announced_length(response) <= _MOST_BYTES",
        "return False",
        DRAINING,
    ),
    mutant("large bodies are read", "_draining", " and announced_length(response) <= _MOST_BYTES", "", DRAINING),
    mutant(
        "a body of exactly the limit is large",
        "_draining",
        "(response) <= _MOST_BYTES",
        "(response) < _MOST_BYTES",
        DRAINING,
    ),
    mutant("a thread reads however long it takes", "_draining", " or deadline.remaining() == 0.0", "", DRAINING),
    mutant(
        "a thread reads however much comes", "_draining", "if length > _MOST_BYTES or deadline", "if deadline", DRAINING
    ),
    mutant(
        "a task reads however much comes",
        "_draining",
        "            if length > _MOST_BYTES:\n                break",
        "            if False:\n                break",
        DRAINING,
    ),
    mutant(
        "a task reads however long it takes",
        "_draining",
        "async with timeout.with_(seconds=_patience())",
        "async with timeout.with_(seconds=None)",
        DRAINING,
    ),
    mutant(
        "a connection is not told how long a thread reads",
        "_draining",
        "                with timeout.with_(seconds=_patience())",
        "                with timeout.with_(seconds=60.0)",
        DRAINING,
    ),
    mutant("reading may take all the time left", "_draining", "0.1 * left", "1.0 * left", DRAINING),
    mutant(
        "what is not wanted stays open", "_draining", "            response.close()\n", "            pass\n", DRAINING
    ),
    mutant(
        "what is not wanted stays open to tasks",
        "_draining",
        "            await response.aclose()\n",
        "            pass\n",
        DRAINING,
    ),
    mutant(
        "the caller's request is changed",
        "_propagation",
        "    copy = object.__new__(type(request))\n    copy.__dict__.update(request.__dict__)\n",
        "    copy = request\n",
        HEADERS,
    ),
    # origins
    mutant(
        "an entered origin is not in use",
        "_origins",
        "                machine.begin_locked(entry, now)\n",
        "",
        LAYERS,
    ),
    mutant(
        "what was handed over is not seen",
        "_origins",
        "if entry is not None and not machine.late:",
        "if entry is not None:",
        f"{LAYERS}::test_what_was_handed_over_is_applied_first",
    ),
    mutant(
        "leaving does not look again",
        "_origins",
        "        if machine.late or machine.outbox:\n            machine.unlocked()\n",
        "",
        LAYERS,
    ),
    mutant("a password is part of an origin", "_origins", " or url.userinfo", "", LAYERS),
    mutant("a path is part of an origin", "_origins", ' or url.raw_path not in (b"", b"/")', "", LAYERS),
    mutant("a layer is a factory", "_origins", " or isinstance(factory, Layer))", ")", ARGUMENTS),
    mutant(
        "an override is not checked",
        "_settings",
        "changes[key] = _arguments.flag(name, value)",
        "changes[key] = value",
        ARGUMENTS,
    ),
    mutant(
        "a freed stream is not known as one",
        "_settings",
        '                    changes["streams"] = True\n',
        "                    pass\n",
        LAYERS,
    ),
]
