#!/usr/bin/env python3
"""Measures what databases cost that nobody writes, under `replica replicate` and under Litestream.

    cargo build --release --workspace --bins
    PATH=$PATH:/where/litestream/is python3 replica-cli/benches/idle.py --databases 1,100,1000

Needs Python 3 (standard library only) and, for the ratios, `litestream` 0.5 on the PATH. So many
small databases are replicated to a folder by one process of each program in turn. Counted once
everything is stored and 40 s have passed, over --seconds: CPU time of the process as the kernel
counts it, its resident and its private memory, its descriptors and threads. (For some minutes more
either program has levels to make, which --settle can wait for.)
"""
import argparse, os, shutil, signal, sqlite3, subprocess, sys, tempfile, time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target")), "release")
sys.path.insert(0, os.path.join(TOP, ".ci"))
import servers

TICK = os.sysconf("SC_CLK_TCK")


def make(folder, count):
    """So many databases in WAL mode with 200 rows each."""
    os.makedirs(folder)
    first = os.path.join(folder, "0.db")
    db = sqlite3.connect(first)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)")
    db.executemany("INSERT INTO t(text) VALUES(?)", (("row %d" % row * 4,) for row in range(200)))
    db.commit()
    db.close()
    for number in range(1, count):
        shutil.copy(first, os.path.join(folder, "%d.db" % number))


def configure(work, count):
    path = os.path.join(work, "all.yml")
    with open(path, "w") as file:
        file.write("dbs:\n")
        for number in range(count):
            file.write("  - path: %s/db/%d.db\n    replica:\n      type: file\n      path: %s/replicas/%d\n"
                       % (work, number, work, number))
    return path


def stored(work, number):
    """Whether this database has a file at level 0 of its replica, the last that a start stores."""
    folder = os.path.join(work, "replicas", str(number), "ltx", "0")
    return os.path.isdir(folder) and any(name.endswith(".ltx") for name in os.listdir(folder))


def cpu(pid):
    with open("/proc/%d/schedstat" % pid) as file:
        main = int(file.read().split()[0])
    others = 0
    for thread in os.listdir("/proc/%d/task" % pid):
        if thread != str(pid):
            try:
                with open("/proc/%d/task/%s/schedstat" % (pid, thread)) as file:
                    others += int(file.read().split()[0])
            except OSError:
                pass
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rpartition(")")[2].split()
    # Threads that have ended count here alone, in ticks.
    return max((main + others) / 1e9, (int(fields[11]) + int(fields[12])) / TICK)


def memory(pid):
    found = {}
    with open("/proc/%d/smaps_rollup" % pid) as file:
        for line in file:
            name, _, rest = line.partition(":")
            if rest.strip().endswith("kB"):
                found[name] = int(rest.split()[0]) / 1024
    return found["Rss"], found["Private_Clean"] + found["Private_Dirty"]


def measure(argv, count, settle, seconds):
    work = tempfile.mkdtemp(prefix="idle-")
    child = None
    try:
        make(os.path.join(work, "db"), count)
        config = configure(work, count)
        with open(os.path.join(work, "log"), "w") as log:
            child = subprocess.Popen(argv + ["replicate", "-config", config], stdin=subprocess.DEVNULL, stdout=log,
                                     stderr=log, env=servers.environment())
        begun = time.monotonic()
        left = set(range(count))
        while left:
            left = {number for number in left if not stored(work, number)}
            if child.poll() is not None or time.monotonic() - begun > 300:
                with open(os.path.join(work, "log")) as log:
                    sys.exit("%s: %d of %d not stored\n%s" % (argv[0], len(left), count, log.read()[-2000:]))
            time.sleep(0.1)
        ready = time.monotonic() - begun
        time.sleep(settle)
        before, then = cpu(child.pid), time.monotonic()
        time.sleep(seconds)
        used = (cpu(child.pid) - before) / (time.monotonic() - then) * 60
        resident, private = memory(child.pid)
        descriptors, threads = (len(os.listdir("/proc/%d/%s" % (child.pid, what))) for what in ("fd", "task"))
        return [ready, used, resident, private, descriptors, threads]
    finally:
        if child:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(10)
        shutil.rmtree(work, ignore_errors=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--databases", default="1,100")
    args.add_argument("--settle", type=float, default=40)
    args.add_argument("--seconds", type=float, default=60)
    args = args.parse_args()
    tools = [("replica", [os.path.join(RELEASE, "replica")])]
    if shutil.which("litestream"):
        tools.append(("litestream", [shutil.which("litestream")]))
    print("%9s  %-10s %8s %10s %8s %8s %6s %8s" % ("databases", "program", "ready s", "CPU s/min", "RSS MiB",
                                                 "private", "files", "threads"))
    for count in map(int, args.databases.split(",")):
        measured = []
        for name, argv in tools:
            row = measure(argv, count, args.settle, args.seconds)
            measured.append(row)
            print("%9d  %-10s %8.1f %10.3f %8.1f %8.1f %6d %8d" % (count, name, *row), flush=True)
        if len(measured) == 2:
            ours, theirs = measured
            print("%9s  %-10s %8.3f %10.3f %8.3f %8.3f %6.2f" % ("", "ratio", *(a / b for a, b in zip(ours[:5], theirs))))


main()
