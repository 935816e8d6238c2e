"""Worker threads that share one bulkhead: eight work, three at a time touch the database.

python -m examples.worker_threads
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

from resilience import Bulkhead, bound, carried, correlation_id

database = Bulkhead(3, max_queue=100, max_wait=None, name="database")


class Meter:
    """How many are inside now, and how many were at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.inside -= 1


meter = Meter()


@database
def query(number: int) -> str:
    """Something that takes a while."""
    with meter:
        return hashlib.pbkdf2_hmac("sha256", str(number).encode(), b"salt", 2000).hex()[:8]


def job(number: int) -> tuple[str | None, str]:
    """What a worker does; it knows the id of the request it works for."""
    return correlation_id(), query(number)


def main() -> None:
    """Do forty jobs for one request."""
    with bound("request-7"), ThreadPoolExecutor(8) as workers:
        results = list(workers.map(carried(job), range(40)))
    print("jobs:", len(results), "for", {identity for identity, _ in results})
    print("never more than three at a time:", meter.most <= 3)
    print("left in use:", database.statistics().in_use)


if __name__ == "__main__":
    main()
