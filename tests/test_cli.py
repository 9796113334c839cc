"""The command itself: what it says of mistakes that are nobody's input, and of folders and files that were mixed up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
import yaml

from toolkit import cli


def danqing(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["danqing", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, with one function in it that fails as nobody foresaw."""
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise LookupError("no such\n  thing")

    monkeypatch.setattr(cli, "app", app)


@pytest.mark.usefixtures("broken")
def test_an_unforeseen_error_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert danqing(monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("danqing: This is a defect of the toolkit: LookupError: no such thing. ")
    assert said.count("\n") == 1
    assert "--debug" in said


@pytest.mark.usefixtures("broken")
def test_an_unforeseen_error_has_its_trace_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["danqing", "--debug"])
    with pytest.raises(LookupError):
        cli.main()


def test_what_an_error_quotes_does_nothing_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert danqing(monkeypatch, "plan", "\x1b[31m\u202e\nx.yaml") == 2
    said = capsys.readouterr().err
    assert r"\x1b[31m\u202e x.yaml" in said
    assert said.isascii() and said.count("\n") == 1 and "\x1b" not in said


def run_folder(root: Path) -> Path:
    """A run folder as far as it can be told from the outside."""
    root.mkdir()
    record = {"digest": "0" * 32, "shards": 1, "toolkit": "1", "versions": {}, "config": {"input": {"kind": "wat"}}}
    (root / "run.yaml").write_text(yaml.safe_dump(record))
    return root


def test_the_folder_above_a_run_is_told_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert danqing(monkeypatch, "report", tmp_path) == 2
    assert "did you mean" not in capsys.readouterr().err
    run = run_folder(tmp_path / "run")
    assert danqing(monkeypatch, "report", tmp_path) == 2
    assert f"did you mean {run}?" in capsys.readouterr().err


def test_the_record_of_a_run_is_told_from_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert danqing(monkeypatch, "run", run_folder(tmp_path / "run") / "run.yaml") == 2
    said = capsys.readouterr().err
    assert "the record that a run keeps of itself" in said
    assert "unknown option" not in said
