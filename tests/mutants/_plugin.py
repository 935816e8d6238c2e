"""The pytest plugin of a mutant's run: the copy is what is tested, failing examples are not shrunk, durations are kept.

It is loaded by `python -m tests.mutants` alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = "RESILIENCE_MUTANTS_ROOT"
DURATIONS = "RESILIENCE_MUTANTS_DURATIONS"

_durations: dict[str, float] = {}


def pytest_configure() -> None:
    """After the conftest has loaded its profile. Nobody reads the example, so finding one is enough."""
    found = importlib.util.find_spec("resilience")
    origin = Path(found.origin).resolve() if found is not None and found.origin else None
    wanted = Path(os.environ[ROOT]).resolve() / "resilience" / "__init__.py"
    if origin != wanted:
        raise pytest.UsageError(f"the tests would import {origin}, not {wanted}")
    settings.register_profile("mutants", settings.get_profile("default"), phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutants")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _durations[report.nodeid] = _durations.get(report.nodeid, 0.0) + report.duration


def pytest_unconfigure() -> None:
    if DURATIONS in os.environ:
        Path(os.environ[DURATIONS]).write_text(json.dumps(_durations), "utf-8")
