//! Replicas that Litestream wrote: the command restores and lists them as Litestream does.

use serde_json::Value;

use crate::replica::{Golden, replica, sets, sha256, text};

#[test]
fn every_golden_set_restores_bit_for_bit() {
    let mut restored = 0;
    for name in sets().keys() {
        let golden = Golden::copy(name);
        restored += check(&golden, &[], &golden.facts["latest"]);
        for (txid, wanted) in golden.facts["restore_txid"].as_object().expect("txids") {
            restored += check(&golden, &["-txid", txid], wanted);
        }
        for (time, wanted) in golden.facts["restore_timestamp"]
            .as_object()
            .expect("times")
        {
            restored += check(&golden, &["-timestamp", time], wanted);
        }
    }
    assert!(restored > 80, "only {restored} restores");
}

#[test]
fn a_replica_copied_without_its_times_restores_the_same() {
    for name in sets().keys() {
        let golden = Golden::without_times(name);
        for (time, wanted) in golden.facts["restore_timestamp"]
            .as_object()
            .expect("times")
        {
            check(&golden, &["-timestamp", time], wanted);
        }
    }
}

#[test]
fn listings_are_litestreams() {
    for name in sets().keys() {
        let golden = Golden::copy(name);

        let json = replica(["ltx", "-level", "all", "-json", &golden.url()]).ended(0);
        let text = replica(["ltx", "-level", "all", &golden.url()]).ended(0);

        let lines: Vec<_> = text.stdout.lines().collect();
        assert_eq!(json.json(), golden.facts["ltx"], "{name}");
        assert_eq!(Value::from(lines), golden.facts["ltx_text"], "{name}");
    }
}

#[test]
fn every_golden_set_verifies() {
    for name in sets().keys() {
        let golden = Golden::copy(name);

        let ran = replica(["ltx", "verify", "-json", &golden.url()]).ended(0);

        let report = ran.json();
        assert_eq!(report["findings"], Value::Array(Vec::new()), "{name}");
        assert_eq!(
            report["files"].as_u64(),
            golden.facts["files"]
                .as_object()
                .map(|files| files.len() as u64),
            "{name}"
        );
    }
}

/// Restores with `flags`, compares, and counts 1.
fn check(golden: &Golden, flags: &[&str], wanted: &Value) -> usize {
    let output = golden.beside("restored.db");
    let mut args = vec!["restore", "-force", "-o", text(&output)];
    args.extend(flags);
    let url = golden.url();
    args.push(&url);

    replica(args).ended(0);

    assert_eq!(
        Value::from(sha256(&output)),
        wanted["sha256"],
        "{} {flags:?}",
        golden.name
    );
    1
}
