"""Content addressing: which of a few items a query means, and with what weights they are read.

    score = loci.address_scores(query, key, "cosine")             # [.., Q, D], [.., N, D] -> [.., Q, N]
    weight = loci.read_weights(score, mask, "straight_through", temperature=0.1)
    read = weight @ values                                        # [.., Q, W]

Q queries, N items, D width of queries and keys, E that of keys where it is another, H inner width, K top_k.

    dot                s_n = q . k_n
    scaled_dot         s_n = q . k_n / sqrt(D)
    cosine             s_n = q . k_n / (|q| |k_n|)          a vector of length 0 has cosine 0
    AdditiveScore      s_n = v . tanh(W q + U k_n)

    soft               w = softmax(s / temperature) over the valid items
    top_k              the same over the K best of them
    hard               w = 1 / K for the K best, without a gradient
    straight_through   hard forward; backward the gradient of soft

Formulas and advice: docs/small-systems.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.table import at_least, drawn_seed, one_of

SCORES = ("dot", "scaled_dot", "cosine")
MODES = ("soft", "top_k", "hard", "straight_through")
LEAST_LENGTH = 1e-8  # that a cosine divides by


def _check_pair(who: str, query: Tensor, key: Tensor, query_width: int, key_width: int) -> None:
    fit = query.dim() >= 2 and key.dim() >= 2 and (query.size(-1), key.size(-1)) == (query_width, key_width)
    if not fit or not query.is_floating_point() or not key.is_floating_point():
        raise ValueError(
            f"{who}: query and key must be [.., Q, {query_width}] and [.., N, {key_width}] of floating types, "
            f"got {list(query.shape)} of {query.dtype} and {list(key.shape)} of {key.dtype}"
        )


def _unit_length(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, 2, -1, keepdim=True)
    return x / length.clamp_min(LEAST_LENGTH)


def address_scores(query: Tensor, key: Tensor, kind: str) -> Tensor:
    """query [.., Q, D], key [.., N, D] -> [.., Q, N]; leading dimensions broadcast. `kind`: "dot", "scaled_dot" or
    "cosine". Raises ValueError for shapes, types and kinds that are none of these."""
    one_of("address_scores", "kind", kind, SCORES)
    width = query.size(-1) if query.dim() else 0
    _check_pair("address_scores", query, key, width, width)
    if kind == "cosine":
        query, key = _unit_length(query), _unit_length(key)
    elif kind == "scaled_dot":
        query = query / math.sqrt(max(1, width))
    return query @ key.transpose(-1, -2)


class AdditiveScore(nn.Module):
    """s_n = v . tanh(W q + U k_n) (Bahdanau, Cho and Bengio 2015).

    Args:
        query_width: D. key_width: E. inner: H.
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state: query_weight W [H, D], key_weight U [H, E], score_weight v [H], all N(0, 1 / inputs) at the start."""

    query_weight: Tensor
    key_weight: Tensor
    score_weight: Tensor

    def __init__(
        self,
        query_width: int,
        key_width: int,
        inner: int,
        *,
        name: str = "additive",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for what, value in (("query_width", query_width), ("key_width", key_width), ("inner", inner)):
            at_least("AdditiveScore", what, value, 1)
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        sizes = {"query_weight": (inner, query_width), "key_weight": (inner, key_width), "score_weight": (inner,)}
        for which, size in sizes.items():
            self.register_parameter(which, nn.Parameter(torch.empty(size, **factory)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter."""
        for which, parameter in self.named_parameters(recurse=False):
            if parameter.device.type != "meta":
                std = 1 / math.sqrt(parameter.size(-1))
                parameter.copy_(ops.normal_start(self.seed, f"{self.name}.{which}", list(parameter.shape), std))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """query [.., Q, D], key [.., N, E] -> [.., Q, N]."""
        _check_pair("AdditiveScore", query, key, self.query_weight.size(1), self.key_weight.size(1))
        of_query = F.linear(query, self.query_weight).unsqueeze(-2)
        of_key = F.linear(key, self.key_weight).unsqueeze(-3)
        return (of_query + of_key).tanh() @ self.score_weight


class _Straight(torch.autograd.Function):
    """Of one value and with another's gradient."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.view_as(soft)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        return grad[0], None


def _softmax_over(score: Tensor, read: Tensor | None, temperature: float) -> Tensor:
    """Over the items where `read` is true; 0 where none is."""
    if read is None:
        return torch.softmax(score / temperature, -1)
    some = read.any(-1, keepdim=True)
    finite = score.masked_fill(~read & some, -math.inf).masked_fill(~some, 0)
    return torch.softmax(finite / temperature, -1).masked_fill(~read, 0)


def read_weights(
    score: Tensor, mask: Tensor | None = None, mode: str = "soft", *, top_k: int = 1, temperature: float = 1.0
) -> Tensor:
    """score [.., N] -> weights [.., N], which sum to 1; of equal scores the first is the better one.

    Args:
        mask: bool, of a shape that broadcasts to score's: False for items that are absent, whose scores never matter;
            None: all are there. Where none is there all weights are 0.
        mode: "soft", "top_k", "hard" or "straight_through" (see the head of this module).
        top_k: of all modes but "soft"; with fewer items all are read. temperature: of all modes but "hard".

    Raises ValueError for what is none of these."""
    one_of("read_weights", "mode", mode, MODES)
    at_least("read_weights", "top_k", top_k, 1)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"read_weights: temperature must be a positive number, got {temperature}")
    if score.dim() == 0 or not score.is_floating_point():
        raise ValueError("read_weights: score must be [.., N] of a floating type, "
                         f"got {list(score.shape)} of {score.dtype}")  # fmt: skip
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"read_weights: mask must be bool, got {mask.dtype}")
    if score.size(-1) == 0:
        return torch.zeros_like(score)
    there = None if mask is None else mask.expand(score.shape)
    if mode == "soft":
        return _softmax_over(score, there, temperature)
    known = score.detach() if there is None else score.detach().masked_fill(~there, -math.inf)
    order = known.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]
    best = torch.zeros_like(known, dtype=torch.bool).scatter(-1, order, True)
    if there is not None:
        best = best & there
    if mode == "top_k":
        return _softmax_over(score, best, temperature)
    hard = best.to(score.dtype) / best.sum(-1, keepdim=True).clamp_min(1).to(score.dtype)
    if mode == "hard":
        return hard
    straight: Tensor = _Straight.apply(_softmax_over(score, there, temperature), hard)  # type: ignore[no-untyped-call]
    return straight
