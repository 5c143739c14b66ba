"""The pages are as their scripts make them, and every link leads to something."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from marks import with_part

from pipeline.experiments.compare import Result
from pipeline.experiments.compare_files import markdown, mean_and_deviation

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def script(name: str) -> Any:
    """A script of docs/, imported."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_merge_is_unfinished(page: Path) -> None:
    assert not re.search(r"^(<<<<<<<|>>>>>>>)", page.read_text(), re.MULTILINE)


def test_the_list_of_params_is_that_of_the_classes() -> None:
    assert (ROOT / "docs/params.md").read_text() == script("params").page()


def test_the_image_of_the_stages_is_that_of_dvc_yaml() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert (ROOT / "docs/pipeline.svg").read_text() == script("readme_images").pipeline(stages)


@pytest.mark.parametrize("name", ["viper", "caviar", "pooled", "pooled-lite", "pooled-lite-gpu"])
def test_the_results_are_those_of_the_measurements(name: str) -> None:
    measured = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    table = markdown([Result(**each) for each in measured])
    assert table in (ROOT / "docs/results.md").read_text()


def test_the_tables_of_the_protocol_are_those_of_the_measurements() -> None:
    protocol, page = script("protocol"), (ROOT / "docs/results.md").read_text()
    assert with_part(page, "protocol", protocol.tables(protocol.load())) == page


def test_the_tables_of_experiments_are_those_of_their_runs() -> None:
    runs, page = script("runs"), (ROOT / "docs/results.md").read_text()
    for name in (
        "fine-tuned", "fine-tuned-caviar", "fine-tuned-lite", "fine-tuned-lite-256", "adapted-lite",
        "fine-tuned-lite-caviar", "components-lite", "study-lite", "fine-tuned-lite-gpu",
    ):  # fmt: skip
        assert f"python docs/runs.py {name}" in page
        found = json.loads((ROOT / f"docs/results/{name}.json").read_text())
        assert with_part(page, name, runs.table(found)) == page


def test_the_readmes_rows_are_those_of_the_measurements() -> None:
    pooled = [Result(**each) for each in json.loads((ROOT / "docs/results/pooled.json").read_text())]
    names = ("rank1", "rank5", "rank10", "mAP")
    rows = [[mean_and_deviation(each, name) for name in names] for each in pooled if each.dataset == "viper"]
    for name in ("fine-tuned", "fine-tuned-lite-256", "fine-tuned-lite-gpu"):
        tuned = script("runs").table(json.loads((ROOT / f"docs/results/{name}.json").read_text()))
        rows.append([cell.strip() for cell in tuned.splitlines()[2].split("|")[3:7]])
    for row in rows:
        assert f"| {' | '.join(row)} |" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, part = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if part:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            assert part in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "docs", copy / "docs")
    shutil.copy(ROOT / "mkdocs.yml", copy)
    command = ["zensical", "build", "--strict"]
    ran = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    site = copy / "build/site"
    pages = {path.parent.name for path in site.rglob("index.html")}
    assert pages >= {page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index"}
    for file in site.rglob("*.html"):
        assert not re.search(r"(src|href)=\"https?://[^\"]+\.(js|css)", file.read_text()), file
