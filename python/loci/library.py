"""Loads libloci_ops, which holds the operators and tables, into torch."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from loci.program import BUILD, PACKAGE

VARIABLE = "LOCI_LIBRARY"
FILE = "libloci_ops.so.0"
VERSION_FILE = "libloci_ops.torch"  # of the torch that the library was built for


def library_path() -> Path:
    """That of LOCI_LIBRARY, of the installed package, or of the build in this checkout."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    places = (PACKAGE / "lib" / FILE, BUILD / FILE)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ImportError(
            f"loci: {FILE} must be in {places[0].parent} (pip install .) or {places[1].parent} (make build), got none"
        )
    return found


def minor(version: str) -> str:
    """ "2.13.0+cpu" -> "2.13"."""
    return ".".join(version.split("+")[0].split(".")[:2])


def check_torch(path: Path) -> None:
    """torch's C++ interface changes with each minor version, and a library of another one ends in undefined symbols."""
    try:
        built_for = minor((path.parent / VERSION_FILE).read_text().strip())
    except OSError as error:
        raise ImportError(f"loci: {VERSION_FILE} must be next to {path}, got {error.strerror}") from None
    if minor(torch.__version__) != built_for:
        raise ImportError(
            f"loci: torch must be {built_for}.* (loci was built for it), got {torch.__version__}; install "
            f"torch=={built_for}.*, or build loci for this one: pip install --no-build-isolation --no-deps CHECKOUT"
        )


def load() -> None:
    """Once in a process. ImportError says in one line what does not fit."""
    path = library_path()
    check_torch(path)
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ImportError(f"loci: {path} could not be loaded: {error}") from None


load()
ops = torch.ops.loci
classes = torch.classes.loci
