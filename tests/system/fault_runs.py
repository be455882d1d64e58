"""The fault matrix: what happens to 8 clients x 100 requests while a part of the cluster dies, stops or is cut off.

    python fault_runs.py --repeats 20 --json results.json                 all rows
    python fault_runs.py --row decode-kill --row loss --repeats 3         some
    python fault_runs.py --json results.json --markdown                   the table of what was run before

Each run has a lab of its own (lab.py): two prefill and two decode workers, two frontends, three etcd, one nats-server and the
clients, each on a host, with the proof engine (`proof.py` is the oracle). A run is good when no token is wrong, no answer ends
clean but short, no more requests fail than the row allows, and after the drain nothing is left: no block, room, descriptor, key
or lease. Results are added to the file; `--markdown` prints the table of docs/reliability.md. Needs root.
"""
import argparse
import collections
import dataclasses
import json
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time

from cluster import Cluster, LoadRun, Settings, nixl_environment, real_nixl, wait_for
from conftest import BUILD
from lab import Lab
from proof import Load

PREFILL, DECODE, FRONTENDS, CLIENT, NATS, ETCD, HOSTS = (0, 1), (2, 3), (4, 5), 6, 7, (8, 9, 10), 11
ROUTER_MODES = ("round-robin", "random")  # random: the warm-up makes every pair's link
LOAD_SECONDS = 300
DRAIN_SECONDS = 15
KEYS_GONE_SECONDS = 20  # a dead worker's lease is 10 s, and etcd's next leader begins it again
OUTAGE_SECONDS = 600  # of etcd, with --long
LONG_TRANSFERS = {"prompt_tokens": (400, 1600), "new_tokens": (4, 16)}
LONG_ANSWERS = {"prompt_tokens": (1, 60), "new_tokens": (80, 200)}


@dataclasses.dataclass
class Scene:
    """A cluster in a lab, under load."""
    lab: Lab
    cluster: Cluster
    load: Load
    random: random.Random
    decode_flags: tuple
    run: LoadRun | None = None

    def worker(self, mode):
        """One of the two of its kind, by the run's seed."""
        return self.random.choice([w for w in self.cluster.workers if w.mode == mode])

    def wait_share(self, least, most):
        """Until a share of the requests between the two has ended; which, the seed says."""
        total = self.load.clients * self.load.requests
        self.run.wait_done(int(total * self.random.uniform(least, most)), LOAD_SECONDS)


@dataclasses.dataclass
class Row:
    """A line of the matrix: the fault, and what it may cost."""
    name: str
    what: str
    fault: object  # called with the scene once the load runs
    load: dict = dataclasses.field(default_factory=dict)
    may_fail: int = 0  # requests of a run, on frontends that have died
    etcd_nodes: int = 1
    rate_kbit: int = 0  # of the prefill workers' links, so that transfers last
    decode_flags: tuple = ()
    settings: dict = dataclasses.field(default_factory=dict)
    after: object = None  # called with the scene when the load has ended


# --- faults ---

def kill_worker(mode):
    def fault(scene):
        scene.wait_share(0.15, 0.4)
        scene.worker(mode).kill()
    return fault


def stop_worker(mode):
    """Stopped until the load has ended."""
    def fault(scene):
        scene.wait_share(0.15, 0.4)
        scene.worker(mode).kill(signal.SIGSTOP)
    return fault


def kill_before_prefill(scene):
    """What reaches a stopped worker is not begun when it dies."""
    scene.wait_share(0.15, 0.4)
    worker = scene.worker("prefill")
    worker.kill(signal.SIGSTOP)
    time.sleep(0.3)
    worker.kill()


def continue_all(scene):
    for worker in scene.cluster.workers:
        worker.kill(signal.SIGCONT)
    scene.cluster.wait_ready()


def kill_and_return(mode):
    """Comes back while the load runs."""
    def fault(scene):
        scene.wait_share(0.1, 0.3)
        worker = scene.worker(mode)
        worker.kill()
        scene.wait_share(0.5, 0.6)
        worker.start()
    return fault


def drain_both(scene):
    for mode, share in (("prefill", 0.2), ("decode", 0.5)):
        scene.wait_share(share, share + 0.2)
        worker = scene.worker(mode)
        status = worker.stop()
        assert status == 0, f"{worker.name} ended with status {status}"


def kill_frontend(scene):
    scene.wait_share(0.15, 0.4)
    scene.random.choice(scene.cluster.frontends).kill()


def kill_nats(scene):
    scene.wait_share(0.15, 0.3)
    scene.cluster.nats_server.kill()
    scene.wait_share(0.6, 0.7)
    scene.cluster.nats_server.start()


def kill_etcd(scene):
    """Gone until the load has ended."""
    scene.wait_share(0.1, 0.2)
    scene.cluster.etcd_servers.nodes[0].kill()


def return_etcd(scene):
    """Comes back; a worker that starts then is found."""
    scene.cluster.etcd_servers.nodes[0].start()
    scene.cluster.etcd_servers.wait_ready()
    newcomer = scene.cluster.worker(scene.lab.host(DECODE[0]), "decode", *scene.decode_flags)
    scene.cluster.wait_ready(60)
    assert newcomer.stop() == 0
    scene.cluster.wait_ready(60)


def kill_etcd_leader(scene):
    scene.wait_share(0.15, 0.3)
    leader = scene.cluster.etcd_servers.leader()
    leader.kill()
    scene.wait_share(0.6, 0.7)
    leader.start()


def cut(one_way):
    def fault(scene):
        scene.wait_share(0.15, 0.3)
        pair = [scene.random.choice(PREFILL), scene.random.choice(DECODE)]
        scene.random.shuffle(pair)
        scene.lab.partition(*pair, one_way=one_way)
    return fault


def heal(scene):
    scene.lab.heal()
    scene.cluster.wait_ready()


def power_off(hosts):
    def fault(scene):
        scene.wait_share(0.15, 0.4)
        scene.lab.power_off(scene.random.choice(hosts))
    return fault


def lose(percent):
    return lambda scene: scene.lab.loss(percent)


def nothing(_scene):
    pass


def rows():
    during = {"load": LONG_TRANSFERS, "rate_kbit": 500000}
    after = {"load": LONG_ANSWERS}
    return [
        Row("none", "nothing (for comparison)", nothing),
        Row("prefill-kill-before", "kill -9 of a prefill worker before the transfer", kill_before_prefill),
        Row("prefill-kill-during", "kill -9 of a prefill worker during transfers", kill_worker("prefill"), **during),
        Row("prefill-kill-after", "kill -9 of a prefill worker after the transfer", kill_worker("prefill"), **after),
        Row("prefill-stop", "SIGSTOP of a prefill worker", stop_worker("prefill"), after=continue_all),
        Row("prefill-stop-during", "SIGSTOP of a prefill worker during transfers", stop_worker("prefill"), after=continue_all, **during),
        Row("prefill-stop-after", "SIGSTOP of a prefill worker after the transfer", stop_worker("prefill"), after=continue_all, **after),
        Row("decode-kill", "kill -9 of a decode worker", kill_worker("decode")),
        Row("decode-kill-during", "kill -9 of a decode worker during transfers", kill_worker("decode"), **during),
        Row("decode-stop", "SIGSTOP of a decode worker", stop_worker("decode"), after=continue_all),
        Row("decode-stop-during", "SIGSTOP of a decode worker during transfers", stop_worker("decode"), after=continue_all, **during),
        Row("prefill-return", "kill -9 of a prefill worker, started again", kill_and_return("prefill")),
        Row("decode-return", "kill -9 of a decode worker, started again", kill_and_return("decode")),
        Row("drain", "SIGTERM of a prefill and a decode worker", drain_both),
        Row("power-prefill", "power off of a prefill host", power_off(PREFILL)),
        Row("power-decode", "power off of a decode host", power_off(DECODE)),
        Row("frontend-kill", "kill -9 of one of two frontends", kill_frontend, may_fail=4),
        Row("nats-kill", "kill -9 of nats-server, started again", kill_nats, settings={"request_plane": "nats"}),
        Row("etcd-gone", "single etcd gone", kill_etcd, after=return_etcd),
        Row("etcd-leader", "kill -9 of the leader of three etcd", kill_etcd_leader, etcd_nodes=3),
        Row("partition", "prefill and decode cut off from each other", cut(False), after=heal),
        Row("partition-one-way", "the same, one way", cut(True), after=heal),
        Row("loss", "5 % of all packets lost", lose(5), after=heal),
        Row("leave", "half of the clients disconnect, at every stage", nothing,
            load={"leave_share": 0.5, "prompt_tokens": (1, 1500)}),
        Row("kv-full", "decode workers out of KV", nothing, load={"prompt_tokens": (100, 500), "new_tokens": (50, 150)},
            decode_flags=("--max-total-tokens", "2048")),
    ]


# --- a run ---

def settings_of(row, options):
    more = {"request_plane": options.request_plane, "transfer": options.transfer} | row.settings
    flags = ("--threads", "1", "--max-total-tokens", "65536")
    environment = {"UCX_NET_DEVICES": "eth0"}
    if options.transfer == "nixl":
        library, missing = real_nixl()
        if missing:
            sys.exit(missing)
        environment |= nixl_environment(library)
    return Settings(discovery="etcd", load_format="proof", worker_flags=flags, environment=environment, **more)


def build(row, lab, cluster):
    cluster.etcd(*(lab.host(i) for i in ETCD[:row.etcd_nodes]))
    cluster.nats(lab.host(NATS))
    for index in PREFILL:
        cluster.worker(lab.host(index), "prefill")
    for index in DECODE:
        cluster.worker(lab.host(index), "decode", *row.decode_flags)
    for index, mode in zip(FRONTENDS, ROUTER_MODES):
        cluster.frontend(lab.host(index), "--router-mode", mode)
    cluster.wait_ready()


def load_of(row, cluster, options, seed):
    more = {"clients": options.clients, "requests": options.requests, "seed": seed} | row.load
    if options.long and row.name == "etcd-gone":
        more["pause_s"] = OUTAGE_SECONDS / options.requests
    return Load(urls=[f.url for f in cluster.frontends], **{"prompt_tokens": (1, 600), "new_tokens": (8, 64), "shared_tokens": 128} | more)


def warm_up(scene, load):
    """Every link is made and every buffer filled once; returns the descriptors that are open then."""
    warm = dataclasses.replace(load, requests=12, seed=load.seed + 1000000, pause_s=0, leave_share=0)
    outcomes = scene.cluster.load(scene.lab.host(CLIENT), warm).wait(LOAD_SECONDS)
    assert all(o.kind == "ok" for o in outcomes), next(o for o in outcomes if o.kind != "ok")
    wait_for(lambda: not scene.cluster.leftovers(), DRAIN_SECONDS, "nothing is held after the warm-up")
    for part in (*scene.cluster.frontends, *scene.cluster.workers):
        write_descriptors(part, "before")
    return scene.cluster.descriptors()


def write_descriptors(part, when):
    lines = (f"{number} {what}\n" for number, what in sorted(part.process.descriptors().items()))
    (part.folder / f"{part.name}-descriptors-{when}.log").write_text("".join(lines))


def more_descriptors(cluster, before):
    """Of processes that have lived since: those that are open and were not. One that started since has no `before`."""
    return {name: count - before[name] for name, count in cluster.descriptors().items() if count > before.get(name, count)}


def settle(look, seconds):
    """look() until it is empty; what it is at the end."""
    try:
        wait_for(lambda: not look(), seconds, "nothing is left")
    except AssertionError:
        pass
    return look()


def drain(scene, before):
    """What is left when all requests have ended, and then when all processes have."""
    cluster = scene.cluster
    left = {"held": settle(cluster.leftovers, DRAIN_SECONDS),
            "descriptors": settle(lambda: more_descriptors(cluster, before), DRAIN_SECONDS)}
    for part in (*cluster.frontends, *cluster.workers):
        if part.process is not None and part.life in left["descriptors"]:
            write_descriptors(part, "after")
    cluster.stop()
    left["keys"] = settle(cluster.etcd_servers.keys, KEYS_GONE_SECONDS)
    left["leases"] = settle(cluster.etcd_servers.leases, KEYS_GONE_SECONDS)
    return {what: found for what, found in left.items() if found}


def counted(cluster):
    """What the frontends that live have counted: their own, and what their workers tell to each of them."""
    pages = [f.metrics() for f in cluster.frontends if f.alive]

    def sums(name):
        return [sum(page[name].values()) for page in pages]

    return {"migrations": sum(sums("proa:cluster_migrations_total")), "transfers": max(sums("proa:kv_transfers_total")),
            "transfers_failed": max(sums("proa:kv_transfers_failed_total")),
            "retractions": max(sums("proa:num_retracted_requests_total"))}


def summarise(row, load, outcomes, dead, left):
    kinds = collections.Counter(o.kind for o in outcomes)
    slowest = max(outcomes, key=lambda o: o.gap_s)
    bad = [f"{o.kind}: {o.detail}" for o in outcomes if o.kind in ("failed", "wrong", "short")]
    excused = sum(o.kind == "failed" and o.url in dead for o in outcomes)
    good = not (kinds["wrong"] or kinds["short"] or left) and kinds["failed"] == excused <= row.may_fail
    return {"good": good and len(outcomes) == load.clients * load.requests, "requests": len(outcomes),
            **{kind: kinds[kind] for kind in ("ok", "left", "failed", "wrong", "short")},
            "gap_s": round(slowest.gap_s, 3), "first_token_s": round(max(o.first_token_s for o in outcomes), 3),
            "seconds": round(max(o.begun + o.seconds for o in outcomes) - min(o.begun for o in outcomes), 1),
            "leftovers": left, "details": bad[:5]}


def play(row, lab, cluster, options, seed):
    build(row, lab, cluster)
    load = load_of(row, cluster, options, seed)
    scene = Scene(lab, cluster, load, random.Random(seed), row.decode_flags)
    before = warm_up(scene, load)
    for index in PREFILL if row.rate_kbit else ():
        lab.rate(index, row.rate_kbit)
    scene.run = cluster.load(lab.host(CLIENT), load)
    row.fault(scene)
    outcomes = scene.run.wait(LOAD_SECONDS + (OUTAGE_SECONDS if load.pause_s else 0))
    if row.after is not None:
        row.after(scene)
    dead = {f.url for f in cluster.frontends if not f.alive}
    counts = counted(cluster)
    return summarise(row, load, outcomes, dead, drain(scene, before)) | counts


def run_once(row, options, repeat):
    """One run, whatever becomes of it."""
    seed = options.seed + repeat
    result = {"row": row.name, "seed": seed, "transfer": options.transfer, "begun": time.strftime("%Y-%m-%d %H:%M:%S")}
    with tempfile.TemporaryDirectory(prefix="proa-faults-") as folder:
        cluster = Cluster(BUILD / "proa", folder, settings_of(row, options))
        with Lab(HOSTS, seconds=3600, seed=seed) as lab, cluster:
            try:
                result |= play(row, lab, cluster, options, seed)
            except (AssertionError, OSError) as error:
                result |= {"good": False, "error": f"{type(error).__name__}: {error}"}
            if not result["good"] and options.logs:
                keep_logs(cluster, pathlib.Path(options.logs) / f"{row.name}-{seed}")
    return result


def keep_logs(cluster, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for log in cluster.folder.glob("*.log"):
        (folder / log.name).write_bytes(log.read_bytes())


# --- the table ---

def spread(numbers, digits=1):
    return f"{statistics.median(numbers):.{digits}f} / {max(numbers):.{digits}f}" if numbers else "-"


def markdown(results):
    lines = ["| fault | runs | requests | failed (most in a run) | wrong | short | longest pause, s (median / most) | "
             "moved (median) | left over |", "|---|---|---|---|---|---|---|---|---|"]
    for row in rows():
        runs = [r for r in results if r["row"] == row.name and "error" not in r]
        broken = sum(r["row"] == row.name and "error" in r for r in results)
        if not runs and not broken:
            continue
        total = {k: sum(r[k] for r in runs) for k in ("requests", "failed", "wrong", "short")}
        most = max((r["failed"] for r in runs), default=0)
        left = sum(bool(r["leftovers"]) for r in runs)
        count = f"{len(runs)}" + (f" (and {broken} broken off)" if broken else "")
        lines.append(f"| {row.what} | {count} | {total['requests']} | {total['failed']} ({most}) | {total['wrong']} | "
                     f"{total['short']} | {spread([r['gap_s'] for r in runs])} | "
                     f"{statistics.median([r['migrations'] for r in runs] or [0]):.0f} | {left} |")
    return "\n".join(lines)


def describe(result):
    if "error" in result:
        return f"{result['row']:22} {result['seed']:4} BROKEN {result['error'][:3000]}"
    words = " ".join(f"{k} {result[k]}" for k in ("ok", "left", "failed", "wrong", "short") if result[k])
    verdict = "good" if result["good"] else "BAD "
    more = "".join(f"\n    {d}" for d in result["details"] + ([str(result["leftovers"])] if result["leftovers"] else []))
    return (f"{result['row']:22} {result['seed']:4} {verdict} {words}; pause {result['gap_s']} s; {result['seconds']} s; "
            f"migrations {result['migrations']:.0f}, retractions {result['retractions']:.0f}{more}")


def parse_arguments():
    names = [row.name for row in rows()]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--row", action="append", choices=names, help="this row alone; may be given several times")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=100, help="of each client")
    parser.add_argument("--seed", type=int, default=1, help="of the first repeat")
    parser.add_argument("--transfer", default="ucx")
    parser.add_argument("--request-plane", default="tcp")
    parser.add_argument("--long", action="store_true", help=f"etcd is gone for {OUTAGE_SECONDS} s")
    parser.add_argument("--json", type=pathlib.Path, help="results are added to this file")
    parser.add_argument("--logs", help="folder for the logs of runs that are not good")
    parser.add_argument("--markdown", action="store_true", help="print the table of the file and run nothing")
    return parser.parse_args()


def main():
    options = parse_arguments()
    results = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    if options.markdown:
        print(markdown(results))
        return 0
    failures = 0
    for row in rows():
        for repeat in range(options.repeats if not options.row or row.name in options.row else 0):
            result = run_once(row, options, repeat)
            results.append(result)
            failures += not result["good"]
            print(describe(result), flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
    print(markdown(results))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
