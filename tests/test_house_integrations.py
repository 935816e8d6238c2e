"""The rules of the house for the integrations: what each may import, and the public surface of each."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from tests.test_house import (
    Rule,
    files_too_long,
    imported_names,
    modules,
    names_that_say_nothing,
    sleeps_elsewhere,
    statements,
    time_read_elsewhere,
    type_marker_missing,
    write_package,
)

# What each package may import beside the standard library and itself. HTTP semantics know no client and no server.
ALLOWED: dict[str, frozenset[str]] = {
    "resilience": frozenset({"tenacity", "aiolimiter", "structlog"}),
    "resilience_http": frozenset({"resilience"}),
    "resilience_httpx": frozenset({"resilience", "resilience_http", "httpx", "httpcore"}),
    "resilience_httpx2": frozenset({"resilience", "resilience_http", "httpx2", "httpcore2"}),
    "resilience_asgi": frozenset(
        {"resilience", "resilience_http", "structlog", "starlette", "fastapi"}
    ),  # the frameworks for `dependency` alone
    "resilience_redis": frozenset({"resilience", "redis"}),
}
INTEGRATIONS = sorted(ALLOWED.keys() - {"resilience"})


def folder(package: str) -> Path:
    return Path(importlib.import_module(package).__file__ or "").parent


def strangers_imported(root: Path, package: str) -> list[str]:
    """Imports of what a package has no business with."""
    allowed = ALLOWED[package] | sys.stdlib_module_names | {package}
    problems = []
    for module, path in modules(root).items():
        for node in statements(path):
            if isinstance(node, ast.ImportFrom) and node.level:
                continue
            where = f"{package}.{module}:{getattr(node, 'lineno', 0)}"
            strangers = [name for name in imported_names(module, node) if name.partition(".")[0] not in allowed]
            problems += [f"{where} imports {name}" for name in strangers]
    return problems


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_stands_on(package: str) -> None:
    assert strangers_imported(folder(package), package) == []


@pytest.mark.parametrize("package", INTEGRATIONS)
@pytest.mark.parametrize(
    "rule", [time_read_elsewhere, sleeps_elsewhere, files_too_long, names_that_say_nothing, type_marker_missing]
)
def test_an_integration_keeps_the_rules_of_the_core(package: str, rule: Rule) -> None:
    assert rule(folder(package)) == []


@pytest.mark.parametrize("package", INTEGRATIONS)
def test_the_public_names_of_an_integration_are_sorted_and_there(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", INTEGRATIONS)
def test_every_public_class_and_function_of_an_integration_is_documented(package: str) -> None:
    undocumented = []
    for module, path in modules(folder(package)).items():
        tree = ast.parse(path.read_text("utf-8"))
        if not ast.get_docstring(tree):
            undocumented.append(module)
        undocumented += [
            f"{module}.{node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
            and not any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)
            and not ast.get_docstring(node)
        ]
    assert undocumented == []


@pytest.mark.parametrize(
    "source,problem",
    [
        ("import httpx", "resilience_http.retry:1 imports httpx"),
        ("def f():\n    from redis.asyncio import Redis", "resilience_http.retry:2 imports redis.asyncio.Redis"),
        ("import json, httpcore", "resilience_http.retry:1 imports httpcore"),
    ],
)
def test_a_stranger_is_reported_with_its_place(tmp_path: Path, source: str, problem: str) -> None:
    write_package(tmp_path, {"retry": source, "other": "from . import retry\nimport json, resilience.clock"})
    assert strangers_imported(tmp_path, "resilience_http") == [problem]
