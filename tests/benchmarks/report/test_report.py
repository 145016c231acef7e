"""What the report says against what the records hold."""

from __future__ import annotations

import io
import json
import math
import re
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixerzoo.backbones.checkpoints import write_atomically
from mixerzoo.benchmarks.counting.counter import count_flops
from mixerzoo.benchmarks.counting.criterion import TASKS
from mixerzoo.benchmarks.report import charts, costs, findings, sections, tables, timings
from mixerzoo.benchmarks.report.comparison import RECORDS_FILE, Records
from mixerzoo.benchmarks.timing.block_sweep import (
    ATTENTIONS,
    TransformerBlock,
    block_flops,
    crossing,
    flop_share,
    sweep_blocks,
)
from mixerzoo.benchmarks.timing.ratios import ratios
from rich.console import Console
from rich.text import Text
from timm.models.vision_transformer import Block
from torch import nn

VIT, CONV, CAUSAL, POOL = (
    "vit_tiny_patch16_224",
    "mambaout_femto_gatedcnn",
    "mambaout_femto_attn_causal",
    "mambaout_femto_pool",
)
COCO = ("coco", (800, 1280))


def artists(figure, prefix):
    """Artists by gid, the prefix cut off."""
    found = {}
    for axes in figure.axes:
        for artist in [*axes.lines, *axes.patches, *axes.collections]:
            if (artist.get_gid() or "").startswith(prefix):
                found[artist.get_gid().removeprefix(prefix)] = artist
    return found


class TestRho:
    def test_curves_pass_through_the_counted_points_and_cross_one_at_the_crossover(self, records):
        curve = next(curve for curve in sections.rho_curves(records) if curve.model == VIT)
        record = records.of(VIT, "imagenet", (224, 224))
        at = {side: np.exp(np.interp(np.log(side), np.log(curve.sides), np.log(curve.rho))) for side in (224, 512)}
        assert at[224] == pytest.approx(record.rho, rel=1e-3)
        assert at[512] == pytest.approx(records.of(VIT, "ade20k", (512, 512)).rho, rel=1e-3)
        crossed = np.exp(np.interp(0, np.log(curve.rho), np.log(curve.sides)))
        assert crossed == pytest.approx(record.crossover_side, rel=1e-3)
        assert (math.sqrt(800 * 1280), records.of(VIT, *COCO).rho) in curve.points

    def test_dashed_line_is_the_paper_s_formula(self, records):
        curves = {curve.model: curve for curve in sections.rho_curves(records)}
        assert curves[VIT].formula == pytest.approx((sections.SIDES / 16) ** 2 / (6 * 192))
        assert curves[CAUSAL].formula == pytest.approx(curves[VIT].formula)  # stage of stride 16: 192 channels, too

    def test_picture_draws_growing_models_and_names_the_others(self, records):
        figure = charts.rho_plot(sections.rho_curves(records), findings.presets_of(records))
        lines = artists(figure, "line-")
        assert set(lines) == {VIT, CAUSAL}
        record = records.of(VIT, "imagenet", (224, 224))
        x, y = lines[VIT].get_data()
        assert y == pytest.approx([record.growth.rho_at(side) for side in x])
        words = [text.get_text() for text in figure.axes[0].texts]
        assert f"ρ = 0 at every size: {CONV}, {POOL}" in " ".join(figure.axes[0].get_xlabel().split())
        assert {f"{task} {h}×{w}" for task, sizes in TASKS.items() for h, w in sizes} <= set(words)

    def test_kinds_decide_the_colours(self, records):
        cast = sections.cast_of(records)
        assert {model: member.kind for model, member in cast.items()} == {
            CONV: "convolution",
            VIT: "attention",
            CAUSAL: "causal",
            POOL: "pooling",
        }
        assert len({member.marker for member in cast.values()}) == 4


class TestFlops:
    def test_bars_add_up_to_the_counted_macs(self, records):
        picture = {}
        for model in records.models:
            macs = records.of(model, *COCO).macs_by_class
            picture[model] = charts.Bar(model, {name: count / 1e9 for name, count in macs.items()})
        figure = charts.flop_plot({"800×1280": list(picture.values())})
        for i, model in enumerate(records.models):
            parts = artists(figure, f"bar-800×1280-{i}-")
            widths = {name: patch.get_width() for name, patch in parts.items()}
            record = records.of(model, *COCO)
            assert sum(widths.values()) == pytest.approx(record.macs / 1e9)
            assert widths["attention"] == pytest.approx(record.flops_by_class["attention"] / 2e9)
            starts = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in parts.values())
            assert all(a[1] == pytest.approx(b[0]) for a, b in pairwise(starts))
        labels = [text.get_text() for text in figure.axes[0].texts]
        assert tables.three_digits(records.of(VIT, *COCO).macs / 1e9) in labels

    def test_one_panel_per_input_and_one_for_a_dense_task(self, records):
        picture = sections.flop_picture(records)
        for title in ("224×224", "160×256", "800×1280 (coco)"):
            assert title in picture.svg


class TestBlocks:
    def test_flops_are_the_paper_s_and_the_analyzer_s(self):
        class OnImage(nn.Module):
            def __init__(self):
                super().__init__()
                self.block = TransformerBlock(24, 3)

            def forward(self, image):  # (1, D, H, W): the pixels are the tokens
                return self.block(image.flatten(2).transpose(1, 2))

        counted = count_flops(OnImage(), (5, 7), in_chans=24).flops_by_class()
        expected = block_flops(24, 35)
        assert expected == {"linear": 24 * 24**2 * 35, "attention": 4 * 24 * 35**2}
        assert (counted["linear"], counted["attention"]) == (expected["linear"], expected["attention"])
        assert sum(counted.values()) == sum(expected.values())
        assert flop_share(24, 35) == Fraction(expected["attention"], sum(expected.values()))

    @pytest.mark.parametrize("name", ATTENTIONS)
    def test_block_is_timm_s(self, name):
        theirs = Block(24, 3, qkv_bias=True).eval()
        ours = TransformerBlock(24, 3)
        renamed = {key.replace("attn.", "").replace("mlp.", ""): value for key, value in theirs.state_dict().items()}
        ours.load_state_dict(renamed)
        x = torch.randn(2, 11, 24)
        torch.testing.assert_close(ours(x, ATTENTIONS[name]), theirs(x))

    def test_sweep_gives_one_row_per_length_and_attention(self):
        rounds = []
        before = torch.get_num_threads()
        record = sweep_blocks(8, 2, (16, 4, 4), budget_s=1e-9, on_round=lambda done, spent: rounds.append(done))
        assert torch.get_num_threads() == before
        assert [(row["tokens"], row["attention"]) for row in record["rows"]] == [
            (4, "fused"),
            (4, "eager"),
            (16, "fused"),
            (16, "eager"),
        ]
        assert record["rounds"] == len(rounds) == 5  # the least, whatever the budget
        for row in record["rows"]:
            assert 0 < row["time_share_p10"] <= row["time_share"] <= row["time_share_p90"] < 1
            assert row["flop_share"] == row["tokens"] / (row["tokens"] + 48)
            rate = 4 * 8 * row["tokens"] ** 2 / row["attention_ms"] / 1e6
            assert row["attention_gflop_per_s"] == pytest.approx(rate)
        assert record["crossover_tokens"]["flops"] == 48
        json.dumps(record, allow_nan=False)

    def test_sweep_leaves_out_what_does_not_fit(self, monkeypatch):
        def too_large(q, k, v):
            if q.shape[2] > 4:
                raise torch.OutOfMemoryError("no memory")
            return v

        monkeypatch.setitem(ATTENTIONS, "eager", too_large)
        record = sweep_blocks(8, 2, (4, 8), budget_s=1e-9)
        assert record["left_out"] == [{"tokens": 8, "attention": "eager", "reason": "out of memory"}]
        assert [(row["tokens"], row["attention"]) for row in record["rows"]] == [
            (4, "fused"),
            (4, "eager"),
            (8, "fused"),
        ]
        assert record["crossover_tokens"]["time"]["eager"] == {"tokens": None, "ci95": None}
        assert "eager attention at L = 8" in timings.block_table(record).note

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((8, 2, (4,)), "at least two positive lengths"), ((8, 3, (4, 8)), "got dim=8 and num_heads=3")],
    )
    def test_sweep_refuses_what_it_cannot_do(self, arguments, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            sweep_blocks(*arguments)

    def test_crossing_is_interpolated_in_log_tokens(self):
        lengths = np.array([10.0, 100.0, 1000.0, 10000.0])
        assert crossing(lengths, np.log(lengths / 300)) == pytest.approx(300)
        assert crossing(lengths, np.array([-1.0, 0.5, -0.5, 0.5])) == pytest.approx(math.sqrt(1000 * 10000))  # the last
        assert crossing(lengths, np.array([1.0, 1, 1, 1])) is None
        assert crossing(lengths, np.array([-1.0, -1, -1, -1])) is None
        assert crossing(lengths[:1], np.array([1.0])) is None

    def test_picture_shows_both_shares_and_the_crossovers(self, records):
        figure = charts.block_plot(records.blocks)
        x, y = artists(figure, "time-")["eager"].get_data()
        assert list(x) == [64, 256, 1024, 4096]
        assert y == pytest.approx([100 * 2 * n / (2 * n + 1152) for n in x])
        x, y = artists(figure, "flops")[""].get_data()
        assert y == pytest.approx(100 * x / (x + 1152))
        diamonds = sorted(line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "D")
        assert diamonds == [576, 1152, 1152]

    def test_finding_names_both_crossovers(self, records):
        said = findings.block_finding(records.blocks)
        assert "at 1,152 tokens (6D)" in said
        assert (
            "at 1,152 (95\u00a0% interval 1,100 to 1,200) with fused attention and at 576 with eager attention" in said
        )
        records.blocks["crossover_tokens"]["time"]["fused"] = {"tokens": None, "ci95": None}
        assert "not between 64 and 4,096 with fused attention" in findings.block_finding(records.blocks)


class TestThroughput:
    def test_bubbles_stand_where_rows_say(self, records):
        records.rows[2].status, records.rows[2].images_per_s = "oom", None  # is no bubble
        picture = sections.throughput_picture(records)
        assert (
            f"{VIT} at 224×224: 2.00 GMACs, {tables.three_digits(records.rows[1].images_per_s)} images/s, 100 MiB"
            in (picture.svg)
        )
        bubbles = [
            charts.Bubble(row.case.model, "attention", "o", row.gmacs, row.images_per_s, row.peak_memory_mib)
            for row in records.rows[:2]
        ]
        drawn = artists(charts.throughput_plot(bubbles), "bubble-")
        for i, row in enumerate(records.rows[:2]):
            assert drawn[str(i)].get_offsets().tolist() == [[row.gmacs, row.images_per_s]]
        areas = [drawn[str(i)].get_sizes()[0] for i in range(2)]
        assert areas[1] / areas[0] == pytest.approx(2)  # 100 MiB against 50 MiB

    def test_the_legend_names_every_model_once_by_its_marker_below_the_picture(self, records):
        bubbles = [
            charts.Bubble(model, "scan", charts.MARKERS[i], 1.0 + i, 2.0 - 0.1 * i + size, 100.0, first_size=not size)
            for size in range(2)
            for i, model in enumerate(records.models)
        ]
        figure = charts.throughput_plot(bubbles)
        figure.draw_without_rendering()  # lays it out
        (legend,), (axes,) = figure.legends, figure.axes
        assert [text.get_text() for text in legend.get_texts()] == records.models
        assert [line.get_marker() for line in legend.get_lines()] == list(charts.MARKERS[: len(records.models)])
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        assert legend.get_window_extent().x1 <= figure.bbox.x1

    def test_nothing_timed_is_no_picture(self, records):
        records.rows = []
        assert sections.throughput_picture(records) is None

    def test_findings_name_fastest_and_slowest_and_the_noise(self, records):
        said = " ".join(findings.findings(records))
        fastest = tables.three_digits(records.rows[0].images_per_s)
        assert f"At 224×224 pixels, {CONV} is the fastest with {fastest} images per second; {POOL} takes" in said
        assert re.search(r"takes [34]\.\d times as long \(95\u00a0% interval", said)
        assert "The machine was not quiet in 1 of 8 measurements" in said


class TestTables:
    @pytest.mark.parametrize("width", [80, 120])
    def test_a_terminal_gets_no_line_too_wide(self, records, width, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        file = Terminal()
        tables.print_tables([findings.verdict_table(records), Text("• between")], file)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.split()[:1] == [VIT] for line in lines) == {80: 4, 120: 2}[width]  # groups of columns
        note = " ".join(findings.verdict_table(records).note.split())
        assert note in " ".join(" ".join(lines).split())
        assert max(len(line) for line in lines[-5:-1]) > width - 20  # the note is not as narrow as the last columns

    def test_a_ratio_of_too_few_rounds_has_no_interval(self, records):
        for row in records.rows[:2]:
            row.round_medians_ms = row.round_medians_ms[:3]
        few, *enough = timings.ratio_table(ratios(records.rows)).rows
        assert few[3].text == "–"
        assert few[4].chip == "too few rounds"
        assert re.fullmatch(r"\d\.\d+–\d\.\d+", enough[-1][3].text)

    def test_verdicts_are_the_counted_ones(self, records):
        table = findings.verdict_table(records)
        names = [f"{column.name} {column.unit}" for column in table.columns]
        column = names.index("coco 800×1280")
        cells = {row[0].text: row[column] for row in table.rows}
        rho = records.of(VIT, *COCO).rho
        assert (cells[VIT].text, cells[VIT].chip) == (tables.three_digits(rho), "long")
        assert rho == pytest.approx((4000 + 1) / (6 * 192), rel=0.04)  # the whole model: embedding and head come on top
        assert (cells[CONV].text, cells[CONV].chip) == ("0", "never")
        crossover = names.index("ρ = 1 at pixels a side")
        assert [row[crossover].text for row in table.rows] == ["never", "550", "210", "never"]
        assert {row[-1].text for row in table.rows} == {"convolution", "attention", "causal attention", "pooling"}

    def test_stages_have_one_length_each(self, records):
        table = costs.stage_table(records.of(CONV, *COCO))
        names = [column.name for column in table.columns]
        rows = [dict(zip(names, [cell.text for cell in row], strict=True)) for row in table.rows]
        lengths = [row["L"] for row in rows if row["L"] != "–"]
        assert lengths == ["64,000", "16,000", "4,000", "1,000"]
        third = next(row for row in rows if row["stride"] == "16")
        assert (third["D"], third["6D"], third["L/6D"], third["ρ"]) == ("192", "1,152", "3.47", "0")

    def test_uncounted_operators_are_listed_by_name(self, records):
        table = findings.uncounted_table(records)
        rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
        gelu = next(item for item in records.of(CONV, None, (224, 224)).uncounted if item.op == "aten.gelu")
        assert rows["aten.gelu"][0] == tables.three_digits(gelu.elements / 1e6)

    def test_failures_and_noise_are_shown(self, records):
        records.rows[0].status, records.rows[0].message, records.rows[0].p50_ms = "oom", "no memory at all", None
        table = timings.timing_table(records.rows)
        chips = {cell.chip for row in table.rows for cell in row}
        assert {"oom", "drifting"} <= chips
        assert "no memory at all" in table.note

    def test_terminal_shows_what_the_page_shows(self, records):
        console = Console(width=250, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(tables.for_terminal(findings.verdict_table(records)))
        text = console.export_text()
        assert "3.38 long" in text
        assert "0 never" in text

    def test_a_row_of_another_length_is_refused(self):
        with pytest.raises(ValueError, match="expected 1 cells, got 2"):
            tables.Table("t", [tables.Column("a")]).add("x", "y")

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (99.96, "100"), (1234.5, "1,234"), (0.0999, "0.0999")],
    )
    def test_three_digits(self, value, text):
        assert tables.three_digits(value) == text


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.08))
def test_spread_labels_keep_order_and_distance(positions, gap):
    positions = np.array(positions)
    placed = charts.spread(positions, gap, 0, 1)
    order = np.argsort(positions, kind="stable")
    assert np.all(np.diff(placed[order]) >= gap - 1e-9)
    assert placed.min() >= -1e-9
    assert placed.max() <= 1 + 1e-9
    if len(positions) < 2 or np.diff(np.sort(positions)).min() >= gap:
        assert placed == pytest.approx(positions)


class TestRecords:
    def test_what_is_saved_is_loaded(self, records, tmp_path):
        records.save(tmp_path)
        assert Records.load(tmp_path) == records

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not the records of a comparison"),
            ("[]", "not the records of a comparison"),
            ('{"schema_version": 99}', "expected schema_version 1, got 99"),
            ('{"schema_version": 1, "analyses": [], "rows": [{}]}', "schema_version is missing"),
        ],
    )
    def test_other_content_is_refused(self, tmp_path, content, message):
        (tmp_path / RECORDS_FILE).write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            Records.load(tmp_path)
        assert str(tmp_path / RECORDS_FILE) in str(caught.value)

    def test_a_failed_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file"
        write_atomically("old", path)
        with pytest.raises(UnicodeEncodeError):
            write_atomically("new \ud800", path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
