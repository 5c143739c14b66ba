"""Stage download: a benchmark's archive, or the generator, to one table of images."""

from collections.abc import Iterator
from pathlib import Path

from dgrl.datasets import synthetic, viper
from dgrl.errors import InputError
from dgrl.tables import ImageRow, write_table
from pipeline.params import DatasetName, Params, SourceParams
from pipeline.paths import DROP, Paths


def download(dataset: DatasetName, params: Params) -> None:
    """Write ``data/<dataset>/images``."""
    write_table(Paths(dataset).images, _images(dataset, params.source))


def _images(dataset: DatasetName, source: SourceParams) -> Iterator[ImageRow]:
    if dataset == "synthetic":
        return synthetic.images(source.synthetic)
    return viper.images(_archive(source.viper.archive, "VIPeR", "viper"))


def _archive(path: str | None, file: str, dataset: str) -> Path:
    """The archive that params.yaml names, else the one in the drop folder."""
    if path is not None:
        if not Path(path).exists():
            raise InputError(
                f"params.yaml: source.{dataset}.archive = {path!r} does not exist; correct the path, or set "
                f"it to null and put the archive into {DROP}/"
            )
        return Path(path)
    found = sorted(entry for entry in DROP.glob("*") if entry.name.lower().startswith(file.lower()))
    if not found:
        raise InputError(
            f"no {file} archive: set source.{dataset}.archive in params.yaml to the official zip file or "
            f"folder, or put it into {DROP}/"
        )
    return found[0]
