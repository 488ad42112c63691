"""Fixtures of several files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import make_place, train
from saved_run_cases import recipe


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set in `text` and a run of each of saved_run_cases.ARMS in `out`."""
    folder = make_place(tmp_path_factory, recipe())
    result = train(folder, folder / "out")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For outputs that are compared with C++ bit for bit."""
    import loci.calibration

    with loci.calibration.one_thread():
        yield
