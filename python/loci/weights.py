"""Trained weights of other libraries under the names of Loci, and back.

Usage: python -m loci.weights import --from SOURCE --model MODEL IN OUT.safetensors
       python -m loci.weights export --to SOURCE --model MODEL IN.safetensors OUT
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from loci.console import EXIT_INPUT, EXIT_RESOURCES, EXIT_USAGE, LACKING, complain
from loci.importers.convert import State, convert, layouts
from loci.importers.files import read_state, write_state
from loci.importers.names import SOURCES
from loci.importers.networks import BLOCKS, FORMS, INFLATIONS, Block, Network, WeightsError, blocks_after
from loci.runs import printable

EPILOG = """models:
  resnet18, 34, 50, 101          an image network (torchvision), also for the video network, which inflates it
  resnet18_body ...              the same without classes, as the body of a pyramid: backbone.body.*
  resnet18_fpn ...               the body and the pyramid of a detector: backbone.body.*, backbone.fpn.*
  resnet50_video, resnet101_video    C2D and I3D, with or without blocks (mmaction2)
  non_local                      one block (mmcv, alexhex7, pyslowfast)

examples:
  python -m loci.weights import --from torchvision --model resnet50 resnet50.pth resnet50.safetensors
  python -m loci.weights import --from mmaction2 --model resnet50_video --after res3.1 i3d.pth i3d.safetensors
  python -m loci.weights export --to torchvision --model resnet18_fpn out/main/seed-0/step-400/model.safetensors r18.pth
"""
MODEL = re.compile(r"resnet(18|34|50|101)(?:_(body|fpn|video))?")
KINDS = {None: "image", "body": "body", "fpn": "pyramid", "video": "video"}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 2 usage, 3 a bad file, 4 no memory or disk."""
    options = parser().parse_args(arguments)
    try:
        network = network_of(options)
        ours, theirs = layouts(network, options.source, options.dimensions, options.pooled)
        blocks_after(network)
    except ValueError as error:
        return complain(f"weights: {error}", EXIT_USAGE)
    except KeyError:
        models = {"block": "non_local"}.get(network.kind, options.model)
        return complain(f"weights: --model must be one that {options.source} has, got {models}", EXIT_USAGE)
    if options.verb == "import" and options.output.suffix != ".safetensors":
        return complain(f"weights: OUT must end in .safetensors, got {printable(options.output)}", EXIT_USAGE)
    source, target = (theirs, ours) if options.verb == "import" else (ours, theirs)
    try:
        state = read_state(options.input)
        state = without_prefix(state, options) if options.verb == "export" else state
        converted = convert(state, network, source, target, str(options.input))
        result = with_prefix(converted.state, options) if options.verb == "import" else converted.state
    except WeightsError as error:
        return complain(str(error), EXIT_INPUT)
    except OSError as error:
        return complain(f"{options.input}: the file must be readable, got {error.strerror or error}", EXIT_INPUT)
    except MemoryError:
        return complain(f"{options.input}: there must be memory for the file, got too little", EXIT_RESOURCES)
    try:
        write_state(options.output, result, pickled=options.output.suffix != ".safetensors")
    except OSError as error:
        status = EXIT_RESOURCES if error.errno in LACKING else EXIT_USAGE
        return complain(f"{options.output}: the file must be writable, got {error.strerror or error}", status)
    others = f", {converted.left_out} of other parts left out" if converted.left_out else ""
    print(f"{printable(options.output)}: {len(result)} tensors of {options.model}{others}")
    return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m loci.weights",
        description="Trained weights of other libraries under the names of Loci, and back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = result.add_subparsers(dest="verb", required=True)
    for verb, flag, text in (("import", "--from", "whose names IN has"), ("export", "--to", "whose names OUT gets")):
        one = verbs.add_parser(verb, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
        one.add_argument(flag, dest="source", required=True, choices=list(SOURCES), help=text)
        one.add_argument("--model", required=True, help="see below")
        one.add_argument("--classes", type=positive, help="of the classifier [1000; of a video network 400]")
        one.add_argument("--width", type=positive, default=64, help="channels of the first convolution [64]")
        one.add_argument("--channels", type=positive, help="of the images [3], or of the map of a block")
        one.add_argument("--pyramid-width", type=positive, default=256, help="channels of the pyramid's maps [256]")
        one.add_argument("--inflation", choices=INFLATIONS, default="none", help="kernels over frames [none: C2D]")
        one.add_argument("--after", action="append", default=[], metavar="res4.4", help="a block follows here; repeat")
        one.add_argument("--form", choices=FORMS, default="embedded", help="of the blocks [embedded]")
        one.add_argument("--inner", type=positive, default=0, help="channels of a block's embeddings [half]")
        one.add_argument("--norm", choices=("batch", "none"), default="batch", help="of the blocks [batch]")
        one.add_argument("--no-output-bias", action="store_true", help="the block's last convolution has no bias")
        one.add_argument("--dimensions", type=int, choices=(1, 2, 3), help="of a block's map [2; pyslowfast 3]")
        one.add_argument("--pooled", action="store_true", help="max pooling follows phi and g: names of OUT")
        one.add_argument("--name", default="", help="of the block in Loci, such as layer3.4.non_local")
        one.add_argument("input", type=Path, metavar="IN")
        one.add_argument("output", type=Path, metavar="OUT")
    return result


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def network_of(options: argparse.Namespace) -> Network:
    video = options.source == "mmaction2"
    # With a norm mmcv's last convolution has no bias.
    has_bias = not options.no_output_bias and not (options.source in ("mmcv", "mmaction2") and options.norm == "batch")
    block = Block(options.form, options.inner, options.norm == "batch", has_bias)
    if options.dimensions is None:
        options.dimensions = 3 if video or options.source == "pyslowfast" else 2
    if options.model == "non_local":
        if options.channels is None:
            raise ValueError("--channels must be given for a block, got none")
        return Network("block", channels=options.channels, block=block)
    match = MODEL.fullmatch(options.model)
    if match is None or (match[2] == "video" and int(match[1]) < 50):
        raise ValueError(f"--model must be non_local or resnet{{{','.join(map(str, BLOCKS))}}}[_body|_fpn|_video], "
                         f"got {options.model}")  # fmt: skip
    return Network(
        KINDS[match[2]],
        depth=int(match[1]),
        width=options.width,
        channels=options.channels or 3,
        classes=options.classes or (400 if match[2] == "video" else 1000),
        pyramid_width=options.pyramid_width,
        inflation=options.inflation,
        after=tuple(options.after),
        block=block,
    )


def with_prefix(state: State, options: argparse.Namespace) -> State:
    return {f"{options.name}.{name}": value for name, value in state.items()} if options.name else state


def without_prefix(state: State, options: argparse.Namespace) -> State:
    """Of a file with a whole network the block of --name alone."""
    if not options.name:
        return state
    prefix = options.name + "."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


if __name__ == "__main__":
    sys.exit(main())
