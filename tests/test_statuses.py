"""The exit statuses of every verb, as a table: what is wrong, and the status that says so."""

import os
import pathlib
import re
import resource
import shutil
import subprocess

import pytest
from command_line import (
    LOCI,
    RECIPE,
    ROOT,
    assert_refused,
    environment,
    loci,
    make_place,
    permissions_hold,
    train,
    write_text,
)

IS_ROOT = os.geteuid() == 0
LONG = "n" * 300


MEMORY = """
[model.memory]
layers = [0]
rows = 64
heads = 2
top_k = 4
key_width = 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained run (RUN), data (DATA) and every bad path that the tables below name."""
    folder = make_place(tmp_path_factory, RECIPE.split("[[arms]]")[0] + MEMORY)
    result = train(folder, folder / "out")
    assert result.returncode == 0, result.stderr
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("text")
    (folder / "broken.toml").write_text("task = [")
    (folder / "wrong.toml").write_text('task = "language_model"\nmodell = 3\n')
    (folder / "closed").mkdir()
    write_text(folder / "closed" / "text")
    (folder / "closed").chmod(0)
    damaged = folder / "damaged"
    shutil.copytree(folder / "out", damaged)
    for config in damaged.rglob("config.toml"):
        config.write_text(config.read_text() + "\nwidth = [\n")
    (damaged / "main" / "seed-0" / "result.json").unlink()
    yield folder
    (folder / "closed").chmod(0o700)


def arguments_of(place, line):
    """The words of a line of the tables below, with what stands for a path put in."""
    names = {
        "RUN": "out/main/seed-0",
        "OUT": "out",
        "DAMAGED": "damaged/main/seed-0",
        "DAMAGED_OUT": "damaged",
        "DATA": "text",
        "RECIPE": "recipe.toml",
        "BROKEN": "broken.toml",
        "WRONG": "wrong.toml",
        "LOOP": "loop",
        "LONG": LONG,
        "CLOSED": "closed/text",
        "NONE": "none",
        "FILE": "file",
        "FILE/below": "file/below",
    }
    return [str(place / names[word]) if word in names else word for word in line.split()]


# A loop of links, a name that is too long, a folder that may not be entered.
BAD_PATHS = ["LOOP", "LONG", "CLOSED"]
READ = [
    "train BAD --data DATA --out new",
    "train RECIPE --data BAD --out new",
    "eval BAD --data DATA",
    "eval RUN --data BAD",
    "generate BAD",
    "generate RUN --prompt-file BAD",
    "predict BAD --images DATA",
    "program BAD",
    "inspect BAD",
    "convert BAD --table int8 --out new",
    "convert RUN --table int8 --out new --data BAD",
]
WRITTEN = [
    "train RECIPE --data DATA --out BAD",
    "program RUN --out BAD",
    "convert RUN --table int8 --out BAD",
]


@pytest.mark.parametrize("bad", BAD_PATHS)
@pytest.mark.parametrize("line", READ + WRITTEN)
def test_a_path_that_leads_nowhere(place, tmp_path, line, bad):
    arguments = arguments_of(place, line.replace("BAD", bad))
    result = loci(place, *arguments, cwd=tmp_path, preexec_fn=permissions_hold)
    assert_refused(result, 3 if line in READ else 2)
    assert not list(tmp_path.iterdir())


# Status 2: the command line and the recipe. Status 3: files. Status 4: memory and disk.
TABLE = [
    ("", 2, "subcommand"),
    ("trian RECIPE", 2, "did you mean train?"),
    ("doctor --jsn", 2, "did you mean --json?"),
    ("train", 2, "RECIPE"),
    ("train RECIPE --out new", 2, "--data"),
    ("train RECIPE --data DATA --out new --seed -1", 2, "--seed: must be a whole number from 0, got -1"),
    ("train RECIPE --data DATA --out new --set train", 2, "KEY=VALUE"),
    ("train RECIPE --data DATA --out new --arm none", 2, "main"),
    ("train NONE --data DATA --out new", 3, "No such file"),
    ("train BROKEN --data DATA --out new", 2, "must be TOML"),
    ("train WRONG --data DATA --out new", 2, "modell"),
    ("train FILE/below --data DATA --out new", 3, "Not a directory"),
    ("train DATA --data DATA --out new", 3, "Is a directory"),
    ("train RECIPE --data NONE --out new", 3, "none"),
    ("train RECIPE --data DATA --out FILE", 2, "Not a directory"),
    ("train RECIPE --data DATA --out /sys/loci", 2, "/sys/loci"),
    ("train RECIPE --data DATA --out OUT", 2, "--resume"),
    ("train RECIPE --data DATA --out DAMAGED_OUT --resume", 3, "config.toml"),
    ("eval NONE --data DATA", 3, "nothing there"),
    ("eval FILE --data DATA", 3, "a file"),
    ("eval DATA --data DATA", 3, "config.toml"),
    ("eval RUN", 2, "--data"),
    ("eval DAMAGED --data DATA", 3, "config.toml"),
    ("eval RUN --data DATA --lengths 5", 2, "--lengths"),
    ("eval RUN --data DATA --lengths 99999999999999999999", 2, "--lengths"),
    ("eval RUN --data DATA --pictures 2", 2, "--pictures: RUN must be of pair_shapes, got another task"),
    ("eval RUN --data DATA --questions NONE", 3, "No such file"),
    ("eval RUN --data DATA --questions RECIPE", 3, "PROMPT, one tab, ANSWER"),
    ("generate RUN --seed -1", 2, "--seed: must be a whole number from 0, got -1"),
    ("generate RUN --seed 99999999999999999999", 2, "--seed"),
    ("generate RUN --seed 1e3", 2, "got 1e3"),
    ("generate RUN --tokens 9223372036854775808", 2, "--tokens"),
    ("generate RUN --tokens many", 2, "got many"),
    ("generate RUN --tokens=", 2, "got nothing"),
    ("generate RUN --top-k -1", 2, "--top-k"),
    ("generate RUN --temperature nan", 2, "--temperature: must be a number from 0 to 100, got nan"),
    ("generate RUN --temperature inf", 2, "got inf"),
    ("generate RUN --temperature -0.5", 2, "got -0.5"),
    ("generate RUN --prompt a --prompt-file FILE", 2, "--prompt"),
    ("generate RUN --prompt-file NONE", 3, "No such file"),
    ("generate DAMAGED", 3, "config.toml"),
    ("predict RUN", 2, "text_classification or video_classification, got language_model"),
    (
        "predict RUN --images DATA",
        2,
        "relocalisation or shapes_keypoints or text_classification or video_classification, got language_model",
    ),
    ("predict NONE --images DATA", 3, "nothing there"),
    ("generate NONE", 3, "nothing there"),
    ("program NONE", 3, "nothing there"),
    ("program RUN", 2, "task ram"),
    ("program RUN --seed -1", 2, "--seed"),
    ("program RUN --out /sys/loci.txt", 2, "/sys/loci.txt"),
    ("program RUN --out DATA", 2, "a folder"),
    ("program RUN --verify 0", 2, "--verify"),
    ("inspect NONE", 3, "No such file"),
    ("inspect FILE", 3, "file"),
    ("inspect /dev/null", 3, "a device"),
    ("inspect DAMAGED", 3, "config.toml"),
    ("convert NONE --table int8 --out new", 3, "nothing there"),
    ("convert RUN --table int4 --out new", 2, "int4"),
    ("convert RUN --table int8 --out DATA", 2, "which exists"),
    ("convert RUN --table int8 --out FILE/below", 2, "Not a directory"),
    ("convert RUN --table int8 --out /sys/loci", 2, "/sys/loci"),
    ("convert DAMAGED --table int8 --out new", 3, "config.toml"),
    ("convert RUN --packed --out new", 2, "RUN must be of binary_network to be packed"),
    ("convert RUN --packed --table int8 --out new", 2, "--packed"),
    ("convert RUN --out new", 2, "--packed"),
    ("bench none", 2, "none"),
    ("bench --repeats 0", 2, "--repeats"),
    ("bench --rows 99999999999999999999", 2, "--rows"),
]


@pytest.mark.parametrize(("line", "status", "part"), TABLE, ids=[row[0] or "nothing" for row in TABLE])
def test_what_is_wrong_gives_its_status(place, tmp_path, line, status, part):
    arguments = arguments_of(place, line)
    if arguments[:1] == ["bench"] and "bench" not in loci(place, "--help").stdout:
        pytest.skip("built without the bench")
    assert_refused(loci(place, *arguments, cwd=tmp_path), status, part)


def limited_files(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_limit_of_file_sizes_is_a_lack_of_disk(place, tmp_path):
    result = train(place, tmp_path / "out", preexec_fn=limited_files(4096))
    assert_refused(result, 4, "File too large")
    run = place / "out" / "main" / "seed-0"
    served = loci(place, "convert", run, "--table", "int8", "--out", tmp_path / "new", preexec_fn=limited_files(4096))
    assert_refused(served, 4, "File too large")
    assert not (tmp_path / "new").exists()


def test_a_full_standard_output(place):
    run = place / "out" / "main" / "seed-0"
    for arguments in (["doctor"], ["doctor", "--json"], ["generate", run, "--prompt", "x"], ["inspect", run]):
        with open("/dev/full", "w") as full:
            result = subprocess.run([LOCI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
                                    env=environment(place), check=False)  # fmt: skip
        assert result.returncode == 4
        assert result.stderr == "loci: standard output: the output must be writable, got No space left on device\n"


def test_a_full_disk_leaves_no_half_conversion(place, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk]
    if not IS_ROOT or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted")
    try:
        run = place / "out" / "main" / "seed-0"
        result = loci(place, "convert", run, "--table", "int8", "--out", disk / "new")
        assert_refused(result, 4, "No space left on device")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_doctor_finds_faults_with_status_0(place):
    result = loci(place, "doctor", variables={"LOCI_CPU_LEVEL": "none"})
    assert result.returncode == 0 and "LOCI_CPU_LEVEL" in result.stdout
    assert_refused(loci(place, "inspect", place / "none", variables={"LOCI_CPU_LEVEL": "none"}), 2, "LOCI_CPU_LEVEL")


def test_the_statuses_stand_everywhere_alike(place):
    code = pathlib.Path(ROOT / "loci/base/check.h").read_text().split("enum class ExitCode", 1)[1].split("};", 1)[0]
    wanted = sorted(int(number) for number in re.findall(r"= (\d+),", code))
    table = (ROOT / "docs/command-line.md").read_text().split("## Exit status", 1)[1].split("\n## ", 1)[0]
    assert sorted(int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)) == wanted
    footer = loci(place, "--help").stdout.split("Exit status:", 1)[1].replace("\n", " ")
    assert sorted(int(number) for number in re.findall(r"(?:^|, ) *(\d) ", footer)) == wanted
