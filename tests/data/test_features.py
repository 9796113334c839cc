"""Feature files: the same bytes for the same rows, aligned, and nothing read from a file that points elsewhere."""

from __future__ import annotations

import io
import os
import time

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data import features
from toolkit.data.features import FeatureError, read
from toolkit.errors import WorkError


def rows(n: int, d: int = 5, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float16)


def ids(n: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (n, 16), np.uint8)


def cut(matrix: np.ndarray, sizes: list[int]):
    start = 0
    for size in sizes:
        yield matrix[start : start + size]
        start += size
    yield matrix[start:]


def written(n: int = 40, sizes=(), text: bool = True, **attributes: str) -> bytes:
    sink = io.BytesIO()
    features.write(
        sink,
        ids=ids(n),
        image=cut(rows(n), list(sizes)),
        dim=5,
        text=cut(rows(n, seed=3), list(sizes)) if text else None,
        attributes=attributes,
    )
    return sink.getvalue()


def crafted(fill) -> io.BytesIO:
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        fill(file)
    return sink


def sound(file, **wrong) -> None:
    """A right file, but for the datasets that are given."""
    for name, value in ({"image": rows(4), "id": ids(4)} | wrong).items():
        if value is not None:
            file[name] = value


@pytest.mark.parametrize("n", [0, 1, 40])
@pytest.mark.parametrize("text", [False, True])
def test_what_was_written_is_read(n, text):
    source = io.BytesIO(written(n, text=text, encoder="descriptor", weights="none", resize="inner 24"))
    with read(source) as found:
        assert (len(found), found.dim, found.has_text) == (n, 5, text)
        assert np.array_equal(found.ids(), ids(n))
        assert np.array_equal(found.ids(n // 3, n // 2), ids(n)[n // 3 : n // 2])
        assert np.array_equal(found.block(0, n), rows(n))
        assert found.block(0, n).dtype == np.float16
        assert np.array_equal(found.block(n // 3, n // 2), rows(n)[n // 3 : n // 2])
        assert found.attributes == {"encoder": "descriptor", "weights": "none", "resize": "inner 24", "dim": 5}
        if text:
            assert np.array_equal(found.block(0, n, "text"), rows(n, seed=3))
    assert not source.closed


@given(st.lists(st.integers(0, 9), max_size=4))
def test_the_bytes_do_not_depend_on_the_cut_of_the_blocks(sizes):
    assert written(40, sizes) == written(40)


def test_the_bytes_do_not_depend_on_the_time():
    before = written()
    time.sleep(1.1)  # HDF5 keeps times in whole seconds
    assert written() == before


def test_datasets_are_contiguous_plain_and_aligned():
    with h5py.File(io.BytesIO(written()), "r") as file:
        for name in ("image", "text", "id"):
            dataset = file[name]
            assert dataset.id.get_offset() % 4096 == 0
            assert dataset.chunks is None
            assert dataset.compression is None
        assert file["image"].dtype == np.dtype("<f2")


@pytest.mark.parametrize("n", [39, 41])
def test_rows_must_match_the_ids(n):
    with pytest.raises(ValueError, match="/image"):
        features.write(io.BytesIO(), ids=ids(40), image=[rows(n)], dim=5)


@pytest.mark.parametrize("block", [np.zeros((4, 5), np.float32), np.zeros((4, 6), np.float16)])
def test_blocks_must_match_the_file(block):
    with pytest.raises(ValueError, match="/image"):
        features.write(io.BytesIO(), ids=ids(4), image=[block], dim=5)


def test_float32_is_rounded_to_float16():
    wide = np.array([[1 / 3, 1e-9], [1e9, -2]], np.float32)
    with read(crafted(lambda f: sound(f, image=wide, id=ids(2)))) as found:
        assert found.block(0, 2).tolist() == [[np.float16(1 / 3), 0], [np.inf, -2]]


def test_text_and_attributes_may_be_missing():
    with read(crafted(sound)) as found:
        assert found.attributes == {}
        assert not found.has_text
        with pytest.raises(FeatureError, match="no /text"):
            found.block(0, 1, "text")


def test_odd_attributes_are_left_out():
    def fill(file):
        sound(file)
        file.attrs["encoder"] = np.zeros(3)
        file.attrs["weights"] = "abc"

    with read(crafted(fill)) as found:
        assert found.attributes == {"weights": "abc"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": None}, "expected /image and /id"),
        ({"id": None}, "holds /image; expected"),
        ({"image": rows(4).astype(np.float64)}, "float64; expected"),
        ({"image": np.zeros((4, 5), np.int16)}, "int16; expected"),
        ({"image": np.zeros(4, np.float16)}, r"\(4,\) float16; expected"),
        ({"image": np.zeros((4, 0), np.float16)}, r"\(4, 0\)"),
        ({"image": rows(3)}, "/id has 4 rows"),
        ({"text": rows(4, 6)}, "/image has 5 columns"),
        ({"id": ids(4)[:, :8]}, r"expected \(n, 16\) uint8"),
        ({"id": ids(4).astype(np.uint16)}, r"expected \(n, 16\) uint8"),
        ({"id": np.array(["a"] * 4, "S32")}, r"expected \(n, 16\) uint8"),
    ],
)
def test_other_contents_are_refused_by_name(wrong, words):
    with pytest.raises(FeatureError, match=words):
        read(crafted(lambda f: sound(f, **wrong)))


def test_a_dim_that_is_not_the_width_is_refused():
    def fill(file):
        sound(file)
        file.attrs["dim"] = 768

    with pytest.raises(FeatureError, match="dim says 768"):
        read(crafted(fill))


def test_a_group_in_the_place_of_a_dataset_is_refused():
    with pytest.raises(FeatureError, match="is a group"):
        read(crafted(lambda f: (sound(f, image=None), f.create_group("image"))))


def test_data_outside_the_file_are_never_read(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        sound(file)
    (tmp_path / "raw").write_bytes(rows(4).tobytes())
    layout = h5py.VirtualLayout((4, 5), np.float16)
    layout[:] = h5py.VirtualSource(str(secret), "image", (4, 5))
    ways = {
        "link to elsewhere": lambda f: f.__setitem__("image", h5py.ExternalLink(str(secret), "/image")),
        "SoftLink": lambda f: f.__setitem__("image", h5py.SoftLink("/other")),
        "in other files": lambda f: f.create_virtual_dataset("image", layout),
        "lies in other": lambda f: f.create_dataset(
            "image", (4, 5), np.float16, external=[(str(tmp_path / "raw"), 0, 40)]
        ),
    }
    for words, craft in ways.items():
        with pytest.raises(FeatureError, match=words):
            read(crafted(lambda f, craft=craft: (sound(f, image=None, other=rows(4)), craft(f))))


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True}])
def test_filters_are_refused(options):
    with pytest.raises(FeatureError, match="without compression"):
        read(crafted(lambda f: (sound(f, image=None), f.create_dataset("image", data=rows(4), **options))))


def test_plain_chunks_are_read():
    with read(
        crafted(lambda f: (sound(f, image=None), f.create_dataset("image", data=rows(4), chunks=(2, 2))))
    ) as found:
        assert np.array_equal(found.block(1, 4), rows(4)[1:])


def test_damaged_files_are_refused_at_once_or_when_they_are_read():
    whole = written()
    for size in (0, 1, 100, 5000, len(whole) // 2, len(whole) - 1):
        with pytest.raises(FeatureError), read(io.BytesIO(whole[:size])) as found:
            found.block(0, len(found))
    with pytest.raises(FeatureError, match="not HDF5"):
        read(io.BytesIO(b"PAR1" + bytes(5000)))


MANY = 10**8


@pytest.mark.parametrize("name", ["id", "image"])
@pytest.mark.parametrize("count", [MANY, 2**58])
@pytest.mark.parametrize("chunks", [None, (64, 16)])
def test_rows_that_the_file_does_not_store_are_refused_before_memory_is_asked_for(name, count, chunks):
    def fill(file):
        sound(file, **{name: None})
        dataset = file.create_dataset(name, (count, 16), np.uint8 if name == "id" else np.float16, chunks=chunks)
        if chunks:
            dataset[:64] = 1

    source = crafted(fill)
    assert len(source.getvalue()) < 20_000
    with pytest.raises(FeatureError, match=f"^/{name} is .* expected all rows to be stored"):
        read(source)


def test_a_dataset_that_says_it_ends_beyond_the_file_is_refused():
    source = crafted(sound)
    with h5py.File(source, "r") as file:
        place = np.int64(file["id"].id.get_offset()).tobytes()
    data = source.getvalue()
    wide, long = np.int64([4, 16]).tobytes(), np.int64([MANY, 16]).tobytes()
    data = data.replace(wide, long).replace(place + np.int64(64).tobytes(), place + np.int64(16 * MANY).tobytes())
    with pytest.raises(FeatureError, match=r"^/id is .* stores 1600000000|damaged"):
        read(io.BytesIO(data))


def test_a_damaged_list_of_names_is_refused():
    data = crafted(sound).getvalue()
    at = data.index(b"HEAP") + 16  # where the free list of the heap of names begins
    with pytest.raises(FeatureError, match=r"is damaged: HDF5 says .*heap"):
        read(io.BytesIO(data[:at] + b"\xee" * 8 + data[at + 8 :]))


def test_an_error_of_our_own_is_not_said_to_be_of_hdf5():
    with pytest.raises(FeatureError, match=r"^/image is a group; expected a dataset\.$"):
        read(crafted(lambda f: (sound(f, image=None), f.create_group("image"))))


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "features.h5"
    path.write_bytes(written(40))
    with features.opened(path.open("rb"), "mine") as found:
        assert len(found.ids()) == 40
    with (
        pytest.raises(WorkError, match=r"features of mine .* written to while it was read"),
        features.opened(path.open("rb"), "mine") as found,
    ):
        found.block(0, 40)
        with path.open("r+b") as file:
            file.write(written(40)[:100])
        os.utime(path, ns=(1, 1))  # a clock too coarse to tell two writes apart must not hide the second
