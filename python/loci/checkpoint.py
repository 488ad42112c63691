"""Folders of checkpoints (loci/train/checkpoint_folder.h): found, read and written by the code of the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loci.importers.files import read_state, write_state
from loci.library import classes
from loci.run_files import CONFIG, MODEL, TASK, step_of, table_file
from loci.table import Table, check_whole

SUM_LIMIT = 4 << 30  # bytes: of a larger file, which only a table's is, the size alone is checked, as by `loci eval`
# Files of a checkpoint that are written anew, or that only training needs.
REPLACED = re.compile(rf"{re.escape(MODEL)}|{re.escape(TASK)}|(table|optimizer|counters)\..*")


class Checkpoint:
    """A complete step-N folder: the sizes and sums of its files were compared with the manifest."""

    def __init__(self, folder: Path, newest: bool):
        self.object = classes.Checkpoint(str(folder), newest, SUM_LIMIT)
        self.folder = Path(self.object.path())
        self.step = int(self.object.step())
        self.manifest: dict[str, Any] = json.loads(self.object.manifest())
        self.damaged: list[str] = list(self.object.damaged())

    @property
    def run(self) -> Path:
        return self.folder.parent

    def has(self, name: str) -> bool:
        return name in self.manifest["files"]

    def file(self, name: str) -> Path:
        """ValueError for one that the manifest does not list."""
        return Path(self.object.file(name))

    def tables(self) -> list[str]:
        listed = self.manifest.get("tables")
        return list(listed) if isinstance(listed, dict) else []

    def table_files(self, table: str) -> list[Path]:
        """The bases of a table, in the order of rows: one for each process that wrote it. ValueError for none."""
        try:
            entry = self.manifest["tables"][table]
            names = [str(part["base"]) for part in entry["parts"]] if "parts" in entry else [str(entry["base"])]
        except (KeyError, TypeError):
            names = [table_file(table)]
        return [self.file(name) for name in names]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers. ValueError for a file that is no safetensors file."""
        return read_state(self.file(MODEL))

    def load_tables(self, tables: Sequence[Table]) -> None:
        """Their rows, as they were when the checkpoint was written. ValueError unless these are its tables."""
        self.object.load_tables([table.object for table in tables])


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """`path`: a run directory (its newest whole checkpoint), a step-N folder, or a folder with one run in it.

    Raises ValueError where there is no checkpoint, for a damaged one, and where several runs could be meant."""
    given = Path(path)
    if not given.is_dir():
        got = "a file" if given.exists() else "nothing there"
        raise ValueError(f"{given}: RUN must be a run directory or one of its step-N folders, got {got}")
    folder = given.resolve()
    if is_run(folder):
        return Checkpoint(folder, newest=True)
    if is_run(folder.parent) and step_of(folder) is not None:
        return Checkpoint(folder, newest=False)
    runs = sorted(config.parent for config in folder.glob(f"*/*/{CONFIG}"))
    if len(runs) != 1:
        got = f"{len(runs)} of them, {runs[0]} for instance" if runs else "neither"
        raise ValueError(f"{given}: RUN must be a run directory, one of its step-N folders, or hold one run, got {got}")
    return Checkpoint(runs[0], newest=True)


def is_run(folder: Path) -> bool:
    """A run has a configuration; memories without a model (loci.save_run) have checkpoints alone."""
    return (folder / CONFIG).is_file() or any(step_of(one) is not None for one in folder.glob("step-*"))


def write_checkpoint(
    path: Path,
    step: int,
    state: Mapping[str, Tensor],
    tables: Mapping[str, Table],
    *,
    kept: Checkpoint | None = None,
    files: Mapping[str, bytes] | None = None,
    config: str | None = None,
) -> Path:
    """A new run directory with one checkpoint, or nothing of it. Returns the step-N folder.

    kept: the checkpoint whose other files and facts it goes on with. files: more of them.
    Raises ValueError for a folder that exists, RuntimeError and OSError where disk or memory are too small."""
    check_whole("save_run", tables.values())
    if os.path.lexists(path):
        raise ValueError(f"save_run: path must be a new folder, got {path}, which exists")
    path.mkdir(parents=True)
    try:
        writer = classes.CheckpointWriter(str(path), step)
        facts: dict[str, Any] = {}
        if kept is not None:
            facts = {key: value for key, value in kept.manifest.items() if key not in OF_THE_WRITER}
            others = [name for name in kept.manifest["files"] if REPLACED.fullmatch(name) is None]
            if not writer.link(kept.object, others):
                raise ValueError(f"save_run: {kept.folder} must stay as it was opened, got other files")
        for name, content in (files or {}).items():
            Path(writer.file(name)).write_bytes(content)
        write_state(Path(writer.file(MODEL)), dict(state), pickled=False)
        for name, table in tables.items():
            writer.write_table(table.object, name)
        writer.finish(json.dumps(facts | {"converted": "python"}))
        if config is not None:
            (path / CONFIG).write_text(config, encoding="utf-8")
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return path / f"step-{step}"


# Members of a manifest that the writer gives, or that only training needs.
OF_THE_WRITER = ("format", "step", "files", "sum", "tables", "trainer", "converted")


def dense_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers without the rows of tables: those of the module itself, not copies."""
    rows = {
        f"{name}.{key}" if name else key
        for name, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, Table)
        for key in ("values", "scale")
    }
    return {key: value for key, value in module.state_dict().items() if key not in rows}


def load_dense(module: nn.Module, state: Mapping[str, Tensor], who: str) -> None:
    """Copies a state whose names and shapes must be the module's. ValueError otherwise, and nothing is copied."""
    own = dense_state(module)
    for name, tensor in own.items():
        if name not in state:
            raise ValueError(f"{who}: the file must hold {name}, got none of that name")
        if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
            raise ValueError(f"{who}: {name} must be {_shown(tensor)}, got {_shown(state[name])}")
    if unknown := [name for name in state if name not in own]:
        raise ValueError(f"{who}: every tensor must belong to the model, got {unknown[0]}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def written_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As checkpoints hold it, in float32. ValueError for float64, whose digits would be lost."""
    for name, tensor in state.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            got = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"save_run: {name} must be float32, bfloat16 or float16, got {got}")
    return {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in state.items()}


def toml_text(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Sections of plain values as TOML; that of the name "" stands first."""
    lines: list[str] = []
    for section, values in sections.items():
        lines += [""] * bool(lines) + [f"[{section}]"] * bool(section)
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(one) for one in value)}]"
    # JSON writes whole and real numbers, words and truth values as TOML does.
    write: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    return write(value)
