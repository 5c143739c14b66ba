"""Stage inputs: digests of all that a dataset takes from outside of the project. It runs each time.

DVC does not watch what is no stage's output: an archive, a folder or table of own images, a file of weights.
This stage writes the digests of what they hold now. The stages that read them depend on that file, so that
they run again when, and only when, it changes. It imports no library that reads images: it must be quick.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from dgrl.errors import InputError, explain
from dgrl.files import atomic_file, sha256
from pipeline.params_file import read_yaml
from pipeline.paths import Paths, dropped, exists, outside

Memo = dict[str, list[Any]]  # path: its state when it was last read, and its digest


def inputs(dataset: str) -> None:
    """Write ``data/<dataset>/inputs/source.json``, ``rcan.json`` and ``weights.json``: digests by param.

    Raises:
        InputError: if params.yaml is no mapping of sections, or has none for the dataset.
    """
    params, paths = read_yaml(Path("params.yaml")), Paths(dataset)
    if isinstance(sources := params.get("source"), dict) and dataset not in sources:
        raise InputError(f"params.yaml has no section source.{dataset} (there are: {', '.join(sources)})")
    memo_file = Path(os.environ.get("DVC_ROOT", "."), f".work/digests-{dataset}.json")
    memo = _read_memo(memo_file)
    seen: Memo = {}
    files = _files(_section(_section(params, "source"), dataset), dataset)
    if (forgotten := outside(str(paths.forgotten))).exists():
        files["forgotten"] = forgotten
    network, rcans = _weights(params, "model"), _weights(params, "rcan")
    restoring = sorted(rcans.glob("x*/rcan.safetensors")) if exists(rcans) else []
    outer = {
        "source": files,
        "rcan": {file.parent.name: file for file in restoring},
        "weights": {"weights": network} if os.path.isfile(network) else {},  # noqa: PTH113 (as exists)
    }
    for name, found in outer.items():
        _write(paths.inputs(name), {key: _digest(path, memo, seen) for key, path in found.items()})
    if seen != memo:
        _write(memo_file, seen)


def _files(source: dict[str, Any], name: str) -> dict[str, Path]:
    """What a section of ``source`` names and exists, by param; of a pool, also what its sets name."""
    words = ("kind", "pattern")  # which name no file
    named = {key: value for key, value in source.items() if isinstance(value, str) and key not in words}
    files = {key: path for key, value in named.items() if exists(path := outside(value))}
    if source.get("archive", "") is None and (archive := dropped(source.get("kind", name))):
        files["archive"] = archive
    sets = _section(source, "sets")
    for part in sets:
        files |= {f"sets.{part}.{key}": path for key, path in _files(_section(sets, part), part).items()}
    return files


def _weights(params: dict[str, Any], section: str) -> Path:
    """What the ``weights`` of a section name; of no file, if they are no name."""
    named = _section(params, section).get("weights")
    return outside(named if isinstance(named, str) else "none")


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A section; empty where there is none, of which the stage that reads it complains."""
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _write(path: Path, content: object) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(content, indent=1) + "\n")


def _digest(path: Path, memo: Memo, seen: Memo) -> str:
    """SHA-256 of a file; of a folder, that of the names and digests of its files."""
    if path.is_file():
        return _file_digest(path, memo, seen)
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(path):
        folders.sort()
        links = [name for name in folders if Path(folder, name).is_symlink()]  # which download refuses
        for name in sorted([*names, *links]):
            file = Path(folder, name)
            digest.update(f"{file.relative_to(path)}\0{_file_digest(file, memo, seen)}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path, memo: Memo, seen: Memo) -> str:
    """Read only where size, times or inode are not those of the last time."""
    try:
        if path.is_fifo():  # to open it would wait for a writer
            return "unreadable: a pipe"
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        key = str(path.absolute())
        known = memo.get(key)  # whatever the file has
        if not isinstance(known, list) or len(known) != 5 or known[:4] != state:
            known = [*state, sha256(path)]
        seen[key] = known
    except OSError as error:  # the stage that reads it explains
        return f"unreadable: {error.strerror}"
    return str(seen[key][4])


def _read_memo(file: Path) -> Memo:
    try:
        memo = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return memo if isinstance(memo, dict) else {}


def code_digests(dataset: str) -> None:
    """Write ``data/<dataset>/inputs/code``: for each stage a digest of the installed files that it runs.

    In a checkout the stages depend on those files themselves; a project of ``dgrl init`` has none.
    """
    here = Path(__file__).parent
    stages = read_yaml(here / "project/stages.yaml")["stages"]
    for name, stage in stages.items():
        files = [here.parent / dep for dep in stage.get("deps", []) if not dep.startswith("data/")]
        found = [file for path in files for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        lines = [
            f"{sha256(file)}  {file.relative_to(here.parent).as_posix()}\n"
            for file in found
            if file.is_file() and "__pycache__" not in file.parts
        ]
        if lines:
            with atomic_file(Paths(dataset).root / "inputs/code" / f"{name}.txt") as building:
                building.write_text("".join(lines))


def check_once(dataset: str) -> None:
    """Have ``pipeline.check`` say what would stop a later stage, unless all is as when it last said nothing.

    It imports what reads images, and so is asked only where params.yaml or the digests have changed.

    Raises:
        InputError: naming what is wrong.
    """
    files = [Path("params.yaml"), Paths(dataset).inputs("source"), Paths(dataset).inputs("weights")]
    state = {str(file): [sha256(file)] for file in files}
    memo = Path(os.environ.get("DVC_ROOT", "."), f".work/checked-{dataset}.json")
    if _read_memo(memo) != state:
        from pipeline.check import check
        from pipeline.params import load_params

        check(dataset, load_params())
        _write(memo, state)


def main() -> None:
    """Run the stage; a user's mistake is one line on standard error and status 1."""
    if len(sys.argv) < 3 or sys.argv[2].startswith("-"):
        sys.exit("usage: python -m pipeline inputs DATASET [--code]")
    dataset = sys.argv[2]
    try:
        inputs(dataset)
        if "--code" in sys.argv:
            code_digests(dataset)
        check_once(dataset)
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        sys.stderr.write(f"error: {line}\n")
        sys.exit(1)
