"""What is submitted, whole; what it inherits; how few files and calls it takes."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake_slurm import Element, Slurm, read_options
from tests.run.conftest import Tiny
from toolkit.errors import UserError, WorkError
from toolkit.recipe import BY_NAME
from toolkit.run import jobs, records, scheduler
from toolkit.run.run import Run

GOLDEN = Path(__file__).parent / "golden"
SOURCE, DEDUP = BY_NAME["source"], BY_NAME["dedup"]
EVERYTHING = {
    "partition": "short",
    "account": "lab",
    "qos": "normal",
    "constraint": "skylake&ib",
    "gres": "gpu:a100:1",
    "cpus": 8,
    "mem_gb": 15.5,
    "minutes": 240,
    "throttle": 20,
    "lead_s": 300,
    "extra": ["--exclusive", "--mail-user=me@lab.test", "--comment=two words; 'quoted'"],
    "setup": ["module load python/3.11", 'source "$HOME/env/bin/activate"'],
}
MPI = {"nodes": 2, "ranks": 4, "cpus": 2}
HOSTILE = 'it\'s "a; run" $HOME `id` 中文 #1'


def script(slurm: Slurm, run: Run) -> str:
    """Return the last script that was submitted, without what differs between machines."""
    text = str(slurm.jobs()[max(slurm.jobs())]["script"])
    key = records.name(run, "x").split("-")[1]
    return text.replace(str(run.layout.root.parent), "/scratch").replace(key, "KEY").replace(sys.executable, "python")


def golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.sbatch"
    if "GOLDEN" in os.environ:  # GOLDEN=1 pytest ... writes them anew, to be read before they are kept
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_an_array(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(site={"shards_per_task": 1})
    jobs.submit(run, SOURCE, [0, 1, 3], 3, {})
    golden("array", script(slurm, run))


def test_a_plain_job(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny()
    jobs.submit(run, BY_NAME["unique"], [0], 1, {})
    golden("job", script(slurm, run))


def test_everything_that_a_site_may_say(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(site=EVERYTHING)
    slurm.change(partitions={"short*": "4:00:00"})
    jobs.submit(run, SOURCE, range(4), 4, {"begin": "now+60"})
    golden("everything", script(slurm, run))


@pytest.mark.parametrize("mpi", ["srun --mpi=pmi2", "/opt/mpi/bin/mpiexec"])
def test_ranks(slurm: Slurm, tiny: Tiny, mpi: str) -> None:
    run = tiny(site={"mpi": mpi, "stages": {"dedup": MPI}}, batches=2)
    jobs.submit(run, DEDUP, [0, 1], 2, {})
    golden(f"mpi-{Path(mpi.split(maxsplit=1)[0]).name}", script(slurm, run))


def test_an_advance(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(site=EVERYTHING)
    slurm.change(partitions={"short*": "4:00:00"})
    jobs.follow(run, [12, 13], "text", begin_s=60)
    golden("advance", script(slurm, run))


def test_a_hostile_folder(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(name=HOSTILE)
    jobs.submit(run, SOURCE, range(4), 2, {})
    golden("hostile", script(slurm, run))


@pytest.mark.parametrize("name", ["run", HOSTILE])
def test_slurm_and_the_shell_read_the_folder_as_it_is(slurm: Slurm, tiny: Tiny, name: str) -> None:
    run = tiny(name=name)
    record = jobs.submit(run, SOURCE, range(4), 2, {})
    text = slurm.job(record.job)["script"]
    assert read_options(text)["output"] == f"{run.layout.logs(SOURCE)}/%A_%a.log"
    assert str(run.layout.root) in shlex.split(text.strip().splitlines()[-1])


def test_a_script_that_slurm_starts_does_its_units(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(name=HOSTILE)
    record = jobs.submit(run, SOURCE, range(4), 2, {})
    done = slurm.execute(Element(record.job, 1))
    assert done.returncode == 0, done.stderr
    run.forget()
    assert sorted(run.marks(SOURCE)) == [2, 3]


def test_no_file_a_shard_no_pickle_and_nobody_else(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny()
    record = jobs.submit(run, SOURCE, range(10_000), 1000, {})
    jobs.follow(run, [record.job], None)
    names = sorted(p.name for p in run.layout.jobs.iterdir())
    assert names == ["100.json", "100_submission.sh", "101.json", "101_submission.sh"]
    assert stat.S_IMODE(run.layout.jobs.stat().st_mode) == 0o700
    assert len(slurm.calls("sbatch")) == 2


def test_a_record_says_what_was_submitted(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny()
    record = jobs.submit(run, SOURCE, [0, 2, 3], 2, {})
    follower = jobs.follow(run, [record.job], "text")
    assert records.records(run) == [record, follower]
    assert (record.units, record.tasks, follower.stage, follower.until) == ("0,2-3", 2, "advance", "text")


# --------------------------------------------------------------------------------------------- what is inherited


def inherited(slurm: Slurm, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, **site: Any) -> dict[str, str]:
    """Return what sbatch saw of the variables of a job that submits one."""
    outer = {
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "9",
        "SLURM_MEM_PER_NODE": "1",
        "SLURM_NTASKS": "4",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_PARTITION": "main",
        "SBATCH_TIMELIMIT": "1",
        "PMI_RANK": "3",
        "SBATCH_RESERVATION": "ours",
        "SLURMD_NODENAME": "n1",
        "SLURM_CLUSTERS": "one",
    }
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    slurm.change(partitions={"main*": "1:00:00", "long": "1:00:00"})
    jobs.submit(tiny(site=site), SOURCE, range(4), 2, {})
    assert dict(os.environ) == before
    return slurm.seen("sbatch")


def test_a_job_does_not_inherit_the_job_that_submits_it(
    slurm: Slurm, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inherited(slurm, tiny, monkeypatch) == {
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_CLUSTERS": "one",
        "SBATCH_PARTITION": "main",
        "SBATCH_RESERVATION": "ours",
    }


def test_what_the_site_says_wins_over_the_environment(
    slurm: Slurm, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = inherited(slurm, tiny, monkeypatch, partition="long", extra=["--reservation=theirs"])
    assert "SBATCH_PARTITION" not in seen
    assert "SBATCH_RESERVATION" not in seen
    assert slurm.job(100)["options"]["partition"] == "long"


def test_the_environment_is_the_same_again_after_a_refusal(
    slurm: Slurm, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(WorkError, match="invalid partition specified: nowhere"):
        jobs.submit(tiny(site={"partition": "nowhere"}), SOURCE, range(4), 2, {})
    assert os.environ["SLURM_JOB_ID"] == "7"


# -------------------------------------------------------------------------------------------------- being refused


def test_a_refusal_is_one_paragraph_and_leaves_nothing(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny(site={"partition": "nowhere"})
    with pytest.raises(WorkError, match=r"sbatch refused .*Invalid partition name.*executor\.site") as error:
        jobs.submit(run, SOURCE, range(4), 2, {})
    assert "\n" not in str(error.value)
    assert (len(slurm.calls("sbatch")), list(run.layout.jobs.iterdir())) == (1, [])


def test_a_busy_controller_is_asked_again(slurm: Slurm, tiny: Tiny) -> None:
    run = tiny()
    slurm.refuse("sbatch", "Batch job submission failed: Socket timed out on send/recv operation", 3)
    jobs.submit(run, SOURCE, range(4), 2, {})
    assert (len(slurm.calls("sbatch")), len(slurm.jobs()), slurm.slept) == (4, 1, [2, 8, 30])


def test_one_that_stays_busy_is_not_waited_for_for_ever(slurm: Slurm, tiny: Tiny) -> None:
    slurm.refuse("sbatch", "Slurm temporarily unable to accept job, sleeping and retrying", 99)
    with pytest.raises(scheduler.BusyError, match="temporarily unable"):
        jobs.submit(tiny(), SOURCE, range(4), 2, {})
    assert len(slurm.calls("sbatch")) == 5


def test_a_job_whose_answer_was_lost_is_not_submitted_twice(
    slurm: Slurm, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller took the job, and its answer came too late."""
    run = tiny()
    earlier = jobs.submit(run, SOURCE, [0], 1, {})
    submit = jobs.Submitter.submit_script

    def lost(self: jobs.Submitter, command: str, elements: int) -> int:
        submit(self, command, elements)
        raise jobs.FailedJobError("Batch job submission failed: Socket timed out on send/recv operation")

    monkeypatch.setattr(jobs.Submitter, "submit_script", lost)
    record = jobs.submit(run, SOURCE, [1, 2], 2, {})
    assert [earlier.job, record.job] == list(slurm.jobs())


def test_sbatch_that_hangs_is_ended(slurm: Slurm, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SUBMIT_S", 0.05)
    monkeypatch.setattr(jobs, "_PAUSES_S", ())
    (slurm.bin / "sbatch").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(scheduler.BusyError, match="timed out"):
        jobs.submit(tiny(), SOURCE, range(4), 2, {})


def test_a_full_queue_of_this_user_is_told_from_other_refusals(slurm: Slurm, tiny: Tiny) -> None:
    slurm.change(submit=3)
    with pytest.raises(scheduler.FullError, match="AssocMaxSubmitJobLimit"):
        jobs.submit(tiny(), SOURCE, range(4), 4, {})
    slurm.refuse("sbatch", "QOSMaxSubmitJobPerUserLimit")
    with pytest.raises(scheduler.FullError, match="QOSMaxSubmitJobPerUserLimit"):
        jobs.submit(tiny(), SOURCE, range(4), 1, {})


def test_a_machine_without_slurm_is_told_so(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Slurm here"):
        jobs.submit(tiny(), SOURCE, range(4), 2, {})
