"""Records come out of every container; damage costs the records it touches and no others, and is named."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from tests.source.crawlfiles import members, record
from toolkit.source import warc

ROOT = Path(__file__).resolve().parents[2]


def read(data: bytes) -> tuple[list[warc.Record], list[tuple[int, str]]]:
    damages: list[tuple[int, str]] = []
    found = list(warc.records(io.BytesIO(data), lambda offset, what: damages.append((offset, what))))
    return found, damages


def body(number: int, size: int = 700) -> bytes:
    return b"%d:" % number + random.Random(number).randbytes(size).hex().encode()


RECORDS = [record("response", body(n), WARC_Record_ID=f"<urn:{n}>") for n in range(6)]
BODIES = [body(n) for n in range(6)]
MEMBERS = [gzip.compress(part, mtime=0) for part in RECORDS]


def test_every_container_gives_the_same_records():
    dictionary = zstandard.train_dictionary(4096, [body(n) for n in range(200)])
    packer = zstandard.ZstdCompressor(dict_data=dictionary)
    raw = dictionary.as_bytes()
    packed = zstandard.compress(raw)
    frames = b"".join(packer.compress(part) for part in RECORDS)
    containers = {
        "plain": b"".join(RECORDS),
        "gzip, a member a record": b"".join(MEMBERS),
        "gzip, one member": gzip.compress(b"".join(RECORDS)),
        "gzip, a record over two members": members([RECORDS[0], RECORDS[1][:300], RECORDS[1][300:], *RECORDS[2:]]),
        "gzip, an empty member": members([RECORDS[0], b"", *RECORDS[1:]]),
        "zstd": b"".join(zstandard.compress(part) for part in RECORDS),
        "zstd, dictionary": b"\x5d\x2a\x4d\x18" + len(raw).to_bytes(4, "little") + raw + frames,
        "zstd, packed dictionary": b"\x5d\x2a\x4d\x18" + len(packed).to_bytes(4, "little") + packed + frames,
    }
    for name, data in containers.items():
        found, damages = read(data)
        assert ([r.body for r in found], damages) == (BODIES, []), name


def test_offsets_are_those_of_members_and_of_plain_records():
    ends = [sum(map(len, MEMBERS[:n])) for n in range(6)]
    assert [r.offset for r in read(b"".join(MEMBERS))[0]] == ends
    plain = b"".join(RECORDS)
    assert all(plain.startswith(b"WARC/1.0", r.offset) for r in read(plain)[0])
    assert [r.offset for r in read(plain)[0]] == [sum(map(len, RECORDS[:n])) for n in range(6)]


def lying(length: int) -> bytes:
    return record("response", BODIES[2], WARC_Record_ID="<urn:2>", length=length)


@pytest.mark.parametrize("length", [0, 1, 1000, len(BODIES[2]) - 1, len(BODIES[2]) + 9, 2000, 10**9, 10**15, -5])
@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_a_wrong_length_costs_its_record_only(length, pack):
    parts = [*RECORDS[:2], lying(length), *RECORDS[3:]]
    found, damages = read(b"".join(pack(part) for part in parts))
    assert [r.body for r in found] == BODIES[:2] + BODIES[3:]
    assert len(damages) == 1 and damages[0][0] == sum(len(pack(part)) for part in parts[:2])


def test_what_is_no_warc_is_named_and_gives_nothing():
    for data in (b"", b"hello\n" * 5, gzip.compress(b"hello" * 9), b"\x1f\x8b\x08", b"\0" * 9999, b"WARC/1.0\r\n"):
        found, damages = read(data)
        assert (found, len(damages)) == ([], 1), data[:9]


def test_a_damaged_start_does_not_hide_the_rest():
    data = bytearray(b"".join(MEMBERS))
    data[:3] = b"???"
    found, damages = read(bytes(data))
    assert [r.body for r in found] == BODIES[1:] and damages == [(0, "no gzip member begins here")]


@given(st.data())
def test_damaged_bytes_cost_their_members_only(data):
    """Flip, cut out or insert bytes anywhere in a file: every record of an untouched member still comes out."""
    whole = bytearray(b"".join(MEMBERS))
    ends = [sum(map(len, MEMBERS[: n + 1])) for n in range(6)]
    start = data.draw(st.integers(0, len(whole) - 1))
    size = data.draw(st.integers(1, 40))
    stop = min(start + size, len(whole))
    change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if change == "flip":
        whole[start:stop] = bytes(b ^ data.draw(st.integers(1, 255)) for b in whole[start:stop])
    elif change == "cut":
        del whole[start:stop]
    else:
        whole[start:start] = data.draw(st.binary(min_size=size, max_size=size))
        stop = start + 1
    touched = {n for n in range(6) if start < ends[n] and stop > (ends[n - 1] if n else 0)}
    found, damages = read(bytes(whole))
    expected = [BODIES[n] for n in range(6) if n not in touched]
    got = [r.body for r in found]
    assert set(got) <= set(BODIES)  # never a damaged record
    assert [b for b in got if b in expected] == expected
    assert len(damages) >= (len(got) < 6)


@given(st.integers(0, len(b"".join(RECORDS)) - 1), st.integers(1, 300))
def test_bytes_cut_from_a_plain_file_cost_the_records_they_touch(start, size):
    whole = b"".join(RECORDS)
    found, damages = read(whole[:start] + whole[start + size :])
    ends = [sum(map(len, RECORDS[: n + 1])) for n in range(6)]
    # A cut over the end of a record may also cost its neighbour, whose start is gone.
    touched = {n for n in range(6) if start < ends[n] and start + size > (ends[n - 1] if n else 0)}
    got = [r.body for r in found]
    assert [b for b in got if b in BODIES] == [b for n, b in enumerate(BODIES) if b in got]
    assert all(BODIES[n] in got for n in range(6) if n not in touched)
    assert damages or len(got) == 6 or set(got) - set(BODIES)


def frames_with_dictionary() -> tuple[bytes, list[bytes]]:
    dictionary = zstandard.train_dictionary(1024, [body(n, 200) for n in range(100)])
    packer = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True)
    return dictionary.as_bytes(), [packer.compress(part) for part in RECORDS]


FRAMES = frames_with_dictionary()


@given(st.integers(0, 3000), st.integers(1, 255))
def test_a_flipped_byte_in_a_zstd_file_costs_its_frame_only(at, flip):
    dictionary, frames = FRAMES
    start = b"\x5d\x2a\x4d\x18" + len(dictionary).to_bytes(4, "little") + dictionary
    data = bytearray(start + b"".join(frames))
    at = len(start) + at % (len(data) - len(start))
    data[at] ^= flip
    found, damages = read(bytes(data))
    ends = [len(start) + sum(map(len, frames[: n + 1])) for n in range(6)]
    touched = next(n for n in range(6) if at < ends[n])
    assert [r.body for r in found if r.body != BODIES[touched]] == BODIES[:touched] + BODIES[touched + 1 :]
    assert len(damages) >= 1 or len(found) == 6


@given(st.binary(max_size=300), st.sampled_from([b"", b"WARC/1.0\r\n", warc.GZIP, warc.ZSTD, MEMBERS[0][:60]]))
def test_any_bytes_at_all_end_in_an_answer(noise, start):
    found, damages = read(start + noise + MEMBERS[1])
    assert len(found) + len(damages) >= 1


BOMB = """
import io, zlib
from pathlib import Path
from tests.source.crawlfiles import members, record
from toolkit.source import warc
packer = zlib.compressobj(9, zlib.DEFLATED, 31)
start = packer.compress(record("response", b"", length=1 << 30)) + packer.flush(zlib.Z_FULL_FLUSH)
zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
good = members([record("response", b"ok")])
file = io.BytesIO(good + start + 1024 * zeros + good)
def peak():  # ru_maxrss begins with that of the process that started this one
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
damages = []
found = list(warc.records(file, lambda *damage: damages.append(damage)))
grown = peak() - before
print(len(found), {offset for offset, _ in damages} == {len(good)}, grown // 1024)
"""


def test_a_bomb_costs_a_record_and_no_memory():
    """A member of 1 MB that inflates to 1 GiB; FastWARC's own iterator takes three times that in memory."""
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, check=True, cwd=ROOT)
    found, named, megabytes = done.stdout.split()
    assert (found, named) == ("2", "True")
    assert int(megabytes) < 128


ARC = (
    b"filedesc://a.arc 0.0.0.0 20080430204825 text/plain 77\n1 0 Internet Archive\n"
    b"URL IP-address Archive-date Content-type Archive-length\n\n"
)
DOCUMENT = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<img src=a.jpg alt=text>"


def arc(number: int) -> bytes:
    line = b"http://www.example.test/%d 127.0.0.1 20080430204826 text/html %d\n" % (number, len(DOCUMENT))
    return line + DOCUMENT + b"\n"


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_arc_documents_come_as_responses(pack):
    found, damages = read(b"".join(pack(part) for part in (ARC, arc(0), arc(1))))
    assert [r.headers().get("WARC-Target-URI") for r in found] == [f"http://www.example.test/{n}" for n in range(2)]
    assert {r.body for r in found} == {DOCUMENT} and not damages


def test_a_damaged_arc_member_costs_itself():
    packed = [gzip.compress(part) for part in (ARC, arc(0), arc(1), arc(2))]
    broken = bytearray(packed[2])
    broken[40] ^= 0xFF
    found, damages = read(packed[0] + packed[1] + bytes(broken) + packed[3])
    assert [r.headers().get("WARC-Target-URI")[-1] for r in found] == ["0", "2"] and len(damages) == 1


# What each of the files holds that other projects keep for their own tests: good records, and damages.
FILES = {
    "cc-news-sample-0000.warc.gz": (48, 0),
    "clipped.warc.gz": (0, 1),  # one record, cut
    "example-bad-non-chunked.warc.gz": (6, 0),  # all in one member, which stops warcio
    "example-digest.warc": (4, 0),
    "example-space-in-target-uri.warc.gz": (2, 0),
    "example-trunc.warc": (3, 1),  # a Content-Length that is 2 short: warcio's own file for it
    "example.warc": (6, 0),
    "example.warc.gz": (6, 0),
    "link-extraction-test.warc": (10, 0),
    "whirlwind.warc.gz": (4, 0),
    "whirlwind.warc.wat.gz": (2, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_projects(shared: Path, name: str):
    data = (shared / "warc" / name).read_bytes()
    found, damages = read(data)
    assert (len(found), len(damages)) == FILES[name]
    if not damages and "bad" not in name:
        reference = [r.raw_stream.read() for r in ArchiveIterator(io.BytesIO(data), no_record_parse=True)]
        assert [r.body for r in found] == reference


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    """Records of a long single-member file are handed out as they come."""
    data = gzip.compress(b"".join(record("response", bytes(100_000)) for _ in range(300)), 1)
    stream = warc.records(io.BytesIO(data), lambda *_: None)
    tracemalloc.start()
    try:
        assert sum(1 for _ in stream) == 300
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


class Watched(bytearray):
    """A buffer that counts the bytes that are looked through."""

    looked = 0

    def find(self, sub, start=0, end=1 << 60):
        place = super().find(sub, start, end)
        Watched.looked += max(0, (min(end, len(self)) if place < 0 else place) - start)
        return place


def test_starts_of_records_without_an_end_are_looked_through_once(monkeypatch):
    monkeypatch.setattr(Watched, "looked", 0)
    data = b"WARC/1.0\r\nA" * 50_000
    damages: list[tuple[int, str]] = []
    cutter = warc._Cutter(lambda offset, what: damages.append((offset, what)), plain=True)
    cutter._buffer = Watched()
    found = list(cutter.cut(warc._blocks(io.BytesIO(data + b"\r\n" + RECORDS[0]))))
    assert [r.body for r in found] == BODIES[:1] and len(damages) == 1
    assert Watched.looked < 4 * len(data)


def test_members_without_content_take_no_memory():
    cutter = warc._Cutter(lambda *_: pytest.fail("damage"), plain=False)
    start, rest = RECORDS[0][:300], RECORDS[0][300:]
    parts = [start, *[b""] * 1000, rest, *[b""] * 1000, *RECORDS[1:3]]
    found = []
    most = 0
    for whole in cutter.cut(warc._members(io.BytesIO(members(parts)), warc._Gzip(), lambda *_: pytest.fail())):
        most = max(most, len(cutter._marks))
        found.append(whole)
    sizes = [len(part) for part in map(members, ([part] for part in parts))]
    assert [r.offset for r in found] == [0, sum(sizes[:-2]), sum(sizes[:-1])]
    assert most < 5
