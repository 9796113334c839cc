"""Checkpoints: a part is there wholly or not at all, and only for the inputs that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from toolkit.errors import WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import files
from toolkit.run.layout import Layout
from toolkit.run.parts import Part, Parts

STAGE = BY_NAME["fetch"]


def parts(folder: Path, token: str = "1-a", inputs: str = "x") -> Parts:
    return Parts(Layout(folder), STAGE, 7, {"text": inputs}, token)


def writes(text: bytes) -> Callable[[Callable[[str], IO[bytes]]], None]:
    def write(create: Callable[[str], IO[bytes]]) -> None:
        create(".tar").write(text)
        create(".arrow").write(text * 2)

    return write


def test_saved_parts_are_found_by_a_later_attempt(tmp_path: Path) -> None:
    first = parts(tmp_path)
    first.save(3, writes(b"three"))
    first.save(0, writes(b"zero"))
    later = parts(tmp_path, "2-b")
    assert list(later.parts()) == [0, 3]
    assert later.load(3, ".tar").read() == b"three"
    assert later.load(0, ".arrow").read() == b"zerozero"


def test_the_first_of_two_attempts_wins_a_part_whole(tmp_path: Path) -> None:
    one, two = parts(tmp_path, "1-a"), parts(tmp_path, "2-b")

    def slow(create: Callable[[str], IO[bytes]]) -> None:
        writes(b"late")(create)
        one.save(0, writes(b"early"))  # meanwhile the other attempt finishes the same part

    two.save(0, slow)
    assert two.load(0, ".tar").read() == b"early"
    assert two.load(0, ".arrow").read() == b"earlyearly"


def test_parts_that_are_added_all_count(tmp_path: Path) -> None:
    one, two = parts(tmp_path, "1-a"), parts(tmp_path, "2-b")

    def slow(create: Callable[[str], IO[bytes]]) -> None:
        writes(b"late")(create)
        one.add(writes(b"early"))  # meanwhile the other attempt adds one, and then another
        one.add(writes(b"next"))

    two.add(slow)
    two.add(writes(b"last"))
    later = parts(tmp_path, "3-c")
    assert [later.load(part, ".tar").read() for part in later.parts()] == [b"early", b"next", b"late", b"last"]
    assert list(later.parts()) == [0, 1, 2, 3]


def test_a_part_that_is_finished_while_another_attempt_sweeps_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where who finished it is dead when it is asked."""
    parts(tmp_path, "1-a").add(writes(b"one"))
    other, load = parts(tmp_path, "2-b"), Parts._load

    def late(self: Parts, part: int) -> Part:
        monkeypatch.setattr(Parts, "_load", load)
        other.add(writes(b"other"))
        return load(self, part)

    monkeypatch.setattr(Parts, "_load", late)
    monkeypatch.setattr(files, "dead", lambda token: token == "2-b")
    later = parts(tmp_path, "3-c")
    assert [later.load(part, ".tar").read() for part in later.parts()] == [b"one", b"other"]


def test_parts_made_of_other_inputs_are_not_found(tmp_path: Path) -> None:
    parts(tmp_path, inputs="x").save(0, writes(b"old"))
    assert list(parts(tmp_path, inputs="y").parts()) == []


def test_a_part_whose_writing_failed_leaves_nothing(tmp_path: Path) -> None:
    def fail(create: Callable[[str], IO[bytes]]) -> None:
        writes(b"half")(create)
        raise OSError("no space left")

    ours = parts(tmp_path)
    with pytest.raises(OSError, match="no space"):
        ours.save(0, fail)
    assert list(ours.parts()) == []
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_damaged_part_is_never_loaded(tmp_path: Path) -> None:
    ours = parts(tmp_path)
    ours.save(0, writes(b"good"))
    next(tmp_path.rglob("*.tar")).write_bytes(b"bad!")
    with pytest.raises(WorkError, match="is damaged"):
        ours.load(0, ".tar")


def test_a_flipped_bit_in_a_record_is_damage_or_nothing(tmp_path: Path) -> None:
    """Every single bit: the part is refused, or what was saved is found all the same."""
    ours = parts(tmp_path)
    ours.save(0, writes(b"good"))
    (record,) = tmp_path.rglob("000000.json")
    good, refused = record.read_bytes(), 0
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        record.write_bytes(data)
        try:
            assert ours.load(0, ".tar").read() == b"good"
        except WorkError as error:
            assert "is damaged; remove its folder" in str(error)
            refused += 1
    assert refused > 4 * len(good)
