"""tools/slurm_cluster: what the other tests of this folder rely on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.slurm.conftest import SlurmCluster, begin, tool, wait

pytestmark = pytest.mark.prove


def resting(folder: Path) -> list[int]:
    """The users that are still there a second later, without what a daemon may just be starting."""
    found = users(folder)
    time.sleep(1)
    return [process for process in users(folder) if process in found]


def users(folder: Path) -> list[int]:
    """The processes that name the folder, be it in their command, their environment or as a place."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            known = (path / "cmdline").read_bytes() + (path / "environ").read_bytes() + bytes((path / "cwd").readlink())
        except OSError:
            continue
        if bytes(folder) in known:
            found.append(int(path.name))
    return found


def test_a_second_up_changes_nothing(cluster: SlurmCluster) -> None:
    before = resting(cluster.folder)
    assert cluster.tool("up").splitlines() == [f"export SLURM_CONF={cluster.env['SLURM_CONF']}"]
    wait(lambda: users(cluster.folder) == before)  # a daemon may just be starting a helper
    wait(lambda: "n1 is idle" in cluster.tool("status"))


def test_up_refuses_another_array_size(cluster: SlurmCluster) -> None:
    done = tool("up", "--max-array-size", "12", "--dir", str(cluster.folder))
    assert done.returncode == 2
    assert "MaxArraySize=11" in done.stderr


def test_down_removes_no_folder_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = tool("down", "--dir", str(tmp_path))
    assert done.returncode == 2
    assert (tmp_path / "precious").exists()


def test_an_array_runs_on_both_nodes(cluster: SlurmCluster) -> None:
    both = "until [ $(sort -u $SLURM_ARRAY_JOB_ID_*.node | wc -l) = 2 ]; do sleep 0.1; done"  # they wait for each other
    job = cluster.submit("--array=0-7", "--output=%A_%a.node", "--wrap", f"echo $SLURMD_NODENAME; {both}")
    wait(lambda: cluster.states(job) == [(f"{job}_{index}", "COMPLETED") for index in range(8)])
    nodes = {(cluster.folder / f"{job}_{index}.node").read_text().strip() for index in range(8)}
    assert nodes == {"n1", "n2"}


def test_an_index_beyond_the_array_size_is_refused(cluster: SlurmCluster) -> None:
    cluster.submit("--array=10", "--wrap", "true")
    assert "Invalid job array" in cluster.run("sbatch", "--array=11", "--wrap", "true").stderr


def test_memory_is_limited(cluster: SlurmCluster) -> None:
    eat = "python3 -c 'import time; eaten = b\"x\" * (300 << 20); time.sleep(600)'"
    job = cluster.submit("--mem=100M", "--output=%A.out", "--wrap", f"exec {eat}")
    kernel = "task/cgroup" in Path(cluster.env["SLURM_CONF"]).read_text()
    wait(lambda: cluster.states(job) == [(job, "OUT_OF_MEMORY" if kernel else "FAILED")])


def test_a_high_job_sends_a_low_one_back_to_the_queue(cluster: SlurmCluster) -> None:
    low = cluster.submit("--exclusive", "--nodes=2", "--wrap", 'test -n "$SLURM_RESTART_COUNT" || sleep 600')
    wait(lambda: cluster.states(low) == [(low, "RUNNING")])
    high = cluster.submit("--partition=high", "--wrap", "true")
    wait(lambda: cluster.states(high) == [(high, "COMPLETED")])
    wait(lambda: cluster.states(low) == [(low, "PREEMPTED"), (low, "COMPLETED")])


def test_a_job_outlives_its_node(cluster: SlurmCluster) -> None:
    job = cluster.submit("--nodelist=n2", "--wrap", 'test -n "$SLURM_RESTART_COUNT" || sleep 600')
    wait(lambda: cluster.states(job) == [(job, "RUNNING")])
    cluster.kill_node("n2")
    assert tool("status", "--dir", str(cluster.folder)).returncode == 1
    wait(lambda: cluster.states(job)[:1] == [(job, "NODE_FAIL")])
    cluster.start_node("n2")
    wait(lambda: cluster.states(job) == [(job, "NODE_FAIL"), (job, "COMPLETED")])
    wait(lambda: tool("status", "--dir", str(cluster.folder)).returncode == 0)


def test_down_leaves_nothing() -> None:
    """Not even of a second cluster that is half dead, with a job that hides."""
    made = begin()
    try:
        hidden = "exec env -i setsid sleep 600"
        job = made.submit("--nodelist=n1", "--output=/dev/null", "--wrap", f"({hidden}) & exec env -i sleep 600")
        wait(lambda: made.states(job) == [(job, "RUNNING")])
        made.kill_node("n2")
    finally:
        done = tool("down", "--dir", str(made.folder))
    assert done.returncode == 0, done.stderr
    assert not made.folder.exists()
    assert users(made.folder) == []
    assert tool("down", "--dir", str(made.folder)).returncode == 0
