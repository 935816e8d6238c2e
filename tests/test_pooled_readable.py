"""Whether an idle connection has something to read, with the system's `poll` or, on Windows, with `select`."""

from __future__ import annotations

import select
import socket

import pytest
from resilience_http._stream_sync import readable


@pytest.mark.parametrize("polls", [True, False])
def test_a_socket_is_readable_once_something_came_or_it_is_closed(polls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not polls:
        monkeypatch.delattr(select, "poll")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not readable(ours)
        theirs.send(b"x")
        assert readable(ours)
        ours.recv(1)
        assert not readable(ours)
        theirs.close()
        assert readable(ours)
    assert readable(ours)
