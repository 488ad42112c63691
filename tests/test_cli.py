"""The command line as a user meets it: each verb and each kind of bad input."""

import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess

import pytest
from command_line import RECIPE, assert_refused, command, environment, loci, make_place, permissions_hold, start, train


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return make_place(tmp_path_factory, RECIPE)


@pytest.fixture(scope="session")
def trained(place):
    out = place / "trained"
    result = train(place, out)
    assert result.returncode == 0, result.stderr
    return out, result


def copy_of(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "copy")
    return tmp_path / "copy"


# What works.


def test_train_writes_runs_and_a_comparison(trained):
    out, result = trained
    assert "At equal training time" in result.stdout
    summary = json.loads((out / "summary.json").read_text())
    runs = summary["runs"]
    assert (summary["task"], summary["unit"]) == ("language_model", "tokens")
    assert [measure["name"] for measure in summary["measures"]] == ["loss", "bits_per_byte", "usage", "kl"]
    assert [row["arm"] for row in runs] == ["base", "memory", "base-equal-time"]
    assert [row["as_long_as"] for row in runs] == [None, None, "memory"]
    for row in runs:
        assert ("usage" in row["measures"]) == (row["arm"] == "memory")
        assert row["units_per_second_inference"] > 0
    assert runs[1]["parameters_table"] == 64 * 16
    assert runs[0]["units"] == 12 * 4 * 16
    assert summary["verdict"].startswith("At the same training time, memory is ")
    assert result.stdout.startswith(summary["verdict"] + "\nAt equal training tokens")
    assert re.search(r"^  loss  +what the model misses .* in nats per token; lower is better$", result.stdout, re.M)
    assert runs[2]["units"] >= 64 and runs[2]["units"] % 64 == 0
    assert "base-equal-time trained for as long as memory, by their paces in turns" in result.stdout


def test_the_log_has_a_line_of_each_kind(trained):
    lines = [json.loads(line) for line in (trained[0] / "memory" / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds == ["start"] + ["train"] * 6 + ["evaluation", "end"]
    assert lines[0]["parameters_dense"] > 0 and lines[0]["threads"] == 1 and lines[0]["level"]
    assert lines[0]["cpu"] and lines[0]["time"].endswith("Z") and lines[0]["unit"] == "tokens"
    assert lines[0]["data"]["training files"] + lines[0]["data"]["validation files"] == 12
    assert {"step", "units", "seconds", "loss", "learning_rate", "units_per_second", "memory_bytes", "usage",
            "kl"} <= lines[1].keys()  # fmt: skip
    assert lines[-2]["units"] == lines[-3]["units"] == 12 * 64
    memory = lines[-2]["details"]["memories"][0]
    assert {"layer", "usage", "usage_at_1", "kl", "gini", "rows_50", "rows_90", "rows_99", "collision",
            "never_touched"} <= memory.keys()  # fmt: skip


def test_json_on_standard_output_is_the_summary(place, trained):
    result = train(place, trained[0], "--resume", "--json", "--quiet")
    assert result.returncode == 0 and result.stderr == ""
    shown, written = json.loads(result.stdout), json.loads((trained[0] / "summary.json").read_text())
    assert shown == written


def test_json_is_ascii(place, tmp_path):
    result = train(place, tmp_path / "out", "--arm", "base", "--arm", "memory", "--set", "seeds=[0,1]", "--json")
    assert "\u00b1" in json.loads(result.stdout)["verdict"]
    assert result.stdout.isascii()


def test_dry_run_tells_the_size_and_writes_nothing(place, tmp_path):
    result = loci(place, "train", place / "recipe.toml", "--out", tmp_path / "out", "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert [arm["arm"] for arm in plan["arms"]] == ["base", "memory", "base-equal-time"]
    assert plan["arms"][0]["steps"] == 12 and plan["arms"][1]["parameters_table"] == 1024
    assert plan["arms"][0]["memory"]["total"] > 0 and plan["memory_available"] > 0
    assert not (tmp_path / "out").exists()
    text = loci(place, "train", place / "recipe.toml", "--dry-run").stdout
    assert "dense parameters" in text
    assert max(len(line) for line in text.splitlines()[1:]) <= 100


def test_eval_measures_what_training_measured(place, trained):
    result = loci(place, "eval", trained[0] / "memory" / "seed-0", "--data", place / "text", "--json")
    assert result.returncode == 0, result.stderr
    measures = json.loads(result.stdout)
    assert sorted(measures) == ["account", "checkpoint", "damaged", "details", "measures", "task"]
    assert measures["checkpoint"].endswith("memory/seed-0/step-12") and measures["damaged"] == []
    summary = json.loads((trained[0] / "summary.json").read_text())
    assert measures["measures"] == summary["runs"][1]["measures"]
    assert measures["details"]["memories"][0]["usage"] == measures["measures"]["usage"]
    base = loci(place, "eval", trained[0] / "base" / "seed-0" / "step-12", "--data", place / "text", "--json")
    assert json.loads(base.stdout)["details"]["memories"] == []


def test_eval_by_context_and_with_questions(place, trained, tmp_path):
    (tmp_path / "questions.tsv").write_text("the cat\t sat\nthe dog\t ran\n")
    run = trained[0] / "memory" / "seed-0"
    result = loci(place, "eval", run, "--data", place / "text", "--by-context",
                  "--questions", tmp_path / "questions.tsv", "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    account = json.loads(result.stdout)["account"]
    classes = ["never", "once", "2 to 10", "11 to 100", "more"]
    assert [row["seen"] for row in account["by_context"]] == [c for c in classes if c in str(account["by_context"])]
    assert all(row["tokens"] > 0 for row in account["by_context"])
    assert account["questions"]["questions"] == 2 and 0 <= account["questions"]["right"] <= 2
    (tmp_path / "other").mkdir()
    for name in ("a", "b"):
        (tmp_path / "other" / f"{name}.txt").write_text(f"{name} other text of another folder\n" * 40)
    other = loci(place, "eval", run, "--data", tmp_path / "other", "--by-context", "--quiet")
    assert_refused(other, 3, "must have been trained on the data")


def test_generate_repeats_itself_with_the_same_seed(place, trained):
    def text(seed, *more):
        result = loci(place, "generate", trained[0] / "memory" / "seed-0", "--prompt", "the cat", "--tokens", 40,
                      "--temperature", 0.9, "--top-k", 20, "--seed", seed, *more)  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert text(1).startswith("the cat")


def test_inspect_lists_tensors_of_a_run_and_of_a_file(place, trained):
    run = trained[0] / "memory" / "seed-0"
    facts = json.loads(loci(place, "inspect", run, "--json").stdout)
    assert facts["arm"] == "memory"
    names = {pathlib.Path(file["file"]).name for file in facts["files"]}
    assert {"model.safetensors", "optimizer.safetensors", "task.safetensors", "manifest.json"} <= names
    file = loci(place, "inspect", run / "step-12" / "model.safetensors")
    assert file.returncode == 0 and "embedding" in file.stdout and "[257, 16]" in file.stdout


def test_version(place):
    assert re.match(r"loci \d+\.\d+\.\d+ ", loci(place, "--version").stdout)


def test_a_prompt_from_a_file_or_from_standard_input(place, trained, tmp_path):
    verb = ["generate", trained[0] / "memory" / "seed-0", "--tokens", 20]
    (tmp_path / "prompt").write_text("the cat\nsat")
    given = loci(place, *verb, "--prompt", "the cat\nsat")
    assert given.returncode == 0, given.stderr
    assert given.stdout.startswith("the cat\nsat")
    assert loci(place, *verb, "--prompt-file", tmp_path / "prompt").stdout == given.stdout
    assert loci(place, *verb, "--prompt-file", "-", input="the cat\nsat").stdout == given.stdout
    facts = json.loads(loci(place, *verb, "--prompt-file", tmp_path / "prompt", "--json").stdout)
    assert facts["prompt"] + facts["text"] + "\n" == given.stdout
    assert facts["tokens"] == 20 and facts["end_of_text"] is False


def test_generate_says_that_the_text_ended(place, trained):
    """At temperature 100 each of 257 tokens is about equally likely."""
    verb = ["generate", trained[0] / "memory" / "seed-0", "--tokens", 5000, "--temperature", 100]
    facts = json.loads(loci(place, *verb, "--json").stdout)
    assert facts["end_of_text"] is True and facts["tokens"] < 5000
    spoken = subprocess.run(command(*verb), capture_output=True, env=environment(place), check=True)
    assert spoken.stderr.decode() == f"The text ended after {facts['tokens']} of 5000 tokens.\n"


def test_an_empty_prompt_is_no_other_option(place, trained):
    verb = ["generate", trained[0] / "memory" / "seed-0", "--tokens", 20]
    first = loci(place, *verb, "--prompt=", "--temperature=0", "--seed", 1)
    assert first.returncode == 0, first.stderr
    assert "temperature" not in first.stdout
    assert first.stdout == loci(place, *verb, "--prompt", "", "--temperature", 0, "--seed", 2).stdout


# Names that are hard to show.


def safetensors_file(path, tensors, metadata):
    header, end = {"__metadata__": metadata}, 0
    for name, dtype in tensors.items():
        header[name] = {"dtype": dtype, "shape": [2], "data_offsets": [end, end + 8]}
        end += 8
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def test_names_obey_no_terminal_commands(place, tmp_path):
    path = tmp_path / "a\n\x1b[31m.safetensors"
    safetensors_file(path, {"t\n\x1b[2J\u009b\u202e": "F32", "later": "F33\r"}, {"k\t": "v\n\x1b]0;x\x07"})
    for json_flag in ([], ["--json"]):
        result = loci(place, "inspect", path, *json_flag)
        assert result.returncode == 0, result.stderr
        assert not set(result.stdout) & set("\x1b\x07\r\t\u009b\u202e")
    text = loci(place, "inspect", path).stdout
    for part in (
        "a\\n\\u001b[31m.safetensors",
        "t\\n\\u001b[2J\\u009b\\u202e",
        "F33\\r",
        "k\\t = v\\n\\u001b]0;x\\u0007",
    ):
        assert part in text
    path.write_bytes(b"short")
    assert_refused(loci(place, "inspect", path), 3, "a\\n\\u001b[31m.safetensors: a safetensors file must start with")


def test_names_that_are_not_utf8_are_shown(place, trained, tmp_path):
    bad = os.fsdecode(b"\xff")

    def facts_of(*arguments):
        result = loci(place, *arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    path = tmp_path / f"f{bad}.safetensors"
    shutil.copyfile(trained[0] / "base" / "seed-0" / "step-12" / "model.safetensors", path)
    assert facts_of("inspect", path)["file"].endswith("f\ufffd.safetensors")
    assert "f\\xff.safetensors" in loci(place, "inspect", path).stdout
    run = tmp_path / f"run{bad}"
    shutil.copytree(trained[0] / "memory" / "seed-0", run)
    assert facts_of("inspect", run)["run"].endswith("run\ufffd")
    assert facts_of("generate", run, "--tokens", 3, "--prompt", bad)["prompt"] == "\ufffd"
    out = tmp_path / f"served{bad}"
    assert facts_of("convert", run, "--table", "int8", "--out", out)["out"].endswith("\ufffd")
    recipe = tmp_path / f"recipe{bad}.toml"
    shutil.copyfile(place / "recipe.toml", recipe)
    assert "\ufffd" in facts_of("train", recipe, "--dry-run")["recipe"]


# Mistakes on the command line and in the configuration.


@pytest.mark.parametrize(
    "setting, part",
    [
        ("model.layerss=3", "did you mean layers"),
        ("model.layers=many", "layers"),
        ("train.steps=-1", "from 0"),
        ("model.width=17", "width"),
        ("train.precision=float16", "float32"),
        ("task=vision", "language_model"),
        ("train", "KEY=VALUE"),
    ],
)
def test_config_mistakes(place, tmp_path, setting, part):
    result = train(place, tmp_path / "out", "--set", setting)
    assert_refused(result, 2, part)
    assert not (tmp_path / "out").exists()


def test_an_unknown_arm(place, tmp_path):
    assert_refused(train(place, tmp_path / "out", "--arm", "memry"), 2, "base, memory")


def test_a_table_of_ten_terabytes_is_refused_with_nothing_written(place, tmp_path):
    recipe = tmp_path / "huge.toml"
    recipe.write_text(RECIPE.replace("rows = 64", "rows = 160_000_000_000"))
    cache = tmp_path / "cache"
    result = loci(place, "train", recipe, "--data", place / "text", "--out", tmp_path / "out", "--cache", cache)
    assert_refused(result, 4, "TiB", "table")
    assert not (tmp_path / "out").exists() and not cache.exists()


@pytest.mark.parametrize("rows", [2**62, 2**63 - 1])
def test_sizes_beyond_64_bits_are_refused(place, tmp_path, rows):
    recipe = tmp_path / "huge.toml"
    recipe.write_text(RECIPE.replace("rows = 64", f"rows = {rows}"))
    result = loci(place, "train", recipe, "--data", place / "text", "--out", tmp_path / "out")
    assert result.returncode in (2, 4), result.stderr
    assert_refused(result, result.returncode)


# Bad data.


def test_a_missing_folder(place, tmp_path):
    result = loci(place, "train", place / "recipe.toml", "--data", tmp_path / "none", "--out", tmp_path / "out")
    assert_refused(result, 3, "none")


def test_an_empty_folder(place, tmp_path):
    (tmp_path / "text").mkdir()
    result = loci(place, "train", place / "recipe.toml", "--data", tmp_path / "text", "--out", tmp_path / "out")
    assert_refused(result, 3, "text")


def test_a_folder_of_binary_files(place, tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(3):
        (tmp_path / "text" / f"{i}.txt").write_bytes(bytes(range(256)) * 20)
    result = loci(place, "train", place / "recipe.toml", "--data", tmp_path / "text", "--out", tmp_path / "out")
    assert_refused(result, 3, "binary")


def test_an_unreadable_folder(place, tmp_path):
    (tmp_path / "text").mkdir(mode=0)
    train_unreadable = ["train", place / "recipe.toml", "--data", tmp_path / "text", "--out", tmp_path / "out"]
    result = loci(place, *train_unreadable, preexec_fn=permissions_hold)
    assert_refused(result, 3, "text: the folder must be readable, got Permission denied")


def test_a_folder_too_small_for_a_batch(place, tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(2):
        (tmp_path / "text" / f"{i}.txt").write_text(f"few words {i}")
    result = loci(place, "train", place / "recipe.toml", "--data", tmp_path / "text", "--out", tmp_path / "out")
    assert_refused(result, 3, "tokens")


# Bad run directories and checkpoints.


def test_out_is_not_overwritten(place, trained):
    assert_refused(train(place, trained[0]), 2, "--resume")


def test_a_run_of_another_configuration_does_not_go_on(place, trained, tmp_path):
    out = copy_of(trained, tmp_path)
    assert_refused(train(place, out, "--resume", "--set", "model.width=32"), 2, "model.width = 16", "got 32")


def test_a_run_does_not_go_on_with_other_data(place, trained, tmp_path):
    out = copy_of(trained, tmp_path)
    (out / "base" / "seed-0" / "result.json").unlink()
    shutil.copytree(place / "text", tmp_path / "text")
    (tmp_path / "text" / "more.txt").write_text("one more file " * 50)
    result = loci(place, "train", place / "recipe.toml", "--data", tmp_path / "text", "--out", out, "--resume")
    assert_refused(result, 3, "data")


def test_damaged_checkpoints_are_refused(place, trained, tmp_path):
    out = copy_of(trained, tmp_path)
    run = out / "memory" / "seed-0"
    step = run / "step-12"
    draw = random.Random(1)
    for path in sorted(step.iterdir()):
        good = path.read_bytes()
        position = draw.randrange(len(good))
        for bad in (good[: len(good) // 2], good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]):
            path.write_bytes(bad)
            assert_refused(loci(place, "generate", step, "--tokens", 1), 3, path.name)
        path.write_bytes(good)
    assert loci(place, "generate", step, "--tokens", 1).returncode == 0
    path.write_bytes(b"")
    older = loci(place, "eval", run, "--data", place / "text", "--json")
    assert older.returncode == 0 and "step-12 is damaged and left out" in older.stderr
    measures = json.loads(older.stdout)
    assert measures["checkpoint"].endswith("step-9") and "step-12 is damaged" in measures["damaged"][0]


def test_a_checkpoint_of_another_model_is_refused(place, trained, tmp_path):
    out = copy_of(trained, tmp_path)
    for arm, other, part in (("base", "memory", "every table must belong"), ("memory", "base", "model.safetensors")):
        step = out / arm / "seed-0" / "step-12"
        shutil.rmtree(step)
        shutil.copytree(trained[0] / other / "seed-0" / "step-12", step)
        assert_refused(loci(place, "eval", step, "--data", place / "text"), 3, part)


def test_a_file_that_is_no_safetensors(place, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    assert_refused(loci(place, "inspect", tmp_path / "x.safetensors"), 3, "x.safetensors")


# What a terminal, a pipe and a closed one see.


def test_closed_standard_output_ends_quietly(place, trained):
    for arguments in (["doctor"], ["generate", trained[0] / "base" / "seed-0", "--tokens", 500]):
        process = start(place, *arguments)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0
    shell = " ".join(command("doctor")) + " >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], env=environment(place)).returncode == 0


def test_without_a_terminal_progress_is_plain_lines(trained):
    errors = trained[1].stderr
    assert "\r" not in errors and "\x1b" not in errors
    assert "[1/3] base seed 0: loss" in errors
