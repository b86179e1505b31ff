import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trcl_policy.files import (
    FileError,
    append_jsonl,
    read_json,
    read_jsonl,
    read_safetensors,
    replacing,
    write_bytes,
    write_json,
    write_safetensors,
    write_text,
)

RECORDS = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_written_json_reads_back_with_numpy_and_torch_numbers_as_plain_ones(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"b": np.float32(0.5), "a": torch.tensor([1, 2]), "c": None})
    text = (tmp_path / "deep" / "a.json").read_text()
    assert read_json(tmp_path / "deep" / "a.json") == {"b": 0.5, "a": [1, 2], "c": None}
    assert text.index('"b"') < text.index('"a"')  # order kept
    assert text.endswith("}\n")


def test_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as beside:
        beside.write_text(f"half {1 / 0}" if beside.write_text("half") else "")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_new_file_is_invisible_until_it_is_whole(tmp_path):
    with replacing(tmp_path / "a") as beside:
        beside.write_text("half")
        assert not (tmp_path / "a").exists()
        assert beside.parent == tmp_path  # same file system, or the rename would copy
    assert (tmp_path / "a").read_text() == "half"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_json_cannot_say_are_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"x": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_jsonl(tmp_path / "b", [{"x": 1}, {"x": value}])
    assert os.listdir(tmp_path) == []


def test_missing_file_unwritable_folder_and_foreign_contents_are_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff{")
    cases = [
        (lambda: read_json(tmp_path / "no"), FileError, f"can't read {tmp_path}/no: no such file or directory"),
        (lambda: write_text("/proc/no/x", ""), FileError, "can't write /proc/no/x: no such file or directory"),
        (lambda: write_text(tmp_path / "file" / "x", ""), FileError, "not a directory|file exists"),
        (lambda: append_jsonl(tmp_path, [{}]), FileError, f"can't append to {tmp_path}: is a directory"),
        (lambda: read_json(tmp_path / "file"), ValueError, "must be UTF-8 text, .* offset 0"),
        (lambda: read_safetensors(tmp_path / "no"), FileError, "no such file or directory"),
        (lambda: read_safetensors(tmp_path / "file"), ValueError, "must be a whole safetensors file"),
    ]
    for act, kind, pattern in cases:
        with pytest.raises(kind, match=pattern) as caught:
            act()
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_line_and_the_temporary_file_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    with pytest.raises(FileError, match=f"can't write {tmp_path}/a: no space left on device"):
        write_bytes(tmp_path / "a", b"x")
    with pytest.raises(FileError, match="no space left on device"):
        write_safetensors(tmp_path / "b", {"w": torch.zeros(3)})
    with pytest.raises(FileError, match=f"can't append to {tmp_path}/c: no space left on device"):
        append_jsonl(tmp_path / "c", RECORDS)
    assert os.listdir(tmp_path) == ["c"]
    assert (tmp_path / "c").stat().st_size == 0  # rolled back


def test_appended_lines_read_back_in_order(tmp_path):
    append_jsonl(tmp_path / "log", RECORDS[:1])
    append_jsonl(tmp_path / "log", [])
    append_jsonl(tmp_path / "log", RECORDS[1:])
    assert read_jsonl(tmp_path / "log") == RECORDS


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 200), texts=st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_log_torn_at_any_byte_keeps_its_whole_lines_and_can_go_on(tmp_path_factory, cut, texts):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    records = [{"n": number, "text": text} for number, text in enumerate(texts)]
    append_jsonl(path, records)
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole = data.count(b"\n")
    whole += data.split(b"\n")[-1].endswith(b"}") and json.loads(data.split(b"\n")[-1]) == records[whole]
    assert read_jsonl(path) == records[:whole]
    append_jsonl(path, [{"next": 1}])
    assert read_jsonl(path) == [*records[:whole], {"next": 1}]


def test_repair_cuts_the_torn_line_off_the_file_and_only_then(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert read_jsonl(path) == [{"a": 1}]
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2'
    assert read_jsonl(path, repair=True) == [{"a": 1}]
    assert path.read_bytes() == b'{"a": 1}\n'


def test_damage_before_the_last_line_is_named_by_its_line(tmp_path):
    (tmp_path / "log").write_bytes(b'{"a": 1}\n[2]\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* must be a JSON object, got"):
        read_jsonl(tmp_path / "log")


def test_safetensors_round_trip_with_views_shared_memory_and_metadata(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "turned": base.T,
        "base": base,
        "row": base[1],
        "count": torch.tensor(3),
        "parameter": torch.nn.Parameter(base),
    }
    write_safetensors(tmp_path / "a", tensors, {"format": "1"})
    loaded, metadata = read_safetensors(tmp_path / "a")
    assert metadata == {"format": "1"}
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_importing_files_loads_neither_torch_nor_numpy():
    code = "import sys, trcl_policy.files; print(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
