"""Eight threads share three TCP connections to a small server: a pool under a pipeline.

python -m examples.pooled_threads
"""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from resilience import CircuitBreaker, Pipeline, Pool, Retry, Timeout


class Shouting(socketserver.StreamRequestHandler):
    """Answers every line in capitals; hangs up at "bye"."""

    def handle(self) -> None:
        for line in self.rfile:
            if line == b"bye\n":
                return
            self.wfile.write(line.upper())


@contextlib.contextmanager
def server() -> Iterator[tuple[str, int]]:
    """The address of a server on a free port, for as long as the block runs."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Shouting) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield "127.0.0.1", running.server_address[1]
        running.shutdown()


def still_open(connection: socket.socket) -> bool:
    """An idle connection with something to read was closed by the other side."""
    return not select.select([connection], [], [], 0)[0]


def ask(connection: socket.socket, line: str) -> str:
    """One question, one answer. The pool gives the connection; another attempt gets another one."""
    connection.sendall(f"{line}\n".encode())
    with connection.makefile() as stream:
        answer = stream.readline().strip()
    if not answer:
        raise ConnectionResetError(f"the server hung up at {line!r}")
    return answer


def main() -> None:
    """Forty questions at once; then the server hangs up, and nobody who comes later notices."""
    layers = Pipeline(Timeout(20.0), Retry(OSError, attempts=2), CircuitBreaker("shout"))
    with server() as address:
        connect = partial(socket.create_connection, address)
        with Pool(connect, close=socket.socket.close, check=still_open, max_size=3, max_wait=None) as pool:
            shout = layers(pool.inject(ask))
            with ThreadPoolExecutor(8) as workers:
                answers = list(workers.map(shout, ["hello"] * 40))
            print(len(answers), set(answers), "over three connections or fewer:", pool.statistics().created <= 3)
            for line in ("bye", "still there?"):
                try:
                    print(shout(line))
                except ConnectionResetError as error:
                    print(error)
        print("left open:", pool.statistics().size)


if __name__ == "__main__":
    main()
