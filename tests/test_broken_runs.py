"""Runs that are broken off: killed, signalled, out of disk, numbers that go bad. Nothing saved is lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from command_line import RECIPE, assert_refused, loci, make_place, start, tensors_of, train, train_arguments

ROOT = os.geteuid() == 0


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return make_place(tmp_path_factory, RECIPE)


def start_training(place, out, *more):
    return start(place, *train_arguments(place, out, *more))


def wait_for(process, text):
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"no line with {text}")


def wait_for_steps(process, run):
    """Until the process has logged a step of its own."""
    log = run / "metrics.jsonl"
    seen = log.read_text().count('"kind":"train"') if log.exists() else 0
    while process.poll() is None:
        if log.exists() and log.read_text().count('"kind":"train"') > seen:
            return
        time.sleep(0.02)
    pytest.fail(process.stderr.read())


def newest_step(run):
    return int((run / "latest").read_text().strip().removeprefix("step-"))


def test_kill_9_at_random_moments(place, tmp_path):
    """The last complete checkpoint always loads, and the end has the bits of an unbroken run."""
    settings = ["--arm", "memory", "--set", "train.steps=120", "--set", "train.checkpoint_every=1"]
    whole = train(place, tmp_path / "whole", *settings)
    assert whole.returncode == 0, whole.stderr
    draw = random.Random(2)
    out = tmp_path / "broken"
    killed = 0
    for _ in range(20):
        process = start_training(place, out, *settings, "--resume")
        try:
            _, errors = process.communicate(timeout=draw.uniform(0.2, 1.2))
            assert process.returncode == 0, errors
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        if (out / "memory" / "seed-0" / "result.json").exists():  # ended before it was killed: begin again
            shutil.rmtree(out)
    assert killed > 0
    result = train(place, out, *settings, "--resume")
    assert result.returncode == 0, result.stderr
    assert tensors_of(out / "memory" / "seed-0") == tensors_of(tmp_path / "whole" / "memory" / "seed-0")


def test_a_signal_saves_the_run_and_resume_goes_on(place, tmp_path):
    long = ["--arm", "memory", "--set", "train.steps=1000000", "--set", "train.checkpoint_every=0", "--set",
            "train.log_every=1"]  # fmt: skip
    run = tmp_path / "out" / "memory" / "seed-0"
    stopped = 0
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start_training(place, tmp_path / "out", *long, "--resume")
        wait_for_steps(process, run)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        assert "--resume" in errors.splitlines()[-1]
        assert newest_step(run) > stopped
        stopped = newest_step(run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, stopped + 1))


def test_the_second_ctrl_c_quits_at_once(place, tmp_path):
    large = ["model.layers=8", "model.width=512", "model.heads=8", "model.context=64", "train.batch=128",
             "train.checkpoint_every=1", "train.log_every=1"]  # fmt: skip
    process = start_training(place, tmp_path / "out", "--arm", "base", *[part for s in large for part in ("--set", s)])
    run = tmp_path / "out" / "base" / "seed-0"
    while not (run / "latest").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    wait_for(process, "stopping after this step")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert newest_step(run) == 1
    assert loci(place, "inspect", run).returncode == 0


def test_numbers_that_go_bad_stop_the_run(place, tmp_path):
    out = tmp_path / "out"
    result = train(
        place, out, "--arm", "base", "--set", "optimizer.learning_rate=1e30", "--set", "train.checkpoint_every=1"
    )
    assert_refused(result, 5, "finite", "step")
    assert not (out / "summary.json").exists()
    kept = loci(place, "inspect", out / "base" / "seed-0")
    assert kept.returncode == 0, kept.stderr


def test_a_full_disk_keeps_the_last_checkpoint(place, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ROOT and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("a small tmpfs cannot be mounted")
    try:
        result = train(place, disk / "out", "--arm", "memory", "--set", "train.keep_last=100", "--set",
                       "train.checkpoint_every=1", "--set", "train.steps=100")  # fmt: skip
        assert_refused(result, 4, "space")
        kept = loci(place, "generate", disk / "out" / "memory" / "seed-0", "--tokens", 3)
        assert kept.returncode == 0, kept.stderr
    finally:
        subprocess.run(["umount", disk], check=True)
