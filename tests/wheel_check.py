"""Checks a built wheel: `python -I wheel_check.py WHEEL [--installed]`.

The wheel brings exactly these import packages, each with its type marker. With `--installed`, the interpreter that runs
this script is one the wheel was installed into, and the package has to work there. `-I` keeps the source tree off the
import path, so that what is imported is what was installed.
"""

import argparse
import importlib
import importlib.util
import sys
import zipfile
from pathlib import Path, PurePosixPath

PACKAGES = {
    "resilience",
    "resilience_asgi",
    "resilience_http",
    "resilience_httpx",
    "resilience_httpx2",
    "resilience_redis",
}
# Integrations that import something from outside; where that is not installed, they say which extra brings it.
NEEDS = {"resilience_httpx": "httpx", "resilience_httpx2": "httpx2", "resilience_redis": "redis"}


def check_contents(wheel: Path) -> None:
    """Assert that the wheel holds the packages, their type markers, one metadata folder, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        files = {PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")}
    distribution, version, *_ = wheel.name.split("-")
    top_level = {file.parts[0] for file in files}
    expected = PACKAGES | {f"{distribution}-{version}.dist-info"}
    if top_level != expected:
        sys.exit(f"{wheel.name}: the top-level names are {sorted(top_level)}, expected {sorted(expected)}")
    for package in sorted(PACKAGES):
        for needed in ("__init__.py", "py.typed"):
            if PurePosixPath(package, needed) not in files:
                sys.exit(f"{wheel.name}: {package}/{needed} is missing")


def check_installed() -> None:
    """Assert that every package imports from this interpreter's environment and has every name it promises."""
    for package in sorted(PACKAGES):
        needed = NEEDS.get(package)
        if needed is not None and importlib.util.find_spec(needed) is None:
            check_refused(package, needed)
            continue
        module = importlib.import_module(package)
        location = Path(module.__file__ or "").resolve()
        if not location.is_relative_to(Path(sys.prefix).resolve()):
            sys.exit(f"{package} was imported from {location}, outside of {sys.prefix}")
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        if missing:
            sys.exit(f"{package} promises names it does not have: {missing}")


def check_refused(package: str, needed: str) -> None:
    """Assert that an integration without its library says which extra to install."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        if f"resilience-patterns[{needed}]" not in str(error):
            sys.exit(f"{package} without {needed} should name the extra to install, but says: {error}")
    else:
        sys.exit(f"{package} can be imported although {needed} is missing")


def main() -> None:
    """Run the checks; the first that fails ends the program with a sentence and a non-zero status."""
    parser = argparse.ArgumentParser(description="Check a built wheel.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--installed", action="store_true", help="it is installed in this environment: import it")
    options = parser.parse_args()
    check_contents(options.wheel)
    if options.installed:
        check_installed()
    print(f"{options.wheel.name}: complete")


if __name__ == "__main__":
    main()
