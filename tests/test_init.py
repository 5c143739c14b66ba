"""``dgrl init``: own images become params that run, and nothing is asked, lost or half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from own_images import write_own_images

from dgrl.errors import InputError
from dgrl.mlr.protocol import plan_split
from pipeline.check import check, source_keys
from pipeline.init import init
from pipeline.params import load_params
from pipeline.preset import preset

ROOT = Path(__file__).parents[1]
OWN = Path("own")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(empty: Path) -> Path:
    """A project with nothing but params and presets; init lays down neither git nor DVC."""
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    for name in (".dvc", ".git"):
        Path(name).mkdir()
    for name in (".dvcignore", ".gitignore"):
        Path(name).touch()
    return empty


@pytest.fixture(autouse=True)
def _no_commit(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "project" in request.fixturenames:
        monkeypatch.setattr("pipeline.init._commit", lambda names: None)


def test_shrunk_queries_where_no_camera_is_of_low_resolution(project: Path) -> None:
    write_own_images(OWN)
    said = "\n".join(init("shop", OWN))
    assert "40 images of 10 persons by 2 cameras (gate, yard)" in said
    assert "for example gate/p01_1.png: person p01, camera gate" in said
    assert "shrunk by 2, 3 or 4" in said
    params = load_params()
    assert params.datasets == ["shop"]
    assert params.mlr.lr_camera["shop"] == "gate"
    assert "shop" not in params.mlr.real_lr
    assert params.train.persons_per_batch == 5  # half of ten are held out
    assert params.train.learning_rate == pytest.approx(
        0.02 * 5 / 12, abs=1e-4
    )  # as much smaller as the batch
    assert check("shop", params)


def test_a_camera_of_low_resolution_is_noticed(project: Path) -> None:
    write_own_images(OWN, sizes={"yard": (60, 140), "gate": (24, 60), "door": (64, 128)})
    said = "\n".join(init("shop", OWN))
    assert "gate is low-resolution: 24x60, others door 64x128, yard 60x140" in said
    params = load_params()
    assert (params.mlr.lr_camera["shop"], params.mlr.real_lr) == ("gate", ("caviar", "shop"))
    assert check("shop", params)


def test_roles_tell_several_cameras_of_low_resolution(project: Path) -> None:
    sizes = {"yard": (60, 140), "gate": (24, 60), "door": (30, 64)}
    write_own_images(OWN, sizes=sizes)
    with pytest.raises(InputError, match="several cameras are of low resolution"):
        init("shop", OWN)
    shutil.rmtree(OWN)
    write_own_images(OWN, name="{role}/{person}_{camera}_{index}.png", sizes=sizes)
    init("shop", OWN)
    params = load_params()
    assert (params.mlr.lr_camera["shop"], params.mlr.real_lr) == ("lr:*", ("caviar", "shop"))
    assert check("shop", params)


def test_all_persons_train_if_asked(project: Path) -> None:
    write_own_images(OWN)
    assert "all 10 persons train" in "\n".join(init("shop", OWN, use_all=True))
    params = load_params()
    keys = source_keys("shop", params)
    assert keys is not None
    split = plan_split(keys, "shop", params.mlr)
    assert len(split.train_persons) == len(split.test_persons) == 10
    tables = [entry.table for rows in split.entries.values() for entry in rows]
    assert {name: tables.count(name) for name in set(tables)} == {
        "train_hr": 40, "train_lr": 40, "query": 20, "gallery": 20,
    }  # fmt: skip
    init("shop", OWN)
    assert load_params().mlr.evaluate_on == "test"


def test_small_images_get_a_patch_that_fits_or_no_rcan(project: Path) -> None:
    write_own_images(OWN, sizes={"gate": (18, 40), "yard": (18, 40)})
    init("shop", OWN)
    assert (load_params().rcan.patch, load_params().sr.method) == (12, "rcan")
    shutil.rmtree(OWN)
    write_own_images(OWN, sizes={"gate": (10, 30), "yard": (10, 30)})
    init("shop", OWN)
    assert load_params().sr.method == "bicubic"


def test_a_table_says_who_is_seen_where(project: Path) -> None:
    write_own_images(OWN, name="{person}x{camera}x{index}.png")
    paths = sorted(path.name for path in OWN.iterdir())
    who = [path.split("x") for path in paths]
    rows = {"path": paths, "person_id": [w[0] for w in who], "camera_id": [w[1] for w in who]}
    pd.DataFrame(rows).to_csv(OWN / "who.csv", index=False)
    said = "\n".join(init("shop", table=OWN / "who.csv"))
    assert "10 persons by 2 cameras" in said
    assert "1 files (who.csv)" in said
    assert check("shop", load_params())


def test_an_edited_params_file_is_kept(project: Path) -> None:
    write_own_images(OWN)
    init("shop", OWN)
    assert not list(Path().glob("*.bak"))  # a preset's values can be had again
    text = Path("params.yaml").read_text()
    assert "params.yaml.1.bak" in "\n".join(init("shop", OWN, use_all=True))
    assert Path("params.yaml.1.bak").read_text() == text
    init("shop", OWN)
    assert Path("params.yaml.2.bak").exists()


def test_a_preset_keeps_what_was_edited_unless_forced(project: Path) -> None:
    text = Path("params.yaml").read_text().replace("gamma: 5.0", "gamma: 1.0")
    Path("params.yaml").write_text(text)
    assert preset("paper") == Path("params.yaml.1.bak")
    assert Path("params.yaml.1.bak").read_text() == text
    assert preset("synthetic") is None
    Path("params.yaml").write_text(text)
    assert preset("paper", force=True) is None
    assert len(list(Path().glob("*.bak"))) == 1


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("my shop", OWN, "is no name for a dataset"),
        ("shop", None, "give --from-folder DIR or --table FILE"),
        ("shop", Path("gone"), "gone does not exist"),
        ("shop", Path("presets"), "no images"),
        ("shop", Path(), "put the images into a folder of their own"),
        ("viper", OWN, "viper is the name of another set here"),
    ],
)
def test_a_mistake_changes_nothing(project: Path, name: str, folder: Path | None, said: str) -> None:
    before = Path("params.yaml").read_bytes()
    with pytest.raises(InputError, match=said):
        init(name, folder)
    assert Path("params.yaml").read_bytes() == before


def test_a_camera_may_have_a_name_with_the_signs_of_a_pattern(project: Path) -> None:
    write_own_images(OWN, sizes={"[gate]*": (64, 128), "yard?": (64, 128)})
    assert "the images of [gate]* are shrunk" in "\n".join(init("shop", OWN))
    params = load_params()
    keys = source_keys("shop", params)
    assert keys is not None
    queries = [
        name
        for name, rows in plan_split(keys, "shop", params.mlr).entries.items()
        if rows[0].table == "query"
    ]
    assert {name.partition("/")[0] for name in queries} == {"[gate]*"}


def test_folders_train_and_test_decide_who_trains(project: Path) -> None:
    for part, persons in (("train", range(1, 5)), ("test", range(5, 8))):
        write_own_images(Path("drawn"), persons=7)
        for person in persons:
            for file in Path("drawn").rglob(f"p0{person}_*"):
                target = OWN / part / file.relative_to("drawn")
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)
    assert "4 persons train" in "\n".join(init("shop", OWN))


def test_what_is_left_out_is_said_once(
    project: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own_images(OWN)
    (OWN / "notes.txt").write_text("notes")
    caplog.set_level("INFO")
    said = "\n".join([*init("shop", OWN), caplog.text])
    assert said.count("notes.txt") == 1


def test_too_few_persons_are_said_before_anything_is_written(empty: Path) -> None:
    write_own_images(OWN, persons=3)
    said = r"1 of 3 persons would train.*\(for example gate/p01_1.png: person p01, camera gate\)"
    with pytest.raises(InputError, match=said):
        init("shop", OWN)
    assert [path.name for path in Path().iterdir()] == ["own"]


def test_an_empty_folder_becomes_a_project_of_the_installed_code(empty: Path) -> None:
    write_own_images(OWN)
    init("shop", OWN)
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    checkout = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == list(checkout)
    for name, stage in stages.items():
        assert stage["cmd"].startswith("dgrl ")
        assert stage.get("params") == checkout[name].get("params")
        assert all(dep.startswith("data/") for dep in stage.get("deps", []))
    ignored = ["git", "check-ignore", "own/gate/p01_1.png"]
    assert subprocess.run(ignored, capture_output=True, check=False).returncode == 0
    log = subprocess.run(["git", "log", "--format=%s"], capture_output=True, text=True, check=True)
    assert log.stdout == "Start a dgrl project\n"
    assert subprocess.run([sys.executable, "-m", "dvc", "status"], capture_output=True).returncode == 0
    Path("params.yaml").unlink()
    with pytest.raises(InputError, match="run dgrl init in an empty folder"):
        init("shop", OWN)
