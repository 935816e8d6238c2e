"""Problem details: the document, and which error becomes which problem."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resilience_http.problem import Problem, problem_for

from resilience import (
    BulkheadFullError,
    CallRejectedError,
    CallTimeoutError,
    CircuitOpenError,
    DeadlineExceededError,
    PoolExhaustedError,
    RateLimitExceededError,
    ResilienceError,
)


def test_a_document_says_what_it_has_to_say_and_no_more() -> None:
    assert Problem(404).document() == {"title": "Not Found", "status": 404}
    problem = Problem(403, "Too poor", "https://example.com/poor", "You have 30.", "/account/12", {"balance": 30})
    assert problem.document() == {
        "type": "https://example.com/poor",
        "title": "Too poor",
        "status": 403,
        "detail": "You have 30.",
        "instance": "/account/12",
        "balance": 30,
    }
    assert json.loads(problem.content()) == problem.document()


@given(
    st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
    )
)
def test_the_content_is_the_document_as_compact_json(extensions: dict[str, Any]) -> None:
    reserved = {"type", "title", "status", "detail", "instance"}
    problem = Problem(HTTPStatus.CONFLICT, extensions={k: v for k, v in extensions.items() if k not in reserved})
    assert problem.content() == json.dumps(problem.document(), separators=(",", ":")).encode("ascii")


def test_names_that_are_no_text_become_text_as_json_has_them() -> None:
    numbered: Any = {1: "one", None: 2}
    assert Problem(404, extensions=numbered).content().endswith(b',"1":"one","null":2}')


def test_a_status_without_a_name_has_no_title() -> None:
    assert Problem(599).document() == {"status": 599}


def test_the_content_is_ascii_whatever_the_text() -> None:
    assert Problem(500, detail="naïve").content() == (
        b'{"title":"Internal Server Error","status":500,"detail":"na\\u00efve"}'
    )


@pytest.mark.parametrize("status", [99, 600, True, "500", None, 500.0])
def test_a_status_that_is_none_is_refused(status: Any) -> None:
    with pytest.raises(ValueError, match="status must be a whole number from 100 to 599"):
        Problem(status)


def test_an_extension_cannot_take_the_place_of_a_member() -> None:
    with pytest.raises(ValueError, match="extensions must not contain status, type"):
        Problem(500, extensions={"type": "x", "status": 200})


@pytest.mark.parametrize(
    "error,status,kind",
    [
        (RateLimitExceededError("secret", 2.5), 429, "quota-exceeded"),
        (CircuitOpenError("secret", 2.5), 503, "temporary-reduced-capacity"),
        (BulkheadFullError("secret", 2.5), 503, "temporary-reduced-capacity"),
        (PoolExhaustedError("secret", 2.5), 503, "temporary-reduced-capacity"),
        (CallRejectedError("secret", 2.5), 503, "temporary-reduced-capacity"),
        (DeadlineExceededError("secret", 2.5), 504, None),
        (CallTimeoutError("secret", 2.5), 504, None),
    ],
)
def test_each_error_is_its_problem_and_tells_nothing_of_the_inside(
    error: Exception, status: int, kind: str | None
) -> None:
    problem = problem_for(error, instance="/x", extensions={"correlation_id": "abc"})
    assert problem is not None
    assert problem.status == status
    document = problem.document()
    assert document.get("type") == (kind and f"https://iana.org/assignments/http-problem-types#{kind}")
    assert document["instance"] == "/x"
    assert document["correlation_id"] == "abc"
    assert document["title"]
    assert b"secret" not in problem.content()
    assert problem.retry_after == (None if isinstance(error, CallTimeoutError) else 2.5)


@pytest.mark.parametrize("error", [ValueError("x"), TimeoutError(), ResilienceError()])
def test_any_other_error_is_not_ours_to_explain(error: Exception) -> None:
    assert problem_for(error) is None
