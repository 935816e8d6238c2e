"""Both sliding windows over thousands of records, beside a list of those that should be inside."""

from __future__ import annotations

import math
import random

import pytest

from resilience import CountWindow, TimeWindow
from tests.machines.test_windows import SHAPES


@pytest.mark.parametrize("seconds,buckets", SHAPES)
@pytest.mark.parametrize("start", [0.0, 3.5, -7.25])
def test_a_record_counts_until_its_bucket_has_left_the_window(seconds: float, buckets: int, start: float) -> None:
    def bucket(when: float) -> int:
        return math.floor(when * buckets / seconds)

    rng, now, window = random.Random(5), start, TimeWindow(seconds, buckets).start()
    records: list[tuple[float, bool, bool]] = []
    for _ in range(1500):
        now += rng.choice([0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 2.0, seconds - 0.25, seconds, 1e6 * (rng.random() < 0.01)])
        if rng.random() < 0.8:
            record = (now, rng.random() < 0.5, rng.random() < 0.3)
            window.record(*record)
            records.append(record)
        else:
            window.catch_up(now)
        records = [record for record in records if bucket(record[0]) > bucket(now) - buckets]
        failures, slow = sum(failed for _, failed, _ in records), sum(slow for _, _, slow in records)
        assert (window.calls, window.failures, window.slow) == (len(records), failures, slow)
        assert window.edge == (bucket(now) + 1) * seconds / buckets


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_the_last_calls_count(size: int) -> None:
    rng, window = random.Random(5), CountWindow(size).start()
    records: list[tuple[bool, bool]] = []
    for number in range(1000):
        record = (rng.random() < 0.5, rng.random() < 0.3)
        window.record(float(number), *record)
        records = [*records, record][-size:]
        failures, slow = sum(failed for failed, _ in records), sum(slow for _, slow in records)
        assert (window.calls, window.failures, window.slow) == (len(records), failures, slow)
