"""Neural random-access machines in eager PyTorch: what `loci` is compared with.

The same update (sixteen or one seeds, mlp controller, all modules, mixture loss, entropy bonus, clipped activation
gradients, Adam), batched over samples and seeds, every module in its cheap exact form, nothing handicapped: products of
all seeds as one batched product, sums by matrix products or index tricks instead of double sums.

Usage: python bench/ram_peer.py [--values 8] [--seeds 1] [--threads 1] [--updates 20] [--loci build/release/libloci.so]
With --loci, updates of both are taken in turns and the ratio is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

ARITY = [1, 0, 0, 0, 1, 2, 2, 1, 2, 2, 2, 2, 2, 2]  # READ ZERO ONE TWO INC ADD SUB DEC LT LE EQ MIN MAX WRITE
REGISTERS, WIDTH, BATCH, STEPS, CLIP = 4, 64, 64, 7, 10.0
MODULES = len(ARITY)
LOGITS = sum(a * (REGISTERS + i) for i, a in enumerate(ARITY)) + REGISTERS * (REGISTERS + MODULES)


class ClipGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.clamp(-CLIP, CLIP)


def renormalised(x: Tensor) -> Tensor:
    return x + (x / x.sum(-1, keepdim=True) - x).detach()


class Machine:
    """S seeds of B samples on tapes of M cells; distributions are [S, B, M]."""

    def __init__(self, values: int) -> None:
        index = torch.arange(values)
        self.values = values
        self.minus = (index[:, None] - index[None, :]) % values  # [c, b] -> c - b
        self.plus = (index[:, None] + index[None, :]) % values
        self.constants = torch.eye(values)[:3]

    def module(self, i: int, a: Tensor | None, b: Tensor | None, tape: Tensor, shape: torch.Size) -> Tensor:
        match i:
            case 0:
                return renormalised((a.unsqueeze(-2) @ tape).squeeze(-2))
            case 1 | 2 | 3:
                return self.constants[i - 1].expand(shape)
            case 4:
                return a.roll(1, -1)
            case 5:
                return renormalised((a[..., self.minus] @ b.unsqueeze(-1)).squeeze(-1))
            case 6:
                return renormalised((a[..., self.plus] @ b.unsqueeze(-1)).squeeze(-1))
            case 7:
                return a.roll(-1, -1)
            case 8 | 9:
                below = b.cumsum(-1)  # P(B <= c)
                false = (a * (below if i == 8 else below - b)).sum(-1, keepdim=True)
                true = a.sum(-1, keepdim=True) * below[..., -1:] - false
                return torch.cat([false, true, a.new_zeros(*a.shape[:-1], self.values - 2)], -1)
            case 10:
                true = (a * b).sum(-1, keepdim=True)
                false = a.sum(-1, keepdim=True) * b.sum(-1, keepdim=True) - true
                return torch.cat([false, true, a.new_zeros(*a.shape[:-1], self.values - 2)], -1)
            case 11 | 12:
                upto_a, upto_b = a.cumsum(-1), b.cumsum(-1)
                if i == 11:
                    upto_a, upto_b = upto_a[..., -1:] - upto_a + a, upto_b[..., -1:] - upto_b + b
                return renormalised(a * upto_b + b * upto_a - a * b)
            case _:
                raise AssertionError(i)

    def step(self, logits: Tensor, registers: Tensor, tape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = list(registers.unbind(2))
        offset = 0
        entropy = logits.new_zeros(logits.shape[:2])

        def choose(count: int) -> Tensor:
            nonlocal offset, entropy
            log_weight = logits[..., offset : offset + count].log_softmax(-1)
            offset += count
            weight = log_weight.exp()
            entropy = entropy - (weight * log_weight).sum(-1)
            return weight

        for i, arity in enumerate(ARITY):
            stacked = torch.stack(values, 2)  # [S, B, R + i, M]
            operands = [(choose(REGISTERS + i).unsqueeze(2) @ stacked).squeeze(2) for _ in range(arity)]
            if i == MODULES - 1:
                pointer, value = operands
                tape = tape + pointer.unsqueeze(-1) * (value.unsqueeze(-2) - tape)
                out = value
            else:
                a, b = [*operands, None, None][:2]
                out = self.module(i, a, b, tape, values[0].shape)
            values.append(ClipGradient.apply(out) if out.requires_grad else out)
        stacked = torch.stack(values, 2)
        weights = torch.stack([choose(REGISTERS + MODULES) for _ in range(REGISTERS)], 2)
        registers = ClipGradient.apply(renormalised(weights @ stacked))
        return registers, ClipGradient.apply(tape), entropy


class Learner:
    def __init__(self, values: int, seeds: int) -> None:
        torch.manual_seed(0)
        self.machine = Machine(values)
        self.values, self.seeds = values, seeds

        def parameter(*shape: int, std: float) -> Tensor:
            return (std * torch.randn(seeds, *shape)).requires_grad_()

        self.layers = [
            (parameter(REGISTERS, WIDTH, std=(2 / REGISTERS) ** 0.5), parameter(1, WIDTH, std=0.01)),
            (parameter(WIDTH, WIDTH, std=(2 / WIDTH) ** 0.5), parameter(1, WIDTH, std=0.01)),
            (parameter(WIDTH, LOGITS + 1, std=WIDTH**-0.5), parameter(1, LOGITS + 1, std=0.0)),
        ]
        self.parameters = [tensor for layer in self.layers for tensor in layer]
        self.adam = torch.optim.Adam(self.parameters, lr=4e-3, fused=True)
        self.tape = torch.randint(values, (seeds, BATCH, values))
        self.target = torch.randint(values, (seeds, BATCH, values))

    def update(self) -> None:
        tape = torch.nn.functional.one_hot(self.tape, self.values).float()
        registers = torch.zeros(self.seeds, BATCH, REGISTERS, self.values)
        registers[..., 0] = 1
        remain = torch.ones(self.seeds, BATCH)
        mixed = torch.zeros_like(tape)
        entropy = torch.zeros(self.seeds, BATCH)
        for step in range(STEPS):
            h = registers[..., 0]
            for weight, bias in self.layers[:2]:
                h = torch.baddbmm(bias, h, weight).relu()
            out = torch.baddbmm(self.layers[2][1], h, self.layers[2][0])
            registers, tape, more = self.machine.step(out[..., :LOGITS], registers, tape)
            entropy = entropy + more
            stop = out[..., LOGITS].clamp(-30, 30).sigmoid() if step + 1 < STEPS else torch.ones_like(remain)
            mixed = mixed + (stop * remain)[..., None, None] * tape
            remain = remain * (1 - stop)
        hit = mixed.gather(3, self.target.unsqueeze(3)).squeeze(3)
        loss = -hit.clamp_min(1e-6).log().sum(2) - 0.1 / STEPS * entropy
        self.adam.zero_grad(set_to_none=True)
        loss.sum().backward()
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.grad /= BATCH
            norm = sum(parameter.grad.square().flatten(1).sum(1) for parameter in self.parameters).sqrt()
            scale = (1 / norm).clamp_max(1)
            for parameter in self.parameters:
                parameter.grad *= scale.view(-1, 1, 1)
        self.adam.step()


class Loci:
    """The same update by loci's operator."""

    def __init__(self, values: int, seeds: int) -> None:
        torch.manual_seed(0)
        count = WIDTH * (REGISTERS + 1) + WIDTH * (WIDTH + 1) + (LOGITS + 1) * (WIDTH + 1)
        self.parameters = 0.1 * torch.randn(seeds, count)
        self.parameters.requires_grad_()
        self.adam = torch.optim.Adam([self.parameters], lr=4e-3, fused=True)
        self.tape = torch.randint(values, (seeds, BATCH, values), dtype=torch.int32)
        self.target = torch.randint(values, (seeds, BATCH, values), dtype=torch.int32)
        self.weight = torch.ones(seeds, BATCH, values)
        self.steps = torch.full((seeds,), STEPS)
        self.bonus = torch.full((seeds,), 0.1)
        self.lookup = torch.zeros(0, values, values, dtype=torch.int32)

    def update(self) -> None:
        with torch.no_grad():
            results = torch.ops.loci.ram_unroll(
                *(self.parameters.detach(), self.tape, self.target, self.weight, self.steps, self.bonus),
                *(REGISTERS, list(range(MODULES)), ARITY, self.lookup, CLIP, True, False, WIDTH, True, 1e-6, True),
            )
            gradient = results[4]
            scale = (1 / gradient.square().sum(1).sqrt()).clamp_max(1)
            self.parameters.grad = gradient * scale.unsqueeze(1)
        self.adam.step()


def seconds_of(learner: Learner | Loci) -> float:
    begin = time.perf_counter()
    learner.update()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=8, help="M, cells and values")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--loci", help="libloci.so, to be measured in turns with this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    learners: dict[str, Learner | Loci] = {"pytorch": Learner(options.values, options.seeds)}
    if options.loci:
        torch.ops.load_library(options.loci)
        learners["loci"] = Loci(options.values, options.seeds)
    times: dict[str, list[float]] = {name: [] for name in learners}
    for learner in learners.values():
        for _ in range(3):
            learner.update()
    for _ in range(options.updates):
        for name, learner in learners.items():
            times[name].append(seconds_of(learner))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        speed = f"{options.seeds / value:.1f} seed-updates/s"
        print(f"{name}: {1e3 * value:.2f} ms an update of {options.seeds} seeds, {speed}")
    if options.loci:
        print(f"ratio: {median['pytorch'] / median['loci']:.1f} (M {options.values}, {options.threads} threads)")


if __name__ == "__main__":
    main()
