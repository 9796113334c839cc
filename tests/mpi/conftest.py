"""Feature files, and a run that has come as far as its embeddings, for real MPI ranks on this machine."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from toolkit.config.config import check
from toolkit.data import features
from toolkit.data.ids import column
from toolkit.data.pair import schema
from toolkit.data.stage import Output
from toolkit.data.table import build, write
from toolkit.run import files
from toolkit.run.layout import relative
from toolkit.run.ledger import Mark, publish
from toolkit.run.run import Run, create

MPIEXEC = Path(sys.executable).parent / "mpiexec"
SHARDS = 3
SHARED = Path("/dev/shm")


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """Five blocks of rows: clusters, equal rows over the borders of ranks, a zero row and one that is not finite."""
    rng = np.random.default_rng(21)
    middle = rng.standard_normal((3000, 16))
    rows = middle[rng.integers(3000, size=9000)] + 0.12 * rng.standard_normal((9000, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    rows[::701] = rows[0]
    rows[4000], rows[8000, 3] = 0, np.nan
    return rows


@pytest.fixture(scope="session")
def ids() -> np.ndarray:
    return np.random.default_rng(22).integers(256, size=(9000, 16), dtype=np.uint8)


@pytest.fixture
def inputs(tmp_path: Path, rows: np.ndarray, ids: np.ndarray) -> list[Path]:
    """The rows in files of uneven length, one of them empty."""
    paths = []
    for number, part in enumerate((slice(0, 100), slice(100, 100), slice(100, 7000), slice(7000, 9000))):
        paths.append(tmp_path / f"{number}.h5")
        paths[-1].write_bytes(hdf5(rows[part], ids[part]))
    return paths


def hdf5(rows: np.ndarray, ids: np.ndarray) -> bytes:
    sink = io.BytesIO()
    features.write(sink, ids=ids, image=[rows], dim=rows.shape[1])
    return sink.getvalue()


@pytest.fixture
def embedded(tmp_path: Path, rows: np.ndarray, ids: np.ndarray) -> Callable[..., Run]:
    """Make a run of three shards whose stages before dedup are published: of image its sharpness, of embed all."""

    def make(name: str, **dedup: Any) -> Run:
        source = tmp_path / "list.csv"
        source.write_text("url,text\n")
        tree = {
            "run_dir": str(tmp_path / name),
            "input": {"kind": "table", "paths": [str(source)] * 1, "files_per_shard": 1},
            "embed": {"encoder": "descriptor"},
            "dedup": dedup,
            "align": None,
        }
        return _publish(tmp_path, tree, rows, ids)

    return make


def _publish(folder: Path, tree: dict, rows: np.ndarray, ids: np.ndarray) -> Run:
    for shard in range(SHARDS):
        (folder / f"list-{shard}.csv").write_text("url,text\n")
    tree["input"]["paths"] = [str(folder / "list-*.csv")]
    run = create(check(tree, "test"))
    for stage in run.stages[: [s.name for s in run.stages].index("dedup")]:
        for unit in range(run.units(stage)):
            part = slice(unit * len(ids) // SHARDS, (unit + 1) * len(ids) // SHARDS)
            _unit(run, stage, unit, rows[part], ids[part])
        run.forget()
    run.free()
    return run


def _unit(run: Run, stage, unit: int, rows: np.ndarray, ids: np.ndarray) -> None:
    inputs = run.input_digests(stage, unit)
    attempt = files.make(run.layout.attempt(stage, unit, files.token()))
    made: dict[str, tuple[bytes, int | None]] = {}
    if stage.name in ("image", "embed"):
        columns = {field.name: pa.nulls(len(ids), field.type) for field in schema(stage.name)}
        columns |= {"id": column(ids)}
        columns |= {"sharpness": ids[:, 0].astype(np.float64)} if stage.name == "image" else {}
        sink = io.BytesIO()
        write(sink, schema(stage.name), [build(schema(stage.name), columns)])
        made = {".parquet": (sink.getvalue(), len(ids))}
    if stage.name == "embed":
        made[".h5"] = hdf5(rows, ids), None
    outputs = []
    for suffix, (data, count) in sorted(made.items()):
        path = attempt / Path(relative(unit, suffix)).name
        files.write(path, data)
        outputs.append(Output(path=relative(unit, suffix), bytes=len(data), digest=files.digest(path), rows=count))
    mark = Mark(
        stage=stage.folder,
        unit=unit,
        version=stage.version,
        outputs=outputs,
        inputs=inputs or {},
        rows_in=len(ids),
        rows_out=len(ids),
        drops={},
        counts={},
        tallies={},
        damages=0,
        damage=[],
        facts={},
    )
    publish(run.layout, stage, attempt, mark)


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Start ranks and wait for their end. One thread each: the tests' machine is small, and MPI ranks poll."""

    def start(ranks: int, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env=clean() | {"OPENBLAS_NUM_THREADS": "1"} | env,
        )

    return start


@pytest.fixture(scope="session", autouse=True)
def swept() -> Iterator[None]:
    """What killed ranks leave in /dev/shm goes with the tests: MPICH removes it only where it ends by itself."""
    before = set(SHARED.glob("mpich_shm_*"))
    yield
    left = set(SHARED.glob("mpich_shm_*")) - before  # before one looks who holds them: others may make more meanwhile
    held = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            held |= {Path(line.split()[-1]) for line in maps.read_text().splitlines() if "/mpich_shm_" in line}
    for path in left - held:
        path.unlink(missing_ok=True)


def clean() -> dict[str, str]:
    """The environment without what a launcher may have left in it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "SLURM_", "MPI_"))}
