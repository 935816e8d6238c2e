"""Break the code one branch at a time and see that the tests notice: `python -m tests.mutants`.

All named mutants (`MUTANTS` in the modules of this package), and a sample of random ones on top, are applied one at a
time to a copy of the project, where the tests that should fail are run. A mutant is killed when they do, when they
hang, or when the package cannot be imported any more. Exit code 0 means that every mutant was killed.

A random mutant that changes nothing anybody could observe belongs into the list `EQUIVALENT` of one of the modules, as
`(file, "old line => new line", reason)`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import Mutant, _sample
from ._copy import ERROR, HUNG, KILLED, PROJECT, SURVIVED, UNIMPORTABLE, Copy, Job, Outcome

# -- what to try -------------------------------------------------------------------------------------------------------


def collected() -> tuple[list[Mutant], list[tuple[str, str, str]]]:
    """The named mutants and the reviewed equivalent ones of all modules of this package."""
    mutants: list[Mutant] = []
    equivalent: list[tuple[str, str, str]] = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith("_"):
            area = importlib.import_module(f"{__package__}.{module.name}")
            mutants += getattr(area, "MUTANTS", [])
            equivalent += getattr(area, "EQUIVALENT", [])
    return mutants, equivalent


def named_jobs(mutants: list[Mutant]) -> tuple[list[Job], list[str]]:
    """The mutants as jobs, and what is wrong with those that do not apply."""
    jobs, problems = [], []
    names: set[str] = set()
    for mutant in mutants:
        source = (PROJECT / mutant.file).read_text("utf-8")
        times = source.count(mutant.old)
        if times != 1:
            problems.append(f"{mutant.name}: `old` stands {times} times in {mutant.file}")
        elif mutant.old == mutant.new:
            problems.append(f"{mutant.name}: changes nothing")
        elif mutant.name in names:
            problems.append(f"{mutant.name}: two mutants have this name")
        elif not mutant.tests:
            problems.append(f"{mutant.name}: names no tests")
        else:
            jobs.append(Job(mutant.name, mutant.file, source.replace(mutant.old, mutant.new), mutant.tests))
        names.add(mutant.name)
    return jobs, problems


def random_jobs(
    mutants: list[Mutant], equivalent: list[tuple[str, str, str]], size: int, seed: int
) -> tuple[list[Job], list[str]]:
    """A sample of generic mutants; the tests of each are those of the named mutants of its file."""
    problems = []
    known = {(file, label) for file, label, _ in equivalent}
    tests: dict[str, dict[str, None]] = {}
    for mutant in mutants:
        tests.setdefault(mutant.file, {}).update(dict.fromkeys(mutant.tests))
    found: list[_sample.Edit] = []
    for file in _sample.FILES:
        source = (PROJECT / file).read_text("utf-8")
        edits = _sample.edits(file, source)
        stale = {label for name, label in known if name == file} - {edit.label for edit in edits}
        problems += [f"EQUIVALENT names no mutant of {file}: {label}" for label in sorted(stale)]
        if size == 0:
            continue
        if file in tests:
            found += [edit for edit in edits if (file, edit.label) not in known]
        else:
            problems.append(f"no named mutant says which tests are those of {file}")
    jobs = []
    for edit in _sample.sample(found, size, seed):
        source = (PROJECT / edit.file).read_text("utf-8")
        name = f"{edit.file}:{source.count(chr(10), 0, edit.start) + 1}: {edit.label}"
        jobs.append(Job(name, edit.file, edit.apply(source), _widest(tests[edit.file])))
    return jobs, problems


def _widest(tests: dict[str, None]) -> tuple[str, ...]:
    """Pytest arguments without those that are part of others."""
    return tuple(test for test in tests if not any(test.startswith(f"{other}::") for other in tests))


# -- running -----------------------------------------------------------------------------------------------------------


def baseline(copies: list[Copy], jobs: list[Job], scratch: Path) -> tuple[dict[str, float], list[str]]:
    """Run every test that any job names, unmutated: the durations by test, and what went wrong."""
    by_file: dict[str, list[str]] = {}
    for test in _widest(dict.fromkeys(test for job in jobs for test in job.tests)):
        by_file.setdefault(test.partition("::")[0], []).append(test)
    shares: list[list[str]] = [[] for _ in copies]
    for number, file in enumerate(sorted(by_file)):
        shares[number % len(shares)] += by_file[file]
    durations: dict[str, float] = {}
    problems: list[str] = []

    def check(number: int) -> None:
        if shares[number]:
            report = scratch / f"durations-{number}.json"
            code, output = copies[number].pytest(*shares[number], limit=1200.0, durations=report)
            if code == 0:
                durations.update(json.loads(report.read_text("utf-8")))
            else:
                problems.append(f"the tests fail without any mutant:\n{output}")

    _in_threads(check, len(copies))
    return durations, problems


def limit_of(job: Job, durations: dict[str, float]) -> float:
    """Seconds that a mutant may take: far more than its tests take unmutated."""
    usual = sum(
        seconds
        for node, seconds in durations.items()
        if any(node == test or node.startswith((f"{test}::", f"{test}[")) for test in job.tests)
    )
    return 30.0 + 5.0 * usual


def tried(copies: list[Copy], jobs: list[Job], durations: dict[str, float]) -> list[Outcome]:
    """Try every job, each in one of the copies; tells about each as it ends."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    outcomes: list[Outcome] = []
    speaking = threading.Lock()

    def work(number: int) -> None:
        while not stopped.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            outcome = copies[number].try_mutant(job, limit_of(job, durations))
            with speaking:
                outcomes.append(outcome)
                place = f"{len(outcomes):>{len(str(len(jobs)))}}/{len(jobs)}"
                print(f"{place}  {outcome.result:<22}{outcome.seconds:6.1f} s  {job.name}", flush=True)

    stopped = threading.Event()
    try:
        _in_threads(work, len(copies))
    finally:
        stopped.set()
    return outcomes


def checked_and_tried(copies: list[Copy], jobs: list[Job], scratch: Path) -> list[Outcome]:
    """Try the mutants if all their tests pass without any; no outcomes if they do not."""
    began = time.monotonic()
    durations, problems = baseline(copies, jobs, scratch)
    print(*problems, sep="\n", end="")
    if problems:
        return []
    print(f"{len(durations)} tests pass unmutated ({time.monotonic() - began:.0f} s); {len(jobs)} mutants", flush=True)
    return tried(copies, jobs, durations)


def _in_threads(work: Callable[[int], Any], count: int) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def table(outcomes: list[Outcome]) -> str:
    """Results by file."""
    kinds = (KILLED, HUNG, UNIMPORTABLE, SURVIVED, ERROR)
    files = sorted({outcome.job.file for outcome in outcomes})
    width = max(map(len, files), default=0)
    lines = [" " * width + "".join(f"{kind:>23}" for kind in kinds)]
    for file in [*files, ""]:
        counts = [sum(o.result == kind and file in {o.job.file, ""} for o in outcomes) for kind in kinds]
        lines.append(f"{file or 'together':<{width}}" + "".join(f"{count or '-':>23}" for count in counts))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="SUBSTR", help="only mutants with this in their name or file")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutants tried at a time (default 2)")
    parser.add_argument("--list", action="store_true", help="list the mutants and try none")
    parser.add_argument("--random", type=int, metavar="N", help="size of the random sample (default 40; 0 with --only)")
    parser.add_argument("--seed", type=int, default=1, help="which random sample (default 1)")
    options = parser.parse_args()
    began = time.monotonic()

    mutants, equivalent = collected()
    jobs, problems = named_jobs(mutants)
    size = options.random if options.random is not None else 0 if options.only else 40
    chosen, more = random_jobs(mutants, equivalent, size, options.seed)
    jobs += chosen
    problems += more
    if options.only:
        jobs = [job for job in jobs if options.only in job.name or options.only in job.file]
        problems = [problem for problem in problems if options.only in problem]
    if options.list:
        for job in jobs:
            print(f"{job.file:<34}{job.name}\n{'':<34}{' '.join(job.tests)}")
    for problem in problems:
        print(f"{ERROR}: {problem}")
    if options.list:
        return 1 if problems else 0
    if not jobs:
        print("no mutants to try")
        return 1

    with tempfile.TemporaryDirectory(prefix="resilience-mutants-") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(max(1, min(options.jobs, len(jobs))))]
        try:
            outcomes = checked_and_tried(copies, jobs, Path(folder))
        finally:
            for copy in copies:
                copy.stop()

    print(f"\n{table(outcomes)}")
    for outcome in outcomes:
        if outcome.result in {SURVIVED, ERROR}:
            print(f"\n{outcome.result}: {outcome.job.name}\n  tests: {' '.join(outcome.job.tests)}")
            if outcome.result is ERROR:
                print(outcome.output)
    alive = sum(outcome.result in {SURVIVED, ERROR} for outcome in outcomes)
    print(f"\n{len(outcomes) - alive} of {len(jobs)} killed in {time.monotonic() - began:.0f} s")
    return 1 if alive or problems or len(outcomes) < len(jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
