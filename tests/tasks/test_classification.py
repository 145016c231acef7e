"""Data, metrics, loss and optimizer of classification, piece by piece."""

from __future__ import annotations

import functools
import gzip
import io
import logging
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from mixerzoo.tasks import engine
from mixerzoo.tasks.backbone import TimmBackbone
from mixerzoo.tasks.classification.data import FashionMNIST, ImageFolder, WebDataset, read_idx
from mixerzoo.tasks.classification.metrics import Accuracy
from mixerzoo.tasks.classification.model import Classifier
from mixerzoo.tasks.engine.optim import TimmOptimWrapperConstructor, param_groups
from mixerzoo.tasks.engine.sampling import SeededSampler
from PIL import Image

EVAL = {"input_size": (3, 32, 32), "crop_pct": 1.0}
GREY = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
TRAIN = {**GREY, "is_training": True, "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, "re_mode": "pixel"}


@pytest.fixture
def folder(data, tmp_path):
    """Real images, eight each of three classes, in folders ``train`` and ``val``."""
    images = read_idx(data / "train-images-idx3-ubyte.gz", 3)
    labels = read_idx(data / "train-labels-idx1-ubyte.gz", 1)
    for split, start in (("train", 0), ("val", 8)):
        for label, name in enumerate(("bag", "coat", "shoe")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in np.flatnonzero(labels == label)[start : start + 8]:
                Image.fromarray(images[number]).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_idx_holds_the_real_images(data):
    dataset = FashionMNIST(data, "train", transform=GREY)
    assert len(dataset) == 512
    x, label = dataset[0]
    assert x.shape == (1, 28, 28)
    assert dataset.classes[label] == "Ankle boot"  # the first image of the data set
    assert torch.allclose(x, (torch.tensor(dataset.images[0]) / 255 - 0.5)[None] / 0.5)
    assert min(Counter(dataset.labels.tolist()).values()) > 30


@pytest.mark.parametrize("gzipped", [True, False])
def test_idx_damaged(data, tmp_path, gzipped):
    content = (data / "t10k-labels-idx1-ubyte.gz").read_bytes()
    plain = gzip.decompress(content)
    path = tmp_path / ("labels.gz" if gzipped else "labels")
    path.write_bytes(content if gzipped else plain)
    assert len(read_idx(path, 1)) == 256
    for damaged in (content[:-20], content[:5]) if gzipped else (plain[:-1], plain[:3], b"PNG" + plain[3:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path.name}: .*; get it again"):
            read_idx(path, 1)


def test_limit_takes_images_from_everywhere(data):
    whole, part = FashionMNIST(data, transform=GREY), FashionMNIST(data, transform=GREY, limit=64)
    assert len(part) == 64
    assert part[1][1] == whole[8][1]
    assert len(FashionMNIST(data, transform=GREY, limit=9999)) == 512


def test_folder_tar_and_flat_layouts_hold_the_same(folder):
    val = ImageFolder(folder, "val", transform=EVAL)
    assert val.classes == ("bag", "coat", "shoe")
    assert len(val) == 24
    plain = ImageFolder(folder / "val", transform=EVAL)  # without splits
    shutil.copytree(folder / "val", folder / "kaggle" / "loose")
    flat = folder / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    flat.mkdir(parents=True)
    rows = ["ImageId,PredictionString"]
    for path in sorted((folder / "val").rglob("*.png")):
        Image.open(path).save(flat / f"{path.stem}.JPEG", quality=100)
        rows.append(f"{path.stem},{path.parent.name} 1 2 3 4")
    (folder / "kaggle" / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    kaggle = ImageFolder(folder / "kaggle", "val", transform=EVAL)
    with tarfile.open(folder / "val.tar", "w") as tar:
        tar.add(folder / "val", arcname=".")
    tarred = ImageFolder(folder / "val.tar", transform=EVAL)
    (folder / "tars").mkdir()
    for name in val.classes:
        with tarfile.open(folder / "tars" / f"{name}.tar", "w") as tar:
            for path in (folder / "val" / name).iterdir():
                tar.add(path, arcname=path.name)
    tars = ImageFolder(folder / "tars", transform=EVAL)
    for other, tolerance in ((plain, 0), (kaggle, 0.3), (tarred, 0), (tars, 0)):
        assert other.classes == val.classes
        assert len(other) == 24
        key = lambda sample: (sample[1], round(sample[0].mean().item(), 1))  # noqa: E731
        mine, theirs = (sorted((d[i] for i in range(24)), key=key) for d in (val, other))
        assert [label for _, label in mine] == [label for _, label in theirs]
        if not tolerance:
            sums = [sorted(x.sum().item() for x, _ in samples) for samples in (mine, theirs)]
            np.testing.assert_allclose(*sums, rtol=1e-6)


def shard(path, samples):
    """A tar file of (name of a member, its bytes)."""
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_webdataset_shards_hold_the_same(folder):
    paths = sorted((folder / "val").rglob("*.png"))
    names = sorted({path.parent.name for path in paths})
    for number in range(3):
        members = []
        for path in paths[number::3]:
            label = str(names.index(path.parent.name)).encode()
            members += [(f"a.b/{path.stem}.cls", label + b"\n"), (f"a.b/{path.stem}.json", b"{}")]
            members += [(f"a.b/{path.stem}.png", path.read_bytes())]
        shard(folder / f"set-val-{number}.tar", members)
    dataset = WebDataset(folder, "set-val-*.tar", num_classes=3, transform=EVAL)
    plain = ImageFolder(folder / "val", transform=EVAL)
    assert len(dataset) == 24
    assert dataset.metainfo == {"classes": ("0", "1", "2")}
    assert "set-val-0.tar" in dataset.name(0)
    order = [*range(0, 24, 3), *range(1, 24, 3), *range(2, 24, 3)]
    for here, there in enumerate(order):
        assert dataset[here][1] == plain[there][1]
        assert torch.equal(dataset[here][0], plain[there][0])


def test_webdataset_mistakes(folder):
    build = functools.partial(WebDataset, folder, "*.tar", num_classes=3, transform=EVAL)
    with pytest.raises(FileNotFoundError, match=r"no shard called \*\.tar; put them there, or change root or shards"):
        build()
    shard(folder / "a.tar", [("0.cls", b"1")])
    with pytest.raises(ValueError, match=r"no images in 1 shards"):
        build()
    shard(folder / "a.tar", [("0.jpg", b"x"), ("1.jpg", b"x"), ("1.cls", b"2")])
    with pytest.raises(ValueError, match=r"a\.tar: no label of image 0; expected a member of that name with \.cls"):
        build()
    for label in (b"3", b"-1", b"shoe", b""):
        shard(folder / "a.tar", [("0.jpg", b"x"), ("0.cls", label)])
        with pytest.raises(ValueError, match=r"a\.tar: 0\.cls: expected a label below 3, got"):
            build()
    shard(folder / "a.tar", [("0.jpg", b"x" * 4000), ("0.cls", b"1")])
    (folder / "a.tar").write_bytes((folder / "a.tar").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a\.tar: not a whole tar file .*; get it again"):
        build()


def test_folder_mistakes(folder):
    with pytest.raises(FileNotFoundError, match=r"root: .*nowhere: no such folder or tar file"):
        ImageFolder(folder / "nowhere", transform=EVAL)
    with pytest.raises(ValueError, match=r"expected one folder per class, found images"):
        ImageFolder(folder / "val" / "bag", transform=EVAL)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected one folder per class, found nothing"):
        ImageFolder(folder / "empty", transform=EVAL)
    (folder / "val" / "hat").mkdir()
    with pytest.raises(ValueError, match=r"val: no images of class hat; add some or remove the folder"):
        ImageFolder(folder, "val", transform=EVAL)
    shutil.rmtree(folder / "val")
    with pytest.raises(FileNotFoundError, match=r"no val or validation .* put the val images there"):
        ImageFolder(folder, "val", transform=EVAL)


def test_corrupt_images_are_named_and_skipped_up_to_a_limit(folder, caplog):
    paths = sorted((folder / "train" / "bag").iterdir())
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    paths[4].write_text("no image")
    dataset = ImageFolder(folder, transform=EVAL, max_corrupt=2)
    with caplog.at_level(logging.WARNING):
        samples = [dataset[i] for i in range(24)]
    assert torch.equal(samples[1][0], samples[2][0])
    assert torch.equal(samples[4][0], samples[5][0])
    strict = ImageFolder(folder, transform=EVAL, max_corrupt=1)
    assert strict[1][1] == 0
    with pytest.raises(ValueError, match=rf"2 images cannot be read, the last is .*{paths[4].name}; repair or remove"):
        strict[4]


def test_a_corrupt_image_in_a_worker_is_one_line(folder, tmp_path, small):
    for path in (folder / "train" / "bag").iterdir():
        path.write_text("no image")
    options = {
        **small,
        "model.num_classes": 3,
        "train_dataloader.batch_size": 4,
        "train_dataloader.num_workers": 1,
        "train_dataloader.dataset.type": "ImageFolder",
        "train_dataloader.dataset.max_corrupt": 3,
        "train_dataloader.dataset.transform.input_size": (3, 28, 28),
        "train_dataloader.dataset.transform.mean": (0.5, 0.5, 0.5),
        "train_dataloader.dataset.transform.std": (0.5, 0.5, 0.5),
        "val_dataloader.dataset.type": "ImageFolder",
        "val_dataloader.dataset.split": "val",
        "model.net.in_chans": 3,
    }
    name = "classification/mambaout_femto_gatedcnn_fashion_mnist"
    with pytest.raises(ValueError, match=r"^4 images cannot be read, the last is .*\.png; repair or remove them, or "):
        engine.train(name, tmp_path / "run", options=options, data=folder)


def test_a_sample_depends_on_its_key_alone(data):
    dataset = FashionMNIST(data, transform=TRAIN)
    once = dataset[(0, 3, 0, 17)][0]
    torch.rand(7)
    assert torch.equal(once, dataset[(0, 3, 0, 17)][0])
    for other in ((0, 4, 0, 17), (1, 3, 0, 17), (0, 3, 1, 17)):
        assert not torch.equal(once, dataset[other][0])
    torch.manual_seed(5)
    state = torch.get_rng_state()
    dataset[(0, 3, 0, 17)]
    assert torch.equal(state, torch.get_rng_state())  # the training process keeps its own randomness


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("world", [1, 4])
def test_sampler(data, repeats, world):
    dataset = FashionMNIST(data, transform=GREY, limit=101)
    samplers = []
    for rank in range(world):
        sampler = SeededSampler(dataset, shuffle=True, seed=5, repeats=repeats)
        sampler.rank, sampler.world_size = rank, world
        sampler.num_samples = -(-101 // world)
        sampler.total_size = sampler.num_samples * world
        sampler.set_epoch(2)
        samplers.append(list(sampler))
    assert {len(keys) for keys in samplers} == {-(-101 // world)}
    keys = [key for step in zip(*samplers, strict=True) for key in step]  # as the processes take them together
    assert all(key[:2] == (5, 2) for key in keys)
    assert len({key[2:] for key in keys[:101]}) == 101  # no sample twice
    if repeats == 1:
        assert {index for *_, index in keys} == set(range(101))
    else:
        assert [copy for *_, copy, _ in keys[:6]] == [0, 1, 2, 0, 1, 2]
        assert len({index for *_, index in keys[:3]}) == 1
    assert keys != [(5, 2, 0, index) for index in range(len(keys))]


def test_accuracy_against_its_definition(tmp_path):
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 7)), generator.integers(0, 6, 200)  # class 6 has no images
    metric = Accuracy()
    metric.dataset_meta = {"classes": [f"c{i}" for i in range(7)]}
    for start in range(0, 200, 50):
        batch = slice(start, start + 50)
        metric.process((None, torch.tensor(labels[batch])), list(torch.tensor(logits[batch])))
    figures = metric.evaluate(200)
    order = np.argsort(-logits, axis=1)
    top1, top5 = order[:, 0] == labels, (order[:, :5] == labels[:, None]).any(1)
    assert figures["acc/top1"] == pytest.approx(100 * top1.mean(), abs=1e-3)
    assert figures["acc/top5"] == pytest.approx(100 * top5.mean(), abs=1e-3)
    each = [top1[labels == c].mean() for c in range(6)]
    assert figures["acc/mean_class"] == pytest.approx(100 * np.mean(each), abs=1e-3)
    metric.save(tmp_path)
    rows = [row.split(",") for row in (tmp_path / "per_class.csv").read_text().splitlines()[1:]]
    assert [int(row[2]) for row in rows] == [int(top1[labels == c].sum()) for c in range(7)]


def test_losses_against_their_formulas():
    images, labels = torch.randn(6, 3, 32, 32), torch.randint(0, 5, (6,))
    net = {"name": "mambaout_femto_identity", "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    logits = None
    for options, expected in (
        ({}, lambda x: F.cross_entropy(x, labels)),
        ({"label_smoothing": 0.1}, lambda x: F.cross_entropy(x, labels, label_smoothing=0.1)),
        ({"loss": "bce"}, lambda x: F.binary_cross_entropy_with_logits(x, F.one_hot(labels, 5).float())),
    ):
        torch.manual_seed(0)
        model = Classifier(net, 5, **options).eval()
        logits = model(images)
        torch.testing.assert_close(model(images, labels, mode="loss")["loss"], expected(logits))
    soft = torch.rand(6, 5).softmax(1)
    model = Classifier(net, 5, label_smoothing=0.1).eval()
    expected = -(soft * model(images).log_softmax(1)).sum(1).mean()  # soft targets are smoothed where they are made
    torch.testing.assert_close(model(images, soft, mode="loss")["loss"], expected)


def test_mixup_mixes_images_and_labels():
    net = {"name": "mambaout_femto_identity", "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    model = Classifier(net, 4, mixup={"mixup_alpha": 1.0, "prob": 1.0})
    seen = []
    model.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(8, 3, 32, 32)
    loss = model(images.clone(), torch.arange(8) % 4, mode="loss")["loss"]
    assert loss.isfinite()
    mixed = seen[0] - images.flip(0)
    share = (mixed[0] / (images - images.flip(0))[0]).median()
    assert 0 < share < 1
    torch.testing.assert_close(seen[0], share * images + (1 - share) * images.flip(0), rtol=1e-3, atol=1e-3)


def test_parameter_groups_are_timms():
    net = {"name": "vit_tiny_patch16_224", "depth": 2, "img_size": 32}
    model = Classifier(net, 5)
    flat = {id(p): group for group in param_groups(model, 0.5, 0.1) for p in group["params"]}
    assert len(flat) == len(list(model.parameters()))
    for name, parameter in model.net.named_parameters():
        exempt = parameter.ndim <= 1 or name in model.net.no_weight_decay()
        assert flat[id(parameter)]["weight_decay"] == (0.0 if exempt else 0.1), name
        assert flat[id(parameter)]["lr"] == 0.5
    decayed = {id(p): group for group in param_groups(model, 0.5, 0.1, 0.75) for p in group["params"]}
    rate = {name: decayed[id(parameter)]["lr"] for name, parameter in model.net.named_parameters()}
    assert rate["head.weight"] == 0.5
    assert (
        rate["blocks.1.mlp.fc1.weight"] == rate["norm.weight"] == pytest.approx(0.375)
    )  # timm: the norm is the last layer
    assert rate["blocks.0.mlp.fc1.weight"] == pytest.approx(0.75 * rate["blocks.1.mlp.fc1.weight"])
    assert rate["patch_embed.proj.weight"] == pytest.approx(0.75 * rate["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize("opt", ["adamw", "lamb", "sgd", "lion"])
def test_any_optimizer_of_timm(opt):
    model = Classifier({"name": "mambaout_femto_identity", "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, 5)
    wrapper = TimmOptimWrapperConstructor({"optimizer": {"opt": opt, "lr": 1e-2, "weight_decay": 0.1}})(model)
    before = model.net.head.fc.fc2.weight.detach().clone() if hasattr(model.net.head.fc, "fc2") else None
    wrapper.update_params(model(torch.randn(4, 3, 32, 32), torch.arange(4), mode="loss")["loss"])
    assert type(wrapper.optimizer).__name__.lower().startswith(opt)
    if before is not None:
        assert not torch.equal(before, model.net.head.fc.fc2.weight)
    with pytest.raises(ValueError, match=r"optim_wrapper\.optimizer: lr and opt must be given"):
        TimmOptimWrapperConstructor({"optimizer": {}})(model)


@pytest.mark.parametrize("name", ["mambaout_femto_gatedcnn", "vmamba_tiny_s1l8", "convnext_atto", "resnet18"])
def test_backbone_gives_nchw_maps(name):
    stages = (1, 2, 3, 4) if name == "resnet18" else (0, 1, 2, 3)
    backbone = TimmBackbone(name, out_indices=stages, norm_outputs=True)
    maps = backbone.eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(y.shape) for y in maps] == [(1, c, 16 >> i, 16 >> i) for i, c in enumerate(backbone.out_channels)]
    for y in maps:
        assert y.mean(1).abs().max() < 1e-3  # normalised over channels


def test_backbone_mistakes():
    with pytest.raises(ValueError, match=r"no model is called 'mambaut_tiny'; did you mean"):
        TimmBackbone("mambaut_tiny")
    assert timm.is_model("mambaout_tiny")
