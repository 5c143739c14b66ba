"""`dgrl download`: where an archive is taken from, and what becomes of a missing or damaged one."""

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import Command, change, mistake

from dgrl.datasets import viper
from dgrl.datasets.catalog import KINDS
from dgrl.tables import read_keys


def viper_zip(path: Path, persons: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for person in range(persons):
            for camera in viper.CAMERAS:
                archive.writestr(
                    f"VIPeR/{camera}/{person:03d}_0.bmp", cv2.imencode(".bmp", noise)[1].tobytes()
                )
    return path


@pytest.mark.parametrize("name", ["data/drop/viper_v1.zip", "elsewhere/archive.zip"])
def test_an_archive_is_taken_from_the_drop_folder_or_where_params_say(
    dgrl: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)
    archive = viper_zip(Path(name), persons=3)
    if "drop" not in name:
        change("source", viper={"archive": str(archive)})
    assert dgrl("download", "viper") == (0, "")
    assert len(read_keys(Path("data/viper/images"))) == 6


@pytest.mark.parametrize(
    ("dataset", "file"), [("caviar", "CAVIAR4REID.zip"), ("cuhk03", "cuhk03_release.zip")]
)
def test_an_archive_that_only_a_person_can_get(dgrl: Command, dataset: str, file: str) -> None:
    said = mistake(dgrl, "download", dataset)
    assert f"ask for {file} at https://" in said
    assert f"put it into data/drop/ or set source.{dataset}.archive in params.yaml" in said
    assert not Path("data").exists()


def use_remote(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change what is known of VIPeR's archive."""
    kind = KINDS["viper"]
    assert kind.remote is not None
    monkeypatch.setitem(KINDS, "viper", replace(kind, remote=replace(kind.remote, **changes)))


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a loopback server, which VIPeR's archive is fetched from."""
    folder = tmp_path_factory.mktemp("mirror")
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/VIPeR.v1.0.zip"
        use_remote(monkeypatch, mirrors=(url,))
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield folder
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_an_archive_is_fetched_once_into_a_cache(
    dgrl: Command, mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)
    cache = tmp_path_factory.mktemp("cache")
    change("runtime", cache=str(cache))
    archive = viper_zip(mirror / "VIPeR.v1.0.zip", persons=3)
    use_remote(monkeypatch, md5=hashlib.md5(archive.read_bytes()).hexdigest())
    assert dgrl("download", "viper") == (0, "")
    assert (cache / archive.name).read_bytes() == archive.read_bytes()
    archive.unlink()
    assert dgrl("download", "viper") == (0, "")
    assert len(read_keys(Path("data/viper/images"))) == 6


def test_no_mirror_and_no_archive(dgrl: Command, mirror: Path) -> None:
    change("runtime", cache=str(mirror / "cache"))
    said = mistake(dgrl, "download", "viper")
    assert "404" in said
    assert "get VIPeR.v1.0.zip by hand" in said
    assert "put it into data/drop/ or set source.viper.archive in params.yaml" in said


def test_an_archive_that_is_not_where_params_say(dgrl: Command) -> None:
    change("source", viper={"archive": "nowhere/VIPeR.zip"})
    assert "source.viper.archive = 'nowhere/VIPeR.zip' does not exist" in mistake(dgrl, "download", "viper")


@pytest.mark.parametrize("persons", [2, 3])
def test_a_wrong_or_damaged_archive_leaves_earlier_images_whole(
    dgrl: Command, monkeypatch: pytest.MonkeyPatch, persons: int
) -> None:
    monkeypatch.setattr(viper, "PERSONS", 3)
    archive = viper_zip(Path("data/drop/VIPeR.zip"), persons=3)
    dgrl("download", "viper")
    viper_zip(archive, persons)
    if persons == 2:
        told = "4 images of 2 persons instead of 6 of 3"
    else:
        archive.write_bytes(archive.read_bytes()[:-30])
        told = "may be truncated"
    said = mistake(dgrl, "download", "viper")
    assert "data/drop/VIPeR.zip" in said
    assert told in said
    assert len(read_keys(Path("data/viper/images"))) == 6
