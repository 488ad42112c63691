"""Layers whose weights are each one of K fixed random values, chosen by scores (Aladago and Torresani 2021, "Slot
machines: discovering winning combinations of random weights in neural networks", arXiv 2101.06475).

    layer = loci.ReelLinear(784, 300, reels=8)
    optimizer = loci.ReelSGD(layer, lr=0.2)      # no gradient of K scores a weight in memory; or any of torch.optim
    loss_of(layer(x)).backward(); optimizer.step(); optimizer.zero_grad()
    plain = layer.freeze()                       # torch.nn.Linear with the same bits

Training moves the scores alone. The values are made again from two numbers wherever they are needed, and never stored:
`state_dict` has scores and key. Formulas: docs/small-systems.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.table import at_least, drawn_seed, one_of

CHOICES = ("greedy", "sampled")
GRADIENTS = ("all", "chosen")
MOST_REELS = 256


class ReelWeight(nn.Module):
    """A tensor of weights [outputs, inputs, ...]; calling it gives them.

    Args:
        sizes: outputs, inputs, and edges of a convolution's kernel.
        reels: K, 1 to 256. 1: fixed random weights, which training does not change.
        choice: "greedy": a weight is the value of its greatest score. "sampled": in training the value of a reel that
            the softmax of its scores draws.
        gradient: "all": d score[k] = (dL/dweight) value[k] for every k; "chosen": for the chosen k alone, a control.
        spread: scores start as U(0, spread * sigma), sigma = sqrt(2 / (fan_in + fan_out)), the bound of the values.
        name, seed: values and scores come by counter from both, as those of the C++ layers.

    Raises ValueError for impossible options."""

    scores: nn.Parameter  # [K, outputs, inputs, ...]
    key: Tensor  # [2] int64: seed and stream of the values
    draws: Tensor  # [1] int64: how many were made; sampled

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        reels: int = 8,
        choice: str = "greedy",
        gradient: str = "all",
        spread: float = 0.1,
        name: str = "reels.weight",
        seed: int | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        who = "ReelWeight"
        if not 1 <= reels <= MOST_REELS:
            raise ValueError(f"{who}: reels must be 1 to {MOST_REELS}, got {reels}")
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"{who}: sizes must be outputs, inputs and edges of at least 1, got {list(sizes)}")
        one_of(who, "choice", choice, CHOICES)
        one_of(who, "gradient", gradient, GRADIENTS)
        at_least(who, "spread", spread, 0)
        self.reels, self.choice, self.gradient, self.spread, self.name = reels, choice, gradient, spread, name
        self.bound = math.sqrt(2 / ((sizes[0] + sizes[1]) * math.prod(sizes[2:])))
        self.scores = nn.Parameter(torch.empty(reels, *sizes, device=device))
        self.register_buffer("key", ops.reel_key(drawn_seed() if seed is None else int(seed), name))
        if choice == "sampled":
            self.register_buffer("draws", torch.zeros(1, dtype=torch.int64))
        self._seed, self._stream = (int(number) for number in self.key.tolist())
        self._held: tuple[Tensor, Tensor] | None = None  # weights and choice, of ReelSGD
        self._held_state: tuple[int, bool] | None = None  # version of the scores, and whether they were sampled
        self.reset_parameters()

    def _start(self) -> Tensor:
        half = self.spread * self.bound / 2
        drawn: Tensor = ops.uniform_start(self._seed, f"{self.name}.scores", list(self.scores.shape), half)
        return drawn + half

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start of the scores, by counter."""
        if self.scores.device.type != "meta":
            self.scores.copy_(self._start())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._seed, self._stream = (int(number) for number in self.key.tolist())
        self._held_state = None

    def _sampling(self) -> bool:
        return self.choice == "sampled" and self.training

    def _chosen(self, scores: Tensor, sampling: bool) -> tuple[Tensor, Tensor]:
        draw = -1
        if sampling:
            draw = int(self.draws)
            self.draws += 1
        weight, choice = ops.reel_weights(scores, self._seed, self._stream, self.bound, draw, self.gradient == "chosen")
        return weight, choice

    def forward(self) -> Tensor:
        if self._held is None:
            return self._chosen(self.scores, self._sampling())[0]
        state = self.scores._version, self._sampling()
        if state != self._held_state:
            with torch.no_grad():
                for held, new in zip(self._held, self._chosen(self.scores, state[1]), strict=True):
                    held.copy_(new)
            self._held_state = state
        return self._held[0]

    def hold(self) -> Tensor:
        """What ReelSGD trains: from then on gradients reach these weights and not the scores."""
        if self._held is None:
            weight = torch.zeros_like(self.scores[0]).requires_grad_()
            self._held = weight, torch.zeros(weight.shape, dtype=torch.uint8, device=weight.device)
            self.scores.requires_grad_(False)
        return self._held[0]

    @torch.no_grad()
    def update(
        self, gradient: Tensor, velocity: Tensor | None, lr: float, momentum: float, decay: float, nesterov: bool
    ) -> None:
        """One update of all scores, and the choice of the next weights, in one pass."""
        if self._held is None:
            raise RuntimeError("ReelWeight: hold() must come before update(), got none")
        greedy = self.choice == "greedy"
        ops.reel_step_(self.scores, velocity, *self._held, gradient, self._seed, self._stream, self.bound, lr,
                       momentum, decay, 1.0, nesterov, self.gradient == "chosen", greedy)  # fmt: skip
        if greedy:
            self._held_state = self.scores._version, False

    def found(self) -> Tensor:
        """The weights of the greatest scores, without gradient."""
        weight: Tensor = ops.reel_weights(self.scores.detach(), self._seed, self._stream, self.bound, -1, False)[0]
        return weight

    def values(self) -> Tensor:
        """All values [K, outputs, inputs, ...]."""
        values: Tensor = ops.reel_values(self.scores.detach()[0], self.reels, self._seed, self._stream, self.bound)
        return values

    def moved(self) -> float:
        """Share of the weights whose greatest score is not that of the start."""
        before = self._start().to(self.scores.device).argmax(0)
        return float(self.scores.detach().argmax(0).ne(before).double().mean())

    def extra_repr(self) -> str:
        return f"{list(self.scores.shape[1:])}, reels={self.reels}, choice={self.choice}"


class ReelLinear(nn.Module):
    """x [.., inputs] -> [.., outputs], without a bias. Options: ReelWeight's."""

    def __init__(self, inputs: int, outputs: int, *, name: str = "reels", **options: Any):
        super().__init__()
        self.weight = ReelWeight([outputs, inputs], name=f"{name}.weight", **options)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight())

    def freeze(self) -> nn.Linear:
        """A plain layer with the same bits, to use or to train on."""
        weight = self.weight.found()
        plain = nn.Linear(weight.size(1), weight.size(0), bias=False, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            plain.weight.copy_(weight)
        return plain


class ReelConv2d(nn.Module):
    """x [B, channels, height, width] -> [B, outputs, height, width]: stride 1, kernels of an odd edge, a border of
    zeros, without a bias. Options: ReelWeight's; spread is 1 unless it is given."""

    def __init__(self, channels: int, outputs: int, edge: int = 3, *, name: str = "reels", **options: Any):
        super().__init__()
        if edge % 2 != 1:
            raise ValueError(f"ReelConv2d: the edge must be odd, got {edge}")
        self.weight = ReelWeight([outputs, channels, edge, edge], name=f"{name}.weight", **{"spread": 1.0} | options)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight()
        return F.conv2d(x, weight, padding=weight.size(-1) // 2)

    def freeze(self) -> nn.Conv2d:
        """A plain layer with the same bits, to use or to train on."""
        weight = self.weight.found()
        outputs, channels, edge, _ = weight.shape
        plain = nn.Conv2d(channels, outputs, edge, padding=edge // 2, bias=False, device=weight.device,
                          dtype=weight.dtype)  # fmt: skip
        with torch.no_grad():
            plain.weight.copy_(weight)
        return plain


class ReelSGD(torch.optim.Optimizer):
    """SGD of the scores of every reel layer in `module`, in one pass without their gradient: what stands for a layer in
    `param_groups` are its weights [outputs, inputs, ...], whose gradient backward makes. Other parameters of the module
    are another optimiser's. g = (dL/dweight) value + weight_decay * score; v = momentum * v + g; score -= lr * v, or
    with nesterov score -= lr * (g + momentum * v).

    Raises ValueError for a module without reels and for impossible numbers."""

    def __init__(
        self,
        module: nn.Module,
        lr: float = 0.2,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        nesterov: bool = False,
    ):
        reels = [part for part in module.modules() if isinstance(part, ReelWeight)]
        if not reels:
            raise ValueError("ReelSGD: module must have layers of reels, got none")
        for what, number in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            at_least("ReelSGD", what, number, 0)
        self._reels = {id(part.hold()): part for part in reels}
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__([part.hold() for part in reels], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                part, velocity = self._reels[id(weight)], None
                if group["momentum"] > 0:
                    state = self.state[weight]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(part.scores)
                    velocity = state["momentum_buffer"]
                part.update(weight.grad, velocity, float(group["lr"]), group["momentum"], group["weight_decay"],
                            group["nesterov"])  # fmt: skip
        return loss
