"""What both lengths have in common: UperNet with group norm, as a batch of one long picture has no batch statistics."""

_base_ = "../../upernet_mambaout_femto_gatedcnn_composed.py"
headline = dict(groups=["_short", "_long"])
_norm = dict(_delete_=True, type="GN", num_groups=8, requires_grad=True)
model = dict(decode_head=dict(norm_cfg=_norm), auxiliary_head=dict(norm_cfg=_norm))
