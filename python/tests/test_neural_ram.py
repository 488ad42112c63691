"""Neural random-access machines as a module: the bits of C++, modules of one's own, steps, habits of torch."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from block_cases import TOOL
from loci.neural_ram import STANDARD
from memory_cases import assert_same, toml
from safetensors.torch import load_file, save_file
from torch import Tensor

import loci

HALF = loci.RamModule("HALF", 1, lambda a, b, M: a // 2)
SMALL: dict[str, Any] = {"registers": 3, "width": 7}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small": SMALL,
    "lstm": SMALL | {"controller": "lstm", "output_scale": 0.5},
    "expected": SMALL | {"loss": "expected", "floor": 1e-4},
    "repeats": SMALL | {"repeats": 2},
    "clipped": SMALL | {"clip_activations": 1e-3},
    "not clipped": SMALL | {"clip_activations": 0.0},
}


def instances(M: int = 6, seeds: int = 2) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(3)
    tape, target = (torch.randint(M, (seeds, 5, M), dtype=torch.int32, generator=drawn) for _ in range(2))
    target[:, :, -1] = -1
    return {
        "tape": tape,
        "target": target,
        "cell_weight": torch.rand(tape.shape, generator=drawn),
        "steps": torch.tensor([4, 3])[:seeds],
        "bonus": torch.tensor([0.1, -0.05])[:seeds],
    }


@pytest.mark.parametrize("case", CASES)
def test_machines_are_those_of_c_plus_plus(case: str, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text(
        f"{toml({'kind': 'neural_ram', 'train': True, 'seed': 3})}\n[neural_ram]\n{toml(CASES[case])}"
    )
    given = instances()
    save_file({}, tmp_path / "weights.safetensors")
    save_file(given, tmp_path / "in.safetensors")
    files = ["options.toml", "weights.safetensors", "in.safetensors", "out.safetensors"]
    subprocess.run([TOOL, *[tmp_path / file for file in files]], check=True, timeout=120)

    machine = loci.NeuralRam([3, 4], modules=[*STANDARD, HALF], **CASES[case])
    run = machine(**given)
    run.objective.sum().backward()
    found = {key: value.detach() for key, value in run._asdict().items()} | {"sound": run.sound.int()}
    found |= {"controllers": machine.controllers.detach(), "grad.controllers": machine.controllers.grad}
    assert_same(found, load_file(tmp_path / "out.safetensors"))
    assert torch.equal(run.gradient, found["grad.controllers"]) and run.gradient.any(1).all()


def test_seeds_have_the_same_bits_alone_and_chosen() -> None:
    machine, given = loci.NeuralRam([3, 4], **SMALL), instances()
    both = machine(**given)
    second = {key: value[1:] for key, value in given.items()}
    for run in (machine(**second, which=[1]), loci.NeuralRam([4], **SMALL)(**second)):
        assert torch.equal(run.gradient[0], both.gradient[1]) and torch.equal(run.loss[0], both.loss[1])
    assert not torch.equal(machine.controllers[0], machine.controllers[1])


def test_numbers_stand_for_all_seeds() -> None:
    machine, given = loci.NeuralRam([3, 4], **SMALL), instances()
    plain = {"tape": given["tape"], "target": given["target"]}
    short = machine(**plain, steps=4, bonus=0.1)
    tensors = {"steps": torch.tensor([4, 4]), "bonus": torch.full((2,), 0.1), "cell_weight": torch.ones(2, 5, 6)}
    assert torch.equal(short.objective, machine(**plain, **tensors).objective)
    assert not torch.equal(short.objective, machine(**plain, steps=4).objective)


def test_modules_of_ones_own_in_place_of_standard_ones_give_the_same_machine() -> None:
    names = list(STANDARD)
    own = {
        "DEC": loci.RamModule("BEFORE", 1, lambda a, b, M: (a + M - 1) % M),
        "SUB": loci.RamModule("MINUS", 2, lambda a, b, M: (a - b) % M),
    }
    changed = [own.get(name, name) for name in names]
    runs = [loci.NeuralRam([1, 2], modules=modules, **SMALL)(**instances()) for modules in (names, changed)]
    torch.testing.assert_close(runs[0].loss, runs[1].loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(runs[0].gradient, runs[1].gradient, rtol=1e-3, atol=1e-5)


def test_a_step_does_what_its_circuit_says() -> None:
    """Registers 2 and 0, cell 2 of the tape 4: one step that reads at register 0 and puts READ's output there."""
    machine = loci.NeuralRam([1], registers=2, width=4, modules=["READ", "INC", HALF])
    assert machine.logits() == 2 + 3 + 4 + 2 * 5
    sure = 1e3 * torch.nn.functional.one_hot(torch.tensor(0), 2), 1e3 * torch.nn.functional.one_hot(torch.tensor(1), 3)
    half = 1e3 * torch.nn.functional.one_hot(torch.tensor(2), 4)  # of READ's output
    new = [1e3 * torch.nn.functional.one_hot(torch.tensor(place), 5) for place in (2, 4)]  # READ and HALF
    logits = torch.cat([*sure, half, *new])[None].float()
    registers = torch.nn.functional.one_hot(torch.tensor([[2, 0]]), 6).float()
    tape = torch.nn.functional.one_hot(torch.tensor([[1, 1, 5, 0, 3, 3]]), 6).float()
    after, same = machine.step(logits, registers, tape)
    assert after.argmax(-1).tolist() == [[5, 2]] and torch.equal(same, tape)
    assert torch.equal(after.sum(-1), torch.ones(1, 2))


def test_gradients_are_those_of_the_objective() -> None:
    machine, given = (
        loci.NeuralRam([3], registers=2, width=3, modules=["READ", "INC", "WRITE"]).double(),
        instances(4, 1),
    )
    given |= {key: given[key].double() for key in ("cell_weight", "bonus")}
    run = machine(**given)
    assert run.objective.shape == (1,) and run.objective.dtype == torch.float64
    run.objective.sum().backward()
    direction = torch.randn(machine.controllers.shape, generator=torch.Generator().manual_seed(1)).double()
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            machine.controllers += sign * step * direction
            values.append(machine(**given).objective)
            machine.controllers -= sign * step * direction
        assert machine(**given).gradient.shape == (1, 0)
    slope = (machine.controllers.grad * direction).sum()
    torch.testing.assert_close((values[0] - values[1])[0] / (2 * step), slope, rtol=1e-5, atol=1e-8)


def test_a_machine_learns_to_increment_a_cell() -> None:
    """cell 0 + 1 in place, with three modules: three of four seeds and more find it in 300 updates."""
    machine = loci.NeuralRam(range(4), registers=2, width=16, modules=["READ", "INC", "WRITE"])
    optimizer = torch.optim.Adam(machine.parameters(), lr=1e-2)
    drawn = torch.Generator().manual_seed(0)

    def batch() -> tuple[Tensor, Tensor]:
        tape = torch.randint(5, (4, 16, 5), dtype=torch.int32, generator=drawn)
        target = torch.full_like(tape, -1)
        target[:, :, 0] = (tape[:, :, 0] + 1) % 5
        return tape, target

    for _ in range(300):
        optimizer.zero_grad()
        machine(*batch(), steps=2, bonus=0.1).objective.sum().backward()
        optimizer.step()
    with torch.no_grad():
        right = machine(*batch(), steps=2).wrong.sum(1) == 0
    assert right.sum() >= 3


def test_machines_have_the_habits_of_torch() -> None:
    machine, given = loci.NeuralRam([3, 4], **SMALL), instances()
    assert list(machine.state_dict()) == ["controllers"]
    again = loci.NeuralRam([8, 9], **SMALL)
    again.load_state_dict(copy.deepcopy(machine).state_dict())
    assert torch.equal(again(**given).objective, machine(**given).objective)
    hollow = loci.NeuralRam([3, 4], device="meta", **SMALL).to_empty(device="cpu")
    hollow.reset_parameters()
    assert torch.equal(hollow.controllers, machine.controllers)
    assert "2 seeds, registers=3, 14 modules" in repr(machine)
    assert loci.NeuralRam([3], registers=4).controllers.shape == (1, 24500)
    compiled = torch.compile(lambda **given: machine(**given).objective.sum(), fullgraph=True)
    assert torch.equal(compiled(**given), machine(**given).objective.sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"registers": 0}, "NeuralRam: registers must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"controller": "gru"}, "controller must be one of mlp, lstm, got 'gru'"),
        ({"loss": "mean"}, "loss must be one of mixture, expected, got 'mean'"),
        ({"floor": 0.0}, "floor must be above 0 and at most 0.5, got 0.0"),
        ({"clip_activations": -1}, "clip_activations must be at least 0, got -1"),
        ({"modules": []}, "modules must be at least 1, got 0"),
        ({"modules": ["MUL"]}, "modules must be one of READ, ZERO, .* WRITE, got 'MUL'"),
        ({"modules": [HALF._replace(operands=3)]}, "operands of HALF must be 0, 1 or 2, got 3"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loci.NeuralRam([1], **options)


def test_impossible_tapes_are_refused() -> None:
    machine, given = loci.NeuralRam([3, 4], **SMALL), instances()
    with pytest.raises(RuntimeError, match=r"tape must hold 0 \.\. 5, got 6 "):
        machine(**given | {"tape": torch.full_like(given["tape"], 6)})
    with pytest.raises(RuntimeError, match="tape and target must be int32, got Long"):
        machine(**given | {"tape": given["tape"].long()})
    broken = loci.NeuralRam([3, 4], modules=[loci.RamModule("MORE", 1, lambda a, b, M: a + 1)], **SMALL)
    with pytest.raises(RuntimeError, match=r"lookup must hold 0 \.\. 5, got 6"):
        broken(**given)
