"""Content addressing and the retrieval memory as modules: the bits of the C++ blocks, their formulas, refusals."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from block_cases import TOOL
from memory_cases import assert_same, parameters_and_gradients, toml
from safetensors.torch import load_file, save_file
from torch import Tensor

import loci

B, P, M, L, D, V = 3, 5, 6, 4, 8, 11
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "hard": {"mode": "hard"},
    "two": {"mode": "straight_through", "top_k": 2, "temperature": 0.5},
    "soft": {"mode": "soft", "count_padding": True},
    "best": {"mode": "top_k", "top_k": 3, "temperature": 1.0},
    "zero start": {"zero_start": True},
}


def memory_of(case: str, **more: Any) -> loci.RetrievalMemory:
    return loci.RetrievalMemory(V, D, L, name="block", seed=3, **CASES[case], **more)


def given() -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(5)
    items = torch.randint(1, V, (B, M, L), generator=drawn)
    items[torch.rand(B, M, L, generator=drawn) < 0.3] = 0
    items[0, 1:3] = 0
    return {
        "x": torch.randn(B, P, D, generator=drawn),
        "grad": torch.randn(B, P, D, generator=drawn),
        "items": items,
        "mask": torch.tensor([[1] * P, [1, 1, 1, 0, 0], [0, 1, 0, 1, 1]]),
    }


@pytest.mark.parametrize("case", CASES)
def test_memories_are_those_of_c_plus_plus(case: str, tmp_path: Path) -> None:
    head = {"kind": "retrieval_memory", "channels": D, "train": True, "seed": 3}
    options = {"vocabulary": V, "length": L} | CASES[case]
    (tmp_path / "options.toml").write_text(f"{toml(head)}\n[retrieval_memory]\n{toml(options)}")
    tensors = given()
    save_file({}, tmp_path / "weights.safetensors")
    save_file(tensors, tmp_path / "in.safetensors")
    files = ["options.toml", "weights.safetensors", "in.safetensors", "out.safetensors"]
    subprocess.run([TOOL, *[tmp_path / file for file in files]], check=True, timeout=120)

    memory, x = memory_of(case), tensors["x"].clone().requires_grad_()
    y = memory(x, tensors["items"], tensors["mask"].bool())
    y.backward(tensors["grad"])
    found = {"y": y.detach(), "grad.x": x.grad} | parameters_and_gradients(memory)
    assert_same(found, load_file(tmp_path / "out.safetensors"))


@pytest.mark.parametrize("count_padding", [False, True])
def test_a_memory_is_its_formula(count_padding: bool) -> None:
    memory = memory_of("hard", dtype=torch.float64)
    memory.count_padding = count_padding
    tensors = given()
    x, mask = tensors["x"].double(), tensors["mask"].bool()
    found = memory.retrieve(x, tensors["items"], mask)
    for b in range(B):
        c = x[b][mask[b]].mean(0)
        best, added = -math.inf, torch.zeros(D, dtype=torch.float64)
        for item in tensors["items"][b]:
            if not item.any():
                continue
            kept = [place for place in range(L) if count_padding or item[place] != 0]
            m = torch.stack([memory.embedding[item[place]] for place in kept]).mean(0)
            score = float(m.detach().dot(c) / m.detach().norm() / c.norm())
            if score > best:
                r = sum(memory.position_weight[place] * memory.embedding[item[place]] for place in kept) + memory.bias
                best, added = score, r
        torch.testing.assert_close(found.added[b], added)
    torch.testing.assert_close(memory(x, tensors["items"], mask), x + found.added.unsqueeze(1))


def test_without_items_and_at_a_zero_start_states_stay_as_they_are() -> None:
    tensors = given()
    x, items = tensors["x"], tensors["items"]
    for case in CASES:
        assert torch.equal(memory_of(case)(x, items[:, :0]), x)
        assert torch.equal(memory_of(case)(x, torch.zeros_like(items)), x)
        assert torch.equal(memory_of(case)(x, items), x) == (case == "zero start")


def test_scores_are_their_formulas() -> None:
    drawn = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 3, 5, generator=drawn), torch.randn(2, 4, 5, generator=drawn)
    product = torch.einsum("bqd,bnd->bqn", query, key)
    lengths = query.norm(dim=-1)[:, :, None] * key.norm(dim=-1)[:, None]
    torch.testing.assert_close(loci.address_scores(query, key, "dot"), product)
    torch.testing.assert_close(loci.address_scores(query, key, "scaled_dot"), product / math.sqrt(5))
    torch.testing.assert_close(loci.address_scores(query, key, "cosine"), product / lengths)
    additive = loci.AdditiveScore(5, 5, 7, seed=2)
    inner = torch.tanh((query @ additive.query_weight.T)[:, :, None] + (key @ additive.key_weight.T)[:, None])
    torch.testing.assert_close(additive(query, key), torch.einsum("bqnh,h->bqn", inner, additive.score_weight))


def test_weights_of_every_mode() -> None:
    score = torch.tensor([0.3, 0.9, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, True, True, False])
    weight = {mode: loci.read_weights(score, mask, mode, top_k=2, temperature=0.5)
              for mode in ("soft", "top_k", "hard", "straight_through")}  # fmt: skip
    torch.testing.assert_close(weight["soft"][:3], (score[:3] / 0.5).softmax(0))
    torch.testing.assert_close(weight["top_k"][:2], (score[:2] / 0.5).softmax(0))
    for mode in ("hard", "straight_through"):
        assert weight[mode].tolist() == [0.5, 0.5, 0, 0]
    assert not weight["hard"].requires_grad
    grad = torch.randn(4, dtype=torch.float64)
    soft, straight = (torch.autograd.grad(weight[mode], score, grad)[0] for mode in ("soft", "straight_through"))
    assert torch.equal(soft, straight) and soft.any()
    assert not loci.read_weights(score, torch.zeros(4, dtype=torch.bool), "straight_through").any()
    assert loci.read_weights(torch.zeros(2, 0), None, "hard").shape == (2, 0)


def test_training_compiles_as_one_graph() -> None:
    memory, tensors = memory_of("defaults"), given()
    items, mask = tensors["items"], tensors["mask"].bool()
    torch._dynamo.reset()
    compiled = torch.compile(memory, backend="aot_eager", fullgraph=True)
    compiled(tensors["x"], items, mask).backward(tensors["grad"])
    grad = memory.embedding.grad
    memory.embedding.grad = None
    memory(tensors["x"], items, mask).backward(tensors["grad"])
    assert grad is not None
    torch.testing.assert_close(grad, memory.embedding.grad)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: loci.RetrievalMemory(0, 4, 4), "vocabulary must be at least 1, got 0"),
        (lambda: loci.RetrievalMemory(4, 4, 4, padding=4), "padding must be a token of 0 to vocabulary - 1, got 4"),
        (lambda: loci.RetrievalMemory(4, 4, 4, mode="odd"), "mode must be one of soft, top_k, hard"),
        (lambda: memory_of("hard")(torch.zeros(B, P, 3), given()["items"]), r"hidden must be \[B, P, 8\]"),
        (lambda: memory_of("hard")(given()["x"], given()["items"].int()), r"items must be int64 \[3, M, 4\]"),
        (lambda: memory_of("hard")(given()["x"], given()["items"], given()["mask"]), r"mask must be bool \[3, 5\]"),
        (lambda: loci.read_weights(torch.zeros(2), None, "soft", temperature=0), "temperature must be a positive"),
        (lambda: loci.read_weights(torch.zeros(2), torch.zeros(2)), "mask must be bool, got torch.float32"),
        (lambda: loci.address_scores(torch.zeros(2, 3), torch.zeros(2, 4), "dot"), r"\[.., Q, 3\] and \[.., N, 3\]"),
        (lambda: loci.address_scores(torch.zeros(2, 3), torch.zeros(2, 3), "odd"), "kind must be one of dot"),
        (lambda: loci.AdditiveScore(1, 1, 0), "inner must be at least 1, got 0"),
    ],
)
def test_refuses_what_does_not_fit(action: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        action()
