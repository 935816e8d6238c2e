"""Deliberate bugs in Retry and its decisions."""

from __future__ import annotations

from . import Mutant

_RETRY = "resilience/retry.py"
_RUN = "resilience/_attempts.py"
_NOTES = "resilience/_notes.py"
_MESSAGES = ("tests/test_messages.py",)
_MODEL = ("tests/machines/test_retry.py",)
_BASICS = ("tests/test_retry.py",)
_STRATEGIES = ("tests/test_retry_strategies.py",)
_HINTS = ("tests/test_retry_hints.py",)
_COLOURS = ("tests/test_retry_colours.py",)
_FIT = ("tests/test_fit.py",)
_CYCLES = ("tests/test_no_cycles.py",)
_ARGUMENTS = ("tests/test_retry_timeout_arguments.py",)
_PAUSED = """\
                self._clock.sleep(wait)
                metered(wait)
"""
_NESTED = """\
            if FURTHER and attempt_number() != 1:  # of another Retry around: this one counts for itself
                """


def _run(name: str, old: str, new: str, tests: tuple[str, ...] = _MODEL) -> Mutant:
    return Mutant(name, _RUN, old, new, tests)


def _retry(name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(name, _RETRY, old, new, tests)


MUTANTS = [
    _run(
        "a wait that is no number is not named",
        "except (TypeError, ValueError, OverflowError):",
        "except ValueError:",
        _STRATEGIES,
    ),
    _run(
        "a wait beyond floats is not named",
        "(TypeError, ValueError, OverflowError)",
        "(TypeError, ValueError)",
        _STRATEGIES,
    ),
    Mutant(
        "the time of a first attempt is unknown to a wait",
        _RETRY,
        "known or looks_at_times(self._wait)",
        "known",
        _STRATEGIES,
    ),
    _run(
        "a combined wait looks at nothing",
        "return any(map(looks_at_times, wait.wait_funcs))",
        "return False",
        _STRATEGIES,
    ),
    _run(
        "a chained wait looks at nothing",
        "return any(map(looks_at_times, wait.strategies))",
        "return False",
        _STRATEGIES,
    ),
    _run(
        "a combined wait looks at times",
        "    if isinstance(wait, tenacity.wait_combine):\n        return any(map(looks_at_times, wait.wait_funcs))\n",
        "",
        _STRATEGIES,
    ),
    _run(
        "a chained wait looks at times",
        "    if isinstance(wait, tenacity.wait_chain):\n        return any(map(looks_at_times, wait.strategies))\n",
        "",
        _STRATEGIES,
    ),
    _retry(
        "a loop of another kind is noticed at the first failure only",
        "            if unchecked:  # now",
        "            if False:  # now",
        ("tests/test_machine.py",),
    ),
    # What is repeated.
    _run(
        "a group is repeated for its first leaf",
        "                    return False\n",
        "                    pass\n",
        _BASICS,
    ),
    _run(
        "a strategy is shown the first leaf only",
        "                self._forget()  # a strategy is shown one outcome at a time\n",
        "",
        _BASICS,
    ),
    _run(
        "a rejection is always repeated",
        "bool(self.retry._retry_rejections) and not isinstance(error, DeadlineExceededError)",
        "not isinstance(error, DeadlineExceededError)",
        _BASICS,
    ),
    _run(
        "a missed deadline is repeated",
        "bool(self.retry._retry_rejections) and not isinstance(error, DeadlineExceededError)",
        "bool(self.retry._retry_rejections)",
        _BASICS,
    ),
    _run("an unwanted result is not repeated", "if not (retry._retry_if is not None and", "if not (False and"),
    _run("a condition does not see results", "retry._inspects_results and bool(", "False and bool(", _BASICS),
    # The decision, in its order.
    _run("one attempt too many", "if self.number >= retry.attempts:", "if self.number > retry.attempts:"),
    _run("one attempt too few", "if self.number >= retry.attempts:", "if self.number + 1 >= retry.attempts:"),
    _run("stop is not asked", "if retry._stop is not None and retry._stop(", "if False and retry._stop("),
    _run("stop does not see the coming wait", "state.upcoming_sleep = wait", "state.upcoming_sleep = 0.0", _STRATEGIES),
    _run("the coming wait is never shown", "if looking_ahead is not None:", "if False:", _STRATEGIES),
    _run("the shown wait stays", "            state.upcoming_sleep = 0.0\n", "", _STRATEGIES),
    _run("the limit is exclusive", "if asked > retry._retry_after_limit:", "if asked >= retry._retry_after_limit:"),
    _run("no limit for a wish", "if asked > retry._retry_after_limit:", "if False:"),
    _run("a wish is clamped to the limit", "if asked > retry._retry_after_limit:", "if False:"),
    _run("the wish replaces the backoff", "wait = max(wait, asked + retry", "wait = max(0.0, asked + retry"),
    _run("the wish forgets the backoff at the deadline", "least = max(wait, asked)", "least = asked"),
    _run("no jitter on a wish", "min(0.1 * asked, 1.0)", "0.0 * min(0.1 * asked, 1.0)"),
    _run("jitter without a bound", "min(0.1 * asked, 1.0)", "0.1 * asked", _HINTS),
    _run("jitter below the wish", "asked + retry._rng", "asked - retry._rng"),
    _run("a wait may end with the deadline", "if least >= left:", "if least > left:", _BASICS),
    _run("a wait may pass the deadline", "if least >= left:", "if False:"),
    _run("jitter may pass the deadline", "wait = least  # only", "pass  # only", _HINTS),
    _run(
        "the deadline does not count", "if left is not None and wait >= left:", "if left is None and wait >= wait + 1:"
    ),
    _run(
        "the budget is not asked",
        "if retry._budget is not None and not retry",
        "if retry._budget is None and not retry",
    ),
    _run("the budget is charged and ignored", "not retry._budget.withdraw():", "retry._budget.withdraw() is None:"),
    _run("idle time is not told", "idle_for += wait", "idle_for += 0.0", _STRATEGIES),
    _run("the extractor is not asked", "if extract is None else _seconds(extract(outcome))", "", _HINTS),
    _run("the outcome's own wish does not count", 'getattr(outcome, "retry_after", None)', "None"),
    _run("chance is not ours", "wait: float = self.retry._rng.uniform(", "wait: float = random.uniform(", _STRATEGIES),
    _run("no jitter at all", "type(strategy) is wait_random_exponential", "False", _STRATEGIES),
    _run("a wait of NaN", "if math.isnan(wait) or wait == math.inf:", "if wait == math.inf:", _STRATEGIES),
    _run("a wait without end", "if math.isnan(wait) or wait == math.inf:", "if math.isnan(wait):", _STRATEGIES),
    _run("a wait below zero", "return max(0.0, wait)", "return wait", _STRATEGIES),
    _run(
        "a bool is a wish",
        "if isinstance(value, bool) or not isinstance(value, (int, float)):\n        return None\n    return float",
        "if not isinstance(value, (int, float)):\n        return None\n    return float",
        _HINTS,
    ),
    _run("an infinite wish", "value <= sys.float_info.max", "value <= math.inf"),
    _run("a timedelta is no wish", "value = value.total_seconds()", "return None", _HINTS),
    # The books.
    _run("a surrender is not counted", "given_up += 1", "given_up += 0"),
    _run("a surrender is not told", "retry._tell(RetryStopped,", "(lambda *_, **__: None)(RetryStopped,"),
    _run("a retry is not counted", "retries += 1", "retries += 0"),
    _run("a retry is not told", "retry._tell(RetryScheduled,", "(lambda *_, **__: None)(RetryScheduled,"),
    _run("attempts are not numbered", "        self.number += 1\n", "", _BASICS),
    _run("preparations hear nothing", "if retry._informed:", "if False:", _HINTS),
    _run("the outcome is kept", "            self._state.outcome = None", "            pass", _CYCLES),
    Mutant("notes grow", _NOTES, "note.of() not in (None, machine)", "note.of() is not None", _BASICS),
    Mutant("notes of a Retry that is gone stay", _NOTES, "not in (None, machine)", "is not machine", _MESSAGES),
    Mutant("inner notes are lost", _NOTES, "[*others, *inner, *made]", "[*others, *made]", _MESSAGES),
    Mutant("inner notes without a bound", _NOTES, "[-MOST_NOTES:]", "", _MESSAGES),
    Mutant("plain notes grow", _NOTES, "if not str(note).startswith(NOTE)]", "if type(note) is not Note]", _MESSAGES),
    Mutant(
        "notes are pickled with their Retry",
        _NOTES,
        "return (str, (str(self),))",
        "return (Note, (str(self),), None)",
        _MESSAGES,
    ),
    Mutant("the user's notes are lost", _NOTES, "[*others, *inner, *made]", "[*inner, *made]", _BASICS),
    Mutant(
        "frozen exceptions are replaced",
        _NOTES,
        "except Exception:  # noqa: BLE001 - a frozen",
        "except KeyError:  # noqa: BLE001 - a frozen",
        _BASICS,
    ),
    _run("nobody is told why it gave up", "        if why:\n", "        if False:\n", _MESSAGES),
    _run("notes without a bound", "if len(self._notes) > MOST_NOTES:", "if False:", _BASICS),
    _run(
        "no note of the final failure",
        "                if self._notes:\n                    self._noted",
        "                if False:\n                    self._noted",
        _BASICS,
    ),
    # Loops.
    _run("an attempt is entered twice", "if self._entered:", "if False:", _COLOURS),
    _run("a missing block is not noticed", "if not self._entered:", "if False:", _COLOURS),
    _run("a loop does not deposit", "if self.number == 1 and retry._budget is not None:", "if False:"),
    _run("a loop deposits every attempt", "if self.number == 1 and retry._budget", "if retry._budget"),
    _run(
        "a block's cancellation is repeated",
        "if isinstance(error, Exception):\n            self._wait",
        "if error is not None:\n            self._wait",
        _COLOURS,
    ),
    _run(
        "a block's errors are swallowed",
        "return error is not None and self._wait is not None",
        "return error is not None",
        _COLOURS,
    ),
    _run("a block's number stays", "        self._numbered.__exit__()\n", "", _COLOURS),
    _run("a block's number is not set", "numbered(self.number)", "numbered(1)", _COLOURS),
    _run(
        "a strategy of somebody else is taken for a known one",
        "    *(type(None), tenacity.stop_after_attempt,",
        "    *(type(None), type(lambda: None), tenacity.stop_after_attempt,",
        _FIT,
    ),
    _run(
        "a block's result is not judged",
        "elif error is None and self._result is not None and",
        "elif False and",
        _COLOURS,
    ),
    _run("an async condition is taken for true", "    _arguments.plain(name, value)\n", "", _ARGUMENTS),
    _run("an async condition hides in a combination", "(tenacity.retry_any, tenacity.retry_all)", "()", _ARGUMENTS),
    _run(
        "a combination hides stop_before_delay", 'or any(map(looks_ahead, getattr(stop, "stops", ())))', "", _STRATEGIES
    ),
    # The layer.
    _retry("no pause", "                self._clock.sleep(wait)\n", "", _MODEL),
    _retry("no pause for tasks", "                await self._clock.asleep(wait)\n", "", _MODEL),
    _retry("pauses are not told to breakers", _PAUSED, _PAUSED.replace("metered(wait)", "pass"), _HINTS),
    _retry("a report is kept", "            run.report = ()  # it holds", "            pass  # it holds", _CYCLES),
    _retry("first attempts are not deposited", "            self._budget.deposit()\n", "            pass\n", _BASICS),
    _retry("a retry_base is not shown the arguments", "not isinstance(self._on, retry_base) and", "", _FIT),
    _retry(
        "an inner retry takes the outer number",
        f"{_NESTED}return self._repeat(",
        "            if False:\n                return self._repeat(",
        _HINTS,
    ),
    _retry(
        "an inner async retry takes the outer number",
        f"{_NESTED}return await",
        "            if False:\n                return await",
        _HINTS,
    ),
    _retry(
        "a Task is kept in its own traceback",
        "                del result  # a Task holds",
        "                pass  # a Task holds",
        _CYCLES,
    ),
    _retry(
        "async preparations of plain functions",
        '            raise TypeError(f"before_retry is asynchronous, but',
        '            print(f"before_retry is asynchronous, but',
        _HINTS,
    ),
    _retry(
        "results are not judged",
        "self._judges_results = self._retry_if is not None or self._inspects_results",
        "self._judges_results = False",
        _BASICS,
    ),
    _retry(
        "the start is not kept for stop",
        "self._budget is not None or self._stop is not None or",
        "self._budget is not None or",
        _STRATEGIES,
    ),
    _retry(
        "a generator loses its number",
        "functools.partial(numbered, number), lambda: first",
        "functools.partial(numbered, 1), lambda: first",
        _COLOURS,
    ),
    _retry(
        "an async generator loses its number",
        "Stream(inner, functools.partial(numbered, number), begun)",
        "Stream(inner, functools.partial(numbered, 1), begun)",
        _COLOURS,
    ),
]
