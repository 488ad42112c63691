"""Memories of other libraries as a folder that Loci opens, in Python (loci.load_run) and in C++.

Usage: python -m loci.convert IN --out OUT --top-k K [--weight softmax|relu|sigmoid] [--activation gelu|relu]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from loci.console import EXIT_INPUT, EXIT_RESOURCES, EXIT_USAGE, LACKING, complain
from loci.importers.memories import convert
from loci.importers.networks import WeightsError
from loci.memory_layer import MemoryLayer
from loci.run_saving import save_run
from loci.runs import printable

EPILOG = """origins, found by their names:
  XLM, product-key-memory (PyPI), PEER-pytorch (PyPI), Meta's memory layers, UltraMem's Memory+

examples:
  python -m loci.convert pkm.pt --out pkm --top-k 32 --weight softmax
  python -m loci.convert checkpoints/0000001000 --out memories --top-k 32
"""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 2 usage, 3 a bad file, 4 no memory or disk."""
    parser = argparse.ArgumentParser(
        prog="python -m loci.convert",
        description="Memories of other libraries as a folder that Loci opens.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, metavar="IN", help="a file of torch.save or safetensors, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--top-k", type=int, required=True, help="rows that a head reads, which no such file says")
    parser.add_argument("--weight", choices=("softmax", "relu", "sigmoid"),
                        help="scores to weights; must be given for product-key-memory and PEER-pytorch")  # fmt: skip
    parser.add_argument("--activation", choices=("gelu", "relu"), default="gelu", help="of PEER [gelu]")
    options = parser.parse_args(arguments)
    try:
        module = convert(options.input, top_k=options.top_k, weight=options.weight, activation=options.activation)
    except WeightsError as error:
        return complain(str(error), EXIT_INPUT)
    except ValueError as error:
        return complain(str(error), EXIT_USAGE)
    except OSError as error:
        return complain(f"{options.input}: IN must be readable, got {error.strerror or error}", EXIT_INPUT)
    except (MemoryError, RuntimeError) as error:
        return complain(f"{options.input}: there must be memory for the tables, got {error}", EXIT_RESOURCES)
    try:
        folder = save_run(module, options.out, whole=True)
    except ValueError as error:
        return complain(str(error), EXIT_USAGE)
    except OSError as error:
        status = EXIT_RESOURCES if error.errno in LACKING else EXIT_USAGE
        return complain(f"{options.out}: the folder must be writable, got {error.strerror or error}", status)
    except RuntimeError as error:
        return complain(str(error), EXIT_RESOURCES)
    memories = [memory for memory in module.modules() if isinstance(memory, MemoryLayer)]
    print(f"{printable(folder)}: {len(memories)} {'memory' if len(memories) == 1 else 'memories'}")
    for memory in memories:
        print(f"  {memory}")
    return 0


class _Convert(ModuleType):
    """`import loci.convert` makes this module what loci.convert means: it must stay the function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return convert(*arguments, **options)


if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__].__class__ = _Convert
