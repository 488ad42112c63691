"""Large memory layers for neural networks: the C++ library as modules and optimisers of torch (docs/python.md).

    memory = loci.ProductKeyMemory(width=512, rows=2**18, heads=4, top_k=32, query_norm="batch")
    y = memory(x)
    rows = loci.optim.RowAdam(memory.tables(), lr=1e-2)

Nothing is loaded before it is used, so that the reports (`python -m loci.report RUN...`) need no library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loci import optim as optim
    from loci import plots as plots
    from loci.addressing import AdditiveScore as AdditiveScore
    from loci.addressing import address_scores as address_scores
    from loci.addressing import read_weights as read_weights
    from loci.binary import BinaryConv2d as BinaryConv2d
    from loci.binary import BinaryLinear as BinaryLinear
    from loci.binary import PackedLinear as PackedLinear
    from loci.binary import StraightThroughSign as StraightThroughSign
    from loci.binary import binary_groups as binary_groups
    from loci.binary import binary_rate as binary_rate
    from loci.binary import keep_clipped as keep_clipped
    from loci.binary import squared_hinge_loss as squared_hinge_loss
    from loci.binary import straight_through_sign as straight_through_sign
    from loci.calibration import calibrate as calibrate
    from loci.finetuning import ReadBackground as ReadBackground
    from loci.finetuning import apply_patch as apply_patch
    from loci.finetuning import finetune_rows as finetune_rows
    from loci.finetuning import write_patch as write_patch
    from loci.importers.memories import convert as convert
    from loci.insertion import Inserted as Inserted
    from loci.insertion import insert as insert
    from loci.insertion import load as load
    from loci.insertion import remove as remove
    from loci.insertion import save as save
    from loci.library import ops as ops
    from loci.memory import FlatKeyMemory as FlatKeyMemory
    from loci.memory import PeerMemory as PeerMemory
    from loci.memory import ProductKeyMemory as ProductKeyMemory
    from loci.memory_layer import Reads as Reads
    from loci.memory_map import MemoryMap as MemoryMap
    from loci.memory_map import SideMemory as SideMemory
    from loci.neural_ram import NeuralRam as NeuralRam
    from loci.neural_ram import RamModule as RamModule
    from loci.ngram import NgramMemory as NgramMemory
    from loci.non_local import NonLocal1d as NonLocal1d
    from loci.non_local import NonLocal2d as NonLocal2d
    from loci.non_local import NonLocal3d as NonLocal3d
    from loci.ode import odeint as odeint
    from loci.ode_block import OdeBlock as OdeBlock
    from loci.ode_solver import OdeError as OdeError
    from loci.program import doctor as doctor
    from loci.random_bases import RandomBases as RandomBases
    from loci.reels import ReelConv2d as ReelConv2d
    from loci.reels import ReelLinear as ReelLinear
    from loci.reels import ReelSGD as ReelSGD
    from loci.reels import ReelWeight as ReelWeight
    from loci.reinitialisation import Redrawn as Redrawn
    from loci.reinitialisation import Reinitialise as Reinitialise
    from loci.relatives import CrissCross as CrissCross
    from loci.relatives import EfficientAttention as EfficientAttention
    from loci.relatives import GlobalContext as GlobalContext
    from loci.retrieval_memory import Retrieval as Retrieval
    from loci.retrieval_memory import RetrievalMemory as RetrievalMemory
    from loci.run_saving import save_run as save_run
    from loci.saved_runs import Run as Run
    from loci.saved_runs import load_run as load_run
    from loci.shifts import ShiftAdamax as ShiftAdamax
    from loci.shifts import ShiftNorm as ShiftNorm
    from loci.shifts import nearest_power as nearest_power
    from loci.slots import CompressToSlots as CompressToSlots
    from loci.slots import SlotMemory as SlotMemory
    from loci.subsets import RandomSequence as RandomSequence
    from loci.subsets import subset_backprop as subset_backprop
    from loci.table import Table as Table
    from loci.tokenizer import Tokenizer as Tokenizer
    from loci.transformer_lm import TransformerLM as TransformerLM
    from loci.usage import Usage as Usage
    from loci.views import PairScore as PairScore
    from loci.views import ViewAttention as ViewAttention
    from loci.views import drop_views as drop_views

__version__ = "0.1.0"

_HOMES = {
    "AdditiveScore": "addressing",
    "BinaryConv2d": "binary",
    "BinaryLinear": "binary",
    "CompressToSlots": "slots",
    "CrissCross": "relatives",
    "EfficientAttention": "relatives",
    "FlatKeyMemory": "memory",
    "GlobalContext": "relatives",
    "Inserted": "insertion",
    "MemoryMap": "memory_map",
    "NeuralRam": "neural_ram",
    "NgramMemory": "ngram",
    "NonLocal1d": "non_local",
    "NonLocal2d": "non_local",
    "NonLocal3d": "non_local",
    "OdeBlock": "ode_block",
    "OdeError": "ode_solver",
    "PackedLinear": "binary",
    "PairScore": "views",
    "PeerMemory": "memory",
    "ProductKeyMemory": "memory",
    "RamModule": "neural_ram",
    "RandomBases": "random_bases",
    "RandomSequence": "subsets",
    "ReadBackground": "finetuning",
    "Reads": "memory_layer",
    "Redrawn": "reinitialisation",
    "ReelConv2d": "reels",
    "ReelLinear": "reels",
    "ReelSGD": "reels",
    "ReelWeight": "reels",
    "Reinitialise": "reinitialisation",
    "Retrieval": "retrieval_memory",
    "RetrievalMemory": "retrieval_memory",
    "Run": "saved_runs",
    "ShiftAdamax": "shifts",
    "ShiftNorm": "shifts",
    "SideMemory": "memory_map",
    "SlotMemory": "slots",
    "StraightThroughSign": "binary",
    "Table": "table",
    "Tokenizer": "tokenizer",
    "TransformerLM": "transformer_lm",
    "Usage": "usage",
    "ViewAttention": "views",
    "address_scores": "addressing",
    "apply_patch": "finetuning",
    "binary_groups": "binary",
    "binary_rate": "binary",
    "calibrate": "calibration",
    "convert": "importers.memories",
    "doctor": "program",
    "drop_views": "views",
    "finetune_rows": "finetuning",
    "insert": "insertion",
    "keep_clipped": "binary",
    "load": "insertion",
    "load_run": "saved_runs",
    "nearest_power": "shifts",
    "odeint": "ode",
    "ops": "library",
    "read_weights": "addressing",
    "remove": "insertion",
    "save": "insertion",
    "save_run": "run_saving",
    "squared_hinge_loss": "binary",
    "straight_through_sign": "binary",
    "subset_backprop": "subsets",
    "write_patch": "finetuning",
}
_MODULES = ("optim", "plots")
__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"loci.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"loci.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'loci' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
