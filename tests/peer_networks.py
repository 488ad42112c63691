"""Networks of other libraries from their formulas, as functions of a state under those libraries' names, and random
states in their layouts."""

import itertools
import math

import torch
from torch.nn import functional

COUNTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def random_state(shapes, seed=0):
    """Weights that keep numbers of order 1 through a network; norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        draw = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 0.5 + draw.abs()
        elif len(shape) > 1:
            state[name] = draw * math.sqrt(1.5 / math.prod(shape[1:]))
        elif name.endswith("weight"):
            state[name] = 1 + 0.2 * draw
        else:
            state[name] = 0.2 * draw
    return state


def norm_shapes(name, channels):
    return {f"{name}.{word}": (channels,) for word in ("weight", "bias", "running_mean", "running_var")}


def resnet_shapes(depth, width, classes, video=None, blocks=(), prefix="", mm=False):
    """`video`: kernels over frames by (stage, block, i); stem by "stem". `mm`: mmaction2's names."""

    def conv(name, outputs, inputs, kernel, frames):
        module, norm = (f"{name}.conv", f"{name}.bn") if mm else (name, name.replace("conv", "bn"))
        if "downsample" in name and not mm:
            module, norm = f"{name}.0", f"{name}.1"
        time = () if video is None else (frames,)
        return {f"{module}.weight": (outputs, inputs, *time, kernel, kernel)} | norm_shapes(norm, outputs)

    frames_of = lambda key: (video or {}).get(key, 1)  # noqa: E731
    shapes = conv(f"{prefix}conv1", width, 3, 7, frames_of("stem"))
    inputs = width
    for stage, count in enumerate(COUNTS[depth]):
        inner = width << stage
        outputs = inner * (4 if depth >= 50 else 1)
        for block in range(count):
            name = f"{prefix}layer{stage + 1}.{block}"
            kernels = (1, 3, 1) if depth >= 50 else (3, 3)
            channels = [inputs, *[inner] * (len(kernels) - 1), outputs]
            for i, kernel in enumerate(kernels):
                frames = frames_of((stage, block, i))
                shapes |= conv(f"{name}.conv{i + 1}", channels[i + 1], channels[i], kernel, frames)
            if block == 0 and inputs != outputs:
                shapes |= conv(f"{name}.downsample", outputs, inputs, 1, 1)
            inputs = outputs
            if (stage, block) in blocks:
                shapes |= mmcv_shapes(f"{name}.non_local_block.", outputs, outputs // 2, "embedded", 3, True, True)
    head = "cls_head.fc_cls" if mm else f"{prefix}fc"
    return shapes | ({f"{head}.weight": (classes, inputs), f"{head}.bias": (classes,)} if classes else {})


def normed(state, name, x):
    words = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(x, *(state[f"{name}.{word}"] for word in words), training=False, eps=1e-5)


def torchvision_maps(state, x, depth, prefix=""):
    """The maps of the four stages."""
    x = functional.conv2d(x, state[f"{prefix}conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(functional.relu(normed(state, f"{prefix}bn1", x)), 3, 2, 1)
    maps = []
    for stage, count in enumerate(COUNTS[depth]):
        for block in range(count):
            name = f"{prefix}layer{stage + 1}.{block}"
            layers = 3 if depth >= 50 else 2
            strided = 2 if depth >= 50 else 1  # the 3x3
            y = x
            for i in range(1, layers + 1):
                weight = state[f"{name}.conv{i}.weight"]
                stride = 2 if stage > 0 and block == 0 and i == strided else 1
                y = normed(state, f"{name}.bn{i}", functional.conv2d(y, weight, None, stride, weight.shape[-1] // 2))
                y = functional.relu(y) if i < layers else y
            if f"{name}.downsample.0.weight" in state:
                weight = state[f"{name}.downsample.0.weight"]
                x = normed(state, f"{name}.downsample.1", functional.conv2d(x, weight, None, 2 if stage > 0 else 1))
            x = functional.relu(y + x)
        maps.append(x)
    return maps


def torchvision_logits(state, x, depth):
    return functional.linear(torchvision_maps(state, x, depth)[-1].mean((2, 3)), state["fc.weight"], state["fc.bias"])


def pyramid_maps(state, maps, fpn="backbone.fpn."):
    """From the finest to the coarsest."""
    result, above = [], None
    for level in reversed(range(4)):

        def conv(x, part, padding, level=level):
            name = f"{fpn}{part}.{level}.0"
            return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

        inner = conv(maps[level], "inner_blocks", 0)
        if above is not None:
            inner = inner + functional.interpolate(above, size=inner.shape[-2:], mode="nearest")
        result.insert(0, conv(inner, "layer_blocks", 1))
        above = inner
    return result


def mmaction2_logits(state, x, inflation, blocks):
    """ResNet-50 over 8 frames that conv1 and pool1 leave as they are; pool2 joins two."""

    def conv(name, x, stride=(1, 1, 1)):
        weight = state[f"{name}.conv.weight"]
        padding = tuple(edge // 2 for edge in weight.shape[2:])
        return normed(state, f"{name}.bn", functional.conv3d(x, weight, None, stride, padding))

    x = functional.relu(conv("backbone.conv1", x, (1, 2, 2)))
    x = functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage, count in enumerate(COUNTS[50]):
        for block in range(count):
            name = f"backbone.layer{stage + 1}.{block}"
            stride = (1, 2, 2) if stage > 0 and block == 0 else (1, 1, 1)
            y = functional.relu(conv(f"{name}.conv1", x))
            y = conv(f"{name}.conv3", functional.relu(conv(f"{name}.conv2", y, stride)))
            if block == 0:
                x = conv(f"{name}.downsample", x, stride)
            x = functional.relu(y + x)
            if (stage, block) in blocks:
                x = mmcv_block(state, x, f"{name}.non_local_block.", "embedded", scaled=False, pooled=True)
        if stage == 0:
            x = functional.max_pool3d(x, (2, 1, 1), (2, 1, 1))
    return functional.linear(x.mean((2, 3, 4)), state["cls_head.fc_cls.weight"], state["cls_head.fc_cls.bias"])


def mmcv_shapes(prefix, channels, inner, form, dimensions, pooled, norm):
    ones = (1,) * dimensions
    shapes = {}
    for role in ("theta", "phi", "g"):
        if role != "g" and form == "gaussian":
            continue
        name = f"{prefix}{role}" + (".0" if pooled and role != "theta" else "") + ".conv"
        shapes |= {f"{name}.weight": (inner, channels, *ones), f"{name}.bias": (inner,)}
    if form == "concat":
        shapes[f"{prefix}concat_project.conv.weight"] = (1, 2 * inner, 1, 1)
    shapes[f"{prefix}conv_out.conv.weight"] = (channels, inner, *ones)
    return shapes | (
        norm_shapes(f"{prefix}conv_out.bn", channels) if norm else {f"{prefix}conv_out.conv.bias": (channels,)}
    )


def convolve(x, weight, bias):
    return (functional.conv1d, functional.conv2d, functional.conv3d)[x.dim() - 3](x, weight, bias)


def pool_space(x):
    if x.dim() == 3:
        return functional.max_pool1d(x, 2)
    return functional.max_pool2d(x, 2) if x.dim() == 4 else functional.max_pool3d(x, (1, 2, 2))


def non_local_sum(theta, phi, g, form, scaled, concat=None):
    """y of maps theta [B, I, ...] and keys phi, g [B, I, ...]."""
    shape = (g.shape[0], g.shape[1], *theta.shape[2:])
    theta, phi, g = theta.flatten(2), phi.flatten(2), g.flatten(2).transpose(1, 2)
    n, m = theta.shape[2], phi.shape[2]
    if form == "concat":
        pairs = torch.cat((theta.unsqueeze(3).expand(-1, -1, n, m), phi.unsqueeze(2).expand(-1, -1, n, m)), 1)
        f = functional.relu(functional.conv2d(pairs, concat)).squeeze(1) / m
    else:
        f = theta.transpose(1, 2) @ phi
        f = f / math.sqrt(theta.shape[1]) if scaled else f
        f = f / m if form == "dot" else f.softmax(-1)
    return (f @ g).transpose(1, 2).reshape(shape)


def mmcv_block(state, x, prefix, form, scaled, pooled):
    def embed(role):
        pool = pooled and role != "theta"
        if form == "gaussian" and role != "g":
            return pool_space(x) if pool else x
        name = f"{prefix}{role}" + (".0" if pool else "") + ".conv"
        y = convolve(x, state[f"{name}.weight"], state[f"{name}.bias"])
        return pool_space(y) if pool else y

    y = non_local_sum(
        *map(embed, ("theta", "phi", "g")), form, scaled, state.get(f"{prefix}concat_project.conv.weight")
    )
    z = convolve(y, state[f"{prefix}conv_out.conv.weight"], state.get(f"{prefix}conv_out.conv.bias"))
    return x + (normed(state, f"{prefix}conv_out.bn", z) if f"{prefix}conv_out.bn.weight" in state else z)


def alexhex7_shapes(channels, inner, form, dimensions, pooled, norm):
    ones, sub = (1,) * dimensions, ".0" if pooled else ""
    embedding = {"theta": "theta", "phi": f"phi{sub}", "g": f"g{sub}"}
    shapes = {}
    for role, name in embedding.items():
        if role == "g" or form != "gaussian":
            shapes |= {f"{name}.weight": (inner, channels, *ones), f"{name}.bias": (inner,)}
    if form == "concat":
        shapes["concat_project.0.weight"] = (1, 2 * inner, 1, 1)
    out = "W.0" if norm else "W"
    shapes |= {f"{out}.weight": (channels, inner, *ones), f"{out}.bias": (channels,)}
    return shapes | (norm_shapes("W.1", channels) if norm else {})


def alexhex7_block(state, x, form, pooled):
    def embed(role):
        name = f"{role}.0" if pooled and role != "theta" else role
        y = x if form == "gaussian" and role != "g" else convolve(x, state[f"{name}.weight"], state[f"{name}.bias"])
        return pool_space(y) if pooled and role != "theta" else y

    y = non_local_sum(*map(embed, ("theta", "phi", "g")), form, False, state.get("concat_project.0.weight"))
    out = "W.0" if "W.0.weight" in state else "W"
    z = convolve(y, state[f"{out}.weight"], state[f"{out}.bias"])
    return x + (normed(state, "W.1", z) if "W.1.weight" in state else z)


def pyslowfast_shapes(channels, inner, norm):
    ones = (1, 1, 1)
    names = {"conv_theta": (inner, channels), "conv_phi": (inner, channels), "conv_g": (inner, channels),
             "conv_out": (channels, inner)}  # fmt: skip
    shapes = dict(
        itertools.chain.from_iterable(
            ((f"{name}.weight", (*shape, *ones)), (f"{name}.bias", shape[:1])) for name, shape in names.items()
        )
    )
    return shapes | (norm_shapes("bn", channels) if norm else {})


def pyslowfast_block(state, x, form):
    pooled = pool_space(x)
    maps = (convolve(m, state[f"conv_{r}.weight"], state[f"conv_{r}.bias"])
            for r, m in (("theta", x), ("phi", pooled), ("g", pooled)))  # fmt: skip
    y = non_local_sum(*maps, form, form == "embedded")
    z = convolve(y, state["conv_out.weight"], state["conv_out.bias"])
    return x + (normed(state, "bn", z) if "bn.weight" in state else z)
