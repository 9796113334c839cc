"""The collective stages over real MPI ranks: the bytes of one rank, whatever happens on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.crawl import tree
from toolkit.config.config import check
from toolkit.data.ids import column
from toolkit.errors import UserError
from toolkit.recipe import BY_NAME
from toolkit.run import earlier, mpi
from toolkit.run.plain import run_stage
from toolkit.run.task import attempt

from .conftest import clean, hdf5

PROGRAM = Path(__file__).with_name("program.py")


@pytest.fixture
def expected(inputs, tmp_path) -> bytes:
    """What one process writes."""
    config = check({"input": {"kind": "table", "paths": ["-"]}}, "test")
    run_stage("dedup", inputs, tmp_path / "one.parquet", config)
    return (tmp_path / "one.parquet").read_bytes()


def test_ranks_write_the_bytes_of_one_process(launch, inputs, expected, tmp_path):
    output = tmp_path / "four.parquet"  # two and three below
    done = launch(4, "-m", "toolkit", "stage", "dedup", "--input", tmp_path / "*.h5", "--output", output)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == expected
    assert "9,000" in done.stdout
    assert done.stdout.count("dedup.batch") <= 1  # rank 0 alone speaks
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_stage_that_ranks_do_not_share_is_refused(launch, inputs, tmp_path):
    done = launch(2, "-m", "toolkit", "stage", "align", "--input", inputs[0], "--output", tmp_path / "x.parquet")
    assert done.returncode == 2
    assert "only dedup and merge are shared by ranks" in done.stderr


def test_what_an_error_quotes_does_nothing_to_the_terminal(launch, tmp_path):
    output = tmp_path / "x.parquet"
    done = launch(2, "-m", "toolkit", "stage", "merge", "--input", "\x1b[31mx.h5", "--output", output)
    assert done.returncode == 2
    assert r"\x1b[31mx.h5 matches no file" in done.stderr and "\x1b" not in done.stderr


@pytest.fixture
def finished(embedded) -> dict[str, str]:
    """What a run publishes in dedup and merge with one rank."""
    run = embedded("one")
    for stage in ("dedup", "merge"):
        attempt(run, BY_NAME[stage], 0)
        run.forget()
    return published(run)


def published(run) -> dict[str, str]:
    return {name: digest for name, digest in tree(Path(run.layout.root)).items() if name[:2] in ("60", "80")}


def tiles(tmp_path: Path) -> int:
    path = tmp_path / "tiles"
    count = len(path.read_text()) if path.exists() else 0
    path.unlink(missing_ok=True)
    return count


def test_a_run_that_is_hit_again_and_again_publishes_the_same_bytes(launch, embedded, finished, tmp_path):
    run = embedded("many")
    task = (PROGRAM, "task", run.layout.root, "dedup")
    env = {"TILES": str(tmp_path / "tiles")}

    failed = launch(2, *task, **env, FAULT="raise", FAULT_RANK="1", FAULT_TILE="2")
    assert failed.returncode == 1, failed.stderr
    assert "rank 1 of 2 on " in failed.stderr
    assert "ArithmeticError: a planted fault" in failed.stderr
    tiles(tmp_path)

    killed = launch(2, *task, **env, FAULT="kill", FAULT_RANK="1", FAULT_TILE="3")
    assert killed.returncode != 0, killed.stdout
    first = tiles(tmp_path)
    assert 0 < first < 15

    stopped = launch(2, *task, **env, FAULT="stop", FAULT_RANK="1", FAULT_TILE="2")
    assert stopped.returncode == 1, stopped.stderr
    assert "as asked" in stopped.stderr
    second = tiles(tmp_path)
    assert not list(Path(run.layout.root).glob("60_dedup/data/**/*.parquet"))

    done = launch(3, *task, **env)
    assert done.returncode == 0, done.stderr
    assert tiles(tmp_path) < 15  # five blocks make fifteen pairs; some were kept
    assert second < 15
    assert launch(2, "-m", "toolkit", "task", run.layout.root, "merge").returncode == 0
    assert published(run) == finished


def test_the_best_by_what_an_earlier_stage_measured_stays(launch, embedded, ids, tmp_path):
    run = embedded("best", keep="best", best="sharpness", scope="global", distance=0.05)
    assert list(run.input_digests(BY_NAME["dedup"], 0)) == ["image", "embed"]
    attempt(run, BY_NAME["dedup"], 0)
    assert launch(2, "-m", "toolkit", "task", run.layout.root, "merge").returncode == 0
    parts = [pq.read_table(path) for path in sorted(Path(run.layout.root).glob("80_merge/data/**/*.parquet"))]
    found = pa.concat_tables(parts)
    assert found["id"].to_pylist() == column(ids).to_pylist()
    assert found["dropped"].to_pylist().count("embed.invalid") == 2
    sharp = dict(zip(column(ids).to_pylist(), ids[:, 0].tolist(), strict=True))
    best: dict[str, tuple[int, str]] = {}
    for row in found.to_pylist():
        best[row["set"]] = min(best.get(row["set"], (0, "g")), (-sharp[row["id"]], row["id"]))
    assert [smallest for _, smallest in best.values()] == list(best)
    assert max(found["size"].to_pylist()) > 2


def test_a_killed_merge_with_earlier_rows_publishes_the_same_bytes(
    launch, embedded, inputs, rows, ids, tmp_path, monkeypatch
):
    monkeypatch.setattr(earlier, "fit", lambda sources, section: None)  # these features are of no encoder
    noise = np.random.default_rng(23).standard_normal((5500, 16)) * 2.0**-9
    (tmp_path / "old.h5").write_bytes(hdf5((rows[:5500] + noise).astype(np.float16), ids[::-1][:5500]))
    section = {"scope": "global", "earlier": [str(tmp_path / "old.h5"), str(inputs[0])]}
    one, many = embedded("one", **section), embedded("many", **section)
    for run in (one, many):
        attempt(run, BY_NAME["dedup"], 0)
        run.forget()
    attempt(one, BY_NAME["merge"], 0)
    one.forget()
    assert one.marks(BY_NAME["merge"]).sum("drops.merge.earlier") > 5500
    task, env = (PROGRAM, "task", many.layout.root, "merge"), {"TILES": str(tmp_path / "tiles")}
    killed = launch(2, *task, **env, FAULT="kill", FAULT_RANK="1", FAULT_TILE="9")
    assert killed.returncode != 0, killed.stdout
    first = tiles(tmp_path)
    done = launch(3, *task, **env)
    assert done.returncode == 0, done.stderr
    assert first > 0
    assert tiles(tmp_path) < 15 + 5 * 3  # pairs of five new blocks and three earlier ones; some were kept
    assert published(many) == published(one)


def test_worlds_of_one_rank_are_refused(tmp_path, inputs):
    """Two processes of a Slurm step whose launcher speaks no PMI that MPI understands."""
    arguments = ["stage", "dedup", "--input", inputs[0], "--output", tmp_path / "x.parquet"]
    command = [sys.executable, "-m", "toolkit", *map(str, arguments)]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
    ranks = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=clean() | step | {"SLURM_PROCID": str(rank)})
        for rank in range(2)
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=240)
        assert rank.returncode == 2
        assert "Found an MPI world of 1 where the launcher started 2 processes" in said
        assert "srun --mpi=pmi2" in said
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.parametrize(
    ("env", "processes"),
    [
        ({}, 1),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 1),  # a batch script
        ({"SLURM_STEP_NUM_TASKS": "4"}, 4),
        ({"PMI_SIZE": "3", "SLURM_STEP_NUM_TASKS": "2"}, 3),  # mpiexec within a Slurm job
        ({"OMPI_COMM_WORLD_SIZE": "5"}, 5),
        ({"PMI_SIZE": ""}, 1),
    ],
)
def test_the_launcher_is_known_by_its_environment(monkeypatch, env, processes):
    for name in mpi.SIZES:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert mpi.launched() == processes
    if processes == 1:
        assert mpi.world() is mpi.alone()


def test_a_world_of_one_needs_no_mpi(inputs, tmp_path):
    code = (
        "import sys; from pathlib import Path; from toolkit.run import mpi; from toolkit.run.plain import run_stage;"
        "from toolkit.config.config import check;"
        "c = check({'input': {'kind': 'table', 'paths': ['-']}}, 'test');"
        f"run_stage('dedup', [Path({str(inputs[0])!r})], Path({str(tmp_path / 'x.parquet')!r}), c, mpi.world());"
        "print('mpi4py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean(), check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("shape", [(0, 3), (7, 3), (1, 5)])
def test_messages_are_views_of_bounded_size(shape):
    array = np.zeros(shape, np.float16)
    parts = mpi.messages(array, size=10)
    assert sum(len(part) for part in parts) == array.nbytes
    assert all(len(part) <= 10 for part in parts)
    for part in parts:
        part[:] = 1
    assert array.view(np.uint8).all()
    if shape[0] > 1:
        with pytest.raises(ValueError, match="contiguous"):
            mpi.messages(array[:, ::2])


def test_a_guard_in_a_world_of_one_lets_everything_through():
    with pytest.raises(UserError, match="as it was"), mpi.guard(mpi.alone()):
        raise UserError("as it was")
