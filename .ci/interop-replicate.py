#!/usr/bin/env python3
"""Has Litestream and the engine replicate one live database in turns, and restores all of it.

    REPLICA=target/release/replica EXAMPLES=target/release/examples LITESTREAM=litestream \\
        .ci/interop-replicate.py folder|s3|sftp [SEED]

A writer goes on with its transactions (and a VACUUM, and checkpoints of its own) while now one
program replicates and now the other, each from where the other has left the replica: in a folder,
in SeaweedFS ($WEED), or behind OpenSSH. Whenever one of them is done, the database is compared, row
by row, with what both restore, and at the end what both restore for every transaction must be the
same bytes. Our turns are the engine's, step by step, in a folder, and the command's elsewhere: ended
by a signal, it must have stored all. With $LITESTREAM_OLD, one of 0.5.0 to 0.5.15, that one has the
first turn, in its older form of pages; no later one, since it does not read what 0.5.17 writes either.
"""
import hashlib, os, random, sqlite3, subprocess, sys, tempfile, time
import servers

EXAMPLES = os.path.abspath(os.environ.get("EXAMPLES", "target/release/examples"))
REPLICA = os.path.abspath(os.environ.get("REPLICA", "target/release/replica"))
LITESTREAM = os.environ.get("LITESTREAM", "litestream")
LITESTREAM_OLD = os.environ.get("LITESTREAM_OLD")
STORE = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
TURNS = 6
# Litestream makes a round trip to SFTP for each small read.
TRANSACTIONS_MAX = 40 if STORE == "sftp" else 1000


class Application:
    def __init__(self, path, rnd):
        self.path, self.rnd = path, rnd
        self.db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self.db.execute("PRAGMA page_size=%d" % rnd.choice((512, 4096)))
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA wal_autocheckpoint=%d" % rnd.choice((0, 100, 1000)))
        self.db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, a TEXT, b BLOB)")

    def write(self, transactions):
        for _ in range(transactions):
            self.db.execute("BEGIN IMMEDIATE")
            for _ in range(self.rnd.randint(1, 20)):
                row = self.rnd.randint(1, 500)
                if self.rnd.random() < 0.2:
                    self.db.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (row, row + 60))
                else:
                    self.db.execute("INSERT OR REPLACE INTO t VALUES(?,?,?)",
                                    (row, "x" * self.rnd.randint(0, 300), self.rnd.randbytes(600)))
            self.db.execute("COMMIT")
            if self.rnd.random() < 0.02:
                self.db.execute("VACUUM")


def rows(path):
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
    found = db.execute("SELECT * FROM t ORDER BY id").fetchall()
    db.close()
    return found


def restore(tool, out, config, database, *flags):
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(out + suffix):
            os.unlink(out + suffix)
    result = subprocess.run([tool, "restore", "-config", config, *flags, "-o", out, database],
                            capture_output=True, timeout=120, env=servers.environment())
    if result.returncode != 0:
        print(tool, *flags, result.stderr.decode(errors="replace"), flush=True)
        return None
    return out


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def replicating(tool, config):
    return subprocess.Popen([tool, "replicate", "-config", config], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, env=servers.environment())


def litestream(tool, application, config, store):
    """Litestream for a while, and until it has what was written."""
    def newest():
        return max(store.raw("replica"), default="")

    daemon = replicating(tool, config)
    try:
        # As long as it takes to hold the log.
        time.sleep(1.5)
        for _ in range(4):
            application.write(10)
            time.sleep(0.3)
        end, last = time.monotonic() + 20, None
        while time.monotonic() < end:
            time.sleep(0.6)
            if newest() and newest() == last:
                break
            last = newest()
    finally:
        daemon.terminate()
        daemon.wait(30)
    return tool


def command(application, config):
    """The command for a while, and then a signal: it says that it has stored all by how it ends."""
    daemon = replicating(REPLICA, config)
    try:
        for _ in range(6):
            application.write(5)
            time.sleep(application.rnd.choice((0, 0.05, 0.4)))
    finally:
        daemon.terminate()
        status = daemon.wait(30)
    assert status == 0, "the command has ended with %d" % status
    return "replica"


def engine(application, database, tree):
    """The engine for a while: one sync after each few transactions, and its upkeep in between."""
    replicate = subprocess.Popen([os.path.join(EXAMPLES, "replicate"), database, tree], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    told = []
    for _ in range(6):
        replicate.stdin.write(application.rnd.choice(("\n", "\n", "compact\n", "snapshot\n")))
        replicate.stdin.flush()
        line = replicate.stdout.readline().strip()
        assert line, "the engine has failed"
        told.append(line)
        application.write(5)
    replicate.stdin.write("\n")
    replicate.stdin.close()
    told.append(replicate.stdout.read().strip())
    assert replicate.wait(30) == 0
    snapshots = [line for line in told if "snapshot" in line]
    assert all("snapshot" not in line for line in told[1:]), told
    return "engine, to transaction %s%s" % (told[-1].split()[0], ", began with a " +
                                            snapshots[0].split(" ", 2)[2] if snapshots else "")


def main():
    rnd = random.Random(SEED)
    print("store", STORE, "seed", SEED, flush=True)
    with tempfile.TemporaryDirectory() as work:
        store = servers.STORES[STORE](work)
        database, out = os.path.join(work, "app.db"), os.path.join(work, "restored.db")
        config = os.path.join(work, "litestream.yml")
        with open(config, "w") as file:
            file.write("levels:\n  - interval: 2s\n  - interval: 5s\nl0-retention: 1h\n"
                       "dbs:\n  - path: %s\n    monitor-interval: 50ms\n    replica:\n"
                       "%s      sync-interval: 50ms\n" % (database, store.fields("replica")))
        application = Application(database, rnd)
        application.write(20)
        first = 0 if LITESTREAM_OLD else rnd.randrange(2)
        for turn in range(TURNS):
            if turn % 2 == first:
                tool = LITESTREAM_OLD if LITESTREAM_OLD and turn == 0 else LITESTREAM
                told = litestream(tool, application, config, store)
            else:
                # Now and then some transactions that nobody watches. Not before Litestream's turn:
                # where the log was begun anew meanwhile, 0.5.17 goes on at its beginning if the
                # frame that it copied last is still there, and misses what came after that one.
                application.write(rnd.choice((0, 0, 15)))
                if STORE == "folder":
                    told = engine(application, database, os.path.join(work, "replica"))
                else:
                    told = command(application, config)
            wanted = rows(database)
            for tool in (LITESTREAM, REPLICA):
                assert restore(tool, out, config, database), "%s can't restore after %s" % (tool, told)
                assert rows(out) == wanted, "%s restores other rows after %s" % (tool, told)
            print("%s: %d rows" % (told, len(wanted)), flush=True)
        txids = sorted(name[17:33] for name in store.raw("replica"))
        checked = sorted(rnd.sample(txids, min(TRANSACTIONS_MAX, len(txids))))
        for txid in checked:
            digests = []
            for tool in (LITESTREAM, REPLICA):
                assert restore(tool, out, config, database, "-txid", txid), "%s refuses %s" % (tool, txid)
                digests.append(digest(out))
                rows(out)
            assert digests[0] == digests[1], "transaction %s differs" % txid
        print("%d transactions, the same bytes from both" % len(checked))


main()
