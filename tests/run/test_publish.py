"""Publishing: one winner, no mixture, nothing finished is lost, whatever comes second or comes late."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from toolkit.data.stage import Output
from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import files
from toolkit.run.layout import Layout
from toolkit.run.ledger import Ledger, Mark, check_output, forward, publish, read_mark

STAGE = BY_NAME["fetch"]
NAMES = ("000/000012.parquet", "000/000012.tar")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def attempt(layout: Layout, text: str) -> tuple[Path, Mark]:
    """Make an attempt whose two files hold `text`, as a task does before it publishes."""
    folder = files.make(layout.attempt(STAGE, 12, files.token()))
    outputs = []
    for name in NAMES:
        path = folder / Path(name).name
        files.write(path, text.encode())
        outputs.append(Output(path=name, bytes=len(text), digest=files.digest(path), rows=None))
    mark = Mark(
        stage=STAGE.folder, unit=12, version=1, outputs=outputs, inputs={}, rows_in=1, rows_out=1, facts={"of": text}
    )
    return folder, mark


def published(layout: Layout) -> set[str]:
    return {layout.file(STAGE, name).read_text() for name in NAMES}


def test_what_is_published_is_the_attempt_and_its_mark(layout: Layout) -> None:
    publish(layout, STAGE, *attempt(layout, "one"))
    assert published(layout) == {"one"}
    entry = Ledger(layout).entry(STAGE, 12)
    assert entry is not None
    assert [check_output(layout, STAGE, o).name for o in entry.mark.outputs] == ["000012.parquet", "000012.tar"]
    assert list(layout.work(STAGE).iterdir()) == []


def test_the_second_attempt_discards_its_own(layout: Layout) -> None:
    first, second = attempt(layout, "one"), attempt(layout, "two")
    publish(layout, STAGE, *first)
    publish(layout, STAGE, *second)
    assert published(layout) == {"one"}


@pytest.mark.parametrize("linked", [0, 1, 2])
def test_an_attempt_that_died_while_it_published_is_carried_forward(layout: Layout, linked: int) -> None:
    """The first attempt took the name `winner`, linked some of its files and was killed."""
    folder, mark = attempt(layout, "one")
    files.write(folder / "mark.json", msgspec.json.encode(mark))
    files.write(layout.winner(STAGE, 12), folder.name.encode())
    for name in NAMES[:linked]:
        files.make(layout.file(STAGE, name).parent)
        files.link(folder / Path(name).name, layout.file(STAGE, name))
    publish(layout, STAGE, *attempt(layout, "two"))
    assert published(layout) == {"one"}
    mark_on_disk = read_mark(layout.mark(STAGE, 12))
    assert mark_on_disk is not None
    assert mark_on_disk.facts == {"of": "one"}


def test_files_without_mark_or_winner_are_replaced(layout: Layout) -> None:
    """Left-overs of a unit that was taken back: their mark is gone, so they count for nothing."""
    for name in NAMES:
        files.make(layout.file(STAGE, name).parent)
        files.write(layout.file(STAGE, name), b"old")
    publish(layout, STAGE, *attempt(layout, "new"))
    assert published(layout) == {"new"}


def test_a_winner_that_comes_after_the_mark_changes_nothing(layout: Layout) -> None:
    """A node that was thought dead goes on: it had seen no mark, and takes the name after all is done."""
    late, mark = attempt(layout, "late")
    publish(layout, STAGE, *attempt(layout, "one"))
    files.make(late)
    files.write(late / "mark.json", msgspec.json.encode(mark))
    files.write(layout.winner(STAGE, 12), late.name.encode())
    forward(layout, STAGE, 12)
    assert published(layout) == {"one"}
    assert not layout.winner(STAGE, 12).exists()


def test_a_damaged_mark_counts_as_none(layout: Layout) -> None:
    publish(layout, STAGE, *attempt(layout, "one"))
    path = layout.mark(STAGE, 12)
    path.write_bytes(path.read_bytes()[:-20])
    assert Ledger(layout).entry(STAGE, 12) is None


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_file_that_is_not_that_of_its_mark_is_named(layout: Layout, harm: str) -> None:
    publish(layout, STAGE, *attempt(layout, "one"))
    path = layout.file(STAGE, NAMES[1])
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(b"onE" if harm == "flip" else b"on")
    entry = Ledger(layout).entry(STAGE, 12)
    assert entry is not None
    with pytest.raises(WorkError, match=r"30_fetch/data/000/000012.tar is (damaged|missing)"):
        check_output(layout, STAGE, entry.mark.outputs[1])


def test_link_tells_a_taken_name_from_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        files.write(tmp_path / name, name.encode())
    assert files.link(tmp_path / "a", tmp_path / "t")
    assert files.link(tmp_path / "a", tmp_path / "t")  # it happened before: NFS reports such links as failed
    assert not files.link(tmp_path / "b", tmp_path / "t")
    assert (tmp_path / "t").read_text() == "a"


def test_create_never_opens_an_existing_file(tmp_path: Path) -> None:
    files.write(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "a")


def test_a_winner_without_a_mark_is_debris(layout: Layout) -> None:
    """A kill inside the sweep may leave the winner's folder without its mark: publishing must not wait for it."""
    files.make(layout.attempt(STAGE, 12, "gone"))
    files.write(layout.winner(STAGE, 12), b"000012.gone")
    publish(layout, STAGE, *attempt(layout, "one"))
    assert published(layout) == {"one"}


def test_a_mark_is_never_linked_before_its_files(layout: Layout) -> None:
    folder, mark = attempt(layout, "one")
    (folder / "000012.tar").unlink()
    with pytest.raises(WorkError, match="could not be published whole"):
        publish(layout, STAGE, folder, mark)
    assert not layout.mark(STAGE, 12).exists()


def test_retracting_spares_what_somebody_finished_meanwhile(layout: Layout) -> None:
    publish(layout, STAGE, *attempt(layout, "old"))
    ledger = Ledger(layout)
    assert ledger.entries(STAGE)[12].mark.facts == {"of": "old"}
    Ledger(layout).retract(STAGE, 12)
    publish(layout, STAGE, *attempt(layout, "new"))
    ledger.retract(STAGE, 12)
    assert published(layout) == {"new"}
    assert layout.mark(STAGE, 12).exists()


def test_a_damaged_fold_is_no_loss(layout: Layout) -> None:
    publish(layout, STAGE, *attempt(layout, "one"))
    Ledger(layout).fold(STAGE)
    path = layout.folded(STAGE)
    path.write_bytes(path.read_bytes()[:-9])
    assert list(Ledger(layout).entries(STAGE)) == [12]


def test_the_digest_of_a_mark_says_what_it_gives_to_others(layout: Layout) -> None:
    _, mark = attempt(layout, "one")

    for change in ({"facts": {"host": "other"}}, {"version": 2}, {"inputs": {"text": "x"}}):
        assert msgspec.structs.replace(mark, **change).digest == mark.digest
    for change in ({"rows_in": 2}, {"drops": {"fetch.dns": 1}}, {"outputs": mark.outputs[:1]}, {"damages": 1}):
        assert msgspec.structs.replace(mark, **change).digest != mark.digest


def test_folding_keeps_every_mark_and_a_retracted_unit_unfolds(layout: Layout) -> None:
    publish(layout, STAGE, *attempt(layout, "one"))
    ledger = Ledger(layout)
    before = ledger.entries(STAGE)[12].digest
    ledger.fold(STAGE)
    layout.mark(STAGE, 12).rename(layout.mark(STAGE, 12).with_suffix(".away"))
    folded = Ledger(layout)
    assert folded.entries(STAGE)[12].digest == before
    assert folded.entries(STAGE)[12].mark.digest == before
    folded.retract(STAGE, 12)
    assert Ledger(layout).entries(STAGE) == {}
    assert not layout.file(STAGE, NAMES[0]).exists()
