"""params.yaml as DVC reads it: a few lines of YAML take no more than their share of memory and time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgrl.errors import InputError
from pipeline.inputs import inputs
from pipeline.params import load_params
from pipeline.params_file import read_yaml

PARAMS = (Path(__file__).parents[1] / "params.yaml").read_text()


def aliases(levels: int) -> str:
    """Lists that each hold the one before ten times: 10 ** levels values."""
    lists = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lists += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lists) + "\n"


CASES = {
    "many values": aliases(12) + PARAMS.replace("  seed: 0\n", "  seed: *a11\n", 1),
    "a kind of many": aliases(12) + PARAMS.replace("kind: viper\n", "kind: *a11\n"),
    "weights of many": aliases(12) + PARAMS.replace("weights: none", "weights: *a11"),
    "a pool in itself": PARAMS.replace("  pool: #", "  pool: &pool #").replace(
        "sets: {}", "sets: {x: *pool}"
    ),
    "deep": "a: " + "[" * 20_000 + "]" * 20_000,
    "open": "a: " + "[" * 20_000,
}


@pytest.mark.parametrize("read", [read_yaml, load_params, lambda _: inputs("synthetic")])
@pytest.mark.parametrize("name", CASES)
def test_aliases_and_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[Path], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(CASES[name])
    with pytest.raises(InputError, match=r"^params.yaml (is no valid YAML|has more than 100000 values)"):
        read(Path("params.yaml"))


def test_a_few_aliases_are_of_use(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_yaml(tmp_path / "p.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_a_long_value_is_shown_in_short(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PARAMS.replace("  seed: 0\n", f"  seed: {'x' * 100_000}\n", 1))
    with pytest.raises(InputError, match=r"seed = 'x+\.\.\.x+': ") as caught:
        load_params(tmp_path / "p.yaml")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".", "..", ".work", "drop", "compare", "a b"])
def test_a_dataset_is_a_folder_of_its_own_in_data(tmp_path: Path, name: str) -> None:
    params = yaml.safe_load(PARAMS)
    params["source"][name] = {"kind": "synthetic"}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(InputError, match="is no name of a dataset, which is a folder in data/"):
        load_params(tmp_path / "p.yaml")
