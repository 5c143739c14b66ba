"""RCAN by basicsr on small made images, and super-resolved tables against brute force."""

import hashlib
import json
import math
import stat
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dgrl.errors import InputError, WorkerError
from dgrl.images import Image, decode, pixel_sha256
from dgrl.random import named_generator
from dgrl.superres.params import RcanParams, SrParams
from dgrl.superres.pretrain import held_out, options, pretrain
from dgrl.superres.upscale import load_rcan, upscale_table
from dgrl.tables import SR_IMAGES, ImageRow, read_rows, shards, write_shard, write_table

ARCHITECTURE = {"num_feat": 8, "num_group": 1, "num_block": 1, "squeeze_factor": 4}
PARAMS = RcanParams(
    features=8,
    groups=1,
    blocks=1,
    squeeze=4,
    iterations=20,
    batch=4,
    patch=24,
    learning_rate=1e-3,
    milestones=(0.5, 0.75),
    warmup=5,
    ema_decay=0.5,
    val_fraction=0.25,
)


def smooth_image(*names: str | int, width: int = 48, height: int = 96) -> Image:
    coarse = named_generator("smooth", *names).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def image_row(image: Image, person: int, camera: str, factor: int = 1) -> ImageRow:
    image_id = f"{person:04d}_{camera}"
    return ImageRow.from_pixels(
        image,
        f"{image_id}.png",
        image_id=image_id,
        person_id=f"{person:04d}",
        camera_id=camera,
        subset="train",
        factor=factor,
    )


@pytest.fixture(scope="module")
def train_hr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight persons in two cameras; sizes differ and few are multiples of 3 and 4."""
    folder = tmp_path_factory.mktemp("hr") / "train"
    rows = [
        image_row(smooth_image(person, camera, width=48 + person, height=97), person, camera)
        for person in range(8)
        for camera in "ab"
    ]
    write_table(folder, rows)
    return folder


def dataset(table: Path, phase: str, scale: int = 3, **changes: Any) -> Any:
    from dgrl.superres.child import TableDataset

    persons = held_out([f"{person:04d}" for person in range(8)], 0.25, 0)
    opt = {"table": str(table), "phase": phase, "scale": scale, "held_out": persons, "patch": 24, "seed": 0}
    return TableDataset({**opt, **changes})


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
    assert made["network_g"]["num_feat"] == 8
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
        ({"features": 8}, r"features must be at least squeeze \(16\), not 8"),
        ({"milestones": [0.5, 100.0]}, r"milestones must be fractions between 0 and 1"),
        ({"iterations": 100, "warmup": 70}, r"warmup must end before the first milestone, not after 70"),
        ({"val_fraction": 1.0}, r"rcan.val_fraction = 1.0: input should be less than 1"),
    ],
)
def test_wrong_params_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RcanParams.parse(changes, "rcan")


def test_a_patch_larger_than_an_image_is_named(train_hr: Path, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"patch": 60})
    with pytest.raises(InputError, match=r"rcan.patch = 60 .*0000_a .*\(48x97\); set it to at most 48$"):
        pretrain(train_hr, tmp_path / "rcan", 2, params, tmp_path / "work")
    assert not (tmp_path / "rcan").exists()


def test_a_scale_not_in_the_params_is_named(train_hr: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x8 is not in rcan.scales \(2, 3, 4\)"):
        pretrain(train_hr, tmp_path / "rcan", 8, PARAMS, tmp_path / "work")


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
@pytest.mark.parametrize("phase", ["train", "val"])
def test_lr_is_the_area_mean_of_hr(train_hr: Path, phase: str, scale: int) -> None:
    data = dataset(train_hr, phase, scale)
    for index in range(len(data)):
        item = data[index]
        lr, hr = to_uint8(item["lq"]), to_uint8(item["gt"])
        height, width = lr.shape[:2]
        assert hr.shape == (height * scale, width * scale, 3)
        if phase == "train":
            assert hr.shape[:2] == (24, 24)
        blocks = hr.reshape(height, scale, width, scale, 3).mean(axis=(1, 3))  # an area mean, by NumPy
        assert np.abs(blocks - lr).max() <= 1


def test_patches_come_from_their_image_upright_and_sometimes_mirrored(train_hr: Path) -> None:
    data = dataset(train_hr, "train")
    images = {row.image_id: row.pixels() for row in read_rows(train_hr)}
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
        "rcan.safetensors",
    ]
    lines = (trained / "loss.csv").read_text().splitlines()
    assert lines[0] == "iteration,loss"
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(1, 21))
    assert load_rcan(trained / "rcan.safetensors").training is False


def test_metrics_are_those_of_the_held_out_images(trained: Path, train_hr: Path) -> None:
    import torch

    network = load_rcan(trained / "rcan.safetensors")
    errors: dict[str, list[float]] = {"psnr": [], "bicubic_psnr": []}
    data = dataset(train_hr, "val")
    for index in range(len(data)):
        item = data[index]
        hr, lr = to_uint8(item["gt"]), to_uint8(item["lq"])
        with torch.inference_mode():
            larger = to_uint8(network(item["lq"][None])[0].clamp(0, 1))
        bicubic = cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        errors["psnr"].append(brute_psnr(larger, hr))
        errors["bicubic_psnr"].append(brute_psnr(bicubic.astype(np.uint8), hr))
    metrics = json.loads((trained / "metrics.json").read_text())
    for name, values in errors.items():
        assert metrics[name] == pytest.approx(np.mean(values), abs=1e-3)
    assert metrics["gain_psnr"] == pytest.approx(metrics["psnr"] - metrics["bicubic_psnr"])
    assert metrics["images"] == len(data)
    assert metrics["iterations"] == 20
    assert 0 < metrics["ssim"] <= 1
    assert 0 < metrics["bicubic_ssim"] <= 1


def brute_psnr(image: Image, twin: Image) -> float:
    error = sum((int(a) - int(b)) ** 2 for a, b in zip(image.flat, twin.flat, strict=True)) / twin.size
    return 20 * math.log10(255) - 10 * math.log10(error)


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


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_training(train_hr: Path, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"learning_rate": 1e30, "warmup": 0})
    with pytest.raises(InputError, match=r"rcan_x2: the L1 loss is (nan|inf) at iteration \d+ .*lower"):
        pretrain(train_hr, tmp_path / "x2", 2, params, tmp_path / "work")
    assert not (tmp_path / "x2").exists()


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ("exit 3", RuntimeError, r"(?s)RCAN x2 failed with status 3; the end of .*log.txt:\n.*line 29$"),
        ("kill -9 $$", WorkerError, r"^RCAN x2 was killed by signal 9.*; lower rcan.batch"),
        ("exit 65", InputError, r"^line 29$"),
    ],
)
def test_a_failed_child_is_quoted_and_earlier_results_stay(
    train_hr: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    error: type[Exception],
    message: str,
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nfor i in $(seq 29); do echo "line $i"; done\n{ending}\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))
    (tmp_path / "x2").mkdir()
    (tmp_path / "x2" / "metrics.json").write_text("{}")
    with pytest.raises(error, match=message) as caught:
        pretrain(train_hr, tmp_path / "x2", 2, PARAMS, tmp_path / "work")
    assert "line 10\n" not in str(caught.value)
    assert (tmp_path / "x2" / "metrics.json").read_text() == "{}"


# ---- super-resolution ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Untrained networks."""
    import torch
    from basicsr.archs.rcan_arch import RCAN
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for factor in (2, 3, 4):
        torch.manual_seed(factor)
        architecture = {"num_in_ch": 3, "num_out_ch": 3, "upscale": factor, **ARCHITECTURE}
        paths[factor] = folder / f"x{factor}.safetensors"
        state = RCAN(**architecture).state_dict()
        save_file(state, paths[factor], {"architecture": json.dumps(architecture)})
    return paths


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An LR table with every factor in turn and two HR sizes, and its HR twins in another order."""
    folder = tmp_path_factory.mktemp("pairs")
    high, low = [], []
    for person in range(24):
        image = smooth_image(person, width=48, height=97 if person % 2 else 128)
        factor = 1 + person % 4
        height, width = (side // factor for side in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
        high.append(image_row(image, person, "a"))
        low.append(image_row(small, person, "a", factor))
    write_table(folder / "lr", low)
    write_table(folder / "hr", high[::-1])
    return folder / "lr", folder / "hr"


KEYS = ("image_id", "person_id", "camera_id", "subset", "factor")


@pytest.mark.parametrize("method", ["rcan", "bicubic", "none"])
def test_rows_keep_their_order_and_keys(
    pairs: tuple[Path, Path], weights: dict[int, Path], tmp_path: Path, method: Any
) -> None:
    lr, hr = pairs
    upscale_table(lr, tmp_path / "sr", weights, SrParams(method=method), hr)
    assert pq.read_schema(shards(tmp_path / "sr")[0]).equals(SR_IMAGES, check_metadata=True)
    twins = {row.image_id: row.pixels() for row in read_rows(hr)}
    for before, after in zip(read_rows(lr), read_rows(tmp_path / "sr"), strict=True):
        assert all(getattr(before, key) == getattr(after, key) for key in KEYS)
        image, twin = after.pixels(), twins[after.image_id]
        times = 1 if method == "none" else before.factor
        assert (after.width, after.height) == (before.width * times, before.height * times)
        assert image.shape == (after.height, after.width, 3)
        assert after.pixel_sha256 == pixel_sha256(image)
        if times == 1:
            assert after.data == before.data
        if method == "bicubic" and times > 1:
            expected = cv2.resize(before.pixels(), (after.width, after.height), interpolation=cv2.INTER_CUBIC)
            assert (image == expected).all()
        if image.shape != twin.shape:
            size = (twin.shape[1], twin.shape[0])
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)
        exact = (image == twin).all()
        assert after.psnr == pytest.approx(100 if exact else brute_psnr(image, twin))


def test_without_hr_there_is_no_psnr(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    upscale_table(pairs[0], tmp_path / "sr", {}, SrParams(method="bicubic"))
    assert all(row.psnr is None for row in read_rows(tmp_path / "sr"))


def test_bytes_do_not_depend_on_the_batch(
    pairs: tuple[Path, Path], weights: dict[int, Path], tmp_path: Path
) -> None:
    digests = set()
    for batch in (1, 2, 64):
        upscale_table(pairs[0], tmp_path / "sr", weights, SrParams(batch=batch), pairs[1])
        digests.add(hashlib.sha256(shards(tmp_path / "sr")[0].read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("method", ["rcan", "bicubic", "none"])
def test_bytes_do_not_depend_on_the_number_of_processes(
    pairs: tuple[Path, Path], weights: dict[int, Path], tmp_path: Path, method: Any
) -> None:
    rows = list(read_rows(pairs[0]))
    for name, part in (("0", rows[:3]), ("1", []), ("2", rows[3:])):  # the last one makes two jobs
        write_shard(tmp_path / f"lr/part-{name}.parquet", part)
    tables = []
    for workers in (1, 2, 3):
        upscale_table(tmp_path / "lr", tmp_path / "sr", weights, SrParams(method=method), pairs[1], workers)
        tables.append({path.name: path.read_bytes() for path in shards(tmp_path / "sr")})
    assert list(tables[0]) == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("table", ["lr", "hr"])
def test_an_unreadable_image_is_named_in_one_line(
    pairs: tuple[Path, Path], weights: dict[int, Path], tmp_path: Path, table: str, workers: int
) -> None:
    tables = dict(zip(("lr", "hr"), pairs, strict=True))
    damaged = [
        replace(row, data=row.data[:40]) if row.image_id == "0021_a" else row
        for row in read_rows(tables[table])
    ]
    write_table(tmp_path / table, damaged)
    tables[table] = tmp_path / table
    with pytest.raises(InputError, match=r"^0021_a.png \(0021_a\) is not a readable image; .*$") as caught:
        upscale_table(tables["lr"], tmp_path / "sr", weights, SrParams(), tables["hr"], workers)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sr").exists()


def test_each_factor_goes_through_its_own_network(
    pairs: tuple[Path, Path], weights: dict[int, Path], tmp_path: Path
) -> None:
    import torch

    upscale_table(pairs[0], tmp_path / "sr", weights, SrParams())
    for before, after in zip(read_rows(pairs[0]), read_rows(tmp_path / "sr"), strict=True):
        if before.factor == 1:
            continue
        network = load_rcan(weights[before.factor])
        images = torch.from_numpy(before.pixels().transpose(2, 0, 1)[None] / np.float32(255))
        with torch.inference_mode():
            expected = network(images)[0].clamp(0, 1).numpy().transpose(1, 2, 0) * 255
        assert np.abs(after.pixels() - expected).max() <= 0.501


def test_a_missing_twin_is_named(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    lr, hr = pairs
    write_table(tmp_path / "hr", [row for row in read_rows(hr) if row.image_id != "0005_a"])
    with pytest.raises(InputError, match=r"1 images of .* have no HR twin in .*, the first 0005_a;"):
        upscale_table(lr, tmp_path / "sr", {}, SrParams(method="bicubic"), tmp_path / "hr")
    assert not (tmp_path / "sr").exists()


def test_missing_weights_are_named(
    pairs: tuple[Path, Path], weights: dict[int, Path], tmp_path: Path
) -> None:
    some = {2: weights[2], 4: weights[4]}
    with pytest.raises(InputError, match=r"no RCAN weights for factor 3 \(have: \[2, 4\]\)"):
        upscale_table(pairs[0], tmp_path / "sr", some, SrParams())


def test_weights_of_another_factor_are_named(
    pairs: tuple[Path, Path], weights: dict[int, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"x4.safetensors is an RCAN x4, not x3"):
        upscale_table(pairs[0], tmp_path / "sr", {**weights, 3: weights[4]}, SrParams())


def test_a_file_without_an_rcan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rcan.safetensors does not exist; run the stage"):
        load_rcan(tmp_path / "rcan.safetensors")
    (tmp_path / "rcan.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match="is no RCAN of this project"):
        load_rcan(tmp_path / "rcan.safetensors")
