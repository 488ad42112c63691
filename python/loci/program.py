"""The command line `loci`, which an installed package and a checkout's build hold beside the library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
BUILD = PACKAGE.parents[1] / "build" / "release"  # of a checkout
PLACES = (PACKAGE / "bin" / "loci", BUILD / "cli" / "loci")


def program_path() -> Path:
    """Raises FileNotFoundError where neither is."""
    found = next((place for place in PLACES if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"loci: the program must be {PLACES[0]} (pip install .) or {PLACES[1]} (make build), got neither"
        )
    return found


def doctor() -> None:
    """Prints which Python and torch ask, and what `loci doctor` says of this machine and build."""
    import torch

    said = subprocess.run([program_path(), "doctor"], capture_output=True, text=True, check=True).stdout
    print(f"{'python':<13}{sys.version.split()[0]}, torch {torch.__version__}  ({Path(torch.__file__).parent})")
    print(said, end="")


def main() -> None:
    """`loci ...`: becomes the program."""
    try:
        path = program_path()
    except FileNotFoundError as error:
        sys.exit(str(error))
    os.execv(path, ["loci", *sys.argv[1:]])
