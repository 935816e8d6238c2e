"""The demo as a user runs it: its table, its exit statuses, and that it leaves nothing running.

Nothing is asserted here that hangs on how busy this machine is; what the table compares is tested in virtual time.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "examples.demo", "--quick")
LIMIT = 120.0  # seconds that only a broken demo needs
ENDING = 20.0  # seconds to end in, where a quarter of one is usual
STARTED = re.compile(r"(\S.*\S)  +calls the service on port (\d+), process (\d+)")
CALLERS = ["naked", "naive retries", "guarded"]
ROWS = {
    "Success rate",
    "healthy",
    "30 % errors",
    "latency spikes",
    "full outage",
    "recovery",
    "Latency p50",
    "Latency p99",
    "p99 of answered calls",
    "p50 of all others",
    "Requests per user call",
    "Time to notice the outage",
    "Time to recover",
    "Refused in under 1 ms",
}


@dataclass(frozen=True)
class Run:
    """A demo that ran to its end."""

    status: int
    output: str
    errors: str

    def row(self, label: str) -> dict[str, str]:
        """What the table says under a label (the first one, where it says the same twice), by caller."""
        cells = next(row for row in self.rows() if row[0] == label)
        return dict(zip(CALLERS, cells[1:], strict=True))

    def rows(self) -> list[list[str]]:
        lines = [line for line in self.output.splitlines() if line.startswith("│")]
        return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.fixture(scope="module")
def run() -> Run:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=LIMIT, check=False)
    return Run(done.returncode, done.stdout, done.stderr)


# --- a whole run -----------------------------------------------------------------------------------------------------


def test_the_demo_ends_well_and_without_a_complaint(run: Run) -> None:
    assert (run.status, run.errors) == (0, "")


def test_every_caller_has_a_service_of_its_own_and_none_is_left_running(run: Run) -> None:
    started = STARTED.findall(run.output)
    assert sorted(caller for caller, _, _ in started) == sorted(CALLERS * (2 if "once more" in run.output else 1))
    assert len({pid for _, _, pid in started}) == len(started)
    for _, port, pid in started:
        assert not is_alive(int(pid))
        assert not is_served(int(port))


def test_progress_is_told_phase_by_phase(run: Run) -> None:
    for phase in ("healthy", "30 % errors", "latency spikes", "full outage", "recovery"):
        assert re.search(rf" *[\d.]+ – +[\d.]+ s  {phase} +[\d.]+ % +[\d.]+ % +[\d.]+ %", run.output)
    assert run.output.index("the service goes down") < run.output.index("the service is back")


def test_the_table_answers_every_question(run: Run) -> None:
    assert {row[0] for row in run.rows()} == ROWS
    assert all(cell for row in run.rows() for cell in row)


def test_only_the_guarded_caller_can_notice_the_outage_and_refuse_calls(run: Run) -> None:
    noticed, refused = run.row("Time to notice the outage"), run.row("Refused in under 1 ms")
    assert noticed["naked"] == noticed["naive retries"] == "never"
    assert refused["naked"] == refused["naive retries"] == "-"
    assert re.fullmatch(r"never|[\d.]+ m?s", noticed["guarded"])
    assert re.fullmatch(r"-|[\d,]+ of [\d,]+", refused["guarded"])


# --- a run cut short -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_demo_and_its_services_without_a_word(number: signal.Signals, status: int) -> None:
    with started() as (demo, port, pid):
        demo.send_signal(number)
        output, errors = demo.communicate(timeout=ENDING)
        assert (demo.returncode, errors) == (status, "")
        for process, served in [(pid, port), *((int(pid), int(port)) for _, port, pid in STARTED.findall(output))]:
            assert not is_alive(process)
            assert not is_served(served)


def test_the_service_ends_even_if_the_demo_is_killed() -> None:
    with started() as (demo, port, _):
        assert is_served(port)
        demo.kill()
        demo.wait(ENDING)
        limit = time.monotonic() + ENDING
        while is_served(port) and time.monotonic() < limit:
            time.sleep(0.01)
        assert not is_served(port)


@contextmanager
def started() -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A demo that has just begun, with the port and the process id of its first service."""
    # A run started in the background of a shell ignores Ctrl-C, and what it starts would inherit that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        demo = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    finally:
        signal.signal(signal.SIGINT, handler)
    with demo:
        try:
            assert demo.stdout is not None
            first = STARTED.match(demo.stdout.readline())
            assert first is not None
            yield demo, int(first[2]), int(first[3])
        finally:
            demo.kill()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_served(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=ENDING).close()
    except ConnectionError:
        return False
    return True
