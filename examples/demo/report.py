"""The report: the passes side by side, in one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from .callers import TRIES
from .measures import STEADY, Measures
from .script import Script

BEST = "bold green"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what to show of a pass, and, where passes can be compared, how good that is."""

    label: str
    show: Callable[[Measures], str]
    rank: Callable[[Measures], float | None] | None = None  # smaller is better, None is worst


def table(passes: Mapping[str, Measures], script: Script) -> Table:
    """All passes side by side, a row for each thing a person would ask; the best of a row is green."""
    calls = next(iter(passes.values())).calls
    result = Table(
        title=f"{calls:,} calls to the same service, three ways",
        title_style="bold",
        title_justify="left",
    )
    result.add_column("")
    for title, subtitle in zip(passes, _subtitles(script), strict=True):
        result.add_column(Text.assemble((title, "bold"), "\n", (subtitle, "dim")), justify="right")
    for section in _sections(script):
        for row in section:
            result.add_row(row.label, *_cells(row, passes))
        result.add_section()
    return result


def busy(passes: Mapping[str, Measures], script: Script) -> dict[str, float]:
    """The callers for whose figures this machine was too busy, and by how many seconds it made them or answers late."""
    return {title: m.late for title, m in passes.items() if m.late > script.tolerance}


def reservation(passes: Mapping[str, Measures], script: Script) -> str:
    """What to hold against the numbers of the table; nothing if the machine was quiet."""
    if not (late := busy(passes, script)):
        return ""
    held_up = ", ".join(f"{title} up to {duration(seconds)}" for title, seconds in late.items())
    return (
        "This machine stayed so busy that the figures are about it, not about the callers."
        f" Calls or answers were late: {held_up}."
    )


def notes(script: Script) -> str:
    """What the words in the table mean."""
    return (
        f"Below the names is how often a caller tries, and for how long: the guarded one tries {TRIES} times within the"
        " time in which the naked one tries once. Latency is that of all calls, failed ones included. Requests are what"
        " the service has counted, so what it had to endure. It has recovered when the first of"
        f" {STEADY} calls in a row begins that are answered within {duration(script.normal)}. Refused calls never sent"
        " a request. While the service is down no caller can win; what differs is how soon it knows, and how much the"
        " service, once it is back, has to work off for callers that have hung up."
    )


def share(ratio: float) -> str:
    """A ratio in per cent, rounded down so that only all is 100."""
    return f"{math.floor(ratio * 1000) / 10:.1f} %"


def duration(seconds: float | None, nothing: str = "-") -> str:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return nothing
    if seconds >= 1.0:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2f} ms"


def _subtitles(script: Script) -> tuple[str, str, str]:
    patience = duration(script.patience)
    return f"1 x {patience}", f"{TRIES} x {patience}", f"{TRIES} in {patience}"


def _cells(row: Row, passes: Mapping[str, Measures]) -> list[Text]:
    texts = [row.show(measures) for measures in passes.values()]
    if row.rank is None:
        return [Text(text) for text in texts]
    ranks = [rank if (rank := row.rank(measures)) is not None else math.inf for measures in passes.values()]
    best = {text for text, rank in zip(texts, ranks, strict=True) if rank == min(ranks)}
    # Equal to the reader is equal, and where all are equal none is the best.
    return [Text(text, BEST if text in best and len(set(texts)) > 1 else "") for text in texts]


def _sections(script: Script) -> list[list[Row]]:
    outage = script.at(script.outage()[0])[0].name
    return [
        [
            Row("Success rate", lambda m: share(m.success), lambda m: -m.success),
            *(_in_phase(phase.name) for phase in script.phases),
        ],
        [
            Row("Latency p50", lambda m: duration(m.median), lambda m: m.median),
            Row("Latency p99", lambda m: duration(m.p99), lambda m: m.p99),
            Row("  p99 of answered calls", lambda m: duration(m.p99_answered), lambda m: m.p99_answered),
            Row("  p50 of all others", lambda m: duration(m.median_failed), lambda m: m.median_failed),
        ],
        [
            Row("Requests per user call", lambda m: f"{m.requests:.2f}", lambda m: m.requests),
            Row(f"  {outage}", lambda m: f"{m.requests_in_outage:.2f}", lambda m: m.requests_in_outage),
        ],
        [
            Row("Time to notice the outage", lambda m: duration(m.noticed, "never"), lambda m: m.noticed),
            Row("Time to recover", lambda m: duration(m.recovered, "not yet"), lambda m: m.recovered),
            Row(
                "Refused in under 1 ms",
                lambda m: f"{m.refused_at_once:,} of {m.refused:,}" if m.refused else "-",
            ),
        ],
    ]


def _in_phase(name: str) -> Row:
    return Row(f"  {name}", lambda m: share(m.success_by_phase[name]), lambda m: -m.success_by_phase[name])
