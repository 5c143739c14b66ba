"""The page of a small index on a port of this machine, and requests to it."""

import base64
import http.client
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from small_images import smooth_image

from dgrl.embedders.embedder import Embedder
from dgrl.images import Image, encode_png
from dgrl.search.embeddings import update
from dgrl.search.index import Index
from pipeline.app import build_page, listen, make_server
from pipeline.search import open_index

PATTERN = r"p(?P<person_id>\d+)\.png"
OCTETS = {"Content-Type": "application/octet-stream"}


def person(number: int, factor: int = 1) -> Image:
    """A person in the other camera, shrunk."""
    noise = smooth_image("noise", number).astype(float) - 127
    image = (smooth_image("person", number).astype(float) + 0.1 * noise).clip(0, 255).astype(np.uint8)
    return cv2.resize(image, (48 // factor, 96 // factor), interpolation=cv2.INTER_AREA).astype(np.uint8)


def make_index(folder: Path, model: str, persons: int = 12) -> Path:
    """An index of one image of each person, in ``folder``; the images are beside it."""
    gallery = folder / "gallery"
    gallery.mkdir()
    for number in range(persons):
        (gallery / f"p{number}.png").write_bytes(encode_png(smooth_image("person", number)))
    return fill_index(folder, model)


def fill_index(folder: Path, model: str) -> Path:
    embedder = Embedder.load(model)
    index = Index.empty(model, embedder.network.digest)
    update(index, folder / "gallery", embedder, PATTERN)
    index.save(folder / "people")
    return folder / "people"


@contextmanager
def serving(index: Path) -> Iterator[int]:
    """The page's port, while it is served."""
    with listen(0) as listening:
        server = make_server(build_page(index, partial(open_index, index)))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def request(
    port: int,
    method: str = "GET",
    path: str = "/",
    body: bytes | None = None,
    headers: Mapping[str, str] = OCTETS,
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.read().decode(), found
    finally:
        connection.close()


def decoded(link: str) -> Image:
    """The image of a data: link."""
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))).convert("RGB"))
