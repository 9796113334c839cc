"""Files that a user names, read as what they hold: rows of pairs, feature files, tars, what reduce stages wrote.

What a file is, its content tells, never its name: parquet, HDF5, tar, or a text table (csv, tsv, JSON lines; gzip and
zstd too). Tables of pairs (those with a url) and tables of the same columns are parts of one; tables of other columns
are joined to them by id. A tar to which no table points gives rows of its own, one a sample. A damaged file costs that
file: it is named, and the others are read.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toolkit.data import ids, pair, table
from toolkit.data.ids import Ids
from toolkit.data.tar import BLOCK, Joined, header, key, members
from toolkit.errors import UserError
from toolkit.source.table import TEXTS

# Tables that hold no rows of pairs alive: a stage asks for them by name.
ASIDE = ("unique", "words", "hosts")
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})
MAX_CAPTION = 1 << 20
PROBED = 16  # rows of a table that are looked for in a tar

_TYPES = {column.name: column.type for column in pair.COLUMNS}
_COLUMNS = _TYPES | dict.fromkeys(TEXTS, pa.string())
_ID = f"^[0-9a-f]{{{2 * pair.ID_BYTES}}}$"
_SAMPLE = pa.schema([(name, _TYPES[name]) for name in ("id", "offset", "bytes", "digest", "text")])
_FAULTS = (
    *(OSError, pa.ArrowException, ValueError, KeyError, EOFError, tarfile.TarError),
    *(RecursionError, MemoryError, OverflowError),  # tarfile: chained long names, sizes beyond any file
)

Damage = Callable[[str, str], None]


def kind(path: Path) -> str:
    """Return what a file is by its content: parquet, hdf5, tar, empty or other."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x89HDF"):
        return "hdf5"
    if len(head) == BLOCK and (header(head) or not any(head)):
        return "tar"
    return "other" if head else "empty"


class Inputs:
    """The named files, each read once; `broken` names those that could not be read, or not to their end."""

    def __init__(self, paths: Sequence[Path], damage: Damage) -> None:
        self._paths, self._damage = paths, damage
        self.broken: list[str] = []
        self.tables: dict[int, pa.Table] = {}  # by the number of the input; dropped rows are still there
        self.features: dict[int, Path] = {}
        self.tars: list[Path] = []
        self._aside: dict[str, list[pa.Table]] = {}
        for number, path in enumerate(paths):
            try:
                self._take(number, path)
            except _FAULTS as error:
                self._break(path, str(error) or type(error).__name__)
        pointed = self._point()
        self._samples = [self._unpack(tar) for tar in self.tars if tar not in pointed]

    def _break(self, path: Path, what: str) -> None:
        what = f"not readable: {' '.join(what.split())[:300]}"
        self.broken.append(f"{path}: {what}")
        self._damage(str(path), what)

    def _take(self, number: int, path: Path) -> None:
        found = kind(path)
        if found == "empty":
            raise ValueError("the file is empty")
        if found == "hdf5":
            _check(path)
            self.features[number] = path
        elif found == "tar":
            self.tars.append(path)
        elif found == "other":
            self.tables[number] = _pairs(self._text(path))
        else:
            self._parquet(number, path)

    def _parquet(self, number: int, path: Path) -> None:
        with path.open("rb") as file:
            names = pq.read_schema(file).names
            rows = table.read(file, [name for name in names if name in _COLUMNS])
        for stage in ASIDE:
            if set(names) == set(pair.schema(stage).names):
                found = rows.select(pair.schema(stage).names).cast(pair.schema(stage))
                self._aside.setdefault(stage, []).append(found)
                return
        self.tables[number] = _pairs(rows)

    def _text(self, path: Path) -> pa.Table:
        from toolkit.source.table import read

        faults: list[str] = []

        def fault(row: int, what: str) -> None:
            faults.append(what)
            self._damage(f"{path} row {row}", what)

        with path.open("rb") as file:
            rows = list(read(file, fault))
        if faults and not rows:
            raise ValueError("no rows of url and text are in it")
        names = ("url", "text", "page")
        return pa.table({name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in names})

    # Rows

    @cached_property
    def rows(self) -> pa.Table:
        """The rows that every table has and none has dropped, with the columns of all, in the order of the first."""
        groups: dict[object, list[pa.Table]] = {"features": list(map(_named, self.features.values()))}
        for part in [*self.tables.values(), *self._samples]:
            group = "pairs" if "url" in part.column_names else frozenset(part.column_names)
            groups.setdefault(group, []).append(_living(part))
        joined = [pa.concat_tables(parts, promote_options="default") for parts in groups.values() if parts]
        if not joined:
            return pa.table({})
        rows = reduce(_join, joined)
        repeated = pc.is_in(rows["id"], value_set=self.aside("unique")["id"].combine_chunks())
        return rows.filter(pc.invert(pc.and_(repeated, pa.array(_occurrence(rows["id"]) > 0))))

    def feature_rows(self, number: int) -> pa.Table:
        """Return the rows of one feature file, in its order, that no table has dropped, with the tables' columns."""
        own = _named(self.features[number])
        if not self.tables and not self._samples:
            return own
        return self.rows.take(pc.index_in(own["id"], value_set=self.rows["id"].combine_chunks()).drop_null())

    def feature_ids(self, number: int) -> Ids | None:
        """Return the ids of these rows; None where there are no tables, and the rows are all those of the file."""
        if not self.tables and not self._samples:
            return None
        return ids.array(self.feature_rows(number)["id"])

    def aside(self, stage: str) -> pa.Table:
        """Return what was given of the table of a reduce stage, maybe nothing."""
        return pa.concat_tables([pair.schema(stage).empty_table(), *self._aside.get(stage, [])])

    # Tars: all of them are one stream, so that the place of an image in many files is one number.

    def open_tars(self) -> IO[bytes]:
        """Open all tars as one stream; the column `offset` is a position in it."""
        return io.BufferedReader(Joined(self.tars), 1 << 20)

    def _point(self) -> set[Path]:
        """Make the tables' offsets positions in the joined stream; return the tars that tables point to."""
        beside = [tar for path in self._paths if (tar := path.with_suffix(".tar")).is_file() and kind(tar) == "tar"]
        pointed = set()
        for number, rows in self.tables.items():
            if {"offset", "bytes"} <= set(rows.column_names):
                own = next((tar for tar in [*self.tars, *beside] if _holds(tar, rows)), None)
                self.tables[number] = self._shift(rows, own)
                pointed.update([own] if own else [])
        return pointed

    def _shift(self, rows: pa.Table, tar: Path | None) -> pa.Table:
        """Return the rows with positions in the joined stream, null where the tar does not hold the image."""
        at = rows.column_names.index("offset")
        if tar is None:
            return rows.set_column(at, "offset", pa.nulls(rows.num_rows, pa.int64()))
        if tar not in self.tars:
            self.tars.append(tar)
        start, size = self._start(tar), tar.stat().st_size
        offset, bytes_ = rows["offset"], rows["bytes"]
        inside = pc.and_(
            pc.greater_equal(pc.min_element_wise(offset, bytes_), 0), pc.less_equal(pc.add(offset, bytes_), size)
        )
        if outside := pc.sum(pc.invert(inside)).as_py():
            self._break(tar, f"{outside} images lie beyond its {size} bytes")
        return rows.set_column(at, "offset", pc.if_else(inside, pc.add(offset, start), None))

    def _start(self, tar: Path) -> int:
        return sum(path.stat().st_size for path in self.tars[: self.tars.index(tar)])

    def _unpack(self, path: Path) -> pa.Table:
        """Return a row for each webdataset sample with an image (its first one), and the text beside it."""
        start = self._start(path)
        found: dict[str, dict[str, Any]] = {}
        texts: dict[str, str] = {}
        try:
            for info, file in members(path):
                name, suffix = key(info.name)
                if suffix in IMAGES and name not in found:
                    digest = hashlib.file_digest(file, _blake).hexdigest()  # type: ignore[arg-type]
                    place = {"offset": start + info.offset_data, "bytes": info.size}
                    found[name] = {"id": _id(name), "digest": digest} | place
                elif suffix == ".txt" and info.size <= MAX_CAPTION:
                    texts[name] = file.read().decode("utf-8", "replace")
        except _FAULTS as error:
            self._break(path, str(error) or type(error).__name__)
        return pa.Table.from_pylist([row | {"text": texts.get(name, "")} for name, row in found.items()], _SAMPLE)


def _pairs(rows: pa.Table) -> pa.Table:
    """Return the columns that stages know, in their types; ids that are none of ours are made from url and text."""
    read = {name: _typed(rows[name], kind) for name, kind in _COLUMNS.items() if name in rows.column_names}
    found = {name: column for name, column in read.items() if column is not None}
    if "url" in found:
        nothing = pa.array([""] * rows.num_rows, pa.string())
        found["url"] = pc.fill_null(found["url"], "")
        found["text"] = pc.fill_null(next((found[name] for name in TEXTS if name in found), nothing), "")
    own = found.pop("id", None)
    if own is None or pc.all(pc.fill_null(pc.match_substring_regex(own, _ID), False)).as_py() is False:
        if "url" not in found:
            raise ValueError(f"no column url, and no id of {2 * pair.ID_BYTES} hex digits, among {rows.column_names}")
        both = zip(found["url"].to_pylist(), found["text"].to_pylist(), strict=True)
        own = pa.array([pair.pair_id(url, text) for url, text in both], pa.string())
    return pa.table({"id": own} | {name: column for name, column in found.items() if name in _TYPES})


def _typed(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Return the column in its type, or None for another tool's column that only has the same name."""
    try:
        return column.cast(kind)
    except pa.ArrowException:
        return None


def _living(rows: pa.Table) -> pa.Table:
    if "dropped" not in rows.column_names:
        return rows
    return rows.filter(pc.is_null(rows["dropped"])).drop_columns(["dropped"])


def _join(first: pa.Table, other: pa.Table) -> pa.Table:
    """Return the rows of `first` that `other` has too, in the order of `first`, with the new columns of `other`.

    Of pairs that stand in both more than once, the n-th here is the n-th there.
    """
    where = pc.index_in(_keys(first), _keys(other))
    if first.num_rows and other.num_rows and where.null_count == len(where):
        raise UserError(
            f"The inputs are of different pairs: tables of {first.num_rows} and {other.num_rows} rows are to be joined "
            "by id, and have none in common. Give tables and tars of the same pairs."
        )
    kept = first.filter(pc.is_valid(where))
    rows = other.take(where.drop_null())
    for name in other.column_names:
        if name not in kept.column_names:
            kept = kept.append_column(name, rows[name])
    return kept


def _keys(rows: pa.Table) -> pa.Array:
    again = pa.array(_occurrence(rows["id"])).cast(pa.string())
    return pc.binary_join_element_wise(rows["id"].combine_chunks(), again, ".")


def _occurrence(names: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return for each id how many equal ones stand before it."""
    codes = names.combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    new = np.diff(codes[order], prepend=-1) != 0
    counts = np.empty(len(codes), np.int64)
    counts[order] = np.arange(len(codes)) - np.maximum.accumulate(np.where(new, np.arange(len(codes)), 0))
    return counts


def _check(path: Path) -> None:
    """Raise FeatureError where a feature file is damaged or something else; none of its rows is read."""
    from toolkit.data.features import read

    with path.open("rb") as file, read(file):
        pass


def _named(path: Path) -> pa.Table:
    """Return the rows of a feature file."""
    from toolkit.data.features import opened

    with opened(path.open("rb"), str(path)) as found:
        return pa.table({"id": ids.column(found.ids())})


def _holds(tar: Path, rows: pa.Table) -> bool:
    """Return whether the header before one of the table's first images in this tar names that pair."""
    found = rows.filter(pc.greater_equal(rows["offset"], BLOCK)).slice(0, PROBED)
    with tar.open("rb") as file:
        for name, offset in zip(found["id"].to_pylist(), found["offset"].to_pylist(), strict=True):
            file.seek(offset - BLOCK)
            info = header(file.read(BLOCK))
            if info and _id(key(info.name)[0]) == name:
                return True
    return False


def _id(sample: str) -> str:
    """Return a sample's key if it is an id already, or an id made of it."""
    name = sample.rpartition("/")[2]
    is_id = len(name) == 2 * pair.ID_BYTES and set(name) <= set("0123456789abcdef")
    return name if is_id else pair.pair_id(sample, "")


def _blake() -> Any:
    return hashlib.blake2b(digest_size=pair.ID_BYTES)
