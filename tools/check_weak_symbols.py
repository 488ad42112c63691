#!/usr/bin/env python3
"""Compiles every kernel at -O0 for every instruction level and fails on any weak symbol.

A weak symbol (an inline function, a template) has one copy in the finished library, taken from any object: the copy
made for AVX-512 would then run on every CPU. At -O2 it is mostly inlined, which hides the fault until it is not.

Usage: tools/check_weak_symbols.py [--compiler c++] [--nm nm] [--level NAME=FLAGS]... [ROOT]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

WEAK = {"W", "V", "u"}


def weak_symbols(nm: str, object_file: Path) -> list[str]:
    listing = subprocess.run([nm, "-C", str(object_file)], check=True, capture_output=True, text=True).stdout
    entries = (line.split(maxsplit=2) for line in listing.splitlines())
    return [entry[2] for entry in entries if len(entry) == 3 and entry[1] in WEAK]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--compiler", default="c++")
    parser.add_argument("--nm", default="nm")
    parser.add_argument("--level", action="append", default=[], help="NAME=FLAGS, for instance 'avx2=-mavx2 -mfma'")
    options = parser.parse_args()
    kernels = sorted((options.root / "loci").rglob("*_kernel.cpp"))
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        object_file = Path(folder) / "kernel.o"
        for source in kernels:
            for level in options.level or ["base="]:
                name, _, flags = level.partition("=")
                command = [options.compiler, "-std=c++20", "-O0", "-fPIC", f"-DLOCI_LEVEL={name}", f"-I{options.root}"]
                compiled = subprocess.run(
                    [*command, *flags.split(), "-c", str(source), "-o", str(object_file)],
                    capture_output=True,
                    text=True,
                )
                where = f"{source.relative_to(options.root)} ({name})"
                if compiled.returncode != 0:
                    print(f"{where}: does not compile\n{compiled.stderr}")
                    failures += 1
                    continue
                for symbol in weak_symbols(options.nm, object_file):
                    print(f"{where}: weak symbol {symbol}")
                    failures += 1
    print(f"check_weak_symbols: {len(kernels)} kernels, {failures} faults")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
