"""Random mutants: small generic edits of the machines, a sample of which is tried beside the named ones.

Which edits are in the sample depends on the seed and on each edit alone, so a change of the code leaves the rest of the
sample as it was.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

FILES = tuple(
    f"resilience/{name}.py"
    for name in (
        "_attempts",
        "_buckets",
        "_circuit",
        "_limits",
        "_machine",
        "_shelf",
        "_ticket",
        "_timers",
        "_wait",
        "_window",
        "budget",
        "bulkhead",
        "deadline",
        "keyed",
    )
)

_SWAPPED: dict[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.LtE(),
    ast.LtE: ast.Lt(),
    ast.Gt: ast.GtE(),
    ast.GtE: ast.Gt(),
    ast.Eq: ast.NotEq(),
    ast.NotEq: ast.Eq(),
    ast.Is: ast.IsNot(),
    ast.IsNot: ast.Is(),
    ast.In: ast.NotIn(),
    ast.NotIn: ast.In(),
}
_DELETABLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.Raise, ast.Return, ast.Delete, ast.Break, ast.Continue)


@dataclass(frozen=True)
class Edit:
    """One generic mutation: `start` to `end` of the source becomes `text`. `label` names it: "old line => new line"."""

    file: str
    start: int
    end: int
    text: str
    label: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


def edits(file: str, source: str) -> list[Edit]:
    """Every generic mutation of a source file."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, text in _mutations(ast.parse(source)):
        if not source.isascii():  # columns of the syntax tree count bytes
            start, end = (
                starts[line - 1] + len(source.splitlines()[line - 1].encode()[:column].decode())
                for line, column in ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
            )
        else:
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        line_start = source.rindex("\n", 0, start) + 1
        if source[line_start:end].strip() in {"return", "break", "continue"}:  # the line before says which one
            line_start = source.rindex("\n", 0, line_start - 1) + 1
        line_end = source.index("\n", end)
        before = source[line_start:line_end]
        after = source[line_start:start] + text + source[end:line_end]
        found.append(Edit(file, start, end, text, f"{' '.join(before.split())} => {' '.join(after.split())}"))
    return found


def sample(found: list[Edit], size: int, seed: int) -> list[Edit]:
    """`size` of the edits, the same ones for the same seed."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for edit in found:
        key = (edit.file, edit.label)
        seen[key] += 1
        ranked.append((hashlib.sha256(f"{seed} {key} {seen[key]}".encode()).digest(), edit))
    ranked.sort(key=lambda pair: pair[0])
    return [edit for _, edit in ranked[:size]]


def _mutations(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Pairs of a node and the text that is to take its place."""
    for child in _children(tree):
        if isinstance(child, ast.expr):
            for new in _expressions(child):
                yield child, f"({ast.unparse(new)})"
        elif isinstance(child, _DELETABLE) and not _is_docstring(child):
            if ast.unparse(child).startswith("__slots__"):
                continue  # they change nothing but the memory taken
            yield child, "pass"
        yield from _mutations(child)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The children that do something when the program runs. F-strings have no usable positions on Python 3.11."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
                yield child


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[place] = _SWAPPED[type(operator)]
            yield changed
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)
