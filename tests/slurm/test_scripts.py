"""slurm/*.sbatch and configs/clusters/: what people submit by hand is what the executor submits."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from toolkit.cli import app
from toolkit.config import load
from toolkit.config.site import Resources, Site
from toolkit.recipe import BY_NAME
from toolkit.run import jobs
from toolkit.run.run import Run, create

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = {"array": PROJECT / "slurm" / "array.sbatch", "mpi": PROJECT / "slurm" / "mpi.sbatch"}
PAGE = PROJECT / "slurm" / "env.sh"
BASH = shutil.which("bash") or "/bin/bash"

# Variables that sbatch reads for options (sbatch(1), "Input environment variables"); the page may name these.
OPTIONS = {
    "SBATCH_PARTITION": "partition",
    "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_GRES": "gres",
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_MEM_PER_NODE": "mem",
}
# What has to differ: the executor finds its jobs by their names, knows the place of logs, and counts the tasks.
DIFFERENT = {"job-name", "output", "array"}
HOSTILE = ["plain", "a 'b\" ;$(touch x) 中文 *", "-n", "--part=9/9", "two\nlines"]

# Stands for danqing, srun and mpiexec: writes down its words and its environment, each ended by a zero byte.
RECORDER = '#!/bin/bash\nprintf "%s\\0" "$0" "$@" > "$RECORD"\nenv -0 > "$RECORD.env"\n'
PROGRAMS = ("danqing", "srun", "mpiexec")


@dataclass(frozen=True)
class Started:
    """What a script started: its words, and what it added to the environment."""

    words: list[str]
    added: dict[str, str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recorders first on the PATH, and none of the caller's own Slurm."""
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        (tmp_path / "bin" / name).write_text(RECORDER)
        (tmp_path / "bin" / name).chmod(0o755)
    for name in [n for n in os.environ if n.startswith(("SLURM", "SBATCH", "SRUN", "DANQING", "OMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def start(folder: Path, script: Path, words: Sequence[str] = (), **env: str) -> Started:
    """Run a script as Slurm would; raises CalledProcessError."""
    given = {**os.environ, "RECORD": str(folder / "record"), **env}
    (folder / "record").unlink(missing_ok=True)
    subprocess.run([BASH, str(script), *words], env=given, check=True, capture_output=True, text=True, cwd=folder)
    path, *rest = (folder / "record").read_text().split("\0")[:-1]
    pairs = (item.partition("=")[::2] for item in (folder / "record.env").read_text().split("\0") if item)
    added = {name: value for name, value in pairs if given.get(name) != value and name not in ("_", "SHLVL")}
    return Started([Path(path).name, *rest], added)


def page(folder: Path) -> dict[str, str]:
    """What env.sh says when every option that it offers is taken."""
    text = re.sub(r"^# (?=export )", "", PAGE.read_text(), flags=re.MULTILINE)
    (folder / "env.sh").write_text(text)
    done = subprocess.run(
        [BASH, "-euc", "source ./env.sh; env -0"], cwd=folder, check=True, capture_output=True, text=True
    )
    pairs = (item.partition("=")[::2] for item in done.stdout.split("\0") if item)
    return {name: value for name, value in pairs if name.startswith(("SBATCH_", "DANQING"))}


def site(said: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """The site file that says the same as env.sh."""
    names = {"time": "minutes", "mem": "mem_gb"}
    values: dict[str, Any] = {names.get(o, o): said[v] for v, o in OPTIONS.items() if v in said}
    gigabytes = re.fullmatch(r"(\d+)G", values["mem_gb"])
    assert gigabytes
    return {
        **values,
        "minutes": int(values["minutes"]),
        "mem_gb": int(gigabytes[1]),
        "mpi": said["DANQING_MPI"],
        **more,
    }


def make_run(folder: Path, site: dict[str, Any], name: str = "run") -> Run:
    (folder / "pairs.jsonl").write_text('{"url": "http://a.example.test/1.jpg", "text": "公园里的小狗"}\n')
    tree = {
        "run_dir": str(folder / name),
        "input": {"kind": "table", "paths": [str(folder / "pairs.jsonl")]},
        "executor": {"kind": "slurm", "site": site},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    return create(load(str(folder / "config.yaml")))


def submitted(run: Run, stage: str, tasks: int) -> str:
    """The script that the executor would submit."""
    return jobs.submitter(run, stage).text(jobs.command(run, BY_NAME[stage], range(1), tasks), tasks)


def options(text: str) -> dict[str, str]:
    """The options of a script, memory in megabytes."""
    found = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    return {
        name: megabytes(value) if name == "mem" else value for name, value in found.items() if name not in DIFFERENT
    }


def megabytes(text: str) -> str:
    number, unit = re.fullmatch(r"(\d+)([GM])B?", text).groups()  # type: ignore[union-attr]
    return str(int(number) * (1024 if unit == "G" else 1))


def by_hand(script: str, said: Mapping[str, str]) -> dict[str, str]:
    """The options of a script and of the environment; the latter win."""
    told = {OPTIONS[name]: value for name, value in said.items() if name.startswith("SBATCH_")}
    return options(script) | options("\n".join(f"#SBATCH --{name}={value}" for name, value in told.items()))


def place(stage: str) -> dict[str, Any]:
    """What mpi.sbatch asks for in the script itself."""
    return {"stages": {stage: {"nodes": 2, "ranks": 2}}} if stage in ("dedup", "merge") else {}


STAGES = [("array", "fetch"), ("array", "image"), ("array", "words"), ("mpi", "dedup"), ("mpi", "merge")]


@pytest.mark.parametrize(("kind", "stage"), STAGES)
def test_options_are_those_of_the_executor(folder: Path, kind: str, stage: str) -> None:
    said, script = page(folder), SCRIPTS[kind].read_text()
    run = make_run(folder, site(said, **place(stage)))
    assert by_hand(script, said) == options(submitted(run, stage, 10))
    assert len(options(script)) == 6, "the six that are not the site's"


def test_an_option_on_one_side_alone_is_found(folder: Path) -> None:
    said, script = page(folder), SCRIPTS["array"].read_text()
    of_executor = options(submitted(make_run(folder, site(said)), "fetch", 10))
    assert by_hand(script + "\n#SBATCH --exclusive\n", said) != of_executor
    assert by_hand(script.replace("#SBATCH --requeue\n", ""), said) != of_executor
    more = make_run(folder, site(said, extra=["--nice=100"]), "more")
    assert by_hand(script, said) != options(submitted(more, "fetch", 10))


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """What the command takes the words for, as the real parser does."""
    assert words[0] == "task"
    command = typer.main.get_command(app).commands["task"]  # type: ignore[attr-defined]
    return dict(command.make_context("task", list(words[1:])).params)


def cut(started: Started) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """A start as launcher, meaning of the command, and environment, without what has to differ."""
    at = started.words.index("task")
    launcher = [word for word in started.words[:at] if word != "danqing"]
    what = parsed(started.words[at:]) | {"units": ""}  # by hand: all units that are missing
    return launcher, what, {k: v for k, v in started.added.items() if k != "SUBMITIT_EXECUTOR"}


def of_executor(folder: Path, run: Run, stage: str, tasks: int, **env: str) -> Started:
    text = submitted(run, stage, tasks)
    python = shlex.join(jobs.DANQING)
    assert text.count(python) == 1
    (folder / "submitted.sh").write_text(text.replace(python, "danqing"))
    return start(folder, folder / "submitted.sh", **env)


LAUNCHERS = {"array": ["srun --mpi=pmi2"], "mpi": ["srun --mpi=pmi2", "mpiexec", "mpiexec -bind-to core"]}


@pytest.mark.parametrize(("kind", "stage", "launcher"), [(k, s, how) for k, s in STAGES for how in LAUNCHERS[k]])
@pytest.mark.parametrize("tasks", [1, 10])
def test_commands_are_those_of_the_executor(folder: Path, kind: str, stage: str, launcher: str, tasks: int) -> None:
    said = page(folder) | {"DANQING_MPI": launcher}
    cpus = 1 if stage == "words" else 3
    run = make_run(folder, site(said, cpus=cpus, **place(stage)), "a 'b\" ;$(touch x) 中文 *")
    env = {"SLURM_CPUS_PER_TASK": str(cpus), "SLURM_NTASKS": "4"} | (array(7, tasks) if tasks > 1 else {})
    by_executor = of_executor(folder, run, stage, tasks, **env)
    words = [str(run.layout.root), stage]
    assert cut(start(folder, SCRIPTS[kind], words, **env, DANQING_MPI=launcher)) == cut(by_executor)
    assert (cut(by_executor)[0] == []) == (kind == "array")


def array(task: int, tasks: int) -> dict[str, str]:
    """What Slurm tells the task of an array that counts from 0."""
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(tasks),
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_MAX": str(tasks - 1),
    }


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", SCRIPTS)
def test_run_folders_of_any_name_arrive_as_they_are(folder: Path, kind: str, name: str) -> None:
    started = start(folder, SCRIPTS[kind], [name, "merge"])
    what = cut(started)[1]
    assert (what["run_folder"], what["name"], what["part"]) == (name, "merge", "0/1")
    assert not (folder / "x").exists()


@pytest.mark.parametrize("kind", SCRIPTS)
def test_tasks_of_a_whole_array_are_told_apart(folder: Path, kind: str) -> None:
    parts = [cut(start(folder, SCRIPTS[kind], ["r", "dedup"], **array(t, 3)))[1]["part"] for t in range(3)]
    assert parts == ["0/3", "1/3", "2/3"]


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("indices", [(5,), (0, 5), (1, 2)])
def test_single_tasks_of_an_array_need_its_size(folder: Path, kind: str, indices: tuple[int, ...]) -> None:
    env = array(indices[0], len(indices)) | {"SLURM_ARRAY_TASK_MAX": str(indices[-1])}
    assert cut(start(folder, SCRIPTS[kind], ["r", "dedup", "100"], **env))[1]["part"] == f"{indices[0]}/100"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        start(folder, SCRIPTS[kind], ["r", "dedup"], **env)
    assert refused.value.returncode == 2 and "say how many" in refused.value.stderr
    assert not (folder / "record").exists()


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("words", [[], ["run"], ["", "fetch"]])
def test_a_missing_word_is_named(folder: Path, kind: str, words: list[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        start(folder, SCRIPTS[kind], words)
    assert "is missing: sbatch" in refused.value.stderr and not (folder / "record").exists()


def test_the_page_sets_nothing_unasked(folder: Path) -> None:
    done = subprocess.run(
        [BASH, "-euc", f"source {shlex.quote(str(PAGE))}; env"], check=True, capture_output=True, text=True
    )
    made = [line.partition("=")[0] for line in done.stdout.splitlines() if line.startswith(("SBATCH_", "DANQING"))]
    assert sorted(made) == ["DANQING", "DANQING_MPI"]
    assert set(OPTIONS) == {name for name in page(folder) if name.startswith("SBATCH_")}
    assert page(folder)["DANQING_MPI"] == Site().mpi


def test_lead_is_the_default(folder: Path) -> None:
    assert all(f"USR2@{Site().lead_s}\n" in script.read_text() for script in SCRIPTS.values())


@pytest.mark.parametrize("path", [*SCRIPTS.values(), PAGE], ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    assert subprocess.run([BASH, "-n", str(path)], capture_output=True, check=True).stderr == b""


# Site files

SITES = sorted((PROJECT / "configs" / "clusters").glob("*.yaml"))


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.name)
def test_site_files_load_and_their_jobs_can_be_written(folder: Path, path: Path) -> None:
    run = make_run(folder, str(path))  # type: ignore[arg-type]
    jobs.check(run)
    for stage in run.stages:
        assert "#SBATCH --requeue" in submitted(run, stage.name, 2)
    said, read = yaml.safe_load(path.read_text()), run.config.executor.site.model_dump(mode="json")
    assert {name: read[name] for name in said if name != "stages"} == {n: v for n, v in said.items() if n != "stages"}


def test_the_example_says_every_option() -> None:
    tree = yaml.safe_load((PROJECT / "configs" / "clusters" / "example.yaml").read_text())
    said = set(tree).union(*tree["stages"].values())
    assert said == set(Site.model_fields) | set(Resources.model_fields)


def test_mpi_of_the_test_cluster_spans_both_nodes(folder: Path) -> None:
    run = make_run(folder, str(PROJECT / "configs" / "clusters" / "test.yaml"))  # type: ignore[arg-type]
    assert {stage: jobs.world(stage, run.config.executor.site.of(stage)) for stage in ("dedup", "merge", "fetch")} == {
        "dedup": 4,
        "merge": 4,
        "fetch": 1,
    }
