from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolkit.config.config import check
from toolkit.data import features
from toolkit.data.ids import column
from toolkit.dedup import stage as module
from toolkit.dedup.living import living, windows
from toolkit.errors import UserError, WorkError
from toolkit.run.plain import run_stage


def write(path: Path, rows: np.ndarray, ids: np.ndarray) -> Path:
    sink = io.BytesIO()
    features.write(sink, ids=ids, image=[rows], dim=rows.shape[1])
    path.write_bytes(sink.getvalue())
    return path


def run(stage: str, inputs: list[Path], **dedup: object) -> tuple[list[dict], dict[str, int]]:
    config = check({"input": {"kind": "table", "paths": ["-"]}, "dedup": dedup}, "test")
    output = inputs[0].parent / f"{stage}.parquet"
    task = run_stage(stage, inputs, output, config)
    found = pq.read_table(output).to_pylist()
    output.unlink()
    return found, dict(task.books.drops)


@pytest.fixture
def three(tmp_path, made):
    """Two files and an empty one: sets {0, 2, 5} and {1, 4}, row 3 alone, row 6 zero; ids descend."""
    rng = np.random.default_rng(11)
    base = made.scattered(rng, 3, 32).astype(np.float64)
    rows = made.unit(base[[0, 1, 0, 2, 1, 0, 0]] + 0.03 * rng.standard_normal((7, 32)))
    rows[6] = 0
    ids = np.zeros((7, 16), dtype=np.uint8)
    ids[:, 0] = np.arange(70, 0, -10)
    paths = [
        write(tmp_path / "a.h5", rows[:3], ids[:3]),
        write(tmp_path / "b.h5", rows[:0], ids[:0]),
        write(tmp_path / "c.h5", rows[3:], ids[3:]),
    ]
    return paths, column(ids).to_pylist()


@pytest.mark.parametrize(("stage", "step"), [("dedup", "dedup.batch"), ("merge", "merge.global")])
def test_one_row_of_each_set_stays_over_all_inputs(three, stage, step):
    paths, ids = three
    found, drops = run(stage, paths, keep="first")
    assert [row["id"] for row in found] == ids
    assert [row["set"] for row in found] == [ids[i] for i in (5, 4, 5, 3, 4, 5, 6)]
    assert [row["size"] for row in found] == [3, 2, 3, 1, 2, 3, 1]
    assert [row["dropped"] for row in found] == [step, step, step, None, None, None, "embed.invalid"]
    assert drops == {step: 3, "embed.invalid": 1}
    assert [row["distance"] > 0 for row in found] == [True, True, True, False, True, True, False]


def test_the_nearest_to_the_centroid_stays(three):
    found, _ = run("dedup", three[0])
    trio = [found[i] for i in (0, 2, 5)]
    assert [row["id"] for row in trio if row["dropped"] is None] == [min(trio, key=lambda r: r["distance"])["id"]]


@pytest.mark.parametrize(("stage", "scope"), [("dedup", "global"), ("merge", "batch")])
def test_a_scope_that_is_not_run_leaves_every_pair_alone(three, stage, scope):
    paths, ids = three
    found, drops = run(stage, paths, scope=scope)
    alone = [{"id": i, "set": i, "size": 1, "distance": 0.0, "dropped": None} for i in ids]
    assert found == alone
    assert drops == {}


@pytest.fixture
def measured(tmp_path):
    """Write a table of what an earlier stage measured of the seven pairs."""

    def make(ids: list[str], **columns: list) -> Path:
        pq.write_table(pa.table({"id": ids, **columns}), tmp_path / "measured.parquet")
        return tmp_path / "measured.parquet"

    return make


@pytest.mark.parametrize(
    ("best", "values", "survivors"),
    [
        ("sharpness", [1.0, 5.0, 3.0, 1.0, 6.0, 2.0, 9.0], [2, 4, 2, 3, 4, 2, 6]),
        ("-sharpness", [1.0, 5.0, 3.0, 1.0, 6.0, 2.0, 9.0], [0, 1, 0, 3, 1, 0, 6]),
        ("bytes", [4, 5, 4, 1, 5, 4, 9], [5, 4, 5, 3, 4, 5, 6]),  # ties go to the smallest id
        ("-width", [None, 5, 7, None, None, 8, 1], [2, 1, 2, 3, 1, 2, 6]),  # no value loses
        ("height", [None] * 7, [5, 4, 5, 3, 4, 5, 6]),
    ],
)
@pytest.mark.parametrize(("stage", "ranks"), [("dedup", 1), ("dedup", 3), ("merge", 7)])
def test_the_best_by_a_column_stays(three, by_ranks, measured, tmp_path, best, values, survivors, stage, ranks):
    paths, ids = three
    table = measured(ids[::-1], **{best.removeprefix("-"): values[::-1]})
    by_ranks(stage, [*paths, table], ranks, keep="best", best=best)
    assert pq.read_table(tmp_path / f"{stage}-{ranks}.parquet")["set"].to_pylist() == [ids[i] for i in survivors]


def test_what_align_measures_decides_in_merge_alone(three, measured):
    paths, ids = three
    inputs = [*paths, measured(ids, cosine=[0.3, 0.2, 0.2, 0.3, 0.1, 0.2, 0.3])]
    by_centroid, _ = run("dedup", paths)
    assert run("dedup", inputs, keep="best", best="cosine")[0] == by_centroid
    found, _ = run("merge", inputs, keep="best", best="cosine")
    assert [row["set"] for row in found] == [ids[i] for i in (0, 1, 0, 3, 1, 0, 6)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_column_that_no_input_has_is_asked_for(three, by_ranks, ranks):
    with pytest.raises(UserError, match=r"needs the column sharpness; the inputs have id\. Give the table"):
        by_ranks("dedup", three[0], ranks, keep="best", best="sharpness")


@pytest.mark.parametrize(("stage", "step"), [("dedup", "dedup.batch"), ("merge", "merge.global")])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_rows_without_direction_are_counted_and_named_whoever_holds_them(ring, tmp_path, made, stage, step, ranks):
    rows = made.scattered(np.random.default_rng(15), 3, 16)[[0, 1, 0, 2, 1, 0, 0, 1]]
    rows[1], rows[3, 4], rows[6, 0] = 0, np.nan, np.inf
    ids = made.some_ids(np.random.default_rng(16), 8)
    paths = [write(tmp_path / f"{at}.h5", rows[at : at + 2], ids[at : at + 2]) for at in (0, 2, 4, 6)]
    config = check({"input": {"kind": "table", "paths": ["-"]}}, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "block_rows", lambda rows: 1)
        output = tmp_path / "found.parquet"
        tasks = ring.together(ranks, lambda world: run_stage(stage, paths, output, config, world))
    found = pq.read_table(output)
    names = column(ids).to_pylist()
    assert found["id"].to_pylist() == names
    assert [i for i, why in enumerate(found["dropped"].to_pylist()) if why == "embed.invalid"] == [1, 3, 6]
    assert [found["set"][i].as_py() for i in (1, 3, 6)] == [names[i] for i in (1, 3, 6)]
    assert found["size"].to_pylist() == [3, 1, 3, 1, 2, 3, 1, 2]
    assert dict(tasks[0].books.drops) == {step: 3, "embed.invalid": 3}


@pytest.fixture
def by_ranks(ring, tmp_path, monkeypatch):
    """Run a stage by several ranks, with blocks of two rows; return the bytes of its table."""
    monkeypatch.setattr(module, "block_rows", lambda rows: 2)

    def work(stage: str, inputs: list[Path], ranks: int, **dedup: object) -> bytes:
        config = check({"input": {"kind": "table", "paths": ["-"]}, "dedup": dedup}, "test")
        output = tmp_path / f"{stage}-{ranks}.parquet"
        ring.together(ranks, lambda world: run_stage(stage, inputs, output, config, world))
        return output.read_bytes()

    return work


@pytest.mark.parametrize("options", [{}, {"keep": "first"}, {"scope": "global"}, {"distance": 1e-9}])
def test_any_number_of_ranks_writes_the_same_bytes(three, by_ranks, options):
    assert len({by_ranks("dedup", three[0], ranks, **options) for ranks in (1, 2, 3, 4, 7)}) == 1


@pytest.mark.parametrize("dim", [1, 8])
def test_files_without_rows_make_a_table_without_rows(by_ranks, tmp_path, dim):
    paths = [write(tmp_path / f"{i}.h5", np.empty((0, dim), np.float16), np.empty((0, 16), np.uint8)) for i in (1, 2)]
    assert len({by_ranks("merge", paths, ranks) for ranks in (1, 2, 3)}) == 1
    assert pq.read_table(tmp_path / "merge-1.parquet").num_rows == 0


def test_features_of_two_encoders_on_two_ranks_are_refused(by_ranks, tmp_path, made):
    rng = np.random.default_rng(12)
    paths = [write(tmp_path / f"{dim}.h5", made.scattered(rng, 2, dim), made.some_ids(rng, 2)) for dim in (8, 16)]
    with pytest.raises(UserError, match=r"/16.h5 have the dim 16, those of .*/8.h5 8;"):
        by_ranks("dedup", paths, 2)


def test_features_of_two_encoders_are_refused(tmp_path, made):
    rng = np.random.default_rng(12)
    ids = made.some_ids(rng, 2)
    paths = [write(tmp_path / f"{dim}.h5", made.scattered(rng, 2, dim), ids) for dim in (8, 16)]
    with pytest.raises(UserError, match=r"/16.h5 have the dim 16, those of .*/8.h5 8;"):
        run("dedup", paths)


def test_living_rows_are_found_in_order(made):
    stored = made.some_ids(np.random.default_rng(13), 50)
    stored[:, 8:] = 0  # ids that end in zeros
    assert living(stored, stored[[3, 4, 20, 49]], 0).tolist() == [3, 4, 20, 49]
    assert living(stored, stored, 0).tolist() == list(range(50))
    assert living(stored, stored[:0], 0).tolist() == []


@pytest.mark.parametrize("change", [lambda ids: ids[::-1], lambda ids: ids ^ 1])
def test_features_of_another_run_are_refused(made, change):
    stored = made.some_ids(np.random.default_rng(14), 5)
    with pytest.raises(WorkError, match=r"shard 7.*not of one run"):
        living(stored, change(stored[1:4]), 7)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_windows_read_only_what_is_wanted(size):
    numbers = np.array([0, 1, 9, 40, 41])
    seen = [start + row for start, _, wanted in windows(numbers, size) for row in wanted.tolist()]
    assert seen == numbers.tolist()
    assert all(stop <= 42 and stop - start <= size for start, stop, _ in windows(numbers, size))


def test_windows_leave_out_what_is_far_from_all():
    found = [(start, stop, wanted.tolist()) for start, stop, wanted in windows(np.array([3, 5, 700, 956, 9000]))]
    assert found == [(3, 6, [0, 2]), (700, 957, [0, 256]), (9000, 9001, [0])]
    assert list(windows(np.arange(0))) == []
