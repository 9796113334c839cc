"""The configuration: what is refused, with which words, and what the digest covers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from toolkit.config import load, resolve
from toolkit.config.config import InputFile, check, digest
from toolkit.config.embed import BEFORE_DEDUP, BY_ALIGN
from toolkit.data.pair import owner, schema
from toolkit.errors import UserError

NUMBERS = {pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()}
SMALL = "run_dir: r\ninput: {kind: wat, paths: ['*.gz'], files_per_shard: 1}\n"


def write(folder: Path, text: str, name: str = "c.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL + "dedup: {distanse: 0.1}\n", ["dedup.distanse", "did you mean distance"]),
        (SMALL + "batchs: 2\n", ["batchs", "did you mean batches"]),
        (SMALL + "dedup: {distance: far}\n", ["dedup.distance", '"far"']),
        (SMALL + "batches: '2'\n", ["batches", "integer"]),
        ("run_dir: r\n", ["input is missing"]),
        (SMALL + "align: {l2: [1.06, 1.24], cosine: [0.2, 0.4]}\n", ["align", "exactly one"]),
        (SMALL + "align: {l2: [1.24, 1.06]}\n", ["align", "empty"]),
        (SMALL + "dedup: {keep: best}\n", ["dedup", "best: COLUMN"]),
        (SMALL + "dedup: {best: width}\n", ["dedup", "keep: best"]),
        (SMALL + "dedup: {keep: best, best: url}\n", ["best names url", "chars, ", "sharpness"]),
        (SMALL + "dedup: {keep: best, best: -cosine, scope: batch}\n", ["-cosine is measured after dedup"]),
        (SMALL + "dedup: {backend: faiss, device: cuda}\n", ["dedup", "FAISS takes a GPU by itself"]),
        ("- a\n- b\n", ["holds list"]),
        ("a: [1\n", ["not valid YAML"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
    ],
)
def test_wrong_options_are_named_in_one_paragraph(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load(write(tmp_path, text))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_the_best_by_alignment_needs_align(tmp_path: Path) -> None:
    (tmp_path / "a.gz").touch()
    path = write(tmp_path, SMALL.replace("*.gz", f"{tmp_path}/*.gz") + "dedup: {keep: best, best: cosine}\n")
    with pytest.raises(UserError, match=r"dedup\.best is cosine, which the stage align measures, and align is null"):
        resolve(load(path))
    assert resolve(load(path, ["align={l2: [1.0, 1.2]}"]))[0].dedup.by_align


def test_the_best_may_be_any_measure_of_the_stages_before() -> None:
    for stages, names in ((("source", "text", "fetch", "image"), BEFORE_DEDUP), (("align",), BY_ALIGN)):
        assert {owner(name) for name in names} <= set(stages)
        assert all(schema(owner(name)).field(name).type in NUMBERS for name in names)


def test_extends_states_only_the_difference(tmp_path: Path) -> None:
    write(tmp_path, SMALL + "dedup: {distance: 0.2, keep: first}\n", "base.yaml")
    config = load(write(tmp_path, "extends: base.yaml\ndedup: {distance: 0.3}\n"))
    assert (config.dedup.distance, config.dedup.keep) == (0.3, "first")


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="extends itself"):
        load(write(tmp_path, "extends: c.yaml\n"))


def test_set_changes_one_option_and_is_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    assert load(path, ["dedup.distance=0.08", "text.min_nouns=null"]).text.min_nouns is None
    with pytest.raises(UserError, match="expected name=value"):
        load(path, ["dedup.distance"])
    with pytest.raises(UserError, match="distance"):
        load(path, ["dedup.distance=3"])


def test_a_missing_input_path_names_the_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"input.paths: \*\.gz matches no file"):
        resolve(load(write(tmp_path, SMALL)))


def test_digest_covers_recipe_and_inputs_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gz").write_bytes(b"one")
    path = write(tmp_path, SMALL)

    def of(*sets: str) -> str:
        return digest(*resolve(load(path, list(sets))))

    same = of()
    assert of("run_dir=elsewhere", "executor.kind=inline", "fetch.concurrency=3", "fetch.contact=me") == same
    assert of("fetch.resolve={'*.test': '127.0.0.1:1'}") == same
    assert of("dedup.distance=0.11") != same
    assert of("fetch.timeout_s=3") != same
    (tmp_path / "b.gz").write_bytes(b"two")
    assert of() != same


def test_a_run_that_was_begun_before_an_option_existed_goes_on() -> None:
    """The digest of a commit before best, lists, probes and earlier."""
    tree = {"input": {"kind": "table", "paths": ["/in/*.parquet"]}}
    inputs = [InputFile("/in/a.parquet", 10), InputFile("/in/b.parquet", 20)]

    def of(*contents: str, **dedup: object) -> str:
        return digest(check(tree | {"dedup": dedup}, "test"), inputs, contents)

    there = "c75edcbe8f504251f231d040c41d9807"
    assert of() == of(device="cuda") == of(lists=7, probes=9) == there  # exact reads neither lists nor probes
    others = [of(keep="best", best="width"), of("x", earlier=["x.h5"]), of(backend="faiss")]
    others += [of(backend="faiss", lists=7), of(backend="faiss", probes=9)]
    assert len({there, *others}) == 6


def test_digest_follows_the_content_of_a_list_not_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gz").write_bytes(b"one")
    path = write(tmp_path, SMALL)
    for name, hosts in (("x.txt", "bad.example"), ("y.txt", "bad.example"), ("z.txt", "worse.example")):
        (tmp_path / name).write_text(hosts)
    x, y, z = (digest(*resolve(load(path, [f"source.blacklist={n}.txt"]))) for n in "xyz")
    assert x == y != z


def test_data_may_move_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for name in ("here", "there"):
        folder = tmp_path / name / "crawl"
        folder.mkdir(parents=True)
        (folder / "a.gz").write_bytes(b"one")
        (folder / "b.gz").write_bytes(b"two")
        monkeypatch.chdir(folder)
        digests.append(digest(*resolve(load(write(tmp_path, SMALL)))))
    assert digests[0] == digests[1]
