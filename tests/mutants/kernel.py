"""Deliberate bugs in what all policies share: layers, the machine, waits, tickets, guards."""

from __future__ import annotations

from . import Mutant

LAYER, MACHINE = "resilience/_layer.py", "resilience/_machine.py"
POLICY, TICKET, WAIT = "resilience/_policy.py", "resilience/_ticket.py", "resilience/_wait.py"
COLOURS, DECORATION = ("tests/test_colours.py",), ("tests/test_decoration.py",)
GENERATORS, GUARDS = ("tests/test_generators.py",), ("tests/test_guards.py",)
KERNEL = ("tests/test_machine.py", "tests/test_machine_events.py")
PROCESSES = ("tests/test_processes.py",)
TICKETS, WAITS, WAITING = ("tests/test_ticket.py",), ("tests/test_wait.py",), ("tests/test_bulkhead_waiting.py",)


def layer(name: str, old: str, new: str, tests: tuple[str, ...] = DECORATION) -> Mutant:
    return Mutant(f"layer: {name}", LAYER, old, new, tests)


def machine(name: str, old: str, new: str, tests: tuple[str, ...] = KERNEL) -> Mutant:
    return Mutant(f"machine: {name}", MACHINE, old, new, tests)


def policy(name: str, old: str, new: str, tests: tuple[str, ...] = GUARDS) -> Mutant:
    return Mutant(f"policy: {name}", POLICY, old, new, tests)


def ticket(name: str, old: str, new: str, tests: tuple[str, ...] = TICKETS) -> Mutant:
    return Mutant(f"ticket: {name}", TICKET, old, new, tests)


def wait(name: str, old: str, new: str, tests: tuple[str, ...] = WAITS) -> Mutant:
    return Mutant(f"wait: {name}", WAIT, old, new, tests)


def refusal(name: str, condition: str) -> Mutant:
    return layer(f"{name} not refused", f"    if {condition}:\n", "    if False:\n")


MUTANTS = [
    refusal("static methods", "isinstance(fn, (staticmethod, classmethod, property, functools.cached_property))"),
    layer(
        "properties not explained", "(staticmethod, classmethod, property, ", "(staticmethod, classmethod, ", DECORATION
    ),
    layer(
        "cached properties not explained",
        "classmethod, property, functools.cached_property)",
        "classmethod, property)",
        DECORATION,
    ),
    refusal("classes", "isinstance(fn, type)"),
    refusal("running coroutines", "inspect.iscoroutine(fn) or inspect.isgenerator(fn) or inspect.isasyncgen(fn)"),
    refusal("context managers", 'getattr(target, "__code__", None) in _CONTEXT_MANAGER_CODES'),
    layer(
        "context managers inside partials not refused",
        'if getattr(target, "__code__", None) in _CONTEXT',
        'if getattr(fn, "__code__", None) in _CONTEXT',
    ),
    layer("types.coroutine not refused", '"co_flags", 0) & inspect.CO_ITERABLE_COROUTINE', '"co_flags", 0) & 0'),
    layer("partials not opened", "    while isinstance(target, functools.partial):", "    while False:"),
    layer("callable objects not looked into", "[target, type(target).__call__]", "[target]", COLOURS),
    layer(
        "async generators taken for functions",
        '            return "async generator"',
        '            return "sync"',
        COLOURS,
    ),
    layer("generators taken for functions", '            return "generator"', '            return "sync"', COLOURS),
    layer(
        "coroutine functions taken for functions",
        '            return "async"\n',
        '            return "sync"\n',
        COLOURS,
    ),
    layer("coroutines taken for results", "isinstance(result, Coroutine) or asyncio", "asyncio"),
    layer(
        "futures taken for results",
        "isinstance(result, Coroutine) or asyncio.isfuture(result)",
        "isinstance(result, Coroutine)",
    ),
    layer(
        "generators taken for results", "isinstance(result, (types.GeneratorType, types.AsyncGeneratorType))", "False"
    ),
    layer("a refused generator stays open", "            result.close()\n", "            pass\n"),
    layer("concurrent futures taken for results", "isinstance(result, concurrent.futures.Future)", "False"),
    layer("awaitables taken for results", 'hasattr(kind, "__await__")', "False"),
    layer("types are learned without a bound", "len(PLAIN) < _PLAIN_LIMIT", "True"),
    layer("one type too many is learned", "len(PLAIN) < _PLAIN_LIMIT", "len(PLAIN) <= _PLAIN_LIMIT"),
    layer("futures answered by coroutines", "    if asyncio.isfuture(awaited):", "    if False:"),
    layer("coroutines not named", "__qualname__ = name_of(", "__doc__ = name_of("),
    layer("names of partials not found", "    while isinstance(fn, functools.partial):", "    while False:"),
    layer("state of objects copied", "if inspect.isroutine(fn) else ()", "if True else ()"),
    layer("function attributes lost", "functools.WRAPPER_UPDATES if inspect.isroutine(fn) else ()", "()"),
    layer(
        "an inner generator left open", "        resume = inner.close  # drops", "        return  # drops", GENERATORS
    ),
    layer("thrown errors lost", "resume = functools.partial(inner.throw, error)", "raise", GENERATORS),
    layer(
        "sent values lost",
        "resume = functools.partial(inner.send, sent)",
        "resume = functools.partial(next, inner)",
        GENERATORS,
    ),
    Mutant(
        "an async generator has no outcome",
        "resilience/_policy.py",
        "                guard.outcome(None)  # it came",
        "                pass  # it came",
        GENERATORS,
    ),
    Mutant(
        "a timed async generator has no outcome",
        "resilience/circuit_breaker.py",
        "                guard.outcome(None)\n",
        "",
        GENERATORS,
    ),
    layer("results of generators lost", "                return stop.value", "                return None", GENERATORS),
    layer("async: thrown errors lost", "resume = functools.partial(inner.athrow, error)", "raise", GENERATORS),
    layer(
        "async: sent values lost",
        "resume = functools.partial(inner.asend, sent)",
        "resume = inner.__anext__",
        GENERATORS,
    ),
    layer(
        "async: an inner generator left open",
        "                await inner.aclose()",
        "                pass",
        GENERATORS,
    ),
    machine("handed over and never applied", "while self.late and self.lock.acquire(False):", "while False:"),
    machine(
        "settling waits for the lock",
        "while self.late and self.lock.acquire(False):",
        "while self.late and self.lock.acquire():",
    ),
    machine(
        "the lock kept after an error",
        "            finally:\n                self.lock.release()",
        "            except ZeroDivisionError:\n                self.lock.release()",
    ),
    machine(
        "handed over and nobody woken",
        "                self.lock.release()\n            self.wake(woken)",
        "                self.lock.release()",
        TICKETS,
    ),
    machine("two deliver at once", "if not emitting.acquire(False):", "if False:"),
    machine(
        "events stay where they are",
        "                        deliver(event, listeners)",
        "                        pass",
    ),
    machine(
        "events in the wrong order", "event, listeners = self.outbox.popleft()", "event, listeners = self.outbox.pop()"
    ),
    machine("settlements in the wrong order", "self.late.popleft()", "self.late.pop()"),
    machine("closed loops keep their turn", "if not ticket.wake():", "if ticket.wake() is None:", TICKETS),
    machine(
        "a child keeps the lock",
        "        self.lock = Lock()\n        self.free = self.lock.free\n        self.emitting",
        "        self.emitting",
        PROCESSES,
    ),
    machine(
        "a child keeps the delivery",
        "        self.emitting = threading.Lock()\n        self.late.clear()",
        "        self.late.clear()",
        PROCESSES,
    ),
    machine(
        "a child keeps what was handed over",
        "        self.late.clear()\n",
        "",
        ("tests/machines/test_bulkhead.py", *PROCESSES),
    ),
    machine("a child delivers again", "        self.outbox.clear()\n", "", PROCESSES),
    machine("a child keeps the generation", "        self.generation += 1\n", "", PROCESSES),
    machine("a half-made machine stops the others", "with contextlib.suppress(AttributeError):", "if True:", PROCESSES),
    machine("nothing happens after a fork", "            machine.forked()\n", "            pass\n", PROCESSES),
    machine(
        "a child releases a lock it has not",
        "                emitting.release()",
        "                self.emitting.release()",
        PROCESSES,
    ),
    ticket("wakes nobody", "            try:\n                waker()", "            try:\n                pass"),
    ticket(
        "closed loops are an error",
        "            except RuntimeError:  # the",
        "            except ZeroDivisionError:  # the",
    ),
    ticket("closed loops count as woken", "                return False\n", "                return True\n"),
    ticket("a thread does not look whether it was granted", "        if not self.granted:\n", "        if True:\n"),
    ticket("a thread's wait has no limit", "clock.wait(lock, seconds)", "clock.wait(lock, None)"),
    ticket("a task does not look whether it was granted", "        if self.granted:\n            return True\n", ""),
    ticket("a task's wait has no limit", "None if seconds is None else clock", "None if True else clock"),
    ticket("a done future is set again", "            if not future.done():\n", "            if True:\n"),
    ticket("a timer left behind", "                timer.cancel()", "                pass"),
    ticket("wakes a foreign loop from outside", "if _running_loop() is loop:", "if True:"),
    wait(
        "a wait given up in a thread leaks",
        (
            "            policy._forsake(self)\n            raise\n"
            "        permit = self._over(granted, clock.now() - began)\n        return permit.block()"
        ),
        "            raise\n        permit = self._over(granted, clock.now() - began)\n        return permit.block()",
    ),
    wait(
        "a wait given up in a task leaks",
        (
            "            policy._forsake(self)\n            raise\n"
            "        permit = self._over(granted, clock.now() - began)\n        return await"
        ),
        "            raise\n        permit = self._over(granted, clock.now() - began)\n        return await",
    ),
    wait(
        "threads do not warn", "                policy._warn_if_blocking_a_loop()\n", "                pass\n", WAITING
    ),
    wait("any loop may wait", "            require_asyncio()\n", "", KERNEL),
    wait(
        "the deadline does not limit",
        "        self.hurried = True\n        return left",
        "        self.hurried = True\n        return self.seconds",
    ),
    wait("the deadline is not blamed", "        self.hurried = True\n", "        self.hurried = False\n"),
    wait("the longer limit counts", "self.seconds < left", "self.seconds > left"),
    wait("waits are not metered", "        metered(waited)\n", ""),
    wait(
        "a last grant is lost",
        "if granted or not self.policy._withdraw(self):",
        "if granted or (self.policy._withdraw(self) and False):",
    ),
    wait(
        "a taken grant can be taken back",
        "                self.ticket.granted = False",
        "                pass",
        TICKETS,
    ),
    wait(
        "rejections after a wait not told",
        "raise self.policy._rejected(self.policy._waited_too_long())",
        "raise self.policy._waited_too_long()",
        WAITING,
    ),
    wait(
        "outer meters do not run",
        "        outer = outer.outer\n\n\nclass Decision",
        "        outer = None\n\n\nclass Decision",
    ),
    policy("groups are failures", "return FAILURE if FAILURE in verdicts else ABANDONED", "return FAILURE"),
    policy("groups are never failures", "return FAILURE if FAILURE in verdicts else ABANDONED", "return ABANDONED"),
    policy(
        "rejections are failures",
        "ABANDONED if isinstance(error, CallRejectedError) else self",
        "self",
        ("tests/test_bulkhead.py",),
    ),
    policy(
        "every cancellation is a failure",
        "isinstance(error, asyncio.CancelledError) and deadline.cancelled_by_deadline()",
        "isinstance(error, asyncio.CancelledError)",
    ),
    policy(
        "our own deadlines are no failures",
        "isinstance(error, asyncio.CancelledError) and deadline.cancelled_by_deadline()",
        "False",
        WAITS,
    ),
    policy("with_ changes anything", "        if refused:\n", "        if False:\n"),
    policy("with_ changes the original", "variant = object.__new__(type(self))", "variant = self"),
    policy(
        "a failing judge keeps the permit",
        (
            "            verdict = self.judge(error)\n        except BaseException:\n"
            "            self.settle(permit, ABANDONED)\n"
        ),
        "            verdict = self.judge(error)\n        except BaseException:\n",
    ),
    policy(
        "a failing judge of results keeps the permit",
        (
            "            verdict = self._judge_result(result)\n        except BaseException:\n"
            "            self.settle(permit, ABANDONED)\n"
        ),
        "            verdict = self._judge_result(result)\n        except BaseException:\n",
    ),
    policy(
        "giving up a wait is not applied",
        "(self._leave_locked, wait, ABANDONED))\n            self._machine.unlocked()",
        "(self._leave_locked, wait, ABANDONED))",
        WAITS,
    ),
    policy(
        "rejections not told to subscribers",
        "        if SUBSCRIBERS or self._listeners:\n            self._tell",
        "        if self._listeners:\n            self._tell",
        KERNEL,
    ),
    policy(
        "rejections not told to listeners",
        "        if SUBSCRIBERS or self._listeners:\n            self._tell",
        "        if SUBSCRIBERS:\n            self._tell",
        KERNEL,
    ),
    policy(
        "events without listeners",
        "        if SUBSCRIBERS or self._listeners:\n            facts",
        "        if True:\n            facts",
        KERNEL,
    ),
    policy("warns every time", "            self._warned = True\n", "", WAITING),
    policy("blames its own file", "stacklevel=level_of_caller()", "stacklevel=2", WAITING),
    policy(
        "sync: errors keep the permit",
        "                fail(permit, error)\n                raise\n            if type(result)",
        "                raise\n            if type(result)",
        COLOURS,
    ),
    policy(
        "sync: results not settled",
        "                return rest\n            if finish is None:\n                settle(permit)",
        "                return rest\n            if finish is None:\n                pass",
        COLOURS,
    ),
    policy(
        "sync: results not judged",
        "                return rest\n            if finish is None:",
        "                return rest\n            if True:",
    ),
    policy(
        "sync: pending results settled at once",
        "rest := unfinished(permit, result, fn)) is not None",
        "rest := None) is not None",
        DECORATION,
    ),
    policy(
        "a refused result keeps the permit",
        (
            "        except TypeError:  # a result that no layer can follow says nothing about the dependency\n"
            "            self.settle(permit, ABANDONED)\n"
            ""
        ),
        "        except TypeError:\n",
        DECORATION,
    ),
    policy(
        "pending results not judged",
        "            result = await awaitable\n            guard.outcome(result)",
        "            result = await awaitable",
        DECORATION,
    ),
    policy(
        "async: errors keep the permit",
        "                fail(permit, error)\n                raise\n            if finish is None:",
        "                raise\n            if finish is None:",
        COLOURS,
    ),
    policy(
        "generators: results not judged",
        "fn(*args, **kwargs)\n                guard.outcome(result)",
        "fn(*args, **kwargs)",
        GENERATORS,
    ),
    policy("fail takes anything", "        if not isinstance(error, BaseException):", "        if False:"),
    policy(
        "what was told outweighs what was raised",
        "error = told if error is None else error",
        "error = told or error",
    ),
    policy("what was told is forgotten", "error = told if error is None else error", "told = error"),
    policy(
        "guards judge results of policies that do not",
        "elif result is not _UNSET and self._policy._judges_results:",
        "elif result is not _UNSET:",
        GUARDS,
    ),
    policy(
        "guards judge results that were not shown",
        "elif result is not _UNSET and self._policy._judges_results:",
        "elif self._policy._judges_results:",
    ),
    policy(
        "a guard settles as often as it is left",
        "        permit, result = self.release(), self._result",
        "        permit, result = self._permit, self._result",
    ),
    policy("a refused guard settles", "        if permit is _UNSET:\n            return\n", ""),
    policy(
        "a dropped guard keeps the permit",
        "            self._policy.settle(permit, ABANDONED)\n\n    def _spend",
        "            pass\n\n    def _spend",
    ),
    policy(
        "a dropped guard is a success",
        "            self._policy.settle(permit, ABANDONED)\n\n    def _spend",
        "            self._policy.settle(permit)\n\n    def _spend",
    ),
    policy("a guard is entered again", "        if self._spent:\n", "        if False:\n"),
    policy("guards forget keyword arguments", "self._kwargs = kwargs or {}", "self._kwargs = {}"),
]
