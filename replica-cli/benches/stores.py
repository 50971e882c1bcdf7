#!/usr/bin/env python3
"""Measures what replication asks of a store, beside Litestream in one run.

    cargo build --release --workspace --bins
    python3 replica-cli/benches/stores.py --litestream /where/litestream/is

Needs Python 3 (standard library only) and about 8 GiB of scratch. Without --litestream (or
$LITESTREAM) only `replica` is measured. The replicas are in a folder, in SeaweedFS (`weed`, found as
$WEED) and behind OpenSSH (`sshd`), which are started for the run on 127.0.0.1. In turn, on fresh
copies of one database:

- first: the first upload of a database (--mib), `replicate -once`: the whole process, until all is
  stored; beside it what the program leaves on the local disk. `plain` is the limit: the file that
  `replica` makes of the database, sent to the same store by `dd` with a sync, by `curl` in one
  unsigned request, or by `sftp` with `put -f`. The server's CPU time counts, for it is on the same
  machine.
- steady: 100 commits a second for --seconds, and what is stored for them on all levels, in files and
  bytes, by the bytes that the application gave to SQLite.
- outage: the store is killed under 100 commits a second, and is there again after --outage
  seconds: how soon the first file is stored from the moment it answers, and how many lines the
  program has logged meanwhile.

After each run the replica is restored, by `replica`, and must have every row. CPU time and peak
memory are those of the whole process, as the kernel counted them.
"""
import argparse, os, random, shutil, signal, sqlite3, statistics, subprocess, sys, tempfile, threading, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target")), "release")
sys.path.insert(0, os.path.join(TOP, ".ci"))
import servers
from table import show

WORDS = "order paid shipped returned partner region invoice ledger warehouse customer".split()
RATE = 100


def make(path, mib):
    """A database of orders: text, numbers and tokens that can't be compressed."""
    dice = random.Random(7)
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
                     "CREATE TABLE orders(number INTEGER PRIMARY KEY, token, note, bytes);"
                     "CREATE UNIQUE INDEX orders_token ON orders(token)")
    while os.path.getsize(path) < mib << 20:
        db.execute("BEGIN")
        db.executemany("INSERT INTO orders(token, note, bytes) VALUES(?,?,?)",
                       (("%032x" % dice.getrandbits(128), " ".join(dice.choices(WORDS, k=20)),
                         dice.randbytes(dice.randint(100, 700))) for _ in range(20000)))
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def small(path):
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE orders(number INTEGER PRIMARY KEY, token, note, bytes);"
                     "CREATE UNIQUE INDEX orders_token ON orders(token)")
    db.close()


class Writer(threading.Thread):
    """The application: `RATE` rows a second, one in each transaction."""

    def __init__(self, path, seconds):
        super().__init__(daemon=True)
        self.path, self.seconds, self.given, self.failed = path, seconds, 0, None
        self.start()

    def run(self):
        dice = random.Random(5)
        db = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        start = time.monotonic()
        for number in range(int(self.seconds * RATE)):
            time.sleep(max(0, start + number / RATE - time.monotonic()))
            row = ("%032x" % dice.getrandbits(128), " ".join(dice.choices(WORDS, k=20)), dice.randbytes(64))
            try:
                db.execute("INSERT INTO orders(token, note, bytes) VALUES(?,?,?)", row)
            except sqlite3.Error as error:
                self.failed = error
                return
            self.given += sum(map(len, row))
        db.close()

    def finish(self):
        self.join()
        if self.failed:
            sys.exit("the application was refused: %s" % self.failed)


class Run:
    """One database, its replica, and the program that replicates it."""

    number = 0

    def __init__(self, work, store, tool, replica):
        Run.number += 1
        self.store, self.tool, self.replica, self.name = store, tool, replica, "replica-%d" % Run.number
        self.folder = os.path.join(work, "run")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.db = os.path.join(self.folder, "app.db")
        self.config = os.path.join(self.folder, "litestream.yml")
        with open(self.config, "w") as file:
            file.write("dbs:\n  - path: %s\n    replica:\n%s" % (self.db, store.fields(self.name)))
        self.log, self.process, self.peak = open(os.path.join(self.folder, "log"), "w+b"), None, None

    def start(self, *flags):
        return self.begin([self.tool, "replicate", *flags, "-config", self.config])

    def begin(self, argv):
        begun = time.monotonic()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env=servers.environment())
        self.peak = Peak(self.process.pid)
        return begun

    def wait(self, limit):
        """Ends with the process: its exit status, CPU seconds and peak MiB."""
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        try:
            _, status, used = os.wait4(self.process.pid, 0)
        finally:
            timer.cancel()
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode, used.ru_utime + used.ru_stime, self.peak.finish()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.wait(60)

    def logged(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace").splitlines()

    def left(self):
        """The bytes beside the database that are the program's own."""
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(self.folder)
                   for name in names if "litestream" in os.path.relpath(folder, self.folder))

    def check(self):
        """What is restored must be what the database holds."""
        out = os.path.join(self.folder, "restored.db")
        subprocess.run([self.replica, "restore", "-config", self.config, "-o", out, self.db], check=True, timeout=600,
                       stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=servers.environment())
        counts = []
        for path in (self.db, out):
            db = sqlite3.connect(path)
            counts.append(db.execute("SELECT count(*), max(number), max(token) FROM orders").fetchone())
            db.close()
        if counts[0] != counts[1]:
            sys.exit("%s has restored %s, not %s" % (self.tool, counts[1], counts[0]))

    def end(self):
        if self.process and self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.store.remove(self.name)


class Peak(threading.Thread):
    """The most memory that a process ever had, in MiB. What the kernel tells of one that has ended is
    at least what this program had that started it."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.kib, self.over = pid, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.05):
            try:
                with open("/proc/%d/status" % self.pid) as status:
                    self.kib = next((int(line.split()[1]) for line in status if line.startswith("VmHWM")), self.kib)
            except OSError:
                return

    def finish(self):
        self.over.set()
        self.join()
        return self.kib / 1024


class Used(threading.Thread):
    """The CPU time of a store's server and of what it starts, from now on."""

    def __init__(self, store):
        super().__init__(daemon=True)
        self.store, self.seen, self.over = store, {}, threading.Event()
        self.look()
        self.before = sum(self.seen.values())
        self.start()

    def look(self):
        for pid in self.store.server.family():
            try:
                with open("/proc/%d/stat" % pid) as stat:
                    self.seen[pid] = sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))
            except OSError:
                continue

    def run(self):
        # Those that end take their figures along.
        while not self.over.wait(0.1):
            self.look()

    def finish(self):
        self.over.set()
        self.join()
        self.look()
        return (sum(self.seen.values()) - self.before) / os.sysconf("SC_CLK_TCK")


def first(run, base, start):
    shutil.copy(base, run.db)
    os.sync()
    server = Used(run.store) if hasattr(run.store, "server") else None
    begun = start(run)
    status, cpu, mib = run.wait(600)
    wall = time.monotonic() - begun
    if status != 0:
        sys.exit("%s: %s" % (run.tool, "\n".join(run.logged()[-5:])))
    row = {"s": wall, "cpu s": cpu}
    if server:
        row["server cpu s"] = server.finish()
    return {**row, "MiB": mib, "stored MiB": sum(run.store.stored(run.name).values()) / 2**20}


def uploaded(run, base):
    row = first(run, base, lambda run: run.start("-once"))
    run.check()
    return {**row, "local MiB": run.left() / 2**20}


def made(work, replica, base):
    """The file that `replica` makes of a database."""
    run, path = Run(work, servers.Folder(work), replica, replica), os.path.join(work, "plain.ltx")
    uploaded(run, base)
    stored = run.store.stored(run.name)
    os.rename(max(stored, key=stored.get), path)
    run.end()
    return path


def plain(run, base, file):
    """The same, but that a file is sent which is there: as quickly as the store takes it."""
    return first(run, base, lambda run: run.begin(run.store.put(file, run.name)))


def steady(run, seconds):
    small(run.db)
    run.start()
    servers.until("the first file", lambda: run.store.raw(run.name))
    # What follows the first file by itself is not what is asked here.
    time.sleep(3)
    before, seen, over = run.store.stored(run.name), {}, threading.Event()

    def look():
        while not over.wait(0.2):
            seen.update(run.store.stored(run.name))
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    writer = Writer(run.db, seconds)
    writer.finish()
    time.sleep(4)
    over.set()
    watcher.join()
    seen.update(run.store.stored(run.name))
    new = {name: size for name, size in seen.items() if name not in before}
    _, cpu, mib = run.stop()
    run.check()
    return {"files": float(len(new)), "stored / given": sum(new.values()) / writer.given, "cpu s": cpu, "MiB": mib}


def outage(run, seconds):
    small(run.db)
    run.start()
    servers.until("the first file", lambda: run.store.raw(run.name))
    writer = Writer(run.db, seconds + 10)
    time.sleep(4)
    newest, lines = max(run.store.raw(run.name)), len(run.logged())
    run.store.server.kill()
    time.sleep(seconds)
    if run.process.poll() is not None:
        sys.exit("%s has ended: %s" % (run.tool, "\n".join(run.logged()[-5:])))
    lines = len(run.logged()) - lines
    run.store.server.start()
    answered = time.monotonic()
    servers.until("a file after the outage", lambda: max(run.store.raw(run.name), default="") > newest, 120)
    took = time.monotonic() - answered
    writer.finish()
    time.sleep(3)
    run.stop()
    run.check()
    return {"first file s": took, "lines in the outage": float(lines)}


def in_turn(work, store, tools, reps, measure, limit=None):
    """The median of each figure for each tool, and of the ratios of runs that follow each other."""
    measures = {name: (tool, measure) for name, tool in tools}
    if limit:
        measures["plain"] = ("plain", limit)
    runs = {name: [] for name in measures}
    for _ in range(reps):
        for name, (tool, each) in measures.items():
            run = Run(work, store, tool, tools[0][1])
            try:
                runs[name].append(each(run))
            finally:
                run.end()
    rows = []
    for name in measures:
        row = {"who": name, **{key: statistics.median(run[key] for run in runs[name]) if key in runs[name][0] else None
                               for key in runs["replica"][0]}}
        for other, title in (("litestream", "times as fast"), ("plain", "of plain's speed")):
            if "s" in row and other in runs:
                row[title] = statistics.median(run["s"] / one["s"] for run, one in zip(runs[other], runs[name]))
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024, help="the size of the database for the first upload")
    parser.add_argument("--seconds", type=float, default=30, help="how long is written, for `steady`")
    parser.add_argument("--outage", type=float, default=20, help="seconds")
    parser.add_argument("--parts", default="first,steady,outage")
    parser.add_argument("--stores", default="folder,s3,sftp")
    parser.add_argument("--replica", default=os.path.join(RELEASE, "replica"))
    parser.add_argument("--litestream", default=os.environ.get("LITESTREAM"))
    parser.add_argument("--work", help="a folder on the disk that counts")
    args = parser.parse_args()
    work = tempfile.mkdtemp(prefix="replica-stores-", dir=args.work)
    tools = [("replica", args.replica)] + ([("litestream", args.litestream)] if args.litestream else [])
    print("machine: %d processors, %s" % (os.cpu_count(), os.uname().release))
    try:
        base = os.path.join(work, "base.db")
        if "first" in args.parts:
            make(base, args.mib)
            file = made(work, args.replica, base)
        for kind in args.stores.split(","):
            store = servers.STORES[kind](os.path.join(work, kind))
            if "first" in args.parts:
                show("%s, first upload of %d MiB" % (kind, args.mib),
                     in_turn(work, store, tools, args.reps, lambda run: uploaded(run, base),
                             lambda run: plain(run, base, file)))
            if "steady" in args.parts:
                show("%s, %d commits a second for %.0f s" % (kind, RATE, args.seconds),
                     in_turn(work, store, tools, args.reps, lambda run: steady(run, args.seconds)))
            if "outage" in args.parts and kind != "folder":
                show("%s, away for %.0f s" % (kind, args.outage),
                     in_turn(work, store, tools, args.reps, lambda run: outage(run, args.outage)))
            if kind != "folder":
                store.server.stop()
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
