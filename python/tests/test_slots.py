"""Slots as modules: the bits of the C++ blocks, formulas one number after another, masks, habits of torch."""

from __future__ import annotations

import copy
import math
import subprocess
from pathlib import Path

import pytest
import torch
from block_cases import CHANNELS, TOOL, trained_block
from memory_cases import assert_same, toml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loci

B, N, SLOTS, STATE, STEPS = 3, 7, 4, 5, 4
MASK = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [False, True, False, True, True, False, True]])


def drawn(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(5))


class SlotNetwork(nn.Module):
    """As that of tests/network_tool.cpp."""

    def __init__(self, states: Tensor, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.compress = loci.CompressToSlots(CHANNELS, SLOTS, name="compress", seed=3, dtype=dtype)
        self.memory = loci.SlotMemory(CHANNELS, STATE, name="memory", seed=3, dtype=dtype)
        self.states = states

    def forward(self, x: Tensor) -> Tensor:
        slots, _, penalty = self.compress(x, MASK)
        found = [penalty]
        for state in self.states:
            content, weight = self.memory.read(slots, state)
            found.append(content.flatten())
            slots = self.memory.write(slots, state, weight)
        return torch.cat([*found, slots.flatten()])


def test_slots_are_those_of_c_plus_plus(tmp_path: Path) -> None:
    x, states = drawn(B, N, CHANNELS), drawn(STEPS, B, STATE)
    network = SlotNetwork(states)
    grad = drawn(network(x).numel())
    (tmp_path / "options.toml").write_text(toml({"kind": "slots", "channels": CHANNELS, "train": True, "seed": 3}))
    save_file({}, tmp_path / "weights.safetensors")
    save_file({"x": x, "grad": grad, "states": states, "mask": MASK.int()}, tmp_path / "in.safetensors")
    files = ["options.toml", "weights.safetensors", "in.safetensors", "out.safetensors"]
    subprocess.run([TOOL, *[tmp_path / file for file in files]], check=True, timeout=120)
    expected = load_file(tmp_path / "out.safetensors")
    assert "grad.memory.add_weight" in expected and expected["grad.x"].any()
    assert_same(trained_block(network, x, grad), expected)


def test_slots_are_their_formulas() -> None:
    x, states = drawn(B, N, CHANNELS).double(), drawn(STEPS, B, STATE).double()
    network = SlotNetwork(states, torch.float64)
    compress, memory = network.compress, network.memory
    found: list[list[Tensor]] = [[] for _ in range(STEPS + 2)]
    for b in range(B):
        H = x[b][MASK[b]]
        A = torch.stack([compress.slot_weight @ (compress.inner_weight @ h).tanh() for h in H]).softmax(0).T
        found[0].append(((A @ A.T - torch.eye(SLOTS)) ** 2).sum().reshape(1))
        M = A @ H
        for t in range(STEPS):
            s = states[t, b]
            w = (M @ (memory.query_weight @ s) / math.sqrt(CHANNELS)).softmax(0)
            found[1 + t].append(w @ M)
            e, a = (memory.erase_weight @ s + memory.erase_bias).sigmoid(), (memory.add_weight @ s).tanh()
            M = M * (1 - torch.outer(w, e)) + torch.outer(w, e * a)
        found[-1].append(M.flatten())
    expected = torch.cat([number for group in found for number in group])
    assert torch.allclose(network(x), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(network, x.requires_grad_())


def test_masked_sentences_and_slots_never_change_a_bit() -> None:
    x, network = drawn(B, N, CHANNELS), SlotNetwork(drawn(STEPS, B, STATE))
    expected, read = network(x), network.memory(x, network.states[0], MASK)
    for value in (0.0, 1e30, math.nan, math.inf):
        changed = x.clone()
        changed[~MASK] = value
        assert torch.equal(network(changed), expected)
        assert all(map(torch.equal, network.memory(changed, network.states[0], MASK), read))
    nothing = network.compress(x, torch.zeros_like(MASK))
    assert not nothing.slots.any() and not nothing.weight.any()


def test_entries_stay_within_the_greater_of_their_start_and_one() -> None:
    memory = loci.SlotMemory(CHANNELS, STATE, seed=1)
    with torch.no_grad():
        memory.add_weight *= 30
        memory.erase_bias.fill_(3)
        for size in (0.1, 5.0):
            slots = drawn(B, SLOTS, CHANNELS) * size
            most = max(1.0, slots.abs().max().item()) * (1 + 1e-6)
            for _ in range(200):
                state = 3 * torch.randn(B, STATE)
                slots = memory.write(slots, state, memory.read(slots, state).weight)
                assert slots.abs().max() <= most


def test_blocks_have_the_habits_of_torch() -> None:
    x, network = drawn(B, N, CHANNELS), SlotNetwork(drawn(STEPS, B, STATE))
    expected = network(x)
    again = SlotNetwork(network.states)
    again.load_state_dict(copy.deepcopy(network).state_dict())
    assert torch.equal(again(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x), expected)
    hollow = loci.SlotMemory(CHANNELS, STATE, name="memory", seed=3, device="meta").to_empty(device="cpu")
    hollow.reset_parameters()
    assert all(map(torch.equal, hollow.parameters(), network.memory.parameters()))
    assert "6, slots=4, inner=6" in repr(network) and "6, state=5" in repr(network)
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True)
    assert torch.allclose(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_impossible_options_and_inputs_are_refused() -> None:
    for make, message in [
        (lambda: loci.CompressToSlots(0, 2), "CompressToSlots: width must be at least 1, got 0"),
        (lambda: loci.CompressToSlots(2, 0), "CompressToSlots: slots must be at least 1, got 0"),
        (lambda: loci.SlotMemory(2, 0), "SlotMemory: state must be at least 1, got 0"),
        (lambda: loci.CompressToSlots(4, 2)(torch.ones(2, 3)),
         r"sentences must be \[B, N, 4\] of a floating type, got \[2, 3\] of torch.float32"),
        (lambda: loci.CompressToSlots(4, 2)(torch.ones(2, 3, 4), torch.ones(2, 3)),
         r"mask must be \[B, N\] of torch.bool with 2 and 3, got \[2, 3\] of torch.float32"),
        (lambda: loci.SlotMemory(4, 2).read(torch.ones(2, 0, 4), torch.ones(2, 2)),
         r"slots must be \[B, r, 4\] of a floating type with r >= 1, got \[2, 0, 4\]"),
        (lambda: loci.SlotMemory(4, 2).read(torch.ones(2, 3, 4), torch.ones(2, 3)),
         r"state must be \[2, 2\] of a floating type, got \[2, 3\]"),
        (lambda: loci.SlotMemory(4, 2).write(torch.ones(2, 3, 4), torch.ones(2, 2), torch.ones(2, 4)),
         r"weight must be \[2, 3\] of a floating type, got \[2, 4\]"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make()
