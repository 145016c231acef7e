"""MambaOut-Tiny whose token mixer is a selective scan each way, with UperNet on ADE20K.

MambaOut's recipe, nothing else changed.

No weights are published: pre-train it with classification/mambaout_tiny_gatedcnn_imagenet and `--cfg-options
model.net.name=mambaout_tiny_bis6`.

    mixerzoo train segmentation/upernet_mambaout_tiny_bis6_ade20k
"""

_base_ = "upernet_mambaout_tiny_gatedcnn_ade20k.py"
model = {
    "backbone": {
        "name": "mambaout_tiny_bis6",
        "init_cfg": {"checkpoint": "data/weights/mambaout_tiny_bis6.pth"},
    },
}
