"""``dgrl check``: what would stop a later stage is said before the first, in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from small_network import write_rcan
from typer.testing import CliRunner

from dgrl.errors import InputError
from dgrl.tables import read_keys
from pipeline.check import check, source_keys
from pipeline.cli import app
from pipeline.download import download
from pipeline.params import Params, load_params

ROOT = Path(__file__).parents[1]
PATTERN = r"(?P<camera_id>[^/]+)/(?P<person_id>[^_]+)_\d+\.png"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with ten persons of its own, two images of each by two cameras, 40x80."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    noise = np.random.default_rng(0).integers(0, 256, (80, 40, 3), np.uint8)
    for camera in ("gate", "yard"):
        Path("own", camera).mkdir(parents=True)
        for name in (f"p{person}_{index}.png" for person in range(10) for index in range(2)):
            cv2.imwrite(f"own/{camera}/{name}", noise)
    return tmp_path


def params(**sections: Any) -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["datasets"] = ["own"]
    values["source"]["own"] = {"kind": "folder", "root": "own", "pattern": PATTERN}
    values["mlr"]["lr_camera"]["own"] = "gate"
    values["train"]["persons_per_batch"] = 5
    for name, section in sections.items():
        values[name] |= section
    Path("params.yaml").write_text(yaml.safe_dump(values))
    return load_params()


def test_what_is_right_is_counted(project: Path) -> None:
    assert check("own", params()) == "own: 40 images of 10 persons, 2 cameras; 5 persons train"


def test_who_was_forgotten_is_not_counted(project: Path) -> None:
    Path("forgotten").mkdir()
    Path("forgotten/own.json").write_text('["p3"]')
    found = params(train={"persons_per_batch": 4})
    assert check("own", found) == "own: 36 images of 9 persons, 2 cameras; 4 persons train"
    assert check("own", found).startswith(f"own: {download('own', found)['images']} images")


def test_held_out_persons_fill_no_batch(project: Path) -> None:
    told = (
        "train.persons_per_batch = 5, but own has only 5 training persons, less 1 of train.held_out; lower it"
    )
    with pytest.raises(InputError, match=told):
        check("own", params(train={"held_out": 0.1}))
    check("own", params(train={"held_out": 0.2, "persons_per_batch": 4}))


@pytest.mark.parametrize("name", ["own", "synthetic"])
def test_the_keys_are_those_that_download_writes(project: Path, name: str) -> None:
    small = {"kind": "synthetic", "persons": 3, "width": 16, "height": 32}
    found = params(source={"synthetic": small})
    keys = source_keys(name, found)
    assert keys is not None
    download(name, found)
    written = read_keys(Path(f"data/{name}/images"))[list(keys.columns)]
    assert keys.to_dict("records") == written.to_dict("records")


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (
            "train",
            {"persons_per_batch": 6},
            "train.persons_per_batch = 6, but own has only 5 training persons",
        ),
        ("rcan", {"patch": 48}, "rcan.patch = 48 fits into images of 0 training persons"),
        ("rcan", {"scales": [2, 3]}, "mlr.factors has 4, but rcan.scales has not"),
        (
            "rcan",
            {"weights": "nowhere"},
            r"rcan.weights: nowhere/x2/rcan.safetensors cannot be read",
        ),
        ("rcan", {"weights": "a\0b"}, r"rcan.weights: 'a\\x00b/x2/rcan.safetensors' cannot be read"),
        ("rcan", {"weights": "a" * 5000}, r"rcan.weights: a+/x2/rcan.safetensors cannot be read"),
        ("mlr", {"lr_camera": {"own": "door"}}, "mlr.lr_camera.own = 'door' is no camera of own"),
        ("model", {"weights": "nowhere.pth"}, "model.weights = 'nowhere.pth': there is no such file"),
        ("source", {"own": {"kind": "folder", "root": "gone", "pattern": PATTERN}}, "gone does not exist"),
        ("source", {"own": {"kind": "cuhk03"}}, "cuhk03 has no public mirror"),
    ],
)
def test_a_mistake_is_named(project: Path, section: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check("own", params(**{section: values}))


def test_all_mistakes_are_named_at_once(project: Path) -> None:
    with pytest.raises(InputError) as caught:
        check("own", params(train={"persons_per_batch": 6}, model={"weights": "gone.pth"}))
    assert "persons_per_batch" in str(caught.value)
    assert "gone.pth" in str(caught.value)


def test_real_lr_images_need_no_rcan_but_for_twins(project: Path) -> None:
    real = {"real_lr": ["own"]}
    check("own", params(mlr=real, rcan={"patch": 48}))
    with pytest.raises(InputError, match=r"rcan\.patch = 48"):
        check("own", params(mlr=real | {"training_pairs": "twin"}, rcan={"patch": 48}))


def test_rcans_trained_before_want_no_patch_of_these_images(project: Path) -> None:
    for scale in (2, 3, 4):
        write_rcan(Path("before"), scale)
    before = {"patch": 48, "weights": "before"}
    check("own", params(rcan=before))
    shutil.copy("before/x2/rcan.safetensors", "before/x3/rcan.safetensors")
    with pytest.raises(InputError, match=r"rcan.weights: before/x3/rcan.safetensors is an RCAN x2, not x3"):
        check("own", params(rcan=before))
    Path("before/x3/rcan.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"rcan.weights: before/x3/rcan.safetensors is damaged"):
        check("own", params(rcan=before))


def test_a_file_that_is_no_image_is_named(project: Path) -> None:
    Path("own/gate/p3_1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"gate/p3_1\.png is not a readable image"):
        check("own", params())


def inputs() -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "pipeline", "inputs", "own"]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_the_first_stage_asks_where_something_has_changed(project: Path) -> None:
    params(train={"persons_per_batch": 6})
    for _ in range(2):
        ran = inputs()
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
        assert "persons_per_batch" in ran.stderr
    params()
    assert inputs().returncode == 0
    shutil.rmtree("own/yard")
    assert "no test person" in inputs().stderr


def test_a_benchmark_is_known_once_it_is_downloaded(project: Path) -> None:
    found = params(source={"viper": {"kind": "viper", "archive": "own"}})
    assert check("viper", found) == "viper: more is known once its archive is read"
    shutil.copytree("own/gate", "data/viper/images")
    with pytest.raises(InputError, match="holds no table"):
        check("viper", found, downloaded=True)
    shutil.rmtree("data")
    download("own", found)
    shutil.move("data/own", "data/viper")
    Path("data/viper/images/splits.json").write_text(json.dumps([["p0", "p1", "p2"]]))
    wanted = params(mlr={"lr_camera": {"own": "gate", "viper": "gate"}})
    assert check("viper", wanted, downloaded=True).endswith("2 cameras; 7 persons train")


def test_a_pool_is_known_once_it_is_downloaded(project: Path) -> None:
    sets = {"own": {"kind": "folder", "root": "own", "pattern": PATTERN}}
    found = params(
        source={"pool": {"kind": "pool", "sets": sets}},
        mlr={"evaluate_on": "val", "lr_camera": {"own": "gate", "pool": "*:gate"}},
        train={"persons_per_batch": 500},
    )
    download("pool", found)
    done = CliRunner().invoke(app, ["split", "pool"])
    assert "train.persons_per_batch = 500, but pool has only" in str(done.exception)
    assert not Path("data/pool/mlr").exists()
