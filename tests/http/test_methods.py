"""Which requests may be sent twice."""

from __future__ import annotations

import pytest
from resilience_http.methods import RETRYABLE_STATUSES, is_idempotent, is_server_failure


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_an_idempotent_method_may_be_repeated(method: str) -> None:
    assert is_idempotent(method)


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "PURGE", "get", ""])
def test_any_other_method_is_sent_once_by_default(method: str) -> None:
    assert not is_idempotent(method)


@pytest.mark.parametrize("key,expected", [('"8e03978e"', True), ("x", True), ("", False), ("  ", False), (None, False)])
def test_an_idempotency_key_makes_a_post_repeatable(key: str | None, expected: bool) -> None:
    assert is_idempotent("POST", key) is expected


def test_the_statuses_that_may_pass() -> None:
    assert sorted(RETRYABLE_STATUSES) == [408, 429, 500, 502, 503, 504]


@pytest.mark.parametrize("status,failure", [(200, False), (499, False), (500, True), (599, True), (600, False)])
def test_5xx_is_a_failure_of_the_server_and_4xx_is_not(status: int, failure: bool) -> None:
    assert is_server_failure(status) is failure
