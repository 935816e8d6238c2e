"""A copy of the project in which mutants are tried, one at a time, each by a fork of a process that has all loaded."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import _plugin

PROJECT = Path(__file__).resolve().parents[2]
COPIED = ("resilience", "integrations", "tests", "examples", "pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
PYTEST = ("-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider", "-p", _plugin.__name__)

KILLED, HUNG, UNIMPORTABLE = "killed", "killed (hung)", "killed (import fails)"
SURVIVED, ERROR = "SURVIVED", "ERROR"


@dataclass(frozen=True)
class Job:
    """One mutant to try: the new text of `file`, and the pytest arguments that should fail with it."""

    name: str
    file: str
    source: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    job: Job
    result: str
    seconds: float
    output: str


class Copy:
    """A copy of the project in which one mutant at a time is tried."""

    # The modification time in whole seconds and the size are all that tells Python whether bytecode is stale, so every
    # version of every file gets a time of its own.
    _times = itertools.count(1_000_000_000)

    def __init__(self, root: Path) -> None:
        self.root = root
        self._forks: subprocess.Popen[bytes] | None = None
        self._group: int | None = None  # of the processes of the run that is on
        for name in COPIED:
            source = PROJECT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            elif source.exists():
                shutil.copy(source, root / name)

    def write(self, file: str, source: str) -> None:
        path = self.root / file
        path.write_text(source, "utf-8")
        moment = next(self._times)
        os.utime(path, (moment, moment))

    def pytest(self, *arguments: str, limit: float, durations: Path | None = None) -> tuple[int | None, str]:
        """Exit code (None: it had to be stopped) and output of pytest in this copy."""
        if self._forks is None or self._forks.poll() is not None:
            self._forks = self._started("-P", str(self.root / "tests/mutants/_forks.py"))
        forks, output = self._forks, self.root / "output.txt"
        assert forks.stdin is not None
        order = {
            "arguments": [*PYTEST, *arguments],
            "environment": {} if durations is None else {_plugin.DURATIONS: str(durations)},
            "output": str(output),
        }
        forks.stdin.write(json.dumps(order).encode() + b"\n")
        self._group = int(self._answer(None))
        try:
            code = int(self._answer(limit))
        except TimeoutError:
            self._end_group()
            self._answer(None)
            return None, f"stopped after {limit:.0f} s"
        finally:
            self._end_group()
        return code, output.read_text("utf-8", "replace")

    def is_importable(self) -> tuple[bool, str]:
        """Whether the package can still be imported in this copy, and what was said about it."""
        with self._started("-c", "import resilience, resilience.testing", stderr=subprocess.STDOUT) as process:
            self._group = process.pid
            try:
                output, _ = process.communicate(timeout=60.0)
            except subprocess.TimeoutExpired:
                output = b"it hangs"
            self._end_group()
        return process.returncode == 0, output.decode("utf-8", "replace")

    def stop(self) -> None:
        """End the processes that run here with all that they started; nothing may be left running behind a mutant."""
        self._end_group()
        if self._forks is not None:
            self._forks.kill()
            self._forks.wait()

    def _started(self, *arguments: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        environment |= {
            "PYTHONPATH": os.pathsep.join((str(self.root), str(self.root / "integrations"))),
            "PYTHONHASHSEED": "0",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            _plugin.ROOT: str(self.root),
        }
        return subprocess.Popen(
            (sys.executable, *arguments),
            cwd=self.root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            bufsize=0,
        )

    def _answer(self, limit: float | None) -> bytes:
        assert self._forks is not None
        assert self._forks.stdout is not None
        if not select.select([self._forks.stdout], [], [], limit)[0]:
            raise TimeoutError
        return self._forks.stdout.readline()

    def _end_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            with suppress(ProcessLookupError):  # they have all ended by themselves
                os.killpg(group, signal.SIGKILL)

    def try_mutant(self, job: Job, limit: float) -> Outcome:
        began = time.monotonic()
        original = (self.root / job.file).read_text("utf-8")
        self.write(job.file, job.source)
        try:
            code, output = self.pytest(*job.tests, limit=limit)
            if code is None:
                result = HUNG
            elif code == 0:
                result = SURVIVED
            elif code == 1 or code < 0:
                result = KILLED
            else:
                importable, trace = self.is_importable()
                result = ERROR if importable else UNIMPORTABLE
                output += trace
        finally:
            self.write(job.file, original)
        return Outcome(job, result, time.monotonic() - began, output)
