"""What the tests of the command line share: running it, a folder of text, and what a refusal looks like.

LOCI_BUILD names the build folder (default: build/release). `place` is a folder with `recipe.toml`, mostly also with
`text`, and with the cache of its own that every call uses.
"""

import ctypes
import os
import pathlib
import random
import subprocess

ROOT = pathlib.Path(__file__).parent.parent
BUILD = pathlib.Path(os.environ.get("LOCI_BUILD", ROOT / "build" / "release"))
LOCI = BUILD / "cli" / "loci"
PACKAGE_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "python")}  # for another Python that imports loci

# A language model that trains in seconds.
SMALL_MODEL = """
task = "language_model"
[data]
evaluation_tokens = 500
validation_share = 0.2
[tokenizer]
kind = "bytes"
[model]
layers = 1
width = 16
heads = 2
context = 16
[train]
steps = 12
batch = 4
threads = 1
precision = "float32"
log_every = 2
checkpoint_every = 3
"""

# With and without a memory, and the base as long as the memory takes.
RECIPE = (
    "seeds = [0]"
    + SMALL_MODEL
    + """
[optimizer.schedule]
warmup = 2
[[arms]]
name = "base"
[[arms]]
name = "memory"
[arms.set.model.memory]
layers = [0]
rows = 64
heads = 2
top_k = 4
key_width = 8
query_norm = "batch"
start = "zero_values"
calibrate_at = 4
calibrate_tokens = 128
[[arms]]
name = "base-equal-time"
equal_time = {to = "memory", of = "base"}
"""
)


def write_text(folder):
    """Twelve files in three folders below `folder`."""
    words = "the cat sat on a mat and saw seven small green birds fly over an old red barn".split()
    draw = random.Random(0)
    for i in range(12):
        path = folder / f"part{i % 3}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(" ".join(draw.choices(words, k=9)) for _ in range(60)))


def make_place(tmp_path_factory, recipe):
    """A folder with a recipe and text, shared by the tests of a file."""
    folder = tmp_path_factory.mktemp("loci")
    (folder / "recipe.toml").write_text(recipe)
    write_text(folder / "text")
    return folder


def command(*arguments):
    return [str(LOCI), *map(str, arguments)]


def environment(place, variables=None):
    return {**os.environ, "XDG_CACHE_HOME": str(place / "cache"), **(variables or {})}


def loci(place, *arguments, variables=None, **more):
    environ = environment(place, variables)
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, env=environ, check=False, **more
    )


def start(place, *arguments):
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place)
    )


def permissions_hold():
    """For preexec_fn: takes from a program that root starts the capabilities to read and write whatever it wants."""
    drop_from_bounding_set, capabilities = 24, (1, 2)  # PR_CAPBSET_DROP; CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if os.geteuid() == 0:
        for capability in capabilities:
            if ctypes.CDLL(None, use_errno=True).prctl(drop_from_bounding_set, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl")


# Sends the process a signal when it creates its first file.
SIGNALLED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
int open(const char* path, int flags, ...) {
  static int sent = 0;
  va_list rest;
  va_start(rest, flags);
  const int mode = va_arg(rest, int);
  va_end(rest);
  int (*next)(const char*, int, ...) = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open64");
  const int descriptor = next(path, flags, mode);
  if ((flags & O_CREAT) && !sent++) raise(SIGNAL);
  return descriptor;
}
int open64(const char*, int, ...) __attribute__((alias("open")));
"""


def loci_signalled(place, number, *arguments, **more):
    """Runs loci, which gets signal `number` right after it has created its first file."""
    source, library = place / "signalled.c", place / f"signalled-{number}.so"
    source.write_text(SIGNALLED.replace("SIGNAL)", f"{number})"))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return loci(place, *arguments, variables={"LD_PRELOAD": str(library), "TMPDIR": str(place)}, **more)


def train_arguments(place, out, *more):
    return ["train", place / "recipe.toml", "--data", place / "text", "--out", out, *more]


def train(place, out, *more, **options):
    return loci(place, *train_arguments(place, out, *more), **options)


def assert_refused(result, code, *parts):
    """One line on standard error, after what progress wrote; nothing on standard output."""
    assert result.returncode == code, result.stderr
    complaint = [line for line in result.stderr.splitlines() if line.startswith("loci: ")]
    assert len(complaint) == 1 and result.stderr.splitlines()[-1] == complaint[0], result.stderr
    for part in parts:
        assert part in complaint[0]
    assert result.stdout == ""


def settings(*pairs):
    """Arguments that set these keys: "train.steps=3" ..."""
    return [part for pair in pairs for part in ("--set", pair)]


def run_of(out):
    """The run of a recipe without arms."""
    return out / "main" / "seed-0"


def newest(run):
    """The newest checkpoint of a run."""
    return run / (run / "latest").read_text().strip()


def tensors_of(run):
    """The bytes of everything that a resumed run must have in common with an unbroken one."""
    return {path.name: path.read_bytes() for path in sorted(newest(run).glob("*.safetensors"))}
