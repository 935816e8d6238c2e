"""What `import resilience` promises: its names, their order, and a word about each."""

import ast
import tomllib
from pathlib import Path

import pytest

import resilience

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(resilience.__file__).parent
MODULES = sorted(SOURCE.glob("*.py"))
ASSIGNED_IN_INIT = {"__all__", "__version__"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def assigned_names(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {ast.unparse(target) for target in targets}


def is_overload(node: Definition) -> bool:
    return any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)


def test_the_public_names_are_sorted_and_unique() -> None:
    assert list(resilience.__all__) == sorted(set(resilience.__all__))


@pytest.mark.parametrize("name", resilience.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    assert hasattr(resilience, name)


def test_every_name_the_package_imports_is_public() -> None:
    imported = {
        alias.asname or alias.name
        for node in parse(SOURCE / "__init__.py").body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    private = {name for name in imported if name.startswith("_")}
    assert imported - private == set(resilience.__all__) - ASSIGNED_IN_INIT


def test_the_package_file_holds_a_docstring_imports_and_its_names_only() -> None:
    tree = parse(SOURCE / "__init__.py")
    assert ast.get_docstring(tree)
    others = [
        ast.unparse(node)
        for node in tree.body[1:]
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and not (assigned_names(node) and assigned_names(node) <= ASSIGNED_IN_INIT)
    ]
    assert others == []


def test_the_version_is_the_one_of_the_distribution() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert getattr(resilience, "__version__", declared) == declared


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_and_its_public_classes_and_functions_are_documented(path: Path) -> None:
    tree = parse(path)
    undocumented = [
        node.name
        for node in tree.body
        if isinstance(node, Definition)
        and not node.name.startswith("_")
        and not is_overload(node)
        and not ast.get_docstring(node)
    ]
    assert ast.get_docstring(tree)
    assert undocumented == []
