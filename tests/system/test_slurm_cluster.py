"""Jobs of `proa slurm submit` under a real Slurm (slurm.py) on the hosts of a lab: they come up, answer, keep the logs that the guides name, and
end with nothing left on any host: when the job is cancelled, when a worker is killed, at the time limit."""
import contextlib
import os
import shutil
import signal
import time

import pytest

import slurm as slurm_lab
from cluster import TINY, wait_for

NAME = "deepseek-ai/DeepSeek-R1"
QUIET_SECONDS = 60
HEALTHY_SECONDS = 300
# Two nodes of two ranks, quickly.
SMALL = ("--prefill-nodes", "1", "--decode-nodes", "1", "--gpus-per-node", "2")
# Of the GB200 guide's line what remains, but for paths, account and interface.
GUIDE = ("--account", "team", "--gpus-per-node", "4", "--config-dir", TINY, "--gpu-type", "gb200", "--prefill-nodes", "2", "--decode-nodes", "12")
# 48 ranks on a machine of few cores, for few requests: 16 of them and 16 rows of a prompt a rank, not 768 and 256.
NARROW = ("--decode-args", "--max-running-requests 768 --chunked-prefill-size 768 --max-total-tokens 8192")


class Job:
    def __init__(self, slurm, proa, work, arguments):
        self.slurm = slurm
        self.work = work
        self.proa = proa
        done = slurm.run([proa, "slurm", "submit", "--model-dir", TINY, "--container-image", "none", "--network-interface", "eth0", *arguments],
                         cwd=work, UCX_NET_DEVICES="eth0")
        assert done.returncode == 0, done.stderr
        self.ids = [word for word in done.stdout.split("scancel ")[1].split()]
        self.id = self.ids[0]

    @property
    def logs(self):
        return self.work / "logs" / self.id

    def read(self, name):
        path = self.logs / name
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def url(self):
        return self.read("url").strip()

    def log_tails(self):
        return "\n".join(f"--- {p.name}\n" + "\n".join(p.read_text(errors="replace").splitlines()[-6:]) for p in sorted(self.logs.glob("*.[oe]*")))

    def wait_healthy(self, seconds=HEALTHY_SECONDS):
        def healthy():
            self.slurm.go_first()
            state = self.slurm.state(self.id)
            assert state in ("PENDING", "CONFIGURING", "RUNNING", ""), f"job {self.id} is {state}\n{self.log_tails()}"
            return (self.logs / "healthy").exists()

        wait_for(healthy, seconds, f"job {self.id} is healthy: {self.read('log.out')[-300:]}")

    def ask(self, url=None):
        body = {"model": NAME, "messages": [{"role": "user", "content": "what is 12+34?"}], "max_tokens": 60, "temperature": 0}
        answer = self.slurm.hosts[0].post(f"{url or self.url}/v1/chat/completions", body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "46"

    def status(self, *arguments):
        return self.slurm.run([self.proa, "slurm", "status", *arguments], cwd=self.work)

    def wait_ended(self, *states, seconds=QUIET_SECONDS):
        """Until it has one of the states and nothing is left of it anywhere."""
        wait_for(lambda: self.slurm.state(self.id) in states, seconds, f"job {self.id} is {states}")
        self.slurm.wait_quiet(seconds)
        assert not (self.logs / "discovery").exists()
        assert not list((self.work / "logs").glob("slurm-*"))


@pytest.fixture
def submit(proa, lab, tmp_path, request):
    """submit(14, ...) submits a job to a cluster of so many nodes, which is made by the first call."""
    if why := slurm_lab.missing():
        pytest.skip(why)
    clusters, jobs = [], []
    work = tmp_path / "it's a place"
    work.mkdir()

    def run(nodes, *arguments):
        if not clusters:
            clusters.append(slurm_lab.Slurm(lab(nodes, seconds=1500), tmp_path / "slurm"))
            clusters[0].__enter__()
        jobs.append(Job(clusters[0], proa, work, arguments))
        return jobs[-1]

    yield run
    for job in jobs:
        print(job.log_tails())
    for cluster in clusters:
        cluster.__exit__(None)


def kill_one(slurm, host, what, number=signal.SIGKILL):
    """Kills the first process of the host whose command line has the words; its id."""
    pid = next(pid for pid, command in sorted(slurm.processes()[host]) if what in command)
    os.kill(pid, number)
    return pid


@pytest.mark.long
def test_a_job_serves_and_is_cancelled(submit):
    job = submit(2, *SMALL)
    job.wait_healthy()
    job.ask()
    assert "Discovery: etcd; request plane: nats" in job.read("log.out") or shutil.which("etcd") is None or shutil.which("nats-server") is None
    status = job.status()
    assert status.returncode == 0, status.stdout + status.stderr
    assert f"job {job.id} dynamo_setup: RUNNING" in status.stdout and "2 of 2 prefill and 2 of 2 decode instances are ready" in status.stdout
    rows = [line.split() for line in status.stdout.splitlines() if line.startswith("h")]
    assert ["h0", "10.77.0.10", "prefill", "0", "0", "2", "of", "2", "ready"] in [row[:9] for row in rows]
    assert ["h1", "10.77.0.11", "decode", "0", "0", "2", "of", "2", "ready"] in [row[:9] for row in rows]
    job.slurm.run(["scancel", job.id])
    job.wait_ended("CANCELLED")
    for name in ("h0_prefill_w0.out", "h0_prefill_w0.err", "h1_decode_w0.out", "h1_decode_w0.err", "h0_frontend_0.out", "h0_frontend_0.err",
                 "h0_config.json", "h1_config.json", "log.out", "log.err", "sbatch_script.sh", "metadata.json", "layout.tsv"):
        assert (job.logs / name).is_file(), name
    status = job.status(job.id)
    assert status.returncode == 1 and "CANCELLED" in status.stdout


@pytest.mark.long
def test_a_killed_rank_comes_back_and_a_killed_worker_ends_the_job(submit):
    job = submit(2, *SMALL, "--retries", "1")
    job.wait_healthy()
    kill_one(job.slurm, "h1", "--rank 1 ")
    wait_for(lambda: "1 of 2 ready" in job.status(job.id).stdout, 60, "status shows that a rank is missing")
    wait_for(lambda: job.status(job.id).returncode == 0, 120, "the rank is back")
    kill_one(job.slurm, "h1", "worker --model-path")  # the parent of the node's ranks
    wait_for(lambda: job.slurm.state(job.id) == "FAILED", 60, "the job has failed")
    assert "h1_decode_w0 has ended with status 137: see h1_decode_w0.err" in job.read("log.err")
    retry = Job.__new__(Job)
    retry.__dict__ = dict(job.__dict__, id=job.ids[1])
    retry.wait_healthy()  # its turn has come
    retry.ask()
    status = job.status()  # of the newest
    assert status.stdout.startswith(f"job {retry.id} ") and status.returncode == 0
    job.slurm.run(["scancel", retry.id])
    retry.wait_ended("CANCELLED")


@pytest.mark.long
def test_a_rank_that_outlives_the_script(submit):
    """Slurm kills the script, or ends the srun that it waits for, before a rank has ended: the folder in which the rank is registered is gone by
    then, and the rank does not make it again."""
    job = submit(2, *SMALL, "--use-sglang-commands")
    job.wait_healthy()
    assert (job.logs / "discovery").is_dir()
    stopped = kill_one(job.slurm, "h1", "--rank 1 ", signal.SIGSTOP)
    job.slurm.run(["scancel", job.id])
    wait_for(lambda: not (job.logs / "discovery").exists(), 30, "the folder is gone")
    with contextlib.suppress(StopIteration, KeyError):  # where it has ended
        kill_one(job.slurm, "h0", "slurm_script")
    os.kill(stopped, signal.SIGCONT)
    job.wait_ended("CANCELLED")
    assert "CANCELLED AT" in job.read("slurm.out") + job.read("log.err")


@pytest.mark.long
def test_the_time_limit(submit):
    job = submit(2, *SMALL, "--time-limit", "1", "--use-sglang-commands")
    job.wait_healthy(50)
    job.wait_ended("TIMEOUT", seconds=180)
    assert "Slurm ends the job: scancel, or the time limit" in job.read("log.out")
    assert "DUE TO TIME LIMIT" in job.read("log.err")


@pytest.mark.long
def test_a_job_that_cannot_become_healthy_ends(submit):
    job = submit(2, *SMALL, "--health-timeout", "3", "--prefill-args", "--dist-timeout 100 --init-expert-location /nowhere.json")
    job.wait_ended("FAILED", seconds=120)
    assert "/nowhere.json" in job.read("h0_prefill_w0.err") and "h0_prefill_w0 has ended with status 1" in job.read("log.err")
    assert "/nowhere.json" in job.status(job.id).stdout


@pytest.mark.long
def test_an_interface_that_is_not_there(submit):
    job = submit(2, *SMALL, "--network-interface", "enp138s0f0np0")
    job.wait_ended("FAILED", seconds=60)
    assert "has no IPv4 address on enp138s0f0np0; it has the interfaces lo eth0: give --network-interface" in job.read("log.err")


@pytest.mark.long
def test_a_profile_ends_the_job(submit):
    job = submit(2, *SMALL, "--profiler", "type=sglang; isl=16; osl=8; concurrencies=1x4; req-rate=inf")
    job.wait_ended("COMPLETED", seconds=HEALTHY_SECONDS)
    assert job.read("profile.out").count("requests") >= 2


@pytest.mark.long
@pytest.mark.parametrize("servers", [False, True], ids=["use-sglang-commands", "etcd-nats"])
def test_the_gb200_guides_job(submit, servers):
    """2 + 12 nodes of 4 ranks: 8 prefill and 48 decode ranks; and as its note says without --use-sglang-commands, with etcd and nats-server."""
    if servers and not (shutil.which("etcd") and shutil.which("nats-server")):
        pytest.skip("no etcd or nats-server: apt-get install etcd-server nats-server")
    begin = time.monotonic()
    job = submit(14, *GUIDE, *NARROW, *(() if servers else ("--use-sglang-commands",)))
    job.wait_healthy()
    print(f"2 + 12 nodes, 8 + 48 ranks on {os.cpu_count()} cores: healthy after {time.monotonic() - begin:.0f} s")
    job.ask()
    assert ("Discovery: etcd; request plane: nats" if servers else "Discovery: file; request plane: tcp") in job.read("log.out")
    job.slurm.run(["scancel", job.id])
    job.wait_ended("CANCELLED", seconds=120)
    for host, role in [(h, "prefill") for h in range(2)] + [(h, "decode") for h in range(2, 14)]:
        assert (job.logs / f"h{host}_{role}_w0.out").is_file() and (job.logs / f"h{host}_{role}_w0.err").is_file()


@pytest.mark.long
def test_several_workers_and_frontends(submit):
    """4 + 4 nodes of 8 ranks: two prefill and two decode workers of 16 ranks each, three frontends behind nginx where that is installed."""
    job = submit(8, "--prefill-nodes", "4", "--decode-nodes", "4", "--gpus-per-node", "8", "--prefill-workers", "2", "--decode-workers", "2",
                 "--enable-multiple-frontends", "--num-additional-frontends", "2", "--gpu-type", "h100",
                 "--", "--max-running-requests", "256", "--chunked-prefill-size", "512", "--max-total-tokens", "8192")
    job.wait_healthy()
    rows = [line.split("\t") for line in job.read("layout.tsv").splitlines()]
    frontends = [row for row in rows if row[0] == "frontend"]
    assert [row[3] for row in frontends] == ["h1", "h2", "h5"]
    for row in frontends:
        job.ask(f"http://{row[4]}:8000")
    if shutil.which("nginx"):
        assert job.url == "http://10.77.0.10:8000" and ["nginx", "0", "0", "h0", "10.77.0.10", "h0_nginx"] in rows
        job.ask()
        assert all(f"server {row[4]}:8000;" in job.read("nginx.conf") for row in frontends)
    workers = [(row[0], row[1], row[2], row[3]) for row in rows if row[0] in ("prefill", "decode")]
    assert workers == [(role, str(w), str(r), f"h{first + 2 * w + r}") for role, first in (("prefill", 0), ("decode", 4)) for w in range(2) for r in range(2)]
    job.slurm.run(["scancel", job.id])
    job.wait_ended("CANCELLED", seconds=120)
