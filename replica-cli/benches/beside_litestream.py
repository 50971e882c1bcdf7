#!/usr/bin/env python3
"""Measures `replica` beside Litestream in one run, on the same replicas.

    cargo build --release --workspace --bins --examples
    PATH=$PATH:/where/litestream/is python3 replica-cli/benches/beside_litestream.py

Needs Python 3 (standard library only), about 8 GiB of scratch and, for the ratios, `litestream`
0.5.16 or later on the PATH; without it only `replica` is measured. The replicas are in a folder,
or with `--store s3` in SeaweedFS (`weed`, found as $WEED) and with `--store sftp` on OpenSSH
(`sshd`), which are started for the run on 127.0.0.1; `--rtt MS` adds a round trip. Restores: a database of 1 GiB
from a full file alone (`snap`), from a snapshot with compactions (`levels`) and from a full file
with 1,000 small ones (`l0`); beside them, writing the restored bytes and syncing them. Listings:
100,000 files. Every figure is a whole process: wall clock, CPU and peak memory as the kernel
counted them. Outputs of the tools are compared byte for byte.
"""
import argparse, atexit, hashlib, os, resource, shutil, statistics, subprocess, sys, tempfile, threading, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target")), "release")
sys.path.insert(0, os.path.join(TOP, ".ci"))
import servers


class Folder:
    """The replicas where they were made."""

    def __init__(self, trees, work, rtt):
        self.trees = trees

    def fields(self, case):
        return "      type: file\n      path: %s\n" % os.path.join(self.trees, case)


class S3:
    """SeaweedFS, with the replicas copied into it."""

    def __init__(self, trees, work, rtt):
        self.server = servers.SeaweedFS(os.path.join(work, "seaweedfs")).start()
        self.trees, self.endpoint = trees, delayed(self.server.endpoint, rtt)

    def fields(self, case):
        if not self.server.tree(case):
            subprocess.run([os.path.join(RELEASE, "examples", "copy"), "file://" + os.path.join(self.trees, case),
                            self.server.url(case)], check=True, timeout=1200, env=servers.environment())
        return ("      type: s3\n      bucket: %s\n      path: %s\n      endpoint: %s\n"
                "      region: us-east-1\n      force-path-style: true\n" % (servers.BUCKET, case, self.endpoint))


class Sftp:
    """OpenSSH, over the folder in which they were made."""

    def __init__(self, trees, work, rtt):
        self.server = servers.OpenSSH(os.path.join(work, "sshd")).start()
        self.trees = trees
        self.server.port = int(delayed("http://127.0.0.1:%d" % self.server.port, rtt).rsplit(":", 1)[1])

    def fields(self, case):
        return self.server.config(os.path.join(self.trees, case))


def delayed(endpoint, rtt):
    """The same server behind a proxy that adds `rtt` milliseconds to every round trip."""
    if not rtt:
        return endpoint
    proxy = subprocess.Popen([os.path.join(RELEASE, "examples", "latency"), endpoint.rsplit("/", 1)[1], str(rtt)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(proxy.kill)
    return "http://" + proxy.stdout.readline().strip()


def configured(store, work, case):
    """Litestream's configuration for one replica, which both programs read."""
    config = os.path.join(work, case + ".yml")
    with open(config, "w") as file:
        file.write("dbs:\n  - path: %s\n    replica:\n%s" % (os.path.join(work, "app.db"), store.fields(case)))
    return ["-config", config], os.path.join(work, "app.db")


def run(argv, limit=300, files=None):
    """Runs one command: exit status, wall, CPU and peak memory. Killed after `limit` seconds."""
    def before():
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                 preexec_fn=before, env=servers.environment())
        timer = threading.Timer(limit, child.kill)
        timer.start()
        try:
            _, status, used = os.wait4(child.pid, 0)
        finally:
            timer.cancel()
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(max(0, out.seek(0, 2) - 500))
        tail = out.read().decode(errors="replace")
    return dict(status=child.returncode, wall=wall, cpu=used.ru_utime + used.ru_stime,
                mib=used.ru_maxrss / 1024, tail=tail)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove(path):
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def write_and_sync(source, target):
    """What the disk takes: the restored bytes written in order, then synced, file and folder."""
    remove(target)
    os.sync()
    start = time.monotonic()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while block := reader.read(1 << 20):
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    folder = os.open(os.path.dirname(target), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    wall = time.monotonic() - start
    remove(target)
    return wall


def middle(values):
    return statistics.median(values)


def show(rows, columns):
    table = [columns] + [[row[c] for c in columns] for row in rows]
    text = [[v if isinstance(v, str) else "%.2f" % v for v in line] for line in table]
    widths = [max(len(line[i]) for line in text) for i in range(len(columns))]
    for line in text:
        print("  ".join(v.ljust(w) for v, w in zip(line, widths)).rstrip(), flush=True)


def restores(tools, store, work, cases, reps):
    out = os.path.join(work, "restored.db")
    rows, same = [], True
    for case in cases:
        config, database = configured(store, work, case)
        runs, disk, digests = {name: [] for name, _ in tools}, [], set()
        for _ in range(reps):
            for name, path in tools:
                remove(out)
                os.sync()
                # no more than 64 open files for us; Litestream needs one per file of its plan
                result = run([path, "restore", *config, "-o", out, database], limit=1800,
                             files=64 if name == "replica" else None)
                if result["status"] != 0:
                    sys.exit("%s restore of %s failed: %s" % (name, case, result["tail"]))
                runs[name].append(result)
                digests.add(sha256(out))
            disk.append(write_and_sync(out, os.path.join(work, "written.db")))
        same = same and len(digests) == 1
        base = runs.get("litestream")
        for name, _ in tools:
            mine = runs[name]
            rows.append(dict(case=case, tool=name, wall=middle(r["wall"] for r in mine),
                             cpu=middle(r["cpu"] for r in mine), mib=max(r["mib"] for r in mine),
                             **{"times as fast": middle(b["wall"] / r["wall"] for b, r in zip(base, mine)) if base else "-",
                                "wall / write+sync": middle(r["wall"] / d for r, d in zip(mine, disk)),
                                "write+sync": middle(disk)}))
    show(rows, ["case", "tool", "wall", "cpu", "mib", "times as fast", "write+sync", "wall / write+sync"])
    print("outputs of all tools and runs are the same bytes:", same, flush=True)
    return same


def listings(tools, store, work, reps):
    (config, database), rows = configured(store, work, "list"), []
    for what, flags in (("ltx", ["-level", "all"]), ("ltx -json", ["-level", "all", "-json"])):
        runs = {name: [] for name, _ in tools}
        for _ in range(reps):
            for name, path in tools:
                result = run([path, "ltx", *config, *flags, database])
                if result["status"] != 0:
                    sys.exit("%s %s failed: %s" % (name, what, result["tail"]))
                runs[name].append(result)
        base = runs.get("litestream")
        for name, _ in tools:
            mine = runs[name]
            rows.append(dict(listing=what, tool=name, wall=middle(r["wall"] for r in mine),
                             cpu=middle(r["cpu"] for r in mine), mib=max(r["mib"] for r in mine),
                             **{"times as fast": middle(b["wall"] / r["wall"] for b, r in zip(base, mine)) if base else "-",
                                "memory / litestream's": max(r["mib"] for r in mine) / max(b["mib"] for b in base) if base else "-"}))
    show(rows, ["listing", "tool", "wall", "cpu", "mib", "times as fast", "memory / litestream's"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024, help="the size of the database")
    parser.add_argument("--parts", default="restore,list")
    parser.add_argument("--cases", default="snap,levels,l0", help="which replicas to restore")
    parser.add_argument("--store", default="folder", choices=("folder", "s3", "sftp"))
    parser.add_argument("--rtt", type=int, default=0, help="milliseconds to add to each round trip")
    parser.add_argument("--work", help="scratch to keep, so that the replicas are made once")
    args = parser.parse_args()
    work = os.path.abspath(args.work or tempfile.mkdtemp(prefix="replica-bench-"))
    tools = [("replica", os.path.join(RELEASE, "replica"))]
    litestream = shutil.which("litestream")
    if litestream:
        tools.append(("litestream", litestream))
    print("machine: %d processors, %s" % (os.cpu_count(), os.uname().release))
    print("litestream:", subprocess.run([litestream, "version"], capture_output=True, text=True).stdout.strip()
          if litestream else "not on the PATH: no ratios")
    trees = os.path.join(work, "trees-%d" % args.mib)
    same = True
    try:
        if not os.path.exists(os.path.join(trees, "done")):
            shutil.rmtree(trees, ignore_errors=True)
            subprocess.run([os.path.join(RELEASE, "examples", "make_replica"), trees, str(args.mib)],
                           check=True, timeout=1200)
            open(os.path.join(trees, "done"), "w").close()
        store = {"folder": Folder, "s3": S3, "sftp": Sftp}[args.store](trees, work, args.rtt)
        print("store: %s, %d ms of round trip added" % (args.store, args.rtt), flush=True)
        if "restore" in args.parts:
            same = restores(tools, store, work, args.cases.split(","), args.reps)
        if "list" in args.parts:
            listings(tools, store, work, args.reps)
    finally:
        remove(os.path.join(work, "restored.db"))
        if not args.work:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(0 if same else 1)


main()
