"""States that are no memory of a known library, or one that Loci has not, are one line."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_cases import (
    D,
    H,
    K,
    N,
    State,
    W,
    drawn,
    lucidrains,
    memory_plus,
    meta,
    norm_state,
    peer,
    run,
    xlm_hidden,
    xlm_notebook,
)
from loci.importers.networks import WeightsError
from safetensors.torch import save_file

import loci


def changed(make: Any, **changes: Any) -> State:
    state: State = make()[0]
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    return state


# A state, and what its refusal must say.
REFUSED: dict[str, tuple[Any, str]] = {
    "concatenated heads": (lambda: changed(lucidrains, maybe_concat_combine__2__weight=drawn(D, 12)),
                           r"must not need heads that are concatenated.*got maybe_concat_combine\.2\.weight"),
    "permuted heads": (lambda: changed(xlm_notebook, head_permutations=drawn(3)), "heads with permuted sub-keys"),
    "a gate": (lambda: changed(meta, gating__weight=drawn(1, D)), r"a gate of the output.*got gating\.weight"),
    "a Tucker core": (lambda: changed(memory_plus, **{"tucker_core.0": drawn(H, 2, 2)}), "scores by a Tucker core"),
    "one vector of a Tucker core": (lambda: changed(memory_plus, tucker_core_u=drawn(1, H, 1, 2)), "by a Tucker core"),
    "shuffled rows": (lambda: changed(memory_plus, transformer__shuffle_index=drawn(4)), "must not need shuffled rows"),
    "rows before a projection": (lambda: changed(memory_plus, transformer__pre_values_proj__weight=drawn(4, 4)),
                                 "a projection of rows before they are read"),
    "keys of ranks": (lambda: changed(xlm_notebook, keys=drawn(H, 2, N, W, 2)), "keys of several ranks"),
    "experts of heads": (lambda: changed(peer, weight_down_embed__weight=drawn(H * N * N, D)),
                         r"experts of each head .* got weight_down_embed\.weight"),
    "a bias of the gate": (lambda: changed(meta, swilu_projection__bias=drawn(6)), "a bias of the gate"),
    "batch norm inside": (lambda: changed(xlm_hidden, **norm_state("query_proj.query_mlps.1", 7)),
                          r"batch norm between the linear maps of its queries, got query_proj\.query_mlps\.1"),
    "a net for each head": (lambda: {name.replace("mlps.0.", "mlps.0.0."): tensor
                                     for name, tensor in xlm_hidden()[0].items()}, "a query net for each head"),
    "a batch norm that does not fit": (lambda: changed(lambda: lucidrains("none"), **norm_state("norm.fn", W)),
                                       r"norm\.fn\.weight must be \[24\], got \[4\]"),
    "no memory": (lambda: {"weight": drawn(3)}, "a memory must have keys, got no tensor of that name among 1"),
    "other queries": (lambda: {"keys": drawn(3)}, r"keys must come with the queries of xlm, .*got no such name"),
    "something more": (lambda: changed(meta, other__weight=drawn(2)), r"must belong to a memory of meta, got other"),
    "no values": (lambda: changed(meta, values__weight=None), r"values\.weight must be given with 25 rows, got none"),
    "no shared values": (lambda: changed(memory_plus, transformer__full_memory_layer__values_for_look_up=None),
                         r"full_memory_layer\.values_for_look_up must be given, got none"),
    "too few rows": (lambda: changed(meta, values__weight=drawn(24, 6)), r"must be \[25, 6\], got \[24, 6\]"),
    "values of one dimension": (lambda: changed(meta, values__weight=drawn(25)), r"values\.weight must be \[25, 0\]"),
    "whole numbers": (lambda: changed(meta, values__weight=torch.ones(25, 6, dtype=torch.int64)),
                      r"values\.weight must be of a floating type, got int64"),
    "whole keys": (lambda: changed(meta, keys=torch.ones(30, 4, dtype=torch.int32)), "keys must be of a floating type"),
    "flat keys here": (lambda: changed(lucidrains, keys=drawn(H, N, 8)), r"keys must be \[H, n, 2, w\], got \[3, 5"),
    "keys of one half": (lambda: changed(xlm_notebook, keys=drawn(H, 1, N, W)), r"keys must be \[3, 2, 5, 4\], got"),
    "keys for other queries": (lambda: changed(xlm_notebook, keys=drawn(H, 2, N, 5)), "for 24 features of queries"),
    "keys of Meta for other queries": (lambda: changed(meta, keys=drawn(31, W)), r"\[2 \* heads \* n, w\] for 24 feat"),
    "empty keys of Meta": (lambda: changed(meta, keys=drawn(0, 0)), r"keys must be \[2 \* heads \* n, w\] for 24"),
    "a bias of another width": (lambda: changed(meta, query_proj__query_mlps__0__bias=drawn(5)), r"\[24\], got \[5\]"),
    "maps that do not fit": (lambda: changed(xlm_hidden, query_proj__query_mlps__2__weight=drawn(24, 6)),
                             r"query_mlps\.2\.weight must be \[24, 7\], got \[24, 6\]"),
    "a map without a weight": (lambda: changed(xlm_hidden, query_proj__query_mlps__0__weight=None),
                               r"query_mlps\.0\.weight must be given, got none"),
    "a norm first": (lambda: changed(xlm_hidden, query_proj__query_mlps__0__weight=drawn(7)),
                     r"query_mlps\.0\.weight must be \[out, in\], got \[7\]"),
    "a norm without its mean": (lambda: changed(xlm_notebook, query_proj__1__running_mean=None),
                                r"query_proj\.1\.running_mean must be given, got none"),
    "an output map of another width": (lambda: changed(meta, value_proj__weight=drawn(D, 5)), r"\[10, 6\], got \[10"),
    "experts of two sizes": (lambda: changed(peer, weight_up_embed__weight=drawn(16, D)), r"\[25, 10\], got \[16"),
    "no tensors": (lambda: {"keys": 3}, "it must hold named tensors, got 'keys': int"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(WeightsError, match=message) as caught:
        loci.convert(make(), top_k=K, weight="softmax")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("state_dict: ")


def test_what_no_file_says_must_be_given() -> None:
    for make, origin in ((lucidrains, "product-key-memory"), (peer, "peer-pytorch")):
        with pytest.raises(ValueError, match=f"weight must be given for {origin}, whose files do not say it, got none"):
            loci.convert(make()[0], top_k=K)
    with pytest.raises(ValueError, match="weight must be one of softmax, relu, sigmoid, got 'max'"):
        loci.convert(meta()[0], top_k=K, weight="max")
    with pytest.raises(ValueError, match=r"top_k must be within 1 \.\. 25"):
        loci.convert(meta()[0], top_k=26)


def test_files_and_folders_that_are_none(tmp_path: Path) -> None:
    state, _ = meta()
    (tmp_path / "empty").mkdir()
    for name, files in (("two", ["a.pth", "b.pt"]), ("parts", ["__0_0.distcp", ".metadata"])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    torch.save({"keys": collections.Counter("code")}, tmp_path / "code.pt")
    for name, message in (("empty", "hold one consolidated checkpoint .*, got none"), ("two", "got 2 of them"),
                          ("parts", r"got parts of one: __0_0\.distcp"), ("cut.safetensors", "whole safetensors file"),
                          ("code.pt", "the file must hold named tensors|tensors alone")):  # fmt: skip
        with pytest.raises(WeightsError, match=message) as caught:
            loci.convert(tmp_path / name, top_k=K)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        loci.convert(tmp_path / "nothing.pt", top_k=K)
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "consolidated").mkdir()
    torch.save({"model": state}, tmp_path / "step" / "consolidated" / "consolidated.pth")
    assert loci.convert(tmp_path / "step", top_k=K).heads == H


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    save_file(meta()[0], tmp_path / "in.safetensors")
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    good = [tmp_path / "in.safetensors", "--out", tmp_path / "out", "--top-k"]
    cases = [
        ([*good, "26"], 2, "top_k must be within"),
        ([tmp_path / "no.pt", *good[1:], 4], 3, "IN must be readable, got No such file or directory"),
        ([tmp_path / "file", *good[1:], 4], 3, "the file must be"),
        ([good[0], "--out", tmp_path / "there", "--top-k", 4], 2, "path must be a new folder"),
        ([good[0], "--out", tmp_path / "file" / "out", "--top-k", 4], 2, "the folder must be writable, got Not a dir"),
    ]
    for arguments, status, message in cases:
        result = run(*arguments)
        assert result.returncode == status and message in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert not (tmp_path / "out").exists()
