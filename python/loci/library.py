"""Loads libloci, which holds the operators and tables, into torch."""

from __future__ import annotations

import os
from pathlib import Path

import torch

BUILT_FOR = "2.13"  # torch's minor version: its C++ interface changes with each
VARIABLE = "LOCI_LIBRARY"


def library_path() -> Path:
    """That of LOCI_LIBRARY, of the installed package, or of the build in this checkout."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    here = Path(__file__).resolve().parent
    places = (here / "lib" / "libloci.so", here.parents[1] / "build" / "release" / "libloci.so")
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ImportError(
            f"loci: libloci.so must be in {places[0].parent} or {places[1].parent} (make build), got none"
        )
    return found


def load() -> None:
    """Once in a process. ImportError says in one line what does not fit."""
    minor = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    if minor != BUILT_FOR:
        raise ImportError(
            f"loci: torch must be {BUILT_FOR}.* (loci was built for it), got {torch.__version__}; "
            f"install torch=={BUILT_FOR}.* or build loci from its sources beside this torch"
        )
    path = library_path()
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ImportError(f"loci: {path} could not be loaded: {error}") from None


load()
ops = torch.ops.loci
classes = torch.classes.loci
