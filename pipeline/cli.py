"""The ``dgrl`` command: its options, how it ends, and one subcommand per stage.

A further subcommand is a function with ``@app.command()`` here or in ``pipeline.commands``. It imports what
it runs inside, so that ``dgrl --help`` stays quick.
"""

import logging
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from dgrl.errors import InputError, MissingError, explain
from dgrl.parallel.processes import die_with_parent
from dgrl.parallel.shards import DEFAULT_BACKEND, Backend
from pipeline import app as page
from pipeline import commands
from pipeline import export as exporting
from pipeline import forget as forgetting
from pipeline import search as searching
from pipeline.logs import set_up_logs

if TYPE_CHECKING:
    from pipeline.params import Params

_INTERRUPTED = 130  # Typer's status after Ctrl-C

app = typer.Typer(
    name="dgrl",
    help="Cross-resolution person re-identification (DGRL). `dvc repro` runs the stages in order; each is a "
    "subcommand here, reads params.yaml, and writes under data/<dataset>/.",
    epilog="Exit status: 0 done; 1 a mistake, or what the machine lacks, in one line on standard error; 2 a "
    "wrong command line; 130 interrupted. Results go to standard output, messages to standard error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(commands.app)

DatasetArgument = Annotated[str, typer.Argument(help="The dataset, one of params.yaml's `datasets`.")]
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


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dgrl {version('dgrl')}")
        raise typer.Exit


@app.callback()
def start(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more, such as basicsr's log.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what needs care.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Set up what all subcommands share."""
    set_up_logs(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if "DVC_STAGE" in os.environ:  # end with the DVC that runs it: no orphan writes while the next run starts
        die_with_parent(os.getppid())


def _params() -> "Params":
    from pipeline.params import load_params

    return load_params()


@app.command()
def download(dataset: DatasetArgument) -> None:
    """Read the benchmark's archive (or generate the synthetic set) into data/<dataset>/images.

    The archive is the one that params.yaml names at source.<dataset>.archive, else one in data/drop/, else
    one fetched from a mirror. It is checked and read member by member; nothing is unpacked.
    """
    from pipeline.download import download as run

    _log_counts(dataset, run(dataset, _params()))


@app.command()
def split(
    dataset: DatasetArgument, workers: WorkersOption = None, backend: BackendOption = DEFAULT_BACKEND
) -> None:
    """Build the multi-low-resolution (MLR) training, query and gallery tables in data/<dataset>/mlr.

    Same params, same bytes, whatever the number of processes or the backend. split.json has the persons, the
    factors, the options and a digest of each table. Parameters: mlr.
    """
    from pipeline.check import check
    from pipeline.split import split as run

    params = _params()
    if params.source_of(dataset).kind not in ("folder", "synthetic"):  # checked before there were images
        check(dataset, params, downloaded=True)
    _log_counts(dataset, run(dataset, params, workers or params.runtime.workers, backend))


@app.command("pretrain-sr")
def pretrain_sr(
    dataset: DatasetArgument,
    scale: Annotated[int, typer.Argument(help="The down-sampling factor that the network undoes.")],
) -> None:
    """Train RCAN of one scale with basicsr on the HR training images, into data/<dataset>/rcan.

    Some training persons are held out to measure PSNR and SSIM against bicubic interpolation; test persons
    are never seen. Nothing is trained where sr.method is not rcan, where rcan.weights has networks, or for a
    dataset of mlr.real_lr. Parameters: rcan, sr.method, mlr.real_lr.
    """
    from pipeline.pretrain_sr import pretrain_sr as run

    if metrics := run(dataset, scale, _params()):
        shown = [metrics[name] for name in ("psnr", "bicubic_psnr", "psnr_y", "bicubic_psnr_y")]
        line = "%s x%d: PSNR (RGB, border 0) %.2f dB, bicubic %.2f; (Y, border %d) %.2f dB, bicubic %.2f"
        logger.info(line, dataset, scale, *shown[:2], scale, *shown[2:])
    else:
        logger.info("%s x%d: no RCAN is to be trained", dataset, scale)


@app.command("cache-sr")
def cache_sr(dataset: DatasetArgument, workers: WorkersOption = None) -> None:
    """Compute the super-resolved (SR) image of every LR image, into data/<dataset>/sr.

    Same bytes whatever the number of processes. Parameters: sr, rcan.scales.
    """
    from pipeline.cache_sr import cache_sr as run

    params = _params()
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

    run(dataset, _params())


@app.command()
def evaluate(dataset: DatasetArgument, workers: WorkersOption = None) -> None:
    """Rank the HR gallery for every SR query: CMC, mAP, mINP, curves, report and embeddings, into eval/.

    rank1, rank5 and rank10 are single-shot: one gallery image per person, exact expectation over all such
    galleries. Same metrics whatever the number of processes. Parameters: evaluate.
    """
    from pipeline.evaluate import evaluate as run

    params = _params()
    metrics = run(dataset, params, workers or params.runtime.workers)
    shown = ", ".join(f"{name} {metrics[name]:.1f}" for name in ("rank1", "rank5", "rank10", "mAP", "mINP"))
    logger.info("%s: %s", dataset, shown)


app.command()(searching.embed)
app.command()(searching.index)
app.command()(searching.search)
app.command()(page.app)
app.command()(forgetting.forget)
app.command()(exporting.export)


def _log_counts(dataset: str, counts: dict[str, int]) -> None:
    logger.info("%s: %s", dataset, ", ".join(f"{count} {name}" for name, count in counts.items()))


def main() -> None:
    """Run the command line; an error that a person can mend is one line on standard error and status 1."""
    try:
        app(prog_name="dgrl")
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            sys.stderr.write("error: interrupted\n")
        raise
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        words = [word for word in sys.argv[1:] if not word.startswith("-")]
        stage = "" if isinstance(error, InputError) or not words else f"{words[0]}: "
        if isinstance(error, MissingError):
            line += " (dvc repro)"
        sys.stderr.write(f"error: {stage}{line}\n")
        sys.exit(1)
