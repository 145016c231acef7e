"""What every training has in common."""

default_hooks = {
    "logger": {"type": "LoggerHook", "interval": 50},
    "checkpoint": {"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 2},
}
visualizer = {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]}
env_cfg = {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}, "dist_cfg": {"backend": "nccl"}}
randomness = {"seed": 0}
