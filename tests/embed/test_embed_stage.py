"""The stage embed: a row in the file for every row of the table, zeros where there is no image, the same bytes."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from toolkit.config.config import check
from toolkit.config.embed import Embed
from toolkit.data.features import read
from toolkit.data.tar import TarWriter
from toolkit.embed import stage
from toolkit.embed.descriptor import Descriptor
from toolkit.embed.prepare import prepare
from toolkit.image.decode import decode
from toolkit.run.plain import run_stage


def photograph(seed: int) -> bytes:
    sink = io.BytesIO()
    Picture.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def flat() -> bytes:
    sink = io.BytesIO()
    Picture.new("RGB", (60, 80), "teal").save(sink, "JPEG")
    return sink.getvalue()


IMAGES = [photograph(0), flat(), photograph(1), photograph(2)[:400], photograph(3)]


@pytest.fixture
def shard(tmp_path) -> list[Path]:
    tar, rows = tmp_path / "in.tar", tmp_path / "in.parquet"
    with tar.open("wb") as file:
        writer = TarWriter(file)
        offsets = [writer.add(f"{i:032x}.png", data) for i, data in enumerate(IMAGES)]
        writer.close()
    columns = {
        "id": [f"{i:032x}" for i in range(len(IMAGES))],
        "offset": offsets,
        "bytes": [len(data) for data in IMAGES],
        "digest": [hashlib.blake2b(data, digest_size=16).hexdigest() for data in IMAGES],
        "caption": ["一只猫", "青色", "", None, "两只猫"],
    }
    pq.write_table(pa.table(columns), rows)
    return [rows, tar]


def run(inputs: list[Path], name: str) -> tuple[list[dict], bytes]:
    output = inputs[0].parent / f"{name}.parquet"
    run_stage("embed", inputs, output, check({"input": {"kind": "table", "paths": ["-"]}}, "test"))
    return pq.read_table(output).to_pylist(), output.with_suffix(".h5").read_bytes()


def test_every_row_of_the_table_has_its_row_in_the_file(shard):
    rows, data = run(shard, "out")
    assert [row["dropped"] for row in rows] == [None, "embed.invalid", None, "embed.invalid", None]
    with read(io.BytesIO(data)) as found:
        assert [i.tobytes().hex() for i in found.ids()] == [row["id"] for row in rows]
        block = found.block(0, 5)
        assert found.attributes == {"encoder": "descriptor", "weights": "none", "resize": "inner 24", "dim": 1728}
        assert not found.has_text
    for row, stored, image in zip(rows, block, IMAGES, strict=True):
        assert row["norm"] == np.float32(np.linalg.norm(stored.astype(np.float64)))
        if row["dropped"] is None:
            pixels = prepare(decode(image, 10**6), "inner 24")
            assert np.array_equal(stored, Descriptor(Embed()).images(pixels[None])[0])
        else:
            assert not stored.any()


def test_the_bytes_do_not_depend_on_the_blocks(shard, monkeypatch):
    once = run(shard, "once")
    monkeypatch.setattr(stage, "BLOCK", 2)
    assert run(shard, "again") == once


class Tower(Descriptor):
    """An encoder with a text tower: a caption's row holds its length, and is not finite for two characters."""

    text = True

    def texts(self, captions):
        rows = np.zeros((len(captions), self.dim), np.float16)
        rows[:, 0] = [len(caption) for caption in captions]
        rows[[len(caption) == 2 for caption in captions], 1] = np.nan
        return rows


def test_texts_stand_beside_images_and_what_is_not_finite_is_zeros(shard, monkeypatch):
    monkeypatch.setattr(stage, "load", Tower)
    _, data = run(shard, "towers")
    with read(io.BytesIO(data)) as found:
        assert found.block(0, 5, "text")[:, 0].tolist() == [3, 0, 0, 0, 3]
        assert np.isfinite(found.block(0, 5, "text")).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, None])
def test_lengths_without_a_direction_are_invalid(value):
    ids = pa.chunked_array([pa.array(["0" * 32, "1" * 32])])
    judged = stage.judge(ids, pa.array([value, 1.0], pa.float32()), Embed())
    assert judged["dropped"].to_pylist() == ["embed.invalid", None]
