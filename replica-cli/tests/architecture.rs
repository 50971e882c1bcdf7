//! ARCHITECTURE.md can't drift: its drawing is compared with the manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crates of others that rules 1, 2, 3 and 12 keep out of whole rows.
const RUNTIMES: &[&str] = &["tokio", "async-std", "smol", "rustix", "libc"];
const URLS_AND_YAML: &[&str] = &["url", "serde-saphyr", "yaml_serde", "serde_yaml"];
const BACKEND_HABITS: &[&str] = &["backon", "tracing", "log", "env_logger"];

#[test]
fn the_drawing_is_what_the_manifests_say() {
    let drawn = drawing();
    let manifests = manifests();

    let drawn_edges: BTreeMap<_, _> = drawn
        .iter()
        .map(|(name, (_, needs))| (name.clone(), needs.clone()))
        .collect();
    let workspace: BTreeSet<_> = manifests.keys().cloned().collect();
    let real_edges: BTreeMap<_, _> = manifests
        .into_iter()
        .map(|(name, needs)| {
            (
                name,
                needs
                    .intersection(&workspace)
                    .cloned()
                    .collect::<BTreeSet<_>>(),
            )
        })
        .collect();

    assert_eq!(drawn_edges, real_edges);
}

#[test]
fn a_crate_needs_only_crates_in_rows_below_its_own() {
    let drawn = drawing();
    for (name, (row, needs)) in &drawn {
        for need in needs {
            assert!(drawn[need].0 < *row, "{name} in row {row} needs {need}");
        }
    }
}

#[test]
fn rules_about_dependencies_hold() {
    let manifests = manifests();
    let drawn = drawing();
    let keep_out = |name: &str, unwanted: &[&str]| {
        for need in unwanted {
            assert!(!manifests[name].contains(*need), "{name} needs {need}");
        }
    };
    for (name, (row, _)) in &drawn {
        if *row <= 2 {
            keep_out(name, RUNTIMES);
        }
        if *row <= 4 {
            keep_out(name, URLS_AND_YAML);
        }
        if *row == 3 && name != "replica-layers" {
            keep_out(name, BACKEND_HABITS);
        }
    }
}

/// The fenced `dependencies` block: each crate's row and the crates it needs.
fn drawing() -> BTreeMap<String, (u32, BTreeSet<String>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md should be readable");
    let (_, rest) = text
        .split_once("```dependencies\n")
        .expect("a dependencies block");
    let (block, _) = rest.split_once("```").expect("the block's end");
    block
        .lines()
        .map(|line| {
            let (head, needs) = line.split_once(':').expect("row, name, colon");
            let (row, name) = head.split_once(' ').expect("row and name");
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (
                name.to_owned(),
                (row.parse().expect("a row's number"), needs),
            )
        })
        .collect()
}

/// Each crate of the workspace with all that it needs outside of tests.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo should run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo's metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("a name").to_owned();
            let needs = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().expect("a name").to_owned())
                .collect();
            (name, needs)
        })
        .collect()
}
