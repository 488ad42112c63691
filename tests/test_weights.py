"""`python -m loci.weights`: random weights in other libraries' layouts give the same numbers here as the formulas of
those libraries (peer_networks.py), and come back unchanged."""

import contextlib
import io
import pickle
import subprocess
import sys
from dataclasses import dataclass

import peer_networks as peers
import pytest
import torch
from command_line import BUILD, ROOT, environment
from loci.weights import main
from safetensors.torch import load_file, save_file

TOOL = BUILD / "tests" / "network_tool"


@dataclass
class Said:
    """What the command says in this process: one of its own takes seconds to import torch."""

    returncode: int
    stdout: str
    stderr: str


def weights(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as end:
            status = end.code
    return Said(status, out.getvalue(), err.getvalue())


def converted(*arguments):
    result = weights(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_refused(result, status, *words):
    assert result.returncode == status, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and result.stdout == "", result.stderr
    for word in words:
        assert word in lines[0]


def output_of(folder, options, state_file, x):
    (folder / "options.toml").write_text(options)
    save_file({"x": x}, folder / "x.safetensors")
    result = subprocess.run(
        [TOOL, folder / "options.toml", state_file, folder / "x.safetensors", folder / "y.safetensors"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return load_file(folder / "y.safetensors")["y"]


def assert_same(got, expected):
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("depth", "width"), [(18, 8), (34, 4), (50, 4), (101, 4)])
def test_torchvision_classifiers(tmp_path, depth, width):
    state = peers.random_state(peers.resnet_shapes(depth, width, 5))
    counters = {"bn1.num_batches_tracked": torch.tensor(7), "layer1.0.bn1.num_batches_tracked": torch.tensor(7)}
    torch.save({**state, **counters}, tmp_path / "theirs.pth")
    model = ("--model", f"resnet{depth}", "--width", width, "--classes", 5)
    said = converted("import", "--from", "torchvision", *model, tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert f"{len(state)} tensors of resnet{depth}" in said
    x = torch.randn(2, 3, 70, 65, generator=torch.Generator().manual_seed(1))
    options = f'kind = "image_resnet"\nclasses = 5\n[image]\ndepth = {depth}\nwidth = {width}\n'
    assert_same(
        output_of(tmp_path, options, tmp_path / "ours.safetensors", x), peers.torchvision_logits(state, x, depth)
    )

    converted("export", "--to", "torchvision", *model, tmp_path / "ours.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == list(state) and all(torch.equal(back[name], state[name]) for name in state)


def test_torchvision_weights_inflate_to_a_video_network(tmp_path):
    """On a clip whose frames are alike, C2D is the image network."""
    state = peers.random_state(peers.resnet_shapes(50, 4, 5))
    save_file(state, tmp_path / "theirs.safetensors")
    converted("import", "--from", "torchvision", "--model", "resnet50", "--width", 4, "--classes", 5,
              tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors")  # fmt: skip
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    options = 'kind = "video_resnet"\nclasses = 5\nwidth = 4\ntime_halvings = 1\n'
    clip = x.unsqueeze(2).expand(-1, -1, 8, -1, -1).contiguous()
    got = output_of(tmp_path, options, tmp_path / "ours.safetensors", clip)
    assert_same(got, peers.torchvision_logits(state, x, 50))


PYRAMID = ("--model", "resnet18_fpn", "--width", 8, "--pyramid-width", 6)


def pyramid_state():
    shapes = peers.resnet_shapes(18, 8, 0, prefix="backbone.body.")
    for level in range(4):
        shapes |= {
            f"backbone.fpn.inner_blocks.{level}.0.weight": (6, 8 << level, 1, 1),
            f"backbone.fpn.inner_blocks.{level}.0.bias": (6,),
            f"backbone.fpn.layer_blocks.{level}.0.weight": (6, 6, 3, 3),
            f"backbone.fpn.layer_blocks.{level}.0.bias": (6,),
        }
    return peers.random_state(shapes)


def test_torchvision_pyramids_of_either_age(tmp_path):
    state = pyramid_state()
    older = {name.replace(".0.weight", ".weight") if "fpn" in name else name: value for name, value in state.items()}
    older = {name.replace(".0.bias", ".bias") if "fpn" in name else name: value for name, value in older.items()}
    assert set(older) != set(state)
    for names in (state, older):
        heads = {"rpn.head.conv.weight": torch.zeros(1), "roi_heads.box_head.fc6.bias": torch.zeros(1)}
        torch.save({**names, **heads}, tmp_path / "theirs.pth")
        said = converted(
            "import", "--from", "torchvision", *PYRAMID, tmp_path / "theirs.pth", tmp_path / "o.safetensors"
        )
        assert "2 of other parts left out" in said
        ours = load_file(tmp_path / "o.safetensors")
        assert set(ours) == set(state) and all(torch.equal(ours[name], state[name]) for name in state)
    converted("export", "--to", "torchvision", *PYRAMID, tmp_path / "o.safetensors", tmp_path / "back.safetensors")
    assert set(load_file(tmp_path / "back.safetensors")) == set(state)


def test_a_classifier_becomes_the_body_of_a_pyramid(tmp_path):
    state = peers.random_state(peers.resnet_shapes(18, 8, 5))
    torch.save(state, tmp_path / "theirs.pth")
    converted("import", "--from", "torchvision", "--model", "resnet18_body", "--width", 8, tmp_path / "theirs.pth",
              tmp_path / "ours.safetensors")  # fmt: skip
    ours = load_file(tmp_path / "ours.safetensors")
    assert set(ours) == {f"backbone.body.{name}" for name in state if not name.startswith("fc.")}


def inflated_kernels(inflation):
    """The release's pattern: all of res2; 0 and 2 of res3; the even ones of res4; 1 of res5."""
    blocks = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (2, 4), (3, 1)]
    return {} if inflation == "none" else {"stem": 5} | {(*b, 0 if inflation == "3x1x1" else 1): 3 for b in blocks}


@pytest.mark.parametrize(("inflation", "word"), [("none", "none"), ("3x1x1", "first"), ("3x3x3", "second")])
def test_mmaction2_networks_with_blocks(tmp_path, inflation, word):
    blocks = {(1, 1), (2, 3)}
    kernels = inflated_kernels(inflation)
    state = peers.random_state(peers.resnet_shapes(50, 4, 5, kernels, blocks, prefix="backbone.", mm=True))
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "theirs.pth")
    model = ("--model", "resnet50_video", "--width", 4, "--classes", 5, "--inflation", inflation, "--after", "res3.1",
             "--after", "res4.3")  # fmt: skip
    converted("import", "--from", "mmaction2", *model, tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    x = torch.randn(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(3))
    options = (
        f'kind = "video_resnet"\nclasses = 5\nwidth = 4\ntime_halvings = 1\ninflation = "{word}"\n'
        'after = ["res3.1", "res4.3"]\n[non_local]\nscale = "none"\npool = "after"\noutput_bias = false\n'
    )
    got = output_of(tmp_path, options, tmp_path / "ours.safetensors", x)
    assert_same(got, peers.mmaction2_logits(state, x, inflation, blocks))

    converted("export", "--to", "mmaction2", *model, "--pooled", tmp_path / "ours.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


def block_options(form, pool, norm, scale, dimensions, bias=True):
    text = (
        f'kind = "non_local"\nchannels = 6\ndimensions = {dimensions}\n[non_local]\nform = "{form}"\npool = "{pool}"\n'
    )
    text += f'norm = "{"batch" if norm else "none"}"\ninner = 4\noutput_bias = {str(bias).lower()}\n'
    return text + (f'scale = "{scale}"\n' if form == "embedded" else "")


def check_block(folder, source, state, arguments, options, dimensions, expected):
    """Into Loci, as a block of its own and of a network; the same numbers; and back."""
    save_file(state, folder / "theirs.safetensors")
    model = ("--model", "non_local", "--channels", 6, "--inner", 4, "--dimensions", dimensions, *arguments)
    converted("import", "--from", source, *model, folder / "theirs.safetensors", folder / "ours.safetensors")
    sizes = (2, 6, 5, 7, 6)[: 2 + dimensions]
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(4))
    assert_same(output_of(folder, options, folder / "ours.safetensors", x), expected(x))
    named = ("--name", "layer3.4.non_local")
    converted("import", "--from", source, *model, *named, folder / "theirs.safetensors", folder / "named.safetensors")
    whole = load_file(folder / "named.safetensors")
    assert set(whole) == {f"layer3.4.non_local.{name}" for name in load_file(folder / "ours.safetensors")}
    save_file({**whole, "conv1.weight": torch.zeros(1)}, folder / "whole.safetensors")
    converted("export", "--to", source, *model, *named, folder / "whole.safetensors", folder / "back.safetensors")
    back = load_file(folder / "back.safetensors")
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("form", ["gaussian", "embedded", "dot", "concat"])
@pytest.mark.parametrize(("pooled", "norm", "dimensions"), [(True, True, 2), (False, False, 3), (True, False, 1)])
def test_blocks_of_mmcv(tmp_path, form, pooled, norm, dimensions):
    state = peers.random_state(peers.mmcv_shapes("", 6, 4, form, dimensions, pooled, norm))
    arguments = ["--form", form, "--norm", "batch" if norm else "none", *(["--pooled"] if pooled else [])]
    options = block_options(form, "after" if pooled else "none", norm, "rsqrt", dimensions, bias=not norm)
    check_block(tmp_path, "mmcv", state, arguments, options, dimensions,
                lambda x: peers.mmcv_block(state, x, "", form, form == "embedded", pooled))  # fmt: skip


@pytest.mark.parametrize("form", ["gaussian", "embedded", "dot", "concat"])
@pytest.mark.parametrize(("pooled", "norm", "dimensions"), [(True, True, 3), (False, False, 2), (True, False, 1)])
def test_blocks_of_alexhex7(tmp_path, form, pooled, norm, dimensions):
    state = peers.random_state(peers.alexhex7_shapes(6, 4, form, dimensions, pooled, norm))
    arguments = ["--form", form, "--norm", "batch" if norm else "none", *(["--pooled"] if pooled else [])]
    options = block_options(form, "after" if pooled else "none", norm, "none", dimensions)
    check_block(tmp_path, "alexhex7", state, arguments, options, dimensions,
                lambda x: peers.alexhex7_block(state, x, form, pooled))  # fmt: skip


@pytest.mark.parametrize("form", ["embedded", "dot"])
@pytest.mark.parametrize("norm", [True, False])
def test_blocks_of_pyslowfast(tmp_path, form, norm):
    state = peers.random_state(peers.pyslowfast_shapes(6, 4, norm))
    arguments = ["--form", form, "--norm", "batch" if norm else "none"]
    options = block_options(form, "before", norm, "rsqrt", 3)
    check_block(tmp_path, "pyslowfast", state, arguments, options, 3, lambda x: peers.pyslowfast_block(state, x, form))


def test_names_of_a_parallel_wrapper_are_read(tmp_path):
    state = peers.random_state(peers.pyslowfast_shapes(6, 4, True))
    renamed = {f"module.{name.replace('bn.', 'norm.')}": value for name, value in state.items()}
    torch.save({"model_state": renamed, "epoch": 1}, tmp_path / "theirs.pyth")
    converted("import", "--from", "pyslowfast", "--model", "non_local", "--channels", 6, "--inner", 4,
              tmp_path / "theirs.pyth", tmp_path / "ours.safetensors")  # fmt: skip
    ours = load_file(tmp_path / "ours.safetensors")
    assert torch.equal(ours["norm_gain"], state["bn.weight"])
    assert torch.equal(ours["theta_weight"], state["conv_theta.weight"].flatten(1))


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


RESNET = ("--from", "torchvision", "--model", "resnet18", "--width", "8", "--classes", "5")


@pytest.fixture(scope="module")
def resnet():
    return peers.random_state(peers.resnet_shapes(18, 8, 5))


def refused(folder, name, *words, model=RESNET):
    result = weights("import", *model, folder / name, folder / "out.safetensors")
    assert_refused(result, 3, name, *words)
    assert not (folder / "out.safetensors").exists()


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"conv1.weight": Hostile(tmp_path / "written")}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"conv1.weight": Hostile(tmp_path / "written")}))
    for name, got in (("zip.pth", "io.open, which is no tensor"), ("plain.pth", "other objects")):
        refused(tmp_path, name, "must be a file of tensors alone", f"got {got}")
    assert not (tmp_path / "written").exists()


def test_damaged_files_are_refused(tmp_path, resnet):
    torch.save(resnet, tmp_path / "whole.pth")
    save_file(resnet, tmp_path / "whole.safetensors")
    for name, kind in (("whole.pth", "tensors alone"), ("whole.safetensors", "a whole safetensors file")):
        data = (tmp_path / name).read_bytes()
        for cut in (0, 3, 100, len(data) // 2, len(data) - 10):
            (tmp_path / f"cut-{name}").write_bytes(data[:cut])
            refused(tmp_path, f"cut-{name}", kind)
    (tmp_path / "text.pth").write_text("no weights")
    refused(tmp_path, "text.pth", "tensors alone")
    for value in ([1, 2], {}, {"state_dict": {"conv1.weight": 3}}, {1: torch.zeros(1)}):
        torch.save(value, tmp_path / "odd.pth")
        refused(tmp_path, "odd.pth", "must hold named tensors")
    refused(tmp_path, "missing.pth", "must be readable, got No such file")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path, "folder.pth", "must be readable")


def test_other_networks_are_refused(tmp_path, resnet):
    def changed(words, **changes):
        state = {**resnet, **changes}
        torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "odd.pth")
        refused(tmp_path, "odd.pth", *words)

    changed(["layer4.1.bn2.weight must be given, got none"], **{"layer4.1.bn2.weight": None})
    changed(["every tensor must belong to the network, got layer5.0"], **{"layer5.0": torch.zeros(1)})
    changed(["conv1.weight must be [8, 3, 7, 7], got [8, 1, 7, 7]"], **{"conv1.weight": torch.zeros(8, 1, 7, 7)})
    changed(["fc.bias must be of a floating type, got int64"], **{"fc.bias": torch.zeros(5, dtype=torch.long)})
    torch.save(resnet, tmp_path / "odd.pth")
    refused(tmp_path, "odd.pth", "layer1.2.conv1.weight and", "must be given, got none",
            model=("--from", "torchvision", "--model", "resnet34", "--width", 8, "--classes", 5))  # fmt: skip
    refused(tmp_path, "odd.pth", "conv_theta.weight", "must be given, got bn1.bias",
            model=("--from", "pyslowfast", "--model", "non_local", "--channels", 6))  # fmt: skip


def test_blocks_have_no_name_in_torchvision(tmp_path, resnet):
    save_file({**resnet, "layer3.0.non_local.theta_weight": torch.zeros(4, 8)}, tmp_path / "ours.safetensors")
    result = weights("export", "--to", *RESNET[1:], tmp_path / "ours.safetensors", tmp_path / "out.pth")
    assert_refused(result, 3, "every tensor must belong to the network, got layer3.0.non_local.theta_weight")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "resnet20"], "--model must be non_local or resnet"),
        (["--model", "resnet18_video"], "--model must be non_local or resnet"),
        (["--model", "resnet50_video"], "--model must be one that torchvision has, got resnet50_video"),
        (["--model", "non_local", "--channels", 6], "--model must be one that torchvision has, got non_local"),
        (["--model", "non_local"], "--channels must be given"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, resnet, arguments, words):
    torch.save(resnet, tmp_path / "in.pth")
    assert_refused(
        weights("import", "--from", "torchvision", *arguments, tmp_path / "in.pth", tmp_path / "o.safetensors"),
        2,
        words,
    )
    ours = weights("import", *RESNET, tmp_path / "in.pth", tmp_path / "out.bin")
    assert_refused(ours, 2, "OUT must end in .safetensors")
    result = weights("import", "--from", "mmaction2", "--model", "resnet50_video", "--after", "res4.6",
                     tmp_path / "in.pth", tmp_path / "o.safetensors")  # fmt: skip
    assert_refused(result, 2, "--after must be a bottleneck from res2.0 to res5.2, got res4.6")


def test_the_command(tmp_path):
    """In a process of its own, warnings of the framework included."""
    (tmp_path / "in.pth").write_bytes(pickle.dumps({"conv1.weight": [Hostile(tmp_path / "written")]}, protocol=4))
    result = subprocess.run(
        [sys.executable, "-m", "loci.weights", "import", *RESNET, tmp_path / "in.pth", tmp_path / "out.safetensors"],
        capture_output=True, text=True, check=False, env=environment(tmp_path, {"PYTHONPATH": str(ROOT / "python")}),
    )  # fmt: skip
    assert_refused(result, 3, "tensors alone", "got other objects")


def test_what_cannot_be_written_is_refused(tmp_path, resnet):
    torch.save(resnet, tmp_path / "in.pth")
    result = weights("import", *RESNET, tmp_path / "in.pth", tmp_path / "nowhere" / "out.safetensors")
    assert_refused(result, 2, "must be writable")
