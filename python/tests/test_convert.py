"""Memories of other libraries: equal to their formulas, and to the packages themselves where these are installed."""

from __future__ import annotations

import collections
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loci.importers.networks import WeightsError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import loci

TOOL = Path(__file__).resolve().parents[2] / "build" / "release" / "tests" / "run_tool"
H, N, W, D, K = 3, 5, 4, 10, 4  # heads, sub-keys of a half, half of a key, width, top_k
State = dict[str, Tensor]


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed + sum(sizes)))


def inputs(width: int = D) -> Tensor:
    return drawn(6, width, seed=9)


# The formulas, in double: every address is scored.


def product_reads(query: Tensor, keys: Tensor, k: int = K, weight: Any = None) -> tuple[Tensor, Tensor]:
    """query [T, H, 2, w], keys [H, 2, n, w] -> weights and rows [T, H, k]."""
    scores = torch.einsum("thpw,hpnw->thpn", query.double(), keys.double())
    full = (scores[:, :, 0, :, None] + scores[:, :, 1, None, :]).flatten(2)
    best, row = full.topk(k)
    return (weight or (lambda s: s.softmax(-1)))(best), row


def read(query: Tensor, keys: Tensor, values: Tensor, k: int = K, weight: Any = None) -> Tensor:
    weights, row = product_reads(query, keys, k, weight)
    return torch.einsum("thk,thkd->td", weights, values.double()[row])


def experts(x: Tensor, query: Tensor, keys: Tensor, down: Tensor, up: Tensor, k: int = K, weight: Any = None) -> Tensor:
    weights, row = product_reads(query, keys, k, weight)
    hidden = F.gelu(torch.einsum("td,thkd->thk", x.double(), down.double()[row]))
    return torch.einsum("thk,thkd->td", weights * hidden, up.double()[row])


def linear(x: Tensor, state: State, name: str) -> Tensor:
    bias = state.get(f"{name}.bias")
    return F.linear(x.double(), state[f"{name}.weight"].double(), None if bias is None else bias.double())


def batch_norm(x: Tensor, state: State, name: str) -> Tensor:
    part = {word: state[f"{name}.{word}"].double() for word in ("running_mean", "running_var", "weight", "bias")}
    return (x - part["running_mean"]) / (part["running_var"] + 1e-5).sqrt() * part["weight"] + part["bias"]


def norm_state(name: str, features: int) -> State:
    return {f"{name}.weight": drawn(features), f"{name}.bias": drawn(features, seed=1),
            f"{name}.running_mean": drawn(features, seed=2), f"{name}.running_var": drawn(features, seed=3).exp(),
            f"{name}.num_batches_tracked": torch.tensor(3)}  # fmt: skip


def halves(query: Tensor) -> Tensor:
    return query.view(-1, H, 2, W)


def xlm_notebook() -> tuple[State, Any]:
    state = {"keys": drawn(H, 2, N, W), "values.weight": drawn(N * N, D), "query_proj.0.weight": drawn(H * 2 * W, D),
             "query_proj.0.bias": drawn(H * 2 * W)} | norm_state("query_proj.1", H * 2 * W)  # fmt: skip

    def forward(x: Tensor) -> Tensor:
        query = batch_norm(linear(x, state, "query_proj.0"), state, "query_proj.1")
        return read(halves(query), state["keys"], state["values.weight"])

    return state, forward


def xlm_hidden() -> tuple[State, Any]:
    """Two linear maps, no batch norm, as the model's files have them."""
    state = {"keys": drawn(H, 2, N, W), "values.weight": drawn(N * N, D)}
    for place, sizes in ((0, (7, D)), (2, (H * 2 * W, 7))):
        state |= {f"query_proj.query_mlps.{place}.weight": drawn(*sizes),
                  f"query_proj.query_mlps.{place}.bias": drawn(sizes[0])}  # fmt: skip

    def forward(x: Tensor) -> Tensor:
        hidden = linear(x, state, "query_proj.query_mlps.0").relu()
        return read(halves(linear(hidden, state, "query_proj.query_mlps.2")), state["keys"], state["values.weight"])

    return state, forward


def xlm_flat() -> tuple[State, Any]:
    state = {"keys": drawn(H, N, 2 * W), "values.weight": drawn(N, D), "query_proj.query_mlps.0.weight":
             drawn(H * 2 * W, D)} | norm_state("query_proj.query_mlps.1", H * 2 * W)  # fmt: skip

    def forward(x: Tensor) -> Tensor:
        query = batch_norm(linear(x, state, "query_proj.query_mlps.0"), state, "query_proj.query_mlps.1")
        scores = torch.einsum("thw,hnw->thn", query.view(-1, H, 2 * W), state["keys"].double())
        best, row = scores.topk(K)
        return torch.einsum("thk,thkd->td", best.softmax(-1), state["values.weight"].double()[row])

    return state, forward


def lucidrains(norm: str = "layer", weight: str = "softmax", **more: bool) -> tuple[State, Any]:
    state = {"to_queries.weight": drawn(2 * H * W, D), "keys": drawn(H, N, 2, W), "values.weight": drawn(N * N, D)}
    if norm == "layer":
        state |= {"norm.weight": drawn(W), "norm.bias": drawn(W, seed=1)}
    if norm == "batch":
        state |= norm_state("norm.fn", 2 * H * W)
    for name in more:
        state |= {f"{name}.weight": drawn(D, seed=4), f"{name}.bias": drawn(D, seed=5)}

    def layer(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (x.size(-1),), state[f"{name}.weight"].double(), state[f"{name}.bias"].double())

    def forward(x: Tensor) -> Tensor:
        x = layer(x.double(), "pre_layernorm") if "pre_layernorm" in more else x
        query = linear(x, state, "to_queries")
        query = batch_norm(query, state, "norm.fn") if norm == "batch" else query
        query = query.view(-1, 2, H, W).transpose(1, 2)
        query = layer(query, "norm") if norm == "layer" else query
        weights = {"softmax": None, "relu": torch.relu}[weight]
        y = read(query, state["keys"].permute(0, 2, 1, 3), state["values.weight"], weight=weights)
        return layer(y, "output_norm") if "output_norm" in more else y

    return state, forward


def peer(**more: bool) -> tuple[State, Any]:
    state = {"to_queries.0.weight": drawn(2 * H * W, D), "keys": drawn(H, N, 2, W),
             "weight_down_embed.weight": drawn(N * N, D),
             "weight_up_embed.weight": drawn(N * N, D, seed=1)}  # fmt: skip
    if more:
        state["norm.gamma"] = drawn(D)

    def forward(x: Tensor) -> Tensor:
        x = x.double()
        if more:
            x = F.normalize(x, dim=-1) * D**0.5 * (state["norm.gamma"].double() + 1)
        query = linear(x, state, "to_queries.0").view(-1, 2, H, W).transpose(1, 2)
        keys = state["keys"].permute(0, 2, 1, 3)
        tables = state["weight_down_embed.weight"], state["weight_up_embed.weight"]
        return experts(x, query, keys, *tables, weight=torch.relu)

    return state, forward


def meta(output: str = "swilu") -> tuple[State, Any]:
    width = D if output == "none" else 6
    values = drawn(N * N, width).bfloat16()
    state = {"keys": drawn(2 * H * N, W), "values.weight": values, "query_proj.query_mlps.0.weight":
             drawn(H * 2 * W, D), "query_proj.query_mlps.0.bias": drawn(H * 2 * W)}  # fmt: skip
    if output != "none":
        state |= {"value_proj.weight": drawn(D, width), "value_proj.bias": drawn(D)}
    if output == "swilu":
        state |= {"swilu_projection.weight": drawn(width, D), "swilu_projection.bias": torch.zeros(width)}

    def forward(x: Tensor) -> Tensor:
        y = read(halves(linear(x, state, "query_proj.query_mlps.0")), state["keys"].view(H, 2, N, W), values)
        if output == "swilu":
            y = y * F.silu(linear(x, state, "swilu_projection"))
        return y if output == "none" else linear(y, state, "value_proj")

    return state, forward


def meta_peer() -> tuple[State, Any]:
    state, _ = meta("none")
    del state["values.weight"]
    state |= {"values_u.weight": drawn(N * N, D), "values_v.weight": drawn(N * N, D, seed=1)}

    def forward(x: Tensor) -> Tensor:
        query = halves(linear(x, state, "query_proj.query_mlps.0"))
        return experts(x, query, state["keys"].view(H, 2, N, W), state["values_u.weight"], state["values_v.weight"])

    return state, forward


def memory_plus() -> tuple[State, Any]:
    block = "transformer.mem_blocks.0."
    state = {"query_proj.weight": drawn(H * 2 * W, D), "keys": drawn(H, 2, N, W), "query_norm.weight": drawn(W),
             "keys_norm.weight": drawn(W), "values_proj.weight": drawn(D, 6),
             "swilu_projection.weight": drawn(6, D)}  # fmt: skip
    state = {block + name: tensor for name, tensor in state.items()}
    state["transformer.full_memory_layer.values_for_look_up"] = drawn(N * N, 6)
    state["transformer.wte.weight"] = drawn(20, D)

    def forward(x: Tensor) -> Tensor:
        query = halves(linear(x, state, block + "query_proj"))
        y = read(query, state[block + "keys"], state["transformer.full_memory_layer.values_for_look_up"])
        return linear(y * F.silu(linear(x, state, block + "swilu_projection")), state, block + "values_proj")

    return state, forward


CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "xlm notebook": (xlm_notebook, {}),
    "xlm hidden": (xlm_hidden, {}),
    "xlm flat": (xlm_flat, {}),
    "lucidrains": (lucidrains, {"weight": "softmax"}),
    "lucidrains relu": (lambda: lucidrains("none", "relu"), {"weight": "relu"}),
    "lucidrains batch": (lambda: lucidrains("batch"), {"weight": "softmax"}),
    "lucidrains norms": (lambda: lucidrains(pre_layernorm=True, output_norm=True), {"weight": "softmax"}),
    "peer": (peer, {"weight": "relu"}),
    "peer norm": (lambda: peer(norm=True), {"weight": "relu"}),
    "meta": (meta, {}),
    "meta projection": (lambda: meta("projection"), {}),
    "meta none": (lambda: meta("none"), {}),
    "meta peer": (meta_peer, {}),
    "memory+": (memory_plus, {}),
}


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
    save_file({"x": x}, tmp_path / "x.safetensors")
    files = [opened.folder, tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    subprocess.run([TOOL, *files], check=True, timeout=120)
    torch.testing.assert_close(load_file(tmp_path / "y.safetensors")["y"], forward(x).float(), atol=2e-5, rtol=1e-4)


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loci.convert", *map(str, arguments)]
    environment = {"PYTHONPATH": str(Path(loci.__file__).parents[1]), "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


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


def changed(make: Any, **changes: Any) -> State:
    state: State = make()[0]
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return state


# A state, and what its refusal must say.
REFUSED: dict[str, tuple[Any, str]] = {
    "concatenated heads": (lambda: changed(lucidrains, maybe_concat_combine__2__weight=drawn(D, 12)),
                           r"must not need heads that are concatenated.*got maybe_concat_combine\.2\.weight"),
    "permuted heads": (lambda: changed(xlm_notebook, head_permutations=drawn(3)), "heads with permuted sub-keys"),
    "a gate": (lambda: changed(meta, gating__weight=drawn(1, D)), r"a gate of the output.*got gating\.weight"),
    "a Tucker core": (lambda: changed(memory_plus, **{"tucker_core.0": drawn(H, 2, 2)}), "scores by a Tucker core"),
    "one vector of a Tucker core": (lambda: changed(memory_plus, tucker_core_u=drawn(1, H, 1, 2)), "by a Tucker core"),
    "shuffled rows": (lambda: changed(memory_plus, transformer__shuffle_index=drawn(4)), "must not need shuffled rows"),
    "rows before a projection": (lambda: changed(memory_plus, transformer__pre_values_proj__weight=drawn(4, 4)),
                                 "a projection of rows before they are read"),
    "keys of ranks": (lambda: changed(xlm_notebook, keys=drawn(H, 2, N, W, 2)), "keys of several ranks"),
    "experts of heads": (lambda: changed(peer, weight_down_embed__weight=drawn(H * N * N, D)),
                         r"experts of each head .* got weight_down_embed\.weight"),
    "a bias of the gate": (lambda: changed(meta, swilu_projection__bias=drawn(6)), "a bias of the gate"),
    "batch norm inside": (lambda: changed(xlm_hidden, **norm_state("query_proj.query_mlps.1", 7)),
                          r"batch norm between the linear maps of its queries, got query_proj\.query_mlps\.1"),
    "a net for each head": (lambda: {name.replace("mlps.0.", "mlps.0.0."): tensor
                                     for name, tensor in xlm_hidden()[0].items()}, "a query net for each head"),
    "a batch norm that does not fit": (lambda: changed(lambda: lucidrains("none"), **norm_state("norm.fn", W)),
                                       r"norm\.fn\.weight must be \[24\], got \[4\]"),
    "no memory": (lambda: {"weight": drawn(3)}, "a memory must have keys, got no tensor of that name among 1"),
    "other queries": (lambda: {"keys": drawn(3)}, r"keys must come with the queries of xlm, .*got no such name"),
    "something more": (lambda: changed(meta, other__weight=drawn(2)), r"must belong to a memory of meta, got other"),
    "no values": (lambda: changed(meta, values__weight=None), r"values\.weight must be given with 25 rows, got none"),
    "no shared values": (lambda: changed(memory_plus, transformer__full_memory_layer__values_for_look_up=None),
                         r"full_memory_layer\.values_for_look_up must be given, got none"),
    "too few rows": (lambda: changed(meta, values__weight=drawn(24, 6)), r"must be \[25, 6\], got \[24, 6\]"),
    "values of one dimension": (lambda: changed(meta, values__weight=drawn(25)), r"values\.weight must be \[25, 0\]"),
    "whole numbers": (lambda: changed(meta, values__weight=torch.ones(25, 6, dtype=torch.int64)),
                      r"values\.weight must be of a floating type, got int64"),
    "whole keys": (lambda: changed(meta, keys=torch.ones(30, 4, dtype=torch.int32)), "keys must be of a floating type"),
    "flat keys here": (lambda: changed(lucidrains, keys=drawn(H, N, 8)), r"keys must be \[H, n, 2, w\], got \[3, 5"),
    "keys of one half": (lambda: changed(xlm_notebook, keys=drawn(H, 1, N, W)), r"keys must be \[3, 2, 5, 4\], got"),
    "keys for other queries": (lambda: changed(xlm_notebook, keys=drawn(H, 2, N, 5)), "for 24 features of queries"),
    "keys of Meta for other queries": (lambda: changed(meta, keys=drawn(31, W)), r"\[2 \* heads \* n, w\] for 24 feat"),
    "empty keys of Meta": (lambda: changed(meta, keys=drawn(0, 0)), r"keys must be \[2 \* heads \* n, w\] for 24"),
    "a bias of another width": (lambda: changed(meta, query_proj__query_mlps__0__bias=drawn(5)), r"\[24\], got \[5\]"),
    "maps that do not fit": (lambda: changed(xlm_hidden, query_proj__query_mlps__2__weight=drawn(24, 6)),
                             r"query_mlps\.2\.weight must be \[24, 7\], got \[24, 6\]"),
    "a map without a weight": (lambda: changed(xlm_hidden, query_proj__query_mlps__0__weight=None),
                               r"query_mlps\.0\.weight must be given, got none"),
    "a norm first": (lambda: changed(xlm_hidden, query_proj__query_mlps__0__weight=drawn(7)),
                     r"query_mlps\.0\.weight must be \[out, in\], got \[7\]"),
    "a norm without its mean": (lambda: changed(xlm_notebook, query_proj__1__running_mean=None),
                                r"query_proj\.1\.running_mean must be given, got none"),
    "an output map of another width": (lambda: changed(meta, value_proj__weight=drawn(D, 5)), r"\[10, 6\], got \[10"),
    "experts of two sizes": (lambda: changed(peer, weight_up_embed__weight=drawn(16, D)), r"\[25, 10\], got \[16"),
    "no tensors": (lambda: {"keys": 3}, "it must hold named tensors, got 'keys': int"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(WeightsError, match=message) as caught:
        loci.convert(make(), top_k=K, weight="softmax")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("state_dict: ")


def test_what_no_file_says_must_be_given() -> None:
    for make, origin in ((lucidrains, "product-key-memory"), (peer, "peer-pytorch")):
        with pytest.raises(ValueError, match=f"weight must be given for {origin}, whose files do not say it, got none"):
            loci.convert(make()[0], top_k=K)
    with pytest.raises(ValueError, match="weight must be one of softmax, relu, sigmoid, got 'max'"):
        loci.convert(meta()[0], top_k=K, weight="max")
    with pytest.raises(ValueError, match=r"top_k must be within 1 \.\. 25"):
        loci.convert(meta()[0], top_k=26)


def test_files_and_folders_that_are_none(tmp_path: Path) -> None:
    state, _ = meta()
    (tmp_path / "empty").mkdir()
    for name, files in (("two", ["a.pth", "b.pt"]), ("parts", ["__0_0.distcp", ".metadata"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    torch.save({"keys": collections.Counter("code")}, tmp_path / "code.pt")
    for name, message in (("empty", "hold one consolidated checkpoint .*, got none"), ("two", "got 2 of them"),
                          ("parts", r"got parts of one: __0_0\.distcp"), ("cut.safetensors", "whole safetensors file"),
                          ("code.pt", "the file must hold named tensors|tensors alone")):  # fmt: skip
        with pytest.raises(WeightsError, match=message) as caught:
            loci.convert(tmp_path / name, top_k=K)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        loci.convert(tmp_path / "nothing.pt", top_k=K)
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "consolidated").mkdir()
    torch.save({"model": state}, tmp_path / "step" / "consolidated" / "consolidated.pth")
    assert loci.convert(tmp_path / "step", top_k=K).heads == H


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    save_file(meta()[0], tmp_path / "in.safetensors")
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    good = [tmp_path / "in.safetensors", "--out", tmp_path / "out", "--top-k"]
    cases = [
        ([*good, "26"], 2, "top_k must be within"),
        ([tmp_path / "no.pt", *good[1:], 4], 3, "IN must be readable, got No such file or directory"),
        ([tmp_path / "file", *good[1:], 4], 3, "the file must be"),
        ([good[0], "--out", tmp_path / "there", "--top-k", 4], 2, "path must be a new folder"),
        ([good[0], "--out", tmp_path / "file" / "out", "--top-k", 4], 2, "the folder must be writable, got Not a dir"),
    ]
    for arguments, status, message in cases:
        result = run(*arguments)
        assert result.returncode == status and message in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_the_function_is_a_function_when_the_module_was_imported() -> None:
    importlib.import_module("loci.convert")
    assert loci.convert(meta()[0], top_k=K).heads == H
