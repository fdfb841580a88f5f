"""Celery, and workers that fork for each job: the work arrives under its label."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from support.fake_agent import FakeAgent
from support.process import run_script, start_command, start_script

TASKS = """
import os, time
from celery import Celery, Task
from conprof_core.jobs import labelled_task

app = Celery("jobs", broker="filesystem://", task_cls=labelled_task(Task, application_name="jobs"))
folder = os.environ["JOBS_FOLDER"]
app.conf.update(broker_transport_options={
    "data_folder_in": folder, "data_folder_out": folder, "processed_folder": folder + "/done"},
    task_ignore_result=True)

@app.task(name="jobs.burn")
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))
    open(os.path.join(os.environ["JOBS_DONE"], f"{os.getpid()}-{time.monotonic_ns()}"), "w").close()
    return seconds
"""


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
def test_celery(pool: str, agent: FakeAgent, tmp_path: Path) -> None:
    pytest.importorskip("celery")
    folder, done = tmp_path / "queue", tmp_path / "done"
    folder.mkdir()
    done.mkdir()
    (tmp_path / "jobs.py").write_text(TASKS)
    env = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]),
        "JOBS_FOLDER": str(folder),
        "JOBS_DONE": str(done),
        "BLACKFIRE_AGENT_SOCKET": agent.url,
        "BLACKFIRE_CONPROF_PERIOD": "3600",
        "BLACKFIRE_CONPROF_CPU_PROFILERATE": "250",
    }
    run_script("import jobs; [jobs.burn.delay(0.1) for _ in range(8)]", env=env, cwd=tmp_path)
    command = [sys.executable, "-m", "celery", "-A", "jobs", "worker", "--pool", pool]
    command += ["--concurrency", "2", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    with start_command(command, env=env, cwd=tmp_path) as worker:
        deadline = time.monotonic() + 40
        while len(list(done.iterdir())) < 8:
            assert time.monotonic() < deadline, worker.stderr
            time.sleep(0.05)
        worker.signal(signal.SIGTERM)
        worker.finish(30)
    uploads = agent.wait_for(1)
    pids = {upload.tags["process_id"] for upload in uploads}
    assert pids == {path.name.partition("-")[0] for path in done.iterdir()}
    assert (str(worker.pid) in pids) == (pool != "prefork")
    burned = sum(upload.profile.by_function().get("burn", 0) for upload in uploads)
    labelled = sum(upload.profile.by_label("task").get("jobs.burn", 0) for upload in uploads)
    assert 0.95 < burned / 0.8e9 < 1.1
    assert labelled >= 0.99 * burned


def test_a_worker_that_forks_for_each_job_and_leaves_by_os_exit(agent: FakeAgent) -> None:
    script = """
    import os, time
    import conprof_core as conprof

    def job():
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            sum(range(50))

    for name in ("mail", "invoice"):
        pid = os.fork()
        if pid == 0:
            conprof.start(application_name="jobs")
            with conprof.labels(job=name):
                job()
            conprof.flush(5)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    env = {"BLACKFIRE_AGENT_SOCKET": agent.url, "BLACKFIRE_CONPROF_PERIOD": "3600"}
    with start_script(script, env=env) as worker:
        worker.finish().check()
    uploads = agent.wait_for(2)
    found = [upload.profile.by_label("job") for upload in uploads]
    assert [round(sum(jobs.values()) / 1e9, 1) for jobs in found] == [0.2, 0.2]
    assert "mail" in found[0]
    assert "invoice" in found[1]
