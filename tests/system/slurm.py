"""A Slurm cluster on the hosts of a lab (lab.py): slurmctld on the first one, slurmd on each, no munge, whole nodes.

    with Slurm(lab(4), folder) as slurm:
        done = slurm.run(["sbatch", "script.sh"], cwd=folder)
        slurm.wait_state("1", "RUNNING")
"""
import os
import pathlib
import shutil
import subprocess
import time

from cluster import wait_for
from conftest import clean_environment

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
START_SECONDS = 60
DAEMONS = ("slurmctld -D", "slurmd -D", ": slurmscriptd")
CONF = """\
ClusterName=lab
SlurmctldHost=h0({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
ReturnToService=2
SlurmctldTimeout=120
SlurmdTimeout=300
InactiveLimit=0
KillWait=30
MinJobAge=600
CommunicationParameters=NoAddrCache
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no Slurm here, or None."""
    absent = [p for p in PROGRAMS if shutil.which(p) is None]
    return f"no {', '.join(absent)}: apt-get install slurm-wlm" if absent else None


def inside(host):
    return ["nsenter", "--target", str(host.pid), "--net", "--uts", "--ipc", "--pid", "--mount", "--"]


class Slurm:
    def __init__(self, lab, folder):
        self.lab = lab
        self.folder = pathlib.Path(folder)
        self.hosts = [lab.host(i) for i in range(lab.host_count)]
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons = []

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir()
        nodes = [f"NodeName={h.name} NodeAddr={h.address} CPUs=8 RealMemory=4000 State=UNKNOWN" for h in self.hosts]
        (self.folder / "slurm.conf").write_text(CONF.format(folder=self.folder, address=self.hosts[0].address, nodes="\n".join(nodes)))
        # no cgroup is used; which kind there would be must be said, since the hosts' /sys is bare
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for host in self.hosts:
            (self.folder / "spool" / host.name).mkdir(parents=True)
        self._start(self.hosts[0], "slurmctld")
        for host in self.hosts:
            self._start(host, "slurmd")
        wanted = f"{len(self.hosts)} idle"
        wait_for(lambda: self.ask("sinfo", "-h", "-o", "%D %t") == wanted, START_SECONDS, "all nodes are idle")
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            for path in sorted(self.folder.glob("slurm*.log")):
                print(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        for daemon in self._daemons:
            daemon.end()

    def _start(self, host, program):
        log = self.folder / f"{program}.{host.name}.out"
        self._daemons.append(host.popen(program, [program, "-D"], log, self.environment))

    def go_first(self):
        """Dozens of ranks on few processors leave out those that are silent for 2.5 s: what runs on the hosts, and the switch between them, goes
        before other work of this machine, the switch before all. Each step is a session, and the kernel weighs sessions before processes
        (sched(7), autogroup)."""
        ranks = [pid for some in self.processes().values() for pid, _ in some]
        for pid, nice in [(self.lab.switch_pid, "-20"), *((pid, "-15") for pid in ranks)]:
            try:
                pathlib.Path(f"/proc/{pid}/autogroup").write_text(nice)
            except OSError:
                pass  # it has ended, or the kernel has no such thing

    def run(self, command, cwd=None, timeout=120, **environment):
        """A command on the first host, with Slurm's and these variables."""
        return subprocess.run([*inside(self.hosts[0]), "env", "-C", str(cwd or self.folder), *map(str, command)], capture_output=True,
                              text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                              env=clean_environment(**self.environment, **environment))

    def ask(self, *command):
        """What it prints; "" when it fails, as while slurmctld begins."""
        done = self.run(command, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    def job(self, job_id):
        """{"JobState": "RUNNING", ...} of a job."""
        return dict(word.partition("=")[::2] for word in self.ask("scontrol", "show", "job", job_id).split())

    def state(self, job_id):
        return self.job(job_id).get("JobState", "")

    def wait_state(self, job_id, state, seconds):
        wait_for(lambda: self.state(job_id) == state, seconds, f"job {job_id} is {state}")

    def processes(self):
        """{host: [command line, ...]} of what runs on the hosts, but for their inits and Slurm's daemons."""
        rooms = {os.readlink(f"/proc/{h.pid}/ns/pid"): h for h in self.hosts}
        found = {}
        for entry in os.listdir("/proc"):
            try:
                host = entry.isdigit() and rooms.get(os.readlink(f"/proc/{entry}/ns/pid"))
                command = host and pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue  # it has ended
            if command and int(entry) != host.pid and not command.startswith(DAEMONS):
                found.setdefault(host.name, []).append((int(entry), command))
        return found

    def wait_quiet(self, seconds):
        """Until nothing of any job is left on the hosts."""
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, f"after {seconds} s there is still {left}"
            time.sleep(0.1)
