"""`proa slurm submit` up to sbatch: the script that it renders, what it refuses, what it keeps. sbatch, where it is called, is a stand-in;
with a real Slurm: test_slurm_cluster.py."""
import json
import os
import shutil
import subprocess

import pytest

from cluster import TINY
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
    # 32 as in the guide where they divide, else as many as do: tiny-r1 has 32 experts
    assert value(prefill, "--ep-num-redundant-experts") == "32" and value(decode, "--ep-num-redundant-experts") == "64"
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
    assert "give submit, wait or template" in run("slurm", "begin").stderr
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
    assert "scancel 41 42 43" in done.stdout


@pytest.mark.parametrize("text, complaint", [("echo 'sbatch: error: invalid account' >&2; exit 1", "invalid account"), ("echo hello", "has refused")])
def test_sbatch_refuses(submit, tmp_path, text, complaint):
    done = submit(*NONE, path=stand_in(tmp_path / "bin", text))
    assert done.returncode == 1 and complaint in done.stderr and done.stdout == ""
    assert os.listdir(tmp_path / "logs") == []


def test_without_slurm(submit, tmp_path):
    done = submit(*NONE, path=tmp_path)
    assert done.returncode == 1 and "sbatch is not in PATH" in done.stderr
