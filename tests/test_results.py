"""JSON files of earlier stages that are missing, damaged or lack an entry: one line that names the file."""

from pathlib import Path

import pytest

from dgrl.errors import InputError
from pipeline.results import read_json


def test_what_a_stage_wrote_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": {"b": [1, "\u00f6"]}}', "utf-8")
    assert read_json(tmp_path / "a.json") == {"a": {"b": [1, "\u00f6"]}}


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff", b"[]", b"3", b"[" * 99_999, b'{"a": 1'])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path} is damaged; delete it and run the stage that writes it$"):
        read_json(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.json does not exist; run the stage"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["{}", '{"a": {}}'])
def test_a_missing_entry(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a.json has no entry (a|b); delete it and run the stage"):
        read_json(tmp_path / "a.json")["a"]["b"]


def test_null_may_be_what_a_stage_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("null")
    assert read_json(path, dict | None) is None
    for damaged in ("", "{", "5", "[1]"):
        path.write_text(damaged)
        with pytest.raises(InputError, match=f"^{path} is damaged"):
            read_json(path, dict | None)
