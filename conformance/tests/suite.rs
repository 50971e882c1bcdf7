//! The suite itself: what a run answers, and what it leaves.

use std::error::Error;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conformance::{CASES, Case, History, KnownFailures, Options, Outcome, Report, Verdict, junit};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, ErrorKind, FileId, FileInfo, FileStream, Level, Op,
    ReplicaClient, Result, Timestamp, Timestamps, Txid, async_trait,
};
use replica_mock::{MockClient, MockStore, file};

/// A factory of the mock's clients.
fn memory(store: &MockStore) -> impl Fn(String) -> Ready<MockClient> + Send + Sync + 'static {
    let store = store.clone();
    move |namespace| ready(store.client(&namespace))
}

fn options(filter: &str) -> Options {
    Options {
        filter: filter.to_owned(),
        seed: Some(7),
        ..Options::default()
    }
}

/// Runs what `options` say on a new mock.
async fn run(options: &Options) -> Report {
    conformance::run_with(options, memory(&MockStore::new()), |_| ()).await
}

/// A client of the mock whose `open` and `delete_all` do what they are told.
#[derive(Debug)]
struct Odd {
    mock: MockClient,
    open: fn(),
    hang: bool,
}

impl Odd {
    fn new(open: fn(), hang: bool) -> impl Fn(String) -> Ready<Odd> + Send + Sync + 'static {
        let store = MockStore::new();
        move |namespace| {
            let mock = store.client(&namespace);
            ready(Odd { mock, open, hang })
        }
    }
}

#[async_trait]
impl ReplicaClient for Odd {
    fn scheme(&self) -> &'static str {
        "odd"
    }

    fn capabilities(&self) -> Capabilities {
        self.mock.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        self.mock.list(level, from, timestamps).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        (self.open)();
        if self.hang {
            std::future::pending::<()>().await;
        }
        self.mock.open(file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        self.mock.write(file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.mock.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.mock.delete_all().await
    }
}

const CASE: &str = "range::the_whole_file_is_read";

#[tokio::test]
async fn a_run_of_kept_promises_ends_with_0() {
    let report = run(&options("range::")).await;

    assert_eq!(
        (report.verdict(), report.exit_status()),
        (Verdict::Kept, 0),
        "{report}"
    );
    assert_eq!(report.scheme, Some("mock"));
    assert!(report.cases.len() > 5);
}

#[tokio::test]
async fn a_broken_promise_ends_with_1() {
    let report = conformance::run(CASE, Odd::new(|| panic!("out of \"luck\""), false)).await;

    assert_eq!(
        (report.verdict(), report.exit_status()),
        (Verdict::Broken, 1)
    );
    let told = report.to_string();
    assert!(told.contains("out of \"luck\" (at "), "{told}");
    assert!(told.contains("tests/suite.rs:"), "{told}");
}

#[tokio::test]
async fn a_store_that_can_not_be_opened_ends_with_2() {
    let refuse = |_: String| async { Err::<MockClient, _>("no such bucket") };

    let report = conformance::run("", refuse).await;

    assert_eq!(
        (report.verdict(), report.exit_status()),
        (Verdict::NotOpened, 2)
    );
    assert!(report.to_string().contains("no such bucket"), "{report}");
    assert!(report.cases.is_empty());
}

#[tokio::test]
async fn an_opening_that_panics_ends_with_2() {
    let open = |_: String| -> Ready<MockClient> { panic!("no configuration") };

    let report = conformance::run("", open).await;

    assert_eq!(report.exit_status(), 2);
    assert!(report.to_string().contains("no configuration"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_hangs_ends_with_2() {
    let report = conformance::run("", |_: String| std::future::pending::<MockClient>()).await;

    assert_eq!(report.exit_status(), 2);
    assert!(
        report.to_string().contains("no client after 60s"),
        "{report}"
    );
}

#[tokio::test]
async fn another_store_than_was_asked_for_ends_with_2() {
    let asked = Options {
        scheme: Some("s3".to_owned()),
        ..options("")
    };

    let report = run(&asked).await;

    assert_eq!(report.exit_status(), 2);
    assert!(
        report
            .to_string()
            .contains("\"mock\", and \"s3\" was asked for"),
        "{report}"
    );
}

#[tokio::test]
async fn a_run_of_nothing_ends_with_3() {
    let report = run(&options("no such case")).await;

    assert_eq!(
        (report.verdict(), report.exit_status()),
        (Verdict::NothingRan, 3)
    );
    assert!(report.to_string().contains("nothing ran"), "{report}");
}

#[test]
#[should_panic(expected = "nothing ran")]
fn a_run_of_nothing_is_not_taken_for_a_success() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");

    runtime
        .block_on(run(&options("no such case")))
        .assert_kept();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_a_failure_with_a_message() {
    let report = conformance::run(CASE, Odd::new(|| (), true)).await;

    assert_eq!(report.exit_status(), 1);
    assert!(
        report.to_string().contains("not done after 60s"),
        "{report}"
    );
}

/// These cases waited for a file that a failed write had not made, or for a read that would succeed,
/// until their time was up. So the report said that a call hangs, and not what had failed.
#[tokio::test(start_paused = true)]
async fn what_failed_is_told_and_not_that_nothing_came_of_it() {
    for (op, case) in [
        (Op::Write, "consistency::what_is_visible_is_whole"),
        (Op::Open, "concurrency::readers_during_overwrites"),
    ] {
        let store = MockStore::new();
        let failing = move |namespace: String| {
            let mock = store.client(&namespace);
            mock.on(op).every(1).fail(ErrorKind::Unavailable);
            ready(mock)
        };

        let report = conformance::run(case, failing).await;

        assert_eq!(report.exit_status(), 1);
        let told = report.to_string();
        assert!(told.contains(&format!("mock: {op} ")), "{told}");
        assert!(!told.contains("not done after"), "{told}");
    }
}

#[test]
fn a_client_that_blocks_its_thread_fails_its_test() {
    let test = std::thread::spawn(|| {
        let options = Options {
            limit: Some(Duration::from_millis(50)),
            ..Options::default()
        };
        let block = || std::thread::sleep(Duration::from_secs(5));
        conformance::harness::test(CASE, options, Odd::new(block, false));
    });

    let panic = test.join().expect_err("the test should fail");

    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains("not done after 50ms"), "{message}");
}

#[tokio::test]
async fn the_same_seed_asks_the_same() {
    let mut usages = Vec::new();
    for _ in 0..2 {
        let report = run(&options("model::any_calls_do_what_the_model_does")).await;
        assert_eq!(report.seed, 7);
        usages.push(report.cases[0].usage);
    }

    assert_eq!(usages[0], usages[1]);
    assert!(
        usages[0].write > 10 && usages[0].bytes_read > 1000,
        "{usages:?}"
    );
}

#[tokio::test]
async fn the_smallest_failing_input_is_told_with_its_seed() {
    let mock = MockStore::new();
    let odd = move |namespace: String| {
        let mock = mock.client(&namespace);
        // Every file is a byte short.
        mock.on(Op::Open).every(1).short_body(1);
        ready(mock)
    };

    let report = conformance::run_with(
        &options("model::any_calls_do_what_the_model_does"),
        odd,
        |_| (),
    )
    .await;

    let told = report.to_string();
    assert!(told.contains("of seed 7, made smaller"), "{told}");
    assert!(told.contains("(seed 7)"), "{told}");
}

#[tokio::test]
async fn nothing_is_left_behind_and_nothing_next_door_is_touched() {
    let store = MockStore::new();
    let neighbours: Vec<_> = ["", "suite", "suite/db", "suite2", "other"]
        .into_iter()
        .map(|root| store.client(root))
        .collect();
    for neighbour in &neighbours {
        neighbour.put(file(0, 1..=1), Timestamp::EPOCH, vec![7; 10]);
    }
    let before = format!("{store:?}");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let open = {
        let (store, seen) = (store.clone(), seen.clone());
        move |namespace: String| {
            let client = store.client(&namespace);
            seen.lock()
                .expect("nobody panics with it")
                .push(client.clone());
            ready(client)
        }
    };
    let options = Options {
        namespace: Some("suite/run".to_owned()),
        ..options("")
    };

    conformance::run_with(&options, open, |_| ())
        .await
        .assert_kept();

    assert!(before.contains("suite2"));
    for neighbour in neighbours {
        assert_eq!(neighbour.files(), [file(0, 1..=1)]);
    }
    let seen = seen.lock().expect("nobody panics with it");
    assert!(seen.len() > CASES.len() / 2);
    for client in seen.iter() {
        assert_eq!(client.files(), [], "{client:?} is not empty");
    }
}

#[tokio::test]
async fn what_was_written_is_kept_on_request() {
    let store = MockStore::new();
    let options = Options {
        keep: true,
        namespace: Some("run".to_owned()),
        ..options(CASE)
    };

    conformance::run_with(&options, memory(&store), |_| ())
        .await
        .assert_kept();

    let root = "run/range-the_whole_file_is_read/db";
    assert_eq!(store.client(root).files(), [file(0, 1..=1)]);
}

#[tokio::test]
async fn each_case_is_told_as_it_ends_and_listed_in_order() {
    let mut told = Vec::new();
    let options = options("list::");

    let report = conformance::run_with(&options, memory(&MockStore::new()), |case| {
        told.push(case.case.id);
    })
    .await;

    let ids: Vec<_> = report.cases.iter().map(|case| case.case.id).collect();
    let wanted: Vec<_> = options.cases().map(|case| case.id).collect();
    assert_eq!(ids, wanted);
    told.sort_unstable();
    assert!(told.len() == wanted.len() && wanted.iter().all(|id| told.contains(id)));
}

#[test]
fn slow_cases_run_only_when_asked_for() {
    let slow = |slow| Options {
        slow,
        ..Options::default()
    };

    assert_eq!(slow(true).cases().count(), CASES.len());
    assert!(slow(false).cases().count() < CASES.len());
}

fn known(day: &str) -> Options {
    let known: Result<KnownFailures, _> = format!("{CASE} {day} #12 it is <old>").parse();
    Options {
        known_failures: known.expect("it is a line of the list"),
        ..options(CASE)
    }
}

#[tokio::test]
async fn a_known_failure_fails_nothing() {
    let report = conformance::run_with(
        &known("2999-12-31"),
        Odd::new(|| panic!("luck"), false),
        |_| (),
    )
    .await;

    assert_eq!(report.exit_status(), 0);
    assert!(matches!(
        report.cases[0].outcome,
        Outcome::KnownFailure { .. }
    ));
    let told = report.to_string();
    assert!(told.contains("luck") && told.contains("#12"), "{told}");
    assert!(told.contains("but 1 that are known to fail"), "{told}");
}

#[tokio::test]
async fn a_known_failure_that_passes_is_a_failure() {
    let report = run(&known("2999-12-31")).await;

    assert_eq!(report.exit_status(), 1);
    assert!(
        report.to_string().contains("take it off the list"),
        "{report}"
    );
}

#[tokio::test]
async fn a_known_failure_that_has_expired_is_a_failure() {
    let report = conformance::run_with(
        &known("2020-01-01"),
        Odd::new(|| panic!("luck"), false),
        |_| (),
    )
    .await;

    assert_eq!(report.exit_status(), 1);
    assert!(report.to_string().contains("by 2020-01-01"), "{report}");
}

#[tokio::test]
async fn the_json_report_says_it_all() {
    let report = conformance::run(CASE, Odd::new(|| panic!("luck"), false)).await;

    let json = report.to_json();

    assert_eq!(json["verdict"], "broken");
    assert_eq!(json["exit_status"], 1);
    assert_eq!(json["scheme"], "odd");
    assert_eq!(json["seed"], report.seed.to_string());
    let case = &json["cases"][0];
    assert_eq!(case["id"], CASE);
    assert_eq!(case["catalogue"][0], "RNG-01");
    assert_eq!(case["promises"][0], "K5");
    assert_eq!(case["outcome"], "broken");
    assert!(
        case["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("luck"))
    );
    assert_eq!(case["usage"]["write"], 1);
    assert_eq!(case["calls"], 2, "a write and an open, without cleaning up");
    assert!(case["seconds"].is_f64());
}

#[tokio::test]
async fn the_junit_report_has_a_suite_for_each_store() {
    let kept = run(&options("range::")).await;
    let odd = Odd::new(|| panic!("bad & \"ugly\""), false);
    let broken = conformance::run_with(&options(CASE), odd, |_| ()).await;
    let known = known("2999-12-31");
    let known = conformance::run_with(&known, Odd::new(|| panic!("luck"), false), |_| ()).await;
    let nothing = run(&options("no such case")).await;

    let xml = junit([
        ("a<b", &kept),
        ("broken", &broken),
        ("known", &known),
        ("none", &nothing),
    ]);

    assert!(xml.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites "));
    assert!(xml.ends_with("</testsuites>\n"));
    assert_eq!(xml.matches("<testsuite ").count(), 4);
    assert_eq!(xml.matches("<testcase ").count(), kept.cases.len() + 3);
    assert!(xml.contains("<testsuite name=\"a&lt;b\" tests=\"10\" failures=\"0\" errors=\"0\""));
    assert!(
        xml.contains("<failure message=\"bad &amp; &quot;ugly&quot; (at "),
        "{xml}"
    );
    assert!(
        xml.contains("<skipped message=\"it is &lt;old&gt; (#12): luck"),
        "{xml}"
    );
    assert!(xml.contains("<error message=\"nothing ran\"/>"), "{xml}");
}

#[tokio::test]
async fn histories_are_saved_where_they_were_asked_for() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let options = Options {
        histories: Some(folder.path().to_owned()),
        ..options("linear::")
    };

    run(&options).await.assert_kept();

    for name in ["reads_see_the_last_write", "listings_show_what_is_there"] {
        let saved = std::fs::read_to_string(folder.path().join(format!("{name}.jsonl")))?;
        let history: History = saved.parse()?;
        assert_eq!(history.check(), Ok(()));
        assert_eq!(history.to_string(), saved);
        assert!(saved.lines().count() > 100);
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_in_an_error_is_found_and_not_repeated() {
    let options = Options {
        // The mock's clients tell their root.
        secrets: vec!["MockClient".to_owned()],
        ..options("errors::an_error_says_what_failed_and_no_secret")
    };

    let report = run(&options).await;

    assert_eq!(report.exit_status(), 1);
    assert!(!report.to_string().contains("MockClient"), "{report}");
}

/// Every other case repeated what an error told.
#[tokio::test]
async fn no_report_repeats_a_secret() {
    let options = Options {
        secrets: vec!["hunter2".to_owned(), String::new()],
        ..options("range::")
    };
    let tell = || panic!("GET https://me:hunter2@store/ failed");
    let refuse = |_: String| async { Err::<MockClient, _>("wrong password: hunter2") };

    let broken = conformance::run_with(&options, Odd::new(tell, false), |_| ()).await;
    let closed = conformance::run_with(&options, refuse, |_| ()).await;

    for report in [broken, closed] {
        let told = [
            report.to_string(),
            report.to_json().to_string(),
            junit([("", &report)]),
        ];
        for told in told {
            assert!(told.contains("[a secret]"), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}

#[tokio::test]
async fn an_empty_secret_is_none() {
    let options = Options {
        secrets: vec![String::new()],
        ..options("errors::an_error_says_what_failed_and_no_secret")
    };

    run(&options).await.assert_kept();
}

/// What is left in somebody's bucket was told only where the case had passed.
#[tokio::test]
async fn a_case_that_failed_tells_that_it_left_something() {
    let store = MockStore::new();
    let failing = move |namespace: String| {
        let mock = store.client(&namespace);
        for op in [Op::Open, Op::DeleteAll] {
            mock.on(op).every(1).fail(ErrorKind::PermissionDenied);
        }
        ready(mock)
    };

    let report = conformance::run(CASE, failing).await;

    let told = report.to_string();
    assert!(told.contains("mock: open "), "{told}");
    assert!(
        told.contains("cleaning up with delete_all failed: "),
        "{told}"
    );
}

#[test]
fn the_ids_of_cases_are_paths() {
    for case in CASES {
        let (group, name) = case.id.split_once("::").expect("group::name");
        assert_eq!(case.group, group);
        assert!(Case::find(case.id).is_some() && !name.is_empty());
        assert!(
            !case.catalogue.is_empty() && !case.promises.is_empty(),
            "{}",
            case.id
        );
    }
}
