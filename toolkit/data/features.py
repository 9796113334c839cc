"""Features in HDF5: one row a pair, readable by any HDF5 library, and by `pread` without one.

    /image  (n, d) float16     /text  (n, d) float16, where the encoder has a text tower     /id  (n, 16) uint8
    root attributes: encoder, weights, resize (strings) and dim (an integer)

Promises of `write`: contiguous, uncompressed, each dataset at a multiple of 4 KiB; the same rows give the same bytes
however the blocks are cut; memory is one block. Promises of `read`: nothing is read but what lies inside the file; a
file that is damaged or something else is a `FeatureError` that says what was found and what was expected.

Users' own files may hold float32, which is rounded to float16 as it is read: an edge of the similarity join is defined
on float16 rows. `/text` and the attributes may be missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from toolkit.data.ids import Ids
from toolkit.data.pair import ID_BYTES
from toolkit.errors import UserError, WorkError

Rows = npt.NDArray[np.float16]  # (n, d)

ALIGNMENT = 4096
BLOCK = 8192  # rows copied at once
FORMAT = ("v110", "v110")  # oldest and newest version of HDF5's own structures; fixed, so that bytes are


class FeatureError(WorkError, ValueError):
    """A file of features that can not be used: what was found, and what was expected."""


def write(
    sink: IO[bytes],
    *,
    ids: Ids,
    image: Iterable[Rows],
    dim: int,
    text: Iterable[Rows] | None = None,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write the blocks of `image`, then those of `text`; each must add up to one row of `dim` for every id.

    `sink` must be open for reading and writing; it stays open.
    """
    with h5py.File(
        sink, "w", libver=FORMAT, alignment_threshold=1, alignment_interval=ALIGNMENT, track_times=False
    ) as file:
        for name, value in sorted((attributes or {}).items()):
            file.attrs[name] = value
        file.attrs["dim"] = np.int64(dim)
        _fill(_dataset(file, "id", (len(ids), ID_BYTES), np.uint8), [ids])
        _fill(_dataset(file, "image", (len(ids), dim), np.float16), image)
        if text is not None:
            _fill(_dataset(file, "text", (len(ids), dim), np.float16), text)


def merge(sink: IO[bytes], sources: Sequence[IO[bytes]]) -> None:
    """Write several files of features as one, in float16; text where all have it.

    Raises FeatureError, and UserError for files of different encoders.
    """
    with ExitStack() as stack:
        parts = [stack.enter_context(read(source)) for source in sources]
        if len(dims := sorted({part.dim for part in parts})) > 1:
            raise UserError(
                f"The feature files have rows of {' and '.join(map(str, dims))} values; only features of one encoder "
                "can be compared. Give files of one encoder, or embed them again."
            )

        def blocks(name: str) -> Iterator[Rows]:
            for part in parts:
                yield from (part.block(at, at + BLOCK, name) for at in range(0, len(part), BLOCK))

        write(
            sink,
            ids=np.concatenate([part.ids() for part in parts]),
            image=blocks("image"),
            dim=dims[0],
            text=blocks("text") if all(part.has_text for part in parts) else None,
        )


def _dataset(file: Any, name: str, shape: tuple[int, int], dtype: type[np.generic]) -> Any:
    little = np.dtype(dtype).newbyteorder("<")
    return file.create_dataset(name, shape=shape, dtype=little, track_times=False, fill_time="never")


def _fill(dataset: Any, blocks: Iterable[npt.NDArray[np.generic]]) -> None:
    start = 0
    for block in blocks:
        if block.dtype != dataset.dtype or block.shape[1:] != dataset.shape[1:]:
            raise ValueError(f"{dataset.name}: a block of {block.dtype} {block.shape}, not of {dataset.dtype}")
        if start + len(block) > len(dataset):
            raise ValueError(f"{dataset.name}: more than the {len(dataset)} rows of /id")
        if len(block):
            dataset[start : start + len(block)] = block
        start += len(block)
    if start != len(dataset):
        raise ValueError(f"{dataset.name}: {start} rows, but {len(dataset)} in /id")


class Features:
    """An open file of features; ids and blocks of rows are read when asked for. Close it, or use it in a `with`."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._sets = {name: _checked(file, name) for name in ("image", "text") if name in file}
        self._ids = _checked(file, "id")
        self.attributes: dict[str, str | int] = _attributes(file)
        self._agree()

    def __enter__(self) -> Features:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def dim(self) -> int:
        """Return d, the length of a row."""
        dim: int = self._sets["image"].shape[1]
        return dim

    @property
    def has_text(self) -> bool:
        """Return whether the file holds `/text`."""
        return "text" in self._sets

    def block(self, start: int, stop: int, name: str = "image") -> Rows:
        """Return the rows start to stop - 1 of `/image` or `/text`, as far as there are any, as (m, d) float16."""
        if name not in self._sets:
            raise FeatureError(f"The file holds no /{name}; features of texts need an encoder with a text tower.")
        with _readable(), np.errstate(over="ignore"):  # a float32 too large for float16 becomes infinite: invalid
            return np.asarray(self._sets[name][start:stop]).astype(np.float16, copy=False)

    def ids(self, start: int = 0, stop: int | None = None) -> Ids:
        """Return the ids of the rows start to stop - 1, or of all from `start` on, as (m, 16) bytes."""
        with _readable():
            found: Ids = self._ids[start:stop]
        return found

    def close(self) -> None:
        """Close HDF5's view; the file object stays open."""
        self._file.close()

    def _agree(self) -> None:
        for name, dataset in self._sets.items():
            if dataset.shape != (len(self), self.dim):
                raise FeatureError(
                    f"/{name} has the shape {dataset.shape}; expected {(len(self), self.dim)}, "
                    f"as /id has {len(self)} rows and /image has {self.dim} columns."
                )
        named = self.attributes.get("dim", self.dim)
        if named != self.dim:
            raise FeatureError(f"The attribute dim says {named}, but /image has {self.dim} columns.")


def read(source: IO[bytes]) -> Features:
    """Open a file of features; raises FeatureError where it is damaged or something else."""
    with _readable():
        file = h5py.File(source, "r")
    try:
        with _readable():
            for name in ("image", "id"):
                if name not in file:
                    found = ", ".join(f"/{key}" for key in list(file)[:8]) or "nothing"
                    raise FeatureError(f"The file holds {found}; expected /image and /id.")
            return Features(file)
    except BaseException:
        file.close()
        raise


@contextmanager
def opened(source: IO[bytes], name: str) -> Iterator[Features]:
    """Open a file of features and close it again; raises WorkError, which says whose they are, where it is damaged.

    One that is written to meanwhile may be half the old and half the new, and is refused at the end.
    """
    try:
        with source:
            before = _version(source)
            with read(source) as found:
                yield found
            if _version(source) != before:
                raise FeatureError("The file was written to while it was read; run this again when it is whole.")
    except FeatureError as error:
        raise WorkError(f"The features of {name} can not be used. {error}") from error


def _version(source: IO[bytes]) -> tuple[int, int]:
    found = os.fstat(source.fileno())
    return found.st_size, found.st_mtime_ns


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what HDF5 says of a damaged file into our own error."""
    try:
        yield
    except FeatureError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, MemoryError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise FeatureError(
            f"The file is not HDF5, or is damaged: HDF5 says {said[0]!r}. Expected HDF5 with /image "
            "(n, d) float16 and /id (n, 16) uint8."
        ) from error


def _checked(file: Any, name: str) -> Any:
    """Return a dataset that lies wholly inside the file, of the right type; a crafted file may point elsewhere."""
    with _readable():
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise FeatureError(f"/{name} is a link to elsewhere ({type(link).__name__}); expected a dataset.")
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise FeatureError(f"/{name} is a {type(dataset).__name__.lower()}; expected a dataset.")
        _inside(name, dataset.id.get_create_plist())
        _typed(name, dataset)
        _stored(name, dataset, file.id.get_filesize())
    return dataset


def _inside(name: str, plist: Any) -> None:
    """Refuse storage outside the file, and filters, which are code that HDF5 would load."""
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise FeatureError(f"The data of /{name} lies in other files; expected it inside this one.")
    if plist.get_nfilters():
        raise FeatureError(f"/{name} is compressed or filtered; expected it plain. Write it without compression.")


def _typed(name: str, dataset: Any) -> None:
    kinds = {("u", 1)} if name == "id" else {("f", 2), ("f", 4)}
    expected = f"(n, {ID_BYTES}) uint8" if name == "id" else "(n, d) float16 (or float32)"
    columns = dataset.shape[1] if dataset.shape is not None and len(dataset.shape) == 2 else 0
    right = columns == ID_BYTES if name == "id" else columns > 0
    if not right or (dataset.dtype.kind, dataset.dtype.itemsize) not in kinds:
        raise FeatureError(f"/{name} is {dataset.shape} {dataset.dtype}; expected {expected}.")


def _stored(name: str, dataset: Any, file_bytes: int) -> None:
    """Refuse rows that are not in the file: HDF5 would make them up from the fill value, as many as it says."""
    expected, stored = math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    end = (dataset.id.get_offset() or 0) + stored  # the offset is null for chunks
    if not expected <= stored <= end <= file_bytes:
        raise FeatureError(
            f"/{name} is {dataset.shape} {dataset.dtype}, {expected} bytes, of which the file, {file_bytes} bytes "
            f"long, stores {stored}; expected all rows to be stored."
        )


def _attributes(file: Any) -> dict[str, str | int]:
    """Return those of our attributes that are there and are a plain string or integer."""
    found: dict[str, str | int] = {}
    for name in ("encoder", "weights", "dim", "resize"):
        try:
            value = file.attrs.get(name)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError):  # they are optional, a broken one too
            continue
        if isinstance(value, str):
            found[name] = value
        elif isinstance(value, int | np.integer):
            found[name] = int(value)
    return found
