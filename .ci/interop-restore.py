#!/usr/bin/env python3
"""Has Litestream replicate a live database, and compares what it and `replica` make of it.

    REPLICA=target/release/replica EXAMPLES=target/release/examples LITESTREAM=litestream \\
        .ci/interop-restore.py folder|s3|sftp [SEED]

A writer makes random transactions (inserts, updates, deletes, now and then a VACUUM) while
Litestream replicates with short intervals: to a folder, to SeaweedFS ($WEED), or to OpenSSH. Then
both programs restore the latest state and every transaction that Litestream can, and the
databases must be the same bytes; so must the listings, times included, and the dry runs. At last
the replica is copied through our client to another place in the same store, and Litestream must
list and restore the copy as it does its own, to random instants too.
"""
import hashlib, json, os, random, sqlite3, subprocess, sys, tempfile, time
import servers

REPLICA = os.path.abspath(os.environ.get("REPLICA", "target/release/replica"))
COPY = os.path.join(os.path.abspath(os.environ.get("EXAMPLES", "target/release/examples")), "copy")
LITESTREAM = os.environ.get("LITESTREAM", "litestream")
STORE = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)


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


def configured(work, name, database, store):
    """Litestream's configuration of a replica called `name`, which both programs read."""
    config = os.path.join(work, name + ".yml")
    with open(config, "w") as file:
        file.write("levels:\n  - interval: 2s\n  - interval: 5s\nsnapshot:\n  interval: 6s\n"
                   "l0-retention: 1h\ndbs:\n  - path: %s\n    monitor-interval: 50ms\n"
                   "    replica:\n%s      sync-interval: 50ms\n" % (database, store.fields(name)))
    return config


def restored(tool, out, config, database, *flags):
    """The sha256 of what `tool` restores, or None where it refuses."""
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(out + suffix):
            os.unlink(out + suffix)
    result = subprocess.run([tool, "restore", "-config", config, *flags, "-o", out, database],
                            capture_output=True, timeout=120, env=servers.environment())
    if result.returncode != 0:
        print(tool, *flags, result.stderr.decode(errors="replace"), flush=True)
        return None
    with open(out, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def output(tool, *args):
    result = subprocess.run([tool, *args], capture_output=True, timeout=120, env=servers.environment())
    assert result.returncode == 0, (tool, args, result.stderr.decode(errors="replace"))
    return json.loads(result.stdout)


def listing(tool, config, database):
    return output(tool, "ltx", "-config", config, "-level", "all", "-json", database)


def comparable(files):
    """A listing as it must be of a copy: with the times, but for S3, where Litestream lists when
    an object was made, and reads the files' own times only to restore to one."""
    return [{name: value for name, value in file.items() if STORE != "s3" or name != "timestamp"}
            for file in files]


def main():
    rnd = random.Random(SEED)
    print("store", STORE, "seed", SEED, flush=True)
    with tempfile.TemporaryDirectory() as work:
        store = servers.STORES[STORE](work)
        database, out = os.path.join(work, "app.db"), os.path.join(work, "restored.db")
        config = configured(work, "replica", database, store)
        writer = write(database, rnd, 14)
        next(writer)
        begun = time.time()
        daemon = subprocess.Popen([LITESTREAM, "replicate", "-config", config], env=servers.environment(),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            for _ in writer:
                pass
            time.sleep(1)
        finally:
            daemon.terminate()
            daemon.wait(30)
        ended = time.time()
        listed = listing(LITESTREAM, config, database)
        assert listed == listing(REPLICA, config, database), "listings differ"
        txids = sorted({file["max_txid"] for file in listed})
        if STORE == "sftp":
            # Litestream makes a round trip for each small read.
            txids = rnd.sample(txids, min(60, len(txids)))
        instants = [rnd.uniform(begun + 5, ended - 2) for _ in range(10)]
        times = [("-timestamp", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(instant))
                  + ".%03dZ" % (instant % 1 * 1000)) for instant in instants]
        wanted = {}
        for flags in [()] + [("-txid", txid) for txid in txids] + times:
            want = wanted[flags] = restored(LITESTREAM, out, config, database, *flags)
            assert want is not None, "litestream refuses %s" % (flags,)
            if STORE == "sftp" and flags in times:
                # SFTP tells a file's time in seconds, which Litestream goes by; `replica` goes by
                # the milliseconds in its header.
                continue
            got = restored(REPLICA, out, config, database, *flags)
            assert want == got, "%s: litestream %s, replica %s" % (flags, want, got)
            plans = [output(tool, "restore", "-config", config, "-dry-run", "-json", *flags,
                            "-o", out + ".new", database) for tool in (LITESTREAM, REPLICA)]
            assert plans[0] == plans[1], "%s: the plans differ: %s" % (flags, plans)
        levels = sorted({file["level"] for file in listed})
        print("%d files on levels %s, %d restores, all the same bytes" % (len(listed), levels, len(wanted)))

        subprocess.run([COPY, store.url("replica"), store.url("copy")], check=True, timeout=300,
                       env=servers.environment())
        config = configured(work, "copy", database, store)
        assert comparable(listing(LITESTREAM, config, database)) == comparable(listed), \
            "Litestream lists the copy otherwise"
        sample = [()] + [("-txid", txid) for txid in rnd.sample(txids, min(20, len(txids)))]
        sample += times
        for flags in sample:
            got = restored(LITESTREAM, out, config, database, *flags)
            assert got == wanted[flags], "%s of the copy: %s, not %s" % (flags, got, wanted[flags])
        print("Litestream lists our copy the same, times too, and restores it: %d times" % len(sample))


main()
