from __future__ import annotations

import json
import os
from dataclasses import fields, replace

import pytest
from mixerzoo.benchmarks.timing.case import Case, Row, open_results, read_rows

CASE = Case("test_vit", (96, 96), threads=1)
ROW = Row(CASE, "ok", batch=1, p50_ms=2.5, round_medians_ms=[2.4, 2.6], fingerprint={"cpu": "x", "affinity": [0]})


def test_the_key_is_the_same_on_every_machine_and_for_ever():
    assert CASE.key == "1d05577f6e34b7ea"
    assert Case("test_vit", [96, 96], threads=1).key == CASE.key


def test_every_field_of_a_case_is_part_of_its_key():
    changed = {
        "model": "test_vit2",
        "image_size": (96, 128),
        "batch": 2,
        "dtype": "bfloat16",
        "mode": "train",
        "compile": True,
        "channels_last": True,
        "device": "cuda:1",
        "scenario": "offline",
        "threads": 2,
        "photos": "scikit-image",
    }
    assert set(changed) == {f.name for f in fields(Case)}
    keys = {replace(CASE, **{name: value}).key for name, value in changed.items()}
    assert len(keys | {CASE.key}) == len(changed) + 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dtype", "int8", "dtype: expected one of float32, bfloat16, float16, got 'int8'"),
        ("mode", "eval", "mode: expected one of infer, train"),
        ("scenario", "server", "scenario: expected one of single-stream, offline"),
        ("batch", 0, "batch: expected at least 1 image, got 0"),
        ("threads", 0, "threads: expected at least 1, got 0"),
        ("device", "tpu", "device: expected cpu, cuda or cuda:N, got 'tpu'"),
        ("device", "cuda:x", "device: expected cpu, cuda or cuda:N"),
        ("image_size", (0, 96), r"image_size: expected \(H, W\)"),
        ("image_size", (96,), r"image_size: expected \(H, W\)"),
    ],
)
def test_a_case_that_cannot_be_measured_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(CASE, **{field: value})


def test_a_row_survives_its_line():
    assert Row.from_json(ROW.to_json()) == ROW
    record = json.loads(ROW.to_json())
    assert list(record)[:2] == ["schema_version", "key"]
    assert record["key"] == CASE.key


def test_a_row_that_is_not_json_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"), open_results(tmp_path / "f.jsonl") as results:
        results.append(replace(ROW, p50_ms=float("nan")))
    assert (tmp_path / "f.jsonl").read_text() == ""


def test_rows_are_appended_and_read_back(tmp_path):
    path = tmp_path / "f.jsonl"
    for status in ("oom", "ok"):
        with open_results(path) as results:
            results.append(replace(ROW, status=status))
    rows, torn = read_rows(path)
    assert [row.status for row in rows] == ["oom", "ok"]
    assert torn == ""


@pytest.mark.parametrize("cut", [1, 5, 20, -30, -1])
def test_a_torn_last_line_is_told_and_cut_off_at_any_place(tmp_path, cut):
    path = tmp_path / "f.jsonl"
    line = ROW.to_json()
    path.write_text(line + "\n" + line[:cut])
    rows, torn = read_rows(path)
    assert rows == [ROW]
    assert torn == line[:cut]
    with open_results(path) as results:
        assert results.torn == torn
        results.append(ROW)
    assert path.read_text() == (line + "\n") * 2


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text(ROW.to_json())
    with open_results(path) as results:
        assert results.rows == [ROW]
        assert not results.torn
        results.append(ROW)
    assert read_rows(path) == ([ROW, ROW], "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# my notes", "line 1: expected a result row, got '# my notes'"),
        ("{}\n", "line 1: not a result row"),
        ("[1]\n", "line 1: not a result row"),
        (ROW.to_json()[:50] + "\n" + ROW.to_json() + "\n", "line 1"),
        ('{"schema_version": 99}\n', "line 1: expected schema_version 1, got 99"),
        (
            '{"schema_version": 1, "case": {"model": "x", "colour": 1}, "status": "ok"}\n',
            "line 1: not a result row.*colour",
        ),
        ('{"schema_version": 1, "case": {"model": "x"}, "status": "fine"}\n', "line 1: not a result row"),
        (b"\x89PNG\xff", "expected JSON Lines"),
    ],
)
def test_a_file_of_something_else_is_named_and_left_alone(tmp_path, content, message):
    path = tmp_path / "f.jsonl"
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"f\.jsonl.*{message}"), open_results(path):
        pass
    assert path.read_bytes() == content


def test_two_runs_cannot_write_to_one_file(tmp_path):
    path = tmp_path / "f.jsonl"
    with open_results(path), pytest.raises(ValueError, match="another run is writing"), open_results(path):
        pass
    with open_results(path):
        pass


def test_only_a_file_can_hold_rows(tmp_path):
    with pytest.raises(ValueError, match="expected a regular file"), open_results(os.devnull):
        pass
    with pytest.raises(IsADirectoryError), open_results(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), open_results(tmp_path / "missing" / "f.jsonl"):
        pass
