"""A real redis-server on a free port, which a test may pause, kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

REQUIRED = "RESILIENCE_REQUIRE_REDIS"
PROGRAMS = ("redis-server", "valkey-server")
_PATIENCE = 30.0


class RedisServer:
    """The server; `faults` says whether it is a real one, with which everything can be done."""

    faults = True

    def __init__(self, program: str, *options: str) -> None:
        self._program = program
        self._options = options
        self._folder = tempfile.TemporaryDirectory(prefix="resilience-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, with nothing kept from before, and wait until it answers."""
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                    *("--dir", self._folder.name),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        pause = threading.Event()
        for _ in range(int(_PATIENCE / 0.02)):
            try:
                self.client().ping()
                return
            except redis.ConnectionError:
                pause.wait(0.02)
        raise RuntimeError("redis-server does not answer")

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=10.0, **options)

    def pause(self) -> None:
        """Stop answering without closing anything."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it on the spot."""
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


class FakeServer:
    """fakeredis behind a socket, where no server is installed: good for answers, not for faults."""

    faults = False

    def __init__(self) -> None:
        from fakeredis import TcpFakeServer

        self.port = free_port()
        self._server = TcpFakeServer(("127.0.0.1", self.port), server_type="redis")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=10.0, **options)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(*options: str) -> RedisServer | FakeServer:
    """The best server there is; `options` are words of the command line for a real one."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name)) is not None), None)
    if program is not None:
        return RedisServer(program, *options)
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but neither {' nor '.join(PROGRAMS)} is installed")
    return FakeServer()
