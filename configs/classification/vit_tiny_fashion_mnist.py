"""ViT-Tiny with fully visible attention on Fashion-MNIST: patches of 4×4 pixels (49 tokens), six blocks.

mixerzoo train classification/vit_tiny_fashion_mnist
"""

_base_ = ["../_base_/runtime.py", "_base_/fashion_mnist.py", "_base_/fashion_schedule.py"]
model = {
    "type": "Classifier",
    "num_classes": 10,
    "net": {"name": "vit_tiny_patch16_224", "in_chans": 1, "img_size": 28, "patch_size": 4, "depth": 6},
}
