"""A folder for the Hugging Face Hub, read back."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_network import random_images, write_network, write_rcan, write_whitening

from dgrl import Embedder
from dgrl.embedders.export_hf import export_hf
from dgrl.embedders.model_card import TERMS
from dgrl.errors import InputError

METRICS = {
    "viper": {
        "rank1": 45.9,
        "mAP": 58.1,
        "factor2": {"rank1": 50.25},
        "untrained": {"rank1": 0.3},
        "options": {"sr.method": "rcan", "evaluate.flip": False},
    }
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("restored", [False, True])
def test_it_is_read_back_with_equal_embeddings(
    model: Path, tmp_path: Path, whitened: bool, restored: bool
) -> None:
    whitening = write_whitening(tmp_path / "w.safetensors", model, flip=True) if whitened else None
    rcan = write_rcan(tmp_path / "rcan", 2) if restored else None
    folder = tmp_path / "network"
    export_hf(model, folder, flip=whitened, whitening=whitening, rcan=rcan)
    again = Embedder.load(folder)
    first = Embedder.load(model, flip=whitened, whitening=whitening, rcan=rcan)
    images = [*random_images(3), *random_images(3, 24, 16)]  # the last three are LR
    np.testing.assert_allclose(
        again.embed(images), first.embed(images), atol=1e-6
    )  # BLAS rounds by alignment
    assert again.network.digest == first.network.digest
    assert (folder / "model.safetensors").read_bytes() == model.read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert (config["library_name"], config["embedding"]) == ("dgrl", 32)
    assert config["model"]["backbone"] == "resnet18"


def test_the_card_says_what_the_evaluation_found(model: Path, tmp_path: Path) -> None:
    export_hf(model, tmp_path / "network", metrics=METRICS)
    text = (tmp_path / "network/README.md").read_text()
    _, header, body = text.split("---\n", 2)
    (result,) = yaml.safe_load(header)["model-index"][0]["results"]
    assert {each["type"]: each["value"] for each in result["metrics"]} == {"rank1": 45.9, "mAP": 58.1}
    assert "| Rank-1, single-shot | 45.9 |" in body
    assert "| factor2.rank1 | 50.25 |" in body
    assert "untrained" not in body
    assert "`sr.method`: rcan" in body
    assert "| VIPeR | 2 | none stated in the archive's README" in body
    assert "| mine | 1 | images of the project's own" in body
    assert "Gray, Brennan, Tao" in body
    for heading in ("Use", "Metrics", "Trained on", "Intended use", "Limits", "Citation"):
        assert f"\n## {heading}\n" in body


def test_the_hub_reads_the_card(model: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    export_hf(model, tmp_path / "network", metrics=METRICS)
    card = hub.ModelCard.load(tmp_path / "network/README.md")
    assert (card.data.library_name, card.data.license) == ("dgrl", "other")
    assert {each.metric_type: each.metric_value for each in card.data.eval_results} == {
        "rank1": 45.9,
        "mAP": 58.1,
    }


def test_without_an_evaluation_the_card_says_so(model: Path, tmp_path: Path) -> None:
    export_hf(model, tmp_path / "network")
    assert "It was not evaluated" in (tmp_path / "network/README.md").read_text()


def test_the_terms_are_those_of_the_page_on_responsible_use() -> None:
    page = Path(__file__).parents[1].joinpath("docs/responsible-use.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| ")
    ]
    for terms in TERMS.values():
        (row,) = (row for row in rows if row[0] == terms.name)
        assert terms.terms in row
        assert row[-1] == terms.citation


def test_what_cannot_be_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="taken is there already"):
        export_hf(model, tmp_path / "taken")
    other = write_network(tmp_path / "other.safetensors", galn=False)
    whitening = write_whitening(tmp_path / "w.safetensors", other, flip=False)
    with pytest.raises(InputError, match="another network"):
        export_hf(model, tmp_path / "network", whitening=whitening)
    assert not (tmp_path / "network").exists()


@pytest.mark.parametrize("lost", ["model.safetensors", "whitening.safetensors", "rcan/x2/rcan.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(model: Path, tmp_path: Path, lost: str) -> None:
    """A broken download would else embed otherwise, without a word."""
    whitening = write_whitening(tmp_path / "w.safetensors", model, flip=False)
    export_hf(model, tmp_path / "network", whitening=whitening, rcan=write_rcan(tmp_path / "rcan", 2))
    (tmp_path / "network" / lost).unlink()
    with pytest.raises(InputError, match=f"network lacks {lost}"):
        Embedder.load(tmp_path / "network")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"library_name": "other"}'])
def test_a_folder_of_something_else_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        Embedder.load(tmp_path)
