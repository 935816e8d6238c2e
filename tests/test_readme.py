"""Every block of Python in the README runs, in virtual time, and what the README names is there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import resilience_asgi
import resilience_httpx

import resilience
from resilience.testing import ManualClock, run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
THEIRS = {"AsyncLimiter", "AsyncClient", "HTTPError"}
LAYERS = [
    name
    for name in resilience.__all__
    if isinstance(kind := getattr(resilience, name), type) and issubclass(kind, resilience.Layer)
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[1])
def test_a_block_of_python_runs_by_itself(block: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "run", run)
    source = "\n" * README[: README.index(block)].count("\n") + block
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})


def test_the_blocks_print_what_their_comments_say(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asyncio, "run", run)
    for block in BLOCKS:
        exec(block, {"__name__": "readme"})
    order, search, prices = capsys.readouterr().out.splitlines()
    assert order == "{'order': 42}"
    assert search == "results for acme 99 page at https://example.org/"
    assert prices == "42"


def test_the_readme_begins_with_the_two_commands_and_stays_short() -> None:
    lines = README.splitlines()
    assert [line.split("#")[0].strip() for line in lines[:2]] == ["make demo", "make test"]
    assert len(lines) < 150
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"(?:^ +|`)make ([a-z]+)", README, re.MULTILINE))


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("Layer", "Policy")])
def test_the_table_has_a_line_for_each_layer(name: str) -> None:
    assert re.search(rf"^\|.*`{name}`.*\|.+\|$", README, re.MULTILINE)


def test_every_name_in_the_readme_that_looks_like_one_of_ours_is_public() -> None:
    words = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", README))
    assert (
        words - set(resilience.__all__) - set(resilience_httpx.__all__) - set(resilience_asgi.__all__) - THEIRS == set()
    )


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
