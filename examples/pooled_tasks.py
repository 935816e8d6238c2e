"""Forty tasks share three TCP connections to a small server.

python -m examples.pooled_tasks
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from functools import partial

from resilience import Pool

Connection = tuple[StreamReader, StreamWriter]


async def shouting(reader: StreamReader, writer: StreamWriter) -> None:
    """The server: answers every line in capitals."""
    async for line in reader:
        writer.write(line.upper())
    writer.close()


async def close(connection: Connection) -> None:
    """End a connection."""
    connection[1].close()
    await connection[1].wait_closed()


def still_open(connection: Connection) -> bool:
    """Whether the other side has not hung up."""
    return not connection[0].at_eof()


async def main() -> None:
    """Forty questions at once, five of which nobody wants to hear the answer to."""
    server = await asyncio.start_server(shouting, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    connect = partial(asyncio.open_connection, host, port)
    async with server, Pool(connect, close=close, check=still_open, max_size=3) as pool:

        @pool.inject
        async def shout(connection: Connection, line: str) -> str:
            reader, writer = connection
            writer.write(f"{line}\n".encode())
            return (await reader.readline()).decode().strip()

        tasks = [asyncio.create_task(shout(f"hello {number}")) for number in range(40)]
        await asyncio.sleep(0)
        for task in tasks[:5]:
            task.cancel()
        answers = await asyncio.gather(*tasks[5:])
        print(len(answers), "answers, each to its own question:", answers == [f"HELLO {n}" for n in range(5, 40)])
        print("in use:", pool.statistics().in_use, "and never more than", pool.statistics().max_size)
    print("left open:", pool.statistics().size)


if __name__ == "__main__":
    asyncio.run(main())
