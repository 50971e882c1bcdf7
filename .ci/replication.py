"""Runs of the command `replica` on a database: replicating, restoring, and comparing the two.

The command is found as $REPLICA, by default target/release/replica; Litestream, where it is asked
for, as $LITESTREAM.
"""
import json, os, shutil, signal, subprocess, sys, threading, time
import application

REPLICA = os.path.abspath(os.environ.get("REPLICA", "target/release/replica"))
LITESTREAM = os.environ.get("LITESTREAM")
# Longer than anything here takes.
LIMIT = 600

# An end by a signal is an end like others: what was started is ended.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def until(what, condition, seconds=LIMIT, pause=0.005):
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "%s: not within %d s" % (what, seconds)
        time.sleep(pause)


class Replication:
    """`replica replicate`, until it is told to stop or is killed."""

    def __init__(self, argv, env=None):
        self.lines, self.process = [], subprocess.Popen(
            [REPLICA, "replicate", "-json", "-log-level", "debug", *argv], env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                # The last line of one that was killed may be cut.
                self.lines.append({"event": "unreadable", "line": line})

    def all(self, *events):
        return [line for line in list(self.lines) if line.get("event") in events]

    def wait_for(self, event, count=1):
        def told():
            if len(self.all(event)) >= count:
                return self.all(event)[count - 1]
            assert self.process.poll() is None, "it has ended: %s" % self.lines[-3:]
        return until(event, told)

    def peak(self):
        """How much memory it has needed, in MiB."""
        with open("/proc/%d/status" % self.process.pid) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

    def kill(self):
        assert self.process.poll() is None, "it has ended: %s" % self.lines[-3:]
        self.process.kill()
        self.process.wait(LIMIT)
        self.reader.join(LIMIT)

    def end(self):
        """Has it store what is committed, and end; returns the last transaction."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(LIMIT)
        self.reader.join(LIMIT)
        assert status == 0 and self.lines[-1].get("event") == "stopped", (status, self.lines[-3:])
        return self.lines[-1]["txid"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(LIMIT)


class Place:
    """A folder with a database, its replica, and room for what is restored."""

    def __init__(self, work, name, settings=""):
        self.folder = os.path.join(work, name)
        os.makedirs(os.path.join(self.folder, "away"))
        self.database = os.path.join(self.folder, "app.db")
        self.tree = os.path.join(self.folder, "replica")
        self.url, self.env = "file://" + self.tree, None
        self.config = os.path.join(self.folder, "litestream.yml")
        self.write_config(settings)

    def write_config(self, settings):
        with open(self.config, "w") as file:
            file.write("%s\ndbs:\n  - path: %s\n    replica: {url: '%s'}\n" % (settings, self.database, self.url))

    def away(self, name="restored.db"):
        """A path in a folder that has nothing of the database."""
        return os.path.join(self.folder, "away", name)

    def replicate(self):
        return Replication(["-config", self.config], self.env)

    def run(self, *argv, tool=REPLICA, status=0):
        ran = subprocess.run([tool, *argv], capture_output=True, timeout=LIMIT, env=self.env,
                             cwd=os.path.join(self.folder, "away"))
        assert ran.returncode == status, "%s: status %d: %s" % (
            " ".join(argv), ran.returncode, (ran.stdout + ran.stderr).decode(errors="replace")[-2000:])
        return ran.stdout

    def restore(self, txid=None, tool=REPLICA):
        """Restores from the replica alone; returns where it is."""
        output = self.away()
        application.remove(output)
        self.run("restore", *(["-txid", txid] if txid else []), "-o", output, self.url, tool=tool)
        return output

    def verify(self):
        """Has the live database and the replica compared, and returns how often that could be told."""
        ran = subprocess.run([REPLICA, "verify", "-wait", "60s", "-scratch", os.path.join(self.folder, "away"),
                              self.database, self.url], capture_output=True, timeout=LIMIT, env=self.env)
        # It can't be told where the log was begun anew in that moment.
        assert ran.returncode in (0, 4), "status %d: %s" % (ran.returncode, ran.stdout + ran.stderr)
        return ran.returncode == 0

    def standing(self):
        """The newest transaction of the replica, and whether the database has more."""
        (status,) = json.loads(self.run("status", "-json", "-database", self.database, self.url))
        assert status["unrestorable"] is None, status
        return status["restorable"]["newest"]["txid"], status["database"]["state"]

    def caught_up(self):
        """Waits until everything is stored, of a database that stands still; returns the last transaction."""
        def complete():
            txid, state = self.standing()
            return state == "complete" and txid
        return until("everything is stored", complete, pause=0.02)

    def compare(self, copy, txid=None, tools=None):
        """Restores, and compares with the bytes that it should be."""
        for tool in tools or [REPLICA]:
            restored = self.restore(txid, tool)
            same = subprocess.run(["cmp", copy, restored], capture_output=True, timeout=LIMIT)
            assert same.returncode == 0, "%s restores another database at %s: %s" % (
                os.path.basename(tool), txid or "the end", (same.stdout + same.stderr).decode())
        return restored

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)
