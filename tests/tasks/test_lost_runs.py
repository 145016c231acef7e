"""Runs that are lost stop and say so: numbers that are not finite, schedules on resuming, weights of other models."""

from __future__ import annotations

import json
import re

import pytest
import torch
from mixerzoo.tasks import engine
from mixerzoo.tasks.classification.metrics import Accuracy
from mixerzoo.tasks.depth import losses
from mixerzoo.tasks.engine import divergence
from mixerzoo.tasks.engine.checkpoints import read_checkpoint
from mixerzoo.tasks.engine.divergence import DivergenceHook, first_not_finite
from mmengine.structures import BaseDataElement, PixelData

from .conftest import CONFIG

POISONED = "net.stages.2.downsample.conv.weight"
BIG = {"optim_wrapper.optimizer.lr": 1e30, "param_scheduler": None, "optim_wrapper.clip_grad": None}


def rates(folder):
    hub = read_checkpoint(engine.runner.newest_checkpoint(folder))["message_hub"]["log_scalars"]
    return hub["train/lr"][0].tolist()


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(tmp_path, small, data):
    """Step, loss term, first bad parameter; nothing is written over what was good."""
    folder = engine.train(CONFIG, tmp_path / "run", options={**small, "train_cfg.max_epochs": 1}, data=data)
    good = (folder / "epoch_1.pth").read_bytes()
    (folder / "result.json").unlink()
    with pytest.raises(engine.DivergenceError) as caught:
        engine.train(CONFIG, folder, resume=True, options={**small, **BIG, "train_cfg.max_epochs": 9}, data=data)
    message = str(caught.value)
    assert "\n" not in message
    assert "diverged at iteration " in message
    assert "(epoch 2)" in message
    assert "loss is " in message or "gradient is not finite is net." in message
    assert "net." in message
    assert "epoch_1.pth is the last checkpoint from before" in message
    assert "Lower the learning rate (1e+30 there)" in message
    assert sorted(path.name for path in folder.glob("*.pth")) == ["epoch_1.pth"]
    assert (folder / "epoch_1.pth").read_bytes() == good
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("amp", [None, "bfloat16", "float16"])
def test_a_bad_gradient_is_named_though_it_is_clipped(tmp_path, small, data, amp, monkeypatch):
    """Of one parameter only: clipping would spread its NaN over all of them, and the loss is finite."""
    step = engine.TaskRunner.build_train_loop

    def poisoned(self, loop):
        self.model.get_parameter(POISONED).register_hook(lambda grad: grad * torch.nan)
        return step(self, loop)

    monkeypatch.setattr(engine.TaskRunner, "build_train_loop", poisoned)
    named = f"not finite is {re.escape(POISONED)}" if amp != "float16" else r"loss scale .* to nothing"
    monkeypatch.setattr(divergence, "LEAST_SCALE", 2.0**14)  # it begins at 2**16, and halves with each step
    options = {**small, "train_cfg.max_epochs": 1, "optim_wrapper.clip_grad.max_norm": 1.0}
    with pytest.raises(engine.DivergenceError, match=named):
        engine.train(CONFIG, tmp_path / "run", amp=amp, options=options, data=data)


def test_weights_that_are_not_finite_are_not_saved(tmp_path, small, data):
    cfg = engine.load_config(CONFIG, {**small, "train_cfg.max_epochs": 1}, data)
    runner = engine.build_runner(cfg, tmp_path / "run")
    with torch.no_grad():
        next(runner.model.parameters()).fill_(torch.inf)
    with pytest.raises(
        engine.DivergenceError, match=r"net\.\S+ is not finite, and is not saved; there is no checkpoint"
    ):
        DivergenceHook().before_save_checkpoint(runner, {})
    assert (
        first_not_finite({"a": torch.ones(2), "b": torch.tensor([1, 2]), "c": torch.tensor([3e38, -torch.inf])}) == "c"
    )
    assert first_not_finite({"a": torch.full((2,), 3e38), "b": torch.tensor(())}) is None


def test_outputs_and_metrics_of_nan_are_errors():
    accuracy = Accuracy()
    with pytest.raises(engine.DivergenceError, match="the logits of 1 of 2 pictures are NaN"):
        accuracy.process((None, torch.tensor([0, 1])), [torch.tensor([0.0, torch.nan]), torch.ones(2)])
    hook = DivergenceHook()
    hook.after_val_iter(None, 0, outputs=[torch.tensor([0.0, -torch.inf])])  # a class that is masked out
    with pytest.raises(engine.DivergenceError, match="picture 1 of batch 3 is NaN"):
        hook.after_val_iter(None, 3, outputs=[torch.zeros(2), torch.tensor([torch.nan])])
    segmented = BaseDataElement(seg_logits=PixelData(data=torch.full((2, 4, 4), torch.nan)))
    with pytest.raises(engine.DivergenceError, match="picture 0 of batch 0 is NaN"):
        hook.after_test_iter(None, 0, outputs=[segmented])
    with pytest.raises(engine.DivergenceError, match="metrics: depth/rmse is nan"):
        hook.after_val_epoch(None, {"depth/abs_rel": 0.1, "depth/rmse": float("nan"), "name": "x"})


@pytest.mark.parametrize(
    "loss", [losses.silog_loss, losses.berhu_loss, losses.scale_shift_invariant_loss, losses.least_squares_loss]
)
def test_the_loss_of_nan_is_nan(loss):
    prediction, target = torch.rand(1, 8, 8) + 1, torch.rand(1, 8, 8) + 1
    mask = torch.ones(1, 8, 8, dtype=torch.bool)
    assert loss(prediction, target, mask).isfinite()
    prediction[0, 3, 3] = torch.nan
    assert loss(prediction, target, mask).isnan()
    mask[0, 3, 3] = False
    mask[0, 3, 2] = mask[0, 2, 3] = False
    assert loss(prediction.nan_to_num(1), target, mask).isfinite()


def test_resuming_with_more_epochs_follows_the_new_schedule(tmp_path, small, data):
    """The rates of a run of 4 epochs, whether it was started as one or as one of 2."""
    del small["param_scheduler.0.end"]
    cosine = {"type": "CosineAnnealingLR", "by_epoch": True, "begin": 0, "eta_min": 0.0, "convert_to_iter_based": True}
    step = {"type": "MultiStepLR", "by_epoch": True, "milestones": [3], "gamma": 0.5}
    for name, schedule in (("cosine", [cosine]), ("both", [cosine, step])):
        options = {**small, "param_scheduler": schedule}
        whole = engine.train(CONFIG, tmp_path / name / "4", options={**options, "train_cfg.max_epochs": 4}, data=data)
        part = engine.train(CONFIG, tmp_path / name / "2", options={**options, "train_cfg.max_epochs": 2}, data=data)
        engine.train(CONFIG, part, resume=True, options={**options, "train_cfg.max_epochs": 4}, data=data)
        expected, found = rates(whole), rates(part)
        assert len(expected) == 16
        assert found[8:] == pytest.approx(expected[8:], rel=1e-6)
        assert found[7] != pytest.approx(expected[7], rel=0.1)


def test_resuming_with_another_batch_size_is_refused_with_the_remedy(tmp_path, small, data):
    folder = engine.train(CONFIG, tmp_path / "run", options={**small, "train_cfg.max_epochs": 1}, data=data)
    with pytest.raises(ValueError, match=r"32 images per iteration, now there are 16; .*batch_size.* load_from="):
        engine.train(CONFIG, folder, resume=True, options={**small, "train_dataloader.batch_size": 16}, data=data)
    with pytest.raises(ValueError, match=r"with 4 iterations per epoch, now there are 2; resume with the data"):
        engine.train(CONFIG, folder, resume=True, options={**small, "train_dataloader.dataset.limit": 64}, data=data)


def test_mixed_precision_may_be_added_and_left_out_on_resuming(tmp_path, small, data):
    one = {**small, "train_cfg.max_epochs": 1}
    plain = engine.train(CONFIG, tmp_path / "plain", options=one, data=data)
    mixed = engine.train(CONFIG, tmp_path / "mixed", amp="float16", options=one, data=data)
    for folder, amp in ((plain, "float16"), (mixed, None)):
        engine.train(CONFIG, folder, resume=True, amp=amp, options={**small, "train_cfg.max_epochs": 2}, data=data)
        assert read_checkpoint(folder / "epoch_2.pth")["meta"]["epoch"] == 2


def test_a_good_file_is_never_to_be_deleted(tmp_path, small, data):
    folder = engine.train(CONFIG, tmp_path / "run", options={**small, "train_cfg.max_epochs": 1}, data=data)
    content = torch.load(folder / "epoch_1.pth", weights_only=True)
    del content["optimizer"]["param_groups"]
    torch.save(content, folder / "epoch_1.pth")
    with pytest.raises(ValueError, match=r"epoch_1\.pth.* load_from=") as caught:
        engine.train(CONFIG, folder, resume=True, options=small, data=data)
    assert "remove" not in str(caught.value)


def test_weights_of_another_model_are_refused_or_counted(tmp_path, small, data, capsys):
    options = {**small, "train_cfg.max_epochs": 1}
    folder = engine.train(CONFIG, tmp_path / "run", options=options, data=data)
    state = torch.load(folder / "epoch_1.pth", weights_only=True)["state_dict"]
    torch.save({f"encoder.{key}": value for key, value in state.items()}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=rf"foreign\.pth: none of its {len(state)} weights is of this config"):
        engine.train(CONFIG, tmp_path / "a", options={**options, "load_from": str(tmp_path / "foreign.pth")}, data=data)
    assert not list((tmp_path / "a").glob("*.pth"))
    first, second, *_ = state
    partly = {**state, first: torch.zeros(1, 2, 3), "more": torch.zeros(1)}
    del partly[second]
    torch.save({f"module.{key}": value for key, value in partly.items()}, tmp_path / "partly.pth")
    capsys.readouterr()
    engine.train(CONFIG, tmp_path / "b", options={**options, "load_from": str(tmp_path / "partly.pth")}, data=data)
    said = capsys.readouterr().out
    assert f"partly.pth: {len(state) - 2} of the model's {len(state)} weights are loaded; " in said
    assert f"1 not in the file ({second}); 1 of another shape ({first}); 1 only in the file (more)" in said
    assert json.loads((tmp_path / "b" / "result.json").read_text())["metrics"]
