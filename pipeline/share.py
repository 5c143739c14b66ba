"""The command ``report``: a copy of a dataset's report for others."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from dgrl.errors import MissingError
from dgrl.files import atomic_file
from pipeline.paths import Paths

logger = logging.getLogger(__name__)


def report(
    dataset: Annotated[str, typer.Argument(help="The dataset whose report it is.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    blur_faces: Annotated[
        bool, typer.Option("--blur-faces", help="Blur the upper half of each image, where faces are.")
    ] = False,
) -> None:
    """Copy a dataset's report into one HTML file for others, with faces blurred if wanted."""
    from dgrl.search.blur import blur_faces as blurred

    file = Paths(dataset).eval / "report.html"
    if not file.is_file():
        raise MissingError(f"{file} does not exist; run the stage evaluate first")
    page = file.read_text(encoding="utf-8")
    with atomic_file(out) as building:
        building.write_text(blurred(page) if blur_faces else page, encoding="utf-8")
    logger.info("%s: the report of %s%s", out, dataset, ", faces blurred" if blur_faces else "")
