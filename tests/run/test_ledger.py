"""What is judged for all units at once is what a plain reading of each mark says, folded or not; a fold is no risk."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.config import load
from toolkit.config.config import canonical
from toolkit.data.stage import Kind, Output, Stage
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.report.status import status
from toolkit.run.layout import relative
from toolkit.run.ledger import Ledger, Mark
from toolkit.run.run import Run, create, open_run


@contextmanager
def folder_of(shards: int, **options: Any) -> Iterator[Run]:
    """A run folder of so many shards in which nothing is done."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(shards):
            (folder / f"{number}.csv").write_text("url,text\n")
        config = {
            "run_dir": str(folder / "run"),
            "input": {"kind": "table", "paths": [f"{folder}/*.csv"], "files_per_shard": 1},
        }
        (folder / "c.yaml").write_text(json.dumps(config | options))
        made = create(load(str(folder / "c.yaml")))
        assert made.lock is not None
        yield made


def mark(stage: Stage, unit: int, inputs: dict[str, str], rows: int = 10) -> Mark:
    output = Output(path=relative(unit, ".parquet"), bytes=rows, digest="0" * 64, rows=rows)
    return Mark(
        stage=stage.folder,
        unit=unit,
        version=stage.version,
        outputs=[output],
        inputs=inputs,
        rows_in=rows,
        rows_out=rows - 1,
        living=hashlib.blake2b(b"%d" % rows, digest_size=16).hexdigest() if stage.name == "text" else "",
        drops=dict.fromkeys(stage.steps[:1], 1),
        facts={"seconds": 0.5},
    )


def write(run: Run, stage: Stage, unit: int, text: bytes) -> None:
    path = run.layout.mark(stage, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def finish(run: Run) -> None:
    """Leave the marks of a finished run."""
    for stage in run.stages:
        for unit in range(run.all_units(stage)):
            inputs = run.input_digests(stage, unit)
            assert inputs is not None
            write(run, stage, unit, msgspec.json.encode(mark(stage, unit, inputs)))
            run.add(stage, unit)
        assert run.complete(stage)


class Plain:
    """The definition: a mark is valid if its version is the stage's and its inputs are the valid marks before it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.valid = functools.cache(self.judge)

    def read(self, stage: Stage, unit: int) -> Mark | None:
        try:
            found = msgspec.json.decode(self.run.layout.mark(stage, unit).read_bytes(), type=Mark)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found if found.unit == unit else None

    def judge(self, stage: Stage, unit: int) -> Mark | None:
        found, inputs = self.read(stage, unit), self.inputs(stage, unit)
        fits = found is not None and found.version == stage.version and found.inputs == inputs
        return found if fits else None

    def inputs(self, stage: Stage, unit: int) -> dict[str, str] | None:
        if self.run.closing(stage, unit):
            needed = {stage.name: self.all(stage, list(range(self.run.units(stage))))}
        else:
            names = [name for name in stage.after if BY_NAME[name] in self.run.stages]
            needed = {name: self.needed(stage, unit, BY_NAME[name]) for name in names}
        return None if None in needed.values() else needed  # type: ignore[return-value]

    def needed(self, stage: Stage, unit: int, earlier: Stage) -> str | None:
        if stage.name == "dedup":
            return self.all(earlier, [s for s in range(self.run.shards) if self.run.batch(s) == unit])
        if stage.kind is not Kind.MAP or earlier.kind is Kind.REDUCE:
            return self.all(earlier, list(range(self.run.units(earlier))))
        found = self.valid(earlier, {"dedup": self.run.batch(unit), "merge": 0}.get(earlier.name, unit))
        if found is None:
            return None
        return found.living or found.digest if stage.rows_only else found.digest

    def all(self, stage: Stage, units: list[int]) -> str | None:
        there = {u: m.digest for u in units if (m := self.valid(stage, u))}
        if len(there) < len(units) and not (there and self.run.config.allow_missing and stage.kind is Kind.MAP):
            return None
        lines = "".join(f"{unit} {digest}\n" for unit, digest in sorted(there.items()))
        return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()


@st.composite
def harms(draw: st.DrawFn) -> tuple[str, str, int, str]:
    """What happens to one mark of a finished run: the kind of harm, stage, unit (modulo), and another stage."""
    kinds = ("gone", "torn", "version", "rows", "living", "input", "no input", "more input", "odd input", "other's")
    names = [name for name in BY_NAME if name != "align"]
    where = st.sampled_from(names)
    return draw(st.sampled_from(kinds)), draw(where), draw(st.integers(0, 9)), draw(where)


def harm(run: Run, what: str, stage: Stage, number: int, other: str) -> None:
    unit = number % run.all_units(stage)
    path = run.layout.mark(stage, unit)
    if what == "gone" or not path.exists():
        path.unlink(missing_ok=True)
        return
    if what == "torn":
        path.write_bytes(path.read_bytes()[:30])
        return
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return
    changes: dict[str, Any] = {
        "version": {"version": 0},
        "rows": {"rows_in": number},
        "living": {"living": hashlib.blake2b(b"?", digest_size=16).hexdigest() if number % 2 else ""},
        "input": {"inputs": tree["inputs"] | dict.fromkeys(list(tree["inputs"])[:1], "f" * 32)},
        "no input": {"inputs": {k: v for k, v in tree["inputs"].items() if k != other}},
        "more input": {"inputs": {other: "0" * 32} | tree["inputs"]},
        "odd input": {"inputs": tree["inputs"] | {other: "" if number % 2 else "x"}},
        "other's": {"unit": unit + 1},
    }
    path.write_text(json.dumps(tree | changes[what]))


@functools.cache
def template(shards: int, batches: int) -> tempfile.TemporaryDirectory[str]:
    """A finished run, to be copied; the folder goes when this process ends."""
    kept = tempfile.TemporaryDirectory()
    with folder_of(shards, batches=batches, align=None) as made:
        finish(made)
        shutil.copytree(made.layout.root, Path(kept.name) / "run")
    return kept


@contextmanager
def copied(shards: int, batches: int, allow_missing: bool) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(shutil.copytree(Path(template(shards, batches).name) / "run", Path(name) / "run"))
        head = root / "run.yaml"
        head.write_text(
            head.read_text().replace("allow_missing: false", f"allow_missing: {str(allow_missing).lower()}")
        )
        assert open_run(root).config.allow_missing == allow_missing
        yield root


@settings(max_examples=60)
@given(
    shards=st.integers(1, 4),
    batches=st.integers(1, 3),
    allow_missing=st.booleans(),
    done=st.lists(harms(), min_size=1, max_size=5),
    folded=st.sets(st.sampled_from(sorted(BY_NAME))),
    first=st.booleans(),
)
def test_all_units_at_once_are_judged_as_one_by_one(
    shards: int, batches: int, allow_missing: bool, done: list[tuple[str, str, int, str]], folded: set[str], first: bool
) -> None:
    with copied(shards, min(batches, shards), allow_missing) as root:
        made = open_run(root)
        for what, name, number, other in done:
            harm(made, what, BY_NAME[name], number, other)
        for stage in made.stages:
            if stage.name in folded:
                Ledger(made.layout).fold(stage)
        plain, whole, single = Plain(made), open_run(root), open_run(root)
        for stage in reversed(made.stages) if first else made.stages:
            units = range(made.all_units(stage))
            expected = {u: m.digest for u in units if (m := plain.valid(stage, u))}
            assert {u: e.digest for u, e in whole.marks(stage).items()} == expected
            assert {u: e.mark.digest for u, e in whole.marks(stage).items()} == expected
            assert {u: e.digest for u in units if (e := single.valid(stage, u))} == expected
            for unit in units:
                inputs = plain.inputs(stage, unit)
                assert whole.input_digests(stage, unit) == single.input_digests(stage, unit) == inputs
            assert whole.complete(stage) == (len(expected) == len(units))
        told = {s["stage"]: s for s in status(open_run(root))["stages"]}
        for stage in made.stages:
            marks = [m for u in range(made.all_units(stage)) if (m := plain.valid(stage, u))]
            assert told[stage.name]["done"] == len(marks)
            assert told[stage.name]["rows_in"] == sum(m.rows_in for m in marks)
            assert told[stage.name]["bytes"] == sum(o.bytes for m in marks for o in m.outputs)
            assert told[stage.name]["seconds"] == 0.5 * len(marks)


@pytest.fixture
def finished() -> Iterator[Run]:
    with folder_of(3, batches=2, align=None) as made:
        finish(made)
        yield made


def folds(run: Run) -> None:
    for stage in run.stages:
        run.ledger.fold(stage)


def test_what_changes_after_the_judgement_is_judged_anew(finished: Run) -> None:
    text, image = BY_NAME["text"], BY_NAME["image"]
    folds(finished)
    run = open_run(finished.layout.root)
    assert all(run.complete(stage) for stage in run.stages)
    run.retract(text, 1)
    assert list(run.marks(text)) == [0, 2]
    assert run.valid(image, 1) is None
    assert not run.layout.folded(text).exists()
    inputs = run.input_digests(text, 1)
    assert inputs is not None
    write(run, text, 1, msgspec.json.encode(mark(text, 1, inputs)))
    run.add(text, 1)
    assert all(run.complete(stage) for stage in run.stages)


def test_units_come_and_go_without_the_whole_stage_being_read_again(finished: Run) -> None:
    stage = BY_NAME["image"]
    ledger = finished.ledger
    before = {u: e.digest for u, e in ledger.entries(stage).items()}
    path = finished.layout.mark(stage, 1)
    away = path.rename(path.with_suffix(".away"))
    ledger.add(stage, 1)
    assert list(ledger.entries(stage)) == [0, 2]
    away.rename(path)
    ledger.add(stage, 1)
    assert {u: e.digest for u, e in ledger.entries(stage).items()} == before


def test_an_older_toolkits_fold_counts_as_none(finished: Run) -> None:
    stage = BY_NAME["text"]
    old = pa.table({"unit": pa.array([0], pa.int32()), "digest": ["0" * 32], "mark": ["{}"]})
    pq.write_table(old, finished.layout.folded(stage))
    run = open_run(finished.layout.root)
    assert run.complete(stage)
    run.ledger.fold(stage)
    assert open_run(finished.layout.root).complete(stage)
    assert "stamp" in pq.read_schema(finished.layout.folded(stage)).names


def test_a_mark_is_read_from_the_fold_and_where_that_is_torn_from_its_own_file(finished: Run) -> None:
    stage = BY_NAME["text"]
    expected = {u: e.mark for u, e in finished.marks(stage).items()}
    finished.ledger.fold(stage)
    fold, done = finished.layout.folded(stage), finished.layout.stage(stage) / "done"
    done.rename(done.with_name("away"))
    run = open_run(finished.layout.root)
    assert {u: e.mark for u, e in run.ledger.entries(stage).items()} == expected
    run.ledger.forget()
    entries = run.ledger.entries(stage)
    data = bytearray(fold.read_bytes())
    data[len(data) // 2 :] = b"?" * len(data[len(data) // 2 :])
    fold.write_bytes(data)
    with pytest.raises(WorkError, match=r"000001.json is gone or damaged"):
        entries[1].mark  # noqa: B018
    done.with_name("away").rename(done)
    assert {u: e.mark for u, e in entries.items()} == expected


def test_marks_that_change_while_they_are_folded_are_not_folded(finished: Run) -> None:
    stage = BY_NAME["text"]
    finished.ledger.entries(stage)
    path = finished.layout.mark(stage, 2)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"version": 0}))
    finished.ledger.fold(stage)
    assert not finished.layout.folded(stage).exists()


def test_strange_files_beside_the_marks_are_no_marks(finished: Run) -> None:
    stage = BY_NAME["text"]
    done = finished.layout.stage(stage) / "done"
    for name in ("000/000001.json~", "000/x.json", "000/1.json", "000/²²²²²².json", "note.json"):
        (done / name).write_bytes((done / "000/000001.json").read_bytes())
    shutil.copytree(done / "000", done / "old")
    assert sorted(open_run(finished.layout.root).ledger.entries(stage)) == [0, 1, 2]


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**63)))
def test_the_digest_of_a_mark_is_that_of_its_canonical_json(tallies: dict[str, int]) -> None:
    made = msgspec.structs.replace(mark(BY_NAME["source"], 1, {}), tallies=tallies)
    tree = msgspec.to_builtins(made)
    for name in ("facts", "damage", "inputs", "version"):
        del tree[name]
    assert made.digest == hashlib.blake2b(canonical(tree), digest_size=16).hexdigest()


@given(st.integers(1, 300), st.integers(1, 40))
def test_batches_are_runs_of_shards(shards: int, batches: int) -> None:
    class Config:
        pass

    config = Config()
    config.batches = batches  # type: ignore[attr-defined]
    run = Run(None, config, "", shards)  # type: ignore[arg-type]
    for batch in range(batches):
        assert list(run.batch_shards(batch)) == [s for s in range(shards) if run.batch(s) == batch]
