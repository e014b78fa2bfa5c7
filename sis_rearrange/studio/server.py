"""The studio as a web server: operations as plain routes, the same operations for gradio's clients, and the page.

`POST /studio/api/OPERATION` takes and gives JSON in one round trip; the page uses nothing else. gradio serves the same
under `/gradio` for its client libraries: ``Client("http://127.0.0.1:7860/gradio").predict(text, api_name="/render")``,
where the text is the request in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sis_rearrange.errors import InputError
from sis_rearrange.pack import Pack
from sis_rearrange.studio.guarding import GRADIO, Guard, TooLarge
from sis_rearrange.studio.protocol import REQUESTS
from sis_rearrange.studio.refusals import Busy, Gone, Late
from sis_rearrange.studio.replies import to_json
from sis_rearrange.studio.service import Studio
from sis_rearrange.studio.values import Limits

if TYPE_CHECKING:
    import fastapi
    import gradio
    import uvicorn

BODY_SECONDS = 60.0  # that a request may take to arrive
GRACE = 5.0  # seconds beyond a request's own limit before the server gives up on it
CONNECTIONS = 200  # at a time
SESSIONS = 16  # whose last request gradio keeps
LARGE = ("file",)  # operations with replies that gradio should not hold until they are fetched
PORT = 7860
MISSING = "the studio needs gradio, which is not installed: pip install 'sis_rearrange[studio]'"

_log = logging.getLogger(__name__)


def build(
    packs: list[Pack],
    limits: Limits | None = None,
    device: str = "auto",
    backend: str = "auto",
    hosts: frozenset[str] = frozenset(),  # names beside localhost that the server goes by
    page: bool = True,  # False: the operations alone
) -> tuple[Guard, Studio]:
    """The ASGI application and what stands behind it; closing the application closes both.

    Raises InputError where gradio is missing, and for packs that cannot be drawn with.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import fastapi
        import gradio
    except ImportError:
        raise InputError(MISSING) from None
    studio = Studio(packs, limits, device, backend)

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(studio.close)

    # the pages that describe an API load their scripts from elsewhere
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_route("/studio/api/{operation}", _route(studio), methods=["POST"])
    if page:
        from sis_rearrange.studio.page import build_page

        build_page(app)
    gradio.mount_gradio_app(
        app, _blocks(gradio, studio), GRADIO, show_error=False, ssr_mode=False, mcp_server=False, pwa=False
    )
    return Guard(app, studio.limits.body_bytes, hosts), studio


async def answer(studio: Studio, operation: str, data: Any) -> tuple[int, dict[str, Any]]:
    """A request's status and its reply, or what is wrong in one line."""
    try:
        future = studio.submit(operation, data)
        reply = await asyncio.wait_for(asyncio.wrap_future(future), studio.limits.seconds + GRACE)
        found: dict[str, Any] = to_json(reply)
        return 200, found
    except Gone as error:
        return 410, {"error": studio.public(str(error))}
    except InputError as error:
        status = 400 if operation in REQUESTS else 404
        return status, {"error": studio.public(str(error))}
    except Busy as error:
        return 503, {"error": str(error), "busy": True}
    except (Late, asyncio.TimeoutError) as error:
        return 504, {"error": str(error) or "this took too long; try again later"}
    except Exception:
        _log.exception("studio operation %s", operation)
        return 500, {"error": "something went wrong in the server; its log says more"}


def _route(studio: Studio) -> Callable[[fastapi.Request], Awaitable[fastapi.Response]]:
    from fastapi import Request, Response

    async def operate(request: Request) -> Response:
        status, found = await _read_and_answer(studio, request)
        body = json.dumps(found, separators=(",", ":")).encode()
        return Response(body, status, media_type="application/json")

    return operate


async def _read_and_answer(studio: Studio, request: fastapi.Request) -> tuple[int, dict[str, Any]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return 415, {"error": "send JSON: Content-Type: application/json"}
    try:
        body = await asyncio.wait_for(request.body(), BODY_SECONDS)
    except asyncio.TimeoutError:
        return 408, {"error": "the request did not arrive in time"}
    except TooLarge as error:
        return 413, {"error": str(error)}
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return 400, {"error": "request: is not JSON"}
    return await answer(studio, request.path_params["operation"], data)


def _blocks(library: Any, studio: Studio) -> gradio.Blocks:
    """gradio's side: one API endpoint per operation and nothing to see."""
    with library.Blocks(title="sis studio", analytics_enabled=False) as blocks:
        for name in [name for name in REQUESTS if name not in LARGE]:
            kind = REQUESTS[name]
            about = (kind.__doc__ or "").strip()
            function = _endpoint(library, studio, name)
            library.api(function, api_name=name, api_description=about, concurrency_limit=None)
    blocks.queue(max_size=studio.limits.waiting, api_open=False)
    blocks.state_session_capacity = SESSIONS
    found: gradio.Blocks = blocks
    return found


def _endpoint(library: Any, studio: Studio, operation: str) -> Callable[[str], Awaitable[dict[str, Any]]]:
    async def endpoint(request: str) -> dict[str, Any]:
        try:
            data = json.loads(request)
        except (ValueError, RecursionError):
            raise library.Error("request: is not JSON", print_exception=False) from None
        status, found = await answer(studio, operation, data)
        if status != 200:
            raise library.Error(found["error"], print_exception=False)
        return found

    return endpoint


class Running:
    """A server in a thread of its own, for programs and tests: ``with Running([pack], port=0) as running:``."""

    def __init__(
        self,
        packs: list[Pack],
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int = PORT,  # 0: any free one
        device: str = "auto",
        backend: str = "auto",
        hosts: frozenset[str] = frozenset(),
        page: bool = True,
        warm: bool = False,  # wait until everything is compiled
    ) -> None:
        self._socket = bound(host, port)
        try:
            app, self.studio = build(packs, limits, device, backend, hosts, page)
        except BaseException:
            self._socket.close()
            raise
        self.url = url_of(host, self._socket)
        self._server = server_for(app)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        warming = self.studio.warm_up()
        if warm:
            warming.result()

    def __enter__(self) -> Running:
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            threading.Event().wait(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)
        self.studio.close()
        self._socket.close()


def server_for(app: Guard) -> uvicorn.Server:
    """The web server around the application; it says nothing of itself in its answers."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        ws="none",
    )
    return uvicorn.Server(config)


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to an address. InputError for one that cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small packets at once (no Nagle) only where the protocol is named: 40 ms for each answer
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)  # a browser that comes before the server is up waits instead of failing
        except OSError:
            found.close()
            raise
        return found
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{host}:{port}: cannot be listened on ({reason}); choose another --port or --host") from None


def url_of(host: str, listening: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    port = listening.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"
