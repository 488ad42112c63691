"""Slots: a text of many sentences is compressed into few vectors, which a decoder reads and overwrites by content.

    compress = loci.CompressToSlots(128, slots=12)
    memory = loci.SlotMemory(128, state=256)
    slots, weight, penalty = compress(sentences, mask)   # sentences [B, N, 128] -> [B, 12, 128], [B, 12, N], [B]
    content, w = memory.read(slots, state)               # state [B, 256] -> [B, 128], [B, 12]
    slots = memory.write(slots, state, w)

They implement the idea of Park et al. 2020 ("Mem2Mem: Learning to summarize long texts with memory compression and
transfer", arXiv 2010.11322), of which we know the abstract alone; the formulas are ours.

B texts, N sentences, r slots, d width, S width of the decoder's state, I inner width.

Formulas and advice: docs/small-systems.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory_layer import without_autocast
from loci.table import at_least, drawn_seed


class CompressedSlots(NamedTuple):
    slots: Tensor  # M_0 [B, r, d]
    weight: Tensor  # A [B, r, N]
    penalty: Tensor  # [B]


class SlotRead(NamedTuple):
    content: Tensor  # c [B, d]
    weight: Tensor  # w [B, r]


class _Drawn(nn.Module):
    """Parameters by counter from (seed, name), as those of the C++ block."""

    def __init__(self, name: str, seed: int | None, device: torch.device | str | None, dtype: torch.dtype | None):
        super().__init__()
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        self._device, self._dtype = device, dtype

    def _register(self, **sizes: tuple[int, ...]) -> None:
        for which, size in sizes.items():
            made = torch.empty(size, device=self._device, dtype=self._dtype)
            self.register_parameter(which, nn.Parameter(made))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter: weights N(0, 1 / inputs); the bias of erasing -2."""
        for which, parameter in self.named_parameters(recurse=False):
            if parameter.dim() == 1:
                parameter.fill_(-2)
            elif parameter.device.type != "meta":
                std = 1 / math.sqrt(parameter.size(1))
                parameter.copy_(ops.normal_start(self.seed, f"{self.name}.{which}", list(parameter.shape), std))


def _check_mask(who: str, mask: Tensor | None, sizes: tuple[int, ...], letters: str) -> None:
    if mask is not None and (mask.dtype != torch.bool or mask.shape != sizes):
        raise ValueError(f"{who}: mask must be {letters} of torch.bool with {sizes[0]} and {sizes[1]}, "
                         f"got {list(mask.shape)} of {mask.dtype}")  # fmt: skip


def _softmax(score: Tensor, left_out: Tensor | None) -> Tensor:
    """Of the last dimension over what is not left out; 0 elsewhere, and everywhere in a row of nothing."""
    if left_out is None:
        return score.softmax(-1)
    return score.masked_fill(left_out, -math.inf).softmax(-1).masked_fill(left_out, 0)


def slot_penalty(weight: Tensor) -> Tensor:
    """|A A^T - I|_F^2 of each weight [B, r, N] -> [B]: 0 where each slot looks at one sentence of its own."""
    with without_autocast(weight):
        one = torch.eye(weight.size(1), dtype=weight.dtype, device=weight.device)
        return (weight @ weight.transpose(1, 2) - one).square().sum((1, 2))


class CompressToSlots(_Drawn):
    """Sentences [B, N, d] into r slots.

        A = softmax over N of W_2 tanh(W_1 H^T)   [B, r, N]
        M_0 = A H                                 [B, r, d]
        penalty = |A A^T - I|_F^2                 [B]

    Sentences outside the mask have weight 0, and what stands there never changes a bit of the result; a text without
    sentences has M_0 = 0.

    Args:
        width: d.
        slots: r.
        inner: I, 0: as wide as d.
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state, with the names and, eager, the bits of the C++ block: inner_weight W_1 [I, d], slot_weight W_2 [r, I].
    Everything is computed in their dtype, under autocast too. Raises ValueError for options and tensors that are none
    of these."""

    inner_weight: Tensor
    slot_weight: Tensor

    def __init__(
        self,
        width: int,
        slots: int,
        *,
        inner: int = 0,
        name: str = "slots",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(name, seed, device, dtype)
        at_least("CompressToSlots", "width", width, 1)
        at_least("CompressToSlots", "slots", slots, 1)
        at_least("CompressToSlots", "inner", inner, 0)
        self.width, self.slots = width, slots
        self._register(inner_weight=(inner or width, width), slot_weight=(slots, inner or width))

    def forward(self, sentences: Tensor, mask: Tensor | None = None) -> CompressedSlots:
        """sentences [B, N, d]; mask [B, N] bool: the sentences of each text; None: all are."""
        if sentences.dim() != 3 or sentences.size(2) != self.width or not sentences.is_floating_point():
            raise ValueError(f"CompressToSlots: sentences must be [B, N, {self.width}] of a floating type, "
                             f"got {list(sentences.shape)} of {sentences.dtype}")  # fmt: skip
        _check_mask("CompressToSlots", mask, sentences.shape[:2], "[B, N]")
        with without_autocast(sentences):
            H, left_out = sentences.to(self.inner_weight.dtype), None
            if mask is not None:
                left_out = ~mask.unsqueeze(1)  # [B, 1, N]
                H = H.masked_fill(left_out.transpose(1, 2), 0)
            score = F.linear(F.linear(H, self.inner_weight).tanh(), self.slot_weight)  # [B, N, r]
            A = _softmax(score.transpose(1, 2), left_out)
            return CompressedSlots(A @ H, A, slot_penalty(A))

    def extra_repr(self) -> str:
        return f"{self.width}, slots={self.slots}, inner={self.inner_weight.size(0)}"


class SlotMemory(_Drawn):
    """Reads and writes slots by content, for a decoder of state s. What is read and written is given and returned: the
    module keeps its parameters alone.

        read    w = softmax over r of M W_q s / sqrt(d)    [B, r]
                c = w^T M                                  [B, d]
        write   e = sigmoid(W_e s + b_e), a = tanh(W_a s)  [B, d]
                M := M o (1 - w e^T) + w (e o a)^T

    Entries of M stay within max(|M_0|, 1), up to rounding.

    Args:
        width: d.
        state: S.
        name, seed: parameters come by counter from both, as those of the C++ block.

    The state, with the names and, eager, the bits of the C++ block: query_weight W_q, erase_weight W_e, add_weight W_a
    [d, S] and erase_bias b_e [d], which is -2 at the start. Everything is computed in their dtype, under autocast too.
    Raises ValueError for options and tensors that are none of these."""

    query_weight: Tensor
    erase_weight: Tensor
    erase_bias: Tensor
    add_weight: Tensor

    def __init__(
        self,
        width: int,
        state: int,
        *,
        name: str = "slot_memory",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(name, seed, device, dtype)
        at_least("SlotMemory", "width", width, 1)
        at_least("SlotMemory", "state", state, 1)
        self.width, self.state = width, state
        matrix = (width, state)
        self._register(query_weight=matrix, erase_weight=matrix, erase_bias=(width,), add_weight=matrix)

    def _check(self, slots: Tensor, state: Tensor) -> None:
        if slots.dim() != 3 or slots.size(1) < 1 or slots.size(2) != self.width or not slots.is_floating_point():
            raise ValueError(f"SlotMemory: slots must be [B, r, {self.width}] of a floating type with r >= 1, "
                             f"got {list(slots.shape)} of {slots.dtype}")  # fmt: skip
        if state.shape != (slots.size(0), self.state) or not state.is_floating_point():
            raise ValueError(f"SlotMemory: state must be [{slots.size(0)}, {self.state}] of a floating type, "
                             f"got {list(state.shape)} of {state.dtype}")  # fmt: skip

    def read(self, slots: Tensor, state: Tensor, mask: Tensor | None = None) -> SlotRead:
        """slots M [B, r, d], state s [B, S]; mask [B, r] bool: the slots that are; None: all."""
        self._check(slots, state)
        _check_mask("SlotMemory", mask, slots.shape[:2], "[B, r]")
        with without_autocast(slots):
            M, left_out = slots.to(self.query_weight.dtype), None
            if mask is not None:
                left_out = ~mask.unsqueeze(1)  # [B, 1, r]
                M = M.masked_fill(left_out.transpose(1, 2), 0)
            query = F.linear(state.to(M.dtype), self.query_weight)
            score = (query / math.sqrt(self.width)).unsqueeze(1) @ M.transpose(1, 2)  # [B, 1, r]
            w = _softmax(score, left_out)
            return SlotRead((w @ M).squeeze(1), w.squeeze(1))

    def write(self, slots: Tensor, state: Tensor, weight: Tensor) -> Tensor:
        """The slots after a write at weight w [B, r], which is that of a read."""
        self._check(slots, state)
        if weight.shape != slots.shape[:2] or not weight.is_floating_point():
            raise ValueError(f"SlotMemory: weight must be {list(slots.shape[:2])} of a floating type, "
                             f"got {list(weight.shape)} of {weight.dtype}")  # fmt: skip
        with without_autocast(slots):
            M = slots.to(self.query_weight.dtype)
            s = state.to(M.dtype)
            e, a = F.linear(s, self.erase_weight, self.erase_bias).sigmoid(), F.linear(s, self.add_weight).tanh()
            share = weight.to(M.dtype).unsqueeze(2) * e.unsqueeze(1)  # w e^T [B, r, d]
            return torch.lerp(M, a.unsqueeze(1).expand_as(M), share)

    def forward(self, slots: Tensor, state: Tensor, mask: Tensor | None = None) -> SlotRead:
        """read()."""
        return self.read(slots, state, mask)

    def extra_repr(self) -> str:
        return f"{self.width}, state={self.state}"
