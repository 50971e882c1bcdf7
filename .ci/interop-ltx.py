#!/usr/bin/env python3
"""Has Litestream restore replicas whose files were decoded and encoded again by `ltx`.

    REENCODE=target/release/examples/reencode LITESTREAM=litestream .ci/interop-ltx.py
    …                                 LITESTREAM_OLD=litestream-0.5.15 .ci/interop-ltx.py

Every file of every golden replica is rewritten, with blocks and with frames, and given the time
that the manifest has for it. Litestream must restore the same databases from them as from its
own files: the latest, each transaction, each time of the manifest. LITESTREAM_OLD, a version
that reads frames only, is asked about the rewritten frames too.
"""
import hashlib, json, os, shutil, subprocess, sys, tempfile

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../ltx/tests/golden")
REENCODE = os.environ.get("REENCODE", "target/release/examples/reencode")


def rewrite(tree, name, files, compression):
    """A copy of a golden replica with each file rewritten; gives how many were."""
    for path, facts in files.items():
        source = os.path.join(GOLDEN, name, "replica", path)
        target = os.path.join(tree, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path.endswith(".ltx"):
            subprocess.run([REENCODE, source, target, compression], check=True, timeout=60)
        else:
            shutil.copy(source, target)
        os.utime(target, ns=(facts["mtime_ms"] * 1_000_000,) * 2)


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
    print(f"{asked} restores of rewritten replicas, {failed} differ")
    sys.exit(1 if failed or not asked else 0)


main()
