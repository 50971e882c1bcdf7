//! `replica conformance`.

use std::fs;

use crate::replica::{folder, names, replica, replica_unread};

#[test]
fn the_built_in_stores_keep_a_group_of_promises() {
    let ran = replica(["conformance", "-filter", "range::"]).ended(0);

    assert!(ran.stdout.starts_with("memory\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\nfile:///"), "{}", ran.stdout);
    assert_eq!(
        ran.stdout
            .matches("kept   range::length_zero_is_empty")
            .count(),
        2
    );
    assert_eq!(
        ran.stdout.matches("kept the promises of all").count(),
        2,
        "{}",
        ran.stdout
    );
}

#[test]
fn a_folder_is_proved_and_left_as_it_was() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("ltx/0")).unwrap();
    fs::write(folder.path().join("neighbour"), "here").unwrap();

    let ran = replica([
        "conformance".as_ref(),
        "-json".as_ref(),
        "-filter=range::".as_ref(),
        "-seed=7".as_ref(),
        folder.path().as_os_str(),
    ])
    .ended(0);

    let report = ran.json();
    assert_eq!(report["exit_status"], 0);
    let store = &report["stores"][0];
    assert_eq!(
        (&store["scheme"], &store["seed"]),
        (&"file".into(), &"7".into())
    );
    assert!(store["cases"].as_array().unwrap().len() >= 10, "{report:#}");
    assert_eq!(names(folder.path()), ["ltx", "neighbour"]);
}

#[test]
fn what_is_kept_is_named() {
    let folder = folder();

    let ran = replica([
        "conformance".as_ref(),
        "-keep".as_ref(),
        "-filter=range::the_whole".as_ref(),
        folder.path().as_os_str(),
    ])
    .ended(0);

    let kept = names(folder.path());
    assert_eq!(kept.len(), 1);
    let line = format!("kept in file://{}/{}\n", folder.path().display(), kept[0]);
    assert!(ran.stdout.ends_with(&line), "{}", ran.stdout);
}

#[test]
fn a_store_that_breaks_a_promise_is_status_1() {
    let folder = folder();
    let known = folder.path().join("known");
    fs::write(
        &known,
        "range::the_whole_file_is_read 2099-12-31 #1 it is not broken",
    )
    .unwrap();

    let ran = replica([
        "conformance".as_ref(),
        "-filter=range::the_whole".as_ref(),
        "-known-failures".as_ref(),
        known.as_os_str(),
        folder.path().as_os_str(),
    ])
    .ended(1);

    assert!(
        ran.stdout.contains("take it off the list"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_place_that_can_not_be_opened_is_status_2() {
    for (place, told) in [
        (
            "/nowhere/at/all",
            "could not open file:///nowhere/at/all: it is not an existing folder\n  hint: make it, \
             or mount what should be there",
        ),
        ("/", "is the root of the file system"),
        ("file:///", "is the root of the file system"),
        ("/..", "is the root of the file system"),
        ("/proc", "could not open file:///proc\n  cause: "),
        (
            "s3://bucket",
            "s3://bucket is a whole bucket: give a prefix in it",
        ),
    ] {
        let ran = replica(["conformance", "-filter=range::the_whole", place]).ended(2);

        assert!(ran.stderr.contains(told), "{place}: {}", ran.stderr);
    }
}

#[test]
fn a_run_that_runs_nothing_fails() {
    for flags in [&[][..], &["-json"], &["-list"]] {
        let ran = replica([&["conformance", "-filter", "no such case"], flags].concat()).ended(3);

        assert!(
            ran.stderr.contains("the filter chooses no case"),
            "{ran:#?}"
        );
    }
}

/// It was noticed at the end of the run.
#[test]
fn a_report_that_has_no_folder_is_refused_before_the_run() {
    let ran = replica(["conformance", "-junit", "/nowhere/report.xml"]).ended(2);

    assert_eq!(
        (&*ran.stdout, &*ran.stderr),
        (
            "",
            "error: can't write /nowhere/report.xml: there is no folder /nowhere\n"
        )
    );
}

/// A pipeline's reader that had seen enough made of a broken promise a success.
#[test]
fn a_verdict_is_given_though_nobody_reads_stdout() {
    let folder = folder();
    let known = folder.path().join("known");
    let junit = folder.path().join("report.xml");
    fs::write(
        &known,
        "range::the_whole_file_is_read 2099-12-31 #1 it is not broken",
    )
    .unwrap();
    let flags = [
        "conformance".as_ref(),
        "-filter=range::the_whole".as_ref(),
        "-known-failures".as_ref(),
        known.as_os_str(),
        "-junit".as_ref(),
        junit.as_os_str(),
    ];

    for json in ["-json=false", "-json"] {
        let ran = replica_unread(flags.into_iter().chain([json.as_ref()])).ended(1);

        assert_eq!(ran.stderr, "");
        let report = fs::read_to_string(&junit).expect("a report");
        assert!(report.contains("<failure "), "{report}");
        fs::remove_file(&junit).unwrap();
    }
    replica_unread(["conformance", "-list", "-filter=range::"]).ended(0);
    replica_unread(["conformance", "-list", "-filter=no such case"]).ended(3);
}

#[test]
fn the_cases_are_listed_with_their_promises() {
    let text = replica(["conformance", "-list", "-filter", "RNG-07"]).ended(0);
    let json = replica(["conformance", "-list", "-json"]).ended(0);

    let line = text.stdout.lines().nth(1).expect("a case");
    assert!(line.starts_with("range::length_zero_is_empty "), "{line}");
    assert!(line.ends_with(" K3"), "{line}");
    let cases = json.json();
    assert_eq!(
        cases.as_array().unwrap().len(),
        conformance::Options::default().cases().count()
    );
}

#[test]
fn a_list_of_known_failures_that_can_not_be_read_is_a_wrong_call() {
    let folder = folder();
    let known = folder.path().join("known");
    fs::write(&known, "no::such_case 2099-12-31 #1 why").unwrap();

    let malformed = replica(["conformance", "-known-failures", known.to_str().unwrap()]).ended(2);
    let missing = replica(["conformance", "-known-failures", "/nowhere/at/all"]).ended(2);

    assert!(
        malformed.stderr.contains("line 1: there is no case"),
        "{}",
        malformed.stderr
    );
    assert!(
        missing.stderr.contains("can't read /nowhere/at/all"),
        "{}",
        missing.stderr
    );
}

#[test]
fn a_junit_report_has_a_suite_for_each_store() {
    let folder = folder();
    let path = folder.path().join("report.xml");
    let known = folder.path().join("known");
    fs::write(
        &known,
        "range::the_whole_file_is_read 2099-12-31 #1 it is not broken",
    )
    .unwrap();

    let flags = [
        "conformance",
        "-filter=range::",
        "-junit",
        path.to_str().unwrap(),
    ];
    let known = ["-known-failures", known.to_str().unwrap()];
    replica([&flags[..], &known].concat()).ended(1);

    let xml = fs::read_to_string(&path).unwrap();
    assert!(xml.starts_with("<?xml "), "{xml}");
    assert_eq!(xml.matches("<testsuite name=").count(), 2, "{xml}");
    assert_eq!(
        xml.matches(" failures=\"1\" errors=\"0\" skipped=\"0\" ")
            .count(),
        2,
        "{xml}"
    );
    assert_eq!(
        xml.matches("<failure message=\"it passes, and was known to fail")
            .count(),
        2
    );
    assert_eq!(
        xml.matches("<testcase name=\"range::length_zero_is_empty\"")
            .count(),
        2
    );
}
