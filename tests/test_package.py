"""The installed package serves a separate project, and the build takes an unpacked LibTorch."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/release"


def run(*command: str | Path) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def prefix() -> Path:
    folder = BUILD / "installed"  # always the same, so that the compiler's cache knows its headers
    shutil.rmtree(folder, ignore_errors=True)
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced code of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        body for language, body in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL) if language in languages
    ]


def test_headers_are_the_listed_ones(prefix: Path) -> None:
    installed = {path.relative_to(prefix / "include").as_posix() for path in (prefix / "include").rglob("*.*")}
    listed = set(re.findall(r"loci/[\w/]+\.h", (ROOT / "cmake/LociInstall.cmake").read_text()))
    assert installed == listed


def compiler_flags() -> list[str]:
    """Of a file of the library, from the build's own record, without what names its output."""
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    words = shlex.split(next(c["command"] for c in commands if c["file"].endswith("unity_nn_cxx.cxx")))
    kept = [word for word in words if word.startswith(("-std", "-D", "-f", "-isystem")) or "torch/include" in word]
    return [word for word in kept if word != f"-I{ROOT}"]


def test_each_public_header_compiles_alone(prefix: Path, tmp_path: Path) -> None:
    include, flags = prefix / "include", compiler_flags()
    cache = os.environ | {"CCACHE_BASEDIR": str(ROOT)}

    def fault(header: Path) -> str:
        name = header.relative_to(include)
        source = prefix / "alone" / name.with_suffix(".cpp")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(f'#include "{name}"\n')
        command = ["ccache", "g++", *flags, "-I", include, "-c", source, "-o", tmp_path / str(name).replace("/", "-")]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BUILD, env=cache)
        return "" if result.returncode == 0 else f"{name}: {result.stderr[:500]}"

    headers = sorted(include.rglob("*.h"))
    assert len(headers) > 50
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert not [text for text in pool.map(fault, headers) if text]


def test_the_library_finds_torch_but_not_the_build(prefix: Path) -> None:
    dynamic = run("readelf", "-d", next((prefix / "lib").rglob("libloci.so")))
    runpath = next(line for line in dynamic.splitlines() if "RUNPATH" in line)
    assert "$ORIGIN" in runpath and "torch/lib" in runpath
    assert str(BUILD) not in runpath
    assert "libtorch.so" not in dynamic


def test_the_module_of_the_tokenizer_is_next_to_the_library(prefix: Path) -> None:
    (module,) = (prefix / "lib").rglob("libloci_pieces.so.0")
    assert module.parent == next((prefix / "lib").rglob("libloci.so")).parent
    assert "RUNPATH" not in run("readelf", "-d", module)


def test_the_program_of_the_library_page_builds_trains_saves_and_loads(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text("".join(blocks("docs/library.md", "cmake")))
    (tmp_path / "main.cpp").write_text("\n".join(blocks("docs/library.md", "cpp")))
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path / "build")
    first, last, loaded = run("sh", "-c", f"cd {tmp_path} && build/app").splitlines()
    assert float(last.removeprefix("loss at last ")) < 0.5 * float(first.removeprefix("loss at first "))
    assert loaded == "the loaded network gives the same output"


def test_the_readme_shows_what_was_built() -> None:
    built = "".join(blocks("docs/library.md", "cmake", "cpp"))
    lines = [line.strip() for block in blocks("README.md", "cmake", "cpp") for line in block.splitlines()]
    assert len(lines) > 5
    assert not [line for line in lines if line not in built]


def unpacked_libtorch(folder: Path) -> Path:
    """What the LibTorch archive holds: a folder `libtorch`, and no Python around it."""
    torch = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    for name in ("include", "lib", "share"):
        (folder / "libtorch").mkdir(exist_ok=True)
        (folder / "libtorch" / name).symlink_to(torch / name)
    return folder / "libtorch"


def test_the_build_takes_an_unpacked_libtorch(tmp_path: Path) -> None:
    libtorch = unpacked_libtorch(tmp_path)
    options = [f"-DLOCI_TORCH_DIR={libtorch}", "-DLOCI_TESTS=OFF", "-DLOCI_BENCH=OFF", "-DLOCI_UNITY=OFF"]
    options += ["-DPython3_EXECUTABLE=/nonexistent"]  # one small file is enough
    run("cmake", "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja", *options)
    run("ninja", "-C", tmp_path / "build", "CMakeFiles/loci_ops.dir/loci/table/page_memory.cpp.o")


def test_what_is_installed_finds_its_library_and_the_libtorch_of_the_last_configuration(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        options = [f"-DLOCI_TORCH_DIR={unpacked_libtorch(tmp_path / name)}", "-DLOCI_TESTS=OFF", "-DLOCI_BENCH=OFF"]
        options += ["-DCMAKE_INSTALL_PREFIX=/opt/loci", "-DCMAKE_INSTALL_LIBDIR=/opt/loci/libraries"]
        run("cmake", "-S", ROOT, "-B", tmp_path / "build", "-G", "Ninja", *options)
    said = (tmp_path / "build/cli/cmake_install.cmake").read_text()
    assert f'"$ORIGIN:$ORIGIN/../libraries:{tmp_path}/second/libtorch/lib"' in said.replace("\\$", "$")
    assert str(tmp_path / "first") not in said


def test_a_folder_without_libtorch_is_refused_in_one_line(tmp_path: Path) -> None:
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja", f"-DLOCI_TORCH_DIR={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    message = f"loci: expected LibTorch in LOCI_TORCH_DIR, got {tmp_path} without torch/version.h"
    assert message in " ".join(result.stderr.split())
