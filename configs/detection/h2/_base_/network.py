"""What both lengths have in common. AP50 ranks, as it counts all detections: COCO's AP takes 100 a picture at most."""

_base_ = "../../mask_rcnn_mambaout_femto_gatedcnn_composed.py"
headline = dict(
    metric="coco/bbox_mAP_50",
    label="box AP50",
    best="highest",
    others={"_delete_": True, "coco/segm_mAP_50": "mask AP50"},
    groups=["_short", "_long"],
)
