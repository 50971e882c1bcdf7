"""An application whose every state can be checked, and databases compared row by row.

Each writer is a process that commits as fast as it can, to a table of its own. What it has in there
it keeps an account of, in the same transactions: how many it has committed, how many rows it has,
and the sum of their hashes. So any state of the database tells by itself whether it is one that was
committed, and which; and a file beside the database tells, whoever was killed, how many
transactions each writer knows to be committed.

    application.py DATABASE WRITER AUTOCHECKPOINT        one writer, until it gets SIGTERM
"""
import hashlib, mmap, os, random, signal, sqlite3, struct, subprocess, sys, time

# Rows of a writer at most: the database stays small, so that it can be checked often.
ROWS = 2500
# How long a connection waits for others, in seconds, and how long SQLite does so by itself. That
# comes to look ten times a second, and beside a writer that never pauses to look in vain.
BUSY, BUSY_SQLITE = 120, 0.008


class Connection(sqlite3.Connection):
    """A connection that has its turn. Who writes has to say so when a transaction begins."""

    def execute(self, *args):
        # Counted by attempts: time goes on too while all of this is stopped.
        attempts = int(BUSY / BUSY_SQLITE)
        while True:
            try:
                return super().execute(*args)
            except sqlite3.OperationalError as error:
                attempts -= 1
                if "locked" not in str(error) or self.in_transaction or not attempts:
                    raise

    def shrink(self, most):
        """Gives back so many free pages at most. Python takes one step of a statement without rows: a page each."""
        self.execute("BEGIN IMMEDIATE")
        for _ in range(most):
            self.execute("PRAGMA incremental_vacuum")
        self.execute("COMMIT")

    def checkpoint(self, kind):
        """A checkpoint that comes about or not."""
        try:
            super().execute("PRAGMA wal_checkpoint(%s)" % kind).fetchall()
        except sqlite3.OperationalError as error:
            assert "locked" in str(error), error


def connect(path):
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_SQLITE, factory=Connection)


def hashed(key, text, body):
    return int.from_bytes(hashlib.blake2b(b"%d %s %s" % (key, text.encode(), body), digest_size=6).digest(), "big")


def make(path, page_size, auto_vacuum=0):
    db = connect(path)
    for setting in ("page_size=%d" % page_size, "auto_vacuum=%d" % auto_vacuum, "journal_mode=WAL"):
        db.execute("PRAGMA " + setting)
    db.execute("CREATE TABLE IF NOT EXISTS account(writer INTEGER PRIMARY KEY, number, rows, sum)")
    return db


class Writer:
    """One writer, in the process that is one."""

    def __init__(self, path, writer, autocheckpoint):
        self.writer, self.table, self.dice = writer, "writer_%d" % writer, random.Random(os.urandom(8))
        self.db = connect(path)
        self.db.execute("PRAGMA synchronous=%s" % ("NORMAL" if writer % 3 else "FULL"))
        self.db.execute("PRAGMA wal_autocheckpoint=%d" % autocheckpoint)
        # So small that a large transaction goes to the log before it is committed.
        self.db.execute("PRAGMA cache_size=-300")
        self.db.execute("BEGIN IMMEDIATE")
        keys = "key PRIMARY KEY, text, body) WITHOUT ROWID" if writer % 2 else "key INTEGER PRIMARY KEY, text, body)"
        self.db.execute("CREATE TABLE IF NOT EXISTS %s(%s" % (self.table, keys))
        self.db.execute("CREATE INDEX IF NOT EXISTS %s_text ON %s(text)" % (self.table, self.table))
        self.db.execute("INSERT OR IGNORE INTO account VALUES(?, 0, 0, 0)", (writer,))
        self.number, count, self.sum = self.db.execute(
            "SELECT number, rows, sum FROM account WHERE writer = ?", (writer,)).fetchone()
        self.rows = {row[0]: hashed(*row) for row in self.db.execute("SELECT key, text, body FROM " + self.table)}
        self.db.execute("COMMIT")
        assert (len(self.rows), sum(self.rows.values())) == (count, self.sum), "a crash has changed the rows"
        known = committed(path, writer)
        assert self.number >= known, "of %d transactions that were committed %d are left" % (known, self.number)
        with open(known_path(path, writer), "r+b") as file:
            self.known = mmap.mmap(file.fileno(), 8)

    def commit(self):
        """One transaction, seldom a large one, and seldom one that is rolled back."""
        dice, changed = self.dice, {}
        self.db.execute("BEGIN IMMEDIATE")
        for _ in range(1500 if dice.random() < 0.002 else dice.randint(1, 4)):
            key = dice.randint(1, ROWS)
            if dice.random() < 0.2:
                self.db.execute("DELETE FROM %s WHERE key = ?" % self.table, (key,))
                changed[key] = None
            else:
                size = dice.randint(5000, 60000) if dice.random() < 0.005 else dice.randint(0, 400)
                row = (key, "%x" % dice.getrandbits(60), dice.randbytes(size))
                self.db.execute("INSERT OR REPLACE INTO %s VALUES(?, ?, ?)" % self.table, row)
                changed[key] = hashed(*row)
        if dice.random() < 0.02:
            self.db.execute("ROLLBACK")
            return
        for key, new in changed.items():
            self.sum += (new or 0) - self.rows.pop(key, 0)
            if new is not None:
                self.rows[key] = new
        self.number += 1
        self.db.execute("UPDATE account SET number = ?, rows = ?, sum = ? WHERE writer = ?",
                        (self.number, len(self.rows), self.sum, self.writer))
        self.db.execute("COMMIT")
        self.known[:] = struct.pack("<q", self.number)


def known_path(path, writer):
    return "%s.writer-%d" % (path, writer)


def committed(path, writer):
    """How many transactions a writer knows to be committed."""
    with open(known_path(path, writer), "rb") as file:
        return struct.unpack("<q", file.read(8))[0]


class Application:
    """Writers that write to one database, each in a process of its own."""

    def __init__(self, path, writers, autocheckpoint):
        self.path, self.writers, self.autocheckpoint = path, range(writers), autocheckpoint
        self.processes = {}
        for writer in self.writers:
            with open(known_path(path, writer), "wb") as file:
                file.write(bytes(8))
            self.start(writer)

    def start(self, writer):
        self.processes[writer] = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), self.path, str(writer), str(self.autocheckpoint)])

    def committed(self):
        """How many transactions each writer knows to be committed."""
        return {writer: committed(self.path, writer) for writer in self.writers}

    def wait(self):
        """Waits until every writer has begun."""
        while not all(self.committed().values()):
            self.look()
            time.sleep(0.02)

    def look(self):
        """Fails if a writer has failed."""
        for writer, process in self.processes.items():
            assert process.poll() is None, "writer %d has failed" % writer

    def kill(self, writer):
        process = self.processes.pop(writer)
        assert process.poll() is None, "writer %d has failed" % writer
        process.kill()
        process.wait()

    def end(self):
        self.look()
        for process in self.processes.values():
            process.terminate()
        for writer, process in self.processes.items():
            assert process.wait(BUSY) == 0, "writer %d has failed" % writer
        self.processes.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()


def check(path):
    """Looks whether a database is a state that was committed, and returns how many transactions of each writer it has."""
    db = connect(path)
    found = db.execute("PRAGMA integrity_check").fetchall()
    assert found == [("ok",)], "%s: %s" % (path, found[:5])
    tables, numbers = {name for name, in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}, {}
    for writer, number, count, wanted in db.execute("SELECT * FROM account").fetchall():
        rows = [hashed(*row) for row in db.execute("SELECT key, text, body FROM writer_%d" % writer)]
        assert (len(rows), sum(rows)) == (count, wanted), \
            "%s: writer %d: other rows than those after transaction %d" % (path, writer, number)
        assert "writer_%d" % writer in tables
        numbers[writer] = number
    db.close()
    return numbers


def digest(path):
    """What a database has: a hash of the schema, and of the rows of each table in their order."""
    db = connect(path)
    db.text_factory = bytes
    db.execute("BEGIN")
    schema = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    total = hashlib.sha256(repr(schema).encode())
    for kind, name, _, sql in schema:
        if kind != b"table" or sql.upper().startswith(b"CREATE VIRTUAL"):
            continue
        order = [b'"%s"' % row[1] for row in db.execute("PRAGMA table_info(%s)" % quoted(name)) if row[5]] or [b"rowid"]
        total.update(b"\0table " + name)
        for row in db.execute("SELECT * FROM %s ORDER BY %s" % (quoted(name), b", ".join(order).decode())):
            for value in row:
                if not isinstance(value, bytes):
                    value = repr(value).encode()
                total.update(b"%d:" % len(value))
                total.update(value)
    db.close()
    return total.hexdigest()


def quoted(name):
    return '"%s"' % name.decode().replace('"', '""')


class Held:
    """The moment in which a database stands still: nobody else can write to it until this is let go of."""

    def __init__(self, path):
        self.path, self.db = path, connect(path)

    def __enter__(self):
        # A writer that was killed after the last frame of a transaction, and before it has told so in
        # the log's index, has left one that is not committed to all who are there, and will be to who
        # makes the index anew, such as the owner of a copy. The next one takes its place.
        self.db.execute("PRAGMA user_version=%d" % random.getrandbits(31))
        self.db.execute("BEGIN IMMEDIATE")
        return self

    def __exit__(self, *_):
        self.db.execute("ROLLBACK")
        self.db.close()


def copied(path, folder):
    """A copy of a database that stands still, with its log in it: the bytes that a restore must give."""
    copy = os.path.join(folder, "copy.db")
    remove(copy)
    # By another process: one that closes the file loses the locks that SQLite has on it. The log
    # last: what is copied from it to the database meanwhile is in it still.
    for suffix in ("", "-wal"):
        if os.path.exists(path + suffix):
            subprocess.run(["cp", path + suffix, copy + suffix], check=True, timeout=600)
    db = connect(copy)
    assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    db.close()
    return copy


def remove(path):
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def main():
    path, writer, autocheckpoint = sys.argv[1:]
    over, parent = [], os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    writer = Writer(path, int(writer), int(autocheckpoint))
    # Nobody is left behind by a test that was killed.
    while not over and os.getppid() == parent:
        writer.commit()


if __name__ == "__main__":
    main()
