"""DPT-Hybrid on NYU Depth v2, from the released relative model; published: δ1 0.904, AbsRel 0.109, RMSE 0.357
(isl-org/DPT, EVALUATION.md).

torchrun --standalone --nproc_per_node=2 -m mixerzoo.tasks.cli train depth/dpt_hybrid_nyu --data NYU \\
        --cfg-options model.net.checkpoint=dpt_hybrid-midas-501f0c75.pt

To measure the released model itself:
evaluate(create_depth_model("dpt_hybrid_384_nyu", checkpoint=FILE), data, PROTOCOL), see docs/depth.md.
"""

_base_ = "_base_/dpt_nyu.py"
# Inverse depth becomes metres with the scale and shift that the authors fitted to the relative model's predictions.
model = {"net": {"name": "dpt_hybrid_384_nyu"}}
