"""Every command and program of the documentation runs, in the order of its page, some in a smaller size."""

import json
import os
import shlex
import shutil
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout, clone
from documents import PAGES, SHELL, blocks, command_lines, commands
from markdown_table import markdown
from own_images import write_own_images

from pipeline.experiments.paper import TABLES

WHOLE = "DGRL_PAGES" in os.environ  # make pages: a quarter of an hour, too long beside the other tests
slow = pytest.mark.slow
whole = pytest.mark.skipif(not WHOLE, reason="make pages runs every command of the pages")


@dataclass(frozen=True)
class Page:
    """What a page takes for granted.

    Args:
        before: commands that lay it down, in a clone whose pipeline has run.
        names: a program's first lines, for what it leaves to the reader.
        smaller: words of the page, and what stands for them here: the same in a smaller size, or names.
    """

    before: tuple[str, ...] = ()
    names: str = ""
    smaller: Mapping[str, str] = field(default_factory=dict)


TUTORIAL, EXTEND = "docs/tutorial.md", "docs/extend.md"  # run by tests of their own
VIPER = ("cp -r data/synthetic data/viper", "sed -i 's/^- synthetic$/- synthetic\\n- viper/' params.yaml")
LESS = {"--adapt": "--adapt --trials 2"}

RUN = {
    "README.md": Page(smaller=LESS | {"range(0,10)": "range(0,2)", "--seeds 3": "--seeds 1"}),
    "CONTRIBUTING.md": Page(),
    "docs/adapt.md": Page(),
    "docs/app.md": Page(VIPER),
    "docs/benchmarks.md": Page(),
    "docs/compare.md": Page(
        VIPER,
        "from pathlib import Path\nimport cv2\nlow = sharp = [cv2.imread('person.png')]",
        {"NETWORK": "network.onnx@imagenet"},
    ),
    "docs/experiments.md": Page(smaller={"range(0,10)": "range(0,2)"}),
    "docs/export.md": Page(VIPER),
    "docs/remotes.md": Page(
        (
            "git clone --quiet --bare . ../origin.git",
            "git remote add origin ../origin.git",
        ),
        smaller={"shop-project": "clone"},
    ),
    "docs/report.md": Page(
        (
            "git add dvc.lock",
            "git commit --quiet --message Baseline",
            "git tag gamma-1",
            "dvc exp run --quiet --set-param loss.gamma=1",
        ),
        smaller={"viper": "synthetic"},
    ),
    "docs/responsible-use.md": Page(
        (
            "mv data/synthetic data/mine",
            "dgrl index data/mine/mlr/gallery --model data/mine/dgrl/model.safetensors --out people",
        ),
        smaller={"PERSON": "0001"},
    ),
    "docs/results.md": Page(
        (*VIPER, "cp -r data/synthetic data/pool"),  # whose RCANs are asked for before they are trained
        smaller=LESS
        | {
            f"dgrl preset {name} &&": f"dgrl preset {name} && python tests/checkout.py &&"
            for name in ("pool", "pool-lite", "synthetic", "viper-fine-tune", "viper-fine-tune-lite")
        }
        | {
            f"model.height={height} -S model.width={height // 2}": "model.height=64 -S model.width=32"
            for height in (192, 256)
        }
        | {
            "protocol.py": "protocol.py --trials 2",
            "train.epochs=13": "train.epochs=2",
            "range(0,10)": "range(0,2)",
            "range(0,3)": "range(0,1)",
        },
    ),
    "docs/scaling.md": Page(
        VIPER,
        smaller={
            "processes=4": "processes=2",
            "batch=16": "batch=4",
            "--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400": "--standalone "
            "--nproc-per-node 2",
            "ray start --head": "! ray status 2> /dev/null && ray start --head --object-store-memory 80000000"
            " --disable-usage-stats",  # ray stop, at the end, ends every Ray of this machine
        },
    ),
    "docs/search.md": Page(
        VIPER,
        "import cv2\nfrom types import SimpleNamespace\nframe = cv2.imread('person.png')\n"
        "detections = SimpleNamespace(xyxy=[[2, 3, 40, 90]])",
    ),
}
INTEL = ("retail-0277", "person-reidentification-retail-0277", "person-reidentification-retail-0287")
STAND_INS = {  # files that pages name: a network of the clone, or an image
    "network.onnx": ["osnet.onnx", "osnet_x0_25_msmt17.onnx", "model.onnx"],
    "network.xml": [f"{name}.xml" for name in INTEL],
    "network.bin": [f"{name}.bin" for name in INTEL],
    "images/gate/p01_1.png": ["person.png", "query.jpg", "query1.jpg", "query2.jpg"],
}

NOT_RUN = {"make test", "make pages"}  # they run this file
EVERYWHERE = {  # nothing is fetched: what an extra wants is installed, as pip finds
    "pip install": "pip install --dry-run --no-index",
    "dgrl app --index people": "{ timeout 15 dgrl app --index people; test $? = 124; }",  # until Ctrl-C
}
IN_README = {"dgrl ablate components --seeds 3", "dvc exp run --run-all"}  # they take minutes: run there only


def test_every_page_with_code_is_run() -> None:
    with_code = {page for page in PAGES if any(block.kind in (*SHELL, "python") for block in blocks(page))}
    assert with_code == set(RUN) | {TUTORIAL, EXTEND}


def test_what_stands_here_stands_in_a_page() -> None:
    shown = {line for page in PAGES for block in commands(page) for line in block}
    assert shown >= NOT_RUN | IN_README
    for page, assumed in RUN.items():
        lines = [line for block in commands(page) for line in block]
        assert all(any(words in line for line in lines) for words in assumed.smaller), page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A clone after ``make repro``, with own images, and networks as ONNX and OpenVINO; nothing committed."""
    home = tmp_path_factory.mktemp("home")
    write_own_images(home / "images")
    checkout = clone(tmp_path_factory.mktemp("clones") / "clone", home)
    checkout.run(["make repro"])
    folder = checkout.folder
    before = set(folder.iterdir())
    export = "dgrl export data/synthetic/dgrl/model.safetensors --out"
    checkout.run([f"{export} network.onnx", f"{export} network.xml --format openvino"])
    write_own_images(folder / "images", persons=30, sizes={"gate": (24, 60), "yard": (64, 128)})
    shutil.copytree(folder / "images/yard", folder / "gallery")
    for name, others in STAND_INS.items():
        for other in others:
            shutil.copyfile(folder / name, folder / other)
    persons = [f"p{number:02d}" for number in range(1, 31)]
    pairs = [
        f"images/gate/{person}_{one}.png,images/yard/{person}_{other}.png,{person}"
        for person in persons
        for one in "12"
        for other in "12"
    ]
    (folder / "pairs.csv").write_text("\n".join(["query,gallery,person_id", *pairs, ""]))
    ignored = [path.name for path in set(folder.iterdir()) - before]
    ignored += ["whitening.safetensors"]
    (folder / ".git/info/exclude").write_text("\n".join([*ignored, ""]))
    yield checkout
    shutil.rmtree(folder.parent)  # each network takes 100 MB


def run(checkout: Checkout, page: str) -> dict[str, str]:
    """Run a page from its top to its end; returns what each command said."""
    assumed = RUN[page]
    said: dict[str, str] = {}
    checkout.run(assumed.before)
    for block in blocks(page):
        if block.kind == "python":
            checkout.python(f"{assumed.names}\n{block.text}")
        elif block.kind in SHELL:
            lines = [line for line in command_lines(block.text) if line not in NOT_RUN]
            if page != "README.md":
                lines = [line for line in lines if line not in IN_README]
            said |= zip(lines, checkout.run([smaller(line, assumed) for line in lines]), strict=True)
    return said


def smaller(line: str, page: Page) -> str:
    for words, others in {**EVERYWHERE, **page.smaller}.items():
        line = line.replace(words, others)
    return line


@whole
@slow
@pytest.mark.parametrize("page", [page for page in RUN if page != "README.md"])
def test_the_commands_of_a_page_run(page: str, made: Checkout, tmp_path: Path) -> None:
    run(made.copy(tmp_path / "clone"), page)
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def readme(
    made: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Checkout, dict[str, str]]]:
    """A clone in which the README was followed to its end, and what its commands said."""
    checkout = made.copy(tmp_path_factory.mktemp("readme") / "clone")
    yield checkout, run(checkout, "README.md")
    shutil.rmtree(checkout.folder.parent)


@whole
@slow
def test_the_readmes_commands_give_what_their_comments_say(readme: tuple[Checkout, dict[str, str]]) -> None:
    checkout, said = readme
    assert (checkout.folder / "sheet.html").exists()
    assert (checkout.folder / "dvc_plots/index.html").exists()
    assert "10 persons by 2 cameras" in said["dgrl init shop --from-folder ~/images"]
    assert (
        "loss.gamma"
        in said["dvc exp show --only-changed --drop '.*\\.(untrained|multi|factor|calibration).*'"]
    )
    assert "rank1" in said["dvc metrics diff"]
    runs = said["dgrl runs"].splitlines()
    assert max(map(len, runs)) <= 80
    assert "loss.gamma=1" in said["dgrl runs"]
    assert "components-baseline-1" in said["dgrl runs"]


def experiments(checkout: Checkout) -> dict[str, dict[str, Any]]:
    """Of each experiment the options of its network, from the file that the training wrote, and Rank-1."""
    (shown,) = checkout.run(["dvc exp show --json 2> /dev/null"])
    found = {}
    for commit in json.loads(shown):
        for experiment in commit["experiments"] or []:
            newest = experiment["revs"][0]
            metrics = newest["data"]["metrics"]["data/synthetic/eval/metrics.json"]["data"]["synthetic"]
            (lock,) = checkout.run([f"git show {newest['rev']}:dvc.lock"])
            outs = yaml.safe_load(lock)["stages"]["train@synthetic"]["outs"]
            (md5,) = (out["md5"] for out in outs if out["path"].endswith("dgrl/config.json"))
            config = json.loads((checkout.folder / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}").read_text())
            options = {
                f"{part}.{key}": config[part][key] for part in ("model", "loss") for key in config[part]
            }
            seeds = metrics["options"]["mlr.trial"], config["train"]["seed"]
            found[experiment["name"]] = {"options": options, "seeds": seeds, "rank1": metrics["rank1"]}
    return found


@whole
@slow
def test_the_rows_of_the_readmes_table_are_what_they_say(readme: tuple[Checkout, dict[str, str]]) -> None:
    checkout, said = readme
    table = said["dgrl table III --where mlr.trial=0"]
    header, _, *rows = markdown(table)
    found = experiments(checkout)
    assert {each["options"]["loss.gamma"] for each in found.values()} == {1, 5}
    assert "(loss.gamma=1; --where counts it)" in table
    assert not any("Paper" in title for title in header)  # the paper has no row on drawn pedestrians
    for expected, row in zip(TABLES["III"].rows, rows, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert cells["Components"] == expected.label
        queued = found[f"components-{expected.name}-1"]
        assert {key: queued["options"][key] for key in expected.params} == dict(expected.params)
        alike = {
            each["seeds"]: each["rank1"]
            for each in found.values()
            if each["options"] == queued["options"] and each["seeds"][0] == 0
        }
        assert cells["n"] == str(len(alike))
        assert cells["Rank-1"].split(" ")[0] == f"{statistics.mean(alike.values()):.1f}"


def test_commands_in_the_running_text_exist() -> None:
    """``dgrl NAME --option`` in backticks names a command and options that there are; so does ``dvc``."""
    import typer
    from documents import inline_commands
    from dvc.cli.parser import get_main_parser

    from pipeline.cli import app

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for page in PAGES:
        for line in inline_commands(page, "dgrl"):
            words = [word for word in shlex.split(line)[1:] if word not in ("...", "-v", "-q")]
            if not words or words[0].startswith("-"):
                continue
            assert words[0] in known, f"{page}: {line}"
            options = {name for each in known[words[0]].params for name in each.opts} | {"--help"}
            assert {word for word in words if word.startswith("--")} <= options, f"{page}: {line}"
        for line in inline_commands(page, "dvc"):
            command = line.replace(" && dvc checkout", "").split(" && ")[0]
            try:
                get_main_parser().parse_args(shlex.split(command)[1:])
            except Exception as error:
                pytest.fail(f"{page}: {line}: {error}")
