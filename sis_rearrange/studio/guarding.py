"""What stands before every route: who may call, what exists, how much may come, and what browsers are told.

A page elsewhere must not reach a server on this machine: names that its owner can point here (DNS rebinding) are
refused by the Host header, its own requests by their Origin. Of gradio only its API is served: no front end, no files.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GRADIO = "/gradio"
GRADIO_READS = re.compile(r"/gradio(/config|/gradio_api/(info|startup-events|heartbeat/[\w-]{1,64}|queue/data))/?")
GRADIO_JOIN = "/gradio/gradio_api/queue/join"
LARGE, LARGE_AT_ONCE = 1_000_000, 6  # bytes of bodies that count as large, and how many may be in memory
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


class TooLarge(Exception):
    """A body is larger than any request may be; raised where the application reads it."""


class Guard:
    """ASGI middleware: see the module."""

    def __init__(self, app: App, body_bytes: int, hosts: frozenset[str]) -> None:
        self._app, self._most, self._hosts = app, body_bytes, hosts
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Those that are refused get one line of JSON."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await refuse(send, *refused)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_defaults(message.get("headers", []))
            await send(message)

        large = int(headers.get("content-length", LARGE if "transfer-encoding" in headers else 0)) >= LARGE
        if large and self._large.locked():
            await refuse(send, 503, "busy: other pictures are being sent, try again in a moment")
            return
        try:
            async with self._large if large else contextlib.nullcontext():
                await self._pass_on(scope, self._counted(receive), answer)
        except TooLarge:
            if not started:
                await refuse(send, *self._too_large())

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != GRADIO_JOIN:
            await self._app(scope, receive, send)
            return
        call = await _plain_call(receive)
        if call is None:
            await refuse(send, 400, 'send {"data": ["the request as JSON"], "fn_index": ..., "session_hash": ...}')
        else:
            await self._app(scope, _replayed(scope, call), send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_known(host_name(host)):
            return 403, "this server does not go by that name; open it by its address, or start it with --allow-host"
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return 403, "requests from other sites are refused"
        reads = scope["method"] in ("GET", "HEAD")
        if not reads and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "requests from other sites are refused"
        path = scope["path"]
        if path.startswith(GRADIO) and not (GRADIO_READS.fullmatch(path) if reads else path == GRADIO_JOIN):
            return 404, "there is nothing here"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 12 or int(length) > self._most:
            return self._too_large()
        return None

    def _is_known(self, name: str) -> bool:
        """Addresses are this machine's own; names could be anybody's."""
        if name == "localhost" or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _too_large(self) -> tuple[int, str]:
        return 413, f"more than {self._most:,} bytes in one request; scale the picture down or save it as JPEG or WebP"

    def _counted(self, receive: Receive) -> Receive:
        """Chunked bodies do not say how long they are."""
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._most:
                raise TooLarge(self._too_large()[1])
            return message

        return counted


async def _plain_call(receive: Receive) -> bytes | None:
    """A call of a gradio endpoint with nothing in it but one string; None for any other body.

    gradio looks for descriptions of files in whatever it is sent, and fetches what they point at.
    """
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body, more = body + message.get("body", b""), message.get("more_body", False)
    try:
        call = json.loads(body)
        data, index, session = call["data"], call["fn_index"], call["session_hash"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], str) or not isinstance(index, int):
        return None
    if not isinstance(session, str) or not re.fullmatch(r"[\w-]{1,64}", session):
        return None
    return json.dumps({"data": data, "fn_index": index, "session_hash": session}).encode()


def _replayed(scope: Scope, body: bytes) -> Receive:
    """A body that was read already, as the application behind receives it."""
    own = [(key, value) for key, value in scope["headers"] if key.lower() not in (b"content-length", b"content-type")]
    length = str(len(body)).encode()
    scope["headers"] = [*own, (b"content-type", b"application/json"), (b"content-length", length)]
    left = [body]

    async def replayed() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return {"type": "http.disconnect"}

    return replayed


def host_name(host: str) -> str:
    """The name in a Host header, lower case, without its port."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/@\s]+))(?::\d{1,5})?", host)
    return "" if match is None else (match[1] or match[2]).lower()


async def refuse(send: Send, status: int, reason: str) -> None:
    """A whole answer with one line of JSON."""
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": _with_defaults(headers)})
    await send({"type": "http.response.body", "body": body})


def _with_defaults(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A route's own headers, and `HEADERS` where it has none; nothing of the software behind it, no foreign origins."""
    own = [(key, value) for key, value in headers if not key.lower().startswith(b"access-control-")]
    present = {key.lower() for key, _ in own}
    return own + [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
