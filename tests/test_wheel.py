"""The wheel in an environment that has nothing of this checkout: what a new user gets from `pip install`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import BUILD, RECIPE, ROOT, make_place, train_arguments

OUTSIDE = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LOCI_", "LD_"))}


def run(*command: str | Path, folder: Path = ROOT, **more: str) -> str:
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd=folder, env=OUTSIDE | more
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(ROOT / "tools/wheel", folder)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin/python3", "-m", "pip", "install", "-q", f"{wheel}[hf,report]")
    return folder


def needed(library: Path) -> set[str]:
    return set(re.findall(r"NEEDED\).*\[(.*)\]", run("readelf", "-d", library)))


def installed(environment: Path) -> Path:
    (package,) = environment.glob("lib/python3*/site-packages/loci")
    return package


def test_the_library_of_operators_needs_torch_and_the_compiler_alone() -> None:
    of_the_compiler = r"lib(stdc\+\+|m|gomp|gcc_s|c)\.so\.\d+|ld-linux.*"
    others = {name for name in needed(BUILD / "libloci_ops.so") if not re.fullmatch(of_the_compiler, name)}
    assert others == {"libtorch_cpu.so", "libc10.so"}


def test_every_python_serves(wheel: Path) -> None:
    assert re.fullmatch(r"torch_loci-[\d.]+-py3-none-manylinux_\w+_x86_64\.whl", wheel.name)


def test_one_version(environment: Path) -> None:
    (stated,) = re.findall(r"project\(loci VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())
    said = run(environment / "bin/python3", "-c", "import loci; print(loci.__version__)", folder=environment)
    assert said.split() == [stated]
    assert run(environment / "bin/loci", "--version", folder=environment).startswith(f"loci {stated} ")


def test_the_python_page_runs(environment: Path, tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
    (tmp_path / "page.py").write_text("\n".join(snippets))
    assert "ProductKeyMemory" in run(environment / "bin/python3", "page.py", folder=tmp_path)


def test_it_loads_no_library_of_debian(environment: Path) -> None:
    script = "import loci; loci.ops; print(*{l.split()[-1] for l in open('/proc/self/maps') if '.so' in l}, sep='\\n')"
    loaded = run(environment / "bin/python3", "-c", script, folder=environment).split()
    assert any(path.endswith("/loci/lib/libloci_ops.so.0") for path in loaded)
    assert not [path for path in loaded if "torch_loci.libs" in path or "libloci.so" in path]


def test_the_program_trains_with_what_the_wheel_holds(
    environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = make_place(tmp_path_factory, RECIPE.replace('kind = "bytes"', 'kind = "bpe"\nvocabulary = 512'))
    arguments = train_arguments(place, place / "out", "--arm", "memory", "--quiet", "--cache", place / "cache")
    log = place / "bindings"
    run(installed(environment) / "bin/loci", *arguments, folder=place, LD_DEBUG="files", LD_DEBUG_OUTPUT=str(log))
    assert (place / "out/memory/seed-0/result.json").is_file()
    read = {
        path
        for file in place.glob("bindings.*")
        for path in re.findall(r"calling init: (\S+)", file.read_text(errors="replace"))
    }
    system = {path for path in read if not path.startswith(str(environment))}
    of_the_system = r"lib(stdc\+\+|m|gcc_s|c|dl|rt|pthread|z)\.so|ld-linux|linux-vdso"
    assert not [path for path in system if not re.match(of_the_system, Path(path).name)]
    assert any("libsentencepiece" in path for path in read)


def test_the_doctor_says_who_asks(environment: Path) -> None:
    said = run(environment / "bin/python3", "-c", "import loci; loci.doctor()", folder=environment)
    assert f"({environment}" in said.splitlines()[0] and said.splitlines()[0].startswith("python")
    assert str(environment) in next(line for line in said.splitlines() if line.startswith("torch "))


def refused(library: Path) -> str:
    command = [sys.executable, "-c", "import loci; loci.ops"]
    variables = OUTSIDE | {"PYTHONPATH": str(ROOT / "python"), "LOCI_LIBRARY": str(library)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]


def test_another_torch_is_refused_before_the_library_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "libloci_ops.so.0").write_text("never read")
    (tmp_path / "libloci_ops.torch").write_text("2.12.1\n")
    line = refused(tmp_path / "libloci_ops.so.0")
    assert line.startswith("ImportError: loci: torch must be 2.12.* (loci was built for it), got 2.")
    assert "pip install --no-build-isolation" in line


def test_a_library_without_its_version_or_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "libloci_ops.so.0").write_text("not a library")
    assert "libloci_ops.torch must be next to" in refused(tmp_path / "libloci_ops.so.0")
    shutil.copy(BUILD / "libloci_ops.torch", tmp_path)
    assert "could not be loaded" in refused(tmp_path / "libloci_ops.so.0")
