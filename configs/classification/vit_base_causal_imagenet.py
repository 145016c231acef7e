"""The causal ViT of MambaOut's figure 3b, under DeiT's recipe (the paper gives no numbers).

Its fully visible counterpart, DeiT-Base with 81.8 %: --cfg-options model.net.name=deit_base_patch16_224

    torchrun --standalone --nproc_per_node=8 -m mixerzoo.tasks.cli \\
        train classification/vit_base_causal_imagenet --data IMAGENET
"""

_base_ = "_base_/deit_imagenet.py"
model = dict(net=dict(name="vit_base_patch16_224_causal", drop_path_rate=0.1))
