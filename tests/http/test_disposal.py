"""What is read of a response that is not wanted, whatever iterates over its body."""

from __future__ import annotations

from resilience_http._draining import _read

from resilience.testing import run


class Counted:
    """A body that is no generator: it has nothing to close."""

    def __init__(self, chunks: int, size: int) -> None:
        self.left = chunks
        self.size = size

    def __aiter__(self) -> Counted:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return bytes(self.size)


def test_a_body_whose_iterator_cannot_be_closed_is_read_to_its_end() -> None:
    body = Counted(3, 10)
    run(_read(body))
    assert body.left == 0


def test_a_body_that_is_longer_than_announced_is_left() -> None:
    body = Counted(10, 40_000)
    run(_read(body))
    assert body.left == 8
