"""What the tests of other libraries' memories share: their states, and their formulas in double."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import loci

H, N, W, D, K = 3, 5, 4, 10, 4  # heads, sub-keys of a half, half of a key, width, top_k
State = dict[str, Tensor]


def drawn(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed + sum(sizes)))


def inputs(width: int = D) -> Tensor:
    return drawn(6, width, seed=9)


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


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loci.convert", *map(str, arguments)]
    environment = {"PYTHONPATH": str(Path(loci.__file__).parents[1]), "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
