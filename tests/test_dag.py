"""dvc.yaml tells the truth: stages depend on the code that they import and the values that they read."""

import ast
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgrl.datasets.catalog import KINDS
from pipeline.params import Params

ROOT = Path(__file__).parents[1]
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# No byte of an output depends on these: they check values, word messages, name files, keep resume states.
CHANGES_NO_BYTE = {
    "dgrl/config.py",
    "dgrl/errors.py",
    "dgrl/extras.py",
    "dgrl/limits.py",
    "dgrl/progress.py",
    "pipeline/logs.py",
    "pipeline/params.py",
    "pipeline/params_file.py",
    "pipeline/paths.py",
    "pipeline/results.py",
    "pipeline/work.py",
}
ARGUMENTS = {  # pretrain_sr gets its own scale and dataset as arguments of its command, and checks the others
    "rcan.scales",
    "datasets",
}
LAYERS = [  # each may import those before it, and its own
    {"errors", "extras", "config", "limits", "random", "progress", "files", "images", "tables"},
    {"parallel"},
    {"datasets", "mlr", "image_bank"},
    {"model"},
    {"weights"},
    {"superres", "evaluation", "report"},
    {"training", "extractor"},
    {"embedders"},
    {"search"},
]


def module_file(name: str) -> Path | None:
    """The project's file of a module; None for others' modules."""
    path = ROOT.joinpath(*name.split("."))
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found[0] if found else None


@cache
def imports(file: Path) -> frozenset[Path]:
    """The project's files that a file imports, anywhere in it, packages' own files included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("dgrl.")
        ):
            names = [node.value]  # python -m in a child process
        found |= {path for name in names if (path := module_file(name))}
    return frozenset(found)


def has_code(file: Path) -> bool:
    """False for a package's file that has a docstring only."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def closure(start: Path) -> set[str]:
    """What a module imports, directly or not, by paths from the root; not beyond what changes no byte."""
    seen, waiting = set(), [start]
    while waiting:
        file = waiting.pop()
        name = str(file.relative_to(ROOT))
        if name in seen or name in CHANGES_NO_BYTE:
            continue
        seen.add(name)
        waiting += imports(file)
    return {name for name in seen if has_code(ROOT / name)}


def declared(stage: str) -> set[str]:
    """The code that a stage's dependencies name, folders as their files."""
    files: set[str] = set()
    for dep in STAGES[stage]["deps"]:
        path = ROOT / dep
        if not dep.startswith("data/"):
            assert path.exists(), f"{stage} depends on {dep}, which does not exist"
            found = path.rglob("*") if path.is_dir() else [path]
            files |= {
                str(file.relative_to(ROOT)) for file in found if file.suffix != ".pyc" and file.is_file()
            }
    code = {name for name in files if not name.endswith(".py") or has_code(ROOT / name)}
    return code - CHANGES_NO_BYTE


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "inputs"])
def test_the_code_dependencies_are_the_import_closure(stage: str) -> None:
    needed = closure(ROOT / f"pipeline/{stage}.py")
    named = declared(stage)
    assert named >= needed, f"dvc.yaml: {stage} imports what it does not depend on"
    python = {name for name in named if name.endswith(".py")}
    assert python <= needed, f"dvc.yaml: {stage} depends on what it does not import"


def params_read(stage: str) -> set[str]:
    """What a stage and what it imports of pipeline take from ``params`` (``Params``): sections, or keys."""
    found = set()
    files = [name for name in closure(ROOT / f"pipeline/{stage}.py") if name.startswith("pipeline/")]
    nodes = [node for name in files for node in ast.walk(ast.parse((ROOT / name).read_text()))]
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            section, _, key = ast.unparse(node).removeprefix("params.").partition(".")
            if ast.unparse(node).startswith("params.") and section in Params.model_fields:
                found |= keys_read(section, key.partition(".")[0])
    return found


def test_params_have_one_name_by_which_they_are_found() -> None:
    for name in {file for stage in STAGES for file in closure(ROOT / f"pipeline/{stage}.py")}:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if (
                isinstance(node, ast.arg)
                and node.annotation
                and "Params"
                in (
                    ast.unparse(node.annotation),
                    getattr(node.annotation, "value", ""),
                )
            ):
                assert node.arg == "params", f"{name}: {node.arg} is {ast.unparse(node.annotation)}"
            if isinstance(node, ast.Assign):
                assert ast.unparse(node.value) != "params", f"{name}: {ast.unparse(node)}"


def keys_read(section: str, key: str) -> set[str]:
    """The keys behind a key, or a property that is made of keys, of a section; the section for all else."""
    if key in fields(section):
        return {f"{section}.{key}"}
    found: Any = getattr(Params.model_fields[section].annotation, key, None)
    if not isinstance(found, property):
        return {section}
    tree = ast.parse(textwrap.dedent(inspect.getsource(found.fget)))  # type: ignore[arg-type]
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {f"{section}.{name}" for name in names & set(fields(section))}


def is_declared(read: str, names: list[str]) -> bool:
    """Whether params that a stage declares cover a section or key, a key of a mapping by its dataset."""
    section, _, key = read.partition(".")
    keys = [key] if key else [each for each in fields(section) if f"{section}.{each}" not in ARGUMENTS]
    return section in names or all(
        any(f"{name}.".startswith(f"{section}.{each}.") for name in names) for each in keys
    )


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "inputs"])
def test_every_param_that_a_stage_reads_is_declared(stage: str) -> None:
    names = [str(name) for name in STAGES[stage].get("params", [])]
    reads = {read for read in params_read(stage) if read.partition(".")[0] not in ("runtime", "limits")}
    undeclared = {read for read in reads - ARGUMENTS if not is_declared(read, names)}
    assert not undeclared, f"dvc.yaml: {stage} reads params that it does not declare"


def test_no_stage_declares_how_results_are_computed() -> None:
    assert not [
        name
        for stage in STAGES.values()
        for name in stage.get("params", [])
        if name.startswith(("runtime", "limits"))
    ]


def fields(section: str) -> list[str]:
    annotation: Any = Params.model_fields[section].annotation
    return list(getattr(annotation, "model_fields", []))


def test_evaluate_reads_no_params_but_its_own() -> None:
    """What else it reports it takes from the files that it reads."""
    assert {name.partition(".")[0] for name in params_read("evaluate")} == {"evaluate"}


def test_the_sources_are_declared() -> None:
    assert "source.${item.dataset}" in STAGES["download"]["params"]


def rank_of(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def test_imports_run_downwards() -> None:
    for file in sorted((ROOT / "dgrl").rglob("*.py")):
        if file.name == "__init__.py":
            continue
        room = file.relative_to(ROOT / "dgrl").parts[0].removesuffix(".py")
        for other in imports(file):
            parts = other.relative_to(ROOT).parts
            assert parts[0] == "dgrl", f"{file} imports pipeline"
            if len(parts) > 2 or parts[1] != "__init__.py":
                above = parts[1].removesuffix(".py")
                if above != room:
                    assert rank_of(above) <= rank_of(room), f"{file} imports {above}, which is above it"


def test_no_import_circle() -> None:
    done: set[Path] = set()

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, f"a circle: {[str(each.relative_to(ROOT)) for each in (*path, file)]}"
        if file in done:
            return
        for other in imports(file) - {file}:
            if has_code(other):
                visit(other, (*path, file))
        done.add(file)

    for folder in ("dgrl", "pipeline"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            visit(file, ())


def test_every_stage_says_what_it_does() -> None:
    assert all(stage.get("desc") for stage in STAGES.values())


def test_the_keys_of_params_yaml() -> None:
    """A new key is a decision: it is added here too."""
    keys = {section: sorted(fields(section)) for section in Params.model_fields if fields(section)}
    keys |= {f"source, {kind}": sorted(entry.params.model_fields) for kind, entry in KINDS.items()}
    assert keys == yaml.safe_load((ROOT / "tests/keys.yaml").read_text())


def test_the_library_names_no_stage_file_or_tool_of_the_pipeline() -> None:
    """It serves other programs too: what a message of it says must be true without a project."""
    told = re.compile(r"\bdvc\b|params\.yaml|\bstages? (?:of|that|which|again)\b", re.IGNORECASE)
    for file in sorted((ROOT / "dgrl").rglob("*")):
        if file.suffix in (".py", ".j2"):
            assert not told.search(file.read_text()), file
