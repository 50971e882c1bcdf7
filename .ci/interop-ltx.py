#!/usr/bin/env python3
"""Has Litestream restore replicas whose files were rewritten or merged by `ltx`.

    EXAMPLES=target/release/examples LITESTREAM=litestream .ci/interop-ltx.py
    …                         LITESTREAM_OLD=litestream-0.5.15 .ci/interop-ltx.py

Every file of every golden replica is rewritten, with blocks and with frames, and given the time
that the manifest has for it. Litestream must restore the same databases from them as from its
own files: the latest, each transaction, each time of the manifest. LITESTREAM_OLD, a version
that reads frames only, is asked about the rewritten frames too. Then all files of level 0 are
merged into one of level 1, from which the latest must be restored.
"""
import hashlib, json, os, shutil, subprocess, sys, tempfile

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../ltx/tests/golden")
EXAMPLES = os.environ.get("EXAMPLES", "target/release/examples")


def rewrite(tree, name, files, compression):
    """A copy of a golden replica with each file rewritten."""
    for path, facts in files.items():
        source = os.path.join(GOLDEN, name, "replica", path)
        target = os.path.join(tree, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path.endswith(".ltx"):
            subprocess.run([os.path.join(EXAMPLES, "reencode"), source, target, compression],
                           check=True, timeout=60)
        else:
            shutil.copy(source, target)
        os.utime(target, ns=(facts["mtime_ms"] * 1_000_000,) * 2)


def merge(tree, name, files):
    """A replica that has all of a golden replica's level 0 in one file of level 1."""
    sources = sorted(path for path in files if path.startswith("ltx/0/"))
    first, last = sources[0][6:22], sources[-1][23:39]
    target = os.path.join(tree, "ltx/1", f"{first}-{last}.ltx")
    os.makedirs(os.path.dirname(target))
    sources = [os.path.join(GOLDEN, name, "replica", path) for path in sources]
    subprocess.run([os.path.join(EXAMPLES, "merge"), target, *sources], check=True, timeout=60)


def restore(litestream, tree, *options):
    """The sha256 of what Litestream restores, or what it says instead."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.db")
        run = subprocess.run([litestream, "restore", *options, "-o", out, "file://" + tree],
                             capture_output=True, text=True, timeout=120)
        if run.returncode:
            return "error"
        with open(out, "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()


def wanted(facts):
    return facts.get("sha256", "error")


def main():
    versions = {"blocks": [os.environ.get("LITESTREAM", "litestream")]}
    versions["frames"] = versions["blocks"] + [v for v in [os.environ.get("LITESTREAM_OLD")] if v]
    asked = failed = 0
    for manifest in ("manifest.json", "manifest-frames.json"):
        with open(os.path.join(GOLDEN, manifest)) as f:
            sets = json.load(f)["sets"]
        for name, facts in sets.items():
            questions = [((), wanted(facts["latest"]))]
            questions += [(("-txid", t), wanted(w)) for t, w in facts["restore_txid"].items()]
            questions += [(("-timestamp", t), wanted(w)) for t, w in facts["restore_timestamp"].items()]
            for compression, litestreams in versions.items():
                with tempfile.TemporaryDirectory() as tree:
                    rewrite(tree, name, facts["files"], compression)
                    for litestream in litestreams:
                        for options, want in questions:
                            asked += 1
                            got = restore(litestream, tree, *options)
                            if got != want:
                                failed += 1
                                print(f"{name}, {compression}, {litestream} {' '.join(options)}: "
                                      f"{got}, not {want}")
            with tempfile.TemporaryDirectory() as tree:
                merge(tree, name, facts["files"])
                asked += 1
                got = restore(versions["blocks"][0], tree)
                if got != wanted(facts["latest"]):
                    failed += 1
                    print(f"{name}, merged: {got}, not {wanted(facts['latest'])}")
    print(f"{asked} restores of rewritten and merged replicas, {failed} differ")
    sys.exit(1 if failed or not asked else 0)


main()
