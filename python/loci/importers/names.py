"""The names of parts (networks.py): a table for each library and kind of network.

A template is the name of a module; its tensors are MODULE.weight, MODULE.bias and so on, unless the table has words of
its own. Of several templates one is found in a state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Templates = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Names:
    templates: Templates
    words: dict[str, dict[str, str]] = field(default_factory=dict)  # by role: another last word of a tensor's name
    matrices: bool = False  # embeddings of blocks are matrices, not kernels of one position
    elsewhere: tuple[str, ...] = ()  # beginnings of names that belong to other parts of a larger network

    def name(self, template: str, role: str, where: dict[str, int], word: str) -> str:
        module = template.format(**where)
        own = self.words.get(role, {}).get(word, word)
        return f"{module}.{own}" if module else own

    def written(self, role: str, pooled: bool, has_norm: bool) -> str:
        """The template that a state is written with. `pooled`: max pooling follows phi and g."""
        templates = self.templates[role]
        inside = (role == "block_output" and has_norm) or (role in ("phi", "g") and pooled)
        return templates[-1] if inside else templates[0]


def prefixed(prefix: str, templates: Templates) -> Templates:
    return {role: tuple(prefix + name for name in names) for role, names in templates.items()}


BLOCK_ROLES = ("theta", "phi", "g", "concat", "block_output", "block_norm")
RESIDUAL: Templates = {
    "stem": ("conv1",),
    "stem_norm": ("bn1",),
    "convolution": ("layer{stage}.{block}.conv{i}",),
    "norm": ("layer{stage}.{block}.bn{i}",),
    "shortcut": ("layer{stage}.{block}.downsample.0",),
    "shortcut_norm": ("layer{stage}.{block}.downsample.1",),
    "classifier": ("fc",),
}
# torchvision up to 0.12 had no ".0" here.
PYRAMID: Templates = {
    "lateral": ("fpn.inner_blocks.{level}.0", "fpn.inner_blocks.{level}"),
    "output": ("fpn.layer_blocks.{level}.0", "fpn.layer_blocks.{level}"),
}
DETECTOR = prefixed("backbone.body.", RESIDUAL) | prefixed("backbone.", PYRAMID)
MMCV_BLOCK: Templates = {
    "theta": ("theta.conv",),
    "phi": ("phi.conv", "phi.0.conv"),
    "g": ("g.conv", "g.0.conv"),
    "concat": ("concat_project.conv",),
    "block_output": ("conv_out.conv",),
    "block_norm": ("conv_out.bn",),
}
MMACTION2: Templates = {
    **prefixed(
        "backbone.",
        {
            "stem": ("conv1.conv",),
            "stem_norm": ("conv1.bn",),
            "convolution": ("layer{stage}.{block}.conv{i}.conv",),
            "norm": ("layer{stage}.{block}.conv{i}.bn",),
            "shortcut": ("layer{stage}.{block}.downsample.conv",),
            "shortcut_norm": ("layer{stage}.{block}.downsample.bn",),
            **prefixed("layer{stage}.{block}.non_local_block.", MMCV_BLOCK),
        },
    ),
    "classifier": ("cls_head.fc_cls",),
}
ALEXHEX7: Templates = {
    "theta": ("theta",),
    "phi": ("phi", "phi.0"),
    "g": ("g", "g.0"),
    "concat": ("concat_project.0",),
    "block_output": ("W", "W.0"),
    "block_norm": ("W.1",),
}
PYSLOWFAST: Templates = {
    "theta": ("conv_theta",),
    "phi": ("conv_phi",),
    "g": ("conv_g",),
    "block_output": ("conv_out",),
    "block_norm": ("bn", "norm"),
}

# A block of Loci has its tensors in one module.
BLOCK_WORDS = {
    **{role: {"weight": f"{role}_weight", "bias": f"{role}_bias"} for role in ("theta", "phi", "g", "concat")},
    "block_output": {"weight": "output_weight", "bias": "output_bias"},
    "block_norm": {"weight": "norm_gain", "bias": "norm_bias", "running_var": "running_variance"},
}
LOCI = {
    "image": Names(RESIDUAL),
    "body": Names(prefixed("backbone.body.", RESIDUAL), elsewhere=("backbone.fpn.", "head.")),
    "pyramid": Names(DETECTOR, elsewhere=("head.",)),
    "video": Names(
        RESIDUAL | {role: ("non_local.res{res}_{block}",) for role in BLOCK_ROLES}, BLOCK_WORDS, matrices=True
    ),
    "block": Names({role: ("",) for role in BLOCK_ROLES}, BLOCK_WORDS, matrices=True),
}
SOURCES = {
    "torchvision": {
        "image": Names(RESIDUAL),
        "body": Names(RESIDUAL, elsewhere=("fc.",)),
        "pyramid": Names(DETECTOR, elsewhere=("rpn.", "roi_heads.")),
    },
    "mmaction2": {"video": Names(MMACTION2)},
    "mmcv": {"block": Names(MMCV_BLOCK)},
    "alexhex7": {"block": Names(ALEXHEX7)},
    "pyslowfast": {"block": Names(PYSLOWFAST)},
}
