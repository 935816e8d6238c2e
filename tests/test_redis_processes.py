"""Several processes on one real server: one limit, one circuit, one bulkhead, also when one of them is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples import two_instances
from resilience.clock import SYSTEM, give_way

ROOT = Path(__file__).resolve().parent.parent


class Worker:
    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.redis_worker", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def do(self, command: str) -> int:
        self.begin(command)
        return self.answer()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def workers(redis_server: Any) -> Iterator[list[Worker]]:
    workers = [Worker(redis_server.url) for _ in range(4)]
    yield workers
    for worker in workers:
        worker.kill()


def test_four_processes_keep_one_limit_one_circuit_and_one_bulkhead(workers: list[Worker]) -> None:
    for worker in workers:
        worker.begin("limit 40")
    assert sum(worker.answer() for worker in workers) == 100

    fences = [worker.do("hold") for worker in workers]
    assert fences[3] == 0
    assert 0 < fences[0] < fences[1] < fences[2]
    workers[0].kill()  # it holds a slot, which it will never give back
    assert workers[3].do("hold") == 0
    began = SYSTEM.now()
    while not (fence := workers[3].do("hold")):
        assert SYSTEM.now() - began < 30.0
        give_way(0.05)
    assert fence > fences[2]
    assert workers[3].do("hold") == 0  # those of the living are renewed

    passed = 0
    for turn in range(60):
        passed += workers[1 + turn % 3].do("fail")
        give_way(0.02)
    assert 8 <= passed <= 20
    give_way(1.2)
    assert [worker.do("try") for worker in workers[1:]] == [0, 0, 0]


def test_the_example_of_two_instances_resets_nothing(redis_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    two_instances.main(redis_server.url)
    assert capsys.readouterr().out.splitlines() == [
        f"both, in turns: {[200] * 8}",
        f"one restarted:  {[200, 200, 429, 429]}",
    ]
