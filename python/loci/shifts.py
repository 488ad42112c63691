"""Norm and optimiser whose factors are rounded to powers of two, so that their products are shifts (Courbariaux, Hubara
et al. 2016, "Binarized neural networks", arXiv 1602.02830: shift-based batch normalization and AdaMax).

    model = nn.Sequential(loci.BinaryLinear(784, 1024), loci.ShiftNorm(1024), loci.StraightThroughSign(), ...)
    optimizer = loci.keep_clipped(loci.ShiftAdamax(loci.binary_groups(model, lr=2**-10)))

AP2(z) = sign(z) * 2^round(log2 |z|). Formulas: docs/small-systems.md, "Binary networks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from loci.library import ops
from loci.table import at_least

SMALLEST = torch.finfo(torch.float32).tiny


def nearest_power(x: Tensor) -> Tensor:
    """AP2 of float32 or float64 numbers; 0, infinity and NaN stay. Its gradient is that of x."""
    y: Tensor = ops.nearest_power(x)
    return y


class ShiftNorm(nn.Module):
    """x [B, O] or [B, O, ...] -> y of the same sizes, each of the O features by itself:

        training  mean = average of x; c = x - mean; variance = average of c AP2(c)
        y         c * (AP2(1 / sqrt(variance + eps)) * AP2(gain)) + bias
        running   moved to mean and variance of the batch by `momentum`; what evaluation uses
        backward  of these formulas, with AP2 as the identity

    In float32, and in float64 for float64, with the numbers of the C++ norm. The state: gain, bias, running_mean,
    running_variance [O]. Raises ValueError for sizes that do not fit, and for training without a row."""

    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        at_least("ShiftNorm", "features", features, 1)
        at_least("ShiftNorm", "eps", eps, 0)
        self.eps, self.momentum = eps, momentum
        self.gain = nn.Parameter(torch.ones(features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(features, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(features, device=device, dtype=dtype))
        self.register_buffer("running_variance", torch.ones(features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        features = self.gain.numel()
        if x.dim() < 2 or x.size(1) != features or not x.is_floating_point():
            raise ValueError(f"ShiftNorm: x must be [B, {features}, ...] of a floating type, "
                             f"got {list(x.shape)} of {x.dtype}")  # fmt: skip
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        rows = x.to(exact).movedim(1, -1)
        values = rows.reshape(-1, features)
        mean, variance = self.running_mean.to(exact), self.running_variance.to(exact)
        if self.training:
            if values.size(0) == 0:
                raise ValueError("ShiftNorm: training must have at least 1 row, got 0")
            mean = values.mean(0)
            c = values - mean
            variance = (c * nearest_power(c)).mean(0)
            with torch.no_grad():
                for running, new in ((self.running_mean, mean), (self.running_variance, variance)):
                    running.mul_(1 - self.momentum).add_(new.detach(), alpha=self.momentum)
        scale = nearest_power((variance.double() + self.eps).sqrt().reciprocal()).to(exact)
        y = (values - mean) * (scale * nearest_power(self.gain.to(exact))) + self.bias.to(exact)
        return y.reshape(rows.shape).movedim(-1, 1)

    def extra_repr(self) -> str:
        return str(self.gain.numel())


class ShiftAdamax(torch.optim.Optimizer):
    """AdaMax by shifts, of float32 and float64 parameters, with the numbers of the C++ rule:

        a = AP2(1 - betas[0]), b = AP2(1 - betas[1]);  p <- p (1 - lr * weight_decay)
        m <- m + a (g - m);  v <- max((1 - b) v, |g|);  p <- p - AP2(lr / (1 - (1 - a)^t)) * m / AP2(v)

    where v is 0, p stays. Raises ValueError for impossible numbers."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2**-10,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ):
        at_least("ShiftAdamax", "lr", lr, 0)
        at_least("ShiftAdamax", "weight_decay", weight_decay, 0)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"ShiftAdamax: betas must be two numbers of [0, 1), got {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shares = [_power_of(1 - beta) for beta in group["betas"]]
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, float(group["lr"]), group["weight_decay"], *shares)
        return loss

    def _update(self, p: Tensor, lr: float, decay: float, share1: float, share2: float) -> None:
        state = self.state[p]
        if not state:
            state.update(step=0, moment1=torch.zeros_like(p), largest=torch.zeros_like(p))
        assert p.grad is not None
        m, v = state["moment1"], state["largest"]
        if decay != 0:
            p.mul_(1 - lr * decay)
        m.add_(p.grad - m, alpha=share1)
        v.mul_(1 - share2).copy_(torch.maximum(v, p.grad.abs()))
        state["step"] += 1
        shift = _power_of(lr / (1 - (1 - share1) ** state["step"]))
        # Where no gradient came yet, both moments are 0.
        p.sub_(m / nearest_power(v).clamp_min_(SMALLEST), alpha=shift)


def _power_of(x: float) -> float:
    return float(nearest_power(torch.tensor(x, dtype=torch.float64)))
