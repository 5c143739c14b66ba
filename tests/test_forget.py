"""dgrl forget: afterwards no file has a byte of the person, whoever looks for it."""

import base64
import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_network import FakeNetwork
from small_images import smooth_image

from dgrl import tables
from dgrl.embedders import embedder as door
from dgrl.errors import InputError
from dgrl.images import encode_png
from dgrl.mlr.protocol import table_digest
from dgrl.report.render import photo
from dgrl.search.blur import blur_faces
from dgrl.search.index import KINDS, Index
from dgrl.tables import read_keys, read_rows
from pipeline.cli import main
from pipeline.forget import holders

pytest.importorskip("faiss")

ROOT = Path(__file__).parents[1]
VIPER = ROOT.parent / "shared/data/VIPeR.v1.0.zip"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def dgrl(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Command:
    """Run the command in a project folder, with a fake network for every file; status, and what it says."""
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    monkeypatch.setattr(door, "load_embedder", lambda *_, **__: FakeNetwork())

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dgrl", *arguments])
        caplog.clear()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), caplog.text + capsys.readouterr().err

    return run


def small_synthetic() -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["source"]["synthetic"] |= {"persons": 8, "images_per_camera": 1, "width": 16, "height": 32}
    Path("params.yaml").write_text(yaml.safe_dump(params))


def prepare(dgrl: Command, dataset: str, kind: str) -> None:
    """Tables of a dataset, an index of its gallery, and what the stages evaluate and cache_sr leave."""
    for stage in ("download", "split"):
        assert dgrl(stage, dataset)[0] == 0
    root = Path("data") / dataset
    shutil.copytree(root / "mlr/query", root / "sr/query")
    assert (
        dgrl("index", str(root / "mlr/gallery"), "--model", "m.onnx", "--out", "idx", "--kind", kind)[0] == 0
    )
    rows = [*read_rows(root / "sr/query"), *read_rows(root / "mlr/gallery")]
    vectors = FakeNetwork().embed([row.pixels() for row in rows], "hr")
    keys = {name: [getattr(row, name) for row in rows] for name in ("image_id", "person_id")}
    (root / "eval").mkdir()
    pd.DataFrame(keys | {"embedding": list(vectors)}).to_parquet(root / "eval/embeddings.parquet")
    (root / "eval/ranked").mkdir()
    for row in rows[:4]:
        (root / "eval/ranked" / f"{row.image_id}.png").write_bytes(row.data)
    (root / "eval/report.html").write_text(" ".join(photo(row.pixels()) for row in rows))


def everything(root: Path) -> Iterator[bytes]:
    """All bytes of all files, and all values of the Parquet files as pandas reads them."""
    for path in root.rglob("*"):
        if path.is_file():
            yield path.read_bytes()
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            for column in frame.columns:
                for value in frame[column]:
                    inner = value.get("bytes") if isinstance(value, dict) else value
                    yield inner if isinstance(inner, bytes) else np.asarray(inner).tobytes()


def traces_of(dataset: str, person: str) -> list[bytes]:
    """The images in all tables, and the embeddings of those that ``prepare`` embeds."""
    root = Path("data") / dataset
    rows = [row for shard in root.rglob("part-*.parquet") for row in read_rows(shard)]
    embedded = [row for table in ("sr/query", "mlr/gallery") for row in read_rows(root / table)]
    pixels = [row.pixels() for row in embedded if row.person_id == person]
    vectors = FakeNetwork().embed(pixels, "hr")
    return [*{row.data for row in rows if row.person_id == person}, *map(np.ndarray.tobytes, vectors)]


def check(dgrl: Command, dataset: str, person: str) -> None:
    """Forget a person who is in the index and the report; all others stay as they were."""
    root = Path("data") / dataset
    traces = traces_of(dataset, person)
    before = {shard: list(read_rows(shard)) for shard in root.rglob("part-*.parquet")}
    held = b"".join(everything(Path("data")))
    assert [len(trace) for trace in traces if trace not in held] == []
    status, said = dgrl("forget", person, "--dataset", dataset, "--index", "idx")
    assert status == 0, said
    assert "no byte of them is left under data or idx" in said
    for folder in ("data", "idx"):
        held = b"".join(everything(Path(folder)))
        assert not [trace for trace in traces if trace in held]
    for shard, rows in before.items():
        assert list(read_rows(shard)) == [row for row in rows if row.person_id != person]
    index = Index.load(Path("idx"))
    assert person not in set(index.rows.person_id)
    assert len(index.rows) > 0
    assert json.loads(Path(f"forgotten/{dataset}.json").read_text()) == [person]
    assert not list((root / "eval").rglob("*.png"))
    assert not (root / "eval/report.html").exists()
    described = json.loads((root / "mlr/split.json").read_text())
    assert person not in described["train_persons"] + described["test_persons"]
    assert not [image_id for image_id in described["factors"] if image_id.startswith(person)]
    for table, digest in described["digests"].items():
        keys = read_keys(root / "mlr" / table)
        assert digest == table_digest(keys)
        assert described["counts"][table]["images"] == len(keys)


@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_of_a_person_is_left(dgrl: Command, kind: str) -> None:
    small_synthetic()
    prepare(dgrl, "synthetic", kind)
    person = next(iter(read_rows(Path("data/synthetic/mlr/query")))).person_id
    check(dgrl, "synthetic", person)
    status, said = dgrl("forget", person, "--dataset", "synthetic")
    assert status == 1
    assert f"nothing is known of the person '{person}'" in said
    before = traces_of("synthetic", person)
    for stage in ("download", "split"):  # the source still has the person
        assert dgrl(stage, "synthetic")[0] == 0
    assert before == traces_of("synthetic", person) == []
    assert len(set(read_keys(Path("data/synthetic/images")).person_id)) == 7


@pytest.mark.slow
def test_no_byte_of_a_person_of_viper_is_left(dgrl: Command) -> None:
    if not VIPER.exists():
        pytest.skip(f"{VIPER.name} is not here")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["source"]["viper"]["archive"] = str(VIPER)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    prepare(dgrl, "viper", "exact")
    check(dgrl, "viper", next(iter(read_rows(Path("data/viper/mlr/query")))).person_id)


def test_a_query_that_was_left_out_is_named_no_more(dgrl: Command) -> None:
    for person in range(20):
        for camera in "ab" if person % 2 else "a":  # the even ones have no gallery image
            file = Path(f"own/{camera}/p{person:02}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_png(smooth_image(person)))
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["source"]["own"] = {
        "kind": "folder",
        "root": "own",
        "pattern": r"(?P<camera_id>\w)/(?P<person_id>p\d+)\.png",
    }
    params["mlr"]["lr_camera"]["own"] = "a"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("download", "split"):
        assert dgrl(stage, "own")[0] == 0
    left_out = json.loads(Path("data/own/mlr/split.json").read_text())["left_out_queries"]
    assert len(left_out) > 1
    rows = read_rows(Path("data/own/images"))
    name = next(row.person_id for row in rows if row.image_id == left_out[0])
    status, said = dgrl("forget", name, "--dataset", "own")
    assert status == 0, said
    assert json.loads(Path("data/own/mlr/split.json").read_text())["left_out_queries"] == left_out[1:]
    assert not [file for file in Path("data").rglob("*.json") if name in file.read_text()]


def test_files_that_still_hold_the_person_are_named(dgrl: Command) -> None:
    small_synthetic()
    prepare(dgrl, "synthetic", "exact")
    row = next(iter(read_rows(Path("data/synthetic/mlr/query"))))
    cached = Path(".dvc/cache/files/md5/ab/cdef")
    cached.parent.mkdir(parents=True)
    shutil.copy("data/synthetic/mlr/query/part-00000.parquet", cached)
    for left in (".work/train-synthetic-0123/hr.npy", ".dvc/tmp/exps/run"):
        Path(left).parent.mkdir(parents=True, exist_ok=True)
        Path(left).write_bytes(b"decoded")
    Path("data/drop").mkdir()
    Path("data/drop/copy.html").write_text(f"<img src='{photo(row.pixels())}'>")
    Path("data/drop/shared.html").write_text(blur_faces(f"<img src='{photo(row.pixels())}'>"))
    with zipfile.ZipFile("data/drop/set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.png", row.data)
    status, said = dgrl("forget", row.person_id, "--dataset", "synthetic", "--index", "idx")
    assert status == 1
    assert (
        "the person is still in data/drop/copy.html, data/drop/set.zip, data/drop/shared.html; take it out"
        in said
    )
    assert "earlier versions are still in .dvc/cache/files/md5/ab/cdef; dvc gc --workspace" in said
    assert "killed and queued runs have left .work/train-synthetic-0123, .dvc/tmp/exps; delete it" in said


def test_every_index_under_data_is_cleaned(dgrl: Command) -> None:
    small_synthetic()
    prepare(dgrl, "synthetic", "exact")
    root = Path("data/synthetic/mlr")
    for name in ("data/people", "data/deep/er"):
        dgrl("index", str(root / "query"), "--model", "m.onnx", "--out", name)
    person = next(iter(read_rows(root / "query"))).person_id
    others = Index.load(Path("data/people")).rows.person_id != person
    status, said = dgrl("forget", person, "--dataset", "synthetic", "--index", "idx")
    assert status == 0, said
    for name in ("data/people", "data/deep/er"):
        assert len(Index.load(Path(name)).rows) == others.sum() == len(others) - 1


def test_a_killed_run_can_be_repeated(dgrl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    small_synthetic()
    prepare(dgrl, "synthetic", "exact")
    person = next(iter(read_rows(Path("data/synthetic/mlr/query")))).person_id
    traces = traces_of("synthetic", person)
    write, written = tables.write_shard, 0

    def killed(path: Path, rows: list[tables.ImageRow]) -> None:
        nonlocal written
        if written == 3:
            raise InputError("killed")
        written += 1
        write(path, rows)

    monkeypatch.setattr(tables, "write_shard", killed)
    assert dgrl("forget", person, "--dataset", "synthetic", "--index", "idx")[0] == 1
    monkeypatch.setattr(tables, "write_shard", write)
    assert [trace for trace in traces if trace in b"".join(everything(Path("data")))]
    status, said = dgrl("forget", person, "--dataset", "synthetic", "--index", "idx")
    assert status == 0, said
    held = b"".join([*everything(Path("data")), *everything(Path("idx"))])
    assert not [trace for trace in traces if trace in held]


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": 1}', "0001"])
def test_a_damaged_list_of_the_forgotten_is_no_empty_one(dgrl: Command, content: str) -> None:
    small_synthetic()
    Path("forgotten").mkdir()
    Path("forgotten/synthetic.json").write_text(content)
    status, said = dgrl("download", "synthetic")
    assert status == 1
    assert "forgotten/synthetic.json is no list of person_ids" in said
    assert not Path("data/synthetic/images").exists()


def test_an_index_alone(dgrl: Command) -> None:
    Path("gallery").mkdir()
    for person in range(4):
        Path(f"gallery/p{person}.png").write_bytes(encode_png(smooth_image(person)))
    pattern = r"p(?P<person_id>\d)\.png"
    dgrl("index", "gallery", "--model", "m.onnx", "--out", "idx", "--pattern", pattern)
    status, said = dgrl("forget", "2", "--index", "idx")
    assert status == 0
    assert (
        f"delete these images too, or dgrl index adds them again: {Path('gallery/p2.png').resolve()}" in said
    )
    assert set(Index.load(Path("idx")).rows.person_id) == {"0", "1", "3"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["1"], "say where: --dataset NAME, or --index DIR"),
        (["1", "--dataset", "gone"], "data/gone does not exist"),
        (["1", "--index", "gone"], "gone is no index"),
    ],
)
def test_a_mistake_is_named(dgrl: Command, arguments: list[str], said: str) -> None:
    status, output = dgrl("forget", *arguments)
    assert status == 1
    assert said in output


def test_traces_are_found_wherever_they_lie(tmp_path: Path) -> None:
    trace = hashlib.sha256(b"trace").digest() * 20
    pd.DataFrame({"a": [b"x" * 5000, trace]}).to_parquet(tmp_path / "table.parquet", compression="zstd")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b", b"0" * 10 + trace)
    (tmp_path / "raw").write_bytes(b"12" + trace)
    (tmp_path / "none").write_bytes(trace[:-1] + b"?")
    (tmp_path / "text.html").write_bytes(base64.b64encode(trace))
    found = {path.name for path in holders([trace, base64.b64encode(trace)], [tmp_path])}
    assert found == {"table.parquet", "a.zip", "raw", "text.html"}


def test_a_file_that_cannot_be_unpacked_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x", b"trace")
    locked = bytearray((tmp_path / "a.zip").read_bytes())
    locked[6] |= 1  # encrypted, says the local header, and the central one
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(locked)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more, but the trace")
    assert {path.name for path in holders([b"trace"], [tmp_path])} == {"a.zip", "b.parquet"}
    assert not list(holders([b"other"], [tmp_path]))
    assert "a.zip cannot be unpacked" in caplog.text
    assert "b.parquet cannot be unpacked" in caplog.text


@pytest.mark.parametrize("name", ["mlr/split.json", "eval/embeddings.parquet"])
def test_a_damaged_result_is_named_and_the_person_stays_known(dgrl: Command, name: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["source"]["synthetic"] |= {"persons": 8, "images_per_camera": 1, "width": 16, "height": 32}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("download", "split"):
        assert dgrl(stage, "synthetic")[0] == 0
    file = Path("data/synthetic", name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"PAR1 {")
    status, said = dgrl("forget", "0001", "--dataset", "synthetic")
    assert status == 1
    assert f"{file} is damaged" in said
    file.unlink()
    status, said = dgrl("forget", "0001", "--dataset", "synthetic")
    assert status == 0, said
    assert "removed 4 images" in said
