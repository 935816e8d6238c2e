"""The service's process: started before a pass, and gone after it whatever happens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

MODULE = f"{__package__}.service"
START_LIMIT = 30.0  # seconds for an interpreter to start on a busy machine
END_LIMIT = 3.0


class ServiceError(Exception):
    """The service did not start, or has gone in the middle of a pass."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running service: its process id, and the port it has chosen."""

    pid: int
    port: int


@asynccontextmanager
async def serving(script: str) -> AsyncIterator[Child]:
    """Run the service with the script of that name for the length of a block, in a new process.

    The process ends when its standard input closes: by the end of the block, or with the death of this process. It has
    a session of its own, so that Ctrl-C reaches it by no other way.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MODULE, script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Child(process.pid, await _port(process))
    finally:
        await _end(process)


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_LIMIT):
            return int(await process.stdout.readline())
    except (TimeoutError, ValueError):
        raise ServiceError("the service did not start") from None


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(END_LIMIT):
            await process.wait()
    except TimeoutError:
        pass
    finally:  # after a second Ctrl-C as well
        if process.returncode is None:
            process.kill()
            await process.wait()
