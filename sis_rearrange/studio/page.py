"""The page: one HTML document and its scripts and styles, served from memory.

It is a document of its own, without the web framework's front end, so that no release of the framework can change it
and nothing in it asks another machine for anything. The files are read once; only their names can be asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

STATIC = "static"
INDEX = "index.html"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    name: str
    kind: str  # media type
    data: bytes
    tag: str  # ETag: of the content

    @property
    def headers(self) -> dict[str, str]:
        """What every answer with it carries: nothing from elsewhere runs in it, and a new version is seen at once."""
        return {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
            "ETag": self.tag,
        }


def page_files() -> dict[str, PageFile]:
    """All files of the page by name, ``index.html`` among them."""
    found = {}
    for path in files(__package__).joinpath(STATIC).iterdir():
        suffix = "." + path.name.rpartition(".")[2]
        if suffix in KINDS:
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
            found[path.name] = PageFile(path.name, f"{KINDS[suffix]}; charset=utf-8", data, tag)
    return found


def build_page(app: FastAPI) -> None:
    """Add the page to a FastAPI application: ``GET /`` and ``GET /studio/NAME`` for each of its files."""
    from starlette.responses import Response
    from starlette.routing import Route

    known = page_files()

    def answer(request: Request, file: PageFile) -> Response:
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=file.headers)
        return Response(file.data, media_type=file.kind, headers=file.headers)

    def index(request: Request) -> Response:
        return answer(request, known[INDEX])

    def static(request: Request) -> Response:
        file = known.get(request.path_params["name"])
        return Response("not found", status_code=404) if file is None else answer(request, file)

    app.router.routes[:0] = [Route("/", index, methods=["GET"]), Route("/studio/{name}", static, methods=["GET"])]
