"""The join by inverted lists over real MPI ranks."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from toolkit.config.config import check
from toolkit.run.plain import run_stage

pytest.importorskip("faiss")


def test_two_ranks_find_sets_of_the_exact_join_and_the_same_ones_again(launch, inputs, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("dedup: {backend: faiss, keep: first}\n")

    def found(name: str) -> Path:
        command = ["stage", "dedup", "--input", tmp_path / "*.h5", "--output", tmp_path / name, "--config", config]
        done = launch(2, "-m", "toolkit", *command, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("recall of dedup: 0.99") + done.stdout.count("recall of dedup: 1.0") == 1
        return tmp_path / name

    one, two = found("one.parquet"), found("two.parquet")
    assert one.read_bytes() == two.read_bytes()

    exact = check({"input": {"kind": "table", "paths": ["-"]}, "dedup": {"keep": "first"}}, "test")
    run_stage("dedup", inputs, tmp_path / "exact.parquet", exact)
    rows = pq.read_table(one).to_pylist()
    whole = pq.read_table(tmp_path / "exact.parquet").to_pylist()
    of = {row["id"]: row["set"] for row in whole}
    assert all(of[row["id"]] == of[row["set"]] for row in rows)  # no edge is invented
    missed = sum(row["dropped"] != other["dropped"] for row, other in zip(rows, whole, strict=True))
    assert missed < 0.01 * sum(row["dropped"] is not None for row in whole)
