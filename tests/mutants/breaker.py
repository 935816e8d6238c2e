"""Mutants of the circuit breaker as a policy."""

from __future__ import annotations

from . import Mutant

ARGUMENTS = "tests/test_breaker_arguments.py"
COLOURS = "tests/test_breaker_colours.py"
EVENTS = "tests/test_breaker_events.py"
MODEL = "tests/machines/test_circuit.py"
OUTCOMES = "tests/test_breaker_outcomes.py"
RULES = "tests/test_breaker.py"
MODES = "tests/test_breaker_modes.py"
SHARING = "tests/test_breaker_sharing.py"
SLOW = "tests/test_breaker_slow_calls.py"


def mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"breaker: {name}", "resilience/circuit_breaker.py", old, new, tests)


MUTANTS = [
    # -- the policy
    mutant(
        "a success is counted for an old generation",
        "                if permit == machine.closed_permit and not machine.late:\n",
        "                if not machine.late:\n",
        SHARING,
    ),
    mutant(
        "results handed over are overtaken",
        "if permit == machine.closed_permit and not machine.late:",
        "if permit == machine.closed_permit:",
        SHARING,
    ),
    mutant(
        "a success overtakes what was handed over",
        "if permit == machine.closed_permit and not machine.late:",
        "if permit == machine.closed_permit and machine is not None:",
        MODEL,
    ),
    mutant(
        "an abandoned call takes the short way of a success",
        "if verdict is SUCCESS and permit == machine.closed_permit:",
        "if verdict is not FAILURE and permit == machine.closed_permit:",
        MODEL,
    ),
    mutant(
        "the first success of a bucket is a failure",
        "window.record(now, False, False)",
        "window.record(now, True, False)",
        MODEL,
    ),
    mutant("a success leaves the streak", "                    machine.streak = 0\n", "", MODEL),
    mutant("a success is not in the total", "                        window.calls += 1\n", "", MODEL),
    mutant("a success is not in its bucket", "                        window.current[0] += 1\n", "", MODEL),
    mutant("a success never moves the window", "if now < window.edge:", "if True:", MODEL),
    mutant("the lock is not given back", "                free.append(None)\n", "                pass\n", RULES),
    mutant("a success is counted twice", "                    permit = UNCOUNTED\n", "", MODEL),
    mutant(
        "what was handed over is left lying",
        "if permit == UNCOUNTED and not machine.late and not machine.outbox:",
        "if permit == UNCOUNTED:",
        SHARING,
    ),
    mutant(
        "a busy lock loses the result",
        "somebody is inside\n                self._record(permit, verdict, None, None)\n",
        "somebody is inside\n",
        SHARING,
    ),
    mutant(
        "refusals are not counted without the lock",
        "                machine.rejected += 1  # a",
        "                pass  # a",
        RULES,
    ),
    mutant(
        "refusals are not counted under the lock",
        "                machine.rejected += 1\n",
        "                pass\n",
        RULES,
    ),
    mutant(
        "a refusal is not told", "if wait > 0.0 and not (SUBSCRIBERS or self._listeners):", "if wait > 0.0:", EVENTS
    ),
    mutant("shadow refuses", 'shadow = permit is None and machine.mode == "shadow"', "shadow = False", MODES),
    mutant("shadow is not told as such", "retry_after=retry_after, shadow=True", "retry_after=retry_after", MODES),
    mutant(
        "admission leaves events lying",
        "        if machine.late or machine.outbox:\n            self._deliver(permit)\n        if shadow",
        "        if shadow",
        EVENTS,
    ),
    mutant(
        "admission does not catch up",
        "            machine.caught_up_locked()\n            permit, retry_after",
        "            permit, retry_after",
        SHARING,
    ),
    mutant(
        "statistics do not catch up",
        "            machine.caught_up_locked()\n            result",
        "            result",
        SHARING,
    ),
    mutant(
        "statistics leave events lying",
        "            result = machine.statistics_locked(now, self._note)\n        machine.unlocked()\n",
        "            result = machine.statistics_locked(now, self._note)\n",
        SHARING,
    ),
    mutant(
        "isolate leaves results lying",
        "            self._machine.isolate_locked(self._clock.now(), self._note)\n        self._machine.unlocked()\n",
        "            self._machine.isolate_locked(self._clock.now(), self._note)\n",
        SHARING,
    ),
    mutant(
        "reset leaves results lying",
        "            self._machine.reset_locked(self._note)\n        self._machine.unlocked()\n",
        "            self._machine.reset_locked(self._note)\n",
        SHARING,
    ),
    mutant(
        "a new mode leaves results lying",
        "            self._machine.set_mode_locked(mode)\n        self._machine.unlocked()\n",
        "            self._machine.set_mode_locked(mode)\n",
        SHARING,
    ),
    mutant("any mode", "given not in get_args(Mode):", "not given:", ARGUMENTS),
    mutant(
        "an ignored failure counts",
        "if self._failure_on(error) and not self._ignore(error) else",
        "if self._failure_on(error) else",
        OUTCOMES,
    ),
    mutant(
        "every exception is a failure",
        "if self._failure_on(error) and not self._ignore(error) else",
        "if not self._ignore(error) else",
        OUTCOMES,
    ),
    mutant(
        "an ignored exception is a success",
        "not self._ignore(error) else ABANDONED",
        "not self._ignore(error) else SUCCESS",
        OUTCOMES,
    ),
    mutant(
        "results the wrong way round",
        "FAILURE if self._failure_if(result) else SUCCESS",
        "SUCCESS if self._failure_if(result) else FAILURE",
        OUTCOMES,
    ),
    mutant(
        "a judge that raises keeps the permit",
        "        finally:\n            self._record(permit, verdict, error, retry_after)\n",
        "        except ValueError:\n            raise\n        self._record(permit, verdict, error, retry_after)\n",
        OUTCOMES,
    ),
    mutant(
        "a judge of results that raises keeps the permit",
        "        finally:\n            self._record(permit, verdict, None, retry_after)\n",
        "        except ValueError:\n            raise\n        self._record(permit, verdict, None, retry_after)\n",
        OUTCOMES,
    ),
    mutant(
        "retry_after of results ignored",
        "            if verdict is FAILURE:\n                retry_after = _asked(result)\n",
        "",
        RULES,
    ),
    mutant(
        "retry_after of errors ignored",
        "            if verdict is FAILURE:\n                retry_after = _asked(error)\n",
        "",
        RULES,
    ),
    mutant(
        "success is not told",
        "                self._note(CallSucceeded, time=now, duration=duration, slow=slow)\n",
        "                pass\n",
        EVENTS,
    ),
    mutant(
        "a success is told with a later time",
        "self._note(CallSucceeded, time=now, duration",
        "self._note(CallSucceeded, duration",
        EVENTS,
    ),
    mutant(
        "a failure is told with a later time",
        "self._note(CallFailed, time=now, duration",
        "self._note(CallFailed, duration",
        EVENTS,
    ),
    mutant(
        "failure is not told",
        "                self._note(CallFailed, time=now, duration=duration, error=error)\n",
        "                pass\n",
        EVENTS,
    ),
    mutant(
        "abandoned calls are told as failures",
        "            elif verdict is FAILURE:\n                self._note",
        "            else:\n                self._note",
        EVENTS,
    ),
    mutant(
        "nothing is applied", "        machine.unlocked()\n\n    def _apply_locked", "\n    def _apply_locked", RULES
    ),
    mutant(
        "at rest while open",
        "unchanged = statistics.state is CLOSED and statistics.mode",
        "unchanged = statistics.mode",
        MODES,
    ),
    mutant("at rest in another mode", " and statistics.mode == self._first_mode", "", MODES),
    mutant(
        "at rest with slow calls",
        "(statistics.failures or statistics.slow or statistics.streak)",
        "(statistics.failures or statistics.streak)",
        MODES,
    ),
    mutant(
        "at rest with a streak",
        "(statistics.failures or statistics.slow or statistics.streak)",
        "(statistics.failures or statistics.slow)",
        MODES,
    ),
    # -- slow calls and the waits of inner layers
    mutant(
        "a call of just the limit is slow",
        "duration - permit.waits.waited > self._slow_after",
        "duration - permit.waits.waited >= self._slow_after",
        SLOW,
    ),
    mutant(
        "waits are not subtracted",
        "duration - permit.waits.waited > self._slow_after",
        "duration > self._slow_after",
        SLOW,
    ),
    mutant(
        "waits are not seen by outer breakers",
        "waits = Meter(running_meter()) if self._timed else None",
        "waits = Meter(None) if self._timed else None",
        SLOW,
    ),
    mutant(
        "the meter stays after the call",
        "                if meter.get() is permit.waits:\n                    meter.set(running_meter())\n",
        "",
        SLOW,
    ),
    mutant("ended meters pile up", "                permit.waits.done = True\n", "", SLOW),
    mutant(
        "a generator's meter stays with its consumer",
        "        if not self._timed:\n            return super()._wrap_generator(fn)\n",
        "        if True:\n            return super()._wrap_generator(fn)\n",
        SLOW,
    ),
    mutant(
        "an async generator's meter stays with its consumer",
        "        if not self._timed:\n            return super()._wrap_async_generator(fn)\n",
        "        if True:\n            return super()._wrap_async_generator(fn)\n",
        SLOW,
    ),
    mutant(
        "a timed generator loses its result",
        "_metered_steps(guard))\n                guard.outcome(result)\n",
        "_metered_steps(guard))\n",
        COLOURS,
    ),
    mutant(
        "a coroutine's meter stays with its caller",
        "        if rest is not None and self._timed:\n            meter.set(permit.waits.outer)\n",
        "",
        SLOW,
    ),
    mutant(
        "a coroutine's own waits are not seen",
        "        with _metering(guard._permit.waits):\n            return",
        "        if True:\n            return",
        SLOW,
    ),
    mutant("steps do not count for the calls around them", "        waits.outer = running_meter()\n", "", SLOW),
    mutant(
        "steps are not metered",
        "        waits.outer = running_meter()\n        meter.set(waits)\n",
        "        waits.outer = running_meter()\n",
        SLOW,
    ),
    mutant(
        "the meter stays after a step",
        "        if meter.get() is waits:\n            meter.set(before)\n",
        "        pass\n",
        SLOW,
    ),
    mutant("the meter stays before the first step", "    meter.set(waits.outer)\n    return", "    return", SLOW),
    Mutant(
        "breaker: a predicate is not checked",
        "resilience/_failures.py",
        "        if not callable(value):",
        "        if False:",
        (ARGUMENTS,),
    ),
]
