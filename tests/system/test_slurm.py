"""`proa slurm submit` up to sbatch: the script that it renders, what it refuses, what it keeps. sbatch, where it is called, is a stand-in;
with a real Slurm: test_slurm_cluster.py."""
import http.server
import json
import os
import shutil
import signal
import subprocess
import threading

import pytest

from cluster import TINY, wait_for
from conftest import clean_environment

# The GB200 guide's submit line, but for paths; its template is built in.
GB200 = ("--account", "team", "--gpus-per-node", "4", "--network-interface", "enp138s0f0np0", "--gpu-type", "gb200", "--use-sglang-commands",
         "--prefill-nodes", "2", "--decode-nodes", "12")
NONE = ("--container-image", "none")
VARIANTS = {
    "gb200": GB200,
    "defaults": (),
    "servers": ("--discovery-backend", "etcd", "--request-plane", "nats", "--disable-config-dump"),
    "no-servers": ("--discovery-backend", "file", "--request-plane", "tcp", "--gpu-type", "h100"),
    "frontends": ("--enable-multiple-frontends", "--num-additional-frontends", "2", "--prefill-nodes", "4", "--decode-nodes", "4",
                  "--prefill-workers", "2", "--decode-workers", "2", "--gpu-type", "h200"),
    "profiler": ("--profiler", "type=sglang; isl=8192; osl=1024; concurrencies=16x2048; req-rate=inf"),
}


@pytest.fixture
def submit(proa, tmp_path):
    """submit(...) runs `proa slurm submit` with tiny-r1 in an empty folder."""

    def run(*arguments, cwd=tmp_path, path=None, model=TINY):
        environment = clean_environment(**({"PATH": path} if path else {}))
        return subprocess.run([proa, "slurm", "submit", "--model-dir", str(model), *map(str, arguments)], cwd=cwd, capture_output=True,
                              text=True, timeout=60, env=environment)

    return run


def script_of(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def array(script, name):
    """The words of a bash array of the script, as bash reads them."""
    begin = script.index(f"\n{name}=(") + 1
    text = script[begin:script.index("\n)\n", begin) + 3] + f'printf "%s\\n" "${{{name}[@]}}"'
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout.splitlines()


def value(words, flag):
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("image", ["none", "registry/proa:1 beta"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scripts_pass_shellcheck(submit, tmp_path, variant, image):
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck: apt-get install shellcheck")
    script = script_of(submit("--dry-run", "--container-image", image, "--config-dir", TINY, *VARIANTS[variant]))
    checked = subprocess.run(["shellcheck", "-"], input=script, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout
    assert os.listdir(tmp_path) == []  # a dry run writes nothing


def test_the_gb200_guides_line(submit):
    script = script_of(submit("--dry-run", *NONE, "--config-dir", TINY, *GB200))
    for line in ("#SBATCH --nodes=14", "#SBATCH --account=team", "#SBATCH --partition=batch", "#SBATCH --time=04:00:00",
                 "#SBATCH --job-name=dynamo_setup", "#SBATCH --ntasks-per-node=1"):
        assert line in script.splitlines()
    prefill, decode = array(script, "PREFILL_ARGS"), array(script, "DECODE_ARGS")
    assert [value(prefill, f"--{f}") for f in ("nnodes", "tp-size", "dp-size", "max-running-requests", "disaggregation-bootstrap-port")] == \
        ["2", "8", "8", "6144", "30001"]
    assert [value(decode, f"--{f}") for f in ("nnodes", "tp-size", "dp-size", "max-running-requests", "cuda-graph-bs")] == \
        ["12", "48", "48", "36864", "768"]
    assert "--enable-dp-attention" in prefill and value(prefill, "--deepep-mode") == "normal"
    assert value(decode, "--deepep-mode") == "low_latency" and value(decode, "--disaggregation-mode") == "decode"
    # 32 as in the guide where they divide, else the nearest number that does: tiny-r1 has 32 experts
    assert value(prefill, "--ep-num-redundant-experts") == "32" and value(decode, "--ep-num-redundant-experts") == "16"
    assert "etcd" not in script.split("# ---- frontends")[0].split("discovery='file'")[1].split("if [")[0]


def test_flags_are_overridden(submit):
    script = script_of(submit("--dry-run", *NONE, "--prefill-args", "--context-length=100 --no-disable-radix-cache --tp 8", "--decode-args",
                              "--page-size '16'", "--frontend-args", "--router-mode kv", "--gpus-per-node", "4", "--",
                              "--context-length", "512", "--mem-fraction-static", "0.5"))
    prefill, decode = array(script, "PREFILL_ARGS"), array(script, "DECODE_ARGS")
    assert value(prefill, "--context-length") == "100" and prefill.count("--context-length") == 1
    assert "--disable-radix-cache" not in prefill and "--disable-radix-cache" in decode
    assert value(decode, "--context-length") == "512" and value(decode, "--page-size") == "16"
    assert value(prefill, "--mem-fraction-static") == value(decode, "--mem-fraction-static") == "0.5"
    assert value(prefill, "--tp-size") == "8" and "--tp" not in prefill
    assert array(script, "FRONTEND_ARGS") == ["--router-mode", "kv"]


def test_names_of_folders_are_quoted(submit, tmp_path):
    place = tmp_path / "it's a \"place\" $HOME `x`"
    place.mkdir()
    (place / "mo del").symlink_to(TINY)
    copy = place / "checkpoint's copy"
    shutil.copytree(TINY, copy)
    script = script_of(submit("--dry-run", *NONE, cwd=place, model=copy))
    assert value(array(script, "PREFILL_ARGS"), "--model-path") == str(copy)
    contained = script_of(submit("--dry-run", "--container-image", "an image's", "--config-dir", place, cwd=place, model=copy))
    assert array(contained, "PREFILL_ARGS")[:2] == ["--model-path", "/model"]
    text = contained[contained.index("MOUNTS="):]
    words = subprocess.run(["bash", "-c", "LOG_DIR='/l d'; " + text[:text.index("\n)\n") + 3] + 'printf "%s\\n" "${CONTAINER[@]}"'],
                           capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[0] == "--container-image=an image's"
    assert words[-1] == f"--container-mounts={copy}:/model,{place}:/configs,/l d:/logs"


REFUSED = {
    "nodes that do not divide": (("--prefill-nodes", "3", "--prefill-workers", "2"), "--prefill-nodes 3 does not divide by --prefill-workers 2"),
    "an unknown type": (("--gpu-type", "b200"), "h100, h200, gb200, gb200-fp8 or gb300"),
    "no configuration": (("--config-dir", "/nowhere"), "--config-dir /nowhere: No such file or directory"),
    "a file": (("--config-dir", TINY / "config.json"), "is no folder"),
    "a name with a blank": (("--job-name", "a b"), "--job-name \"a b\": it must be"),
    "frontends alone": (("--num-additional-frontends", "1"), "needs --enable-multiple-frontends"),
    "too many frontends": (("--enable-multiple-frontends", "--num-additional-frontends", "3"), "2 at most"),
    "an unknown flag": (("--", "--contxt-length", "5"), "did you mean --context-length?"),
    "a bad value": (("--decode-args", "--page-size 65"), "flags of a decode worker: --page-size is \"65\""),
    "a flag of the job's": (("--", "--node-rank", "1"), "the job sets --node-rank itself"),
    "no flag": (("--", "12"), "\"12\" is no flag"),
    "a stray word": (("tiny",), "unexpected argument \"tiny\""),
    "an open quote": (("--prefill-args", "--model-path 'x"), "has no end"),
    "experts that do not divide": (("--prefill-args", "--ep-num-redundant-experts 1"), "16 redundant ones would"),
    "no location": (("--use-init-location",), "--use-init-location needs --config-dir"),
    "a missing location": (("--use-init-location", "--config-dir", TINY), "prefill_dsr1-0528_in1000out1000_num40000.json is absent"),
    "a bad profiler": (("--profiler", "type=gap; isl=1"), "type is manual, sglang or vllm"),
    "a missing template": (("--template", "job_script_template.j2"), "job_script_template.j2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said(submit, case):
    arguments, complaint = REFUSED[case]
    done = submit("--dry-run", *NONE, *arguments)
    assert done.returncode in (1, 2) and done.stdout == ""
    assert complaint in done.stderr and done.stderr.count("\n") == 1


def test_what_is_needed(run, submit, tmp_path):
    assert "--container-image is missing" in run("slurm", "submit", "--model-dir", TINY).stderr
    assert "--model-dir is missing" in run("slurm", "submit", *NONE).stderr
    assert "--model-dir /nowhere: No such file" in submit(*NONE, model="/nowhere").stderr
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in submit(*NONE, model=tmp_path / "empty").stderr
    assert "give submit, status, wait or template" in run("slurm", "begin").stderr
    colon = tmp_path / "a:b"
    shutil.copytree(TINY, colon)
    assert "cannot be mounted" in submit("--dry-run", "--container-image", "x", model=colon).stderr
    assert submit("--dry-run", *NONE, model=colon).returncode == 0


def test_own_templates(submit, run, tmp_path):
    built_in = run("slurm", "template").stdout
    (tmp_path / "own.j2").write_text("#!/bin/bash\n# {{ total_nodes }} {{ shell.model_dir }} {{ gpu_type }}\n")
    assert script_of(submit("--dry-run", *NONE, "--template", "own.j2")) == f"#!/bin/bash\n# 4 {TINY} gb200-fp8\n"
    (tmp_path / "same.j2").write_text(built_in)
    stamp = lambda script: [line for line in script.splitlines() if "Made by" not in line]
    assert stamp(script_of(submit("--dry-run", *NONE, "--template", "same.j2"))) == stamp(script_of(submit("--dry-run", *NONE)))
    (tmp_path / "bad.j2").write_text("#!/bin/bash\n{% if %}\n")
    bad = submit("--dry-run", *NONE, "--template", "bad.j2")
    assert bad.returncode == 1 and "bad.j2: template line 2" in bad.stderr


def stand_in(folder, text):
    """A folder for PATH in which sbatch notes its arguments and says `text`."""
    folder.mkdir()
    sbatch = folder / "sbatch"
    sbatch.write_text(f"#!/bin/bash\nprintf '%s\\n' \"$*\" >>{folder}/calls\n{text}\n")
    sbatch.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_what_is_kept(submit, tmp_path):
    path = stand_in(tmp_path / "bin", "n=$(wc -l <\"$(dirname \"$0\")/calls\"); cp \"${@: -1}\" /dev/null && echo note; echo Submitted batch job $((40 + n))")
    done = submit(*NONE, "--retries", "2", "--extra-slurm-args", "qos=high", "--extra-slurm-args", "--comment=a b", path=path)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    assert [c.rsplit(" ", 1)[0] for c in calls] == ["--qos=high --comment=a b"] + [
        f"--dependency=afternotok:{ids} --kill-on-invalid-dep=yes --qos=high --comment=a b" for ids in ("41", "41:42")]
    assert sorted(os.listdir(tmp_path / "logs")) == ["41", "42", "43"]
    kept = tmp_path / "logs" / "42"
    metadata = json.loads((kept / "metadata.json").read_text())
    assert metadata["job_id"] == "42" and metadata["total_nodes"] == 4 and metadata["decode_instances"] == 16
    assert (kept / "sbatch_script.sh").read_text().startswith("#!/bin/bash\n#SBATCH --job-name=dynamo_setup\n")
    assert "proa slurm status 41" in done.stdout and "scancel 41 42 43" in done.stdout


@pytest.mark.parametrize("text, complaint", [("echo 'sbatch: error: invalid account' >&2; exit 1", "invalid account"), ("echo hello", "has refused")])
def test_sbatch_refuses(submit, tmp_path, text, complaint):
    done = submit(*NONE, path=stand_in(tmp_path / "bin", text))
    assert done.returncode == 1 and complaint in done.stderr and done.stdout == ""
    assert os.listdir(tmp_path / "logs") == []


def test_without_slurm(submit, tmp_path):
    done = submit(*NONE, path=tmp_path)
    assert done.returncode == 1 and "sbatch is not in PATH" in done.stderr


# ---- the script's end ----

# Steps that do not care for signals, on two nodes.
STAND_INS = {
    "scontrol": "echo n0; echo n1",
    "scancel": "exit 0",
    "srun": """case "$*" in *SLURMD_NODENAME*) echo n0 127.0.0.1 lo; echo n1 127.0.0.2 lo; exit ;; esac
trap '' TERM
while [ ! -e "$ENDED" ]; do sleep 0.1; done""",
}


def test_a_script_that_is_killed_leaves_only_its_folder(submit, tmp_path):
    """Slurm kills the script when KillWait of slurm.conf is over, while it waits for its steps: what must be gone is gone by then."""
    script = tmp_path / "job.sh"
    script.write_text(script_of(submit("--dry-run", *NONE, "--prefill-nodes", "1", "--decode-nodes", "1", "--use-sglang-commands")))
    binary, logs = tmp_path / "bin", tmp_path / "logs"
    binary.mkdir()
    logs.mkdir()
    for name, text in STAND_INS.items():
        (binary / name).write_text(f"#!/bin/bash\n{text}\n")
        (binary / name).chmod(0o755)
    environment = clean_environment(PATH=f"{binary}:/usr/bin:/bin", ENDED=str(tmp_path / "ended"), SLURM_JOB_ID="7",
                                    SLURM_SUBMIT_DIR=str(tmp_path), SLURM_JOB_NODELIST="n[0-1]")
    with open(logs / "slurm-7.out", "wb") as output:
        job = subprocess.Popen(["bash", str(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        wait_for((logs / "7" / "url").exists, 60, "the steps run")
        assert (logs / "7" / "discovery").is_dir()
        (logs / "7" / "discovery" / "v1").mkdir()
        job.send_signal(signal.SIGTERM)
        wait_for(lambda: not (logs / "7" / "discovery").exists(), 10, "the folder is gone, before the steps are given up")
        assert job.poll() is None
    finally:
        job.kill()
        job.wait()
        (tmp_path / "ended").touch()
    assert os.listdir(logs) == ["7"]
    assert "Slurm ends the job" in (logs / "7" / "log.out").read_text()


# ---- status ----

LAYOUT = """\
frontend\t0\t0\tn0\t127.0.0.1\tn0_frontend_0
prefill\t0\t0\tn0\t10.0.0.1\tn0_prefill_w0
decode\t0\t0\tn1\t10.0.0.2\tn1_decode_w0
a line that is none
decode\t0\t1\tn2\t10.0.0.3\tn2_decode_w0
"""
SCONTROL = "echo 'JobId=7 JobName=x'; echo '   JobState=RUNNING Reason=None'; echo '   RunTime=00:01:02 TimeLimit=04:00:00 ExitCode=0:0'"


@pytest.fixture
def job_folder(tmp_path):
    logs = tmp_path / "logs" / "7"
    logs.mkdir(parents=True)
    (logs / "metadata.json").write_text(json.dumps({"job_name": "x", "prefill_instances": 2, "decode_instances": 4, "prefill_nodes": 1,
                                                    "decode_nodes": 2}))
    (logs / "layout.tsv").write_text(LAYOUT)
    (logs / "n1_decode_w0.err").write_text("10:00:00.000 info  rank 0 progress: loading  [#####---]  45%  1.4 GB of 2.7 GB\n"
                                           "10:00:01.000 info  rank 0 other: something\n")
    (logs / "n2_decode_w0.err").write_text("10:00:00.000 error rank 3 model: shard 5 is cut off\n" + "10:00:01.000 warn  rank 3 x: y\n" * 100)
    binary = tmp_path / "bin"
    binary.mkdir()
    return logs


def status_of(run, tmp_path, scontrol, *arguments):
    program = tmp_path / "bin" / "scontrol"
    program.write_text(f"#!/bin/bash\n{scontrol}\n")
    program.chmod(0o755)
    return subprocess.run([run, "slurm", "status", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env=clean_environment(PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin"))


def instance(component, address, status="ready"):
    return {"component": component, "endpoint": "generate", "status": status, "transport": {"tcp": f"{address}:4000"}}


@pytest.fixture
def health():
    """health(200, [instances]) is the URL of a frontend that says so."""
    servers = []

    def make(code, instances):
        body = json.dumps({"status": "healthy", "endpoints": ["generate"], "instances": instances}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


ALL = [instance("prefill", "10.0.0.1"), instance("prefill", "10.0.0.1"), instance("backend", "10.0.0.2"), instance("backend", "10.0.0.2"),
       instance("backend", "10.0.0.3"), instance("backend", "10.0.0.3")]


def test_status_of_a_service_that_begins(proa, job_folder, tmp_path, health):
    (job_folder / "url").write_text(health(503, ALL[:3] + [instance("backend", "10.0.0.3", "connecting")]) + "\n")
    done = status_of(proa, tmp_path, SCONTROL)
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "job 7 x: RUNNING, 00:01:02 of 04:00:00"
    assert "not healthy" in lines[1] and lines[1].endswith("2 of 2 prefill and 1 of 4 decode instances are ready")
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.startswith("n") and " decode " in line}
    assert rows["n1"] == "n1 10.0.0.2 decode 0 0 1 of 2 ready 10:00:00.000 info rank 0 progress: loading [#####---] 45% 1.4 GB of 2.7 GB"
    assert rows["n2"] == "n2 10.0.0.3 decode 0 1 0 of 2 ready"
    assert lines[lines.index("last errors") + 1:] == ["n2_decode_w0.err: 10:00:00.000 error rank 3 model: shard 5 is cut off"]


def test_status_of_a_healthy_service(proa, job_folder, tmp_path, health):
    done = status_of(proa, tmp_path, SCONTROL, "7", "--url", health(200, ALL))
    assert done.returncode == 0 and "service: healthy at http://127.0.0.1" in done.stdout


def test_status_of_a_job_that_slurm_has_forgotten(proa, job_folder, tmp_path):
    done = status_of(proa, tmp_path, "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert done.returncode == 1
    assert done.stdout.startswith("job 7 x: state unknown: slurm_load_jobs error: Invalid job id specified\n"
                                  "service: the job has not said where its service is\n")


def test_status_without_a_job(run, tmp_path, proa):
    empty = subprocess.run([proa, "slurm", "status"], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=clean_environment())
    assert empty.returncode == 1 and "no logs/JOB here" in empty.stderr
    assert "logs/12 is absent" in run("slurm", "status", "12").stderr
    assert "\"../x\" is no job" in run("slurm", "status", "../x").stderr


def test_wait(run, health):
    url = health(200, ALL)
    done = run("slurm", "wait", "--url", f"{url},{url}", "--prefill-instances", 2, "--decode-instances", 4)
    assert done.returncode == 0 and "Model is ready: 2 prefill and 4 decode instances" in done.stdout
    late = run("slurm", "wait", "--url", url, "--prefill-instances", 3, "--decode-instances", 5, "--health-timeout", 1)
    assert late.returncode == 1 and "Model is not ready, waiting for 1 prefills and 1 decodes to spin up" in late.stdout
    assert "not healthy after 1 s" in late.stderr
    assert run("slurm", "wait").returncode == 2
    silent = run("slurm", "wait", "--url", "http://127.0.0.1:1", "--health-timeout", 1)
    assert silent.returncode == 1 and "no frontend answers yet" in silent.stderr
