"""Neural random-access machines on the command line: train, look at the program, run it, and each kind of bad input."""

import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import pytest
from command_line import LOCI, ROOT, assert_refused, loci, loci_signalled, newest

RECIPE = """
task = "ram"
[data]
task = "access"
difficulty = 2
raise_error = 0.9
gap = 2
[model]
registers = 2
width = 12
[anneal]
begin_error = 1
ramp = 10
updates = 20
check_every = 10
[search]
seeds = 3
[train]
steps = 60
batch = 16
threads = 1
precision = "float32"
log_every = 10
checkpoint_every = 20
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ram")
    (folder / "recipe.toml").write_text(RECIPE)
    result = loci(folder, "train", folder / "recipe.toml", "--out", folder / "out", "--json")
    assert result.returncode == 0, result.stderr
    return folder


def test_training_needs_no_data_and_reports_rates_with_intervals(place):
    run = place / "out" / "main" / "seed-0"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert {seed["seed"] for seed in train[0]["seeds"]} == {0, 1, 2}
    evaluation = next(line for line in reversed(lines) if line["kind"] == "evaluation")
    for rate in ("solved", "generalises", "exact"):
        found = evaluation["details"][rate]
        assert found["of"] == 3 and found["seeds"] == evaluation["measures"][rate]
        low, high = found["interval"]
        assert 0 <= low <= found["seeds"] / 3 <= high <= 1
    summary = json.loads((place / "out/summary.json").read_text())
    assert [measure["name"] for measure in summary["measures"]] == ["exact", "solved", "generalises", "error"]
    assert (summary["unit"], summary["measures"][0]["unit"]) == ("instances", "of 3")
    assert summary["runs"][0]["measures"] == evaluation["measures"]


def test_a_seed_alone_has_the_bits_of_the_batch(place, tmp_path):
    result = loci(
        place,
        "train",
        place / "recipe.toml",
        "--out",
        tmp_path / "out",
        "--set",
        "seeds=[1]",
        "--set",
        "search.seeds=1",
        "--set",
        "train.threads=2",
        "--quiet",
    )
    assert result.returncode == 0, result.stderr
    load = pytest.importorskip("safetensors.numpy").load_file
    alone = load(newest(tmp_path / "out/main/seed-1") / "model.safetensors")["controllers"]
    together = load(newest(place / "out/main/seed-0") / "model.safetensors")["controllers"]
    assert alone[0].tobytes() == together[1].tobytes()


def test_an_interrupted_run_ends_with_the_same_bits(place, tmp_path):
    shutil.copytree(place / "out", tmp_path / "out")
    run = tmp_path / "out/main/seed-0"
    steps = sorted(run.glob("step-*"), key=lambda path: int(path.name[5:]))
    assert len(steps) == 2
    wanted = (steps[1] / "model.safetensors").read_bytes()
    shutil.rmtree(steps[1])
    (run / "result.json").unlink()
    (run / "latest").write_text(steps[0].name + "\n")
    result = loci(place, "train", place / "recipe.toml", "--out", tmp_path / "out", "--resume", "--quiet")
    assert result.returncode == 0, result.stderr
    assert (steps[1] / "model.safetensors").read_bytes() == wanted


@pytest.mark.parametrize("form", ["text", "c++", "dot", "json"])
def test_the_program_is_printed_in_every_form(place, tmp_path, form):
    result = loci(place, "program", place / "out", "--format", form, "--out", tmp_path / "program")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "program").read_text()
    starts = {"text": ("if", "{", "always"), "c++": ("//", "#include"), "dot": ("digraph",), "json": ("{",)}
    assert text.startswith(starts[form])
    if form == "c++":
        (tmp_path / "main.cpp").write_text(
            '#include "program"\nint main() { uint32_t m[] = {0, 2, 1, 0, 0}; return run(m, 5, 9) > 9; }\n'
        )
        command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", tmp_path / "main.cpp", "-o", tmp_path / "main"]
        subprocess.run(command, check=True)
        assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


def test_a_program_is_written_into_devices_pipes_and_links(place, tmp_path):
    printed = loci(place, "program", place / "out")
    assert printed.returncode == 0, printed.stderr
    result = loci(place, "program", place / "out", "--out", "/dev/stdout")
    assert (result.returncode, result.stdout) == (0, printed.stdout), result.stderr
    with open(tmp_path / "log", "ab") as log:  # as the shell's >>: what was there stays
        log.write(b"before\n")
        log.flush()
        assert subprocess.run([LOCI, "program", place / "out", "--out", "/dev/stdout"], stdout=log).returncode == 0
    assert (tmp_path / "log").read_text() == "before\n" + printed.stdout
    assert loci(place, "program", place / "out", "--out", "/dev/null").returncode == 0
    assert pathlib.Path("/dev/null").is_char_device()
    (tmp_path / "link").symlink_to("target")
    assert loci(place, "program", place / "out", "--out", tmp_path / "link").returncode == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == printed.stdout
    assert_refused(loci(place, "program", place / "out", "--out", "/dev/full"), 4, "/dev/full", "No space left")


@pytest.mark.parametrize("arguments", [["--out", "new"], ["--verify", "9", "--compiled"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_is_stopped_leaves_no_file(place, arguments, number):
    before = sorted(place.iterdir())
    stopped = loci_signalled(place, number, "program", place / "out", *arguments, cwd=place)
    assert (stopped.returncode, stopped.stdout) == (128 + number, "")
    assert stopped.stderr.splitlines()[-1].startswith("loci: stopped ")
    assert {path.name for path in place.iterdir()} - {path.name for path in before} <= {
        "signalled.c",
        f"signalled-{number}.so",
    }


def test_the_program_runs_on_a_tape_and_is_verified(place):
    result = loci(place, "program", place / "out", "--run", "1,3,2,0,0", "--trace", "--seed", 1)
    assert result.returncode == 0, result.stderr
    assert "step 1  r0=0 r1=0" in result.stdout
    report = json.loads(loci(place, "program", place / "out", "--verify", 150, "--json").stdout)
    assert report["total"]["instances"] == 150
    result = loci(place, "eval", place / "out", "--lengths", "2,4", "--json")
    seeds = json.loads(result.stdout)["account"]["seeds"]
    assert [row["length"] for row in seeds[2]["soft"]] == [2, 4]
    assert all(0 <= row["cell_error"] <= 1 for seed in seeds for row in seed["discrete"])


def test_lengths_beyond_memory_and_beyond_the_limit(place):
    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    too_long = loci(place, "eval", place / "out", "--lengths", 1_000_000, "--quiet", preexec_fn=little_memory)
    assert_refused(too_long, 4, "memory")
    assert_refused(loci(place, "eval", place / "out", "--lengths", 1_000_001), 2, "from 1 to 1000000", "got 1000001")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "9,1,0,0"], ["value at cell 0 must be 0..3 (M=4)", "got 9"]),
        (["--run", "1,2"], ["at least 3 cells", "got 2"]),
        (["--run", "1,x,2"], ["numbers below 2^32 with commas", "got 1,x,2"]),
        (["--run", "1,99999999999,2"], ["numbers below 2^32 with commas", "got 1,99999999999,2"]),
        (["--run", ""], ["numbers below 2^32 with commas", "got nothing"]),
        (["--run", "1,2,0,0", "--steps", "0"], ["--steps", "0"]),
        (["--verify", "0"], ["--verify", "0"]),
        (["--compiled"], ["--compiled requires --verify"]),
        (["--json"], ["--json requires --verify"]),
        (["--run", "1,2,0,0", "--out", "file"], ["--out excludes --run"]),
        (["--verify", "9", "--out", "file"], ["--out excludes --verify"]),
        (["--seed", "7"], ["--seed must be 0 .. 2", "got 7"]),
    ],
)
def test_bad_input_of_program(place, arguments, words):
    assert_refused(loci(place, "program", place / "out", *arguments), 2, *words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.task=copi", ["data.task", "copi"]),
        ("data.slack=-3", ["slack", "-3"]),
        ("data.slack=5000", ["slack", "5000"]),
        ("data.difficulty=100000", ["difficulty", "100000"]),
        ("data.difficulty=0", ["difficulty", "0"]),
        ("model.registers=0", ["registers", "0"]),
        ("model.controller=gru", ["controller", "gru"]),
        ("search.early_updates=9", ["search.early_level must be at most data.difficulty = 2", "got 3"]),
        ("search.enough=4", ["search.enough must be at most search.seeds = 3", "got 4"]),
        ("train.accumulation=2", ["accumulation", "2"]),
    ],
)
def test_bad_recipes(place, tmp_path, setting, words):
    result = loci(place, "train", place / "recipe.toml", "--out", tmp_path / "out", "--set", setting, "--quiet")
    assert_refused(result, 2, *words)


def test_a_tape_of_the_wrong_form_is_run_but_named(place):
    result = loci(place, "program", place / "out", "--run", "7,1,2,3,0,0,0,0")
    assert result.returncode == 0, result.stderr
    assert "no instance of access: access: k must be 0..2, got 7" in result.stdout


def test_the_exported_program_is_verified_as_it_was_compiled(place):
    discrete = json.loads(loci(place, "program", place / "out", "--verify", 150, "--json").stdout)
    compiled = loci(place, "program", place / "out", "--verify", 150, "--json", "--compiled")
    assert compiled.returncode == 0, compiled.stderr
    for left, right in zip(discrete["lengths"], json.loads(compiled.stdout)["lengths"], strict=True):
        assert (left["cell_error"], left["instance_error"]) == (right["cell_error"], right["instance_error"])


def test_a_compiler_that_fails_is_named(place, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    result = loci(place, "program", place / "out", "--verify", 15, "--compiled")
    assert_refused(result, 2, "--compiled: the compiler (CXX, or c++) must be there", "got false with status 1")


@pytest.mark.parametrize("verb", [["program"], ["eval", "--lengths", "5"]])
def test_a_checkpoint_of_another_task(place, tmp_path, verb):
    shutil.copytree(place / "out", tmp_path / "out")
    config = tmp_path / "out/main/seed-0/config.toml"
    config.write_text(config.read_text().replace('task = "access"', 'task = "increment"'))
    result = loci(place, verb[0], tmp_path / "out", *verb[1:])
    assert_refused(result, 3, "the checkpoint must have been trained on the data", 'got "access 0 false')


def test_a_program_of_another_sort_of_run(place, tmp_path):
    assert_refused(loci(place, "program", tmp_path), 3, "RUN must hold config.toml")


def test_a_run_goes_on_only_with_its_own_task(place, tmp_path):
    shutil.copytree(place / "out", tmp_path / "out")
    run = tmp_path / "out/main/seed-0"
    (run / "result.json").unlink()
    arguments = ["--out", tmp_path / "out", "--resume", "--set", "data.task=increment", "--quiet"]
    result = loci(place, "train", place / "recipe.toml", *arguments)
    assert result.returncode != 0
    assert len(result.stderr.strip().splitlines()) == 1


def search(task, arms):
    command = [sys.executable, str(ROOT / "tools/ram_search.py"), task, "--arms", str(arms), "--seeds", "2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_random_search_is_a_recipe_and_a_longer_one_only_adds_arms(tmp_path):
    short, long = search("listk", 2), search("listk", 5)
    assert long.split("[[arms]]")[1:3] == [arm.rstrip() + "\n\n" for arm in short.split("[[arms]]")[1:]]
    (tmp_path / "search.toml").write_text(long)
    result = loci(tmp_path, "train", tmp_path / "search.toml", "--out", tmp_path / "out", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert [name in result.stdout + result.stderr for name in ("trial-000", "trial-004")] == [True, True]


def test_a_length_that_the_task_does_not_have(place):
    result = loci(place, "eval", place / "out", "--lengths", "0")
    assert_refused(result, 2, "lengths of access must be from 1 to 1000000", "got 0")
    for option in (["--by-context"], ["--questions", "q.tsv"]):
        result = loci(place, "eval", place / "out", *option, "--quiet")
        assert_refused(result, 2, f"{option[0]}: RUN must be a language model, got another task")
