"""Checks a built wheel: `python -I wheel_check.py WHEEL [--installed]`.

The wheel brings exactly one import package, with its type marker. With `--installed`, the interpreter that runs this
script is one the wheel was installed into, and the package has to work there. `-I` keeps the source tree off the
import path, so that what is imported is what was installed.
"""

import argparse
import importlib
import sys
import zipfile
from pathlib import Path, PurePosixPath

PACKAGES = {"resilience"}


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
        module = importlib.import_module(package)
        location = Path(module.__file__ or "").resolve()
        if not location.is_relative_to(Path(sys.prefix).resolve()):
            sys.exit(f"{package} was imported from {location}, outside of {sys.prefix}")
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        if missing:
            sys.exit(f"{package} promises names it does not have: {missing}")


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
