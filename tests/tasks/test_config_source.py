"""``config:CONFIG``, the source that the benchmarks find by its entry point."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from mixerzoo.benchmarks import sources
from mixerzoo.benchmarks.timing.case import Case
from mixerzoo.benchmarks.timing.environment import source_hash
from mixerzoo.benchmarks.timing.workload import Workload
from mixerzoo.tasks.cli import main

CONFIG = "config:classification/mambaout_femto_gatedcnn_fashion_mnist"


def test_a_configs_whole_network_is_timed():
    case = Case(CONFIG, sources.default_image_size(CONFIG), threads=torch.get_num_threads())
    workload = Workload(case)
    reference = workload.reference()
    workload.configure()
    error, tolerance = workload.check(reference)
    assert error <= tolerance
    assert reference.numel() == 10
    assert workload.sample_ms()[0] > 0
    on_meta = sources.networks_on_meta(CONFIG)[0].model
    assert [p.shape for p in workload.model.parameters()] == [p.shape for p in on_meta.parameters()]
    assert source_hash(CONFIG) != source_hash("mambaout_femto_gatedcnn")


@pytest.mark.parametrize("command", [["analyze"], ["bench"], ["compare", "--count-only"]])
@pytest.mark.parametrize(
    ("model", "said"),
    [("confg:x", "no source reads 'confg'; expected a timm name or one of: config:"), ("config:x", "no such config")],
)
def test_a_source_that_is_not_there_is_one_line(command, model, said, tmp_path):
    out = ["--out", str(tmp_path)] if command[0] == "compare" else []
    result = CliRunner().invoke(main, [*command, model, *out])
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
