#!/usr/bin/env python3
"""Compares the restore plans of `replica` with those of the real Litestream.

    REPLICA=target/release/replica LITESTREAM=litestream .ci/interop-plan.py [TREE …]
    LITESTREAM=litestream .ci/interop-plan.py --record replica-engine/tests/plans.json

A dry run reads names, times and headers only, so the trees are made of files that are nothing
but a header, from a seed: orderly ones such as a replicator leaves, and disorderly ones. Each is
asked for the latest state, for each TXID up to one beyond the end, and for each time at which a
file was made, just before and just after it. Folders given as arguments are compared too, in
copies whose files have the times of their headers again.

Two differences are meant, both for times. Where files older than the time lie behind a gap,
Litestream restores the state before the gap, and `replica` refuses. And where the last file from
before the time can't be restored by itself, but a copy of that very transaction that was made
later can, a snapshot for instance, Litestream refuses, and `replica` restores it.

With --record, Litestream's answers are written down, as the test `plan` reads them.
"""
import concurrent.futures, json, os, random, shutil, struct, subprocess, sys, tempfile, time

EPOCH = 1_790_000_000_000          # milliseconds; any time will do
TREES = int(os.environ.get("TREES", "40"))


def orderly(rnd):
    """What a replicator leaves: levels compacted from each other, with pruned beginnings."""
    end = rnd.randint(1, 14)
    at = {t: EPOCH + 1000 * t for t in range(1, end + 1)}
    files = [(0, t, t, at[t]) for t in range(1, end + 1)]
    low = 1
    for level in range(1, rnd.randint(1, 4)):
        t = 1
        while t <= end:
            last = min(end, t + rnd.randint(0, 3 ** level))
            if last == end and rnd.random() < 0.7:
                break
            files.append((level, t, last, at[last] + rnd.choice((0, 0, 40))))
            t = last + 1
    for t in sorted(rnd.sample(range(1, end + 1), rnd.randint(0, min(3, end)))):
        files.append((9, 1, t, at[t] + rnd.choice((0, 500))))
    pruned = {level: rnd.randint(1, end) for level in range(9) if rnd.random() < 0.5}
    return [f for f in files if f[2] >= pruned.get(f[0], 0) and f[1] >= pruned.get(f[0], 0)]


def disorderly(rnd):
    """Holes, overlaps, and times in any order."""
    end = rnd.randint(1, 12)
    files = set()
    for _ in range(rnd.randint(1, 14)):
        level = rnd.choice((0, 0, 0, 1, 1, 2, 3, 8, 9))
        low = 1 if level == 9 else rnd.randint(1, end)
        high = low if level == 0 and rnd.random() < 0.8 else rnd.randint(low, end)
        files.add((level, low, high))
    return [f + (EPOCH + 1000 * rnd.randint(0, 12),) for f in sorted(files)]


def make(root, files):
    for level, low, high, at in files:
        folder = os.path.join(root, "ltx", str(level))
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "%016x-%016x.ltx" % (low, high))
        with open(path, "wb") as f:
            f.write(struct.pack(">4sIIIQQq", b"LTX1", 2, 4096, 1, low, high, at).ljust(100, b"\0"))
        os.utime(path, ns=(at * 1_000_000,) * 2)


def targets(files):
    yield []
    for txid in range(1, max((f[2] for f in files), default=0) + 2):
        yield ["-txid", "%016x" % txid]
    for at in sorted({f[3] + d for f in files for d in (-1, 0, 1)}):
        yield ["-timestamp", stamp(at)]


def stamp(at):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000)) + ".%03dZ" % (at % 1000)


def ask(command, root, target):
    """The names of the files of the plan, or None for an error."""
    out = os.path.join(root, "no-such-target.db")
    done = subprocess.run([command, "restore", "-dry-run", "-json", *target, "-o", out, "file://" + root],
                          capture_output=True, text=True, timeout=60)
    if done.returncode:
        return None
    return ["%d/%s" % (f["level"], f["name"]) for f in json.loads(done.stdout)["files"]]


def behind_a_gap(files, target, plan):
    """Whether files older than the time that is asked for can't be reached by the plan."""
    if not target or target[0] != "-timestamp":
        return False
    last = max(int(name.split("-")[1][:16], 16) for name in plan or ["-0.ltx"])
    return any(f[2] > last and stamp(f[3]) < target[1] for f in files)


def made_later(files, target, plan):
    """Whether a plan restores the last transaction from before the time that is asked for, and
    needs a file for it that was made after it."""
    if not target or target[0] != "-timestamp" or not plan:
        return False
    before = [f for f in files if stamp(f[3]) < target[1]]
    last = max(int(name.split("-")[1][:16], 16) for name in plan)
    names = {"%d/%016x-%016x.ltx" % f[:3] for f in files if stamp(f[3]) >= target[1]}
    return last == max((f[2] for f in before), default=0) and not names.isdisjoint(plan)


def found(root):
    """The files of a replica, which get the times of their headers."""
    for level in range(10):
        folder = os.path.join(root, "ltx", str(level))
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                low, high, at = struct.unpack(">QQq", f.read(40)[16:])
            os.utime(path, ns=(at * 1_000_000,) * 2)
            yield level, low, high, at


def main():
    litestream = os.environ.get("LITESTREAM", "litestream")
    record = sys.argv[1] == "--record" if len(sys.argv) > 1 else False
    with tempfile.TemporaryDirectory() as work, concurrent.futures.ThreadPoolExecutor(4) as pool:
        trees = []
        for seed in range(TREES):
            rnd = random.Random(seed)
            files = orderly(rnd) if seed % 2 else disorderly(rnd)
            root = os.path.join(work, str(seed))
            make(root, files)
            trees.append((root, files))
        if not record:
            for given in sys.argv[1:]:
                root = os.path.join(work, "given", given.strip("/").replace("/", "-"))
                shutil.copytree(given, root)
                trees.append((root, list(found(root))))
        asked = [(root, files, t, pool.submit(ask, litestream, root, t))
                 for root, files in trees for t in targets(files)]
        if record:
            answers = {}
            for root, _, target, plan in asked:
                answers.setdefault(root, []).append(target + [plan.result()])
            version = subprocess.run([litestream, "version"], capture_output=True, text=True, check=True).stdout.strip()
            with open(sys.argv[2], "w") as f:
                f.write('{"litestream": %s, "trees": [\n' % json.dumps(version))
                f.write(",\n".join(json.dumps({"files": files, "plans": answers[root]}, separators=(",", ":"))
                                   for root, files in trees if files))
                f.write("\n]}\n")
            print("%d answers recorded" % len(asked))
            return 0
        replica = os.environ.get("REPLICA", "replica")
        ours = [pool.submit(ask, replica, root, target) for root, _, target, _ in asked]
        bad = gaps = later = 0
        for (root, files, target, theirs), mine in zip(asked, ours):
            if theirs.result() != mine.result():
                if mine.result() is None and behind_a_gap(files, target, theirs.result()):
                    gaps += 1
                    continue
                if theirs.result() is None and made_later(files, target, mine.result()):
                    later += 1
                    continue
                bad += 1
                print("%s %s\n  litestream %s\n  replica    %s" % (
                    os.path.basename(root), " ".join(target) or "latest", theirs.result(), mine.result()))
        plans = sum(1 for *_, theirs in asked if theirs.result())
        print("%d questions on %d trees, %d of them with a plan: %d differ, %d are refused for a gap, and %d are "
              "answered with a later copy" % (len(asked), len(trees), plans, bad, gaps, later))
        return 1 if bad or not plans else 0


sys.exit(main())
