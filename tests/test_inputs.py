"""The stage inputs: digests that change when, and only when, what lies outside of the project does."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_archive import unprivileged

from dgrl.datasets.catalog import parse_source
from dgrl.files import sha256
from pipeline.init import init
from pipeline.inputs import code_digests, inputs, main
from pipeline.paths import dropped, located
from pipeline.work import code

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    images = tmp_path / "images"
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(name.encode())
    (tmp_path / "weights.pth").write_bytes(b"weights")
    return tmp_path


def digests(source: dict[str, Any], weights: str = "none") -> dict[str, Any]:
    """What the stage writes for a set ``own``."""
    params = {"datasets": ["own"], "source": {"own": source}, "model": {"weights": weights}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    inputs("own")
    return {
        name: json.loads(Path(f"data/own/inputs/{name}.json").read_text()) for name in ("source", "weights")
    }


def test_a_file_has_its_sha256(project: Path) -> None:
    found = digests({"kind": "viper", "archive": "../weights.pth"}, "../weights.pth")
    expected = sha256(project / "weights.pth")
    assert found == {"source": {"archive": expected}, "weights": {"weights": expected}}


def test_names_that_are_no_files_have_no_digest(project: Path) -> None:
    source = {"kind": "folder", "root": "../nowhere", "pattern": r"(?P<person_id>\\d+)", "table": None}
    assert digests(source, "imagenet") == {"source": {}, "weights": {}}


def test_the_rcans_trained_before_have_theirs_by_scale(project: Path) -> None:
    for name in ("x2/rcan.safetensors", "x2/metrics.json", "x3/rcan.safetensors"):
        (project / "rcan" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "rcan" / name).write_text(name)
    params = {"datasets": ["own"], "source": {"own": {}}, "rcan": {"weights": "../rcan"}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    inputs("own")
    found = json.loads(Path("data/own/inputs/rcan.json").read_text())
    for none in ("a\0b", "a" * 5000, "", ["../rcan"]):
        Path("params.yaml").write_text(yaml.safe_dump(params | {"rcan": {"weights": none}}))
        inputs("own")
        assert Path("data/own/inputs/rcan.json").read_text() == "{}\n"
    assert found == {scale: sha256(project / f"rcan/{scale}/rcan.safetensors") for scale in ("x2", "x3")}


def test_a_person_who_was_forgotten_changes_the_digests(project: Path) -> None:
    source = {"kind": "folder", "root": "../images"}
    before = digests(source)["source"]
    Path("forgotten").mkdir()
    Path("forgotten/other.json").write_text('["a"]')
    assert digests(source)["source"] == before
    Path("forgotten/own.json").write_text('["a"]')
    assert digests(source)["source"] == before | {"forgotten": sha256(Path("forgotten/own.json"))}


def remove(images: Path) -> None:
    (images / "a/2.png").unlink()


def rename(images: Path) -> None:
    (images / "a/2.png").rename(images / "a/3.png")


def swap(images: Path) -> None:
    shutil.copy(images / "a/1.png", images / "a/2.png")


def rewrite_with_the_same_times(images: Path) -> None:
    file = images / "b/1.png"
    times = file.stat()
    file.write_bytes(b"B/1.png")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [remove, rename, swap, rewrite_with_the_same_times])
def test_a_folder_that_changes_has_another_digest(project: Path, change: Callable[[Path], None]) -> None:
    source = {"kind": "folder", "root": str(project / "images")}
    before = digests(source)
    assert digests(source) == before
    change(project / "images")
    assert digests(source) != before


def test_the_digest_of_a_folder_is_that_of_its_content(project: Path) -> None:
    before = digests({"root": str(project / "images")})
    shutil.copytree(project / "images", project / "copy")
    assert digests({"root": str(project / "copy")}) == before


def test_an_archive_in_the_drop_folder_counts(project: Path) -> None:
    source = {"kind": "viper", "archive": None}
    assert digests(source)["source"] == {}
    Path("data/drop").mkdir(parents=True)
    Path("data/drop/VIPeR.v1.0.zip").write_bytes(b"zip")
    assert digests(source)["source"] == {"archive": sha256(Path("data/drop/VIPeR.v1.0.zip"))}


def test_a_queued_experiment_finds_the_files_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is a copy of what git tracks."""
    expected = digests({}, "../weights.pth")["weights"]
    (project / "queue/copy").mkdir(parents=True)
    monkeypatch.chdir(project / "queue/copy")
    monkeypatch.setenv("DVC_ROOT", str(project / "project"))
    assert digests({}, "../weights.pth")["weights"] == expected


@pytest.mark.parametrize("source", [None, [], 3, "text"])
def test_wrong_sections_are_left_to_the_stage_that_reads_them(project: Path, source: Any) -> None:
    assert digests(source) == {"source": {}, "weights": {}}


def test_a_linked_folder_counts_by_its_name_and_is_not_followed(project: Path) -> None:
    source = {"root": str(project / "images")}
    before = digests(source)
    (project / "images/loop").symlink_to(project / "images")
    assert digests(source) != before


def test_a_pipe_is_not_waited_for(project: Path) -> None:
    source = {"root": str(project / "images")}
    before = digests(source)
    os.mkfifo(project / "images/pipe.png")
    assert digests(source) != before


def test_a_full_disk_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digests({})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "source.json")

    monkeypatch.setattr("pipeline.inputs.inputs", fail)
    monkeypatch.setattr(sys, "argv", ["pipeline", "inputs", "own"])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err.startswith("error: the disk is full")


def test_a_project_of_its_own_depends_on_digests_of_the_installed_code(project: Path) -> None:
    init(None)
    code_digests("own")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    written = {file.stem: file.read_text() for file in Path("data/own/inputs/code").iterdir()}
    assert set(written) == set(stages) - {"inputs"}
    for stage, text in written.items():
        digests = dict(line.split()[::-1] for line in text.splitlines())
        assert digests[f"pipeline/{stage}.py"] == sha256(ROOT / f"pipeline/{stage}.py")
        named = [dep for dep in stages[stage]["deps"] if dep.endswith(".py")]
        assert set(named) <= set(digests)
        assert not any("__pycache__" in name for name in digests)
    assert code("train", "own") == [Path("data/own/inputs/code/train.txt")]


def test_a_pattern_is_no_file_name(project: Path) -> None:
    long = r"(?P<person_id>\d+)_(?P<camera_id>\d+)" + "|x" * 200
    assert set(digests({"root": str(project / "images"), "pattern": long})["source"]) == {"root"}
    assert digests({"root": "x" * 300}, "x" * 300) == {"source": {}, "weights": {}}


@pytest.mark.parametrize("content", ["[]", "5", "[" * 100_000, "damaged", '"text"'])
def test_what_was_remembered_may_be_damaged(project: Path, content: str) -> None:
    source = {"root": str(project / "images")}
    expected = digests(source)
    memo = Path(".work/digests-own.json")
    known = json.loads(memo.read_text())
    memo.write_text(content)
    assert digests(source) == expected
    values: list[Any] = [5, "text", [], None]
    for value in (*values, known[str(project / "images/a/1.png")][:4]):
        memo.write_text(json.dumps(dict.fromkeys(known, value)))
        assert digests(source) == expected


def test_files_that_git_does_not_track_are_found_from_a_copy(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever param names them, in the sets of a pool too."""
    Path("own").mkdir()
    Path("x.mat").touch()
    Path("copy").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(Path.cwd()))
    monkeypatch.chdir("copy")
    sets = {
        "a": {"kind": "folder", "root": "own", "table": "t.csv"},
        "b": {"kind": "cuhk03", "new_protocol": "x.mat"},
    }
    found = located(parse_source({"kind": "pool", "sets": sets}, "pool")).sets
    assert found["a"].root == str(project / "project/own")
    assert found["a"].table == "t.csv"
    assert found["b"].new_protocol == str(project / "project/x.mat")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("viper", "VIPeR.v1.0.zip"),
        ("caviar", "CAVIAR4REID.zip"),
        ("market1501", "Market-1501-v15.09.15.zip"),
        ("cuhk03", "cuhk03_release.zip"),
        ("cuhk03", "cuhk-03.mat"),
    ],
)
def test_the_drop_folder_tells_the_benchmarks_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/drop").mkdir(parents=True)
    for other in ("CUHK01.zip", "README.md"):
        Path("data/drop", other).touch()
    assert dropped(kind) is None
    Path("data/drop", name).touch()
    assert dropped(kind) == Path("data/drop", name)


def test_a_drop_folder_that_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    with unprivileged() as home, pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        Path("data/drop").mkdir(parents=True)
        Path("data/drop").chmod(0)
        with pytest.raises(PermissionError):
            dropped("viper")
        Path("data/drop").chmod(0o700)
