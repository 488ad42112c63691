"""Our safetensors files against the Python package, both ways, in every dtype that both know."""

import json
import struct
import subprocess

import pytest
import torch
from command_line import BUILD
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file

TOOL = BUILD / "tests" / "safetensors_tool"

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2,
    torch.float8_e5m2fnuz, torch.uint16, torch.int16, torch.float16, torch.bfloat16, torch.uint32, torch.int32,
    torch.float32, torch.uint64, torch.int64, torch.float64, torch.complex64, torch.float8_e8m0fnu,
]  # fmt: skip

# Bits of an element, by the names of the format's reference.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def tool(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def copy(source, target):
    result = tool("copy", source, target)
    assert result.returncode == 0, result.stderr


def tensor(dtype, shape):
    size = torch.empty(shape, dtype=dtype).nbytes
    generator = torch.Generator().manual_seed(size)
    data = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape)


def equal_bits(a, b):
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def every_dtype():
    tensors = {f"t/{dtype}": tensor(dtype, (3, 2)) for dtype in DTYPES}
    tensors["scalar"] = torch.tensor(7)
    tensors["empty"] = torch.empty(0, 5)
    tensors['name é " \n'] = torch.arange(3)
    return tensors


def test_what_python_writes_comes_back_equal_through_our_reader_and_writer(tmp_path):
    tensors, metadata = every_dtype(), {"format": "pt", 'é "': "\n"}
    save_file(tensors, tmp_path / "python", metadata)
    copy(tmp_path / "python", tmp_path / "ours")
    loaded = load_file(tmp_path / "ours")
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert equal_bits(loaded[name], value), name
    with safe_open(tmp_path / "ours", "pt") as file:
        assert file.metadata() == metadata
    copy(tmp_path / "ours", tmp_path / "again")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "again").read_bytes()


def test_our_listing_agrees_with_python(tmp_path):
    tensors = every_dtype()
    save_file(tensors, tmp_path / "f", {"a": "b"})
    *lines, metadata = tool("list", tmp_path / "f").stdout.splitlines()
    listed = {entry["name"]: entry for entry in map(json.loads, lines)}
    assert listed.keys() == tensors.keys()
    for name, value in tensors.items():
        assert listed[name]["shape"] == list(value.shape)
        assert listed[name]["sum"] == value.reshape(-1).view(torch.uint8).sum(dtype=torch.int64).item()
    assert json.loads(metadata) == {"a": "b"}


def write_header(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_every_dtype_of_the_reference_and_unknown_ones_are_listed(tmp_path):
    header, end = {}, 0
    for name, bits in BITS.items():
        header[name] = {"dtype": name, "shape": [2, 4], "data_offsets": [end, end + bits]}
        end += bits
    write_header(tmp_path / "f", header, bytes(end))
    with safe_open(tmp_path / "f", "pt") as file:
        assert set(file.keys()) == set(BITS)
    header["later"] = {"dtype": "F128", "shape": [1], "data_offsets": [end, end + 16]}
    write_header(tmp_path / "g", header, bytes(end + 16))
    for path, names in ((tmp_path / "f", set(BITS)), (tmp_path / "g", {*BITS, "later"})):
        result = tool("list", path)
        assert result.returncode == 0, result.stderr
        listed = {entry["name"]: entry["dtype"] for entry in map(json.loads, result.stdout.splitlines()[:-1])}
        assert listed == {name: header[name]["dtype"] for name in names}


def test_the_first_tensor_can_be_mapped(tmp_path):
    save_file({"table": torch.ones(3, 3)}, tmp_path / "python")
    copy(tmp_path / "python", tmp_path / "ours")
    assert (tmp_path / "ours").stat().st_size == 4096 + 36
    assert load_file(tmp_path / "ours")["table"].data_ptr() % 4096 == 0


def test_a_misaligned_tensor_is_read(tmp_path):
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    write_header(tmp_path / "f", header, b"\x01" + struct.pack("<f", 1.5))
    copy(tmp_path / "f", tmp_path / "g")
    assert load_file(tmp_path / "g")["b"].item() == 1.5


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x02" + bytes(7) + b"{}x", b"PK\x03\x04" + bytes(60)])
def test_a_bad_file_is_one_line_and_exit_code_3(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    result = tool("list", tmp_path / "f")
    assert result.returncode == 3
    assert len(result.stderr.splitlines()) == 1 and str(tmp_path / "f") in result.stderr
    with pytest.raises(SafetensorError):
        load_file(tmp_path / "f")


GOOD = save({"a": torch.arange(3, dtype=torch.int16), "b": torch.ones(2, 1)}, {"k": "v"})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_what_we_accept_python_accepts(tmp_path_factory, changes):
    content = bytearray(GOOD)
    for position, byte in changes:
        content[position] = byte
    path = tmp_path_factory.mktemp("mutated") / "f"
    path.write_bytes(content)
    result = tool("list", path)
    assert result.returncode in (0, 3), result.stderr
    if result.returncode == 0:
        dtypes = {entry["dtype"] for entry in map(json.loads, result.stdout.splitlines()[:-1])}
        if dtypes <= set(BITS):  # we list what a later version may know
            load_file(path)
