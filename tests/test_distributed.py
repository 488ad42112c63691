"""Several processes: the example of a sharded table under torchrun and by hand, lost and silent processes."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from command_line import BUILD

PROGRAM = BUILD / "tests" / "sharded_table"
LOST = 6  # exit status


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(ranks, *arguments, **changes):
    """One process for each rank, joined by the variables that torchrun sets; `changes` to them."""
    port = free_port()
    processes = []
    for rank in range(ranks):
        variables = {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | changes
        own = {name: str(value) for name, value in variables.items() if value is not None}
        clean = {name: value for name, value in os.environ.items() if name not in variables}
        processes.append(
            subprocess.Popen(
                [PROGRAM, *map(str, arguments)],
                env=clean | own | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finished(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def losses(out):
    return [float(loss) for loss in re.findall(r"loss (\S+)", out)]


@pytest.fixture(scope="module")
def alone():
    result = subprocess.run([PROGRAM], capture_output=True, text=True, check=True)
    values = losses(result.stdout)
    assert len(values) == 20
    assert values[-1] < 0.8 * values[0]
    return values


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_number_of_processes_gives_the_losses_of_one(alone, ranks):
    results = [finished(process) for process in start(ranks)]
    assert [status for status, _, _ in results] == [0] * ranks, results
    assert losses(results[0][1]) == pytest.approx(alone, abs=2e-5)
    assert all(out == "" for _, out, _ in results[1:])


def test_torchrun_starts_it(alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    command += ["--master-port", str(free_port()), str(PROGRAM)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert losses(result.stdout) == pytest.approx(alone, abs=2e-5)


def first_step_of(process):
    assert process.stdout.readline().startswith("step")


def assert_lost(process):
    status, _, err = finished(process)
    assert status == LOST, err
    assert re.fullmatch(r"sharded_table: rank 0 of 2, \w+: every rank must take part, got .*\n", err), err


def test_a_killed_process_ends_the_others_with_one_line():
    one, other = start(2, 1_000_000)
    first_step_of(one)
    other.kill()
    assert_lost(one)
    finished(other)


def test_a_silent_process_ends_the_others_after_the_time_out():
    one, other = start(2, 1_000_000, 3)
    first_step_of(one)
    other.send_signal(signal.SIGSTOP)
    assert_lost(one)
    other.kill()
    finished(other)


def test_a_process_that_never_comes_ends_the_others():
    (process,) = start(1, 5, 3, WORLD_SIZE=2)
    status, _, err = finished(process)
    assert status == LOST
    assert re.fullmatch(r"sharded_table: rank 0 of 2: all ranks must join within the time-out, got .*\n", err), err


def test_a_port_in_use_is_said():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        (process,) = start(1, 5, 3, MASTER_PORT=listener.getsockname()[1])
        status, _, err = finished(process)
    assert status == LOST
    assert "EADDRINUSE" in err or "address already in use" in err.lower(), err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"RANK": "two"}, "RANK must be within 0 .. 0 (torchrun sets it), got two"),
        ({"RANK": "1"}, "RANK must be within 0 .. 0 (torchrun sets it), got 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be within 1 .. 2147483647 (torchrun sets it), got 0"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR must be set (torchrun sets it), got nothing"),
        ({"MASTER_PORT": None}, "MASTER_PORT must be within 1 .. 65535 (torchrun sets it), got nothing"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT must be within 1 .. 65535 (torchrun sets it), got 99999"),
    ],
)
def test_wrong_variables_are_refused(changes, part):
    (process,) = start(1, **changes)
    assert finished(process) == (2, "", f"sharded_table: process group: {part}\n")
