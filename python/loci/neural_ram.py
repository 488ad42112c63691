"""Neural random-access machines as a module (Kurach, Andrychowicz, Sutskever, "Neural Random-Access Machines", ICLR
2016, arXiv 1511.06392): independent seeds side by side, each a controller that drives registers, modules and a tape.

    machine = loci.NeuralRam([0, 1, 2, 3], registers=4)       # four seeds
    run = machine(tape, target, steps=7)                      # tape, target int32 [S, B, M]
    run.objective.sum().backward()                            # each seed has its own gradient
    run.wrong                                                 # [S, B] cells that are not the target's

S seeds, B samples of each, R registers, Q modules, M values and cells, O logits of a circuit, W width, P parameters.

At each step the controller sees P(r = 0) of each register alone and chooses, by softmax, the operands of every module
among registers and outputs of earlier modules, then the new registers; it also says whether to stop (sections 3.1 to
3.4). What a run computes, with its loss, is one operator: loci/ops/ram_unroll/ram_unroll.h. Curriculum, anneal and
programs are the command line's: docs/neural-ram.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from loci.library import ops
from loci.table import at_least, one_of

# The modules of the paper in its order, which the operators number from 0 on, and how many operands they have.
STANDARD = {"READ": 1, "ZERO": 0, "ONE": 0, "TWO": 0, "INC": 1, "ADD": 2, "SUB": 2, "DEC": 1, "LT": 2, "LE": 2,
            "EQ": 2, "MIN": 2, "MAX": 2, "WRITE": 2}  # fmt: skip
CONTROLLERS = ("mlp", "lstm")
LOSSES = ("mixture", "expected")
HIDDEN_BIAS = 0.01  # standard deviation at the start


class RamModule(NamedTuple):
    """A module of one's own: RamModule("HALF", 1, lambda a, b, M: a // 2)."""

    name: str
    operands: int  # 0, 1 or 2
    evaluate: Callable[[int, int, int], int]  # of numbers 0 .. M-1 and of M: a number 0 .. M-1


class RamRun(NamedTuple):
    """What a run gives."""

    objective: Tensor  # [S], mean over the samples of loss - bonus / steps * entropy; the one with a gradient
    loss: Tensor  # [S, B]
    entropy: Tensor  # [S, B], summed over all choices of all steps
    wrong: Tensor  # [S, B] int32: cells whose likeliest value is not the target
    gradient: Tensor  # [S, P] of the objective; [S, 0] where none is wanted
    sound: Tensor  # [S] bool: no sum that was divided by was below 1/2


class NeuralRam(nn.Module):
    """Machines of all seeds. The parameters do not depend on M: a machine runs on tapes of any size from 3 on.

    Args:
        seeds: one machine for each; it starts and runs with the same bits alone and beside others.
        registers: R. repeats: of the module list in a step.
        controller: "mlp" (two hidden layers) or "lstm" (one and a memory cell). width: W. output_scale: of the start of
            the output layer.
        loss: "mixture" -sum_i log sum_t p_t Mem_t[i, target_i], or "expected" (the paper's eq. (5))
            -sum_t p_t sum_i log Mem_t[i, target_i]; probabilities count as at least `floor`.
        clip_activations: largest gradient of an activation inside the machine; 0: not clipped.
        modules: names of STANDARD, the paper's, and RamModule of one's own, in the order of their use in a step.

    The state has the name of the command line's checkpoints: controllers [S, P], layer by layer the weight [outputs,
    inputs] and the bias. Outputs and gradients have the bits of the C++ module.
    Raises ValueError for impossible options, RuntimeError for tapes, targets and weights that do not fit."""

    controllers: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        registers: int = 8,
        repeats: int = 1,
        controller: str = "mlp",
        width: int = 64,
        output_scale: float = 1.0,
        loss: str = "mixture",
        floor: float = 1e-6,
        clip_activations: float = 1000.0,
        modules: Sequence[str | RamModule] = tuple(STANDARD),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for what, value, least in (("registers", registers, 1), ("repeats", repeats, 1), ("width", width, 1),
                                   ("output_scale", output_scale, 0), ("clip_activations", clip_activations, 0),
                                   ("modules", len(modules), 1)):  # fmt: skip
            at_least("NeuralRam", what, value, least)
        one_of("NeuralRam", "controller", controller, CONTROLLERS)
        one_of("NeuralRam", "loss", loss, LOSSES)
        if not 0 < floor <= 0.5:
            raise ValueError(f"NeuralRam: floor must be above 0 and at most 0.5, got {floor}")
        self.seeds, self.registers, self.repeats = [int(seed) for seed in seeds], registers, repeats
        self.controller, self.width, self.output_scale = controller, width, output_scale
        self.loss, self.floor, self.clip_activations = loss, floor, clip_activations
        self.modules_of_step = tuple(modules)
        self._operations, self._operands, self._own = self._numbered()
        parameters = sum(outputs * (inputs + 1) for outputs, inputs in self._layers())
        self.controllers = nn.Parameter(torch.empty(len(self.seeds), parameters, device=device, dtype=dtype))
        self.reset_parameters()

    def _numbered(self) -> tuple[list[int], list[int], list[RamModule]]:
        """Numbers and operands of a step's modules, and the modules of one's own, whose numbers come last."""
        names, own = list(STANDARD), [module for module in self.modules_of_step if isinstance(module, RamModule)]
        numbers, operands, used = [], [], 0
        for module in self.modules_of_step:
            if isinstance(module, RamModule):
                if module.operands not in (0, 1, 2):
                    raise ValueError(f"NeuralRam: operands of {module.name} must be 0, 1 or 2, got {module.operands}")
                numbers.append(len(STANDARD) + used)
                operands.append(module.operands)
                used += 1
            else:
                one_of("NeuralRam", "modules", module, names)
                numbers.append(names.index(module))
                operands.append(STANDARD[module])
        return numbers * self.repeats, operands * self.repeats, own

    def logits(self) -> int:
        """O: what a circuit takes, without the stop."""
        R = self.registers
        return sum(n * (R + i) for i, n in enumerate(self._operands)) + R * (R + len(self._operands))

    def _layers(self) -> list[tuple[int, int]]:
        """Outputs and inputs of the controller's layers."""
        W = self.width
        return [(W, self.registers), (4 * W, 2 * W) if self.controller == "lstm" else (W, W), (self.logits() + 1, W)]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start, by counter of each seed: He's with biases N(0, 0.01^2); the output layer N(0, scale^2 / W), biases
        0."""
        if self.controllers.device.type == "meta":
            return
        layers = self._layers()
        for seed, row in zip(self.seeds, self.controllers, strict=True):
            row.zero_()
            at = 0  # of a number in the row, and of the counter
            for place, (outputs, inputs) in enumerate(layers):
                last = place == len(layers) - 1
                std = self.output_scale / math.sqrt(inputs) if last else math.sqrt(2 / inputs)
                for count, spread in ((outputs * inputs, std), (outputs, 0.0 if last else HIDDEN_BIAS)):
                    end = at + count
                    if spread > 0:
                        row[at:end] = ops.normal_start(seed, "neural_ram.start", [end], spread)[at:]
                    at = end

    def _lookup(self, M: int) -> Tensor:
        """int32 [U, M, M]: modules of one's own on every pair of numbers."""
        tables = [
            [[module.evaluate(a if module.operands > 0 else 0, b if module.operands > 1 else 0, M) for b in range(M)]
             for a in range(M)]
            for module in self._own
        ]  # fmt: skip
        return torch.tensor(tables, dtype=torch.int32).view(len(self._own), M, M)

    def _clip(self) -> float:
        return self.clip_activations or math.inf

    def forward(
        self,
        tape: Tensor,
        target: Tensor,
        *,
        steps: int | Tensor,
        cell_weight: Tensor | None = None,
        bonus: float | Tensor = 0.0,
        which: Sequence[int] | None = None,
    ) -> RamRun:
        """Runs all seeds, or those at the places `which`, of which S then are.

        tape, target: int32 [S, B, M]; target -1 where a cell is no output. steps: T, of all seeds or int64 [S].
        cell_weight: [S, B, M] of a cell's loss; None: 1. bonus: of entropy, of all seeds or [S].
        Gradients are computed with the run, if the controllers need one; there is no second derivative."""
        controllers = self.controllers if which is None else self.controllers[list(which)]
        S = controllers.size(0)

        def for_seeds(value: float | Tensor, dtype: torch.dtype) -> Tensor:
            if isinstance(value, Tensor):
                return value
            return torch.full((S,), value, dtype=dtype, device=controllers.device)

        weight = torch.ones(tape.shape, dtype=controllers.dtype, device=tape.device)
        return RamRun(
            *ops.ram_unroll(
                controllers,
                tape,
                target,
                weight if cell_weight is None else cell_weight,
                for_seeds(steps, torch.int64),
                for_seeds(bonus, controllers.dtype),
                self.registers,
                self._operations,
                self._operands,
                self._lookup(tape.size(-1)),
                self._clip(),
                True,
                self.controller == "lstm",
                self.width,
                self.loss == "mixture",
                self.floor,
                torch.is_grad_enabled() and controllers.requires_grad,
            )
        )

    def step(self, logits: Tensor, registers: Tensor, tape: Tensor) -> tuple[Tensor, Tensor]:
        """One step, for a controller of one's own: logits [N, O], registers [N, R, M] and tape [N, M, M], both
        distributions over the last dimension -> the new registers and the new tape. All have gradients."""
        registers, tape = ops.ram_step(
            logits, registers, tape, self._operations, self._operands, self._lookup(tape.size(-1)), self._clip(), True
        )
        return registers, tape

    def extra_repr(self) -> str:
        return (f"{len(self.seeds)} seeds, registers={self.registers}, {len(self._operands)} modules, "
                f"controller={self.controller}, width={self.width}")  # fmt: skip
