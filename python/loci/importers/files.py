"""Files of weights. Of a .pth nothing but tensors is read: no code in it runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from loci.importers.convert import State
from loci.importers.networks import WeightsError

# Where training programs put the tensors in what they save.
INNER = ("state_dict", "model_state", "model")
WRAPPER = "module."  # of every name in a state saved from a parallel wrapper


def read_state(path: Path) -> State:
    """Of a .safetensors file, or of any other that torch.save wrote. Raises WeightsError and OSError."""
    with path.open("rb"):  # the readers below report a missing file in many ways
        pass
    if path.suffix == ".safetensors":
        state: State = read_with(path, "a whole safetensors file", lambda: safetensors.torch.load_file(path))
        return state
    expected = "a file of tensors alone, as torch.save writes it"
    read = read_with(path, expected, lambda: torch.load(path, map_location="cpu", weights_only=True))
    for name in INNER:
        if isinstance(read, dict) and isinstance(read.get(name), dict):
            read = read[name]
    if not isinstance(read, dict) or not read:
        raise WeightsError(f"{path}: the file must hold named tensors, got {type(read).__name__}")
    for name, value in read.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path}: the file must hold named tensors, got {name!r}: {type(value).__name__}")
    if all(name.startswith(WRAPPER) for name in read):
        read = {name.removeprefix(WRAPPER): value for name, value in read.items()}
    return {name: value.detach() for name, value in read.items()}


def read_with(path: Path, expected: str, read: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are read all the same
            return read()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # what a damaged file raises is not specified
        raise WeightsError(f"{path}: the file must be {expected}, got {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):  # its text advises to run the code in the file
        found = re.search(r"GLOBAL ([\w.]+)", text)
        return f"{found[1]}, which is no tensor" if found else "other objects, or a damaged file"
    return text.splitlines()[0] if text else repr(error)


def write_state(path: Path, state: State, pickled: bool) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name[:200]}.tmp-{os.getpid()}")
    try:
        if pickled:
            torch.save(state, part)
        else:
            safetensors.torch.save_file(state, part)
        os.replace(part, path)
    except safetensors.SafetensorError as error:
        raise OSError(0, str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
