"""`danqing stage NAME`: every stage on plain files, chained as a user without a run folder chains them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import signal
import socket
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.crawl import config, danqing, start
from tests.site import Server, serve
from toolkit import cli
from toolkit.data.pair import pair_id, schema
from toolkit.demo.crawl import make

CAPTIONS = ["博物馆里的陶瓷展示照片", "關於長頸鹿的精美桌布素材", "a photo of a throne", "城市夜景高清照片"]
PAIRS = [(f"http://a.example.test/{n}.jpg", text) for n, text in enumerate(CAPTIONS)]
PATIENCE_S = 300  # for what must happen, however loaded the machine is
TABLES = ["unique", "words", "text", "hosts", "fetch", "image", "embed", "dedup", "merge", "export"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


def stage(name: str, inputs: Sequence[object], output: Path, *more: str, code: int = 0) -> Done:
    """Run `danqing stage` in this process (a process start takes a second) and check its exit code."""
    arguments = ["stage", name, *(word for path in inputs for word in ("--input", str(path))), "--output", str(output)]
    out, err = io.StringIO(), io.StringIO()
    before, old = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["danqing", *arguments, *more]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, old)
    done = Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())
    assert done.code == code, done
    return done


def rows(*paths: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    return [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows(path, columns=["id"])]


# The same crawl twice: in a run folder, and stage after stage on plain files.


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crawl")

    def create(name: str) -> IO[bytes]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")

    make(create, pairs=300, seed=1)
    return root


@pytest.fixture(scope="module")
def server(crawl: Path) -> Iterator[Server]:
    with serve(json.loads((crawl / "site.json").read_text()), crawl / "site") as running:
        yield running


@pytest.fixture(scope="module")
def run(crawl: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    path = config(folder, crawl, server.address, batches=1, executor={"kind": "inline"})
    danqing("run", path)
    return folder / "run"


def published(run: Path, name: str, suffix: str = ".parquet") -> list[Path]:
    return sorted(run.glob(f"*_{name}/data/**/*{suffix}"))


@pytest.fixture(scope="module")
def network(server: Server) -> list[str]:
    return ["--set", f"fetch.resolve={{'*.example.test': '{server.address}'}}"]


@pytest.fixture(scope="module")
def chain(crawl: Path, network: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each stage wrote, named after it."""
    at = tmp_path_factory.mktemp("chain")
    for number, path in enumerate(sorted((crawl / "wat").glob("*.gz"))):
        stage("source", [path], at / f"source{number}.parquet")
    source, table = at / "source*.parquet", {name: at / f"{name}.parquet" for name in TABLES}
    stage("unique", [source], table["unique"])
    done = stage("words", [source, table["unique"]], table["words"])
    assert done.out.endswith(f"words: {pq.read_metadata(table['words']).num_rows} rows written\n"), done.out
    stage("text", [source, table["unique"], table["words"]], table["text"])
    stage("hosts", [source, table["text"]], table["hosts"], *network)
    stage("fetch", [source, table["text"], table["hosts"]], table["fetch"], *network)
    stage("image", [table["fetch"], at / "fetch.tar"], table["image"])
    stage("embed", [table["image"], table["fetch"], at / "fetch.tar"], at / "embed.h5")
    stage("dedup", [at / "embed.h5", table["embed"]], table["dedup"])
    stage("merge", [at / "embed.h5", table["dedup"]], table["merge"])
    left = [source, *(table[n] for n in ("unique", "text", "fetch", "image", "merge"))]
    stage("export", [*left, at / "fetch.tar"], table["export"])
    return at


# Places in files: a run folder has a tar a shard, and numbers its input files.
PLACES = {"file", "offset", "tar"}


@pytest.mark.parametrize("name", ["source", *(name for name in TABLES if name != "unique")])
def test_each_stage_gives_what_it_gives_in_a_run_folder(run: Path, chain: Path, name: str) -> None:
    columns = [column for column in schema(name).names if column not in PLACES]
    expected = rows(*published(run, name), columns=columns)
    assert len(expected) > 50
    assert rows(*sorted(chain.glob(f"{name}*.parquet")), columns=columns) == expected


def test_unique_drops_the_same_rows(run: Path, chain: Path) -> None:
    expected = rows(*published(run, "unique"))
    assert expected
    assert sorted(rows(chain / "unique.parquet"), key=lambda row: row["id"]) == sorted(expected, key=lambda r: r["id"])


def test_the_images_of_the_export_are_those_of_the_run(run: Path, chain: Path) -> None:
    found = rows(chain / "export.parquet")
    assert {row["tar"] for row in found} == {"export.tar"}
    with (chain / "export.tar").open("rb") as tar:
        for row in found:
            tar.seek(row["offset"])
            assert hashlib.blake2b(tar.read(row["bytes"]), digest_size=16).hexdigest() == row["digest"]
    assert [p.name for p in chain.glob(".*")] == []


def test_files_of_a_run_folder_serve_as_inputs(run: Path, chain: Path, tmp_path: Path) -> None:
    """Four shards with a tar each: the offsets of each table are those of its own tar, found beside it."""
    stage("image", [run / "30_fetch/data/**/*.parquet"], tmp_path / "image.parquet")
    assert rows(tmp_path / "image.parquet") == rows(chain / "image.parquet")
    stage("dedup", [run / "50_embed/data/*/*.h5"], tmp_path / "dedup.parquet")
    assert rows(tmp_path / "dedup.parquet") == rows(chain / "dedup.parquet")


def test_auxiliary_tables_may_be_missing(chain: Path, network: list[str], tmp_path: Path) -> None:
    """Words are counted here, hosts asked on the way; duplicates stay, as nobody took them out."""
    source = chain / "source*.parquet"
    stage("text", [source], tmp_path / "text.parquet")
    dropped = {row["id"]: row["dropped"] for row in rows(chain / "text.parquet")}
    found = rows(tmp_path / "text.parquet")
    assert len(found) == len(dropped) + len(rows(chain / "unique.parquet"))
    assert {row["id"]: row["dropped"] for row in found} == dropped
    stage("fetch", [source, chain / "text.parquet"], tmp_path / "fetch.parquet", *network)
    assert rows(tmp_path / "fetch.parquet") == rows(chain / "fetch.parquet")


def test_a_tar_alone_is_enough_for_images_and_features_and_features_alone_for_dedup(
    chain: Path, tmp_path: Path
) -> None:
    stage("image", [chain / "fetch.tar"], tmp_path / "image.parquet")
    assert rows(tmp_path / "image.parquet") == rows(chain / "image.parquet")
    stage("embed", [chain / "image.parquet", chain / "fetch.tar"], tmp_path / "embed.parquet")
    assert (tmp_path / "embed.h5").read_bytes() == (chain / "embed.h5").read_bytes()
    stage("dedup", [chain / "embed.h5"], tmp_path / "dedup.parquet")
    assert rows(tmp_path / "dedup.parquet") == rows(chain / "dedup.parquet")


def test_what_a_file_is_its_content_tells(chain: Path, tmp_path: Path) -> None:
    names = {"fetch.parquet": "a.txt", "fetch.tar": "b.dat", "image.parquet": "c.h5", "embed.h5": "d.bin"}
    for old, new in names.items():
        (tmp_path / new).write_bytes((chain / old).read_bytes())
    stage("image", [tmp_path / "a.txt", tmp_path / "b.dat"], tmp_path / "image.out")
    assert rows(tmp_path / "image.out") == rows(chain / "image.parquet")
    stage("embed", [tmp_path / "[abc].*"], tmp_path / "embed.out")
    assert (tmp_path / "embed.h5").read_bytes() == (chain / "embed.h5").read_bytes()
    stage("dedup", [tmp_path / "d.bin"], tmp_path / "dedup.csv")
    assert rows(tmp_path / "dedup.csv") == rows(chain / "dedup.parquet")


def table(form: str) -> bytes:
    if form == "jsonl":
        return "".join(json.dumps({"url": url, "text": text}) + "\n" for url, text in PAIRS).encode()
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({"url": [url for url, _ in PAIRS], "text": CAPTIONS}), sink)
        return sink.getvalue()
    lines = io.StringIO()
    csv.writer(lines, delimiter="\t" if form == "tsv" else ",").writerows([("url", "text"), *PAIRS])
    return lines.getvalue().encode()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_tables_of_any_form_and_name_are_the_same_pairs(tmp_path: Path, form: str, packed: bool) -> None:
    data = table(form)
    (tmp_path / "in.bin").write_bytes(gzip.compress(data) if packed else data)
    stage("text", [tmp_path / "in.bin"], tmp_path / "text.parquet")
    stage("source", [tmp_path / "in.bin"], tmp_path / "source.parquet", "--set", "source.language=any")
    expected = [pair_id(url, text) for url, text in PAIRS]
    assert ids(tmp_path / "text.parquet") == ids(tmp_path / "source.parquet") == expected
    assert [row["dropped"] for row in rows(tmp_path / "text.parquet")] == [None, None, "text.language", None]


# Fetch as a downloader, the rest on other people's files


@pytest.mark.parametrize("column", ["text", "alt_text", "caption"])
def test_fetch_works_on_a_plain_list(crawl: Path, network: list[str], tmp_path: Path, column: str) -> None:
    truth = [json.loads(line) for line in (crawl / "truth.jsonl").read_text().splitlines()]
    pairs = [(row["url"], row["alt"]) for row in truth if row["kind"] in {"clean", "not_found"}][:9]
    names = {"url": [url for url, _ in pairs], column: [text for _, text in pairs]}
    pq.write_table(pa.table(names), tmp_path / "pairs.parquet")
    done = stage("fetch", [tmp_path / "pairs.parquet"], tmp_path / "out.tar", *network, "--set", "fetch.concurrency=4")
    found = rows(tmp_path / "out.parquet")
    assert [row["id"] for row in found] == [pair_id(url, text) for url, text in pairs]
    assert f"fetch: 9 rows written, {sum(row['dropped'] is None for row in found)} of them not dropped" in done.out
    with tarfile.open(tmp_path / "out.tar") as tar:
        texts = {name[:-4]: tar.extractfile(name).read().decode() for name in tar.getnames() if name.endswith(".txt")}
    assert texts == {pair_id(*pair): pair[1] for pair, row in zip(pairs, found, strict=True) if not row["dropped"]}


def picture(seed: int) -> bytes:
    sink = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), np.uint8)
    Image.fromarray(noise).resize((200, 160)).save(sink, "JPEG")
    return sink.getvalue()


def foreign(path: Path, keys: Sequence[str], first: int = 0) -> Path:
    """A webdataset tar as other tools write it: keys that are no ids, the text before or after, other members too."""
    with tarfile.open(path, "w") as tar:
        for seed, key in enumerate(keys, first):
            for name, data in ((".txt", f"text {seed}".encode()), (".jpg", picture(seed)), (".json", b"{}")):
                info = tarfile.TarInfo(key + name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def test_a_foreign_webdataset_works_from_images_to_dedup(tmp_path: Path) -> None:
    one = foreign(tmp_path / "00000.tar", ["000000000", "sub/000000001"])
    two = foreign(tmp_path / "00001.tar", ["000010000.seg", "000010001"], first=1)
    stage("image", [one, two], tmp_path / "image.parquet")
    stage("embed", [one, two], tmp_path / "embed.h5")
    keys = ["000000000", "sub/000000001", "000010000", "000010001"]
    assert ids(tmp_path / "image.parquet") == ids(tmp_path / "embed.parquet") == [pair_id(key, "") for key in keys]
    assert {(row["format"], row["width"]) for row in rows(tmp_path / "image.parquet")} == {("JPEG", 200)}
    stage("dedup", [tmp_path / "embed.h5"], tmp_path / "dedup.parquet")
    found = rows(tmp_path / "dedup.parquet")
    assert [row["size"] for row in found] == [1, 2, 2, 1]
    assert found[1]["set"] == found[2]["set"] == min(found[1]["id"], found[2]["id"])


def feature_file(
    path: Path, image: np.ndarray[Any, Any], text: np.ndarray[Any, Any] | None = None, start: int = 0
) -> Path:
    """Features as a user writes them: no attributes, chunks as h5py chooses."""
    with h5py.File(path, "w") as file:
        numbers = np.arange(start, start + len(image))
        file["id"] = np.stack([numbers, numbers], axis=1).astype(">u8").view(np.uint8)
        file["image"] = image
        if text is not None:
            file["text"] = text
    return path


def test_dedup_is_one_pass_over_all_inputs_of_any_float(tmp_path: Path) -> None:
    base = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    feature_file(tmp_path / "b.h5", base[[2, 0, 3]].astype(np.float16), start=10)
    feature_file(tmp_path / "a.h5", base[:3])
    stage("dedup", [tmp_path / "*.h5"], tmp_path / "dedup.parquet")
    found = rows(tmp_path / "dedup.parquet")
    assert list(found[0]) == ["id", "set", "size", "distance", "dropped"]
    assert [int(row["id"], 16) & 0xFF for row in found] == [0, 1, 2, 10, 11, 12]
    assert [row["size"] for row in found] == [2, 1, 2, 2, 2, 1]
    assert [row["dropped"] for row in found] == [None, None, None, "dedup.batch", "dedup.batch", None]
    stage("dedup", [tmp_path / "b.h5", tmp_path / "a.h5", tmp_path / "*.h5"], tmp_path / "again.parquet")
    assert [int(row["id"], 16) & 0xFF for row in rows(tmp_path / "again.parquet")] == [10, 11, 12, 0, 1, 2]


def test_align_takes_feature_files_with_text_and_leaves_out_what_was_dropped(tmp_path: Path) -> None:
    image = np.tile(np.float32([1, 0]), (4, 1))
    text = np.float32([[1, 0], [0.3, 0.954], [0, 1], [0.4, 0.9165]])
    feature_file(tmp_path / "a.h5", image[:3], text[:3])
    feature_file(tmp_path / "b.h5", image[3:], text[3:], start=3)
    stage("align", [tmp_path / "*.h5"], tmp_path / "align.parquet")
    assert [row["dropped"] for row in rows(tmp_path / "align.parquet")] == ["align.band", None, "align.band", None]
    cut = pa.table({"id": ids(tmp_path / "align.parquet"), "dropped": pa.array([None, "x", None, None], pa.string())})
    pq.write_table(cut, tmp_path / "dedup.parquet")
    stage("align", [tmp_path / "dedup.parquet", tmp_path / "*.h5"], tmp_path / "two.parquet", "--set", "align.l2=[0,2]")
    assert [row["l2"] for row in rows(tmp_path / "two.parquet")] == pytest.approx([0, 2**0.5, 1.2**0.5], abs=1e-3)
    feature_file(tmp_path / "other.h5", np.ones((1, 3), np.float32), np.ones((1, 3), np.float32), start=9)
    assert "2 and 3 values" in stage("align", [tmp_path / "*.h5"], tmp_path / "no", code=2).err
    assert "/text" in stage("align", [feature_file(tmp_path / "c", image)], tmp_path / "no", code=2).err


def test_an_export_without_images_needs_no_tar(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(table("csv"))
    stage("export", [tmp_path / "in.csv"], tmp_path / "out.parquet", "--set", "export.images=false")
    assert [(row["url"], row["caption"], row["tar"]) for row in rows(tmp_path / "out.parquet")] == [
        (url, text, None) for url, text in PAIRS
    ]


# Configuration


@pytest.mark.parametrize(
    ("name", "text", "more", "words"),
    [
        ("dedup", "dedup: {distance: 0.2}", [], None),
        ("dedup", "dedup: {distance: 0.2, scope: global}\nrun_dir: x\nbatches: 9", [], None),
        ("dedup", "dedup: {distance: 0.2}\nfetch: {max_gb: 1}\ninput: {kind: pdf}\nnonsense: 1", [], None),
        ("merge", "dedup: {distance: 0.2, scope: batch}", [], None),
        ("dedup", "dedup: {distanse: 0.2}", [], ["dedup.distanse", "distance"]),
        ("dedup", "dedup: 0.2", [], ["dedup"]),
        ("dedup", "- dedup", [], ["list"]),
        ("dedup", "dedup: {distance: 9}", ["--set", "dedup.distance=0.2"], None),
        ("dedup", "", ["--set", "dedup.distance=0.2"], ["NoneType"]),
        ("dedup", "dedup: {distance: 0.2}", ["--set", "fetch.retries=1"], ["fetch.retries", "dedup"]),
        ("dedup", "dedup: {distance: 0.2}", ["--set", "dedup.distance=far"], ["dedup.distance", "far"]),
    ],
)
def test_only_the_stages_own_section_is_read(
    tmp_path: Path, name: str, text: str, more: list[str], words: list[str] | None
) -> None:
    """The two rows are 0.15 apart."""
    feature_file(tmp_path / "a.h5", np.float32([[1, 0], [0.85, np.sqrt(1 - 0.85**2)]]))
    (tmp_path / "config.yaml").write_text(text)
    more = ["--config", str(tmp_path / "config.yaml"), *more]
    done = stage(name, [tmp_path / "a.h5"], tmp_path / "out.parquet", *more, code=2 if words else 0)
    assert done.err.count("\n") == bool(words) and all(word in done.err for word in words or [])
    if not words:
        assert [row["size"] for row in rows(tmp_path / "out.parquet")] == [2, 2]


def test_public_hosts_need_a_contact(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(table("csv"))
    assert "fetch.contact" in stage("fetch", [tmp_path / "in.csv"], tmp_path / "out.tar", code=2).err
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


# Damage and mistakes


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    image = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float16)
    feature_file(folder / "h5", image, image)
    foreign(folder / "tar", [f"{n:09d}" for n in range(3)])
    return {
        "h5": (folder / "h5").read_bytes(),
        "tar": (folder / "tar").read_bytes(),
        "parquet": table("parquet"),
        "csv": gzip.compress(table("csv")),
    }


NEEDS = {"unique": "parquet", "words": "parquet", "text": "csv", "export": "parquet", "source": "csv"} | {
    **dict.fromkeys(["image", "embed"], "tar"),
    **dict.fromkeys(["dedup", "merge", "align"], "h5"),
    **dict.fromkeys(["hosts", "fetch"], "parquet"),
}
GARBAGE = {"text": b"this is nothing of the kind\n" * 9, "bytes": bytes(range(256)) * 9, "empty": b""}


@pytest.mark.parametrize("damage", ["cut", *GARBAGE])
@pytest.mark.parametrize("name", NEEDS)
def test_a_damaged_file_costs_that_file(
    tmp_path: Path, good: dict[str, bytes], server: Server, name: str, damage: str
) -> None:
    data = good[NEEDS[name]]
    (tmp_path / "good").write_bytes(data)
    (tmp_path / "bad").write_bytes(data[: len(data) // 2] if damage == "cut" else GARBAGE[damage])
    resolve = ["--set", f"fetch.resolve={{'*': '{server.address}'}}"]
    more = {
        "export": ["--set", "export.images=false"],
        "hosts": resolve,
        "fetch": resolve,
        "source": ["--set", "source.language=any"],
    }.get(name, [])
    both = stage(name, [tmp_path / "bad", tmp_path / "good"], tmp_path / "both.out", *more, code=int(name != "source"))
    stage(name, [tmp_path / "good"], tmp_path / "one.out", *more)
    assert str(tmp_path / "bad") in both.out
    assert rows(tmp_path / "one.out") or name == "unique"
    if NEEDS[name] != "tar" or damage != "cut":  # of a cut tar the images before the cut are read
        skip = {"file"}
        expected = [{key: row[key] for key in row if key not in skip} for row in rows(tmp_path / "one.out")]
        assert [{key: row[key] for key in row if key not in skip} for row in rows(tmp_path / "both.out")] == expected
    before = sorted(path.name for path in tmp_path.iterdir())
    alone = stage(name, [tmp_path / "bad"], tmp_path / "alone.out", *more, code=int(name != "source"))
    assert "Traceback" not in alone.err + both.err
    assert str(tmp_path / "bad") in alone.out + alone.err
    if name != "source" and (NEEDS[name] != "tar" or damage != "cut"):
        assert alone.err.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_cut_tar_costs_the_images_beyond_the_cut(chain: Path, tmp_path: Path) -> None:
    data = (chain / "fetch.tar").read_bytes()
    (tmp_path / "fetch.tar").write_bytes(data[: len(data) // 2])
    (tmp_path / "fetch.parquet").write_bytes((chain / "fetch.parquet").read_bytes())
    done = stage("image", [tmp_path / "fetch.*"], tmp_path / "image.parquet", code=1)
    assert f"{tmp_path / 'fetch.tar'}: not readable" in done.out
    found, expected = rows(tmp_path / "image.parquet"), rows(chain / "image.parquet")
    lost = [row["fault"] == "missing" for row in found]
    assert 0 < sum(lost) < len(lost)
    assert [row for row, gone in zip(found, lost, strict=True) if not gone] == [
        row for row, gone in zip(expected, lost, strict=True) if not gone
    ]
    stage("export", [chain / "source*.parquet", tmp_path / "fetch.*"], tmp_path / "export.parquet", code=1)
    living = [row["id"] for row in rows(chain / "fetch.parquet") if row["dropped"] is None]
    left = [name for name, gone in zip(living, lost, strict=True) if not gone]
    exported = rows(tmp_path / "export.parquet")
    assert set(left) == {row["id"] for row in exported}


@pytest.mark.parametrize("part", [0.05, 0.3, 0.7, 0.97])
def test_a_feature_file_cut_anywhere_is_named(tmp_path: Path, good: dict[str, bytes], part: float) -> None:
    (tmp_path / "bad").write_bytes(good["h5"][: int(len(good["h5"]) * part)])
    assert "Traceback" not in stage("dedup", [tmp_path / "bad"], tmp_path / "out", code=1).err


def test_features_without_image_are_damaged(tmp_path: Path, good: dict[str, bytes]) -> None:
    (tmp_path / "good").write_bytes(good["h5"])
    with h5py.File(tmp_path / "bad", "w") as file:
        file["id"], file["images"] = np.zeros((3, 16), np.uint8), np.zeros((3, 8), np.float16)
    done = stage("dedup", [tmp_path / "bad", tmp_path / "good"], tmp_path / "out.parquet", code=1)
    assert "/image" in done.out and str(tmp_path / "bad") in done.out
    assert len(rows(tmp_path / "out.parquet")) == 40


@pytest.mark.parametrize(
    ("name", "kinds", "words"),
    [
        ("dedup", ["parquet"], ["dedup", "HDF5"]),
        ("image", ["parquet"], ["column offset"]),
        ("text", ["h5"], ["column text"]),
        ("unique", ["tar"], ["unique", "table"]),
        ("export", ["tar"], ["column url"]),
        ("dedup", ["h5", "tar"], ["different pairs"]),
    ],
)
def test_inputs_that_do_not_serve_the_stage_are_told(
    tmp_path: Path, good: dict[str, bytes], name: str, kinds: list[str], words: list[str]
) -> None:
    for kind in kinds:
        (tmp_path / kind).write_bytes(good[kind])
    done = stage(name, [tmp_path / kind for kind in kinds], tmp_path / "out", code=2)
    assert done.err.count("\n") == 1 and all(word in done.err for word in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kinds)


def test_a_table_of_images_without_its_tar_is_told(chain: Path, tmp_path: Path, good: dict[str, bytes]) -> None:
    (tmp_path / "fetch.parquet").write_bytes((chain / "fetch.parquet").read_bytes())
    assert "tar with images" in stage("image", [tmp_path / "fetch.parquet"], tmp_path / "out", code=2).err
    (tmp_path / "other.tar").write_bytes(good["tar"])
    assert "different pairs" in stage("image", [tmp_path / "*"], tmp_path / "out", code=2).err


def test_nothing_is_overwritten_and_a_missing_path_or_folder_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(table("csv"))
    loopback = ["--set", "fetch.resolve={'*': '127.0.0.1:9'}"]
    for name, output, taken in (
        ("text", "out", "out"),
        ("text", "in.csv", "in.csv"),
        ("fetch", "two.parquet", "two.tar"),
        ("fetch", "three.tar", "three.parquet"),
    ):
        path = tmp_path / taken
        if not path.exists():
            path.write_bytes(b"mine")
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        more = loopback if name == "fetch" else []
        assert f"{path} exists" in stage(name, [tmp_path / "in.csv"], tmp_path / output, *more, code=2).err
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert "nowhere" in stage("text", [tmp_path / "in.csv"], tmp_path / "nowhere" / "out", code=2).err
    assert "no*" in stage("text", [tmp_path / "in.csv", tmp_path / "no*"], tmp_path / "new", code=2).err
    assert not (tmp_path / "nowhere").exists() and not (tmp_path / "new").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_stage_leaves_nothing_behind(tmp_path: Path, signum: signal.Signals) -> None:
    """The server takes connections and never answers."""
    (tmp_path / "in.csv").write_bytes(table("csv"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        resolve = f"fetch.resolve={{'*': '127.0.0.1:{silent.getsockname()[1]}'}}"
        process = start("stage", "fetch", "--input", tmp_path / "in.csv", "--output", tmp_path / "o", "--set", resolve)
        silent.settimeout(PATIENCE_S)
        connection, _ = silent.accept()
        process.send_signal(signum)
        assert process.wait(PATIENCE_S) in (1, 130)
        connection.close()
    end = time.monotonic() + PATIENCE_S
    while [path.name for path in tmp_path.iterdir()] != ["in.csv"] and time.monotonic() < end:
        time.sleep(0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
