"""The ``dgrl`` command: one subcommand per stage."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dgrl.errors import InputError, explain
from dgrl.files import atomic_file
from dgrl.parallel.processes import die_with_parent
from dgrl.parallel.shards import DEFAULT_BACKEND, Backend
from pipeline.experiments.paper import AblationName, TableFormat, TableName
from pipeline.logs import set_up_logs
from pipeline.params import load_params

_INTERRUPTED = 130  # Typer's status after Ctrl-C

app = typer.Typer(
    name="dgrl",
    help="Cross-resolution person re-identification (DGRL). `dvc repro` runs the stages in order; each is a "
    "subcommand here, reads params.yaml, and writes under data/<dataset>/.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

DatasetArgument = Annotated[str, typer.Argument(help="The dataset, one of params.yaml's `datasets`.")]
DatasetOption = Annotated[str | None, typer.Option(help="One of params.yaml's `datasets`; default all.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes; default one per core, or one per GPU where a GPU computes.", min=1),
]
BackendOption = Annotated[
    Backend,
    typer.Option(
        help="processes of this machine, or Ray tasks (extra dgrl[ray]) on the cluster of RAY_ADDRESS.",
        envvar="DGRL_BACKEND",
    ),
]
logger = logging.getLogger(__name__)


@app.callback()
def start() -> None:
    """Have a stage end with the DVC that runs it, so that no orphan writes while the next run starts."""
    if "DVC_STAGE" in os.environ:
        die_with_parent(os.getppid())


@app.command()
def download(dataset: DatasetArgument) -> None:
    """Read the benchmark's archive (or generate the synthetic set) into data/<dataset>/images.

    The archive is the one that params.yaml names at source.<dataset>.archive, else one in data/drop/, else
    one fetched from a mirror. It is checked and read member by member; nothing is unpacked.
    """
    from pipeline.download import download as run

    run(dataset, load_params())


@app.command()
def split(
    dataset: DatasetArgument, workers: WorkersOption = None, backend: BackendOption = DEFAULT_BACKEND
) -> None:
    """Build the multi-low-resolution (MLR) training, query and gallery tables in data/<dataset>/mlr.

    Same params, same bytes, whatever the number of processes or the backend. split.json has the persons, the
    factors, the options and a digest of each table. Parameters: mlr.
    """
    from pipeline.split import split as run

    params = load_params()
    logger.info("%s", run(dataset, params, workers or params.runtime.workers, backend))


@app.command("pretrain-sr")
def pretrain_sr(
    dataset: DatasetArgument,
    scale: Annotated[int, typer.Argument(help="The down-sampling factor that the network undoes.")],
) -> None:
    """Train RCAN of one scale with basicsr on the HR training images, into data/<dataset>/rcan.

    Some training persons are held out to measure PSNR and SSIM against bicubic interpolation; test persons
    are never seen. Nothing is trained where sr.method is not rcan, or for a dataset of mlr.real_lr.
    Parameters: rcan, sr.method, mlr.real_lr.
    """
    from pipeline.pretrain_sr import pretrain_sr as run

    if metrics := run(dataset, scale, load_params()):
        shown = metrics["psnr"], metrics["bicubic_psnr"]
        logger.info("%s x%d: PSNR %.2f dB, bicubic %.2f dB", dataset, scale, *shown)
    else:
        logger.info("%s x%d: no RCAN is wanted, so none is trained", dataset, scale)


@app.command("cache-sr")
def cache_sr(dataset: DatasetArgument, workers: WorkersOption = None) -> None:
    """Compute the super-resolved (SR) image of every LR image, into data/<dataset>/sr.

    Same bytes whatever the number of processes. Parameters: sr, rcan.scales.
    """
    from pipeline.cache_sr import cache_sr as run

    params = load_params()
    run(dataset, params, workers or params.runtime.workers)


@app.command()
def digest(
    dataset: DatasetArgument, workers: WorkersOption = None, backend: BackendOption = DEFAULT_BACKEND
) -> None:
    """Print a digest of each MLR table: of its decoded pixels, ids, cameras and factors.

    Equal digests mean equal sets, to the pixel, whatever the files, their order or their compression.
    docs/benchmarks.md has those of the default options.
    """
    from pipeline.digest import digest as run

    for table, (images, value) in run(dataset, workers, backend).items():
        typer.echo(f"{value}  {table} ({images} images)")


@app.command()
def train(dataset: DatasetArgument) -> None:
    """Train the DGRL network on HR/SR pairs, into data/<dataset>/dgrl.

    A killed run goes on where its last checkpoint was (.work/), and ends with the same weights.
    Parameters: model, loss, augment, train.

    On several GPUs of this machine: set train.processes to their number. On several machines that share the
    project's folder: set it to the number of all their GPUs, and on each machine run, with the same HOST,

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m pipeline train
    DATASET

    and then, on one, dvc commit train@DATASET.
    """
    from pipeline.train import train as run

    run(dataset, load_params())


@app.command()
def evaluate(dataset: DatasetArgument, workers: WorkersOption = None) -> None:
    """Rank the HR gallery for every SR query: CMC, mAP, mINP, curves, report and embeddings, into eval/.

    rank1, rank5 and rank10 are single-shot: one gallery image per person, exact expectation over all such
    galleries. Same metrics whatever the number of processes. Parameters: evaluate.
    """
    from pipeline.evaluate import evaluate as run

    params = load_params()
    metrics = run(dataset, params, workers or params.runtime.workers)
    shown = ", ".join(f"{name} {metrics[name]:.1f}" for name in ("rank1", "rank5", "rank10", "mAP", "mINP"))
    logger.info("%s: %s", dataset, shown)


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
        file.write_text(text)


@app.command()
def preset(name: Annotated[str, typer.Argument(help="A file of presets/, without .yaml.")]) -> None:
    """Set every value of params.yaml to a preset's: paper, viper-laptop, or synthetic (as committed)."""
    from pipeline.preset import preset as run

    run(name)


def main() -> None:
    """Run the command line; an error that a person can mend is one line on standard error and status 1."""
    set_up_logs()
    try:
        app(prog_name="dgrl")
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            sys.stderr.write("error: interrupted\n")
        raise
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        stage = "" if isinstance(error, InputError) else f"{sys.argv[1]}: "
        sys.stderr.write(f"error: {stage}{line}\n")
        sys.exit(1)
