"""The site: where it is read from, what it may say, what a stage's jobs ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from toolkit.config import load, resolve
from toolkit.config.config import digest
from toolkit.config.site import Resources, Site
from toolkit.errors import UserError
from toolkit.run.run import create

SMALL = "run_dir: r\ninput: {kind: wat, paths: ['*.gz'], files_per_shard: 1}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gz").write_bytes(b"one")
    (tmp_path / "c.yaml").write_text(SMALL + "executor: {kind: slurm, site: mine.yaml}\n")
    (tmp_path / "mine.yaml").write_text("partition: short\nmem_gb: 4\nstages: {embed: {gres: 'gpu:1'}}\n")
    return tmp_path


def test_the_kind_alone_is_enough(folder: Path) -> None:
    (folder / "c.yaml").write_text(SMALL + "executor: {kind: slurm}\n")
    site = load("c.yaml").executor.site
    assert (site.of("text"), site.mpi) == (Resources(), "srun --mpi=pmi2")


def test_a_site_file_may_extend_another(folder: Path) -> None:
    (folder / "clusters").mkdir()
    (folder / "clusters" / "base.yaml").write_text("partition: long\naccount: lab\n")
    (folder / "mine.yaml").write_text("extends: clusters/base.yaml\npartition: short\n")
    site = load("c.yaml").executor.site
    assert (site.partition, site.account) == ("short", "lab")


def test_set_is_on_top_of_the_site_file() -> None:
    site = load("c.yaml", ["executor.site.partition=long", "executor.site.stages.fetch.partition=dtn"]).executor.site
    assert (site.partition, site.mem_gb) == ("long", 4)
    assert (site.of("fetch").partition, site.of("embed").partition) == ("dtn", "long")


def test_the_site_file_can_be_named_by_set(folder: Path) -> None:
    (folder / "other.yaml").write_text("partition: other\n")
    assert load("c.yaml", ["executor.site=other.yaml"]).executor.site == Site(partition="other")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitoin: x\n", ["executor.site.partitoin", "did you mean partition"]),
        ("stages: {fetch: {cpu: 2}}\n", ["executor.site.stages.fetch.cpu", "cpus"]),
        ("cpus: 0\n", ["executor.site.cpus"]),
        ("extra: ['-p x']\n", ["executor.site.extra", "--name"]),
        ('extra: ["--comment=a\\nb"]\n', ["executor.site.extra"]),
        ('partition: "a\\nb"\n', ["executor.site.partition", "one line"]),
        ("lead_s: 1\n", ["executor.site.lead_s"]),
    ],
)
def test_wrong_options_are_named(folder: Path, text: str, words: list[str]) -> None:
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        load("c.yaml")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_site_file_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "mine.yaml").unlink()
    with pytest.raises(UserError, match=r"mine\.yaml can not be read"):
        load("c.yaml")


def test_null_is_what_the_site_says_and_an_empty_gres_takes_it_back() -> None:
    stages = {"fetch": Resources(partition=None, cpus=8), "text": Resources(gres="")}
    site = Site(partition="main", gres="gpu:1", cpus=2, stages=stages)
    assert site.of("fetch") == Resources(partition="main", gres="gpu:1", cpus=8)
    assert site.of("text") == Resources(partition="main", gres="", cpus=2)
    assert site.of("image") == Resources(partition="main", gres="gpu:1", cpus=2)


def test_the_small_job_is_small_and_on_the_same_partition() -> None:
    site = Site(partition="main", account="lab", cpus=64, mem_gb=200.0, minutes=1000, gres="gpu:8")
    wants = site.of("advance")
    assert (wants.partition, wants.account) == ("main", "lab")
    assert (wants.cpus, wants.mem_gb, wants.minutes, wants.gres) == (1, 4.0, 30, "")
    assert Site(minutes=9, stages={"advance": Resources(minutes=5)}).of("advance").minutes == 5


def test_the_digest_knows_nothing_of_the_executor() -> None:
    def of(*sets: str) -> str:
        return digest(*resolve(load("c.yaml", list(sets))))

    assert of() == of("executor.site.partition=x", "executor.retries=0") == of("executor.kind=inline")


def test_a_run_keeps_the_options_and_not_the_path(folder: Path) -> None:
    run = create(load("c.yaml"))
    run.free()
    (folder / "mine.yaml").unlink()
    stored = yaml.safe_load(run.layout.run_yaml.read_text())["config"]["executor"]
    assert "mine.yaml" not in str(stored)
    assert (stored["site"]["partition"], stored["site"]["stages"]["embed"]["gres"]) == ("short", "gpu:1")


def test_a_run_takes_over_another_site(folder: Path) -> None:
    create(load("c.yaml")).free()
    run = create(load("c.yaml", ["executor.site.partition=long"]))
    run.free()
    assert yaml.safe_load(run.layout.run_yaml.read_text())["config"]["executor"]["site"]["partition"] == "long"
