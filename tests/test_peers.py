"""bench/peers.py at a tiny size: every contestant runs and is reported; how long they take is nobody's concern here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from command_line import LOCI, PACKAGE_ENVIRONMENT, ROOT

SCRIPT = ROOT / "bench" / "peers.py"
SIZE = ["--rows", "1024", "--width", "32", "--rounds", "2", "--no-compiled"]


def run(*arguments: str) -> str:
    command = [sys.executable, SCRIPT, LOCI, *SIZE, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=PACKAGE_ENVIRONMENT, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_all_contestants_take_turns() -> None:
    pytest.importorskip("product_key_memory", reason="product-key-memory is not installed")
    report = json.loads(run("--tokens", "64", "1", "--json"))
    rows: list[dict[str, Any]] = report["results"]
    found = {(row["tokens"], row["peer"], row["name"]): row for row in rows}
    training = [("c++", "train"), ("package", "train adam"), ("package", "train sparse"), ("python", "train eager")]
    forward = [(peer, "forward") for peer in ("c++", "package", "python")]
    decode = [(peer, "decode") for peer in ("c++", "package", "python")]
    assert set(found) == {(64, *key) for key in training + forward} | {(1, *key) for key in decode}
    for (tokens, peer, _), row in found.items():
        assert 0 < row["least"] <= row["us_per_token"] <= row["most"]
        of_cpp = found[tokens, "c++", row["work"]]["us_per_token"]
        assert row["over_cpp"] == pytest.approx(row["us_per_token"] / of_cpp)
        assert (row["peak_bytes"] is not None) == (row["work"] == "train" and peer != "c++")
        # Rows and two moments are at least in it.
        assert row["peak_bytes"] is None or row["peak_bytes"] >= 3 * 1024 * 32 * 4

    assert [row["work"] for row in report["against"]] == ["forward", "train", "decode"]
    train = report["against"][1]
    package = min((found[64, *key] for key in training[1:3]), key=lambda row: row["us_per_token"])
    python = found[64, "python", "train eager"]
    assert (train["package"], train["python"]) == (package["name"], "train eager")
    assert train["ratio"] == pytest.approx(package["us_per_token"] / python["us_per_token"])
    assert train["peak_ratio"] == pytest.approx(package["peak_bytes"] / python["peak_bytes"])


def test_python_beside_cpp_alone() -> None:
    lines = run("--tokens", "64", "--peer", "python", "--no-memory").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["c++", "forward"],
        ["c++", "train"],
        ["python", "forward"],
        ["python", "train"],
    ]
