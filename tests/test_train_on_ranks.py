"""`loci train` under torchrun: several processes train one model, with its tables in parts."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from command_line import RECIPE, ROOT, SMALL_MODEL, command, environment, loci, make_place, write_text

LOST, USAGE, TERMINATED = 6, 2, 143


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    memory = SMALL_MODEL + "[model.memory]\nlayers = [0]\nrows = 64\nheads = 2\ntop_k = 4\nkey_width = 8\n"
    return make_place(tmp_path_factory, memory + 'query_norm = "batch"\nstart = "zero_values"\n')


def torchrun(place, ranks, *arguments):
    starter = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--no-python"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        starter += ["--master-port", str(listener.getsockname()[1])]
    return subprocess.run(
        starter + command(*arguments), capture_output=True, text=True, timeout=300, env=environment(place), check=False
    )


def start_ranks(place, commands, levels=None):
    """A process for each command, so that a test can send one a signal; levels: of the kernels of each."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = []
    for rank, arguments in enumerate(commands):
        variables = {"RANK": rank, "WORLD_SIZE": len(commands), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables |= {"OMP_NUM_THREADS": 1} if levels is None else {"LOCI_CPU_LEVEL": levels[rank]}
        own = {name: str(value) for name, value in variables.items()}
        processes.append(
            subprocess.Popen(
                command(*arguments),
                env=environment(place, own),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def train(place, out, *more):
    return ["train", place / "recipe.toml", "--data", place / "text", "--out", out, *more]


def finished(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def log(out, kind, *values):
    lines = map(json.loads, (out / "main" / "seed-0" / "metrics.jsonl").read_text().splitlines())
    return [tuple(line[value] for value in values) for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def alone(place):
    out = place / "alone"
    result = loci(place, *train(place, out))
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.parametrize("ranks", [2, 3])
def test_losses_are_those_of_one_process(place, alone, ranks):
    out = place / f"ranks-{ranks}"
    result = torchrun(place, ranks, *train(place, out))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Written:") == 1
    assert f"{ranks} ranks" in result.stderr
    for kind, values in (("train", ("step", "loss", "usage", "kl")), ("evaluation", ("step",))):
        for one, other in zip(log(alone, kind, *values), log(out, kind, *values), strict=True):
            assert other == pytest.approx(one, abs=2e-4)
    assert log(out, "start", "ranks") == [(ranks,)]


def test_tables_may_be_in_parts_by_columns(place, alone):
    out, columns = place / "columns", ("--set", "model.memory.shard=columns")
    result = torchrun(place, 2, *train(place, out, *columns))
    assert result.returncode == 0, result.stderr
    assert "memory.values by columns" in result.stderr
    values = "step", "loss", "usage", "kl"
    for one, other in zip(log(alone, "train", *values), log(out, "train", *values), strict=True):
        assert other == pytest.approx(one, abs=2e-4)
    runs = [folder / "main" / "seed-0" for folder in (alone, out)]
    losses = [json.loads(loci(place, "eval", run, "--data", place / "text", "--json").stdout) for run in runs]
    assert losses[1]["measures"]["loss"] == pytest.approx(losses[0]["measures"]["loss"], abs=2e-4)
    (runs[1] / "result.json").unlink()
    shutil.rmtree(runs[1] / "step-12")
    result = torchrun(place, 3, *train(place, out, "--resume", *columns))
    assert result.returncode == 0, result.stderr
    assert log(out, "train", "loss")[-1] == pytest.approx(log(alone, "train", "loss")[-1], abs=2e-4)


def may_make_hosts():
    name = f"loci-try-{os.getpid()}"
    if shutil.which("ip") is None or subprocess.run(["ip", "netns", "add", name], check=False).returncode != 0:
        return False
    return subprocess.run(["ip", "netns", "delete", name], check=False).returncode == 0


def test_hosts_train_as_the_ranks_of_one_host(place, alone):
    if not may_make_hosts():
        pytest.skip("network namespaces are not allowed here")
    out = place / "hosts"
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "hosts_here.py", "--gbit", "5", *command(*train(place, out))],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(place, {"OMP_NUM_THREADS": "1"}),
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert log(out, "start", "ranks") == [(2,)]
    for one, other in zip(log(alone, "train", "loss"), log(out, "train", "loss"), strict=True):
        assert other == pytest.approx(one, abs=2e-4)


def test_a_run_goes_on_with_another_number_of_processes(place, alone):
    out = place / "resharded"
    assert torchrun(place, 3, *train(place, out)).returncode == 0
    (out / "main" / "seed-0" / "result.json").unlink()
    shutil.rmtree(out / "main" / "seed-0" / "step-12")
    result = loci(place, *train(place, out, "--resume"))
    assert result.returncode == 0, result.stderr
    assert log(out, "train", "loss")[-1] == pytest.approx(log(alone, "train", "loss")[-1], abs=2e-4)


@pytest.mark.parametrize("ranks", [2, 3])
def test_eval_and_generate_share_the_rows(place, alone, ranks):
    run = alone / "main" / "seed-0"
    for arguments in (
        ["eval", run, "--data", place / "text", "--json"],
        ["generate", run, "--prompt", "the cat", "--tokens", 20, "--json"],
    ):
        one, several = loci(place, *arguments), torchrun(place, ranks, *arguments)
        assert (one.returncode, several.returncode) == (0, 0), several.stderr
        results = [json.loads(result.stdout) for result in (one, several)]
        if arguments[0] == "eval":
            losses = [result["measures"]["loss"] for result in results]
            assert losses[1] == pytest.approx(losses[0], abs=1e-5)
        else:
            assert results[1] == results[0]


def wait_for_checkpoint(out, processes):
    while not list(out.glob("main/seed-0/step-*/manifest.json")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_a_signal_to_one_process_stops_all_and_saves(place):
    out = place / "stopped"
    processes = start_ranks(place, [train(place, out, "--set", "train.steps=1_000_000", "--quiet")] * 2)
    wait_for_checkpoint(out, processes)
    processes[1].send_signal(signal.SIGTERM)
    for rank, process in enumerate(processes):
        status, _, err = finished(process)
        assert status == TERMINATED, err
        assert re.search(rf"loci \(rank {rank}\): stopped after step \d+ and saved in", err), err


def test_a_killed_process_ends_the_others_and_leaves_the_checkpoint(place):
    out = place / "killed"
    processes = start_ranks(place, [train(place, out, "--set", "train.steps=1_000_000", "--quiet")] * 2)
    wait_for_checkpoint(out, processes)
    processes[1].kill()
    status, _, err = finished(processes[0])
    assert status == LOST, err
    assert re.fullmatch(r"loci \(rank 0\): rank 0 of 2, \w+: every rank must take part, got .*\n", err), err
    finished(processes[1])
    status = loci(place, "inspect", out / "main" / "seed-0").returncode
    assert status == 0


def test_a_silent_process_ends_the_others_after_the_time_out(place):
    out = place / "silent"
    arguments = train(place, out, "--set", "train.steps=1_000_000", "--quiet", "--peer-timeout", 3)
    processes = start_ranks(place, [arguments] * 2)
    wait_for_checkpoint(out, processes)
    processes[1].send_signal(signal.SIGSTOP)
    status, _, err = finished(processes[0])
    assert status == LOST, err
    assert re.fullmatch(r"loci \(rank 0\): rank 0 of 2, \w+: every rank must take part, got .*\n", err), err
    processes[1].kill()
    finished(processes[1])


def test_ranks_with_other_recipes_are_refused(place):
    arguments = train(place, place / "other", "--quiet")
    processes = start_ranks(place, [arguments, [*arguments, "--set", "train.batch=8"]])
    for rank, process in enumerate(processes):
        expected = 'rank 1: recipe must be that of rank 0, "batch = 4", got "batch = 8"'
        assert finished(process) == (USAGE, "", f"loci (rank {rank}): {expected}\n")
    assert not (place / "other").exists()


def test_ranks_with_other_levels_are_refused(place):
    arguments = train(place, place / "other", "--quiet")
    for process in start_ranks(place, [arguments] * 2, levels=["base", "avx2"]):
        status, _, err = finished(process)
        assert status == USAGE
        assert 'rank 1: level of kernels must be that of rank 0, "base", got "avx2"' in err
    assert not (place / "other").exists()


def test_ranks_with_other_data_are_refused(place):
    write_text(place / "other-text")
    (place / "other-text" / "part0" / "0.txt").write_text("another text\n" * 50)
    arguments = train(place, place / "other", "--quiet")
    others = [place / "other-text" if word == place / "text" else word for word in arguments]
    for process in start_ranks(place, [arguments, others]):
        status, _, err = finished(process)
        assert status == USAGE
        assert "rank 1: data must be that of rank 0" in err
    assert not (place / "other").exists()


def test_calibration_is_refused(place):
    result = torchrun(place, 2, *train(place, place / "refused", "--set", "model.memory.calibrate_at=4"))
    assert "model.memory.calibrate_at must be -1 on several ranks, got 4" in result.stderr
    assert not (place / "refused").exists()


def test_an_arm_of_equal_time_is_refused(tmp_path_factory):
    place = make_place(tmp_path_factory, RECIPE)
    result = torchrun(place, 2, *train(place, place / "out", "--arm", "base-equal-time"))
    assert "the arm base-equal-time of equal time must be timed on one rank, got 2 ranks" in result.stderr


def test_other_verbs_run_alone(place):
    result = loci(place, "doctor", variables={"RANK": "0", "WORLD_SIZE": "2"})
    expected = "the verb must be train, eval, generate or bench network on several ranks (WORLD_SIZE), got doctor"
    assert (result.returncode, result.stderr) == (USAGE, f"loci (rank 0): torchrun: {expected}\n")


def test_a_dry_run_shows_what_a_rank_needs(place):
    arguments = train(place, place / "dry", "--dry-run", "--json")
    alone, shared = loci(place, *arguments), torchrun(place, 2, *arguments)
    tables = [json.loads(result.stdout)["arms"][0]["memory"]["tables"] for result in (alone, shared)]
    assert tables[1] == tables[0] / 2
    arm = json.loads(shared.stdout)["arms"][0]
    assert "wire" not in json.loads(alone.stdout)["arms"][0]
    (table,) = arm["wire"]["tables"]
    assert (table["table"], table["shard"], table["bytes"]) == ("memory.values", "rows", table["bytes_rows"])
    assert arm["wire"]["dense_gradients"] == 4 * arm["parameters_dense"]
    assert arm["wire"]["total"] == arm["wire"]["dense_gradients"] + table["bytes"]
    text = torchrun(place, 2, *train(place, place / "dry", "--dry-run")).stdout
    assert "memory.values: by rows" in text
    columns = ["--set", "model.memory.shard=columns"]
    arm = json.loads(torchrun(place, 2, *arguments, *columns).stdout)["arms"][0]
    assert (arm["wire"]["tables"][0]["shard"], arm["memory"]["tables"]) == ("columns", tables[1])
    assert arm["wire"]["tables"][0]["bytes"] == table["bytes_columns"]
    narrow = ["--set", "model.memory.output=projection", "--set", "model.memory.value_width=1"]
    refused = torchrun(place, 2, *arguments, *columns, *narrow)
    assert "table memory.values: columns must be at least as many as ranks, 2, got 1" in refused.stderr
