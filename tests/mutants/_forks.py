"""A process that has loaded all that the mutants leave alone, and forks for each run of the tests.

Started as a script by `python -m tests.mutants`, in the folder of a copy. It reads lines of JSON (the arguments of
pytest, what to add to the environment, the file for the output) and answers with two lines each: the process id of the
run, which is also its process group, and how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import _pytest.config
import pytest

PLUGINS = [importlib.import_module(name) for name in ("_hypothesis_pytestplugin", "pytest_asyncio.plugin")]
# Loaded here they are loaded once. Nothing of the project is among them.
for _name in (
    *(f"_pytest.{plugin}" for plugin in _pytest.config.default_plugins),
    *("aiolimiter", "hypothesis.stateful", "structlog", "tenacity", "tenacity.asyncio", "unittest.mock"),
):
    importlib.import_module(_name)


def run(order: dict[str, Any]) -> None:
    """Run pytest in this process, a fresh fork, and leave."""
    code = 1
    try:
        os.setsid()
        os.environ.update(order["environment"])
        for stream, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
            os.dup2(os.open(order["output"] if stream else os.devnull, flags), stream)
        os.dup2(1, 2)
        code = int(pytest.main(order["arguments"], plugins=PLUGINS))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Serve until standard input closes."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
