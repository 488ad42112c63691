"""Retrieval memory (Gabriel et al. 2021, "Paragraph-level commonsense transformers with recurrent memory"): a few items
of text beside a sequence, of which the best is added to the last hidden states.

    memory = loci.RetrievalMemory(vocabulary=1000, width=128, length=8)
    hidden = memory(hidden, items, mask)          # [B, P, 128], [B, M, 8], [B, P] -> [B, P, 128]
    added, score, weight = memory.retrieve(hidden, items, mask)

B sequences, P positions, d width, M items of a sequence, L tokens of an item, V vocabulary, K top_k.

    R     the memory's own embedding [V, d]
    m_j   mean of R[ids] over the tokens of item j
    c     mean of the hidden states over the valid positions
    s_j   cos(m_j, c)
    w     weights of the K best items: 1 / K each
    r     sum over j of w_j (sum over l of a_l R[ids_jl] + b)
    H'    H + r at every position

Formulas and advice: docs/small-systems.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.addressing import MODES, address_scores, read_weights
from loci.library import ops
from loci.table import at_least, drawn_seed, one_of


class Retrieval(NamedTuple):
    added: Tensor  # r [B, d]
    score: Tensor  # s [B, M], of absent items too
    weight: Tensor  # w [B, M]; 0 for absent items


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """x [.., N, d], mask [.., N] -> [.., d]; 0 where nothing is true."""
    counted = mask.unsqueeze(-1).to(x.dtype)
    return (x * counted).sum(-2) / counted.sum(-2).clamp_min(1)


class RetrievalMemory(nn.Module):
    """See the head of this module.

    Args:
        vocabulary: V. width: d. length: L.
        padding: the token that fills items up; an item of it alone is absent.
        count_padding: padding is a token as any other in means and sums, as in the authors' code.
        zero_start: a and b start at 0, so that H' is H until the memory has learned.
        mode, top_k, temperature: of the read (loci.read_weights). The paper's is "hard", whose choice has no gradient.
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state: embedding R [V, d] as N(0, 1 / d), position_weight a [L] and bias b [1] as U(-1 / sqrt(L), 1 / sqrt(L)).
    Raises ValueError for options and inputs that are none of these."""

    embedding: Tensor
    position_weight: Tensor
    bias: Tensor

    def __init__(
        self,
        vocabulary: int,
        width: int,
        length: int,
        *,
        padding: int = 0,
        count_padding: bool = False,
        zero_start: bool = False,
        mode: str = "straight_through",
        top_k: int = 1,
        temperature: float = 0.1,
        name: str = "retrieval",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for what, value in (("vocabulary", vocabulary), ("width", width), ("length", length)):
            at_least("RetrievalMemory", what, value, 1)
        if not 0 <= padding < vocabulary:
            raise ValueError("RetrievalMemory: padding must be a token of 0 to vocabulary - 1, "
                             f"got {padding} of {vocabulary}")  # fmt: skip
        one_of("RetrievalMemory", "mode", mode, MODES)
        at_least("RetrievalMemory", "top_k", top_k, 1)
        self.vocabulary, self.width, self.length = vocabulary, width, length
        self.padding, self.count_padding, self.zero_start = padding, count_padding, zero_start
        self.mode, self.top_k, self.temperature = mode, top_k, temperature
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        sizes = {"embedding": (vocabulary, width), "position_weight": (length,), "bias": (1,)}
        for which, size in sizes.items():
            self.register_parameter(which, nn.Parameter(torch.empty(size, **factory)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter."""
        if self.embedding.device.type == "meta":
            return
        std = 1 / math.sqrt(self.width)
        sizes = [self.vocabulary, self.width]
        self.embedding.copy_(ops.normal_start(self.seed, f"{self.name}.embedding", sizes, std))
        bound = 0.0 if self.zero_start else 1 / math.sqrt(self.length)
        for which, parameter in (("position_weight", self.position_weight), ("bias", self.bias)):
            parameter.copy_(ops.uniform_start(self.seed, f"{self.name}.{which}", list(parameter.shape), bound))

    def retrieve(self, hidden: Tensor, items: Tensor, mask: Tensor | None = None) -> Retrieval:
        """hidden [B, P, d], items int64 [B, M, L], mask bool [B, P]: the positions that c is the mean of; None: all.
        Without any item r is 0."""
        self._check(hidden, items, mask)
        valid = items != self.padding  # [B, M, L]
        tokens = F.embedding(items, self.embedding)  # [B, M, L, d]
        if not self.count_padding:
            tokens = tokens * valid.unsqueeze(-1).to(tokens.dtype)
        mean = tokens.mean(2) if self.count_padding else _masked_mean(tokens, valid)
        context = hidden.mean(1) if mask is None else _masked_mean(hidden, mask)
        score = address_scores(context.unsqueeze(1).to(mean.dtype), mean, "cosine").squeeze(1)
        weight = read_weights(score, valid.any(2), self.mode, top_k=self.top_k, temperature=self.temperature)
        mapped = tokens.transpose(2, 3) @ self.position_weight + self.bias  # [B, M, d]
        return Retrieval((weight.unsqueeze(1).to(mapped.dtype) @ mapped).squeeze(1), score, weight)

    def forward(self, hidden: Tensor, items: Tensor, mask: Tensor | None = None) -> Tensor:
        """H' [B, P, d]."""
        return hidden + self.retrieve(hidden, items, mask).added.unsqueeze(1).to(hidden.dtype)

    def _check(self, hidden: Tensor, items: Tensor, mask: Tensor | None) -> None:
        if hidden.dim() != 3 or hidden.size(2) != self.width or not hidden.is_floating_point():
            raise ValueError(f"RetrievalMemory: hidden must be [B, P, {self.width}] of a floating type, "
                             f"got {list(hidden.shape)} of {hidden.dtype}")  # fmt: skip
        sizes = (hidden.size(0), items.size(1) if items.dim() == 3 else -1, self.length)
        if items.shape != sizes or items.dtype != torch.int64:
            raise ValueError(f"RetrievalMemory: items must be int64 [{sizes[0]}, M, {self.length}], "
                             f"got {list(items.shape)} of {items.dtype}")  # fmt: skip
        if mask is not None and (mask.dtype != torch.bool or mask.shape != hidden.shape[:2]):
            raise ValueError(f"RetrievalMemory: mask must be bool {list(hidden.shape[:2])}, "
                             f"got {list(mask.shape)} of {mask.dtype}")  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.vocabulary}, {self.width}, {self.length}, mode={self.mode}, top_k={self.top_k}"
