"""What networks are made of: parts with a role, where they stand, and the shapes of their tensors in Loci.

The names of a part in each library stand in names.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Shape = tuple[int, ...]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
INFLATIONS = ("none", "3x1x1", "3x3x3")
FORMS = ("gaussian", "embedded", "dot", "concat")
PYRAMID_LEVELS = 4


class WeightsError(ValueError):
    """Bad input: its text is the one line a user sees."""


@dataclass(frozen=True)
class Block:
    """A non-local block; `inner` 0: half of the channels."""

    form: str = "embedded"
    inner: int = 0
    norm: bool = True
    output_bias: bool = True


@dataclass(frozen=True)
class Network:
    """Hyper-parameters. Kinds: image (ResNet), body (ResNet without classes, of a pyramid), pyramid, video, block."""

    kind: str
    depth: int = 50
    width: int = 64
    channels: int = 3
    classes: int = 1000
    pyramid_width: int = 256
    inflation: str = "none"
    after: tuple[str, ...] = ()  # "res4.4": the bottleneck that a block follows
    block: Block = field(default_factory=Block)


@dataclass(frozen=True)
class Part:
    """`tensors`: of the part, by the last word of their names in Loci's networks: weight, bias, running_mean ..."""

    role: str
    where: dict[str, int]
    tensors: dict[str, Shape]


def parts(network: Network) -> Iterator[Part]:
    if network.kind == "block":
        yield from block_parts(network.block, network.channels, {})
        return
    yield from residual_parts(network)
    if network.kind == "pyramid":
        yield from pyramid_parts(network)
    if network.kind in ("image", "video"):
        features = stage_channels(network, 3)
        yield Part("classifier", {}, {"weight": (network.classes, features), "bias": (network.classes,)})


def stage_channels(network: Network, stage: int) -> int:
    return (network.width << stage) * (4 if network.depth >= 50 else 1)


def norm(channels: int) -> dict[str, Shape]:
    return {name: (channels,) for name in ("weight", "bias", "running_mean", "running_var")}


def convolution(network: Network, outputs: int, inputs: int, kernel: int, frames: int = 1) -> dict[str, Shape]:
    time = (frames,) if network.kind == "video" else ()
    return {"weight": (outputs, inputs, *time, kernel, kernel)}


def is_inflated(stage: int, block: int) -> bool:
    """The bottlenecks that the authors' release inflates: every second one, all of the first stage."""
    return stage == 0 or (block == 1 if stage == 3 else block % 2 == 0)


def residual_parts(network: Network) -> Iterator[Part]:
    inflated = network.inflation != "none"
    yield Part("stem", {}, convolution(network, network.width, network.channels, 7, 5 if inflated else 1))
    yield Part("stem_norm", {}, norm(network.width))
    blocks = blocks_after(network)
    inputs = network.width
    for stage, count in enumerate(BLOCKS[network.depth]):
        outputs = stage_channels(network, stage)
        for number in range(count):
            where = {"stage": stage + 1, "block": number}
            frames = 3 if inflated and is_inflated(stage, number) else 1
            yield from residual_block(network, where, inputs, outputs, frames)
            inputs = outputs
            if (stage, number) in blocks:
                yield from block_parts(network.block, outputs, {**where, "res": stage + 2})


def residual_block(network: Network, where: dict[str, int], inputs: int, outputs: int, frames: int) -> Iterator[Part]:
    inner = network.width << (where["stage"] - 1)
    if network.depth >= 50:
        layers = [(inner, inputs, 1), (inner, inner, 3), (outputs, inner, 1)]
    else:
        layers = [(inner, inputs, 3), (outputs, inner, 3)]
    over_time = {"none": -1, "3x1x1": 0, "3x3x3": 1}[network.inflation]
    for i, (to, of, kernel) in enumerate(layers):
        shape = convolution(network, to, of, kernel, frames if i == over_time else 1)
        yield Part("convolution", {**where, "i": i + 1}, shape)
        yield Part("norm", {**where, "i": i + 1}, norm(to))
    if where["block"] == 0 and inputs != outputs:
        yield Part("shortcut", where, convolution(network, outputs, inputs, 1))
        yield Part("shortcut_norm", where, norm(outputs))


def pyramid_parts(network: Network) -> Iterator[Part]:
    width = network.pyramid_width
    for level in range(PYRAMID_LEVELS):
        inputs = stage_channels(network, level)
        yield Part("lateral", {"level": level}, {"weight": (width, inputs, 1, 1), "bias": (width,)})
        yield Part("output", {"level": level}, {"weight": (width, width, 3, 3), "bias": (width,)})


def block_parts(block: Block, channels: int, where: dict[str, int]) -> Iterator[Part]:
    """The embeddings are matrices in Loci, and kernels of one position elsewhere."""
    inner = block.inner or max(1, channels // 2)
    embedding = {"weight": (inner, channels), "bias": (inner,)}
    for role in ("theta", "phi", "g"):
        if role == "g" or block.form != "gaussian":
            yield Part(role, where, embedding)
    if block.form == "concat":
        yield Part("concat", where, {"weight": (2 * inner,)})
    output = {"weight": (channels, inner), "bias": (channels,)}
    yield Part("block_output", where, output if block.output_bias else {"weight": output["weight"]})
    if block.norm:
        yield Part("block_norm", where, norm(channels))


def blocks_after(network: Network) -> set[tuple[int, int]]:
    places = set()
    for text in network.after:
        match = re.fullmatch(r"res([2-5])\.(\d+)", text)
        counts = BLOCKS[network.depth]
        if match is None or int(match[2]) >= counts[int(match[1]) - 2]:
            raise ValueError(f"--after must be a bottleneck from res2.0 to res5.{counts[3] - 1}, got {text}")
        places.add((int(match[1]) - 2, int(match[2])))
    return places
