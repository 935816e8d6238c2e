"""The tables: in colour for the terminal, in Markdown for RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby

from rich.console import Console
from rich.table import Table

from . import machine, memory
from .measure import BARE, OURS, Effort, Measured, Ratio
from .memory import LIMIT_BYTES, Footprint

HEADINGS = ("row", "colour", "what", "µs", "ours / theirs", "quartiles", "bar", "verdict")
BAR_HEADINGS = ("row", "colour", "ours", "theirs", "µs", "ours / theirs", "quartiles", "bar", "verdict")
MEMORY_HEADINGS = (
    "what",
    "bytes a key, traced",
    "bytes a key, resident",
    "new keys/s",
    "live keys/s",
    "bar",
    "verdict",
)

METHOD = """\
All cases of all rows run in one process and one run. A round times each case of a row for {slice} ms, in random order;
there are {rounds} rounds in each of {passes} passes through all rows. A ratio is the median of the ratios within the
rounds; the quartiles beside it show how steady it was. Microseconds are medians and move with the machine. On the
success path both are taken above the bare call: `(guarded - bare)`. On the rejection and failure path nothing is
subtracted. A verdict is *close* when the bar lies between the quartiles: then the next run may say otherwise. The
garbage collector is off inside a round. Memory is measured in processes of its own with {keys} keys that exist
beforehand: by the growth of the resident size, and for ours by `tracemalloc` as well; both must stay within the bar.

Peers that are decorators decorate. `asyncio.timeout`, the semaphores, aiolimiter and limits stand as a block in a
function without parameters, the cheapest way to put one around a call, and the bars hold against the documented idiom;
a faster one, where there is one, has a line of its own. Configurations are equivalent, with two exceptions in the
peers' favour: circuitbreaker and pyresilience count consecutive failures where ours and nopanic keep a window of 30
seconds, and limits uses its cheapest strategy."""


@dataclass(frozen=True, slots=True)
class Line:
    """One case of one row, ready to print."""

    group: str
    row: str
    colour: str
    name: str
    micros: float
    ratio: Ratio | None = None
    bar: float | None = None
    spread: Ratio | None = None
    """Of the microseconds, if the bar is for them and not for the ratio."""

    @property
    def judged(self) -> Ratio | None:
        """What the bar is for."""
        return self.ratio if self.spread is None else self.spread

    @property
    def holds(self) -> bool | None:
        """Whether the bar holds; `None` without a bar."""
        return None if self.bar is None or self.judged is None else self.judged.median <= self.bar

    def cells(self) -> tuple[str, ...]:
        """The line as text, in the order of `HEADINGS`."""
        ratio = "" if self.ratio is None else f"{self.ratio.median:.2f}"
        spread = "" if self.judged is None else f"{self.judged.low:.2f} to {self.judged.high:.2f}"
        bar = "" if self.bar is None else f"≤ {self.bar:.2f}" if self.spread is None else f"≤ {self.bar:g} µs"
        return self.row, self.colour, self.name, f"{self.micros:.3f}", ratio, spread, bar, self._verdict()

    def _verdict(self) -> str:
        if self.bar is None or self.judged is None:
            return ""
        close = ", close" if self.judged.low <= self.bar <= self.judged.high else ""
        return ("pass" if self.holds else "MISS") + close


def lines(measured: Measured) -> Iterator[Line]:
    """The cases of a row in their order."""
    row = measured.row
    limits = {bar.peer: bar.limit for bar in row.bars}
    for name in measured.seconds:
        comparable = OURS in measured.seconds and name not in (OURS, BARE)
        limited = row.ceiling is not None and name == OURS
        yield Line(
            row.group,
            row.name,
            measured.colour,
            name,
            measured.cost(name) * 1e6,
            measured.ratio(name) if comparable else None,
            row.ceiling if limited else limits.get(name),
            measured.spread(name) if limited else None,
        )


def memory_holds(footprint: Footprint) -> bool | None:
    """Whether both ways of counting stay within the bar; `None` for peers."""
    if footprint.traced_bytes is None:
        return None
    return max(footprint.traced_bytes, footprint.resident_bytes or 0.0) <= LIMIT_BYTES


def memory_cells(footprint: Footprint) -> tuple[str, ...]:
    """One contestant as text, in the order of `MEMORY_HEADINGS`."""
    holds = memory_holds(footprint)
    return (
        footprint.name,
        _whole(footprint.traced_bytes),
        _whole(footprint.resident_bytes),
        f"{footprint.first_per_second:,.0f}",
        f"{footprint.live_per_second:,.0f}",
        "" if holds is None else f"≤ {LIMIT_BYTES:.0f}",
        "" if holds is None else ("pass" if holds else "MISS"),
    )


def _whole(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"


def print_tables(results: Sequence[Measured], footprints: Sequence[Footprint], console: Console) -> None:
    """Everything measured, a table for each group, and the count of the bars."""
    for group, rows in groupby(results, key=lambda measured: measured.row.group):
        measured_rows = list(rows)
        table = _table(group, HEADINGS)
        for measured in measured_rows:
            for number, line in enumerate(lines(measured)):
                cells = line.cells()
                table.add_row(*(cells if number == 0 else ("", "", *cells[2:])), style=_style(line.holds))
            table.add_section()
        console.print(table, *_notes(measured_rows), sep="\n")
    if footprints:
        table = _table(_memory_title(footprints), MEMORY_HEADINGS)
        for footprint in footprints:
            table.add_row(*memory_cells(footprint), style=_style(memory_holds(footprint)))
        console.print(table)
    console.print(_score(results, footprints))


def markdown(results: Sequence[Measured], footprints: Sequence[Footprint], effort: Effort, today: date) -> str:
    """The whole of RESULTS.md."""
    circumstances = {
        "Date": today.isoformat(),
        "Machine": machine.machine(),
        "Python": machine.python(),
        "Peers": machine.peers(),
    }
    parts = [
        "# Benchmark results",
        "Written by `python -m benchmarks`; do not edit by hand.",
        "\n".join(f"* {name}: {fact}" for name, fact in circumstances.items()),
        "## Bars",
        _score(results, footprints)
        + " Ours may cost at most the bar times theirs, or the microseconds or bytes of the bar.",
        _markdown_table(BAR_HEADINGS, _bar_cells(results, footprints)),
    ]
    for group, rows in groupby(results, key=lambda measured: measured.row.group):
        measured_rows = list(rows)
        parts.append(f"## {group.capitalize()}")
        parts.append("\n".join(f"* {note}" for note in _notes(measured_rows)))
        cells = [line.cells() for measured in measured_rows for line in lines(measured)]
        parts.append(_markdown_table(HEADINGS, cells))
    if footprints:
        parts.append(f"## {_memory_title(footprints).capitalize()}")
        parts.append(_markdown_table(MEMORY_HEADINGS, [memory_cells(footprint) for footprint in footprints]))
    keys = f"{footprints[0].keys:,}" if footprints else "no"
    parts.extend(["## Method", _method(effort, keys)])
    return "\n\n".join(parts) + "\n"


def _notes(results: Sequence[Measured]) -> list[str]:
    notes = {measured.row.name: measured.row.note for measured in results if measured.row.note}
    return [f"{name}: {note}." for name, note in notes.items()]


def _method(effort: Effort, keys: str) -> str:
    return METHOD.format(
        slice=f"{effort.slice_seconds * 1000:g}", rounds=effort.rounds, passes=effort.passes, keys=keys
    )


def _bar_cells(results: Sequence[Measured], footprints: Sequence[Footprint]) -> Iterator[tuple[str, ...]]:
    for measured in results:
        ours = f"{measured.cost(OURS) * 1e6:.3f}" if OURS in measured.seconds else ""
        for line in lines(measured):
            if line.holds is not None:
                row, colour, name, *rest = line.cells()
                yield row, colour, ours, "" if name == OURS else name, *rest
    for footprint in footprints:
        if memory_holds(footprint) is not None:
            cells = memory_cells(footprint)
            yield "bytes a live limiter key", "", f"{cells[1]} or {cells[2]}", "", "", "", "", *cells[-2:]


def _score(results: Sequence[Measured], footprints: Sequence[Footprint]) -> str:
    verdicts = [line.holds for measured in results for line in lines(measured) if line.holds is not None]
    verdicts += [holds for holds in map(memory_holds, footprints) if holds is not None]
    return f"{sum(verdicts)} of {len(verdicts)} bars hold."


def _memory_title(footprints: Sequence[Footprint]) -> str:
    return f"{memory.GROUP}, {footprints[0].keys:,} live limiter keys"


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        right = heading in ("µs", "ours / theirs", "bar") or "key" in heading
        table.add_column(heading, justify="right" if right else "left")
    return table


def _style(holds: bool | None) -> str:
    return {None: "", True: "green", False: "bold red"}[holds]


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = [f"| {' | '.join(headings)} |", "|" + " --- |" * len(headings)]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])
