"""Uploads are checked before they are decoded; tokens stand for files that go in the end."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import struct
import tempfile
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.images import read_image
from sis_rearrange.studio import store as store_module
from sis_rearrange.studio.refusals import Busy, Gone
from sis_rearrange.studio.store import Store, safe_name
from sis_rearrange.studio.uploads import decode

MODES = ("RGB", "RGBA", "L", "P", "1", "LA", "I;16")


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def forged_png(width, height):
    """A PNG whose header promises more than it holds."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", MODES)
def test_bytes_are_read_as_files_are(mode, tmp_path):
    grey = np.add.outer(np.arange(24), np.arange(40)).astype(np.uint8) * 3
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    data = encoded(image)
    (tmp_path / "a.png").write_bytes(data)
    ours, theirs = decode(data, "drawing", 10_000), read_image(tmp_path / "a.png")
    assert ours.mode == theirs.mode and ours.tobytes() == theirs.tobytes()


def test_pictures_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert decode(data, "picture", 10_000).size == (20, 40)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "picture: not a picture in a known format"),
        (b"%PDF-1.4 x", "picture: not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "picture: not a picture"),
        (encoded(Image.new("RGB", (20, 20)), "GIF"), "picture: not a picture"),
        (encoded(Image.new("RGB", (20, 20)), "TIFF"), "picture: not a picture"),
        (encoded(Image.new("RGB", (4, 20))), "picture: 4x20 pixels are too few"),
        (forged_png(50_000, 50_000), "picture: (50000x50000 pixels are )?too many"),
        (forged_png(90, 90), "picture: the picture is damaged"),
        (encoded(Image.new("RGB", (90, 90)))[:60], "picture: the picture is damaged"),
        (encoded(Image.effect_noise((90, 90), 50))[:-800], "picture: the picture is damaged"),
    ],
)
def test_bad_files_give_one_clear_line(data, message):
    with pytest.raises(InputError, match=message) as caught:
        decode(data, "picture", 10_000)
    assert "\n" not in str(caught.value) and "/" not in str(caught.value)


def test_damaged_bytes_never_end_in_anything_else():
    whole = {kind: encoded(Image.effect_noise((32, 32), 80).convert("RGB"), kind) for kind in ("PNG", "JPEG", "WEBP")}
    rng = np.random.default_rng(0)
    for kind, data in whole.items():
        for _ in range(60):
            broken = np.frombuffer(data, np.uint8).copy()
            at = rng.integers(0, len(broken), 3)
            broken[at] = rng.integers(0, 256, 3)
            with contextlib.suppress(InputError):
                decode(broken.tobytes(), kind, 10_000)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "passwd"),
        (r"C:\me\my photo (1).jpg", "my_photo_1_.jpg"),
        ("-rf", "rf"),
        (".bashrc", "bashrc"),
        ("$(touch x).png", "touch_x_.png"),
        ("日本", "picture"),
        ("", "picture"),
        ("x" * 300 + ".png", "x" * 56 + ".png"),
    ],
)
def test_names_are_safe(name, safe):
    assert safe_name(name) == safe


@pytest.fixture
def store():
    found = Store(3, 100.0)
    yield found
    found.close()


def test_tokens_name_their_own_folder(store):
    one, other = store.add("upload", name="a"), store.add("upload", name="b")
    assert one.token != other.token and len(one.token) >= 24
    assert one.folder.is_dir() and one.folder.stat().st_mode & 0o077 == 0
    assert store.folder.stat().st_mode & 0o077 == 0, "nobody else on the machine reads it"
    assert store.get(one.token, "upload") is one and store.find(other.token) is other


def test_an_unknown_token_is_gone(store):
    entry = store.add("upload")
    for token, kind in ((entry.token, "inversion"), ("up-" + "a" * 24, "upload"), (f"../{entry.token}", "upload")):
        with pytest.raises(Gone):
            store.get(token, kind)


def test_what_is_not_used_expires_with_its_files(monkeypatch):
    store = Store(3, 100.0)
    clock = [0.0]
    monkeypatch.setattr(store_module.time, "monotonic", lambda: clock[0])
    old, used = store.add("upload"), store.add("upload")
    old.used = used.used = 0.0
    (old.folder / "file").write_bytes(b"x")
    clock[0] = 90.0
    store.get(used.token, "upload")
    clock[0] = 101.0
    store.sweep()
    assert not old.folder.exists() and used.folder.exists() and len(store) == 1
    with pytest.raises(Gone):
        store.get(old.token, "upload")
    store.close()


def test_there_is_room_for_so_many(store):
    entries = [store.add("upload") for _ in range(3)]
    store.add("job")
    with pytest.raises(Busy):
        store.add("upload")
    entries[1].used -= store_module.IDLE + 1
    store.add("upload")
    assert not entries[1].folder.exists() and entries[0].folder.exists()


def test_disk_is_bounded_over_all_kinds():
    store = Store(10, 100.0, most_bytes=100)
    old, new = store.add("upload"), store.add("inversion")
    for entry in (old, new):
        (entry.folder / "file").write_bytes(bytes(80))
    with pytest.raises(Busy):
        store.add("job")
    old.used -= store_module.IDLE + 1
    store.add("job")
    assert not old.folder.exists() and new.folder.exists()
    store.close()


def test_files_that_go_meanwhile_do_no_harm():
    """A job's folder is removed by another thread while its size is added up."""
    store, stop = Store(10_000, 100.0), threading.Event()

    def come_and_go():
        while not stop.is_set():
            folder = store.folder / "job-a" / "run"
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(b"x")
            shutil.rmtree(folder.parent)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(300):
            store.add("upload")
    finally:
        stop.set()
        thread.join()
        store.close()


def test_what_a_killed_server_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, recent, other = (tmp_path / name for name in ("sis-studio-left", "sis-studio-recent", "other"))
    for folder in (left, recent, other):
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
    alive = Store(3, 100.0)
    for folder in (left, other, alive.folder):
        os.utime(folder, (0, 0))
    store = Store(3, 100.0)
    assert not left.exists() and recent.exists() and other.exists()
    assert alive.folder.exists() and alive.add("upload").folder.exists(), "a server that runs keeps its own"
    store.close()
    alive.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "sis-studio-recent"]


def test_closing_removes_everything():
    store = Store(3, 100.0)
    (store.add("upload").folder / "file").write_bytes(b"x")
    store.close()
    assert not store.folder.exists()


def test_a_jpeg_of_endless_scans_is_refused():
    whole = encoded(Image.effect_noise((64, 64), 60).convert("RGB"), "JPEG", progressive=True)
    assert decode(whole, "picture", 10_000).size == (64, 64)
    at = whole.rindex(b"\xff\xda")
    endless = whole[:at] + whole[at:-2] * 200 + whole[-2:]
    with pytest.raises(InputError, match="picture: this JPEG has more than 100 scans"):
        decode(endless, "picture", 10_000)
