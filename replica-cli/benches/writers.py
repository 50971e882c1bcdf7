#!/usr/bin/env python3
"""Measures what replication costs an application that writes, and how soon its commits are restorable.

    cargo build --release --workspace --bins
    python3 replica-cli/benches/writers.py --litestream /where/litestream/is

Needs Python 3 (standard library only) and about 2 GiB of scratch. Without --litestream (or
$LITESTREAM) only `replica` is measured. In turn, on fresh databases, for each way to write:

- speed: a process commits as fast as it can, alone, beside `replica replicate` and beside
  Litestream. Ratios are of runs that follow each other. `wal` is the largest size of the log that
  was seen. `cpu/MB` is the replicator's CPU time until it has caught up, by the megabytes that the
  writer has added to the log.
- lag: it commits 100 or 1,000 times a second. A commit is restorable when the first file of level 0
  is in the replica whose restore has it.

After each run the replica is restored, and must have every commit. Times are wall clock; CPU time
and peak memory are what the kernel counted for the whole process.
"""
import argparse, os, random, shutil, signal, sqlite3, statistics, subprocess, sys, tempfile, threading, time
from table import show

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target")), "release")
TICKS = os.sysconf("SC_CLK_TCK")


def write(path, rate, seconds, synchronous, autocheckpoint, out):
    """The application: a row and a counter in each transaction, `rate` a second or as many as it can."""
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    db.execute("PRAGMA synchronous=%s" % synchronous)
    db.execute("PRAGMA wal_autocheckpoint=%d" % autocheckpoint)
    dice, number, longest, returned = random.Random(7), 0, 0.0, []
    text = "what an application writes down of an order that was made " * 2
    start = now = time.monotonic()
    while now < start + seconds:
        if rate and now < start + number / rate:
            time.sleep(start + number / rate - now)
            now = time.monotonic()
            continue
        number += 1
        row = (number, dice.getrandbits(30), text[dice.randrange(20):], dice.randbytes(64))
        begun = time.monotonic()
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO orders VALUES(?,?,?,?)", row)
        db.execute("UPDATE counter SET last=?", (number,))
        db.execute("COMMIT")
        now = time.monotonic()
        longest = max(longest, now - begun)
        if rate:
            returned.append(time.time())
    with open(out, "w") as file:
        file.write("%d %f %f\n" % (number, now - start, longest))
        file.writelines("%f\n" % at for at in returned)


class Run:
    """One database, its replica, and what replicates it, if anything does."""

    def __init__(self, work, name, argv):
        self.folder = os.path.join(work, name)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.db, self.replica = (os.path.join(self.folder, n) for n in ("app.db", "replica"))
        self.name, self.process, self.log = name, None, None
        db = sqlite3.connect(self.db, isolation_level=None)
        db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE orders(number INTEGER PRIMARY KEY, k, text, bytes);"
                         "CREATE INDEX orders_k ON orders(k); CREATE TABLE counter(last); INSERT INTO counter VALUES(0)")
        # Somebody has it open all the time, so that the log stays.
        self.keeper = db
        db.execute("SELECT * FROM counter").fetchall()
        if argv:
            self.log = open(os.path.join(self.folder, "log"), "wb")
            self.process = subprocess.Popen(argv + [self.db, "file://" + self.replica], stdin=subprocess.DEVNULL,
                                            stdout=self.log, stderr=self.log)
            until("%s's first file" % name, self.files)
            time.sleep(1.5)

    def files(self):
        """The files of level 0, and when they were made."""
        try:
            with os.scandir(os.path.join(self.replica, "ltx", "0")) as found:
                return {file.name: file for file in found if file.name.endswith(".ltx")}
        except FileNotFoundError:
            return {}

    def used(self):
        """CPU seconds and peak MiB so far."""
        if not self.process:
            return 0.0, 0.0
        with open("/proc/%d/stat" % self.process.pid) as file:
            fields = file.read().rsplit(")", 1)[1].split()
        with open("/proc/%d/status" % self.process.pid) as file:
            peak = next(line for line in file if line.startswith("VmHWM"))
        return (int(fields[11]) + int(fields[12])) / TICKS, int(peak.split()[1]) / 1024

    def write(self, rate, seconds, synchronous, autocheckpoint):
        out = os.path.join(self.folder, "written")
        subprocess.run([sys.executable, os.path.abspath(__file__), "--write", self.db, str(rate), str(seconds),
                        synchronous, str(autocheckpoint), out], check=True, timeout=seconds + 120)
        with open(out) as file:
            number, took, longest = file.readline().split()
            return int(number), float(took), float(longest), [float(line) for line in file]

    def rest(self):
        """Waits until nothing was added to the replica for a while."""
        before, since, end = None, time.monotonic(), time.monotonic() + 120
        while time.monotonic() < min(since + 3, end):
            now = sorted(self.files())[-1:]
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(0.05)

    def restored(self, restore, txid=None):
        """The last commit in what a restore gives, all of which must be there before it."""
        out = os.path.join(self.folder, "restored.db")
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(out + suffix):
                os.unlink(out + suffix)
        argv = restore + ["-o", out] + (["-txid", txid] if txid else []) + ["file://" + self.replica]
        subprocess.run(argv, check=True, timeout=300, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        db = sqlite3.connect(out)
        last, rows = db.execute("SELECT last, (SELECT count(*) FROM orders) FROM counter").fetchone()
        db.close()
        if rows != last:
            sys.exit("%s has restored %d of %d commits" % (self.name, rows, last))
        return last

    def end(self):
        self.keeper.close()
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.log:
            self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("%s did not come" % what)
        time.sleep(0.02)


def watched(condition, look, pause):
    """Looks again and again until `condition` is set, in a thread."""
    def run():
        while not condition.is_set():
            look()
            time.sleep(pause)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def speed(work, name, argv, restore, seconds, synchronous, autocheckpoint, per_commit):
    run = Run(work, name, argv)
    try:
        largest, over = [0], threading.Event()

        def look():
            if os.path.exists(run.db + "-wal"):
                largest[0] = max(largest[0], os.path.getsize(run.db + "-wal"))
        before, _ = run.used()
        thread = watched(over, look, 0.005)
        number, took, longest, _ = run.write(0, seconds, synchronous, autocheckpoint)
        over.set()
        thread.join()
        if argv:
            run.rest()
        cpu, mib = run.used()
        if argv and run.restored(restore) != number:
            sys.exit("%s has lost commits: %d were made" % (name, number))
        return {"commits/s": number / took, "longest ms": longest * 1e3, "wal MiB": largest[0] / 2**20,
                "cpu/MB ms": (cpu - before) * 1e3 / (number * per_commit / 1e6), "MiB": mib}
    finally:
        run.end()


def log_per_commit(work):
    """How many bytes a commit adds to the log."""
    run = Run(work, "log", None)
    try:
        number, *_ = run.write(0, 2, "NORMAL", 0)
        return os.path.getsize(run.db + "-wal") / number
    finally:
        run.end()


def lag(work, name, argv, restore, seconds, rate):
    run = Run(work, name, argv)
    try:
        seen, over = {file: None for file in run.files()}, threading.Event()

        def look():
            files = run.files()
            now = time.time()
            for file in files:
                seen.setdefault(file, now)
        before, _ = run.used()
        thread = watched(over, look, 0.001)
        number, took, longest, returned = run.write(rate, seconds, "NORMAL", 1000)
        run.rest()
        over.set()
        thread.join()
        cpu, mib = run.used()
        lags, known = [], 0
        for file, at in sorted(seen.items()):
            if at is not None:
                last = run.restored(restore, file.split("-")[1].split(".")[0])
                lags += [at - commit for commit in returned[known:last]]
                known = max(known, last)
        if known != number:
            sys.exit("%s has lost commits: %d of %d are restorable" % (name, known, number))
        lags.sort()
        return {"p50 ms": lags[len(lags) // 2] * 1e3, "p99 ms": lags[len(lags) * 99 // 100] * 1e3,
                "longest ms": longest * 1e3, "cpu s/min": (cpu - before) / took * 60, "MiB": mib}
    finally:
        run.end()


def in_turn(tools, reps, measure):
    """The median of each figure, for each tool."""
    runs = {name: [] for name, *_ in tools}
    for _ in range(reps):
        for name, argv, restore in tools:
            runs[name].append(measure(name, argv, restore))
    rows = []
    for name, *_ in tools:
        row = {"who": name, **{key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}}
        if "alone" in runs and "commits/s" in row:
            pairs = zip(runs[name], runs["alone"])
            row["of alone"] = statistics.median(run["commits/s"] / alone["commits/s"] for run, alone in pairs)
        rows.append(row)
    return rows


def main():
    if sys.argv[1:2] == ["--write"]:
        path, rate, seconds, synchronous, autocheckpoint, out = sys.argv[2:]
        return write(path, float(rate), float(seconds), synchronous, int(autocheckpoint), out)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--parts", default="speed,lag")
    parser.add_argument("--modes", default="NORMAL:1000,NORMAL:0,FULL:1000,FULL:0",
                        help="synchronous and wal_autocheckpoint of the writer")
    parser.add_argument("--rates", default="100,1000", help="commits a second for the lag")
    parser.add_argument("--replica", default=os.path.join(RELEASE, "replica"))
    parser.add_argument("--litestream", default=os.environ.get("LITESTREAM"))
    parser.add_argument("--work", help="a folder on the disk that counts")
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix="replica-writers-", dir=args.work)
    tools = [("replica", [args.replica, "replicate"], [args.replica, "restore"])]
    if args.litestream:
        tools.append(("litestream", [args.litestream, "replicate"], [args.litestream, "restore"]))
    print("machine: %d processors, %s; SQLite of the writer: %s"
          % (os.cpu_count(), os.uname().release, sqlite3.sqlite_version))
    try:
        if "speed" in args.parts:
            per_commit = log_per_commit(work)
            print("log per commit: %.0f bytes" % per_commit)
            for synchronous, autocheckpoint in (mode.split(":") for mode in args.modes.split(",")):
                show("synchronous %s, wal_autocheckpoint %s" % (synchronous, autocheckpoint),
                     in_turn([("alone", None, None)] + tools, args.reps,
                             lambda name, argv, restore: speed(work, name, argv, restore, args.seconds, synchronous,
                                                               autocheckpoint, per_commit)))
        if "lag" in args.parts:
            for rate in args.rates.split(","):
                show("%s commits/s" % rate, in_turn(tools, args.reps, lambda name, argv, restore: lag(
                    work, name, argv, restore, args.seconds, float(rate))))
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
