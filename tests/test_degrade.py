"""LR images by the recipes of public code, against the library calls of the public scripts themselves."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy.stats import chisquare
from small_images import smooth_image

from dgrl.errors import InputError
from dgrl.images import Image, pixel_sha256
from dgrl.mlr.degrade import Entry, degradation, make_row
from dgrl.mlr.protocol import MlrParams, plan_split
from dgrl.tables import ImageRow, read_rows
from pipeline.download import download
from pipeline.params import Params, load_params
from pipeline.split import split

VIPER = Path(__file__).parents[2] / "shared/data/VIPeR.v1.0.zip"


def dgrl(image: Image, r: int) -> Image:
    """Paper IV-C: "resampling using pixel area relation"."""
    size = image.shape[1] // r, image.shape[0] // r
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def pil(image: Image, r: int, kernel: PIL.Image.Resampling) -> PIL.Image.Image:
    size = image.shape[1] // r, image.shape[0] // r
    return PIL.Image.fromarray(image).convert("RGB").resize(size, kernel)


def sing(image: Image, r: int) -> Image:
    return np.array(pil(image, r, PIL.Image.Resampling.BICUBIC))


def dil(image: Image, r: int) -> Image:
    """core/data/tranform/degrade_function.py, down_sample_degradation, with a factor that is drawn before."""
    size = [round(image.shape[1] // r), round(image.shape[0] // r)]
    return np.array(PIL.Image.fromarray(image).resize(size=size, resample=PIL.Image.Resampling.BILINEAR))


def prpr(image: Image, r: int) -> Image:
    """predata/camera_mlr_market.py, lines 62 to 66: OpenCV's own JPEG, at its default quality."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    small = cv2.resize(bgr, (int(bgr.shape[1] / r), int(bgr.shape[0] / r)), interpolation=cv2.INTER_LINEAR)
    read: Any = cv2.imdecode(cv2.imencode(".jpg", small)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(read[:, :, ::-1])


def vpfa(image: Image, r: int) -> Image:
    """dataset_preprocessing/down_sample_viper.py, lines 9 and 34: Pillow's JPEG, at its default quality."""
    return saved(pil(image, r, PIL.Image.Resampling.BICUBIC), "JPEG")


def saved(image: PIL.Image.Image, form: str) -> Image:
    file = io.BytesIO()
    image.save(file, form)
    return np.array(PIL.Image.open(file).convert("RGB"))


SCRIPTS = {"dgrl": dgrl, "sing": sing, "dil": dil, "prpr": prpr, "vpfa": vpfa}


def row(pixels: Image) -> ImageRow:
    names: Any = {"image_id": "1_a", "person_id": "1", "camera_id": "a", "subset": "all"}
    return ImageRow.from_pixels(pixels, "1_a.bmp", **names, factor=1)


def low_row(pixels: Image, r: int, *recipe: object) -> ImageRow:
    return make_row(row(pixels), Entry("query", "1_a", r), degradation(*recipe))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(48, 128), (61, 97)])
@pytest.mark.parametrize("r", [2, 3, 4])
@pytest.mark.parametrize("recipe", SCRIPTS)
def test_a_recipe_gives_the_pixels_of_its_script(recipe: str, r: int, size: tuple[int, int]) -> None:
    image = smooth_image(*size, width=size[0], height=size[1])
    low = low_row(image, r, recipe)
    expected = SCRIPTS[recipe](image, r)
    np.testing.assert_array_equal(low.pixels(), expected)
    assert low.pixel_sha256 == pixel_sha256(expected)
    assert (low.width, low.height) == (size[0] // r, size[1] // r)
    suffix, start = (".jpg", b"\xff\xd8") if recipe in ("prpr", "vpfa") else (".png", b"\x89PNG")
    assert (low.path.endswith(suffix), low.data.startswith(start)) == (True, True)


def test_the_recipes_differ() -> None:
    image = smooth_image(0, width=48, height=128)
    assert len({low_row(image, 3, recipe).pixel_sha256 for recipe in SCRIPTS}) == len(SCRIPTS)


def test_kernel_and_storage_of_their_own_go_before_the_recipes() -> None:
    """VPFA's scripts of Market-1501 (Lanczos, JPEG) and CUHK03 (bilinear, PNG)."""
    image = smooth_image(0, width=64, height=128)
    market = saved(pil(image, 3, PIL.Image.Resampling.LANCZOS), "JPEG")
    cuhk03 = saved(pil(image, 3, PIL.Image.Resampling.BILINEAR), "PNG")
    cubic = cv2.resize(image, (21, 42), interpolation=cv2.INTER_CUBIC)
    assert (low_row(image, 3, "vpfa", "pil_lanczos").pixels() == market).all()
    assert (low_row(image, 3, "vpfa", "pil_bilinear", 0).pixels() == cuhk03).all()
    assert (low_row(image, 3, "dgrl", "cubic").pixels() == cubic).all()


def viper(recipe: str) -> Params:
    values = load_params(Path(__file__).parents[1] / "params.yaml").model_dump()
    values["source"]["viper"]["archive"] = str(VIPER)
    values["mlr"]["recipe"] = recipe
    return Params.parse(values, "")


@pytest.mark.skipif(not VIPER.exists(), reason="VIPeR.v1.0.zip is not here")
def test_every_recipe_makes_mlr_viper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {recipe: viper(recipe) for recipe in SCRIPTS}
    monkeypatch.chdir(tmp_path)
    download("viper", settings["dgrl"])
    originals = {row.image_id: row.pixels() for row in read_rows(Path("data/viper/images"))}
    for recipe, script in SCRIPTS.items():
        split("viper", settings[recipe], workers=1)
        lows = [row for table in ("train_lr", "query") for row in read_rows(Path(f"data/viper/mlr/{table}"))]
        assert len(lows) == 948
        for low in lows:
            assert (low.pixels() == script(originals[low.image_id], low.factor)).all()
        assert json.loads(Path("data/viper/mlr/split.json").read_text())["options"]["recipe"] == recipe


def test_a_wrong_recipe_is_named() -> None:
    with pytest.raises(InputError, match=r"mlr.recipe = 'srcnn': input should be 'dgrl', 'sing', 'dil'"):
        viper("srcnn")


def seen(counts: dict[str, str]) -> pd.DataFrame:
    """An image by each camera of a person: ``{"p1": "abc"}``."""
    rows = [(f"{p}_{c}", p, c, "distractor" if p == "0" else "all") for p, cs in counts.items() for c in cs]
    return pd.DataFrame(rows, columns=["image_id", "person_id", "camera_id", "subset"])


def lr_cameras(keys: pd.DataFrame, trial: int = 0) -> dict[str, str]:
    """The LR camera of each person who is tested; the images of their other cameras are the gallery."""
    params = MlrParams(lr_camera={"set": "random"}, trial=trial)
    entries = plan_split(keys, "set", params).entries.items()
    tables = {image_id: rows[0].table for image_id, rows in entries if rows[0].table in ("query", "gallery")}
    asked = {name[:-2]: name[-1] for name, table in tables.items() if table == "query"}
    for row in keys[keys.person_id.isin(list(asked))].itertuples():
        seen = "query" if row.camera_id == asked[str(row.person_id)] else "gallery"
        assert tables[str(row.image_id)] == seen
    return asked


def test_the_lr_camera_may_be_drawn_for_each_person() -> None:
    keys = seen({f"p{number}": "abc" for number in range(600)})
    counts = Counter(lr_cameras(keys).values())
    assert chisquare(list(counts.values())).pvalue > 1e-4
    assert sum(counts.values()) == 300
    assert lr_cameras(keys) != lr_cameras(keys, trial=1)
    every, without = lr_cameras(keys), lr_cameras(keys[keys.person_id != "p7"])
    both = every.keys() & without.keys()  # one person more or less moves one across the halves
    assert len(both) >= 299
    assert all(every[person] == without[person] for person in both)


def test_persons_of_one_camera_and_distractors_stay_of_high_resolution() -> None:
    keys = seen({"0": "abc", "p1": "a", "p2": "ab", "p3": "a", "p4": "bc"})
    split = plan_split(keys, "set", MlrParams(lr_camera={"set": "random"}))
    assert not split.left_out_queries
    tables = {image_id: {row.table for row in rows} for image_id, rows in split.entries.items()}
    assert [tables[f"0_{camera}"] for camera in "abc"] == [{"gallery"}] * 3
    assert not {"query"} & (tables["p1_a"] | tables["p3_a"])
