"""The formula of a memory as plain functions: norms over tokens, unit vectors, tokens that count."""

from __future__ import annotations

import torch
from torch import Tensor

from loci.library import ops

NORM_EPSILON = 1e-5
NORM_MOMENTUM = 0.1
LEAST_LENGTH = 1e-6


def default_key_width(width: int) -> int:
    """Half of a layer's width, even."""
    return max(2, (width // 2 + 1) // 2 * 2)


def exact_type_of(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def unit_vectors(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp_min(LEAST_LENGTH)


def take_tokens(x: Tensor, positions: Tensor | None) -> Tensor:
    return x if positions is None else x.index_select(0, positions)


def put_tokens(y: Tensor, positions: Tensor | None, tokens: int) -> Tensor:
    """y [T', D] at its positions among all tokens, zeros elsewhere."""
    return y if positions is None else y.new_zeros(tokens, y.size(1)).index_copy(0, positions, y)


def batch_normalised(
    x: Tensor, gain: Tensor, bias: Tensor, running_mean: Tensor, running_variance: Tensor, training: bool
) -> Tensor:
    """Batch norm of x [T, ...] over T, each feature by itself, in float32 or, for float64, in float64."""
    exact = exact_type_of(x)
    mean, variance = running_mean.to(exact).view(-1), running_variance.to(exact).view(-1)
    flat = x.reshape(x.size(0), mean.numel())
    y: Tensor = ops.batch_norm(flat, gain.to(exact).view(-1), bias.to(exact).view(-1), mean, variance, training,
                               NORM_MOMENTUM, NORM_EPSILON)[0]  # fmt: skip
    if training and exact != running_mean.dtype:
        running_mean.copy_(mean.view_as(running_mean))
        running_variance.copy_(variance.view_as(running_variance))
    return y.view(x.shape)


def centred(x: Tensor, running_mean: Tensor, running_variance: Tensor, training: bool) -> Tensor:
    """x [T, ...] minus the mean over T, a constant in backward; in evaluation, and of one token, the running mean."""
    exact = exact_type_of(x)
    mean = running_mean.to(exact)
    if training and x.size(0) >= 2:
        with torch.no_grad():
            # With momentum 1 the operator leaves the batch's own statistics.
            flat = x.detach().reshape(x.size(0), -1)
            zeros, ones = flat.new_zeros(flat.size(1), dtype=exact), flat.new_ones(flat.size(1), dtype=exact)
            of_batch, variance = zeros.clone(), ones.clone()
            ops.batch_norm(flat, ones, zeros, of_batch, variance, True, 1.0, NORM_EPSILON)
            for running, batch in ((running_mean, of_batch), (running_variance, variance)):
                running.mul_(1 - NORM_MOMENTUM).add_(batch.view_as(running).to(running.dtype), alpha=NORM_MOMENTUM)
        mean = of_batch.view_as(mean)
    return x.to(exact) - mean
