"""Single numbers with a bar each, for what does not compare cases of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

HEADINGS = ("what", "", "bar", "verdict")


@dataclass(frozen=True)
class Figure:
    """One number, and the least or the most it should be."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the bar holds; None where there is none."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def cells(self) -> tuple[str, ...]:
        bar = "" if self.least is None else f"≥ {self.least:g}"
        bar = bar if self.most is None else f"≤ {self.most:g}"
        value = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.3f}"
        return self.name, value, bar, "" if self.holds is None else "pass" if self.holds else "MISS"


def verdicts(figures: Sequence[Figure]) -> list[bool]:
    """Every bar, and whether it holds."""
    return [figure.holds for figure in figures if figure.holds is not None]


def print_table(title: str, figures: Sequence[Figure], console: Console) -> None:
    """Everything measured, and the count of the bars."""
    table = Table(title=title, title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading)
    for figure in figures:
        cells = figure.cells()
        table.add_row(*cells, style={"pass": "green", "MISS": "bold red"}.get(cells[-1], ""))
    console.print(table)
    held = verdicts(figures)
    console.print(f"{title}: {sum(held)} of {len(held)} bars hold.")


def markdown(title: str, about: str | None, figures: Sequence[Figure]) -> str:
    """A section of RESULTS.md; `about` says how it was measured."""
    held = verdicts(figures)
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(figure.cells() for figure in figures)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    paragraph = " ".join((about or "").split())
    return f"## {title[0].upper()}{title[1:]}\n\n{sum(held)} of {len(held)} bars hold. {paragraph}\n\n{table}\n"
