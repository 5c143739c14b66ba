"""The command that shows an index as a page in the browser."""

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgrl.errors import InputError
from dgrl.extras import package
from pipeline.search import (
    FmrOption,
    IndexOption,
    LrBelowOption,
    MovedModelOption,
    PriorOption,
    RcanOption,
    open_index,
)

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from pipeline.search import Opened

HOST, PORT = "127.0.0.1", 8765


def app(
    index_folder: IndexOption,
    port: Annotated[int, typer.Option(help="Of this machine; 0: any free one.", min=0, max=65535)] = PORT,
    fmr: FmrOption = None,
    prior: PriorOption = None,
    model: MovedModelOption = None,
    lr_below: LrBelowOption = None,
    rcan: RcanOption = None,
) -> None:
    """Search an index from a page in the browser: drop an image, see the ten nearest.

    The page is for this machine alone (127.0.0.1), asks no other for anything, and writes no file.
    """
    for name in ("starlette", "uvicorn"):
        package(name, "app", "the page")
    page = build_page(index_folder, partial(open_index, index_folder, model, lr_below, rcan, fmr, prior))
    with listen(port) as listening:
        server = make_server(page)
        typer.echo(f"http://{HOST}:{listening.getsockname()[1]} (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server.run([listening])


def build_page(folder: Path, load: "Callable[[], Opened]") -> "Starlette":
    """The page of an index, which follows it: who is removed from it is not found from then on.

    Args:
        folder: the index.
        load: opens it, as ``open_index`` does.
    """
    from dgrl.embedders.trained import TrainedNetwork
    from dgrl.search.app import build_app
    from dgrl.search.finding import Finding, find

    file = folder / "index.json"

    @lru_cache(maxsize=1)
    def opened(written: int) -> "Opened":
        return load()

    def current() -> "Opened":
        return opened(file.stat().st_mtime_ns if file.exists() else 0)

    def find_now(data: bytes, maps: bool) -> Finding:
        return find(*current(), data, maps=maps)

    _, embedder, _ = current()  # a wrong option is refused now
    has_maps = isinstance(embedder.network, TrainedNetwork)
    return build_app(f"Search {folder.resolve().name}", find_now, has_maps=has_maps)


def listen(port: int) -> socket.socket:
    """A socket that this machine alone can reach."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise InputError(f"port {port} cannot be had ({error.strerror}); give another by --port") from None


def make_server(page: "Starlette") -> "uvicorn.Server":
    """The server of the page: plain HTTP, without a log of who asked for what."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            page, http="h11", ws="none", lifespan="off", access_log=False, log_config=None, log_level="error",
            server_header=False, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
