"""What the numbers were measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PEERS = ("nopanic", "pyresilience", "circuitbreaker", "tenacity", "stamina", "aiolimiter", "limits")


def machine() -> str:
    """Processor, number of cores and operating system."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def python() -> str:
    """Implementation and version."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def peers() -> str:
    """The versions of what is compared with."""
    return ", ".join(f"{name} {_version(name)}" for name in PEERS)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
