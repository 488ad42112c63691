#!/usr/bin/env python3
"""Checks that a file includes its own floor and the floors beneath it, never one above (docs/architecture.md).

Also: a kernel file includes nothing that could bring everybody an inline function compiled for one instruction level,
and a file of the torch-free library includes no torch, not even through another header.

Usage: tools/check_floors.py [ROOT]     one line per offence; exit status 1 when there is one
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FLOORS = {
    "loci/base": 1,
    "loci/ops": 2,
    "loci/data": 2,
    "loci/table": 3,
    "loci/distributed": 3,
    "loci/nn": 4,
    "loci/optim": 4,
    "loci/models": 5,
    "loci/train": 5,
    "loci/program": 5,
    "loci/tasks": 6,
    "bench": 7,
    "cli": 7,
}
TORCH_FREE_ROOM = "loci/base"
KERNEL_INCLUDES = {"<stdint.h>", "<stddef.h>", "<math.h>", "<immintrin.h>"}
TORCH_INCLUDE = re.compile(r'[<"](torch|ATen|c10|caffe2)/')
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"][^>"]+[>"])')
CORE_SOURCES = re.compile(r"loci_core_sources\(([^)]*)\)")


def includes(path: Path) -> list[tuple[int, str]]:
    """The includes of a file as (line, '<x>' or '"x"')."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    matches = ((number, INCLUDE.match(line)) for number, line in enumerate(lines, start=1))
    return [(number, match.group(1)) for number, match in matches if match]


def room_of(path: str) -> str | None:
    """'loci/ops/x/x.h' -> 'loci/ops'; None outside the house."""
    parts = path.split("/")
    room = parts[0] if parts[0] in FLOORS else "/".join(parts[:2])
    return room if room in FLOORS else None


def floor_offence(room: str, is_test: bool, include: str) -> str | None:
    target = include[1:-1]
    if include.startswith("<"):
        return f"write {target} in quotes" if target.startswith(("loci/", "bench/", "cli/")) else None
    if target.startswith("tests/"):
        return None if is_test else f"{target} is for tests alone"
    target_room = room_of(target)
    if target_room is None:
        return f'{target} must be named as "loci/room/file.h"'
    if FLOORS[target_room] > FLOORS[room]:
        return f"{room} (floor {FLOORS[room]}) includes {target} (floor {FLOORS[target_room]})"
    return None


def includes_as_a_kernel(header: Path, root: Path) -> bool:
    """Whether a header brings a kernel nothing that a kernel may not include, however deep."""
    return header.is_file() and all(
        include in KERNEL_INCLUDES or includes_as_a_kernel(root / include[1:-1], root)
        for _, include in includes(header)
    )


def kernel_offence(path: Path, root: Path, include: str) -> str | None:
    if include in KERNEL_INCLUDES or (include.startswith('"') and includes_as_a_kernel(root / include[1:-1], root)):
        return None
    if root / include[1:-1] == path.with_suffix(".h"):  # its own header, where the fault is told
        return None
    return (
        f"a kernel includes only {', '.join(sorted(KERNEL_INCLUDES))}, its own header and headers of which the same is "
        f"true, got {include}"
    )


def torch_free_files(root: Path) -> set[Path]:
    """The first room, what loci_core_sources() lists, and the headers that these reach."""
    reached = {path for path in (root / TORCH_FREE_ROOM).rglob("*") if path.suffix in (".h", ".cpp")}
    for cmake in (root / "loci").rglob("CMakeLists.txt"):
        for listed in CORE_SOURCES.findall(cmake.read_text(encoding="utf-8")):
            reached |= {cmake.parent / name for name in listed.split() if (cmake.parent / name).is_file()}
    todo = list(reached)
    while todo:
        for _, include in includes(todo.pop()):
            header = root / include[1:-1]
            if include.startswith('"') and header.is_file() and header not in reached:
                reached.add(header)
                todo.append(header)
    return reached


def offences(root: Path) -> list[str]:
    torch_free = torch_free_files(root)
    found = []
    for top in ("loci", "bench", "cli"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".h", ".cpp"):
                continue
            name = path.relative_to(root).as_posix()
            room = room_of(name)
            if room is None:
                found.append(f"{name}: belongs to no floor")
                continue
            is_kernel = path.stem.endswith("_kernel")
            for line, include in includes(path):
                problems = [floor_offence(room, path.stem.endswith("_test"), include)]
                if is_kernel:
                    problems.append(kernel_offence(path, root, include))
                if path in torch_free and TORCH_INCLUDE.match(include):
                    problems.append(f"is part of the torch-free library, but includes {include[1:-1]}")
                found += [f"{name}:{line}: {problem}" for problem in problems if problem]
    return found


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    if not (root / "loci").is_dir():
        print(f"check_floors: ROOT must hold a folder loci, got {root}", file=sys.stderr)
        return 2
    found = offences(root)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
