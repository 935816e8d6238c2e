"""The server of the HTTP rows, in a process of its own: `python -m benchmarks.http_server [--tls FOLDER]`.

Every request takes `?ms=` milliseconds of waiting (5 without) and gets its own path back; with `?parts=` the body comes
in that many pieces, a millisecond apart.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from resilience.clock import turn

WORK_MS = 5.0


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    query = parse_qs(scope["query_string"].decode())
    await asyncio.sleep(float(query.get("ms", [WORK_MS])[0]) / 1000.0)
    path = scope["path"].encode()
    length = [(b"content-length", str(len(path)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    parts = int(query.get("parts", [1])[0])
    size = -(-len(path) // parts)
    for start in range(0, len(path) - size, size):
        await send({"type": "http.response.body", "body": path[start : start + size], "more_body": True})
        await asyncio.sleep(0.001)
    await send({"type": "http.response.body", "body": path[(len(path) - 1) // size * size :]})


@contextmanager
def serving(tls: Path | None = None) -> Iterator[str]:
    """A server process; yields its address. `tls` is a folder for the certificates, `authority.pem` among them."""
    command = [sys.executable, "-m", "benchmarks.http_server", *([] if tls is None else ["--tls", str(tls)])]
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def trusting(tls: Path) -> ssl.SSLContext:
    """A client's context for the server with that folder."""
    return ssl.create_default_context(cafile=str(tls / "authority.pem"))


def main() -> None:
    parser = argparse.ArgumentParser(description="The server of the HTTP rows.")
    parser.add_argument("--tls", type=Path)
    options = parser.parse_args()
    config = uvicorn.Config(
        application, port=0, log_level="error", access_log=False, lifespan="off", backlog=4096, http="h11"
    )
    if options.tls is not None:
        import trustme  # noqa: PLC0415 - only where it is needed

        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(str(options.tls / "authority.pem"))
        certificate.private_key_and_cert_chain_pem.write_to_path(str(options.tls / "server.pem"))
        config.ssl_certfile = str(options.tls / "server.pem")
    asyncio.run(_serve(uvicorn.Server(config), "http" if options.tls is None else "https"))


async def _serve(server: uvicorn.Server, scheme: str) -> None:
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await turn()
    print(f"{scheme}://localhost:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await task


if __name__ == "__main__":
    main()
