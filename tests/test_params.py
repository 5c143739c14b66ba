"""params.yaml: every mistake is one line; and the presets load."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field, ValidationError

from dgrl.config import IntTuple, Section
from dgrl.errors import InputError
from pipeline.params import Params, load_params
from pipeline.preset import preset

ROOT = Path(__file__).parents[1]
PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
Values = dict[str, Any]


class Inner(Section):
    count: Annotated[int, Field(ge=1, le=9)] = 3


class Outer(Section):
    name: str
    sizes: IntTuple = (1, 2)
    share: float = 0.5
    inner: Inner = Inner()


def synthetic() -> Values:
    return dict(yaml.safe_load((ROOT / "params.yaml").read_text()))


def error_of(load: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def error_in(tmp_path: Path, values: Values) -> str:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    return error_of(lambda: load_params(file)).replace(str(file), "params.yaml", 1)


# Sections


def test_a_section_takes_lists_where_it_has_tuples_and_integers_where_it_has_floats() -> None:
    section = Outer.parse({"name": "a", "sizes": [3], "share": 1, "inner": {"count": 9}}, "outer")
    assert section == Outer(name="a", sizes=(3,), share=1.0, inner=Inner(count=9))
    assert isinstance(section.share, float)


def test_a_section_is_frozen() -> None:
    section = Outer(name="a")
    with pytest.raises(ValidationError, match="frozen"):
        section.name = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        section.inner.count = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"name": "a", "nmae": 1}, "outer.nmae is not a known key (allowed: name, sizes, share, inner)"),
        ({"name": "a", "inner": {"cuont": 1}}, "outer.inner.cuont is not a known key (allowed: count)"),
        ({}, "outer.name is missing"),
        ({"name": 1}, "outer.name = 1: should be text; put it in quotes, as in '001'"),
        ({"name": "a", "inner": {"count": "3"}}, "outer.inner.count = '3': input should be a valid integer"),
        (
            {"name": "a", "inner": {"count": True}},
            "outer.inner.count = True: input should be a valid integer",
        ),
        ({"name": "a", "inner": {"count": 3.0}}, "outer.inner.count = 3.0: input should be a valid integer"),
        (
            {"name": "a", "inner": {"count": 10}},
            "outer.inner.count = 10: input should be less than or equal to 9",
        ),
        (
            {"name": "a", "inner": {"count": None}},
            "outer.inner.count = None: input should be a valid integer",
        ),
        ({"name": "a", "inner": 4}, "outer.inner = 4: input should be a valid dictionary"),
        ({"name": "a", "share": "half"}, "outer.share = 'half': input should be a valid number"),
        ({"name": "a", "share": float("nan")}, "outer.share = nan: input should be a finite number"),
        ({"name": "a", "share": float("inf")}, "outer.share = inf: input should be a finite number"),
        ({"name": "a", "sizes": [1, "2"]}, "outer.sizes.1 = '2': input should be a valid integer"),
        ({"name": "a", "sizes": 5}, "outer.sizes = 5: input should be a valid tuple"),
    ],
)
def test_a_wrong_section_names_key_value_and_what_is_allowed(values: Values, told: str) -> None:
    assert error_of(lambda: Outer.parse(values, "outer")).startswith(told)
    assert error_of(lambda: Outer.parse(values, "outer", "a.yaml")).startswith(f"a.yaml: {told}")


def test_a_camera_may_be_a_number(tmp_path: Path) -> None:
    values = synthetic()
    values["mlr"]["lr_camera"] |= {"folder": 1, "viper": "1"}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values))
    cameras = load_params(file).mlr.lr_camera
    assert (cameras["folder"], cameras["viper"]) == ("1", "1")


def test_every_mistake_is_told_at_once() -> None:
    message = error_of(lambda: Outer.parse({"nmae": "a", "inner": {"count": 0}}, "outer"))
    for told in ("outer.name is missing", "outer.nmae is not", "outer.inner.count = 0"):
        assert told in message


# The whole file


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_whole_commented_file(project: Path, name: str) -> None:
    preset(name, project)
    params, values = load_params(project), yaml.safe_load(project.read_text())
    assert set(params.mlr.lr_camera) >= set(params.datasets)
    assert set(params.rcan.scales) >= set(params.mlr.factors)
    for section in set(Params.model_fields) - {"datasets", "source"}:
        assert set(values[section]) == set(getattr(params, section).model_dump()), section
    assert project.read_text().count("#") == (ROOT / "params.yaml").read_text().count("#")


def test_the_committed_file_is_the_synthetic_preset(project: Path) -> None:
    preset("paper", project)
    preset("synthetic", project)
    assert yaml.safe_load(project.read_text()) == yaml.safe_load((ROOT / "params.yaml").read_text())


def test_numbers_mean_what_they_mean_to_dvc(project: Path) -> None:
    """DVC writes 1e-05, which YAML 1.1 reads as text."""
    text = project.read_text()
    project.write_text(text.replace("weight_decay: 0.0005", "weight_decay: 1e-05"))
    assert load_params(project).train.weight_decay == 1e-5
    project.write_text(text.replace("  momentum: ", "  momentum: 0.5\n  momentum: "))
    assert "duplicate key" in error_of(lambda: load_params(project))


def test_a_project_has_any_number_of_sets(project: Path) -> None:
    values = synthetic()
    values["datasets"] = ["small", "synthetic"]
    values["source"]["small"] = {"kind": "synthetic", "persons": 10}
    values["mlr"]["lr_camera"]["small"] = "c2"
    project.write_text(yaml.safe_dump(values))
    params = load_params(project)
    assert (params.source_of("small").persons, params.source_of("synthetic").persons) == (10, 120)


def test_the_paper_preset_has_the_numbers_of_section_iv_c(project: Path) -> None:
    preset("paper", project)
    params = load_params(project)
    train, model, loss = params.train, params.model, params.loss
    assert params.mlr.factors == (2, 3, 4) == params.rcan.scales
    assert (params.mlr.evaluate_on, params.sr.method) == ("test", "rcan")
    assert params.mlr.train_factor_per == "image"  # III-A
    drawn = {dataset: params.mlr.query_factor_per_of(dataset) for dataset in params.datasets[:3]}
    assert drawn == {"market1501": "camera", "cuhk03": "camera", "viper": "image"}  # IV-A.1 to 3
    assert (model.backbone, model.weights) == ("resnet50", "imagenet")
    assert (model.height, model.width) == (256, 128)
    assert (model.heads, model.groups) == (4, 32)
    assert model.restormer
    assert model.non_local
    assert model.side_branches
    assert model.galn
    assert (train.persons_per_batch, train.pairs_per_person) == (16, 3)
    assert train.persons_per_batch * train.pairs_per_person == 48
    assert (train.epochs, train.learning_rate, train.decay_every, train.decay_factor) == (70, 1.3e-2, 30, 0.1)
    assert (train.momentum, train.weight_decay) == (0.9, 5e-4)
    assert loss.gamma == 5
    assert {loss.alpha1, loss.beta1, loss.alpha2, loss.beta2} == {0.5}
    assert loss.wrt
    assert loss.l1
    assert loss.kl


def test_the_lineage_preset_is_the_paper_preset_but_for_what_public_code_says(project: Path) -> None:
    def values(name: str) -> dict[str, Any]:
        preset(name, project)
        sections = load_params(project).model_dump(exclude={"datasets", "source"})
        return {f"{name}.{key}": value for name in sections for key, value in sections[name].items()}

    paper, lineage = values("paper"), values("lineage")
    assert {key: value for key, value in lineage.items() if value != paper[key]} == {
        "model.non_local_width": 1,  # Cross-Modal-Re-ID-baseline
        "loss.wrt_form": "reference",
        "train.nesterov": True,
        "train.pretrained_rate": 0.1,
        "train.warmup_epochs": 5,  # PS-HRNet
        "train.warmup_rate": 3e-4,
        "augment.erase": 0.0,
        "evaluate.flip": True,
    }


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("loss", "gama", 1, "loss.gama is not a known key (allowed: gamma, alpha1,"),
        ("loss", "gamma", -1, "loss.gamma = -1: input should be greater than or equal to 0"),
        ("loss", "l1", 1, "loss.l1 = 1: input should be a valid boolean"),
        ("loss", "kl", True, "loss.kl = True: input should be a valid number"),
        ("train", "epochs", "70", "train.epochs = '70': input should be a valid integer"),
        ("train", "learning_rate", 0, "train.learning_rate = 0: input should be greater than 0"),
        (
            "train",
            "precision",
            "fp16",
            "train.precision = 'fp16': input should be 'auto', 'bfloat16' or 'float32'",
        ),
        ("model", "height", 100, "model.height = 100: input should be a multiple of 16"),
        (
            "model",
            "backbone",
            "resnet51",
            "model.backbone = 'resnet51': input should be 'resnet18', 'resnet34'",
        ),
        ("mlr", "factors", [], "mlr.factors = []: "),
        ("mlr", "factors", [0, 2], "mlr.factors.0 = 0: input should be greater than or equal to 2"),
        ("mlr", "factors", [2, 9], "mlr.factors.1 = 9: input should be less than or equal to 8"),
        ("mlr", "lr_camera", {"synthetic": "c1", "vipr": "a"}, "mlr.lr_camera.vipr is no dataset (allowed: "),
        ("mlr", "lr_camera", {}, "mlr.lr_camera.synthetic is missing; set it to a camera, or a pattern"),
        (
            "mlr",
            "evaluate_on",
            "train",
            "mlr.evaluate_on = 'train': input should be 'test', 'val' or 'everyone'",
        ),
        ("mlr", "val_fraction", 1.0, "mlr.val_fraction = 1.0: input should be less than 1"),
        (
            "mlr",
            "query_factor_per",
            {"viper": "box"},
            "mlr.query_factor_per: must be one of image, camera, person, for all datasets or by dataset",
        ),
        (
            "mlr",
            "query_factor_per",
            "box",
            "mlr.query_factor_per = 'box': must be one of image, camera, person, for all",
        ),
        ("mlr", "query_factor_per", {"vipr": "camera"}, "mlr.query_factor_per.vipr is no dataset (allowed: "),
        ("mlr", "trial", -1, "mlr.trial = -1: input should be greater than or equal to 0"),
        (
            "train",
            "freeze_batch_norm",
            True,
            "train.freeze_batch_norm freezes what model.weights fills, and",
        ),
        ("evaluate", "cmc_length", 5, "evaluate.cmc_length = 5: input should be greater than or equal to 10"),
        (
            "source",
            "viper",
            {"kind": "viper", "url": "x"},
            "source.viper.url is not a known key (allowed: kind, archive)",
        ),
        ("source", "lfw", {}, "source.lfw.kind = 'lfw': allowed: synthetic, viper, "),
    ],
)
def test_a_wrong_key_in_a_section(tmp_path: Path, section: str, key: str, value: object, told: str) -> None:
    values = synthetic()
    values[section] |= {key: value}
    assert error_in(tmp_path, values).startswith(f"params.yaml: {told}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"patch": 25}, "patch must be divisible by every scale of (2, 3, 4), not 25"),
        ({"scales": [5]}, "scales must be some of 2, 3, 4 and 8, not (5,)"),
        ({"milestones": [2.0]}, "milestones must be fractions between 0 and 1, not (2.0,)"),
    ],
)
def test_keys_of_rcan_that_contradict_each_other(tmp_path: Path, change: Values, told: str) -> None:
    values = synthetic()
    values["rcan"] |= change
    message = error_in(tmp_path, values)
    assert message == f"params.yaml: rcan: {told}"


def test_an_unknown_section(tmp_path: Path) -> None:
    message = error_in(tmp_path, synthetic() | {"optimizer": {}})
    assert message == f"params.yaml: optimizer is not a known key (allowed: {', '.join(Params.model_fields)})"


@pytest.mark.parametrize("section", list(Params.model_fields))
def test_a_missing_section(tmp_path: Path, section: str) -> None:
    values = synthetic()
    del values[section]
    assert error_in(tmp_path, values) == f"params.yaml: {section} is missing"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "datasets = []"),
        (["lfw"], "datasets: lfw has no section source.lfw (there are: caviar, cuhk03"),
        (["viper", "viper"], "datasets must not repeat one: viper, viper"),
    ],
)
def test_a_wrong_list_of_datasets(tmp_path: Path, value: list[str], told: str) -> None:
    assert error_in(tmp_path, synthetic() | {"datasets": value}).startswith(f"params.yaml: {told}")


@pytest.mark.parametrize("text", ["a: [1\nb: 2\n", "a: 1\n\tb: 2\n", "a: 'open\n", "a: b: c\n", "a: \x01\n"])
def test_a_file_that_is_no_yaml(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    assert re.match(rf"{file} is no valid YAML: .", error_of(lambda: load_params(file)))


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "3\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    assert error_of(lambda: load_params(file)) == f"{file} has no sections; restore it from git"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(b"a: \xff\n")
    assert error_of(lambda: load_params(file)).startswith(f"{file} is no valid YAML: ")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    assert error_of(lambda: load_params(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"


def test_an_error_names_the_file_it_is_in(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(synthetic() | {"optimizer": {}}))
    assert error_of(lambda: load_params(file)).startswith(f"{file}: optimizer is not a known key")


def test_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of(load_params) == "params.yaml does not exist here; run dgrl in the project's folder"


def test_reading_params_needs_no_torch() -> None:
    code = (
        "import sys, pipeline.params; sys.exit(bool({'torch', 'torchvision', 'basicsr'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
