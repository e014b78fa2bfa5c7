#!/usr/bin/env python
"""Soak test of the studio: thousands of mixed requests from several clients, bad ones among them; prints figures.

python benchmarks/studio_soak.py toonhead --requests 2000

Every answer must have the status that its request deserves, and the server's memory must stay flat: the end is compared
with the state after a quarter of the requests, when caches are full. The exit code is 1 where either does not hold.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from PIL import Image

from sis_rearrange.cli.options import OneLine
from sis_rearrange.pack import Pack, load_pack

JSON = {"Content-Type": "application/json"}
SEEDS = 200  # looks that are asked for, more than are kept
FLAT = 0.1  # by which memory may grow after the first quarter, of what it was then
GOOD = {"render": 56, "layouts": 4, "exemplar": 6, "gallery": 3, "start": 3, "mix": 4, "upload": 4}
BAD = ("field", "json", "base64", "picture", "bomb", "token", "operation", "host", "large", "seed", "origin", "page")


@dataclass
class Tally:
    """What came back."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    working: list[float] = field(default_factory=list)  # milliseconds of single drawings in the server
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)  # requests done, bytes

    @property
    def done(self) -> int:
        """Requests answered."""
        return sum(self.counts.values())


class Client:
    """One person: a connection, a name, a rising number."""

    def __init__(self, port: int, number: int, pack: Pack, tally: Tally) -> None:
        self.port, self.name, self.tally = port, f"client-{number}", tally
        self.random, self.number = random.Random(number), 0
        self.drawings = {
            condition: [_text(pack.read(f)) for f in pack.drawings() if f"/{condition}-" in f]
            for condition in pack.conditions()
        }
        self.drawings = {condition: found for condition, found in self.drawings.items() if found}
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, path: str, body: bytes, headers: dict[str, str] = JSON) -> tuple[int, dict[str, Any]]:
        """One request, over the open connection where the server kept it."""
        for fresh in (False, True):
            if fresh:
                self.connection.close()
            try:
                self.connection.request("POST", path, body, headers)
                answer = self.connection.getresponse()
                data = answer.read()
                return answer.status, json.loads(data)
            except (http.client.HTTPException, OSError):
                if fresh:
                    raise
        raise AssertionError

    def post(self, operation: str, **request: Any) -> tuple[int, dict[str, Any]]:
        """One request of an operation."""
        self.number += 1
        data = {"client": self.name, "number": self.number, **request}
        return self.ask(f"/studio/api/{operation}", json.dumps(data).encode())

    def step(self) -> None:
        """One request by chance, and whether its answer is as it should be."""
        bad = self.random.random() < 0.2
        kind = self.random.choice(BAD) if bad else self.random.choices(list(GOOD), list(GOOD.values()))[0]
        began = time.perf_counter()
        status, found = self._bad(kind) if bad else self._good(kind)
        wanted = {"token": 410, "operation": 404, "host": 403, "origin": 403, "large": 413, "page": 404}
        sound = status == (wanted.get(kind, 400) if bad else 200) and ("error" in found) == bad
        with self.tally.lock:
            self.tally.counts[f"bad: {kind}" if bad else kind] += 1
            self.tally.seconds[kind].append(time.perf_counter() - began)
            if kind == "render" and "milliseconds" in found:
                self.tally.working.append(found["milliseconds"]["working"])
            if not sound:
                self.tally.wrong.append(f"{kind}: {status} {str(found)[:120]}")

    def look(self) -> dict[str, Any]:
        """A look by chance."""
        return {"seed": self.random.randrange(SEEDS)}

    def _good(self, kind: str) -> tuple[int, dict[str, Any]]:
        condition = self.random.choice(list(self.drawings))
        drawing = self.random.choice(self.drawings[condition])
        calls: dict[str, Callable[[], tuple[int, dict[str, Any]]]] = {
            "render": lambda: self.post("render", look=self.look(), condition=condition, drawing=drawing),
            "layouts": lambda: self.post(
                "render", look=self.look(), condition=condition, drawing=drawing, samples=4, layout_seed=self.number
            ),
            "exemplar": lambda: self.post("render", look=self.look(), condition="exemplar", drawing=self.look()),
            "gallery": lambda: self.post("gallery", first_seed=self.random.randrange(SEEDS), count=6),
            "start": lambda: self.post("start", look=self.look()),
            "mix": lambda: self.post("mix", structure=self.look(), look=self.look()),
            "upload": lambda: self.post("upload", picture=_text(_photo(self.random)), name="photo.png"),
        }
        return calls[kind]()

    def _bad(self, kind: str) -> tuple[int, dict[str, Any]]:
        plain = {"look": {"seed": 1}, "condition": "sketch", "drawing": "aGVsbG8="}
        junk = self.random.randbytes(self.random.randrange(1, 3000))
        calls: dict[str, Callable[[], tuple[int, dict[str, Any]]]] = {
            "field": lambda: self.post("render", **plain, colour="red"),
            "seed": lambda: self.post("render", **plain | {"look": {"seed": -1}}),
            "base64": lambda: self.post("render", **plain | {"drawing": "<script>"}),
            "picture": lambda: self.post("render", **plain | {"drawing": _text(junk)}),
            "bomb": lambda: self.post("upload", picture=_text(_bomb())),
            "token": lambda: self.post("file", token="inv-" + "x" * 24),
            "operation": lambda: self.post("rm -rf"[:2]),
            "json": lambda: self.ask("/studio/api/render", junk),
            "host": lambda: self.ask("/studio/api/describe", b"{}", JSON | {"Host": "evil.example"}),
            "origin": lambda: self.ask("/studio/api/describe", b"{}", JSON | {"Origin": "http://evil.example"}),
            "large": lambda: self.ask("/studio/api/upload", b"", JSON | {"Content-Length": "999999999"}),
            "page": lambda: self.ask("/gradio/gradio_api/upload", b"{}"),
        }
        return calls[kind]()


class Inverter(Client):
    """Somebody who inverts one photo after the other, and draws in its look, edits it, or gives up."""

    def live(self, done: Callable[[], bool]) -> None:
        """Until the others are done."""
        while not done():
            photo = _text(_photo(self.random))
            status, found = self.post("upload", picture=photo, name="photo.png")
            self.expect("upload", status, found)
            status, found = self.post("invert", token=found.get("token", "x" * 20), steps=4)
            self.expect("invert", status, found)
            if "job" in found:
                self._follow(found["job"], self.random.random() < 0.3, done)

    def expect(self, kind: str, status: int, found: dict[str, Any]) -> None:
        """Count a request that should have worked."""
        with self.tally.lock:
            self.tally.counts[f"job: {kind}"] += 1
            self.tally.seconds[f"job: {kind}"].append(0.0)
            if status != 200:
                self.tally.wrong.append(f"{kind}: {status} {str(found)[:120]}")

    def _follow(self, job: str, gives_up: bool, done: Callable[[], bool]) -> None:
        while True:
            operation = "cancel" if gives_up or done() else "job"
            status, found = self.post(operation, id=job)
            self.expect(operation, status, found)
            if found.get("state") not in ("queued", "running"):
                break
            time.sleep(0.5)
        if found.get("state") == "done":
            look = {"picture": found["reply"]["token"]}
            drawing = self.random.choice(next(iter(self.drawings.values())))
            request = {"look": look, "condition": next(iter(self.drawings)), "drawing": drawing}
            self.expect("render", *self.post("render", **request))
            mask = np.array(Image.open(io.BytesIO(base64.b64decode(found["reply"]["proxy_mask"]))))
            mask[4:9, 4:9] = mask[20, 16]
            stream = io.BytesIO()
            Image.fromarray(mask).save(stream, "PNG")
            edit = {"token": look["picture"], "mask": _text(stream.getvalue()), "kind": "proxy"}
            status, answer = self.post("edit", **edit)
            unchanged = status == 400 and "own mask" in answer.get("error", "")
            self.expect("edit", 200 if unchanged else status, answer)


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("pack_name", metavar="PACK", default="toonhead")
@click.option("--requests", "wanted", default=2000, help="In all.")
@click.option("--clients", default=4, help="At the same time.")
@click.option("--jobs/--no-jobs", default=True, help="One more client who inverts photos all the time.")
@click.option("--backend", default="auto", help="What paints: torch, openvino, or auto.")
def main(pack_name: str, wanted: int, clients: int, jobs: bool, backend: str) -> None:
    """Soak the studio with mixed requests."""
    pack, tally = load_pack(pack_name), Tally()
    command = "from sis_rearrange.cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", command, "studio", pack_name, "--port", "0", "--no-open", "--backend", backend],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert server.stdout is not None
        match = re.search(r":(\d+)/", server.stdout.readline())
        assert match is not None, "the server did not start"
        people = [Client(int(match[1]), number, pack, tally) for number in range(clients)]
        people[0].post("describe")  # waits until all is compiled
        began = time.perf_counter()
        threads = [threading.Thread(target=_work, args=(each, wanted, server.pid)) for each in people]
        if jobs:
            inverter = Inverter(int(match[1]), clients, pack, tally)
            threads.append(threading.Thread(target=inverter.live, args=(lambda: tally.done >= wanted,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        time.sleep(1)
        tally.memory.append((tally.done, _memory(server.pid)))
    finally:
        server.terminate()
        server.wait(60)
    sys.exit(_report(tally, seconds))


def _work(client: Client, wanted: int, pid: int) -> None:
    while client.tally.done < wanted:
        client.step()
        with client.tally.lock:
            done = client.tally.done
            if done % 100 == 0:
                client.tally.memory.append((done, _memory(pid)))


def _report(tally: Tally, seconds: float) -> int:
    click.echo(f"{tally.done} requests in {seconds:.0f} s, {len(tally.wrong)} answers not as they should be")
    for line in tally.wrong[:10]:
        click.echo(f"  {line}")
    for name, count in sorted(tally.counts.items()):
        took = tally.seconds[name.removeprefix("bad: ")]
        if name.startswith("job: "):
            click.echo(f"  {name:16s} {count:5d}")
            continue
        click.echo(f"  {name:16s} {count:5d}   median {1000 * median(took):7.1f} ms   worst {1000 * max(took):8.1f} ms")
    if tally.working:
        click.echo(
            f"one drawing in the server: median {median(tally.working):.1f} ms, best {min(tally.working):.1f} ms"
        )
    quarter = next((size for done, size in tally.memory if done >= tally.done / 4), tally.memory[-1][1])
    last = tally.memory[-1][1]
    click.echo("memory (MB): " + ", ".join(f"{done}: {size / 1e6:.0f}" for done, size in tally.memory))
    grown = last / quarter - 1
    click.echo(f"memory after a quarter {quarter / 1e6:.0f} MB, at the end {last / 1e6:.0f} MB ({100 * grown:+.1f} %)")
    return 0 if not tally.wrong and grown <= FLAT else 1


def _memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _photo(chance: random.Random) -> bytes:
    """A picture of its own each time, PNG or JPEG, mostly not square."""
    rng = np.random.default_rng(chance.randrange(2**32))
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    stream = io.BytesIO()
    size = chance.randrange(64, 900), chance.randrange(64, 900)
    small.resize(size, Image.Resampling.BICUBIC).save(stream, chance.choice(["PNG", "JPEG", "WEBP"]))
    return stream.getvalue()


def _bomb() -> bytes:
    """A PNG of a few bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


if __name__ == "__main__":
    main()
