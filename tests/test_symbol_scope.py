"""Loading Loci changes nothing of torch: no data of one becomes the other's, whatever libraries export the same names.

Debian's libsentencepiece and libc10 both export FLAGS_minloglevel, 32 bytes in one and 4 in the other. Bound together,
sentencepiece's constructor wrote over c10's memory: torch.jit.trace hung, and running out of memory was an abort.
"""

import os
import pathlib
import re
import resource
import subprocess
import sys

import pytest
from command_line import BUILD, RECIPE, assert_refused, command, make_place, train, train_arguments

TORCH_FOLDER = "/torch/lib/"
TOKENIZER = re.compile(r"/lib(loci_pieces|sentencepiece|sentencepiece_train)\.so")

LOADED = """
import os, re, sys, torch
def libraries():
    paths = (line.split()[-1] for line in open("/proc/self/maps") if ".so" in line)
    return {path for path in paths if path.startswith("/")}
before = libraries()
torch.ops.load_library(sys.argv[1])
print("\\n".join(sorted(libraries() - before)))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory, RECIPE.replace('kind = "bytes"', 'kind = "bpe"\nvocabulary = 512'))


def python(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def exported_data(library):
    """Data that `library` exports under a name of its own; weak names are meant to be shared."""
    table = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    names = {name.split("@")[0] for _, kind, name in (line.split() for line in table.splitlines()) if kind in "BDRGS"}
    return names - {"_edata", "_end", "__bss_start"}  # the linker's own


def test_what_loci_loads_exports_no_data_of_torch():
    added = python(LOADED, BUILD / "libloci.so").split()
    assert any("libloci.so" in path for path in added)
    assert not [path for path in added if TOKENIZER.search(path)], "only text to tokenise needs it"
    import torch

    of_torch = set()
    for path in (pathlib.Path(torch.__file__).parent / "lib").glob("*.so*"):
        of_torch |= exported_data(path)
    assert "FLAGS_minloglevel" in of_torch
    assert {path: names for path in added if (names := exported_data(path) & of_torch)} == {}


def test_torch_traces_after_loading():
    script = """
import ctypes, os, sys, torch
c10 = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libc10.so"))
def level():
    return ctypes.c_int.in_dll(c10, "FLAGS_minloglevel").value
before = level()
torch.ops.load_library(sys.argv[1])
print(level() == before, torch.jit.trace(lambda x: x + 1, torch.ones(1))(torch.ones(1)).item())
"""
    assert python(script, BUILD / "libloci.so").split() == ["True", "2.0"]


def test_the_tokenizer_binds_to_itself_alone(place, tmp_path):
    """The loader's own account of a process that tokenises and trains."""
    environment = os.environ | {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "ld"), "LD_BIND_NOW": "1"}
    arguments = train_arguments(place, tmp_path / "out", "--arm", "base", "--quiet", "--cache", tmp_path / "cache")
    subprocess.run(command(*arguments), env=environment, check=True, capture_output=True)
    (log,) = tmp_path.glob("ld.*")
    bound, wrong = 0, set()
    with log.open(errors="replace") as lines:
        for line in lines:
            found = re.search(r"binding file (\S+) \[0\] to (\S+) \[0\]: \S+ symbol `([^']+)'", line)
            if not found or not (TOKENIZER.search(found[1]) or TOKENIZER.search(found[2])):
                continue
            bound += 1
            ours = TOKENIZER.search(found[1])
            if TORCH_FOLDER in found[2] or "libloci.so" in found[2] or not ours:
                wrong.add(found.groups())
    assert bound > 1000
    assert wrong == set()


# Enough to start, too little for a model of 100 M parameters; a machine with less would refuse it beforehand.
LIMIT = 900 << 20


def test_running_out_of_memory_is_one_line(place, tmp_path):
    changes = ["--set", "model.width=1024", "--set", "model.layers=8"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))  # noqa: E731
    result = train(place, tmp_path / "out", "--arm", "base", "--quiet", *changes, preexec_fn=limit)
    assert_refused(result, 4, "memory")
