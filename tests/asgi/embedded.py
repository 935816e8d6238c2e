"""`python -m tests.asgi.embedded hypercorn|granian PORT`: the service of `service.py`, served from a program.

As the documentation of the shutdown has it: the program has the signal first, and the server ends with the draining.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import hypercorn.asyncio
from granian.constants import Interfaces
from granian.server.embed import Server
from hypercorn.config import Config

from .service import app, shutdown


async def by_hypercorn(port: int) -> None:
    """With the draining as its trigger."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    application: Any = app  # hypercorn has types of its own for messages
    await hypercorn.asyncio.serve(application, config, shutdown_trigger=shutdown.drained)


async def by_granian(port: int) -> None:
    """Stopped after the draining."""
    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI, log_enabled=False)
    serving = asyncio.create_task(server.serve())
    await shutdown.drained()
    server.stop()  # type: ignore[no-untyped-call]
    await serving


async def main(server: str, port: int) -> None:
    """Serve until the signal has come and everything has drained."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, shutdown.begin)
    await {"hypercorn": by_hypercorn, "granian": by_granian}[server](port)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
