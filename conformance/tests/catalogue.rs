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
            "replica-s3/tests/server/keys.rs keys_and_times_are_litestreams",
        ],
    ),
    (
        "CTR-07",
        &[
            "replica-file/tests/golden.rs a_replica_of_litestreams_is_listed_and_read_as_it_was_written",
            "replica-s3/tests/server/keys.rs a_replica_of_litestreams_is_listed_and_read_as_it_was_written",
        ],
    ),
    (
        "RNG-09",
        &[
            "replica-s3/tests/server/writes.rs files_around_the_size_of_a_part_are_whole_and_few_parts_are_under_way",
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
            "replica-s3/tests/server/keys.rs what_is_no_file_of_the_replica_disturbs_nothing",
        ],
    ),
    (
        "LST-11",
        &[
            "replica-layers/tests/retry.rs a_listing_that_breaks_again_and_again_ends_in_the_error",
            "replica-sftp/tests/network.rs a_listing_that_breaks_is_an_error_and_never_a_short_one",
            "replica-s3/tests/server/keys.rs a_page_that_fails_is_an_error_and_no_end",
        ],
    ),
    (
        "ERR-02",
        &[
            "replica-file/tests/folder.rs a_root_that_is_a_file_or_below_one_is_invalid",
            "replica-file/tests/folder.rs a_root_behind_a_link_that_leads_nowhere_is_no_empty_replica",
            "replica-sftp/tests/server.rs a_root_that_is_no_folder_is_no_empty_replica",
            "replica-s3/tests/server/refusals.rs a_wrong_bucket_and_a_wrong_key_are_told_apart",
        ],
    ),
    (
        "ERR-03",
        &[
            "replica-sftp/tests/trust.rs a_refused_login_is_tried_once_and_told_without_the_secret",
            "replica-s3/tests/server/refusals.rs a_wrong_bucket_and_a_wrong_key_are_told_apart",
        ],
    ),
    (
        "ERR-04",
        &[
            "replica-file/tests/processes.rs what_permissions_forbid_is_told_as_such",
            "replica-sftp/tests/server.rs what_permissions_forbid_is_told_as_such",
            "replica-s3/tests/server/refusals.rs times_that_may_not_be_looked_at_are_no_empty_listing",
        ],
    ),
    (
        "ERR-06",
        &[
            "replica-sftp/src/classify.rs only_what_may_pass_is_transient",
            "replica-s3/tests/server/refusals.rs each_refusal_has_its_kind_at_once_and_says_what_to_do",
        ],
    ),
    (
        "ERR-07",
        &[
            "replica-sftp/tests/network.rs a_server_that_hangs_at_any_stage_of_a_login_costs_the_time_limit",
            "replica-s3/tests/server/refusals.rs a_dead_host_fails_within_the_time_to_connect",
            "replica-s3/tests/server/refusals.rs a_host_that_takes_connections_and_never_speaks_fails_in_time",
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
            "replica-s3/tests/server/writes.rs a_body_that_fails_leaves_no_upload",
        ],
    ),
    (
        "CAN-02",
        &["replica-s3/tests/server/writes.rs a_write_that_is_dropped_leaves_no_upload"],
    ),
    (
        "CAN-03",
        &["replica-s3/tests/server/reads.rs readers_that_are_dropped_leave_no_connection_open"],
    ),
    (
        "CAN-06",
        &[
            "replica-sftp/tests/network.rs a_time_limit_around_a_call_is_kept_though_the_server_stands_still",
        ],
    ),
    (
        "BIG-01",
        &[
            "replica-s3/tests/server/writes.rs files_around_the_size_of_a_part_are_whole_and_few_parts_are_under_way",
        ],
    ),
    (
        "BIG-03",
        &[
            "replica-s3/tests/server/writes.rs a_file_has_equal_parts_and_no_more_than_the_store_takes",
            "replica-s3/tests/server/writes.rs a_file_of_more_than_five_gib_goes_through_in_the_memory_of_a_few_parts",
        ],
    ),
    (
        "BIG-04",
        &[
            "replica-file/tests/folder.rs a_file_beyond_4_gib_is_listed_and_read",
            "replica-sftp/tests/server.rs a_file_beyond_4_gib_is_listed_and_read",
            "replica-s3/tests/server/reads.rs a_range_beyond_four_gib_is_read",
        ],
    ),
    (
        "TIM-03",
        &[
            "replica-sftp/tests/server.rs a_time_that_the_protocol_has_no_form_for_is_invalid_and_others_are_kept",
        ],
    ),
    (
        "TIM-04",
        &["replica-s3/tests/server/keys.rs exact_times_are_asked_for_a_few_at_a_time"],
    ),
    (
        "TIM-05",
        &[
            "replica-sftp/tests/server.rs a_server_that_lists_names_alone_is_asked_for_the_rest",
            "replica-s3/tests/server/keys.rs a_file_without_its_time_fails_an_exact_listing_and_no_other",
        ],
    ),
    (
        "DEL-04",
        &["replica-s3/tests/server/deletes.rs files_are_deleted_in_batches_of_a_thousand"],
    ),
    (
        "DEL-05",
        &[
            "replica-file/src/client.rs a_file_that_can_not_be_deleted_is_named_and_the_others_are_gone",
            "replica-sftp/tests/server.rs what_permissions_forbid_is_told_as_such",
            "replica-s3/tests/server/deletes.rs a_file_that_could_not_be_deleted_is_named_and_the_others_are_gone",
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
            "replica-s3/tests/server/keys.rs a_replica_at_the_root_of_a_bucket_deletes_only_its_own",
        ],
    ),
    (
        "FLT-01",
        &[
            "replica-sftp/tests/network.rs a_network_that_refuses_connections_at_first_costs_retries",
            "replica-s3/tests/server/outages.rs a_connection_that_breaks_before_the_answer_costs_one_request_more",
            "replica-s3/tests/server/outages.rs what_fails_for_a_while_is_tried_again_and_what_fails_for_good_ends_soon",
        ],
    ),
    (
        "FLT-02",
        &[
            "replica-sftp/tests/network.rs a_read_that_breaks_at_any_byte_is_an_error_after_the_right_bytes",
            "replica-s3/tests/server/reads.rs a_body_that_breaks_is_taken_up_where_it_broke",
        ],
    ),
    (
        "FLT-03",
        &["replica-s3/tests/server/reads.rs a_body_that_is_shorter_than_its_range_is_never_whole"],
    ),
    (
        "FLT-04",
        &[
            "replica-sftp/tests/network.rs a_read_that_breaks_at_any_byte_is_an_error_after_the_right_bytes",
            "replica-s3/tests/server/reads.rs a_body_that_breaks_is_taken_up_where_it_broke",
        ],
    ),
    (
        "FLT-05",
        &["replica-s3/tests/server/reads.rs a_server_that_sends_the_whole_file_is_read_in_part"],
    ),
    (
        "FLT-06",
        &[
            "replica-s3/tests/server/outages.rs what_fails_for_a_while_is_tried_again_and_what_fails_for_good_ends_soon",
            "replica-s3/tests/server/writes.rs a_part_that_fails_is_sent_again_and_a_file_is_whole",
            "replica-s3/tests/server/writes.rs a_part_that_fails_for_good_ends_the_write_soon",
        ],
    ),
    (
        "FLT-07",
        &[
            "replica-s3/tests/server/writes.rs a_completion_that_says_no_with_a_good_status_is_an_error",
        ],
    ),
    (
        "FLT-08",
        &[
            "replica-sftp/tests/network.rs a_write_whose_answers_are_lost_at_any_byte_leaves_one_whole_file_when_it_is_retried",
            "replica-s3/tests/server/writes.rs a_lost_reply_gives_one_whole_file",
        ],
    ),
    (
        "FLT-09",
        &[
            "replica-layers/tests/retry.rs a_file_replaced_within_a_break_ends_the_read",
            "replica-s3/tests/server/reads.rs a_file_that_is_replaced_within_a_break_is_not_spliced",
        ],
    ),
    (
        "FLT-10",
        &[
            "replica-sftp/tests/network.rs a_transfer_that_stands_still_is_given_up",
            "replica-sftp/tests/network.rs a_slow_transfer_that_gets_on_is_not_cut",
            "replica-s3/tests/server/reads.rs a_body_that_stalls_fails_and_one_that_crawls_does_not",
        ],
    ),
    (
        "FLT-11",
        &[
            "replica-sftp/tests/network.rs a_reader_whose_connection_was_closed_while_it_paused_goes_on_where_it_was",
            "replica-s3/tests/server/reads.rs a_body_that_breaks_is_taken_up_where_it_broke",
        ],
    ),
    (
        "FLT-12",
        &[
            "replica-sftp/tests/network.rs two_hundred_failures_leave_a_client_that_works",
            "replica-s3/tests/server/outages.rs after_two_hundred_failures_a_store_is_used_as_before",
        ],
    ),
    (
        "FLT-13",
        &[
            "replica-s3/tests/server/writes.rs a_byte_that_changes_on_its_way_to_the_store_is_not_stored",
            "replica-s3/tests/server/writes.rs a_part_that_changes_on_its_way_to_the_store_is_sent_again",
        ],
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
        "S3W-01",
        &["replica-s3/tests/server/writes.rs bodies_are_signed_and_sent_in_one_piece"],
    ),
    (
        "S3W-02",
        &[
            "replica-s3/tests/server/deletes.rs files_are_deleted_in_batches_of_a_thousand",
            "replica-s3/tests/server/deletes.rs files_below_a_prefix_that_means_something_in_xml_are_deleted",
        ],
    ),
    (
        "S3W-03",
        &["replica-s3/tests/server/writes.rs bodies_are_signed_and_sent_in_one_piece"],
    ),
    (
        "S3W-04",
        &[
            "replica-s3/tests/server/deletes.rs files_are_deleted_one_by_one_where_batches_are_refused",
        ],
    ),
    (
        "S3W-05",
        &[
            "replica-s3/tests/server/writes.rs files_around_the_size_of_a_part_are_whole_and_few_parts_are_under_way",
            "replica-s3/tests/server/writes.rs no_more_parts_are_under_way_than_the_store_takes",
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
            "replica-s3/tests/server/keys.rs keys_and_times_are_litestreams",
        ],
    ),
    (
        "K2",
        &[
            "replica-file/tests/folder.rs what_is_no_file_of_the_replica_is_never_listed_or_opened",
            "replica-s3/tests/server/keys.rs what_is_no_file_of_the_replica_disturbs_nothing",
        ],
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
        &[
            "replica-layers/tests/retry.rs a_file_replaced_within_a_break_ends_the_read",
            "replica-s3/tests/server/reads.rs a_file_that_is_replaced_within_a_break_is_not_spliced",
        ],
    ),
    (
        "K11",
        &[
            "replica-file/tests/processes.rs a_writer_that_is_killed_leaves_nothing_that_lasts",
            "replica-sftp/tests/server.rs a_full_disk_is_told_from_other_failures_and_leaves_the_old_file_and_nothing_else",
            "replica-s3/tests/server/outages.rs a_server_that_is_killed_during_an_operation_leaves_nothing_half_done",
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
        &[
            "replica-file/tests/folder.rs no_link_below_the_root_is_followed",
            "replica-s3/tests/server/deletes.rs deleting_all_aborts_the_open_uploads_below_the_root",
        ],
    ),
    (
        "K20",
        &[
            "replica-file/src/client.rs a_write_that_is_dropped_before_its_commit_never_happens",
            "replica-sftp/tests/network.rs a_write_that_nobody_waits_for_any_more_is_gone_soon",
        ],
    ),
    (
        "K22",
        &["replica-s3/tests/server/refusals.rs no_secret_is_in_a_debug_text"],
    ),
    (
        "K23",
        &[
            "replica-layers/tests/timeout.rs a_write_whose_store_stands_still_is_given_up",
            "replica-sftp/tests/network.rs a_server_that_hangs_at_any_stage_of_a_login_costs_the_time_limit",
            "replica-sftp/tests/network.rs a_transfer_that_stands_still_is_given_up",
            "replica-s3/tests/server/reads.rs a_body_that_stalls_fails_and_one_that_crawls_does_not",
        ],
    ),
    (
        "K24",
        &[
            "replica-sftp/tests/network.rs a_server_that_goes_away_during_any_call_costs_that_call_and_leaves_nothing_half_there",
            "replica-s3/tests/server/outages.rs a_server_that_is_killed_during_an_operation_leaves_nothing_half_done",
            "replica-s3/tests/server/outages.rs after_a_server_has_come_back_the_next_call_works",
        ],
    ),
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

    for entry in entries() {
        let here = !cases_of(&entry).is_empty() || elsewhere.contains(&*entry);
        assert!(here, "nothing tests {entry}");
    }
}

#[test]
fn no_case_names_an_entry_that_is_not_there() {
    let entries: BTreeSet<_> = entries().into_iter().collect();
    let cases = CASES
        .iter()
        .flat_map(|case| case.catalogue.iter().chain(case.promises));
    let tables = ELSEWHERE.iter().map(|(entry, _)| entry);

    for entry in cases.chain(tables) {
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
