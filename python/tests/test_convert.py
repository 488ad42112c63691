"""Memories of other libraries: equal to their formulas, and to the packages themselves where these are installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_cases import CASES, D, H, K, drawn, inputs, meta, run, xlm_notebook
from safetensors.torch import save_file
from saved_run_cases import c_plus_plus
from torch import nn

import loci


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_formulas(name: str) -> None:
    make, options = CASES[name]
    state, forward = make()
    before = {key: tensor.clone() for key, tensor in state.items()}
    module = loci.convert(state, top_k=K, **options)
    assert not module.training
    torch.testing.assert_close(module(inputs()), forward(inputs()).float(), atol=2e-5, rtol=1e-4)
    assert all(torch.equal(state[key], before[key]) for key in before)
    (module if isinstance(module, loci.ProductKeyMemory | loci.FlatKeyMemory) else module.memory).table.set_rows(
        0, torch.zeros(1, 6 if name in ("meta", "meta projection", "memory+") else D))  # fmt: skip
    assert all(torch.equal(state[key], before[key]) for key in before)  # rows are copies


@pytest.mark.parametrize("name", CASES)
def test_the_folder_opens_in_python_and_in_c_plus_plus(tmp_path: Path, name: str) -> None:
    make, options = CASES[name]
    state, forward = make()
    save_file(state, tmp_path / "in.safetensors")
    arguments = [tmp_path / "in.safetensors", "--out", tmp_path / "out", "--top-k", K]
    result = run(*arguments, *(["--weight", options["weight"]] if options else []))
    assert result.returncode == 0 and "1 memory\n" in result.stdout and "top_k=4" in result.stdout, result.stderr
    opened = loci.load_run(tmp_path / "out")
    (memory,) = opened.memories.values()
    expected = loci.convert(state, top_k=K, **options)
    own = expected if isinstance(expected, type(memory)) else expected.memory
    x = inputs()
    assert torch.equal(memory(x), own(x))
    norms = {key: tensor for key, tensor in expected.state_dict().items() if "norm." in key}
    assert opened.others.keys() == norms.keys() and all(torch.equal(opened.others[key], norms[key]) for key in norms)
    assert bool(norms) == (name in ("lucidrains norms", "peer norm"))
    if norms:
        return  # they are modules that a program in C++ makes by itself
    found = c_plus_plus(opened.folder, tmp_path, {"x": x})["y"]
    torch.testing.assert_close(found, forward(x).float(), atol=2e-5, rtol=1e-4)


def test_several_memories_of_a_model_share_their_table(tmp_path: Path) -> None:
    first, forward = meta("none")
    second = {key: tensor for key, tensor in meta("none")[0].items() if key != "values.weight"}
    state = {"tok_embeddings.weight": drawn(9, D), "layers.0.feed_forward.w1.weight": drawn(4, D)}
    for layer, part in ((4, first), (11, second)):
        state |= {f"layers.{layer}.feed_forward.{key}": tensor for key, tensor in part.items()}
    torch.save({"model": state}, tmp_path / "consolidated.pth")
    module = loci.convert(tmp_path, top_k=K)
    assert list(dict(module.named_children())) == ["layers_4_feed_forward", "layers_11_feed_forward"]
    memories = list(module.children())
    assert memories[0].table is memories[1].table and memories[0].table.dtype == torch.bfloat16
    for memory in memories:
        torch.testing.assert_close(memory(inputs()), forward(inputs()).float(), atol=2e-5, rtol=1e-4)
    result = run(tmp_path, "--out", tmp_path / "out", "--top-k", K)
    assert result.returncode == 0 and "2 memories\n" in result.stdout, result.stderr
    opened = loci.load_run(tmp_path / "out")
    assert len(opened.tables()) == 1
    assert torch.equal(opened.memories["layers_11_feed_forward"](inputs()), memories[1](inputs()))


def test_tensors_that_a_file_shares_are_one_table(tmp_path: Path) -> None:
    state, _ = xlm_notebook()
    named = {f"memories.{layer}.{key}": tensor for layer in ("3_in", "5_after") for key, tensor in state.items()}
    torch.save(named, tmp_path / "model.pt")
    module = loci.convert(tmp_path / "model.pt", top_k=K)
    assert module.get_submodule("memories_3_in").table is module.get_submodule("memories_5_after").table
    named["memories.5_after.values.weight"] = state["values.weight"].clone()
    module = loci.convert(named, top_k=K)
    assert module.get_submodule("memories_3_in").table is not module.get_submodule("memories_5_after").table


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pre_layernorm": True, "norm_output": True},
        {"heads": 1, "non_competitive_gates": True},
        {"dim_head": 3, "num_keys": 7},
    ],
)
def test_the_package_product_key_memory_gives_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    package = pytest.importorskip("product_key_memory", reason="product-key-memory is not installed")
    torch.manual_seed(1)
    theirs = package.PKM(**({"dim": D, "heads": H, "num_keys": 6, "topk": K, "dim_head": 5} | options)).eval()
    for norm in theirs.modules():  # as if trained
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    torch.save(theirs.state_dict(), tmp_path / "pkm.pt")
    weight = "relu" if options.get("non_competitive_gates") else "softmax"
    ours = loci.convert(tmp_path / "pkm.pt", top_k=K, weight=weight)
    x = inputs().view(2, 3, D)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"pre_rmsnorm": True, "non_competing_scores": False}])
def test_the_package_peer_pytorch_gives_the_same(options: dict[str, Any]) -> None:
    package = pytest.importorskip("PEER_pytorch", reason="PEER-pytorch is not installed")
    torch.manual_seed(1)
    theirs = package.PEER(dim=D, heads=H, num_experts=49, num_experts_per_head=K, **options).eval()
    nn.init.normal_(theirs.keys)
    competing = "non_competing_scores" in options
    if competing:
        nn.init.normal_(theirs.norm.gamma)
    ours = loci.convert(theirs.state_dict(), top_k=K if competing else 1, weight="softmax" if competing else "relu")
    x = inputs().view(2, 3, D)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    assert torch.isfinite(ours(torch.zeros(1, 1, D))).all()


def test_the_function_is_a_function_when_the_module_was_imported() -> None:
    importlib.import_module("loci.convert")
    assert loci.convert(meta()[0], top_k=K).heads == H
