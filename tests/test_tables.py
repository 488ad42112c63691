"""Large tables on the command line: mapped ones, checkpoints of what changed, tables that do not fit, smaller rows."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess

import pytest
from command_line import (
    SMALL_MODEL,
    assert_refused,
    loci,
    loci_signalled,
    make_place,
    newest,
    run_of,
    settings,
    start,
    tensors_of,
    train,
    train_arguments,
)

# 16,384 rows of 16 values are 1 MiB: from there on a checkpoint holds what changed.
RECIPE = (
    SMALL_MODEL
    + """
[table_optimizer]
rule = "adam_row_moment"
learning_rate = 1e-2
[model.memory]
layers = [0]
rows = 16_384
heads = 2
top_k = 4
key_width = 8
query_norm = "batch"
start = "zero_values"
calibrate_at = 4
calibrate_tokens = 128
"""
)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return make_place(tmp_path_factory, RECIPE)


@pytest.fixture(scope="session")
def trained(place):
    out = place / "trained"
    result = train(place, out)
    assert result.returncode == 0, result.stderr
    return run_of(out)


def test_a_mapped_table_trains_to_the_same_bits(place, trained, tmp_path):
    result = train(place, tmp_path / "out", *settings("model.memory.home=mapped"))
    assert result.returncode == 0, result.stderr
    assert "disk:" in result.stderr
    run = run_of(tmp_path / "out")
    assert tensors_of(run) == tensors_of(trained)
    assert not (run / "work").exists()
    for verb in (["eval", "--data", place / "text", "--json"], ["generate", "--tokens", 30]):
        other = loci(place, verb[0], trained, *verb[1:])
        result = loci(place, verb[0], run, *verb[1:])
        assert result.returncode == 0, result.stderr
        # The output names its checkpoint.
        assert result.stdout.replace(str(run), str(trained)) == other.stdout


def test_a_checkpoint_holds_what_changed(place, trained):
    facts = json.loads(loci(place, "inspect", trained, "--json").stdout)
    (table,) = facts["tables"]
    # Calibration at step 4 gave a new base at step 6.
    assert [delta["file"].split(".delta-")[1] for delta in table["deltas"]] == ["9.safetensors", "12.safetensors"]
    assert 0 < table["rows_changed"] <= sum(delta["rows"] for delta in table["deltas"]) < 4096
    assert sum(delta["bytes"] for delta in table["deltas"]) < table["base_bytes"] / 2
    text = loci(place, "inspect", trained).stdout
    assert "2 deltas" in text and "rows changed since the base" in text
    # Hard links: earlier checkpoints may go.
    assert (trained / "step-9").exists() and not (trained / "step-6").exists()


@pytest.mark.parametrize("home", ["memory", "mapped"])
def test_kill_9_and_resume_with_deltas(place, tmp_path, home):
    """The last complete checkpoint always loads, and the end has the bits of an unbroken run."""
    more = settings("train.steps=40", "train.checkpoint_every=1", f"model.memory.home={home}")
    whole = train(place, tmp_path / "whole", *more)
    assert whole.returncode == 0, whole.stderr
    assert any(".delta-" in name for name in tensors_of(run_of(tmp_path / "whole")))
    draw = random.Random(2)
    out = tmp_path / "broken"
    killed = 0
    for _ in range(8):
        process = start(place, *train_arguments(place, out, *more, "--resume"))
        try:
            _, errors = process.communicate(timeout=draw.uniform(0.2, 1.2))
            assert process.returncode == 0, errors
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        if (run_of(out) / "result.json").exists():
            shutil.rmtree(out)
    assert killed > 0
    result = train(place, out, *more, "--resume")
    assert result.returncode == 0, result.stderr
    assert tensors_of(run_of(out)) == tensors_of(run_of(tmp_path / "whole"))
    assert not (run_of(out) / "work").exists()


def test_a_damaged_delta_leaves_the_checkpoint_out(place, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    delta = next((run / "step-12").glob("*.delta-12.safetensors"))
    data = bytearray(delta.read_bytes())
    data[-5] ^= 1
    delta.write_bytes(data)
    assert_refused(loci(place, "generate", run / "step-12", "--tokens", 1), 3, delta.name)
    older = loci(place, "generate", run, "--tokens", 1)
    assert older.returncode == 0 and "step-12 is damaged and left out" in older.stderr


def test_a_disk_that_is_too_small_is_told_before_training(place, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("a small tmpfs cannot be mounted")
    try:
        result = train(place, disk / "out", *settings("model.memory.home=mapped"))
        assert_refused(result, 4, "disk", "tables 1.0 MiB")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def data_limit(mebibytes):
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (mebibytes << 20, mebibytes << 20))


def test_a_table_larger_than_memory_is_used(place, tmp_path):
    """1 GiB of rows, mostly holes, with changes since; the process may have 640 MiB (RLIMIT_DATA)."""
    large = settings("model.memory.rows=262144", "model.memory.value_width=1024", "model.memory.output=projection",
                     "model.memory.home=mapped", "table_optimizer.rule=adagrad", "train.steps=9")  # fmt: skip
    result = train(place, tmp_path / "out", *large)
    assert result.returncode == 0, result.stderr
    run = run_of(tmp_path / "out")
    (table,) = json.loads(loci(place, "inspect", run, "--json").stdout)["tables"]
    assert table["base_bytes"] > 1 << 30 and table["base_disk_bytes"] < 512 << 20 and len(table["deltas"]) == 1
    verbs = (["eval", run, "--data", place / "text", "--json"], ["generate", run, "--tokens", 20], ["inspect", run])
    for verb in verbs:
        free = loci(place, *verb)
        limited = loci(place, *verb, preexec_fn=data_limit(640))
        assert limited.returncode == 0, limited.stderr
        assert limited.stdout == free.stdout
    # The limit is one: in memory the table does not fit.
    config = run / "config.toml"
    text = config.read_text()
    assert "home = 'mapped'" in text or 'home = "mapped"' in text
    config.write_text(text.replace("'mapped'", "'memory'").replace('"mapped"', '"memory"'))
    assert_refused(loci(place, "generate", run, "--tokens", 1, preexec_fn=data_limit(640)), 4, "memory")


def test_a_file_cut_short_under_a_reader_is_one_line(place, tmp_path):
    result = train(place, tmp_path / "out", *settings("model.memory.home=mapped", "train.steps=3"))
    assert result.returncode == 0, result.stderr
    run = run_of(tmp_path / "out")
    base = next(newest(run).glob("table.*.values.safetensors"))
    process = start(place, "generate", run, "--tokens", 1 << 30, "--temperature", 1)
    try:
        process.stdout.read(8)
        os.truncate(base, 4096)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 3, errors
    # A fetch of rows finds the end of the file and names it; a read meets a signal, which does not.
    assert errors.startswith(("loci: a mapped file: ", f"loci: {base}: rows must reach byte ")), errors
    assert errors.count("\n") == 1
    assert_refused(loci(place, "generate", run, "--tokens", 1), 3, base.name)


def test_a_signal_leaves_no_working_files(place, tmp_path):
    more = settings("model.memory.home=mapped", "train.steps=100000", "train.checkpoint_every=1")
    process = start(place, *train_arguments(place, tmp_path / "out", *more))
    run = run_of(tmp_path / "out")
    while not (run / "latest").exists():
        assert process.poll() is None, process.stderr.read()
    assert (run / "work").exists()
    working = loci(place, "inspect", next((run / "work").glob("table.*.memory.values.safetensors")))
    assert "[16384, 16]" in working.stdout
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not (run / "work").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_conversion_that_is_stopped_leaves_nothing(place, trained, tmp_path, number):
    stopped = loci_signalled(place, number, "convert", trained, "--table", "int8", "--out", tmp_path / "new")
    assert stopped.returncode == 128 + number
    assert "nothing was kept" in stopped.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows, dtype, share", [("int8", "I8", 0.35), ("bf16", "BF16", 0.6)])
def test_convert_writes_a_run_that_serves(place, trained, tmp_path, rows, dtype, share):
    out = tmp_path / "served"
    result = loci(place, "convert", trained, "--table", rows, "--out", out, "--data", place / "text", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["bytes_after"] < share * facts["bytes_before"]
    before = json.loads(loci(place, "eval", trained, "--data", place / "text", "--json").stdout)["measures"]["loss"]
    after = json.loads(loci(place, "eval", out, "--data", place / "text", "--json").stdout)["measures"]["loss"]
    assert (facts["measures_before"]["loss"], facts["measures_after"]["loss"]) == (before, after)
    assert 0 < abs(after - before) < 0.01
    assert loci(place, "generate", out, "--tokens", 20).returncode == 0
    inspected = json.loads(loci(place, "inspect", out, "--json").stdout)
    tensors = {tensor["name"]: tensor["dtype"] for file in inspected["files"] for tensor in file.get("tensors", [])}
    assert tensors["layers.0.memory.values"] == dtype
    assert not any("optimizer" in file["file"] for file in inspected["files"])


def test_what_convert_refuses(place, trained, tmp_path):
    out = tmp_path / "int8"
    assert loci(place, "convert", trained, "--table", "int8", "--out", out).returncode == 0
    assert_refused(loci(place, "convert", trained, "--table", "int8", "--out", out), 2, "--out")
    assert_refused(loci(place, "convert", out, "--table", "bf16", "--out", tmp_path / "again"), 2, "int8")
    assert not (tmp_path / "again").exists()
    assert_refused(loci(place, "convert", trained, "--table", "int4", "--out", tmp_path / "x"), 2, "int4")
    (tmp_path / "dense.toml").write_text(RECIPE.split("[model.memory]")[0])
    dense = loci(place, "train", tmp_path / "dense.toml", "--data", place / "text", "--out", tmp_path / "dense")
    assert dense.returncode == 0, dense.stderr
    refused = loci(place, "convert", run_of(tmp_path / "dense"), "--table", "int8", "--out", tmp_path / "y")
    assert_refused(refused, 2, "memory")


def test_a_converted_run_is_not_trained_on(place, trained, tmp_path):
    out = tmp_path / "out"
    result = loci(place, "convert", trained, "--table", "bf16", "--out", run_of(out))
    assert result.returncode == 0, result.stderr
    assert_refused(train(place, out, "--resume"), 2, "value_dtype")
    result = train(place, out, "--resume", *settings("model.memory.value_dtype=bfloat16"))
    assert_refused(result, 2, "loci convert")
    result = train(place, tmp_path / "new", *settings("model.memory.value_dtype=int8"))
    assert_refused(result, 2, "int8")
