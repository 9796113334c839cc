"""Export: what was fetched comes out unchanged, hostile texts stay texts, and other tools read it back."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from toolkit.config import Config
from toolkit.data.pair import COLUMNS, owner, pair_id, schema
from toolkit.data.stage import FunnelRow, Output
from toolkit.data.tar import TarWriter
from toolkit.errors import UserError, WorkError
from toolkit.export import stage
from toolkit.recipe import BY_NAME
from toolkit.run.task import BaseTask

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
EXTENSIONS = ("jpg", "png", "webp", "gif")
HOSTILE = (
    '{"id": "../../x"}',
    "../../etc/passwd\0.jpg",
    "一行\n两行\u2028三行",
    '</script><img src=x onerror="alert(1)">',
    "👩‍👩‍👧 «\\u0000» \x1b[31m",
)
STEP = FunnelRow(step="raw", left=9, dropped=None, paper_left=9, paper_dropped=None, state="run")


def configured(**export: Any) -> Config:
    tree = {"input": {"kind": "wat", "paths": ["x"]}, "export": export}
    return Config.model_validate_json(json.dumps(tree))


def picture(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8 + number, 9), (number * 20 % 256, 90, 200)).save(sink, FORMATS[number % 4])
    return sink.getvalue()


def pairs(numbers: Iterable[int]) -> tuple[pa.Table, bytes]:
    """Return the rows alive at export's input, and the tar that fetch left."""
    sink = io.BytesIO()
    tar = TarWriter(sink)
    rows = [fetched(number, tar) for number in numbers]
    tar.close()
    names = [*schema("export").names]
    names.remove("tar")
    fields = {c.name: c.type for c in COLUMNS if c.stage == "export"}
    return pa.Table.from_pylist(rows, pa.schema([(name, fields[name]) for name in names])), sink.getvalue()


def fetched(number: int, tar: TarWriter) -> dict[str, Any]:
    url, text, data = f"http://a.test/{number}?<&", HOSTILE[number % len(HOSTILE)], picture(number)
    name = pair_id(url, text)
    facts = {"id": name, "url": url, "text": text, "caption": f"{text} {number}", "page": "http://a.test/页"}
    facts |= {"width": 8 + number, "height": 9, "mime": "text/html", "bytes": len(data)}
    return facts | {
        "digest": hashlib.blake2b(data, digest_size=16).hexdigest(),
        "offset": tar.add(f"{name}.jpg", data),
    }


class ShardTask(BaseTask):
    """The run's own task, but with rows and images given by the test."""

    def __init__(self, unit: int, config: Config, folder: Path, rows: pa.Table, images: bytes) -> None:
        super().__init__(BY_NAME["export"], unit, config, folder)
        self._rows, self._images = rows, images
        self.before: list[Output] = []

    def rows(self, *names: str, shard: int | None = None) -> pa.Table:
        assert all(owner(name) != "export" for name in names)
        return self._rows.select(names)

    def open(self, stage: str, suffix: str, shard: int | None = None) -> IO[bytes]:
        assert (stage, suffix, shard) == ("fetch", ".tar", None)
        return io.BytesIO(self._images)

    def outputs(self) -> Sequence[Output]:
        return self.before

    def funnel(self) -> Sequence[FunnelRow]:
        return [STEP]

    def digest(self) -> str:
        return "c0ffee"


def export(root: Path, unit: int, numbers: Iterable[int], config: Config | None = None) -> list[Output]:
    """Export one shard into root/data as a run does; return what was published."""
    work = root / f"work-{unit}"
    work.mkdir(parents=True)
    task = ShardTask(unit, config or configured(), work, *pairs(numbers))
    stage.run(task)
    return published(task, root)


def published(task: ShardTask, root: Path) -> list[Output]:
    outputs = task.books.finish()
    for output in outputs:
        target = root / "data" / output.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(task.books.folder / target.name, target)
    return outputs


def dataset(root: Path, shards: Sequence[Iterable[int]], config: Config | None = None) -> Path:
    """Export several shards and close the stage; return the dataset's folder."""
    files = [file for unit, numbers in enumerate(shards) for file in export(root, unit, numbers, config)]
    (root / "work-close").mkdir()
    task = ShardTask(len(shards), config or configured(), root / "work-close", *pairs([]))
    task.before = files
    stage.close(task)
    published(task, root)
    return root / "data"


def test_table_points_at_the_bytes_that_were_fetched(tmp_path: Path) -> None:
    export(tmp_path, 12, range(9))
    rows = pq.read_table(tmp_path / "data/000/000012.parquet").to_pylist()
    assert {row["tar"] for row in rows} == {"000012.tar"}
    tar = (tmp_path / "data/000" / rows[0]["tar"]).read_bytes()
    assert [tar[row["offset"] :][: row["bytes"]] for row in rows] == [picture(n) for n in range(9)]


def test_table_keeps_rows_order_and_schema(tmp_path: Path) -> None:
    export(tmp_path, 0, [4, 2, 7])
    table = pq.read_table(tmp_path / "data/000/000000.parquet")
    given, _ = pairs([4, 2, 7])
    assert table.schema == schema("export")
    assert table.drop_columns(["tar", "offset"]).equals(given.drop_columns("offset").select(stage._KEPT), False)


def test_members_hold_image_caption_and_facts(tmp_path: Path) -> None:
    export(tmp_path, 0, range(5))
    given = pairs(range(5))[0].to_pylist()
    with tarfile.open(tmp_path / "data/000/000000.tar") as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    for number, row in enumerate(given):
        assert members.pop(f"{row['id']}.{EXTENSIONS[number % 4]}") == picture(number)
        assert members.pop(f"{row['id']}.txt").decode() == row["caption"]
        facts = members.pop(f"{row['id']}.json")
        names = ["caption", "height", "id", "page", "text", "url", "width"]
        assert json.loads(facts) == {name: row[name] for name in names}
        assert list(json.loads(facts)) == names
        assert b"\n" not in facts
    assert members == {}


def test_hostile_texts_never_name_a_member(tmp_path: Path) -> None:
    export(tmp_path, 0, range(10))
    with tarfile.open(tmp_path / "data/000/000000.tar") as tar:
        stems, kinds = zip(*(name.split(".") for name in tar.getnames()), strict=True)
    assert all(len(stem) == 32 and set(stem) <= set("0123456789abcdef") for stem in stems)
    assert set(kinds) == {*EXTENSIONS, "txt", "json"}


def test_bytes_depend_on_neither_attempt_nor_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = export(tmp_path / "one", 0, range(7))
    monkeypatch.setattr(stage, "PIECE", 2)
    assert export(tmp_path / "two", 0, range(7)) == whole


def test_a_shard_without_pairs_gives_an_empty_table_and_an_empty_tar(tmp_path: Path) -> None:
    outputs = export(tmp_path, 3, [])
    assert [(file.path, file.rows) for file in outputs] == [
        ("000/000003.parquet", 0),
        ("000/000003.tar", None),
    ]
    assert pq.read_table(tmp_path / "data/000/000003.parquet").schema == schema("export")
    with tarfile.open(tmp_path / "data/000/000003.tar") as tar:
        assert tar.getnames() == []


def test_without_images_there_is_no_tar_and_nothing_points_at_one(tmp_path: Path) -> None:
    outputs = export(tmp_path, 0, range(3), configured(images=False))
    assert [file.path for file in outputs] == ["000/000000.parquet"]
    table = pq.read_table(tmp_path / "data/000/000000.parquet")
    assert table["tar"].null_count == table["offset"].null_count == table.num_rows == 3
    assert table["digest"].null_count == 0


@pytest.mark.parametrize(
    "fault", [lambda tar, row: flip(tar, row["offset"]), lambda tar, row: tar[: row["offset"] + 3]]
)
def test_an_image_that_is_not_what_was_fetched_stops_the_shard(tmp_path: Path, fault: Any) -> None:
    rows, images = pairs(range(4))
    row = rows.to_pylist()[2]
    task = ShardTask(12, configured(), tmp_path, rows, fault(images, row))
    with pytest.raises(WorkError, match=f"Shard 12 .*{row['id']}"):
        stage.run(task)


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_pair_without_an_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    rows, images = pairs([1])
    rows = rows.set_column(rows.column_names.index("offset"), "offset", pa.array([None], pa.int64()))
    with pytest.raises(WorkError, match="no image was fetched"):
        stage.run(ShardTask(0, configured(), tmp_path, rows, images))


@pytest.mark.parametrize("name", ["../../x", "", "A" * 32, "a" * 31, "a" * 32 + "\n", "é" * 32])
def test_an_id_that_is_no_id_never_becomes_a_member(name: str) -> None:
    sink = io.BytesIO()
    with pytest.raises(UserError, match="32 hex digits"):
        stage.sample(TarWriter(sink), {"id": name, "caption": ""}, b"\xff\xd8\xff")
    assert sink.getvalue() == b""


@pytest.mark.parametrize(("form", "extension"), list(zip(FORMATS, EXTENSIONS, strict=True)))
def test_the_extension_follows_the_content(form: str, extension: str) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sink, form)
    assert stage.extension(sink.getvalue()) == extension


@pytest.mark.parametrize("data", [b"", b"RIFF....WAVE", b"<svg/>", b"\xff\xd8"])
def test_other_content_is_bin(data: bytes) -> None:
    assert stage.extension(data) == "bin"


def test_close_names_every_file_and_the_shards_that_are_missing(tmp_path: Path) -> None:
    files = export(tmp_path, 0, range(3)) + export(tmp_path, 2, range(3, 5))
    (tmp_path / "close").mkdir()
    task = ShardTask(4, configured(), tmp_path / "close", *pairs([]))
    task.before = files
    stage.close(task)
    published(task, tmp_path)
    manifest = json.loads((tmp_path / "data/manifest.json").read_bytes())
    assert manifest["missing"] == [1, 3]
    assert manifest["totals"]["rows"] == 5
    for file in manifest["files"]:
        data = (tmp_path / "data" / file["path"]).read_bytes()
        assert file["bytes"] == len(data)
        assert file["digest"] == hashlib.blake2b(data, digest_size=32).hexdigest()
    assert "Missing shards: 2." in (tmp_path / "data/README.md").read_text()


def test_datasets_reads_the_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import datasets

    folder = dataset(tmp_path, [range(5), [], range(5, 7)], configured(name="--- # 猫: [x]"))
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    given = pairs(range(7))[0].to_pylist()
    for one, other in zip(loaded["train"], given, strict=True):
        assert one == {**other, "tar": one["tar"], "offset": one["offset"]}
    assert loaded["train"][6]["tar"] == "000002.tar"


def test_webdataset_reads_the_tars_back(tmp_path: Path) -> None:
    import webdataset

    folder = dataset(tmp_path, [range(5), [], range(5, 7)])
    tars = sorted(str(path) for path in folder.glob("*/*.tar"))
    samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    given = pairs(range(7))[0].to_pylist()
    read = list(samples.to_tuple("__key__", "jpg;png;webp;gif", "txt", "json"))
    assert len(read) == 7
    for (key, image, caption, facts), row in zip(read, given, strict=True):
        assert (key, caption, facts["url"]) == (row["id"], row["caption"], row["url"])
        assert image.size == (row["width"], row["height"])
