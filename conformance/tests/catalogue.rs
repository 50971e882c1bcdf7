//! `CATALOGUE.md` says where each entry of the catalogue and each promise is tested, and is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use conformance::{CASES, Pace};

/// How many entries each group of the catalogue has.
const GROUPS: [(&str, usize); 21] = [
    ("CTR", 7),
    ("RNG", 11),
    ("LST", 11),
    ("ERR", 7),
    ("ATM", 8),
    ("CON", 7),
    ("CNC", 7),
    ("CAN", 6),
    ("BIG", 5),
    ("TIM", 5),
    ("DEL", 7),
    ("ISO", 5),
    ("NAM", 3),
    ("MOD", 2),
    ("LIN", 3),
    ("FLT", 13),
    ("FIL", 4),
    ("SFT", 4),
    ("S3W", 5),
    ("SELF", 3),
    // Promises, which are entries of the contract.
    ("K", 24),
];

/// Entries that need more than the trait, and where in this workspace they are tested.
///
/// A test is named by its file and its function. What only a store behind a network can be asked
/// has no test here: it comes with that store.
const ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "CTR-06",
        &[
            "replica-file/tests/folder.rs paths_are_litestreams",
            "replica-file/tests/golden.rs what_is_written_lies_where_litestream_put_it",
            "replica-sftp/tests/server.rs files_lie_where_litestream_keeps_them_with_the_time_they_were_given",
        ],
    ),
    (
        "CTR-07",
        &[
            "replica-file/tests/golden.rs a_replica_of_litestreams_is_listed_and_read_as_it_was_written",
        ],
    ),
    (
        "RNG-11",
        &["replica-sftp/tests/network.rs a_small_range_of_a_large_file_moves_little"],
    ),
    (
        "LST-09",
        &[
            "replica-file/tests/folder.rs what_is_no_file_of_the_replica_is_never_listed_or_opened",
            "replica-sftp/tests/openssh.rs nothing_but_files_of_the_replica_is_listed",
        ],
    ),
    (
        "LST-11",
        &[
            "replica-layers/tests/retry.rs a_listing_that_breaks_again_and_again_ends_in_the_error",
            "replica-sftp/tests/network.rs a_listing_that_breaks_is_an_error_and_never_a_short_one",
        ],
    ),
    (
        "ERR-02",
        &[
            "replica-file/tests/folder.rs a_root_that_is_a_file_or_below_one_is_invalid",
            "replica-file/tests/folder.rs a_root_behind_a_link_that_leads_nowhere_is_no_empty_replica",
            "replica-sftp/tests/server.rs a_root_that_is_no_folder_is_no_empty_replica",
        ],
    ),
    (
        "ERR-03",
        &["replica-sftp/tests/trust.rs a_refused_login_is_tried_once_and_told_without_the_secret"],
    ),
    (
        "ERR-04",
        &[
            "replica-file/tests/processes.rs what_permissions_forbid_is_told_as_such",
            "replica-sftp/tests/server.rs what_permissions_forbid_is_told_as_such",
        ],
    ),
    (
        "ERR-06",
        &["replica-sftp/src/classify.rs only_what_may_pass_is_transient"],
    ),
    (
        "ERR-07",
        &[
            "replica-sftp/tests/network.rs a_server_that_hangs_at_any_stage_of_a_login_costs_the_time_limit",
        ],
    ),
    (
        "ATM-07",
        &[
            "replica-file/tests/processes.rs a_writer_that_is_killed_leaves_nothing_that_lasts",
            "replica-sftp/tests/server.rs what_a_dead_process_has_left_disturbs_nobody_and_goes_with_everything",
        ],
    ),
    (
        "ATM-08",
        &[
            "replica-file/tests/folder.rs a_failed_write_has_cleaned_up_when_it_returns",
            "replica-sftp/tests/openssh.rs a_body_that_fails_leaves_no_temporary_file",
        ],
    ),
    (
        "CAN-06",
        &[
            "replica-sftp/tests/network.rs a_time_limit_around_a_call_is_kept_though_the_server_stands_still",
        ],
    ),
    (
        "BIG-04",
        &[
            "replica-file/tests/folder.rs a_file_beyond_4_gib_is_listed_and_read",
            "replica-sftp/tests/server.rs a_file_beyond_4_gib_is_listed_and_read",
        ],
    ),
    (
        "TIM-03",
        &[
            "replica-sftp/tests/server.rs a_time_that_the_protocol_has_no_form_for_is_invalid_and_others_are_kept",
        ],
    ),
    (
        "TIM-05",
        &["replica-sftp/tests/server.rs a_server_that_lists_names_alone_is_asked_for_the_rest"],
    ),
    (
        "DEL-05",
        &[
            "replica-file/src/client.rs a_file_that_can_not_be_deleted_is_named_and_the_others_are_gone",
            "replica-sftp/tests/server.rs what_permissions_forbid_is_told_as_such",
        ],
    ),
    (
        "ISO-04",
        &[
            "replica-file/tests/folder.rs no_link_below_the_root_is_followed",
            "replica-sftp/tests/openssh.rs deleting_everything_follows_no_link",
        ],
    ),
    (
        "ISO-05",
        &[
            "replica-sftp/tests/server.rs the_servers_own_root_can_be_a_replica_and_keeps_what_is_not_of_it",
        ],
    ),
    (
        "FLT-01",
        &[
            "replica-sftp/tests/network.rs a_network_that_refuses_connections_at_first_costs_retries",
        ],
    ),
    (
        "FLT-02",
        &[
            "replica-sftp/tests/network.rs a_read_that_breaks_at_any_byte_is_an_error_after_the_right_bytes",
        ],
    ),
    (
        "FLT-04",
        &[
            "replica-sftp/tests/network.rs a_read_that_breaks_at_any_byte_is_an_error_after_the_right_bytes",
        ],
    ),
    (
        "FLT-08",
        &[
            "replica-sftp/tests/network.rs a_write_whose_answers_are_lost_at_any_byte_leaves_one_whole_file_when_it_is_retried",
        ],
    ),
    (
        "FLT-09",
        &["replica-layers/tests/retry.rs a_file_replaced_within_a_break_ends_the_read"],
    ),
    (
        "FLT-10",
        &[
            "replica-sftp/tests/network.rs a_transfer_that_stands_still_is_given_up",
            "replica-sftp/tests/network.rs a_slow_transfer_that_gets_on_is_not_cut",
        ],
    ),
    (
        "FLT-11",
        &[
            "replica-sftp/tests/network.rs a_reader_whose_connection_was_closed_while_it_paused_goes_on_where_it_was",
        ],
    ),
    (
        "FLT-12",
        &["replica-sftp/tests/network.rs two_hundred_failures_leave_a_client_that_works"],
    ),
    (
        "FIL-01",
        &[
            "replica-file/src/client.rs a_full_disk_is_told_and_leaves_the_old_file_and_nothing_else",
        ],
    ),
    (
        "FIL-02",
        &[
            "replica-file/src/client.rs all_that_a_file_needs_is_on_the_disk_before_its_write_returns",
        ],
    ),
    (
        "FIL-03",
        &["replica-file/tests/processes.rs permissions_are_as_set_whatever_the_umask"],
    ),
    (
        "FIL-04",
        &["replica-file/tests/folder.rs the_root_may_be_a_symbolic_link"],
    ),
    (
        "SFT-01",
        &[
            "replica-sftp/tests/server.rs a_server_without_posix_rename_replaces_only_for_who_knows_it",
        ],
    ),
    (
        "SFT-02",
        &[
            "replica-sftp/tests/network.rs a_server_that_goes_away_during_any_call_costs_that_call_and_leaves_nothing_half_there",
            "replica-sftp/tests/openssh.rs a_server_that_is_restarted_during_any_call_costs_that_call_alone",
        ],
    ),
    (
        "SFT-03",
        &[
            "replica-sftp/tests/trust.rs a_server_with_another_key_than_the_given_one_is_shown_nothing",
            "replica-sftp/tests/trust.rs a_server_that_no_file_knows_is_shown_nothing_and_the_error_says_what_to_add",
            "replica-sftp/tests/trust.rs any_key_will_do_only_for_who_asks_for_that",
        ],
    ),
    (
        "SFT-04",
        &[
            "replica-sftp/tests/server.rs a_full_disk_is_told_from_other_failures_and_leaves_the_old_file_and_nothing_else",
            "replica-sftp/tests/server.rs a_quota_is_guessed_where_the_disk_has_space",
            "replica-sftp/tests/server.rs a_name_that_a_folder_has_is_told_as_such",
            "replica-sftp/tests/server.rs a_server_without_fsync_is_written_to_and_one_with_it_is_asked",
        ],
    ),
    (
        "SELF-01",
        &["conformance/tests/mutants/main.rs every_case_is_killed_by_a_mutant"],
    ),
    (
        "SELF-02",
        &[
            "conformance/tests/suite.rs a_run_of_nothing_ends_with_3",
            "conformance/tests/suite.rs another_store_than_was_asked_for_ends_with_2",
        ],
    ),
    (
        "SELF-03",
        &["conformance/tests/suite.rs nothing_is_left_behind_and_nothing_next_door_is_touched"],
    ),
    (
        "K1",
        &[
            "replica-file/tests/folder.rs paths_are_litestreams",
            "replica-file/tests/golden.rs a_replica_of_litestreams_is_listed_and_read_as_it_was_written",
        ],
    ),
    (
        "K2",
        &["replica-file/tests/folder.rs what_is_no_file_of_the_replica_is_never_listed_or_opened"],
    ),
    (
        "K4",
        &[
            "replica-sftp/tests/server.rs a_root_that_is_no_folder_is_no_empty_replica",
            "replica-sftp/tests/trust.rs a_refused_login_is_tried_once_and_told_without_the_secret",
        ],
    ),
    (
        "K6",
        &["replica-layers/tests/retry.rs a_file_replaced_within_a_break_ends_the_read"],
    ),
    (
        "K11",
        &[
            "replica-file/tests/processes.rs a_writer_that_is_killed_leaves_nothing_that_lasts",
            "replica-sftp/tests/server.rs a_full_disk_is_told_from_other_failures_and_leaves_the_old_file_and_nothing_else",
        ],
    ),
    (
        "K12",
        &[
            "replica-file/src/client.rs all_that_a_file_needs_is_on_the_disk_before_its_write_returns",
            "replica-file/src/client.rs folders_that_another_process_has_just_made_are_synced_too",
            "replica-sftp/tests/server.rs a_server_without_fsync_is_written_to_and_one_with_it_is_asked",
        ],
    ),
    (
        "K17",
        &["replica-file/tests/folder.rs no_link_below_the_root_is_followed"],
    ),
    (
        "K20",
        &[
            "replica-file/src/client.rs a_write_that_is_dropped_before_its_commit_never_happens",
            "replica-sftp/tests/network.rs a_write_that_nobody_waits_for_any_more_is_gone_soon",
        ],
    ),
    (
        "K23",
        &[
            "replica-layers/tests/timeout.rs a_write_whose_store_stands_still_is_given_up",
            "replica-sftp/tests/network.rs a_server_that_hangs_at_any_stage_of_a_login_costs_the_time_limit",
            "replica-sftp/tests/network.rs a_transfer_that_stands_still_is_given_up",
        ],
    ),
    (
        "K24",
        &[
            "replica-sftp/tests/network.rs a_server_that_goes_away_during_any_call_costs_that_call_and_leaves_nothing_half_there",
        ],
    ),
];

/// Entries that only a store behind a network has, and what it takes to ask for them.
const WITH_A_NETWORK: &[(&str, &str)] = &[
    (
        "CAN-02",
        "a store with multipart uploads, whose open ones can be seen",
    ),
    ("BIG-03", "a store with multipart uploads"),
    ("FLT-03", "a scripted HTTP server"),
    ("FLT-05", "a scripted HTTP server"),
    ("FLT-06", "a scripted HTTP server"),
    ("FLT-07", "a scripted HTTP server"),
    ("FLT-13", "a store with checksums end to end"),
    ("S3W-01", "a scripted S3 server"),
    ("S3W-02", "a scripted S3 server"),
    ("S3W-03", "a scripted S3 server"),
    ("S3W-04", "a scripted S3 server"),
    ("S3W-05", "a scripted S3 server"),
];

/// Every entry of the catalogue, then every promise, in order.
fn entries() -> Vec<String> {
    let group = |(group, count): (&str, usize)| -> Vec<String> {
        let name = |number| match group {
            "K" => format!("K{number}"),
            group => format!("{group}-{number:02}"),
        };
        (1..=count).map(name).collect()
    };
    GROUPS.into_iter().flat_map(group).collect()
}

fn cases_of(entry: &str) -> Vec<&'static str> {
    let has = |case: &&conformance::Case| {
        case.catalogue.contains(&entry) || case.promises.contains(&entry)
    };
    CASES.iter().filter(has).map(|case| case.id).collect()
}

/// What `CATALOGUE.md` should say.
fn catalogue() -> String {
    let elsewhere: BTreeMap<_, _> = ELSEWHERE.iter().copied().collect();
    let network: BTreeMap<_, _> = WITH_A_NETWORK.iter().copied().collect();
    let slow = CASES.iter().filter(|case| case.pace == Pace::Slow).count();
    let mut text = format!(
        "# Where everything is tested\n\n\
         The suite has {} cases, of which {slow} are slow and run only when asked for. Below is each \
         entry of\nthe catalogue, and each promise of the contract \
         (`replica-core/CONTRACT.md`), with the cases that ask\nfor it, and with the tests \
         elsewhere where the trait alone can't ask. This page is compared with the\nlist of cases \
         by `tests/catalogue.rs`, which prints what it should say.\n\n\
         Where the catalogue is older than the trait: opening a client takes the place of \"init\" \
         (CTR-01), and\na body that is no LTX file is refused by the checked write above the \
         trait (CTR-04). Listings that lag,\ncoarse times and replacements with a gap are allowed \
         for by exactly what a store declares.\n",
        CASES.len()
    );
    for (title, is_promise) in [("Catalogue", false), ("Promises", true)] {
        write!(text, "\n## {title}\n\n| entry | tested by |\n|---|---|\n").expect("a text grows");
        for entry in entries()
            .iter()
            .filter(|entry| entry.starts_with('K') == is_promise)
        {
            let mut places: Vec<_> = cases_of(entry)
                .into_iter()
                .map(|case| format!("`{case}`"))
                .collect();
            for test in elsewhere.get(&**entry).copied().unwrap_or_default() {
                places.push(test.split_once(' ').map_or_else(
                    || (*test).to_owned(),
                    |(file, name)| format!("`{name}` in {file}"),
                ));
            }
            if let Some(need) = network.get(&**entry) {
                places.push(format!("(comes with the store that has it: {need})"));
            }
            writeln!(text, "| {entry} | {} |", places.join("<br>")).expect("a text grows");
        }
    }
    text
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a crate is in the workspace's folder")
}

#[test]
fn the_page_says_what_is_so() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("CATALOGUE.md");
    let found = fs::read_to_string(&page).unwrap_or_default();

    let wanted = catalogue();

    assert!(found == wanted, "CATALOGUE.md should say:\n{wanted}");
}

#[test]
fn every_entry_and_every_promise_is_tested_somewhere() {
    let elsewhere: BTreeSet<_> = ELSEWHERE.iter().map(|(entry, _)| *entry).collect();
    let network: BTreeSet<_> = WITH_A_NETWORK.iter().map(|(entry, _)| *entry).collect();

    for entry in entries() {
        let here = !cases_of(&entry).is_empty() || elsewhere.contains(&*entry);
        assert!(here || network.contains(&*entry), "nothing tests {entry}");
        assert!(
            !(here && network.contains(&*entry)),
            "{entry} is tested after all"
        );
    }
}

#[test]
fn no_case_names_an_entry_that_is_not_there() {
    let entries: BTreeSet<_> = entries().into_iter().collect();
    let cases = CASES
        .iter()
        .flat_map(|case| case.catalogue.iter().chain(case.promises));
    let tables = ELSEWHERE.iter().map(|(entry, _)| entry);

    for entry in cases
        .chain(tables)
        .chain(WITH_A_NETWORK.iter().map(|(entry, _)| entry))
    {
        assert!(entries.contains(*entry), "there is no {entry}");
    }
}

#[test]
fn the_tests_elsewhere_are_there() {
    for test in ELSEWHERE.iter().flat_map(|(_, tests)| *tests) {
        let (file, name) = test.split_once(' ').expect("a file and a function");
        let source = fs::read_to_string(workspace().join(file)).unwrap_or_default();
        assert!(
            source.contains(&format!("fn {name}(")),
            "{file} has no test {name}"
        );
    }
}
