"""As `synthetic.py`, with four times as many rooms to train on: Vim-Tiny overfits 4,000.

`--data` would replace both folders: leave it out, and train where `data/` lies.

python -m mixerzoo.tasks.depth.synthetic data/depth_rooms                                        # tests, as for all
python -m mixerzoo.tasks.depth.synthetic data/depth_rooms_16000 --train 16000 --test 0 --seed 1
"""

_base_ = "synthetic.py"
train_dataloader = dict(dataset=dict(root="data/depth_rooms_16000"))
