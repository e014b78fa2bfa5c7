"""Archives from strangers: nothing escapes, nothing is believed, nothing grows without bound or is lost silently."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from test_data_prepare import as_lmdb, as_tar, as_zip, encoded, manifest, picture

from sis_rearrange.data import tars
from sis_rearrange.data.check import Report, check
from sis_rearrange.data.decoding import MAX_FILE_BYTES, Refused, decode
from sis_rearrange.data.prepare import Settings, prepare
from sis_rearrange.errors import InputError
from sis_rearrange.images import flatten, read_image

GOOD = encoded(picture(0))
PNG_START = GOOD[:16]


@contextlib.contextmanager
def frugal(megabytes: float, seconds: float = 10):
    """What is done inside wastes neither memory nor time."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        yield
        taken, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 2**20 and taken < seconds


def checked(path: Path, megabytes: float = 10, seconds: float = 10) -> Report:
    """The report on a hostile container, made without wasting memory or time."""
    with frugal(megabytes, seconds):
        report = check(path, workers=1)
    assert all(len(reason) < 300 and reason.isprintable() for _, reason in report.bad)
    return report


def refusals(path: Path, **limits: float) -> dict[str, str]:
    """File -> why it is bad; one sound picture is among them, and is found."""
    report = checked(path, **limits)
    assert report.pictures == 1
    return dict(report.bad)


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by its chunks, with a header that claims a size."""
    pieces = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in pieces
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# ---------------------------------------------------------------- single pictures


def test_png_bombs():
    flood = zlib.compress(b"\0" * 2**26, 9)
    for data, words in (
        (png_of(60_000, 60_000, (b"IDAT", zlib.compress(b""))), "too many pixels"),
        (png_of(9_000, 9_000, (b"IDAT", zlib.compress(b""))), "9000x9000 pixels are too many"),
        (png_of(2**31 - 1, 1, (b"IDAT", b"")), "too many"),
        (png_of(16, 16, (b"zTXt", b"a\0\0" + flood), (b"IDAT", zlib.compress(b"\0" * 784))), "damaged"),
        (png_of(16, 16, (b"IDAT", b"")), "damaged"),
        (png_of(1, 5000, (b"IDAT", b"")), "too few"),
    ):
        with frugal(80), pytest.raises(Refused, match=words):
            decode(data)


def test_a_flood_behind_a_small_picture_is_not_unpacked():
    """16 x 16 pixels of 64 MB of data: as much is decompressed as the picture needs."""
    flood = zlib.compress(b"\0" * 2**26, 9)
    with frugal(8):
        assert decode(png_of(16, 16, (b"IDAT", flood))).image.size == (16, 16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_pictures_are_refused_or_read(kind, tmp_path):
    """Cut off anywhere, or with bytes changed anywhere: never another error, and the reason is one line.

    A drawing that somebody hands in is read, or refused, in the same way.
    """
    source = picture(3).quantize(16) if kind == "GIF" else picture(3)
    data = encoded(source, kind)
    rng = random.Random(kind)
    for _ in range(80):
        damaged = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.4 else data)
        for _ in range(rng.choice((0, 1, 4))):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "a.png").write_bytes(damaged)
        try:
            found = decode(bytes(damaged)).image
        except Refused as reason:
            assert str(reason).isprintable() and len(str(reason)) < 250
            if "animated" not in str(reason):
                with pytest.raises(InputError) as error:
                    read_image(tmp_path / "a.png")
                assert str(error.value) == f"{tmp_path / 'a.png'}: {reason}"
        else:
            assert found.mode == "RGB"
            assert found.tobytes() == flatten(read_image(tmp_path / "a.png")).tobytes()


def test_remarks_of_a_broken_exif_do_not_spoil_a_picture():
    assert decode(encoded(picture(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).image.size == (24, 24)


# ---------------------------------------------------------------- zip


def claim(path: Path, name: str, size: int) -> None:
    """Change the size that a zip's directory claims for a member."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    data[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(data)


def test_zip_bombs_cost_nothing(tmp_path):
    path = as_zip(tmp_path / "in.zip", {"good.png": GOOD, "no picture.png": b"\0" * 2**26, "large.png": GOOD})
    claim(path, "large.png", MAX_FILE_BYTES + 1)
    reasons = refusals(path)
    assert "not a picture in a known format" in reasons["no picture.png"]
    assert "no picture file is that large" in reasons["large.png"]


def test_sizes_that_lie(tmp_path):
    path = as_zip(tmp_path / "in.zip", {"a.png": PNG_START + b"\0" * 2**26, "b.png": GOOD})
    claim(path, "a.png", 1000)  # and has 64 MB
    claim(path, "b.png", 10**8)  # and ends before
    assert "damaged in the zip file" in refusals(path)["a.png"]


def test_overlapping_members_are_a_bomb(tmp_path):
    """One kernel under a thousand names: a small file that would unpack to terabytes."""
    path = as_zip(tmp_path / "in.zip", {"a.png": GOOD})
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entries, count = data[start:end] * 1000, 1000
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + tail)
    with pytest.raises(InputError, match="zip bomb"):
        check(path, 1)


def test_packing_that_is_not_read(tmp_path):
    path = as_zip(tmp_path / "in.zip", {"good.png": GOOD, "secret.png": GOOD})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bz.png", GOOD, zipfile.ZIP_BZIP2)
        archive.writestr("xz.png", GOOD, zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)  # of the second
    data[entry + 8] |= 1
    path.write_bytes(data)
    reasons = refusals(path)
    assert "encrypted" in reasons["secret.png"] and "deflate or store" in reasons["bz.png"] == reasons["xz.png"]


@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_names_are_only_names(tmp_path, pack):
    """Names that lead out of a folder, to absolute places, or that are not printable."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    names = ["../../up.png", "/abs/root.png", "a/../../b.png", "line\nbreak.png", "x" * 180 + ".png", "C:\\x.png"]
    path = pack(tmp_path / "deep" / "in", {name: GOOD if "up" not in name else b"bad" for name in names})
    before = sorted(tmp_path.rglob("*"))
    done = prepare([path], tmp_path / "deep" / "er" / "out.zip", Settings(16), 1)
    assert done.pictures == 5 and sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "deep/er/out.zip"])
    facts = manifest(tmp_path / "deep" / "er" / "out.zip")
    assert {row["source"] for row in facts["pictures"]} == set(names) - {"../../up.png"}
    assert all(row["file"].startswith("00000/img") for row in facts["pictures"])
    assert "\n" not in done.left_out[0][0] and not Path("/abs").exists()


def test_links_in_zips(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        member = zipfile.ZipInfo("link.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
        archive.writestr("good.png", GOOD)
    report = checked(tmp_path / "in.zip")
    assert report.pictures == 1 and report.skipped == {"symbolic link": 1} and not report.bad


def test_zips_that_are_cut_off_or_changed(tmp_path):
    """Either refused as a whole or read as far as they go; never another error."""
    path = as_zip(tmp_path / "in.zip", {f"{number}.png": encoded(picture(number)) for number in range(3)})
    data = path.read_bytes()
    rng = random.Random(1)
    for _ in range(80):
        damaged = bytearray(data[: rng.randrange(1, len(data))] if rng.random() < 0.2 else data)
        for _ in range(rng.randrange(4)):
            place = rng.choice((rng.randrange(len(damaged)), len(damaged) - 1 - rng.randrange(min(200, len(damaged)))))
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            report = check(path, 1)
            assert report.pictures + len(report.bad) + sum(report.skipped.values()) <= 3
        except InputError as error:
            assert str(error).isprintable()


# ---------------------------------------------------------------- tar


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **more: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for key, value in more.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def block(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


SOUND = header("good.png", len(GOOD)) + block(GOOD)
END = b"\0" * 1024


def tar_of(tmp_path: Path, *pieces: bytes, zipped: bool = False) -> Path:
    path = tmp_path / ("in.tar.gz" if zipped else "in.tar")
    data = b"".join(pieces)
    path.write_bytes(gzip.compress(data) if zipped else data)
    return path


def test_links_and_devices_in_tars_are_skipped(tmp_path):
    kinds = {
        "link.png": (tarfile.SYMTYPE, "symbolic link"),
        "hard.png": (tarfile.LNKTYPE, "hard link"),
        "tty.png": (tarfile.CHRTYPE, "device"),
        "disk.png": (tarfile.BLKTYPE, "device"),
        "pipe.png": (tarfile.FIFOTYPE, "pipe"),
        "odd.png": (b"7", None),
    }
    pieces = [header(name, kind=kind, linkname="/etc/passwd") for name, (kind, _) in kinds.items()]
    report = checked(tar_of(tmp_path, *pieces, SOUND, END))
    assert report.pictures == 1
    assert report.skipped == {"symbolic link": 1, "hard link": 1, "device": 2, "pipe": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "in.tar"]


def test_a_sparse_file_is_no_terabyte(tmp_path):
    member = tarfile.TarInfo("holes.png")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**42)}
    table = block(b"1\n0\n1\n")
    member.size = len(table) + 512
    pieces = [member.tobuf(tarfile.PAX_FORMAT), table, block(b"x")]
    report = checked(tar_of(tmp_path, *pieces, SOUND, END))
    assert report.pictures == 1 and report.skipped == {"sparse file": 1}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_that_claim_gigabytes(tmp_path, kind, zipped):
    """tarfile reads as much as a header claims, in one piece."""
    path = tar_of(tmp_path, SOUND, header("x", 2**33, kind), b"0" * 2**25, zipped=zipped)
    assert "a header of" in refusals(path, megabytes=100)[path.name]


def test_headers_within_headers(tmp_path):
    path = tar_of(tmp_path, SOUND, *[header("x", 1, tarfile.GNUTYPE_LONGNAME) + block(b"x") for _ in range(5000)], END)
    assert "damaged or cut off after 'good.png'" in refusals(path)[path.name]


def test_a_negative_size_leads_nowhere(tmp_path):
    data = bytearray(header("back.png"))
    data[124:136] = b"\xff" * 10 + b"\xf8\x00"  # -2048
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path = tar_of(tmp_path, SOUND, bytes(data), SOUND, END)
    assert path.name in refusals(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_tars_that_end_early_are_said_to(tmp_path, zipped):
    """tarfile takes a broken header for the end: pictures behind it would be missing without a word."""
    second = header("second.png", len(GOOD)) + block(GOOD)
    broken = bytearray(header("third.png", len(GOOD)))
    broken[0] ^= 1
    for pieces, last in (
        ([SOUND], "good"), ([SOUND, second[:600]], "second"), ([SOUND, bytes(broken), block(GOOD), END], "good")
    ):  # fmt: skip
        path = tar_of(tmp_path, *pieces, zipped=zipped)
        assert f"damaged or cut off after '{last}.png'" in refusals(path)[path.name]
    path = tar_of(tmp_path, SOUND, header("long.png", 2**40), END, zipped=zipped)
    assert "no picture file is that large" in refusals(path)["long.png"] and path.name in refusals(path)


def test_a_cut_off_gzip(tmp_path):
    path = tar_of(tmp_path, *[header(f"{n}.png", len(GOOD)) + block(GOOD) for n in range(9)], END, zipped=True)
    path.write_bytes(path.read_bytes()[:-12])
    report = checked(path)
    assert report.pictures == 9 and "damaged or cut off" in dict(report.bad)[path.name]


def test_gzip_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "FREE_EXPANSION", 2**22)
    path = tmp_path / "in.tar.gz"
    with gzip.open(path, "wb", 9) as stream:
        stream.write(SOUND + header("skipped.bin", 2**25) + b"\0" * 2**25)
    assert "a bomb, no pictures" in refusals(path)[path.name]


def test_a_tar_member_that_is_no_picture_is_not_read_to_its_end(tmp_path):
    path = tar_of(tmp_path, header("zeros.png", 2**24) + b"\0" * 2**24, SOUND, END)
    assert "not a picture in a known format" in refusals(path, megabytes=4)["zeros.png"]


@pytest.mark.parametrize(
    "magic, name", [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0\0", "xz"), (b"\x28\xb5\x2f\xfd1", "zstd")]
)
def test_other_compressions_are_named(tmp_path, magic, name):
    (tmp_path / "in.tar").write_bytes(magic + b"\0" * 600)
    with pytest.raises(InputError, match=f"compressed with {name}; unpack it"):
        check(tmp_path / "in.tar", 1)


def test_changed_tars(tmp_path):
    data = as_tar(tmp_path / "in", {f"{number}.png": encoded(picture(number)) for number in range(3)}).read_bytes()
    rng = random.Random(2)
    for _ in range(80):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "in").write_bytes(damaged)
        try:
            check(tmp_path / "in", 1)
        except InputError as error:
            assert str(error).isprintable()


# ---------------------------------------------------------------- LMDB


def test_a_damaged_lmdb_ends_its_reader_not_the_program(tmp_path):
    """The library maps the file and trusts it: a cut off one kills the process that reads it."""
    path = as_lmdb(tmp_path / "db", {f"{number:03d}": encoded(picture(number, 64, 64)) for number in range(40)})
    file = path / "data.mdb"
    data = file.read_bytes()
    rng = random.Random(3)
    cut = [data[: len(data) // 2], data[:8192], data[:100]]
    changed = [bytearray(data) for _ in range(8)]
    for each in changed:
        for _ in range(20):
            each[rng.randrange(4096 if rng.random() < 0.5 else 0, len(each))] = rng.randrange(256)
    for number, damaged in enumerate([*cut, *map(bytes, changed)]):
        file.write_bytes(damaged)
        try:
            report = check(path, 1)
        except InputError as error:
            assert str(error).isprintable()
            continue
        assert report.bad or number >= len(cut), "a cut off file has pictures that cannot be read"


def test_an_lmdb_that_is_none(tmp_path):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes(os.urandom(8192))
    with pytest.raises(InputError, match=r"no pictures there \(1 not a picture by its name \(\.mdb\)\)"):
        prepare([tmp_path / "db"], tmp_path / "out.zip", Settings(16), 1)


# ---------------------------------------------------------------- lists that come along


def test_a_hostile_list_beside_ffhq(tmp_path):
    (tmp_path / "in" / "00000").mkdir(parents=True)
    picture(0).save(tmp_path / "in" / "00000" / "00000.png")
    for text in ("[" * 100_000, '{"0": {"category": "other"}}', '{"x": {"category": "training"}}', "\xff", "{}"[:1]):
        (tmp_path / "ffhq-dataset-v2.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=r"ffhq-dataset-v2\.json: is not FFHQ's list"):
            prepare([tmp_path / "in"], tmp_path / "out.zip", Settings(16), 1)


def test_text_in_a_picture_is_not_passed_on(tmp_path):
    remarks = PngImagePlugin.PngInfo()
    remarks.add_text("Comment", "private")
    path = as_zip(tmp_path / "in.zip", {"a.png": encoded(Image.new("RGB", (16, 16)), pnginfo=remarks)})
    prepare([path], tmp_path / "out.zip", Settings(16), 1)
    assert b"private" not in (tmp_path / "out.zip").read_bytes()
    assert json.dumps(manifest(tmp_path / "out.zip")).count("a.png") == 1
