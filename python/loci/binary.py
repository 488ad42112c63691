"""Layers whose weights and activations are signs (Courbariaux, Hubara et al. 2016, "Binarized neural networks", arXiv
1602.02830), as they are trained: weights are kept as numbers of [-1, 1] and used by their signs.

    hidden, last = loci.BinaryLinear(784, 1024), loci.BinaryLinear(1024, 10)
    model = nn.Sequential(hidden, nn.BatchNorm1d(1024), loci.StraightThroughSign(), last, nn.BatchNorm1d(10))
    optimizer = loci.keep_clipped(torch.optim.Adam(loci.binary_groups(model, lr=3e-3)))
    loci.squared_hinge_loss(model(images), labels).backward(); optimizer.step(); optimizer.zero_grad()
    packed = last.freeze()                       # 64 signs in a word, with the same numbers for inputs of signs

B batch, C channels, K inputs, O outputs. Formulas: docs/small-systems.md, "Binary networks".
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory_layer import without_autocast
from loci.table import at_least, drawn_seed, one_of

GRADIENTS = ("within_one", "whole")
AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)


def straight_through_sign(x: Tensor, gradient: str = "within_one") -> Tensor:
    """+1 where x >= 0, else -1 (NaN too), in the type of x, which is any floating one. (torch.sign is 0 at 0.)

    gradient: of x. "within_one": grad * 1[|x| <= 1], the paper's equation 4; "whole": grad, for weights that are
    clipped after each update. Raises ValueError for another one, RuntimeError for whole numbers."""
    one_of("straight_through_sign", "gradient", gradient, GRADIENTS)
    signs: Tensor = ops.straight_through_sign(x, gradient == "whole")
    return signs


class StraightThroughSign(nn.Module):
    """x [..] -> signs [..]; straight_through_sign(x) as a layer.

    Args:
        sampled: in training +1 is drawn with probability clip((x + 1) / 2, 0, 1) (the paper's equations 2 and 3), and
            the gradient is the same. Evaluation uses the sign.
        name, seed: draws come by counter from both, as those of the C++ layer: the same ones for any number of threads
            and for a batch that is cut in parts. None draws the seed from torch's generator.

    The state of a sampled one goes on where it ended: key [2] and drawn [1], how many numbers were drawn."""

    key: Tensor  # [2] int64: seed and stream
    drawn: Tensor  # [1] int64

    def __init__(self, *, sampled: bool = False, name: str = "sign", seed: int | None = None):
        super().__init__()
        self.sampled = sampled
        if sampled:
            self.register_buffer("key", ops.reel_key(drawn_seed() if seed is None else int(seed), name))
            self.register_buffer("drawn", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if not (self.sampled and self.training):
            return straight_through_sign(x)
        signs: Tensor = ops.sampled_sign(x, self.key, self.drawn.clone())
        self.drawn += x.numel()
        return signs

    def extra_repr(self) -> str:
        return "sampled" if self.sampled else ""


class _BinaryWeight(nn.Module):
    """A weight that starts as U(-1, 1), by counter from (seed, name), as that of the C++ layer."""

    def __init__(
        self,
        sizes: list[int],
        name: str,
        seed: int | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        layout = torch.channels_last if len(sizes) == 4 else torch.contiguous_format
        self.weight = nn.Parameter(torch.empty(sizes, device=device, dtype=dtype, memory_format=layout))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter."""
        if self.weight.device.type != "meta":
            self.weight.copy_(ops.uniform_start(self.seed, f"{self.name}.weight", list(self.weight.shape), 1.0))

    def signs(self) -> Tensor:
        """sign(W); its gradient reaches W as it is, for updates keep W within [-1, 1]."""
        return straight_through_sign(self.weight, "whole")

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape[:2]
        return f"{inputs}, {outputs}" + (f", edge={self.weight.size(-1)}" if self.weight.dim() == 4 else "")


class BinaryLinear(_BinaryWeight):
    """x [.., K] -> x sign(W)^T [.., O], without a bias, for a batch norm follows. Signs and whole numbers have exact
    products in float32 while sums stay below 2^24, under autocast too.

    The state: weight W [O, K] in [-1, 1]. Raises ValueError for sizes below 1 and tensors that do not fit."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        name: str = "binary",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        at_least("BinaryLinear", "inputs", inputs, 1)
        at_least("BinaryLinear", "outputs", outputs, 1)
        super().__init__([outputs, inputs], name, seed, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        _check_inputs("BinaryLinear", x, self.weight.size(1))
        with without_autocast(x):
            return F.linear(x.to(self.weight.dtype), self.signs())

    def freeze(self) -> PackedLinear:
        """The layer with 64 signs in a word, to use and not to train; the same numbers for inputs of signs."""
        outputs, inputs = self.weight.shape
        packed = PackedLinear(inputs, outputs, device=self.weight.device)
        packed.bits.copy_(ops.sign_pack(self.weight.detach()))
        return packed


class BinaryConv2d(_BinaryWeight):
    """x [B, C, height, width] -> its convolution with sign(W), [B, O, height, width]: stride 1, kernels of an odd edge,
    a border of edge / 2 pixels of the value `border`: +1, because 0 is no sign. A first layer, which reads numbers, may
    have another. Without a bias; exact as BinaryLinear.

    The state: weight W [O, C, edge, edge] in [-1, 1]. Raises ValueError for sizes below 1, an even edge and tensors
    that do not fit."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        edge: int = 3,
        *,
        border: float = 1.0,
        name: str = "binary",
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        at_least("BinaryConv2d", "channels", channels, 1)
        at_least("BinaryConv2d", "outputs", outputs, 1)
        if edge < 1 or edge % 2 != 1:
            raise ValueError(f"BinaryConv2d: the edge must be odd, got {edge}")
        super().__init__([outputs, channels, edge, edge], name, seed, device, dtype)
        self.border = float(border)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.size(1) != self.weight.size(1) or not x.is_floating_point():
            raise ValueError(f"BinaryConv2d: x must be [B, {self.weight.size(1)}, height, width] of a floating type, "
                             f"got {list(x.shape)} of {x.dtype}")  # fmt: skip
        with without_autocast(x):
            pixels = self.weight.size(-1) // 2
            bordered = F.pad(x.to(self.weight.dtype), [pixels] * 4, value=self.border)
            return F.conv2d(bordered.contiguous(memory_format=torch.channels_last), self.signs())


class PackedLinear(nn.Module):
    """sign(x) [.., K] -> sign(x) W^T [.., O] for weights W of signs, 64 in a word: products by counting bits, whole
    numbers in the type of x. What BinaryLinear.freeze() makes; without a gradient.

    The state: bits [O, ceil(K / 64)] int64, a bit 1 for -1 (operator sign_pack)."""

    bits: Tensor

    def __init__(self, inputs: int, outputs: int, *, device: torch.device | str | None = None):
        super().__init__()
        at_least("PackedLinear", "inputs", inputs, 1)
        at_least("PackedLinear", "outputs", outputs, 1)
        self.inputs = inputs
        self.register_buffer("bits", torch.zeros(outputs, (inputs + 63) // 64, dtype=torch.int64, device=device))

    def forward(self, x: Tensor) -> Tensor:
        _check_inputs("PackedLinear", x, self.inputs)
        y: Tensor = ops.binary_linear(ops.sign_pack(x.detach().reshape(-1, self.inputs)), self.bits, self.inputs)
        return y.to(x.dtype).reshape(*x.shape[:-1], self.bits.size(0))

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.bits.size(0)}"


def _check_inputs(who: str, x: Tensor, inputs: int) -> None:
    if x.dim() < 1 or x.size(-1) != inputs or not x.is_floating_point():
        raise ValueError(f"{who}: x must be [.., {inputs}] of a floating type, got {list(x.shape)} of {x.dtype}")


def binary_rate(weight: Tensor) -> float:
    """c = 1 / sqrt(1.5 / (fan_in + fan_out)) of a weight [O, K] or [O, C, edge, edge], the factor on its rate."""
    return 1 / math.sqrt(1.5 / (math.prod(weight.shape[2:]) * (weight.size(0) + weight.size(1))))


def binary_groups(module: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Groups of parameters for an optimiser of torch. Binary weights: rate c * lr (binary_rate), no decay, and "clip",
    which keep_clipped() obeys; a group for each c. The other parameters of the module: a group with rate lr.

    Schedulers of torch scale each group's rate. Raises ValueError for a module without binary layers."""
    at_least("binary_groups", "lr", lr, 0)
    by_rate: dict[float, list[nn.Parameter]] = {}
    for part in module.modules():
        if isinstance(part, _BinaryWeight):
            by_rate.setdefault(binary_rate(part.weight), []).append(part.weight)
    if not by_rate:
        raise ValueError("binary_groups: module must have binary layers, got none")
    binary = {id(weight) for weights in by_rate.values() for weight in weights}
    groups: list[dict[str, Any]] = [
        {"params": list(dict.fromkeys(weights)), "lr": c * lr, "weight_decay": 0.0, "clip": (-1.0, 1.0)}
        for c, weights in by_rate.items()
    ]
    others = [parameter for parameter in module.parameters() if id(parameter) not in binary]
    return [*groups, {"params": others, "lr": lr}] if others else groups


def keep_clipped(optimizer: AnyOptimizer) -> AnyOptimizer:
    """After each step of `optimizer`, which is returned, the parameters of groups with "clip" = (low, high) become the
    nearest numbers of that range: W := clip(W + c * update, -1, 1) of binary weights (the paper's algorithm 1)."""

    @torch.no_grad()
    def clip(of: torch.optim.Optimizer, *_: Any) -> None:
        for group in of.param_groups:
            if group.get("clip") is not None:
                low, high = group["clip"]
                for parameter in group["params"]:
                    parameter.clamp_(low, high)

    optimizer.register_step_post_hook(clip)
    return optimizer


def squared_hinge_loss(score: Tensor, labels: Tensor) -> Tensor:
    """The mean over B and O of max(0, 1 - t * score)^2 with t = +1 for the label's class, -1 for the others.

    score [B, O] of a floating type, labels [B] int64. Raises ValueError for others, and for a label without a class
    what torch raises."""
    if score.dim() != 2 or labels.shape != score.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"squared_hinge_loss: score must be [B, O] and labels [B] of torch.int64, got "
                         f"{list(score.shape)} and {list(labels.shape)} of {labels.dtype}")  # fmt: skip
    target = torch.full_like(score.detach(), -1).scatter_(1, labels.unsqueeze(1), 1)
    return (1 - target * score).clamp_min(0).square().mean()
