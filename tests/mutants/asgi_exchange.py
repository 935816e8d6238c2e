"""Deliberate bugs in the way of a request through the middleware, and in noticing that its client has gone."""

from __future__ import annotations

from . import Mutant

EXCHANGE = "integrations/resilience_asgi/exchange.py"
HELD = "integrations/resilience_asgi/permits.py"
INBOX = "integrations/resilience_asgi/inbox.py"
PERMITS = ("tests/asgi/test_permits.py",)
DEADLINES = ("tests/asgi/test_deadlines.py",)
GONE = ("tests/asgi/test_disconnects.py",)
WATCH = ("tests/asgi/test_inbox.py",)
SOCKETS = ("tests/asgi/test_websockets.py",)
REFUSALS = ("tests/asgi/test_refusals.py",)
QUOTAS = ("tests/asgi/test_quota_fields.py",)
RENDERED = ("tests/asgi/test_rendered_rejections.py",)
SWEEP = ("tests/asgi/test_nothing_leaks.py",)
MACHINE = ("tests/machines/test_asgi_exchange.py",)
UNITS = (*PERMITS, *DEADLINES, *GONE)


def exchange(name: str, old: str, new: str, tests: tuple[str, ...] = UNITS) -> Mutant:
    return Mutant(f"asgi: {name}", EXCHANGE, old, new, tests)


def permits(name: str, old: str, new: str, tests: tuple[str, ...] = PERMITS) -> Mutant:
    return Mutant(f"asgi: {name}", HELD, old, new, tests)


def elsewhere(module: str, name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"asgi: {name}", f"integrations/resilience_asgi/{module}.py", old, new, tests)


def inbox(name: str, old: str, new: str, tests: tuple[str, ...] = WATCH) -> Mutant:
    return Mutant(f"asgi: {name}", INBOX, old, new, tests)


MUTANTS = [
    # what is armed
    elsewhere("deadlines", "the client lengthens the deadline", "(limit is None or allowed < limit)", "True", REFUSALS),
    elsewhere(
        "deadlines",
        "the client cannot shorten the deadline",
        "(limit is None or allowed < limit)",
        "limit is None",
        REFUSALS,
    ),
    elsewhere(
        "deadlines",
        "a client alone sets no deadline",
        "(limit is None or allowed < limit)",
        "limit and allowed < limit",
        REFUSALS,
    ),
    exchange("an ignored header counts", "        if plan.incoming_deadline:\n", "        if True:\n", REFUSALS),
    exchange(
        "a body deadline alone is not armed",
        "if limit is not None or plan.body_seconds is not None:",
        "if limit is not None:",
    ),
    exchange(
        "a deadline for the body begins with the request",
        "            deadline.lift()\n        else:  # one that",
        "            deadline.when = 1.0\n        else:  # one that",
        DEADLINES,
    ),
    exchange(
        "the deadline is not visible inside",
        "            self._token = ambient.set(deadline)\n            self",
        "            self._token = ambient.set(None)\n            self",
        DEADLINES,
    ),
    exchange(
        "a deadline inside another one is not visible",
        "        self._token = ambient.set(deadline)\n\n",
        "        self._token = ambient.set(None)\n\n",
        DEADLINES,
    ),
    exchange("a deadline forgets the one around it", " and ambient.get() is None:", ":", DEADLINES),
    exchange("a request without time is served", "limit > 0.0 and", "True and", REFUSALS),
    exchange(
        "a deadline inside another one has no timer",
        "            self._slot = timers.add(deadline, grain)\n",
        "            self._slot = {}\n",
        DEADLINES,
    ),
    exchange(
        "a client's deadline is as coarse as the server's",
        "plan.grain if limit == plan.seconds else grain_of(limit))",
        "plan.grain)",
        DEADLINES,
    ),
    exchange(
        "the deadline stays in force after a success",
        "                restore(ambient, self._token)\n            return\n",
        "                pass\n            return\n",
    ),
    exchange(
        "the deadline stays in force",
        "            restore(ambient, self._token)\n        if not",
        "            pass\n        if not",
    ),
    exchange(
        "the deadline is not disarmed by the response",
        "                self._disarm(self._deadline)\n            if plan.shows",
        "                pass\n            if plan.shows",
    ),
    exchange(
        "what has fired is armed again",
        "        if deadline.fired:\n            return  # it",
        "        if False:\n            return  # it",
    ),
    exchange(
        "the timer of the first deadline goes on",
        "            self._slot.pop(deadline, None)\n        plan,",
        "            pass\n        plan,",
    ),
    exchange(
        "a WebSocket has a body deadline",
        ' or self._scope["type"] != "http":\n            deadline.lift()',
        ":\n            deadline.lift()",
        SOCKETS,
    ),
    exchange(
        "a late start arms a deadline",
        "plan.body_seconds is None or task is None or",
        "plan.body_seconds is None or",
        PERMITS,
    ),
    exchange(
        "the body deadline cancels nobody",
        "deadline.task, deadline.timeout = task, plan",
        "deadline.task, deadline.timeout = None, plan",
        MACHINE,
    ),
    exchange(
        "the body deadline is lifted",
        "        deadline.lifted = False\n",
        "        pass\n",
    ),
    exchange(
        "the body deadline has the length of the other",
        "= task, plan.body_seconds",
        "= task, deadline.timeout",
        DEADLINES,
    ),
    exchange(
        "the body deadline is nobody's",
        "deadline.policy, deadline.when = plan.name,",
        "deadline.policy, deadline.when = None,",
        DEADLINES,
    ),
    exchange(
        "the body deadline counts from the beginning",
        "plan.clock.now() + plan.body_seconds",
        "deadline.when + plan.body_seconds",
        DEADLINES,
    ),
    exchange(
        "the timer of the body goes on in the background",
        "        self._slot.pop(deadline, None)\n        if not",
        "        if not",
        SWEEP,
    ),
    exchange(
        "a body in time leaves its deadline",
        "        if not deadline.fired:\n            deadline.lift()\n",
        "",
        DEADLINES,
    ),
    # the client
    exchange(
        "a WebSocket is watched",
        'if plan.watch_after is not None and scope["type"] == "http":',
        "if plan.watch_after is not None:",
        SOCKETS,
    ),
    exchange("a request is watched at once", "now + plan.watch_after", "now", GONE),
    exchange(
        "a client that asks for 100-continue is invited",
        'any(name == b"expect" for name, _ in self._scope.get("headers", ()))',
        "False",
        WATCH,
    ),
    exchange(
        "the watch outlives the response",
        "        self._look_away()\n        try:",
        "        try:",
        WATCH,
    ),
    exchange(
        "the timer of the watch outlives the request",
        "            self.watched_in.pop(self, None)\n",
        "            pass\n",
        SWEEP,
    ),
    exchange("a watcher outlives the request", "            self._inbox.stop()\n", "            pass\n"),
    exchange("a watch that has begun looks as if it waited", "        self.watched_in = None\n", "", GONE),
    exchange("a disconnect is not told apart", "        self._gone = True\n", "        self._gone = False\n"),
    exchange(
        "a disconnect cancels nothing",
        "        self._gone = True\n        self._task.cancel()",
        "        self._gone = True",
    ),
    # permits
    permits("a wait is not waited for", "permit = await wait.suspend()", "permit: Any = wait", REFUSALS),
    permits(
        "a permit is not kept",
        "            held.append((policy, permit, None))\n    return None",
        "            pass\n    return None",
        UNITS,
    ),
    permits(
        "a permit that was waited for is not kept",
        "    if policy._settles:\n        held.append((policy, permit, None))\n    further",
        "    further",
    ),
    permits(
        "permits are kept that need no settling",
        "        if settles:\n            held",
        "        if not settles:\n            held",
    ),
    permits(
        "what comes after a wait is not passed",
        "policy, permit, None))\n    further = admitted(doors, scope, held)",
        "policy, permit, None))\n    further = None",
    ),
    permits(
        "what comes after a Keyed is not passed",
        "    held.append(_behind(guard))\n    further = admitted(doors, scope, held)",
        "    held.append(_behind(guard))\n    further = None",
    ),
    permits(
        "a second wait is not waited for",
        "permit, None))\n    further = admitted(doors, scope, held)\n    if further is not None:",
        "permit, None))\n    further = admitted(doors, scope, held)\n    if False:",
    ),
    permits(
        "a wait after a Keyed is not waited for",
        "_behind(guard))\n    further = admitted(doors, scope, held)\n    if further is not None:",
        "_behind(guard))\n    further = admitted(doors, scope, held)\n    if False:",
    ),
    permits(
        "a bulkhead is the only one that judges", "type(policy) is not Bulkhead", "type(policy) is Bulkhead", UNITS
    ),
    exchange("a permit is settled twice", "held, self._held = self._held, ()", "held = self._held", PERMITS),
    permits("a Keyed is never left", "guard.__exit__(None, None, None)\n    if failures", "pass\n    if failures"),
    permits("a judge that raises is hushed up", "    if failures:\n        raise failures.pop()\n", ""),
    permits("a Timeout behind a Keyed", "if isinstance(inner._policy, (Retry, Timeout)):", "if False:"),
    permits(
        "a refused Keyed is not left",
        "        guard.__exit__(None, None, None)\n        raise TypeError",
        "        raise TypeError",
    ),
    exchange(
        "permits of an ended application stay out",
        "            self._quiet()\n            self._give_back(None)\n",
        "            self._quiet()\n",
    ),
    permits(
        "what is behind an interruption stays out", "        if held:\n            succeeded(held)\n", "        pass\n"
    ),
    exchange(
        "a body deadline that begins after the end stays",
        "self._complete and (deadline is None or deadline.lifted) and",
        "self._complete and",
        DEADLINES,
    ),
    exchange(
        "judges are shown no headers", "if plan.shows_quotas or not plan.uniform:", "if plan.shows_quotas:", PERMITS
    ),
    exchange("the limits are shown to judges alone", "if plan.shows_quotas or not plan", "if not plan", QUOTAS),
    permits("a success is settled outermost first", "= held.pop()", "= held.pop(0)"),
    exchange("every success is settled alike", " and self._plan.uniform:", ":", PERMITS),
    exchange("a refusal is settled like a success", "if self._status < 400 and", "if", RENDERED),
    elsewhere(
        "middleware",
        "a Keyed settles like the others",
        "uniform=not any(type(policy) is Keyed or policy",
        "uniform=not any(policy",
        PERMITS,
    ),
    exchange(
        "permits of a failed application stay out",
        "            self._give_back(error)\n        finally:\n            ours",
        "            pass\n        finally:\n            ours",
    ),
    exchange(
        "permits come back with the first part",
        '            if not message.get("more_body"):\n',
        "            if True:\n",
        MACHINE,
    ),
    exchange(
        "permits stay until the application ends",
        "        if held:\n            if self._status",
        "        if False:\n            if self._status",
    ),
    exchange(
        "a lost client is a failure",
        "        if not answered and (self._undeliverable",
        "        if False and (self._undeliverable",
        GONE,
    ),
    exchange("a broken connection is a failure", "(self._undeliverable or self", "(self", PERMITS),
    exchange(
        "every failure is blamed on the client",
        "        if error is None:\n            return self._gone",
        "        if True:\n            return self._gone",
        MACHINE,
    ),
    exchange("an application that was told is blamed", "(inbox.told if isinstance", "(False if isinstance", GONE),
    exchange("an application that knows may take its time", "else inbox.starved)", "else inbox.told)", GONE),
    elsewhere("middleware", "without a watch nobody listens", "if plan.judged or exchange", "if exchange", GONE),
    elsewhere(
        "middleware",
        "a watched request receives past its watcher",
        "if plan.judged or exchange.watched_in is not None:",
        "if plan.judged:",
        WATCH,
    ),
    exchange(
        "an unfinished response is a success",
        "SUCCESS if answered and self._status < 500",
        "SUCCESS if self._status < 500",
    ),
    exchange("500 is a success", "self._status < 500 else", "self._status <= 500 else", PERMITS),
    exchange("an unfinished response shows its status", "self._status if answered else 500", "self._status", PERMITS),
    exchange(
        "judges of results see nothing", "        elif policy._judges_results:\n", "        elif False:\n", PERMITS
    ),
    exchange("judges see no headers", 'self._headers = message.get("headers", ())', "self._headers = ()", PERMITS),
    exchange(
        "an error is not judged",
        "            policy._fail(permit, error)",
        "            policy.settle(permit, FAILURE)",
    ),
    exchange(
        "a WebSocket that ends has failed",
        '(error is None and self._status != 0 and self._scope["type"] == "websocket")',
        "False",
        SOCKETS,
    ),
    exchange(
        "a disconnect seen by the application is unseen",
        "return self._gone or (inbox is not None and inbox.gone)",
        "return self._gone",
        GONE,
    ),
    # messages
    exchange(
        "a second start starts again",
        "        if not self._status:\n            plan =",
        "        if True:\n            plan =",
        PERMITS,
    ),
    exchange(
        "an error of the server is the client's",
        "raise\n\n    def _note",
        "raise\n        except Exception:\n            self._undeliverable = True\n            raise\n\n    def _note",
        PERMITS,
    ),
    exchange(
        "an error of the server at the start is the client's",
        "raise\n\n    async def _send_websocket",
        "raise\n        except Exception:\n            self._undeliverable = True\n            raise\n\n    async def _send_websocket",
        PERMITS,
    ),
    exchange(
        "an error of the server at the end is the client's",
        "except (OSError, CancelledError) as error:\n            self._note_undeliverable(error)\n            raise\n        self._complete",
        "except Exception as error:\n            self._undeliverable = True\n            raise\n        self._complete",
        PERMITS,
    ),
    exchange("a broken connection is not noted", "self._send_noting(message) if self._plan.judged else ", "", PERMITS),
    exchange("trailers end before they come", "self._trailers = True", "self._trailers = False", PERMITS),
    elsewhere(
        "protocol",
        "the first trailers end the response",
        'return not message.get("more_trailers")',
        "return True",
        PERMITS,
    ),
    elsewhere(
        "protocol",
        "a path sent ends nothing",
        '("http.response.pathsend", "http.response.zerocopysend")',
        '("http.response.zerocopysend",)',
        PERMITS,
    ),
    elsewhere(
        "protocol",
        "the first file ends the response",
        'return not message.get("more_body") and not trailers',
        "return not trailers",
        PERMITS,
    ),
    elsewhere(
        "protocol",
        "a file ends before its trailers",
        'return not message.get("more_body") and not trailers',
        'return not message.get("more_body")',
        PERMITS,
    ),
    exchange(
        "accepting does not disarm",
        "                self._disarm(self._deadline)\n            if kind",
        "                pass\n            if kind",
        SOCKETS,
    ),
    exchange(
        "an accepted WebSocket looks closed",
        "self._status = self._status or _CLOSED",
        "self._status = _CLOSED",
        SOCKETS,
    ),
    exchange(
        "a closed WebSocket looks accepted",
        "self._status = self._status or _CLOSED",
        "self._status = self._status or _ACCEPTED",
        SOCKETS,
    ),
    exchange(
        "a denial does not end the call",
        'return kind == "websocket.http.response.body" and not message.get("more_body")',
        "return False",
        SOCKETS,
    ),
    exchange(
        "the fields are added without being asked",
        "        if plan.shows_quotas and (fields",
        "        if (fields",
        QUOTAS,
    ),
    exchange("the fields replace the headers", "[*self._headers, *fields]", "fields", QUOTAS),
    exchange(
        "a refusal does not tell what is left",
        "quota_fields(self._plan.limiters, self._scope) or fields_of(error)",
        "fields_of(error)",
        QUOTAS,
    ),
    exchange(
        "a refusal from inside tells nothing",
        "quota_fields(self._plan.limiters, self._scope) or fields_of(error)",
        "quota_fields(self._plan.limiters, self._scope)",
        QUOTAS,
    ),
    # the end
    exchange(
        "a client that has gone is told 504",
        "        if ours and self._gone:\n            return _NOTHING\n",
        "",
        MACHINE,
    ),
    exchange("an abort is answered", "                if self._status:\n                    raise\n", "", MACHINE),
    exchange(
        "a rejection after the start is answered",
        "return None if self._closed or self._status not in (0, _ACCEPTED) else self",
        "return self",
    ),
    exchange("a rejection after the close is answered", "None if self._closed or self", "None if self", SOCKETS),
    exchange(
        "a rejection in a WebSocket outside is judged by its status", "return self._closed or (", "return (", SOCKETS
    ),
    exchange("a rejection in a WebSocket is raised", "not in (0, _ACCEPTED)", "not in (0,)", SOCKETS),
    exchange("the timer's cancellation is not taken back", "            caused += deadline.fired\n", ""),
    exchange(
        "our cancellation for the client is not taken back", "caused = 1 if self._gone else 0", "caused = 0", MACHINE
    ),
    exchange(
        "every cancellation is ours",
        "return left <= self._before and type(error) is CancelledError",
        "return type(error) is CancelledError",
        MACHINE,
    ),
    exchange("cancellations around us count as foreign", "self._before = task.cancelling()", "self._before = -1"),
    exchange(
        "every error is our cancellation",
        "return left <= self._before and type(error) is CancelledError",
        "return left <= self._before",
        DEADLINES,
    ),
    exchange("the task is kept", "        self._task = None  # it", "        pass  # it", PERMITS),
    exchange(
        "a team's rendering is ignored",
        "response_to(error, self._scope, self._plan.render)",
        "response_to(error, self._scope)",
        REFUSALS,
    ),
    exchange(
        "an accepted WebSocket is denied",
        "        if not self._status:\n            await response.deliver",
        "        if True:\n            await response.deliver",
        SOCKETS,
    ),
    # the inbox
    inbox("two are in receive()", "if self._on_gone is None or self._inside or", "if self._on_gone is None or"),
    inbox("two watchers", "self._inside or self._watcher is not None or", "self._inside or"),
    inbox("a watcher for a client that has gone", " or self.gone or self._reserved:", " or self._reserved:"),
    inbox("a watcher that invites the client", " or self.gone or self._reserved:", " or self.gone:"),
    inbox("a body that was read stays reserved", "self._reserved = self._owing = False", "self._owing = False"),
    inbox("a part of a body ends the reservation", '        elif not message.get("more_body"):\n', "        else:\n"),
    inbox("a disconnect goes unnoticed", '        if message["type"] in DISCONNECTS:\n', "        if False:\n"),
    inbox("what was read ahead is lost", "                ahead.append(message)\n", ""),
    inbox("more than one part is read ahead", "while not more and not self.gone:", "while not self.gone:"),
    inbox(
        "nobody tells that there is something",
        "                self._tell()\n                more",
        "                more",
    ),
    inbox(
        "nobody tells that the watcher has ended",
        "            self._watcher = None\n            self._tell()\n        if",
        "            self._watcher = None\n        if",
    ),
    inbox(
        "an ended watcher looks busy",
        "            self._watcher = None\n            self._tell()\n        if",
        "            self._tell()\n        if",
    ),
    inbox(
        "the application never sees the disconnect of a watcher",
        "        while self._ahead is not None:",
        "        while False:",
    ),
    inbox(
        "the watch is not resumed after a part",
        "                    message = self._ahead.popleft()\n                    self._watch()",
        "                    message = self._ahead.popleft()",
    ),
    inbox(
        "the watch is not resumed after receive()",
        "        self.told = self.told or self.gone\n        self._watch()",
        "        self.told = self.told or self.gone",
    ),
    inbox(
        "a cancelled receive() counts as inside",
        "            finally:\n                self._inside -= 1",
        "            except ValueError:\n                self._inside -= 1",
    ),
    inbox(
        "a stopped watch goes on", "        self._on_gone = None\n        if self._watcher", "        if self._watcher"
    ),
    inbox("a stopped watcher goes on", "            self._watcher.cancel()", "            pass"),
]
