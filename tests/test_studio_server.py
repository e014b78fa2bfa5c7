"""The web server: answers, refusals, headers; nothing of the machine is told, nothing but the studio is served."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest
from studio_calls import base64_of

pytest.importorskip("gradio")

from sis_rearrange.errors import InputError
from sis_rearrange.studio import replies
from sis_rearrange.studio.guarding import LARGE_AT_ONCE, host_name
from sis_rearrange.studio.protocol import REQUESTS, Limits
from sis_rearrange.studio.server import Running, bound

JSON = {"Content-Type": "application/json"}
LIMITS = Limits(upload_bytes=200_000, drawing_bytes=100_000)


@pytest.fixture(scope="module")
def running(tiny_pack):
    with Running([tiny_pack], LIMITS, port=0, device="cpu", backend="torch", hosts=frozenset(["studio.lan"])) as found:
        yield found


def ask(running, method, path, body=None, headers=None):
    """(status, headers, body) of one request as it stands: nothing is tidied up on the way."""
    where = urlsplit(running.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body is not None and not {"Transfer-Encoding", "Content-Length"} & set(headers or {}):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if body is not None:
            connection.send(body)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def post(running, operation, request, **headers):
    status, _, body = ask(running, "POST", f"/studio/api/{operation}", json.dumps(request).encode(), JSON | headers)
    return status, json.loads(body)


def test_an_operation_answers_in_one_round_trip(running, tiny_pack):
    drawing = base64_of(tiny_pack.read("drawings/segmentation-1.png"))
    request = {"look": {"seed": 3}, "condition": "segmentation", "drawing": drawing}
    status, found = post(running, "render", request)
    assert status == 200 and found["image"] and found["milliseconds"]["working"] > 0
    assert found["command"].startswith("sis synthesize tiny --condition segmentation drawing.png --seeds 3")


@pytest.mark.parametrize(
    ("operation", "request_", "status", "error"),
    [
        ("render", {}, 400, "look: is missing"),
        ("rendr", {}, 404, "unknown operation 'rendr'; did you mean 'render'"),
        ("file", {"token": "inv-" + "a" * 24}, 410, "not known here"),
        ("upload", {"picture": "aGVsbG8="}, 400, "picture: not a picture in a known format"),
        ("upload", [], 400, "expected a JSON object"),
        ("mix", {"structure": {"seed": 1}, "look": {"seed": 2}, "layer": 60}, 400, "layer 60: this generator has"),
    ],
)
def test_errors_are_one_line_with_their_status(running, operation, request_, status, error):
    found, body = post(running, operation, request_)
    assert found == status and error in body["error"] and "\n" not in body["error"] and "--" not in body["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"a": NaN', b"\xff\xfe", b"1" * 5000])
def test_what_is_no_json_is_refused(running, body):
    status, _, answer = ask(running, "POST", "/studio/api/describe", body, JSON)
    assert status == 400 and b"error" in answer


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_forms_of_other_pages_are_refused(running, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    assert ask(running, "POST", "/studio/api/describe", b"{}", headers)[0] == 415


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:80"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "192.168.1.7:7860"}, 200),
        ({"Host": "Studio.LAN:7860"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "evil.example@127.0.0.1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_only_this_machines_own_page_may_ask(running, headers, status):
    assert ask(running, "POST", "/studio/api/describe", b"{}", JSON | headers)[0] == status


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_that_holds_for_reading_too(running, headers):
    for path in ("/", "/gradio/config", "/gradio/gradio_api/info"):
        assert ask(running, "GET", path, headers=headers)[0] == 403


def test_too_large_bodies_are_refused(running):
    most = LIMITS.body_bytes
    status, _, answer = ask(running, "POST", "/studio/api/upload", b"x", JSON | {"Content-Length": str(most + 1)})
    assert status == 413 and b"scale the picture down" in answer
    chunk = b"%x\r\n" % most + b"x" * most + b"\r\n"
    status, _, answer = ask(
        running, "POST", "/studio/api/upload", chunk + chunk + b"0\r\n\r\n", JSON | {"Transfer-Encoding": "chunked"}
    )
    assert status == 413
    status, found = post(running, "upload", {"picture": base64_of(bytes(LIMITS.upload_bytes + 3))})
    assert status == 400 and "picture: more than 200,000 bytes" in found["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio",
        "/gradio/",
        "/gradio/gradio_api/file=/etc/passwd",
        "/gradio/gradio_api/file/etc/passwd",
        "/gradio/file=/etc/passwd",
        "/gradio//gradio_api/file=/etc/passwd",
        "/gradio/config/../gradio_api/file=/etc/passwd",
        "/gradio%2Fgradio_api%2Ffile=/etc/passwd",
        "/gradio/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio/gradio_api/upload",
        "/gradio/gradio_api/upload_progress",
        "/gradio/monitoring",
        "/gradio/assets/index.js",
        "/gradio/login",
        "/gradio_api/file=/etc/passwd",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/studio/..%2f__init__.py",
        "/studio/../server.py",
        "/studio/%2e%2e/server.py",
        "/etc/passwd",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_served(running, path):
    status, _, body = ask(running, "GET", path)
    assert status in (404, 405) and b"root:" not in body
    assert ask(running, "POST", path, b"{}", JSON)[0] in (404, 405)


@pytest.mark.parametrize("path", ["/", "/gradio/config", "/nothing", "/studio/api/describe"])
def test_headers_keep_browsers_strict(running, path):
    _, headers, _ = ask(running, "GET", path)
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers and not any(name.startswith("access-control") for name in headers)


def join(running, data, **more):
    body = json.dumps({"data": data, "fn_index": 0, "session_hash": "abcdefg", **more}).encode()
    return ask(running, "POST", "/gradio/gradio_api/queue/join", body, JSON)


@pytest.mark.parametrize(
    "data",
    [
        [{"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}],
        [{"path": "http://127.0.0.1:1/x", "url": "http://127.0.0.1:1/x", "meta": {"_type": "gradio.FileData"}}],
        [["{}"]],
        ["{}", "{}"],
        [],
        {"a": 1},
        [3],
        [None],
    ],
)
def test_gradio_is_handed_text_alone(running, data):
    """It would look for files in anything else, and fetch them from wherever they are said to be."""
    assert join(running, data)[0] == 400


def test_what_stands_beside_the_text_is_left_out(running):
    assert join(running, ["{}"])[0] == 200
    assert join(running, ["{}"], event_data={"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}})[0] == 200
    assert join(running, ["{}"], session_hash="../../x")[0] == 400
    assert ask(running, "POST", "/gradio/gradio_api/call/describe", b'{"data": ["{}"]}', JSON)[0] == 404


def test_gradios_client_gets_the_same(running, tiny_pack):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(f"{running.url}gradio", verbose=False)
    drawing = base64_of(tiny_pack.read("drawings/sketch-1.png"))
    request = {"look": {"seed": 3}, "condition": "sketch", "drawing": drawing}
    found = client.predict(json.dumps(request), api_name="/render")
    assert found["image"] == post(running, "render", request)[1]["image"]
    with pytest.raises(AppError, match="look: is missing"):
        client.predict("{}", api_name="/render")
    known = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(known) == {f"/{name}" for name in REQUESTS if name != "file"}


def test_nothing_of_the_machine_is_told(running, tiny_pack, tmp_path):
    folders = {str(tiny_pack.path), str(running.studio.store.folder), os.path.expanduser("~"), os.getcwd()}
    for path in ("/", "/gradio/config", "/gradio/gradio_api/info", "/gradio/gradio_api/startup-events"):
        body = ask(running, "GET", path)[2].decode()
        assert not any(folder in body for folder in folders if len(folder) > 1)
    state = replies.JobState("job-a", "failed", 0.5, f"{running.studio.store.folder}/job-a/mask: no", None, 0)
    assert str(running.studio.store.folder) not in running.studio._shown(state).message
    message = f"{tiny_pack.path}/x and {running.studio.store.folder}/up-a/file"
    assert not any(folder in running.studio.public(message) for folder in folders if len(folder) > 1)


def test_a_mistake_in_the_server_is_told_without_detail(running, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError(f"secret {running.studio.store.folder}")

    monkeypatch.setattr(running.studio, "submit", broken)
    assert post(running, "describe", {}) == (500, {"error": "something went wrong in the server; its log says more"})
    assert "secret" in caplog.text


def test_a_full_queue_says_so(tiny_pack):
    limits = Limits(waiting=1, waiting_of_one=1)
    with Running([tiny_pack], limits, port=0, device="cpu", backend="torch", page=False, warm=True) as running:
        held, gate = threading.Event(), threading.Event()

        def hold():
            held.set()
            gate.wait(30)
            yield

        running.studio.scheduler.submit(hold, "holder")
        assert held.wait(60)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(post(running, "describe", {}))) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(answers) < 2:
            time.sleep(0.01)
        gate.set()
        for thread in threads:
            thread.join(60)
        busy = [body for status, body in answers if status == 503]
        assert len(busy) == 2 and busy[0] == {
            "error": "busy: 1 requests are waiting, try again in a moment",
            "busy": True,
        }
        assert [status for status, _ in answers].count(200) == 1


def test_large_bodies_take_turns(running):
    """So many slow ones hold their place; one more is told so, and small requests go on."""
    where = urlsplit(running.url)
    head = "POST /studio/api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow = []
    try:
        for _ in range(LARGE_AT_ONCE):
            slow.append(socket.create_connection((where.hostname, where.port)))
            slow[-1].sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n".encode())
        deadline = time.monotonic() + 20
        status = 0
        while status != 503 and time.monotonic() < deadline:
            body = b"1\r\n[\r\n0\r\n\r\n"
            status, _, answer = ask(
                running, "POST", "/studio/api/upload", body, JSON | {"Transfer-Encoding": "chunked"}
            )
        assert status == 503 and b"busy" in answer
        assert post(running, "describe", {})[0] == 200
    finally:
        for connection in slow:
            connection.close()
    time.sleep(0.3)
    assert post(running, "upload", {})[0] == 400


def test_a_stale_drawing_answers_at_once(running, tiny_pack):
    drawing = base64_of(tiny_pack.read("drawings/segmentation-1.png"))
    request = {"look": {"seed": 3}, "condition": "segmentation", "drawing": drawing, "client": "somebody"}
    assert post(running, "render", request | {"number": 9})[0] == 200
    assert post(running, "render", request | {"number": 8}) == (200, {"stale": True})


@pytest.mark.parametrize(
    ("header", "name"),
    [("a.b:80", "a.b"), ("[::1]:80", "::1"), ("A", "a"), ("a:b", ""), ("::1", ""), ("a b", ""), ("", "")],
)
def test_host_names(header, name):
    assert host_name(header) == name


def test_small_answers_do_not_wait_for_each_other():
    """Without the protocol's name asyncio leaves Nagle's algorithm on: 40 ms between header and body."""
    with bound("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_a_port_in_use_is_said_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port}: cannot be listened on .*choose another --port"):
            bound("127.0.0.1", port)
    with pytest.raises(InputError, match="choose another --port or --host"):
        bound("no.such.host.invalid", 0)


def test_the_command_serves_until_it_is_told_to_stop(tiny_pack, tmp_path):
    command = [
        sys.executable,
        "-c",
        "from sis_rearrange.cli import main; main()",
        "studio",
        str(tiny_pack.path),
        "--port",
        "0",
        "--no-open",
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"studio: http://127\.0\.0\.1:(\d+)/\n", line)
        assert match, (line, process.stderr.read() if process.poll() is not None else "")
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
        connection.request("POST", "/studio/api/describe", b"{}", JSON)
        assert connection.getresponse().status == 200
        assert list(tmp_path.glob("sis-studio-*"))
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert not list(tmp_path.glob("sis-studio-*")), "its files go with it"
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
