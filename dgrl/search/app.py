"""The page to try an index: an ASGI application for one person's browser on this machine.

It has two addresses, keeps nothing, and no request names a file. What another site could do: make the browser
send an image here without seeing the answer, which the content type refuses (the browser asks first, and no
answer allows it); or have its own name resolve to this machine, which the check of the host refuses.
"""

import secrets
from collections.abc import Callable
from threading import Lock

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from dgrl.errors import explain
from dgrl.images import Image, encode_png
from dgrl.limits import limits
from dgrl.report.page import data_uri, environment
from dgrl.report.thumbnail import shrink
from dgrl.search.finding import Finding
from dgrl.search.sheet import THUMBNAIL_SIDE, thumbnail

HOSTS = ["127.0.0.1", "localhost"]
CONTENT_TYPE = "application/octet-stream"


def build_app(title: str, find: Callable[[bytes, bool], Finding], *, has_maps: bool) -> Starlette:
    """The application.

    Args:
        title: of the page.
        find: from an image file's bytes, and whether activation maps are wanted, to what is shown; called
            once at a time. Its errors that a person can mend are shown in a line.
        has_maps: whether there are any to show.
    """
    templates = environment("dgrl.search", "dgrl.report")
    templates.filters |= {"thumbnail": thumbnail, "exact": _exact}
    nonce = secrets.token_urlsafe()
    page = templates.get_template("app_page.html.j2").render(
        title=title,
        has_maps=has_maps,
        nonce=nonce,
        side=THUMBNAIL_SIDE,
        panel_side=THUMBNAIL_SIDE,
        file_bytes=limits().file_bytes,
        content_type=CONTENT_TYPE,
    )
    found_template = templates.get_template("app_found.html.j2")
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    lock = Lock()

    def answer(data: bytes, maps: bool) -> Response:
        try:
            with lock:
                found = find(data, maps)
            return HTMLResponse(found_template.render(found=found, side=THUMBNAIL_SIDE), headers=headers)
        except Exception as error:
            if (line := explain(error)) is None:
                raise
            return PlainTextResponse(line, 422, headers)

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    async def search(request: Request) -> Response:
        if request.headers.get("Content-Type") != CONTENT_TYPE:
            return PlainTextResponse(f"send an image file's bytes as {CONTENT_TYPE}", 415, headers)
        data, most = bytearray(), limits().file_bytes
        async for part in request.stream():
            data += part
            if len(data) > most:
                return PlainTextResponse(f"the file has over {most} bytes, the limit", 413, headers)
        return await run_in_threadpool(answer, bytes(data), "maps" in request.query_params)

    return Starlette(
        routes=[Route("/", show), Route("/search", search, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
    )


def _exact(image: Image) -> str:
    return data_uri("image/png", encode_png(shrink(image, THUMBNAIL_SIDE, THUMBNAIL_SIDE)))
