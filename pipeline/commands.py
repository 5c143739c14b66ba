"""Subcommands of ``dgrl`` beside the stages: the project and its params, experiments and tables."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from dgrl.errors import MissingError
from dgrl.files import atomic_file
from pipeline.experiments.paper import AblationName, TableFormat, TableName

app = typer.Typer()

DatasetOption = Annotated[str | None, typer.Option(help="One of params.yaml's `datasets`; default all.")]
logger = logging.getLogger(__name__)


@app.command()
def init(
    name: Annotated[str | None, typer.Argument(help="Of the dataset; none: lay down a project only.")] = None,
    from_folder: Annotated[Path | None, typer.Option(help="A folder or zip file of images.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV or Parquet: path, person_id, camera_id; role, subset if wanted.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Regular expression for paths, with groups person_id and camera_id.")
    ] = None,
    use_all: Annotated[
        bool, typer.Option("--use-all", help="Train on everyone, for production; nobody is held out.")
    ] = False,
) -> None:
    """Start a project, and set its params.yaml for own images: persons and cameras are read from the names.

    Asks nothing; says what it found and what it could not. An edited params.yaml is kept beside the new one.
    """
    from pipeline.init import init as run

    for line in run(name, from_folder, table, pattern, use_all=use_all):
        typer.echo(line)


@app.command()
def check(dataset: Annotated[str | None, typer.Argument(help="One dataset; default all.")] = None) -> None:
    """Say in seconds what would stop a later stage: files, cameras, persons, sizes of images.

    The stage inputs asks for it too, so `dvc repro` fails before it has worked for hours.
    """
    from pipeline.check import check as run
    from pipeline.params import load_params
    from pipeline.paths import Paths

    params = load_params()
    for name in params.datasets if dataset is None else [dataset]:
        typer.echo(run(name, params, downloaded=Paths(name).images.exists()))


@app.command()
def doctor() -> None:
    """Say what this machine has (versions, devices, links, disk), what is missing, and how to get it."""
    from pipeline.doctor import doctor as run

    lines, missing = run()
    typer.echo("\n".join(lines))
    typer.echo("\nmissing:" if missing else "\nnothing is missing")
    for line in missing:
        typer.echo(f"- {line}")
    if any(not line.startswith("optional: ") for line in missing):
        raise typer.Exit(1)


@app.command()
def runs(
    all_commits: Annotated[
        bool, typer.Option("--all-commits", help="Also experiments of other commits.")
    ] = False,
) -> None:
    """List the experiments with Rank-1, mAP and the params that differ from the commit they started from."""
    from pipeline.experiments.runs import runs as run

    typer.echo(run(all_commits=all_commits), nl=False)


@app.command()
def against(
    dataset: Annotated[str, typer.Argument(help="One of params.yaml's `datasets`.")],
    revision: Annotated[
        str | None,
        typer.Argument(help="A commit or experiment; default the newest commit with other metrics."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The page; default data/DATASET/against.html.")] = None,
) -> None:
    """Write a page with this run's metrics and CMC beside an earlier run's, and the params that differ.

    eval/report.html cannot have them: the same params and inputs would give another page after each commit.
    """
    from dgrl.report.render import render
    from pipeline.experiments.against import against as run
    from pipeline.paths import Paths

    page = render(run(dataset, revision))
    output = output or Paths(dataset).root / "against.html"
    with atomic_file(output) as file:
        file.write_text(page, encoding="utf-8")
    typer.echo(output)


@app.command()
def report(
    dataset: Annotated[str, typer.Argument(help="The dataset whose report it is.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    blur_faces: Annotated[
        bool, typer.Option("--blur-faces", help="Blur the upper half of each image, where faces are.")
    ] = False,
) -> None:
    """Copy a dataset's report into one HTML file for others, with faces blurred if wanted."""
    from dgrl.search.blur import blur_faces as blurred
    from pipeline.paths import Paths

    file = Paths(dataset).eval / "report.html"
    if not file.is_file():
        raise MissingError(f"{file} does not exist; run the stage evaluate first")
    page = file.read_text(encoding="utf-8")
    with atomic_file(out) as building:
        building.write_text(blurred(page) if blur_faces else page, encoding="utf-8")
    logger.info("%s: the report of %s%s", out, dataset, ", faces blurred" if blur_faces else "")


@app.command()
def ablate(
    rows: Annotated[
        AblationName, typer.Argument(help="losses: Table II, components: Table III, sr: super-resolution.")
    ],
    seeds: Annotated[int, typer.Option(help="train.seed 0 to N-1.", min=1)] = 1,
    trials: Annotated[int, typer.Option(help="mlr.trial 0 to N-1.", min=1)] = 1,
    dataset: DatasetOption = None,
    name: Annotated[str | None, typer.Option(help="Start of the experiments' names; default ROWS.")] = None,
) -> None:
    """Queue the rows of an ablation table as DVC experiments; all else is as in params.yaml."""
    from pipeline.experiments.ablate import ablate as run

    names = run(rows, seeds, trials, dataset, name)
    typer.echo(f"queued {len(names)} experiments, {names[0]} to {names[-1]}; `dvc queue start` runs them")


@app.command()
def table(
    which: Annotated[TableName, typer.Argument(help="The paper's table, or sr.")] = "I",
    form: Annotated[TableFormat, typer.Option("--format", help="How to write it.")] = "markdown",
    output: Annotated[Path | None, typer.Option(help="A file; default standard output.")] = None,
    dataset: DatasetOption = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Count only runs with this param, KEY=VALUE; repeatable.")
    ] = None,
    all_commits: Annotated[
        bool, typer.Option("--all-commits", help="Also experiments of other commits.")
    ] = False,
) -> None:
    """Write a table of the experiments beside the paper's: mean and deviation over seeds and trials."""
    from pipeline.experiments.table import table as run

    text, notes = run(which, form, dataset, where or (), all_commits=all_commits)
    for note in notes:
        logger.warning(note)
    if output is None:
        typer.echo(text, nl=False)
        return
    with atomic_file(output) as file:
        file.write_text(text, encoding="utf-8")


@app.command()
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Networks: model.safetensors, .onnx[@PREPROCESSING], OpenVINO .xml.", metavar="MODEL"
        ),
    ],
    dataset: Annotated[list[str], typer.Option(help="Of params.yaml's `source`; repeatable.")],
    trials: Annotated[int, typer.Option(help="mlr.trial 0 to N-1.", min=1)] = 10,
    adapt: Annotated[bool, typer.Option("--adapt", help="Also whitened on the training persons.")] = False,
    upscale: Annotated[
        Literal["none", "bicubic", "rcan"], typer.Option(help="Of LR images, to HR size.")
    ] = "none",
    rcan: Annotated[
        Path | None, typer.Option(help="Folder of --upscale rcan, such as data/market1501/rcan.")
    ] = None,
    flip: Annotated[bool, typer.Option(help="Embed an image and its mirror image.")] = True,
    output: Annotated[Path, typer.Option(help="Folder of compare.json, .md and .svg.")] = Path(
        "data/compare"
    ),
) -> None:
    """Measure any networks on the MLR sets: Rank-k, mAP, mINP over trials, time and size.

    Needs `dvc repro split@DATASET` and trains nothing. Parameters: mlr.
    """
    from pipeline.experiments.compare import compare as run
    from pipeline.experiments.compare_files import write
    from pipeline.params import load_params

    results = run(
        models, dataset, load_params(), trials=trials, adapt=adapt, upscale=upscale, rcan=rcan, flip=flip
    )
    typer.echo(write(output, results), nl=False)


@app.command()
def adapt(
    model: Annotated[str, typer.Argument(help="As for compare.", metavar="MODEL")],
    pairs: Annotated[Path, typer.Option(help="CSV: query, gallery (paths of images), person_id.")],
    output: Annotated[Path, typer.Option(help="A .safetensors file.")] = Path("whitening.safetensors"),
    flip: Annotated[bool, typer.Option(help="Embed an image and its mirror image.")] = True,
) -> None:
    """Adapt a network to two cameras, from 100 pairs of images of their persons on, in seconds."""
    from pipeline.adapt import adapt as run

    found = run(model, pairs, output, flip=flip)
    logger.info("%s: fitted on %d pairs, lambda %g", output, found.pairs, found.shrinkage)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="A file of presets/, without .yaml.")],
    force: Annotated[bool, typer.Option("--force", help="Keep no copy of an edited params.yaml.")] = False,
) -> None:
    """Set every value of params.yaml to a preset's: paper, viper-laptop, or synthetic (as committed)."""
    from pipeline.preset import preset as run

    if backup := run(name, force=force):
        logger.warning("params.yaml had values of no preset; it is kept as %s", backup)
