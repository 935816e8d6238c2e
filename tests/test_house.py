"""The rules of the house, read from the source: what may import what, where time comes from, how large a file gets.

The rules are functions of a folder, so that each is also tried on a small package that breaks it.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import resilience

PACKAGE = "resilience"
ROOT = Path(resilience.__file__).parent

# Lowest first. A module imports modules of the lines above its own, never one of the same line.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("exceptions",),
    ("_arguments", "_fit"),
    ("clock",),
    ("_layer",),
    ("deadline",),
    ("correlation",),
    ("events",),
    ("_ticket", "_lock"),
    ("_machine",),
    ("_wait", "_notes"),
    ("_policy",),
    ("_window", "_limited"),
    (
        *("_circuit", "_limits", "_attempts", "_timers", "_worker", "_directory", "_leaky_bucket"),
        *("_slot", "_errand", "_ledger", "_keys"),
    ),
    ("_buckets", "_failures", "_shelf", "_ledger_circuit", "_courier"),
    ("_stock", "store"),
    ("_lease", "_acquisition", "_asking", "_local_tokens", "_memory_store", "_shared_budget"),
    ("_injection", "_shared_bulkhead", "_shared_circuit", "_shared_limiter"),
    ("_limiter_questions", "budget"),
    ("circuit_breaker", "retry", "bulkhead", "rate_limiter", "throttle", "timeout", "pool"),
    ("keyed",),
    ("pipeline",),
    ("testing",),
    ("__init__",),
)
HEIGHT = {module: height for height, layer in enumerate(LAYERS) for module in layer}
# For tests of code that uses the package; the package itself never loads it.
IMPORTED_BY_NOTHING = "testing"

TIME_MODULE = "clock"
SLEEPERS = frozenset({"asyncio", "time"})
MAX_LINES = 400
NAMES_THAT_SAY_NOTHING = frozenset({"utils", "helpers", "base", "types", "common", "misc"})

Rule = Callable[[Path], list[str]]


def modules(root: Path) -> dict[str, Path]:
    """Every module below `root` by its dotted name, without the name of the package."""
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.rglob("*.py"))}


def statements(path: Path) -> Iterator[ast.AST]:
    """Every node of a file, those inside functions and under `if TYPE_CHECKING:` included."""
    return ast.walk(ast.parse(path.read_text("utf-8"), filename=str(path)))


def imported_names(module: str, node: ast.AST) -> list[str]:
    """The absolute dotted names an import statement asks for: `from a import b` is `a.b`; not an import is nothing."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        folder = f"{PACKAGE}.{module}".split(".")
        origin = [*folder[: len(folder) - node.level], *([node.module] if node.module else [])]
        parts = origin if node.level else [node.module or ""]
        return [".".join([*parts, alias.name]) for alias in node.names]
    return []


def imports_that_climb(root: Path) -> list[str]:
    """Imports of a module that is not below the one that imports it."""
    found = modules(root)
    problems = []
    for module, path in found.items():
        if module not in HEIGHT:
            problems.append(f"{module} has no place in the import order: add it to LAYERS in {Path(__file__).name}")
            continue
        for node in statements(path):
            for name in imported_names(module, node):
                top, _, rest = name.partition(".")
                if top != PACKAGE:
                    continue
                first = rest.partition(".")[0]
                target = first if first in found or first in HEIGHT else "__init__"
                where = f"{module}:{getattr(node, 'lineno', 0)} imports {target}"
                if target == IMPORTED_BY_NOTHING:
                    problems.append(f"{where}, which is for tests only")
                elif HEIGHT.get(target, -1) >= HEIGHT[module]:
                    problems.append(f"{where}, which is not below it")
    return list(dict.fromkeys(problems))


def time_read_elsewhere(root: Path) -> list[str]:
    """Imports of the time outside the clock; of `datetime`, durations are all that is wanted anywhere."""
    problems = []
    for module, path in modules(root).items():
        for node in statements(path):
            for name in imported_names(module, node):
                where = f"{module}:{getattr(node, 'lineno', 0)} imports {name}"
                top = name.partition(".")[0]
                if top == "time" and module != TIME_MODULE:
                    problems.append(f"{where}: only {TIME_MODULE} reads the time")
                if top == "datetime" and name != "datetime.timedelta":
                    problems.append(f"{where}: only timedelta is wanted of datetime")
    return problems


def sleeps_elsewhere(root: Path) -> list[str]:
    """Uses of a sleep function outside the clock, under whatever name it was imported."""
    problems = []
    for module, path in modules(root).items():
        if module == TIME_MODULE:
            continue
        nodes = list(statements(path))
        known_as: dict[str, str] = {}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias, name in zip(node.names, imported_names(module, node), strict=True):
                    known_as[alias.asname or alias.name] = name
                    if is_sleep(name):
                        problems.append(f"{module}:{node.lineno} imports {name}")
        for node in nodes:
            if isinstance(node, ast.Attribute):
                left, dot, right = ast.unparse(node).partition(".")
                name = known_as.get(left, left) + dot + right
                if is_sleep(name):
                    problems.append(f"{module}:{node.lineno} uses {name}")
    return problems


def is_sleep(name: str) -> bool:
    """Whether a dotted name is a sleep function, `asyncio.tasks.sleep` included."""
    parts = name.split(".")
    return parts[0] in SLEEPERS and parts[-1] == "sleep"


def files_too_long(root: Path) -> list[str]:
    """Modules of 400 lines or more."""
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in modules(root).items()}
    return [f"{module} has {length} lines" for module, length in lengths.items() if length >= MAX_LINES]


def names_that_say_nothing(root: Path) -> list[str]:
    """Modules and folders named after no idea in particular."""
    return [
        f"{module} says nothing about what is in it"
        for module in modules(root)
        if NAMES_THAT_SAY_NOTHING & {part.strip("_") for part in module.split(".")}
    ]


def type_marker_missing(root: Path) -> list[str]:
    """The marker that tells type checkers to use the annotations."""
    return [] if (root / "py.typed").is_file() else ["py.typed is missing"]


# --- the package keeps the rules -------------------------------------------------------------------------------------


def test_a_module_imports_only_modules_below_it() -> None:
    assert_kept(imports_that_climb)


def test_only_the_clock_reads_the_time() -> None:
    assert_kept(time_read_elsewhere)


def test_only_the_clock_sleeps() -> None:
    assert_kept(sleeps_elsewhere)


def test_every_file_stays_under_400_lines() -> None:
    assert_kept(files_too_long)


def test_every_file_is_named_after_an_idea() -> None:
    assert_kept(names_that_say_nothing)


def test_the_package_is_marked_as_typed() -> None:
    assert_kept(type_marker_missing)


def test_the_source_is_where_these_rules_look_for_it() -> None:
    assert "__init__" in modules(ROOT)


# --- each rule notices what it is for --------------------------------------------------------------------------------


BROKEN: list[tuple[Rule, str, str, str]] = [
    (imports_that_climb, "clock", "from resilience.retry import Retry", "clock:1 imports retry"),
    (imports_that_climb, "clock", "from .retry import Retry", "clock:1 imports retry"),
    (imports_that_climb, "clock", "from .retry import Retry, stop", "clock:1 imports retry"),
    (imports_that_climb, "clock", "from . import retry", "clock:1 imports retry"),
    (imports_that_climb, "clock", "from resilience import retry", "clock:1 imports retry"),
    (imports_that_climb, "clock", "import resilience.retry as r", "clock:1 imports retry"),
    (imports_that_climb, "clock", "import json, resilience.retry", "clock:1 imports retry"),
    (imports_that_climb, "clock", "def f():\n    from .retry import Retry", "clock:2 imports retry"),
    (imports_that_climb, "clock", "if TYPE_CHECKING:\n    from .retry import Retry", "clock:2 imports retry"),
    (imports_that_climb, "clock", "from resilience import Retry", "clock:1 imports __init__"),
    (imports_that_climb, "clock", "import resilience", "clock:1 imports __init__"),
    (imports_that_climb, "bulkhead", "from .retry import Retry", "bulkhead:1 imports retry"),
    (imports_that_climb, "clock", "from .clock import now", "clock:1 imports clock"),
    (imports_that_climb, "pipeline", "from .testing import ManualClock", "pipeline:1 imports testing, which"),
    (imports_that_climb, "__init__", "from .testing import ManualClock", "__init__:1 imports testing, which"),
    (imports_that_climb, "gizmo", "", "gizmo has no place in the import order"),
    (imports_that_climb, "redis/store", "", "redis.store has no place in the import order"),
    (time_read_elsewhere, "retry", "import time", "retry:1 imports time"),
    (time_read_elsewhere, "retry", "import time as t", "retry:1 imports time"),
    (time_read_elsewhere, "retry", "from time import monotonic", "retry:1 imports time.monotonic"),
    (time_read_elsewhere, "retry", "def f():\n    import time", "retry:2 imports time"),
    (time_read_elsewhere, "retry", "import datetime", "retry:1 imports datetime"),
    (time_read_elsewhere, "retry", "from datetime import datetime", "retry:1 imports datetime.datetime"),
    (time_read_elsewhere, "clock", "from datetime import UTC, timedelta", "clock:1 imports datetime.UTC"),
    (sleeps_elsewhere, "retry", "import asyncio\nawait asyncio.sleep(1)", "retry:2 uses asyncio.sleep"),
    (sleeps_elsewhere, "retry", "import asyncio as a\nwait = a.sleep", "retry:2 uses asyncio.sleep"),
    (sleeps_elsewhere, "retry", "import asyncio\nasyncio.tasks.sleep(1)", "retry:2 uses asyncio.tasks.sleep"),
    (sleeps_elsewhere, "retry", "from asyncio import tasks as t\nt.sleep(1)", "retry:2 uses asyncio.tasks.sleep"),
    (sleeps_elsewhere, "retry", "from asyncio import sleep as s", "retry:1 imports asyncio.sleep"),
    (sleeps_elsewhere, "retry", "import time\ntime.sleep(1)", "retry:2 uses time.sleep"),
    (files_too_long, "retry", "x = 1\n" * 400, "retry has 400 lines"),
    (names_that_say_nothing, "utils", "", "utils says nothing"),
    (names_that_say_nothing, "_base", "", "_base says nothing"),
    (names_that_say_nothing, "common/clock", "", "common.clock says nothing"),
]


@pytest.mark.parametrize("rule,module,source,problem", BROKEN)
def test_a_broken_rule_is_reported_with_its_place(
    tmp_path: Path, rule: Rule, module: str, source: str, problem: str
) -> None:
    write_package(tmp_path, {"retry": "", module: source})
    problems = rule(tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


@pytest.mark.parametrize(
    "rule", [imports_that_climb, time_read_elsewhere, sleeps_elsewhere, files_too_long, names_that_say_nothing]
)
def test_a_package_that_keeps_the_rules_is_left_in_peace(tmp_path: Path, rule: Rule) -> None:
    write_package(
        tmp_path,
        {
            "clock": "import asyncio, time\nfrom datetime import timedelta\nwait = asyncio.sleep, time.sleep",
            "retry": "from .clock import Clock\nfrom resilience import clock\nimport tenacity, resilience.exceptions",
            "pipeline": "from . import retry\nself.clock.sleep(1)\nclock.asleep(1)\nruntime.sleep(1)",
            "testing": "from .pipeline import Pipeline",
            "__init__": "from .pipeline import Pipeline\nfrom .exceptions import ResilienceError",
            "bulkhead": "x = 1\n" * 399,
        },
    )
    assert rule(tmp_path) == []


def test_a_missing_type_marker_is_reported(tmp_path: Path) -> None:
    assert type_marker_missing(tmp_path) == ["py.typed is missing"]


def assert_kept(rule: Rule) -> None:
    problems = rule(ROOT)
    assert not problems, "\n".join(problems)


def write_package(root: Path, sources: dict[str, str]) -> None:
    for module, source in sources.items():
        path = root / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, "utf-8")
