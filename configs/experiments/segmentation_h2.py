"""Hypothesis 2 of MambaOut (arXiv 2405.07992) in segmentation: does a long sequence gain from a state-space model?

Not run here in full; segmentation_h2_reduced, which a CPU can do, was.

    python -m mixerzoo.tasks.synthetic.composed --out data/composed_96 --images 51200 --val-images 2560 --size 96 \\
        --items 9 13 --sides 18 32
    python -m mixerzoo.tasks.synthetic.composed --out data/composed_768 --images 800 --val-images 40 --size 768 \\
        --items 576 832 --sides 18 32
    mixerzoo experiment segmentation_h2 --runs runs/h2_segmentation

Nine token mixers on short sequences (pictures of 96×96: 36 tokens at stride 16, where most blocks are) and on long ones
(768×768: 2304 tokens). MambaOut calls a sequence of L tokens long where L > 6D (section 3.1); at stride 16 Femto has
D = 192. A step sees 768² = 64 × 96² pixels with about 700 items of 18 to 32 pixels, on one long sequence or on 64 short
ones; nothing else differs. UperNet has group norm, as a batch of one long picture has no batch statistics.
"""

_base_ = "../segmentation/upernet_composed.py"

headline = dict(groups=["_short", "_long"])
_norm = dict(_delete_=True, type="GN", num_groups=8, requires_grad=True)
model = dict(decode_head=dict(norm_cfg=_norm), auxiliary_head=dict(norm_cfg=dict(_norm)))


def _data(size, root, batch_size):
    loader = dict(batch_size=batch_size, dataset=dict(data_root=f"{root}/ade/ADEChallengeData2016"))
    return dict(train_dataloader=loader, val_dataloader=loader, test_dataloader=loader, analyze_sizes=((size, size),))


seeds = 3
_mixers = ("attn", "attn_causal", "bis6", "gatedcnn", "identity", "pool", "s6", "ss2d", "ssd")
grid = dict(
    backbone={mixer: f"mambaout_femto_{mixer}" for mixer in _mixers},
    length=dict(short=_data(96, "data/composed_96", 64), long=_data(768, "data/composed_768", 1)),
)
