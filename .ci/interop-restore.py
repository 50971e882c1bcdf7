#!/usr/bin/env python3
"""Has Litestream replicate a live database, and compares what it and `replica` restore.

    REPLICA=target/release/replica LITESTREAM=litestream .ci/interop-restore.py [SEED]

A writer makes random transactions (inserts, updates, deletes, now and then a VACUUM) while
Litestream replicates to a folder with short intervals. Then both programs restore the latest
state and every transaction that Litestream can, and the databases must be the same bytes; so
must the listings and the dry runs.
"""
import hashlib, json, os, random, sqlite3, subprocess, sys, tempfile, time

REPLICA = os.path.abspath(os.environ.get("REPLICA", "target/release/replica"))
LITESTREAM = os.environ.get("LITESTREAM", "litestream")
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(1 << 32)


def write(path, rnd, seconds):
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    db.execute("PRAGMA page_size=%d" % rnd.choice((512, 1024, 4096, 8192)))
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB)")
    yield
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(rnd.randint(1, 30)):
            row = rnd.randint(1, 2000)
            if rnd.random() < 0.2:
                db.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (row, row + rnd.randint(0, 200)))
            else:
                db.execute("INSERT OR REPLACE INTO t VALUES(?,?,?)",
                           (row, "x" * rnd.randint(0, 300), rnd.randbytes(rnd.randint(0, 900))))
        db.execute("COMMIT")
        if rnd.random() < 0.01:
            db.execute("VACUUM")
        time.sleep(rnd.random() * 0.05)
    db.close()


def restored(tool, out, url, *flags):
    """The sha256 of what `tool` restores, or None where it refuses."""
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(out + suffix):
            os.unlink(out + suffix)
    result = subprocess.run([tool, "restore", *flags, "-o", out, url], capture_output=True, timeout=60)
    if result.returncode != 0:
        return None
    with open(out, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def output(tool, *args):
    result = subprocess.run([tool, *args], capture_output=True, timeout=60, check=True)
    return json.loads(result.stdout)


def main():
    rnd = random.Random(SEED)
    print("seed", SEED, flush=True)
    with tempfile.TemporaryDirectory() as work:
        database, tree = os.path.join(work, "app.db"), os.path.join(work, "replica")
        config = os.path.join(work, "litestream.yml")
        with open(config, "w") as file:
            file.write("levels:\n  - interval: 2s\n  - interval: 5s\nsnapshot:\n  interval: 6s\n"
                       "l0-retention: 1h\ndbs:\n  - path: %s\n    monitor-interval: 50ms\n"
                       "    replica:\n      type: file\n      path: %s\n      sync-interval: 50ms\n"
                       % (database, tree))
        writer = write(database, rnd, 14)
        next(writer)
        daemon = subprocess.Popen([LITESTREAM, "replicate", "-config", config],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            for _ in writer:
                pass
            time.sleep(1)
        finally:
            daemon.terminate()
            daemon.wait(30)
        url, out = "file://" + tree, os.path.join(work, "restored.db")
        listed = output(LITESTREAM, "ltx", "-level", "all", "-json", url)
        assert listed == output(REPLICA, "ltx", "-level", "all", "-json", url), "listings differ"
        txids = sorted({file["max_txid"] for file in listed})
        checks = 0
        for flags in [()] + [("-txid", txid) for txid in txids]:
            want, got = (restored(tool, out, url, *flags) for tool in (LITESTREAM, REPLICA))
            assert want is not None, "litestream refuses %s" % (flags,)
            assert want == got, "%s: litestream %s, replica %s" % (flags, want, got)
            plans = [output(tool, "restore", "-dry-run", "-json", *flags, "-o", out + ".new", url)
                     for tool in (LITESTREAM, REPLICA)]
            assert plans[0] == plans[1], "%s: the plans differ: %s" % (flags, plans)
            checks += 1
        levels = sorted({file["level"] for file in listed})
        print("%d files on levels %s, %d restores, all the same bytes" % (len(listed), levels, checks))


main()
