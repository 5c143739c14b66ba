"""The commands that use a network: embed, index and search images."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from dgrl.errors import InputError
from dgrl.files import atomic_file
from pipeline.results import read_json

if TYPE_CHECKING:  # they import pandas and torch, which takes seconds
    from dgrl.embedders.embedder import Embedder
    from dgrl.evaluation.calibration import Calibration
    from dgrl.search.answers import Answer
    from dgrl.search.index import Index

    Opened = tuple[Index, Embedder, Callable[[float], str]]  # the last: what a similarity is answered with

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="model.safetensors of a run, .onnx, or OpenVINO's .xml; or FILE@PREPROCESSING."
    ),
]
PatternOption = Annotated[
    str | None,
    typer.Option(help="Regular expression of a file's path below its folder: (?P<person_id>..), camera_id."),
]
LrBelowOption = Annotated[
    int | None,
    typer.Option(
        help="Shorter images are low-resolution, pixels; default half of the network's input.",
        min=0,
    ),
]
RcanOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the RCANs that restore them; default the rcan folder of the network's run, where it "
        "has one, else bicubic interpolation."
    ),
]
IndexOption = Annotated[Path, typer.Option("--index", help="A folder that dgrl index wrote.")]
FmrOption = Annotated[
    float | None,
    typer.Option(help="False-match rate of a pair: less similar images are `unknown`. Default 0.001."),
]
PriorOption = Annotated[
    float | None,
    typer.Option(help="Probability before looking that an image shows the person. Default 1 / images."),
]
MovedModelOption = Annotated[
    str | None, typer.Option("--model", help="The index's model, where its file was moved.")
]
KindName = Literal["exact", "hnsw", "ivf"]

FMR = 1e-3  # the nearest that there is a threshold for

logger = logging.getLogger(__name__)


def embed(
    paths: Annotated[list[Path], typer.Argument(help="Images, folders of images, or image tables.")],
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    pattern: PatternOption = None,
    lr_below: LrBelowOption = None,
    rcan: RcanOption = None,
) -> None:
    """Embed images: one row per image, with a column `embedding` of unit length."""
    from dgrl.search.embeddings import embed_sources, write_embeddings
    from dgrl.search.sources import sources

    embedder = _load(model, lr_below, rcan)
    rows, vectors = embed_sources(embedder, sources(paths, pattern))
    write_embeddings(out, rows, vectors, embedder.network.name, embedder.network.digest)
    logger.info("%s: %d embeddings; %s", out, len(rows), embedder.describe(list(rows.resolution)))


def index(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of images, an image, or an image table.")
    ],
    out: Annotated[Path, typer.Option(help="The index: a folder, made or brought up to date.")],
    model: Annotated[
        str | None, typer.Option("--model", help="As for embed; by default the one that the index is of.")
    ] = None,
    kind: Annotated[
        KindName | None,
        typer.Option(help="exact; hnsw: fast, nearly exact; ivf: in between. Default: as it is, or exact."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove all images of DIR, which need not exist any more.")
    ] = False,
    pattern: PatternOption = None,
    lr_below: LrBelowOption = None,
    rcan: RcanOption = None,
) -> None:
    """Bring an index up to date with DIR: new and changed images are embedded, those that are gone removed.

    An index may hold several folders: run it once for each.
    """
    from dgrl.search.embeddings import remove_all, update
    from dgrl.search.index import Index, changing

    if remove:
        with changing(out):
            found = Index.load(out)
            if not (count := remove_all(found, folder)):
                raise InputError(f"{out} has no image of {folder}; give a path as it was indexed")
            found.save(out)
        logger.info("%s: %d images (%d removed)", out, len(found.rows), count)
        return
    if model is None:
        if not out.exists():
            raise InputError(f"{out} does not exist; give the network to make it with: --model FILE")
        model = Index.load(out).model
    embedder = _load(model, lr_below, rcan)
    with changing(out):
        found = Index.load(out) if out.exists() else Index.empty(_whole(model), embedder.network.digest)
        found.require(model, embedder.network.digest)
        if kind is not None:
            found.convert(kind)
        changes = update(found, folder, embedder, pattern)
        found.save(out)
    logger.info(
        "%s: %d images (%d added, %d changed, %d removed); %s",
        out, len(found.rows), changes.added, changes.changed, changes.removed,
        embedder.describe(changes.resolutions),
    )  # fmt: skip


def search(
    queries: Annotated[list[Path], typer.Argument(metavar="QUERY...", help="Images, or folders of images.")],
    index_folder: IndexOption,
    top: Annotated[int, typer.Option(help="Images to show of each query.", min=1)] = 10,
    html: Annotated[Path | None, typer.Option(help="Also write a contact sheet.")] = None,
    blur_faces: Annotated[
        bool, typer.Option("--blur-faces", help="Blur the upper half of the sheet's images, where faces are.")
    ] = False,
    fmr: FmrOption = None,
    prior: PriorOption = None,
    model: MovedModelOption = None,
    lr_below: LrBelowOption = None,
    rcan: RcanOption = None,
) -> None:
    """Find the images of an index that are nearest to each query.

    Where the model has a calibration.json beside it, or a run's evaluation wrote one, each says `same person`
    with a probability, or `unknown`.
    """
    from dgrl.search.answers import find_answers
    from dgrl.search.blur import blur_faces as blurred
    from dgrl.search.embeddings import embed_sources
    from dgrl.search.sheet import render_sheet
    from dgrl.search.sources import sources

    if blur_faces and html is None:
        raise InputError("--blur-faces is of the contact sheet; add --html FILE")
    found, embedder, verdict = open_index(index_folder, model, lr_below, rcan, fmr, prior)
    images = list(sources(queries))
    rows, vectors = embed_sources(embedder, images)
    resolutions = list(rows.resolution)
    answers = find_answers(found, images, resolutions, vectors, top, verdict)
    note = embedder.describe(resolutions)
    console = Console(markup=False, highlight=False)
    for answer in answers:
        console.print(_table(answer))
    logger.info(note)
    if html is not None:
        page = render_sheet(f"{len(answers)} queries in {index_folder.name}", note, answers)
        with atomic_file(html) as building:
            building.write_text(blurred(page) if blur_faces else page, encoding="utf-8")


def open_index(
    folder: Path,
    model: str | None = None,
    lr_below: int | None = None,
    rcan: Path | None = None,
    fmr: float | None = None,
    prior: float | None = None,
) -> "Opened":
    """An index, its network, and what a similarity is answered with; the options are those of ``search``."""
    from dgrl.embedders.catalog import parse_model
    from dgrl.search.index import Index

    found = Index.load(folder)
    embedder = _load(model or found.model, lr_below, rcan)
    found.require(model or found.model, embedder.network.digest)
    calibration = _calibration(parse_model(model or found.model)[0], embedder.network.digest)
    if calibration is None and (fmr is not None or prior is not None):
        raise InputError("--fmr and --prior need a calibration.json of the model; evaluate writes it")
    chosen = 1 / max(2, len(found.rows)) if prior is None else prior
    return found, embedder, _verdict(calibration, fmr, chosen)


def _load(model: str, lr_below: int | None, rcan: Path | None) -> "Embedder":
    from dgrl.embedders.catalog import parse_model
    from dgrl.embedders.embedder import Embedder

    path, preprocessing = parse_model(model)
    return Embedder.load(path, preprocessing, lr_below=lr_below, rcan=rcan)


def _whole(model: str) -> str:
    """FILE or FILE@PREPROCESSING with the file's absolute path, so that the index finds it from anywhere."""
    return str(Path(model).absolute())


def _calibration(model: Path, digest: str) -> "Calibration | None":
    """The calibration beside a model, or of its run; None where there is none, or another model's."""
    from dgrl.evaluation.calibration import Calibration

    folder = (model if model.is_dir() else model.parent).absolute()  # of an exported network, or a run's
    places = folder / "calibration.json", folder.parent / "eval/calibration.json"
    path = next((each for each in places if each.exists()), None)
    if path is None or (values := read_json(path, dict | None)) is None:
        return None
    calibration = Calibration.parse(values, "", str(path))
    if calibration.model == digest:
        return calibration
    logger.warning(
        "%s is of another network, or of this one with evaluate.flip: true, so not used; run the stage "
        "evaluate again, or search by the folder of `dgrl export --format hf --flip`", path,
    )  # fmt: skip
    return None


def _verdict(calibration: "Calibration | None", fmr: float | None, prior: float) -> "Callable[[float], str]":
    """From a similarity to ``same person 0.93``, or ``unknown``; to nothing without a calibration."""
    if calibration is None:
        return lambda _: ""
    if not 0 < prior < 1:
        raise InputError(f"--prior {prior} is no probability; give one between 0 and 1")
    rates = sorted(map(float, calibration.thresholds))
    least = -math.inf  # where its pairs were too few for any threshold
    if rates or fmr is not None:
        chosen = min(rates, key=lambda rate: abs(math.log(rate / FMR))) if fmr is None else fmr
        if chosen not in rates:
            allowed = ", ".join(f"{rate:g}" for rate in rates) or "none: its pairs are too few"
            raise InputError(
                f"there is no threshold for a false-match rate of {chosen} (there are: {allowed})"
            )
        least = calibration.thresholds[f"{chosen:g}"]

    def answer(similarity: float) -> str:
        if similarity <= least:
            return "unknown"
        return f"same person {float(calibration.probability(similarity, prior)):.2f}"

    return answer


def _table(answer: "Answer") -> Table:
    answered = ["answer"] if any(match.answer for match in answer.matches) else []
    headings = ["rank", "similarity", *answered, "image", "who, where"]
    table = Table(*headings, title=f"{answer.name} ({answer.note})")
    for column in table.columns:
        column.overflow = "fold"
    for rank, match in enumerate(answer.matches, 1):
        verdict = [match.answer] if answered else []
        table.add_row(str(rank), f"{match.similarity:.3f}", *verdict, match.name, match.caption)
    return table
