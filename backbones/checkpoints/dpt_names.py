"""Published DPT and Depth Anything checkpoints, in the layouts of their authors and of Hugging Face, under our names.

A layout is a list of rules ``(pattern, replacement)``; the first pattern that matches a key's front renames it. What no
model uses is named in `UNUSED` and left out. Every other key must fit, both ways.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection

import torch

_log = logging.getLogger("mixerzoo")

Rules = list[tuple[str, str]]
State = dict[str, torch.Tensor]

# Levels count from 1 in the official layout and from 0 here; {n} is the level less one.
_OFFICIAL_FUSION: Rules = [
    (r"scratch\.layer(\d)_rn\.", "adapters.{n}."),
    (r"scratch\.refinenet(\d)\.out_conv\.", "fusions.{n}.project."),
    (r"scratch\.refinenet(\d)\.resConfUnit1\.bn(\d)\.", "fusions.{n}.skip_unit.norm{b}."),
    (r"scratch\.refinenet(\d)\.resConfUnit2\.bn(\d)\.", "fusions.{n}.unit.norm{b}."),
    (r"scratch\.refinenet(\d)\.resConfUnit1\.", "fusions.{n}.skip_unit."),
    (r"scratch\.refinenet(\d)\.resConfUnit2\.", "fusions.{n}.unit."),
]
_OFFICIAL: Rules = [
    (r"pretrained\.model\.patch_embed\.backbone\.", "backbone.resnet."),
    (r"pretrained\.model\.", "backbone.vit."),
    (r"pretrained\.act_postprocess(\d)\.0\.project\.0\.", "reassemble.{n}.readout.project."),
    (r"pretrained\.act_postprocess(\d)\.3\.", "reassemble.{n}.project."),
    (r"pretrained\.act_postprocess(\d)\.4\.", "reassemble.{n}.resize."),
    *_OFFICIAL_FUSION,
]
_DEPTH_HEAD: Rules = [
    (r"scratch\.output_conv\.0\.", "head.conv1."),
    (r"scratch\.output_conv\.2\.", "head.conv2."),
    (r"scratch\.output_conv\.4\.", "head.conv3."),
]
_SEGMENTATION_HEAD: Rules = [(r"scratch\.output_conv\.", "head.main."), (r"auxlayer\.", "head.auxiliary.")]
_DEPTH_ANYTHING: Rules = [
    (r"pretrained\.", "backbone.vit."),
    (r"depth_head\.projects\.(\d)\.", "reassemble.{k}.project."),
    (r"depth_head\.resize_layers\.(\d)\.", "reassemble.{k}.resize."),
    (r"depth_head\.scratch\.output_conv1\.", "head.conv1."),
    (r"depth_head\.scratch\.output_conv2\.0\.", "head.conv2."),
    (r"depth_head\.scratch\.output_conv2\.2\.", "head.conv3."),
    *[(r"depth_head\." + pattern, replacement) for pattern, replacement in _OFFICIAL_FUSION],
]

_NECK: Rules = [
    (r"neck\.convs\.(\d)\.", "scratch.layer{p}_rn."),
    (r"neck\.fusion_stage\.layers\.(\d)\.projection\.", "scratch.refinenet{r}.out_conv."),
    (
        r"neck\.fusion_stage\.layers\.(\d)\.residual_layer(\d)\.convolution(\d)\.",
        "scratch.refinenet{r}.resConfUnit{b}.conv{c}.",
    ),
    (
        r"neck\.fusion_stage\.layers\.(\d)\.residual_layer(\d)\.batch_norm(\d)\.",
        "scratch.refinenet{r}.resConfUnit{b}.bn{c}.",
    ),
]

# Hugging Face's names, turned into official ones first. {r} is 4 less the index: their fusion counts from the coarsest.
_HUGGING_FACE: Rules = [
    (r"dpt\.embeddings\.position_embeddings", "pretrained.model.pos_embed"),
    (r"dpt\.embeddings\.cls_token", "pretrained.model.cls_token"),
    (r"dpt\.embeddings\.patch_embeddings\.projection\.", "pretrained.model.patch_embed.proj."),
    (r"dpt\.embeddings\.projection\.", "pretrained.model.patch_embed.proj."),
    (r"dpt\.embeddings\.backbone\.bit\.embedder\.convolution\.", "pretrained.model.patch_embed.backbone.stem.conv."),
    (r"dpt\.embeddings\.backbone\.bit\.embedder\.norm\.", "pretrained.model.patch_embed.backbone.stem.norm."),
    (
        r"dpt\.embeddings\.backbone\.bit\.encoder\.stages\.(\d+)\.layers\.",
        "pretrained.model.patch_embed.backbone.stages.{k}.blocks.",
    ),
    (r"dpt\.encoder\.layer\.(\d+)\.attention\.attention\.", "pretrained.model.blocks.{k}.attn."),
    (r"dpt\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", "pretrained.model.blocks.{k}.attn.proj."),
    (r"dpt\.encoder\.layer\.(\d+)\.intermediate\.dense\.", "pretrained.model.blocks.{k}.mlp.fc1."),
    (r"dpt\.encoder\.layer\.(\d+)\.output\.dense\.", "pretrained.model.blocks.{k}.mlp.fc2."),
    (r"dpt\.encoder\.layer\.(\d+)\.layernorm_before\.", "pretrained.model.blocks.{k}.norm1."),
    (r"dpt\.encoder\.layer\.(\d+)\.layernorm_after\.", "pretrained.model.blocks.{k}.norm2."),
    (r"dpt\.layernorm\.", "pretrained.model.norm."),
    (r"dpt\.pooler\.", "pretrained.model.head.pooler."),
    (r"neck\.reassemble_stage\.readout_projects\.(\d)\.0\.", "pretrained.act_postprocess{p}.0.project.0."),
    (r"neck\.reassemble_stage\.layers\.(\d)\.projection\.", "pretrained.act_postprocess{p}.3."),
    (r"neck\.reassemble_stage\.layers\.(\d)\.resize\.", "pretrained.act_postprocess{p}.4."),
    *_NECK,
    (r"head\.head\.", "scratch.output_conv."),
    (r"auxiliary_head\.head\.", "auxlayer."),
]

_HUGGING_FACE_DEPTH_ANYTHING: Rules = [
    (r"backbone\.embeddings\.position_embeddings", "pretrained.pos_embed"),
    (r"backbone\.embeddings\.(?=cls_token|mask_token)", "pretrained."),
    (r"backbone\.embeddings\.patch_embeddings\.projection\.", "pretrained.patch_embed.proj."),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.attention\.", "pretrained.blocks.{k}.attn."),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", "pretrained.blocks.{k}.attn.proj."),
    # transformers 5 calls them otherwise than the files that it reads.
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.o_proj\.", "pretrained.blocks.{k}.attn.proj."),
    *[
        (rf"backbone\.encoder\.layer\.(\d+)\.attention\.{name[0]}_proj\.", f"pretrained.blocks.{{k}}.attn.{name}.")
        for name in ("query", "key", "value")
    ],
    (r"backbone\.encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", "pretrained.blocks.{k}.ls{b}.gamma"),
    (r"backbone\.encoder\.layer\.(\d+)\.", "pretrained.blocks.{k}."),
    (r"backbone\.layernorm\.", "pretrained.norm."),
    (r"neck\.reassemble_stage\.layers\.(\d)\.projection\.", "depth_head.projects.{k}."),
    (r"neck\.reassemble_stage\.layers\.(\d)\.resize\.", "depth_head.resize_layers.{k}."),
    *[(pattern, "depth_head." + replacement) for pattern, replacement in _NECK],
    (r"head\.conv1\.", "depth_head.scratch.output_conv1."),
    (r"head\.conv2\.", "depth_head.scratch.output_conv2.0."),
    (r"head\.conv3\.", "depth_head.scratch.output_conv2.2."),
]

UNUSED = (
    r"fusions\.3\.skip_unit\.",  # nothing comes in beside the coarsest map
    r"backbone\.vit\.norm\.",  # DPT takes the blocks' raw outputs; Depth Anything does use it
    r"backbone\.vit\.head\.",  # the classifier, or Hugging Face's pooler
    r"backbone\.vit\.mask_token$",  # DINOv2's, for its own pre-training
)


def _rename(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        if match := re.match(pattern, key):
            first, b, c = (*match.groups(), None, None, None)[:3]
            k = int(first) if first is not None else 0
            return replacement.format(n=k - 1, k=k, p=k + 1, r=4 - k, b=b, c=c) + key[match.end() :]
    return key


def _join_qkv(state: State) -> State:
    """Hugging Face's three matrices ``query``, ``key`` and ``value`` as timm's one."""
    joined = {}
    for key, value in state.items():
        match = re.match(r"(.*\.attn\.)(query|key|value)\.(weight|bias)$", key)
        if not match:
            joined[key] = value
        elif match[2] == "query":
            parts = [state.get(f"{match[1]}{name}.{match[3]}") for name in ("query", "key", "value")]
            if any(part is None for part in parts):
                raise ValueError(f"{key}: its key or value is missing from the checkpoint")
            joined[f"{match[1]}qkv.{match[3]}"] = torch.cat(parts)
    return joined


def to_our_names(state: State) -> State:
    """Renames a DPT checkpoint's keys, whichever its layout; ours passes unchanged.

    Raises:
        ValueError: no layout of a DPT model.
    """
    if any(key.startswith("adapters.") for key in state):
        return state
    if any(key.startswith("neck.") for key in state):
        anything = any(key.startswith("backbone.") for key in state)
        rules = _HUGGING_FACE_DEPTH_ANYTHING if anything else _HUGGING_FACE
        state = _join_qkv({_rename(key, rules): value for key, value in state.items()})
    if any(key.startswith("depth_head.") for key in state):
        return {_rename(key, _DEPTH_ANYTHING): value for key, value in state.items()}
    if not any(key.startswith("scratch.") for key in state):
        found = ", ".join(list(state)[:3]) or "no tensors"
        raise ValueError(
            f"not a DPT checkpoint: expected keys such as scratch.layer1_rn.weight (official), neck.convs.0.weight "
            f"(Hugging Face) or depth_head.projects.0.weight (Depth Anything), found {found}"
        )
    segmentation = "scratch.output_conv.1.running_var" in state
    rules = [*_OFFICIAL, *(_SEGMENTATION_HEAD if segmentation else _DEPTH_HEAD)]
    return {_rename(key, rules): value for key, value in state.items()}


def without_unused(state: State, wanted: Collection[str]) -> State:
    """Without the tensors that a published file holds and its network never uses (`UNUSED`); the log names them.

    Leaving them out is what lets DistributedDataParallel run without ``find_unused_parameters``.
    """
    dropped = [key for key in state if key not in wanted and any(re.match(pattern, key) for pattern in UNUSED)]
    if dropped:
        _log.info("left out, as nothing uses them: %s", ", ".join(dropped))
    return {key: value for key, value in state.items() if key not in dropped}
