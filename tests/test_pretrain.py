"""RCAN by basicsr on small made images."""

import hashlib
import json
import shutil
import zipfile
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from small_images import RCAN as PARAMS
from small_images import brute_psnr, image_row, smooth_image, write_persons

from dgrl.errors import InputError
from dgrl.images import Image, decode
from dgrl.mlr.degrade import degradation
from dgrl.superres.params import RcanParams
from dgrl.superres.pretrain import held_out, options, pretrain, publish_trained
from dgrl.superres.upscale import load_rcan
from dgrl.tables import read_rows, write_table
from pipeline.params import Params, load_params
from pipeline.pretrain_sr import pretrain_sr

PARAMS_FILE = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture(scope="module")
def train_hr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_persons(tmp_path_factory.mktemp("hr") / "train")


def dataset(table: Path, phase: str, scale: int = 3, **changes: Any) -> Any:
    from dgrl.superres.child import TableDataset

    persons = held_out([f"{person:04d}" for person in range(8)], 0.25, 0)
    opt = {"table": str(table), "phase": phase, "scale": scale, "held_out": persons, "patch": 24, "seed": 0}
    return TableDataset({**opt, "degradation": ["area", 0], **changes})


def to_uint8(tensor: Any) -> Image:
    pixels: Image = (tensor.numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return pixels


# ---- the options -----------------------------------------------------------------------------------


def test_options_say_what_the_params_say(train_hr: Path, tmp_path: Path) -> None:
    made = options(train_hr, 3, PARAMS, tmp_path)
    assert yaml.safe_load(yaml.safe_dump(made)) == made  # nothing but YAML's own types
    train, val = made["datasets"]["train"], made["datasets"]["val"]
    assert train["patch"] == 24
    assert train["batch_size_per_gpu"] == 4
    assert train["held_out"] == val["held_out"] == held_out([f"{i:04d}" for i in range(8)], 0.25, 0)
    assert made["network_g"]["upscale"] == made["scale"] == 3
    assert made["network_g"]["num_feat"] == 16
    assert made["train"]["total_iter"] == 20
    assert made["train"]["scheduler"]["milestones"] == [10, 15]
    written = [made["path"]["experiments_root"], made["output"]]
    assert all(Path(path).is_relative_to(tmp_path) for path in written)


def test_an_epoch_holds_at_least_the_batches_of_a_short_run(train_hr: Path, tmp_path: Path) -> None:
    # basicsr drops the last, short batch: with fewer images than the batch it would train on nothing.
    made = options(train_hr, 2, PARAMS.model_copy(update={"batch": 64}), tmp_path)
    images = 2 * (8 - len(made["datasets"]["train"]["held_out"]))
    assert images * made["datasets"]["train"]["dataset_enlarge_ratio"] >= 64 * 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 32}, r"rcan: patch must be divisible by every scale of \(2, 3, 4\), not 32"),
        ({"scales": [2, 5]}, r"scales must be some of 2, 3, 4 and 8, not \(2, 5\)"),
        ({"features": 8}, r"rcan.features = 8: input should be greater than or equal to 16"),
        ({"milestones": [0.5, 100.0]}, r"milestones must be fractions between 0 and 1"),
        ({"iterations": 100, "warmup": 70}, r"warmup must end before the first milestone, not after 70"),
        (
            {"iterations": 2_000_000},
            r"input should be less than or equal to 1000000",
        ),
        ({"val_fraction": 1.0}, r"rcan.val_fraction = 1.0: input should be less than 1"),
    ],
)
def test_wrong_params_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RcanParams.parse(changes, "rcan")


def test_images_smaller_than_the_patch_are_left_out_and_counted(
    train_hr: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Widths are 48 to 55, two images of each."""
    made = options(train_hr, 2, PARAMS.model_copy(update={"patch": 52}), tmp_path)
    (message,) = caplog.messages
    assert message.startswith("8 of 16 images are smaller than rcan.patch = 52")
    large = [f"{person:04d}" for person in range(4, 8)]
    persons = made["datasets"]["val"]["held_out"]
    assert persons == held_out(large, 0.25, 0)
    for phase, count in (("train", 8 - 2 * len(persons)), ("val", 2 * len(persons))):
        data = dataset(train_hr, phase, 2, patch=52, held_out=persons)
        assert len(data) == count
        assert {name[:4] for name in data.image_ids} <= set(large)


def test_a_patch_larger_than_all_images_is_named(train_hr: Path, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"patch": 60})
    with pytest.raises(InputError, match=r"rcan.patch = 60 .* only 0 of the persons .*at most 48$"):
        pretrain(train_hr, tmp_path / "rcan", 2, params, tmp_path / "work")
    assert not (tmp_path / "rcan").exists()


def test_the_patch_is_checked_for_every_dataset_before_one_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second set has only images that are narrower than the patch; they are found first."""
    values = load_params(PARAMS_FILE).model_dump()
    values["datasets"] = ["synthetic", "viper"]
    values["rcan"] |= PARAMS.model_dump(mode="json")
    monkeypatch.chdir(tmp_path)
    write_persons(Path("data/synthetic/mlr/train_hr"))
    narrow = [image_row(smooth_image(person, width=16), person, "a") for person in range(4)]
    write_table(Path("data/viper/mlr/train_hr"), narrow)
    shutil.copy(PARAMS_FILE.with_name("dvc.yaml"), "dvc.yaml")
    real = {"mlr": values["mlr"] | {"real_lr": ["viper"], "training_pairs": "twin"}}  # it restores twins
    with pytest.raises(InputError, match=r"of data/viper/mlr/train_hr"):
        pretrain_sr("synthetic", 2, Params.parse(values | real, ""))
    with pytest.raises(InputError, match=r"patch = 24 fits .* of data/viper/mlr/train_hr.*at most 12"):
        pretrain_sr("synthetic", 2, Params.parse(values, ""))
    assert not Path("data/synthetic/rcan").exists()


def test_a_scale_not_in_the_params_is_named() -> None:
    with pytest.raises(InputError, match=r"scale 8 is not one of params.yaml's rcan.scales \(2, 3, 4\)"):
        pretrain_sr("synthetic", 8, load_params(PARAMS_FILE))


@pytest.mark.parametrize(("pairs", "wanted"), [("auto", False), ("person", False), ("twin", True)])
def test_real_lr_images_want_no_rcan_but_for_training_twins(
    train_hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: str, wanted: bool
) -> None:
    values = load_params(PARAMS_FILE).model_dump()
    values["mlr"]["training_pairs"] = pairs
    monkeypatch.chdir(tmp_path)
    shutil.copytree(train_hr, "data/caviar/mlr/train_hr")
    monkeypatch.setattr("pipeline.pretrain_sr.code", lambda *_: [])
    monkeypatch.setattr("pipeline.pretrain_sr.pretrain", lambda *_: {"psnr": 30.0})
    assert pretrain_sr("caviar", 2, Params.parse(values, "")) == ({"psnr": 30.0} if wanted else {})
    assert Path("data/caviar/rcan/x2/rcan.safetensors").exists() == (not wanted)


def test_rcans_trained_before_are_taken_as_they_are(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = load_params(PARAMS_FILE).model_dump()
    values["rcan"] |= {"weights": "before"}
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "before/x3")
    params = Params.parse(values, "")
    assert pretrain_sr("synthetic", 3, params) == {}
    weights, published = (trained / "rcan.safetensors").read_bytes(), Path("data/synthetic/rcan/x3")
    assert (published / "rcan.safetensors").read_bytes() == weights
    options = json.loads((published / "options.json").read_text())
    assert options == {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    assert (published / "metrics.json").read_text() == "{}\n"  # those of other persons say nothing here
    with pytest.raises(InputError, match=r"before/x2/rcan\.safetensors does not exist; give a folder"):
        pretrain_sr("synthetic", 2, params)
    with pytest.raises(InputError, match=r"cannot be read \(embedded null"):
        publish_trained(Path("data/synthetic/rcan/x2"), Path("a\0b"))
    assert not Path("data/synthetic/rcan/x2").exists()


# ---- the held-out persons --------------------------------------------------------------------------

PERSONS = st.lists(st.text(max_size=4), min_size=2, max_size=30, unique=True)


@settings(deadline=None)
@given(PERSONS, st.floats(0.01, 0.99), st.integers(0, 9))
def test_some_but_not_all_persons_are_held_out(persons: list[str], fraction: float, seed: int) -> None:
    chosen = held_out(persons, fraction, seed)
    assert 1 <= len(chosen) < len(persons)
    assert set(chosen) < set(persons)
    assert chosen == held_out(persons[::-1], fraction, seed)


def test_a_new_person_moves_no_other() -> None:
    persons = [str(number) for number in range(400)]
    chosen = held_out(persons, 0.1, 0)
    assert 20 < len(chosen) < 60  # binomial: 40, standard deviation 6
    assert set(held_out([*persons, "new"], 0.1, 0)) - {"new"} == set(chosen)


def test_one_person_is_too_few() -> None:
    with pytest.raises(InputError, match="two persons or more"):
        held_out(["0001"], 0.1, 0)


# ---- the data --------------------------------------------------------------------------------------


def test_no_held_out_person_is_trained_on(train_hr: Path) -> None:
    train, val = dataset(train_hr, "train"), dataset(train_hr, "val")
    training, validation = ({name[:4] for name in each.image_ids} for each in (train, val))
    assert validation == set(val.opt["held_out"])
    assert training.isdisjoint(validation)
    assert len(train) + len(val) == 16


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_is_the_area_mean_of_hr(tmp_path: Path, scale: int) -> None:
    """Of patches as of whole images, where the sides are multiples of the scale."""
    images = [smooth_image(person, width=48, height=96) for person in range(8)]
    write_table(tmp_path / "hr", [image_row(image, person, "a") for person, image in enumerate(images)])
    for phase in ("train", "val"):
        data = dataset(tmp_path / "hr", phase, scale)
        for index in range(len(data)):
            item = data[index]
            lr, hr = to_uint8(item["lq"]), to_uint8(item["gt"])
            height, width = lr.shape[:2]
            assert hr.shape == (height * scale, width * scale, 3)
            assert hr.shape[:2] == ((24, 24) if phase == "train" else (96, 48))
            blocks = hr.reshape(height, scale, width, scale, 3).mean(axis=(1, 3))  # an area mean, by NumPy
            assert np.abs(blocks - lr).max() <= 1


def test_lr_is_that_of_the_set_and_hr_shows_the_same(tmp_path: Path) -> None:
    """VIPeR by 3: 128 rows to 42, and RCAN makes 126. An even slope tells where each row is looked for."""
    slope = np.broadcast_to(np.linspace(0, 255, 128).round()[:, None, None], (128, 48, 3)).astype(np.uint8)
    write_table(tmp_path / "hr", [image_row(slope, person, "a") for person in range(8)])
    item = dataset(tmp_path / "hr", "val")[0]
    lr, hr = to_uint8(item["lq"]), to_uint8(item["gt"])
    assert (lr == cv2.resize(slope, (16, 42), interpolation=cv2.INTER_AREA)).all()
    assert hr.shape == (126, 48, 3)
    middles = (np.arange(126) + 0.5) * 128 / 126 - 0.5  # of the rows, in the rows of the original
    assert np.abs(hr[:, 0, 0] - middles.clip(0, 127) * 255 / 127).max() <= 1.5
    assert np.abs(hr.reshape(42, 3, 16, 3, 3).mean(axis=(1, 3)) - lr).max() <= 1


def test_lr_is_made_as_the_recipe_says(train_hr: Path, tmp_path: Path) -> None:
    """VPFA's way: Pillow, bicubic, its default JPEG."""
    how = degradation("vpfa")
    made = options(train_hr, 2, PARAMS, tmp_path, how)["datasets"]["val"]
    data = dataset(train_hr, "val", 2, degradation=made["degradation"])
    images = {row.image_id: PIL.Image.fromarray(row.pixels()) for row in read_rows(train_hr)}
    for index, name in enumerate(data.image_ids):
        hr = images[name]
        file = BytesIO()
        hr.resize((hr.width // 2, hr.height // 2), PIL.Image.Resampling.BICUBIC).save(file, "JPEG")
        assert (to_uint8(data[index]["lq"]) == np.array(PIL.Image.open(file))).all()


def test_patches_come_from_their_image_upright_and_sometimes_mirrored(train_hr: Path) -> None:
    data = dataset(train_hr, "train")
    images: dict[str, Any] = {
        row.image_id: cv2.resize(row.pixels(), (row.width // 3 * 3, 96), interpolation=cv2.INTER_CUBIC)
        for row in read_rows(train_hr)
    }
    mirrored = 0
    for _ in range(4):
        for index in range(len(data)):
            item = data[index]
            image, patch = images[item["gt_path"]], to_uint8(item["gt"])
            mirror = not _contains(image, patch)
            assert not mirror or _contains(image, patch[:, ::-1])
            mirrored += mirror
    assert 0 < mirrored < 4 * len(data)


def _contains(image: Image, patch: Image) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)[:, :, 0]
    return bool((windows == patch).all(axis=(2, 3, 4)).any())


def test_patches_change_from_visit_to_visit_and_repeat_from_run_to_run(train_hr: Path) -> None:
    first, again = dataset(train_hr, "train"), dataset(train_hr, "train")
    visits = [first[0]["gt"] for _ in range(6)]
    repeated = [again[0]["gt"] for _ in range(6)]
    assert all(left.equal(right) for left, right in zip(visits, repeated, strict=True))
    assert len({left.numpy().tobytes() for left in visits}) > 1


# ---- training --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(train_hr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    pretrain(train_hr, folder / "x3", 3, PARAMS, folder / "work")
    return folder / "x3"


def test_training_publishes_weights_metrics_and_the_loss(trained: Path, train_hr: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "loss.csv",
        "metrics.json",
        "options.json",
        "rcan.safetensors",
    ]
    assert json.loads((trained / "options.json").read_text()) == {
        **PARAMS.model_dump(mode="json", exclude={"scales", "weights"}),
        "kernel": "area",
        "jpeg_quality": 0,
    }
    lines = (trained / "loss.csv").read_text().splitlines()
    assert lines[0] == "iteration,loss"
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 21))
    assert load_rcan(trained / "rcan.safetensors").training is False
    with safe_open(trained / "rcan.safetensors", "np") as file:
        architecture = json.loads(file.metadata()["architecture"])
    said = {"num_feat": 16, "upscale": 3, "squeeze_factor": 16, "res_scale": 1}
    assert architecture.items() >= said.items()


def test_metrics_are_those_of_the_held_out_images(trained: Path, train_hr: Path) -> None:
    import torch

    network = load_rcan(trained / "rcan.safetensors")
    errors: dict[str, list[float]] = defaultdict(list)
    data = dataset(train_hr, "val")
    for index in range(len(data)):
        item = data[index]
        hr, lr = to_uint8(item["gt"]), to_uint8(item["lq"])
        with torch.inference_mode():
            larger = to_uint8(network(item["lq"][None])[0].clamp(0, 1))
        bicubic = cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        for name, image in (("psnr", larger), ("bicubic_psnr", bicubic.astype(np.uint8))):
            errors[name].append(brute_psnr(image, hr))
            errors[f"{name}_y"].append(luma_psnr(image, hr, border=3))
    metrics = json.loads((trained / "metrics.json").read_text())
    for name, values in errors.items():
        assert metrics[name] == pytest.approx(np.mean(values), abs=1e-3)
    assert metrics["gain_psnr"] == pytest.approx(metrics["psnr"] - metrics["bicubic_psnr"])
    assert metrics["images"] == len(data)
    assert metrics["iterations"] == 20
    assert 0 < metrics["ssim"] <= 1
    assert 0 < metrics["bicubic_ssim"] <= 1


def luma_psnr(image: Image, twin: Image, border: int) -> float:
    """Over Y of ITU-R BT.601 in [16, 235], as SR papers give it, without a border."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    inner = (slice(border, -border),) * 2
    error = ((image[inner].astype(float) - twin[inner]) @ weights) ** 2
    return float(10 * np.log10(255**2 / error.mean()))


def test_a_network_below_bicubic_is_told(
    train_hr: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = PARAMS.model_copy(update={"iterations": 1, "warmup": 0})
    metrics = pretrain(train_hr, tmp_path / "x2", 2, params, tmp_path / "work")
    below = metrics["bicubic_psnr"] - metrics["psnr"]
    assert below > 0
    (message,) = caplog.messages
    assert message.startswith(f"RCAN x2 is {below:.2f} dB below bicubic interpolation")


@pytest.mark.slow
def test_the_same_params_give_the_same_bytes(trained: Path, train_hr: Path, tmp_path: Path) -> None:
    pretrain(train_hr, tmp_path / "x3", 3, PARAMS, tmp_path / "work")
    for path in trained.iterdir():
        assert (tmp_path / "x3" / path.name).read_bytes() == path.read_bytes()


VIPER = Path(__file__).parents[2] / "shared/data/VIPeR.v1.0.zip"


@pytest.mark.slow
@pytest.mark.skipif(not VIPER.exists(), reason="needs VIPeR.v1.0.zip")
def test_a_small_budget_beats_bicubic_on_viper(tmp_path: Path) -> None:
    with zipfile.ZipFile(VIPER) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".bmp"))[:632]
        rows = [
            image_row(decode(archive.read(name), name), int(Path(name).name[:3]), name.split("/")[-2])
            for name in names
        ]
    write_table(tmp_path / "hr", rows)
    params = RcanParams(
        features=16,
        groups=1,
        blocks=2,
        iterations=400,
        patch=24,
        learning_rate=5e-3,
        milestones=(0.6, 0.8, 0.9),
        warmup=20,
        ema_decay=0.98,
    )
    metrics = pretrain(tmp_path / "hr", tmp_path / "x2", 2, params, tmp_path / "work")
    assert metrics["gain_psnr"] > 0.3  # +0.7 dB at 500 iterations
