//! The one list of cases, from which everything else is made: the tests that
//! [`conformance!`](crate::conformance) generates, [`CASES`], and so the library call, the
//! command and the catalogue.

use std::fmt;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::cases;
use crate::store::Store;

/// Hands the list of cases to the macro named in `[…]`, behind what it is given in `{…}`.
///
/// A line is a case: its name, its pace, its ids in the catalogue, and the promises that it
/// holds. The name is that of the function in `cases/<group>.rs`.
#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    ([$($then:tt)+] $given:tt) => {
        $($then)+! { $given
            contract {
                opening_again_is_harmless: quick "CTR-01" K19 K24;
                what_is_written_is_read_back: quick "CTR-02" K5 K14;
                an_empty_file_is_a_file: quick "CTR-02" "RNG-05" K3 K8 K11;
                a_body_of_unknown_length_is_stored_whole: quick "CTR-03" K5 K11;
                every_kind_of_body_is_stored: quick "CTR-03" K11 K14;
                levels_are_independent: quick "CTR-05" K1 K13;
                a_checked_write_refuses_what_is_no_ltx_file: quick "CTR-04" K11;
                the_facts_of_a_client_do_not_change: quick "CTR-01" "SELF-02" K10 K13 K18;
            }
            range {
                the_whole_file_is_read: quick "RNG-01" K5;
                from_an_offset_to_the_end: quick "RNG-02" K5;
                exactly_the_bytes_asked_for: quick "RNG-03" K5;
                a_range_is_cut_at_the_end: quick "RNG-04" K3;
                at_the_end_is_empty: quick "RNG-05" K3;
                beyond_the_end_is_invalid: quick "RNG-06" K3;
                length_zero_is_empty: quick "RNG-07" K3;
                random_ranges_match_an_oracle: quick "RNG-08" K3 K5;
                ranges_across_part_boundaries: long "RNG-09" K5;
                the_tail_is_found: quick "RNG-10" K3 K5;
            }
            list {
                files_come_in_order_each_once: quick "LST-01" K8 K14;
                a_level_never_written_is_empty: quick "LST-02" K8;
                from_is_inclusive: quick "LST-03" K8;
                a_gap_starts_at_the_next_file: quick "LST-04" K8;
                a_file_that_only_contains_from_is_left_out: quick "LST-05" K8;
                transactions_are_numbers_and_not_text: quick "LST-06" K8;
                levels_do_not_mix: quick "LST-07" K1 K2 K8;
                more_files_than_a_page: long "LST-08" K8 K9;
                changes_between_pages_are_seen_or_not: long "LST-10" K8 K9 K19;
            }
            errors {
                a_missing_file_is_not_found_at_open: quick "ERR-01" K4;
                an_error_says_what_failed_and_no_secret: quick "ERR-05" K21 K22;
                the_next_call_works_after_an_error: quick "ERR-01" "ERR-05" K20 K24;
            }
            write {
                nothing_is_visible_before_the_end: quick "ATM-01" K11;
                a_failing_body_leaves_nothing: long "ATM-02" K11;
                readers_see_the_old_file_until_the_new_one_is_whole: quick "ATM-03" K13;
                a_failed_overwrite_leaves_the_old_file: quick "ATM-04" K11 K13;
                a_shorter_file_leaves_no_tail: quick "ATM-05" K13 K14;
                a_body_of_another_length_is_refused: quick "ATM-06" K11 K21;
                a_slow_body_is_not_cut: quick "FLT-10" K23;
            }
            consistency {
                a_written_file_is_read_at_once: long "CON-01" K18;
                a_written_file_is_listed_in_time: long "CON-02" K18;
                a_deleted_file_is_gone_at_once: long "CON-03" K18;
                an_overwritten_file_is_never_read_old: long "CON-04" K13 K18;
                a_miss_is_not_remembered: long "CON-05" K18;
                what_is_visible_is_whole: quick "CON-06" K11;
                a_deleted_file_stays_gone: quick "CON-07" K18;
            }
            concurrency {
                many_writers_of_many_names: quick "CNC-01" K19;
                many_writers_of_one_name: quick "CNC-02" K13 K19;
                readers_during_overwrites: quick "CNC-03" K6 K13;
                readers_during_deletes: quick "CNC-04" K5 K19;
                listings_during_writes: quick "CNC-05" K11 K19;
                first_writes_of_a_new_level: quick "CNC-06" K19;
                a_mixed_load_keeps_every_promise: slow "CNC-07" K5 K6 K13 K19;
                a_slow_write_blocks_nobody: quick "CNC-01" K19;
                a_held_stream_blocks_nobody: quick "CNC-01" K9 K19;
                many_readers_take_turns: quick "CNC-01" K5 K19;
                an_open_stream_never_mixes_versions: quick "CNC-03" K5 K6;
            }
            cancel {
                a_write_dropped_at_any_step: long "CAN-01" K11 K20;
                an_overwrite_dropped_at_any_step: long "CAN-01" K11 K13 K20;
                a_dropped_write_never_publishes_later: quick "CAN-01" K11 K20;
                readers_dropped_half_way: quick "CAN-03" K20;
                listings_dropped_after_the_first_item: quick "CAN-04" K9 K20;
                a_dropped_delete_leaves_files_or_not: long "CAN-05" K16 K20;
                calls_dropped_at_any_step: quick "CAN-03" "CAN-04" "CAN-05" K20;
                a_time_limit_is_kept: quick "CAN-06" K20 K23;
            }
            big {
                sizes_around_a_part: long "BIG-01" K5 K11;
                a_large_file_streams_through: slow "BIG-02" K5 K11;
                a_small_range_costs_little: long "RNG-11" K7;
                small_writes_in_flight_cost_little: long "BIG-05" K15;
            }
            timestamps {
                write_returns_what_a_listing_says: quick "TIM-01" "CTR-02" K10 K14;
                exact_times_are_those_that_were_written: quick "TIM-02" K10 K13;
                odd_times_are_kept_or_refused: quick "TIM-03" K10 K11;
                fast_times_list_the_same_files: quick "TIM-02" K8 K10;
                many_exact_times_come_in_time: slow "TIM-04" K10;
            }
            delete {
                nothing_to_delete_is_fine: quick "DEL-01" K16;
                missing_files_are_fine: quick "DEL-02" K16;
                the_same_file_twice_is_fine: quick "DEL-03" K16 K19;
                any_number_of_files: long "DEL-04" K16;
                only_the_files_named: quick "DEL-06" K16;
                files_of_several_levels: quick "DEL-07" K16;
            }
            isolation {
                deleting_all_of_nothing_is_fine: quick "ISO-01" K17;
                neighbours_are_left_alone: quick "ISO-02" K2 K17;
                every_level_is_emptied: long "ISO-03" K17;
            }
            naming {
                odd_characters_name_a_root: quick "NAM-01" K1;
                every_spelling_of_a_root_is_one_place: quick "NAM-02" K1;
                every_transaction_has_a_name: quick "NAM-03" K1 K8;
                long_roots_are_kept_or_refused: quick "NAM-03" K1;
            }
            model {
                any_calls_do_what_the_model_does: long "MOD-01" K3 K5 K8 K10 K13 K14 K16 K17 K18;
                calls_that_fail_have_happened_or_not: long "MOD-02" K11 K16 K18 K20;
            }
            linear {
                reads_see_the_last_write: long "LIN-01" K13 K18 K19;
                listings_show_what_is_there: long "LIN-02" K18 K19;
                a_saved_history_gets_the_same_verdict: quick "LIN-03" K18 K19;
            }
        }
    };
}

/// One case: a promise kept or broken.
pub struct Case {
    /// `group::name`, by which it is filtered, reported and known.
    pub id: &'static str,
    /// The group, which is also the module of the generated test.
    pub group: &'static str,
    /// The entries of the catalogue that it covers, such as `RNG-06`.
    pub catalogue: &'static [&'static str],
    /// The promises of the contract that it holds, such as `K3`.
    pub promises: &'static [&'static str],
    /// How long it may take.
    pub pace: Pace,
    pub(crate) run: fn(Store) -> BoxFuture<'static, ()>,
}

/// How long a case may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A few calls: a minute at most.
    Quick,
    /// Thousands of calls or megabytes: five minutes at most.
    Long,
    /// Runs only when slow cases are asked for: half an hour at most.
    Slow,
}

impl Pace {
    /// After how long a case that has not ended has failed.
    pub const fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Pace::Quick => 60,
            Pace::Long => 300,
            Pace::Slow => 1800,
        })
    }
}

macro_rules! register {
    ({} $($group:ident {
        $($name:ident: $pace:ident $($catalogue:literal)+ $($promise:ident)+;)+
    })+) => {
        /// Every case of the suite, in the order of the catalogue.
        pub static CASES: &[Case] = &[$($(
            Case {
                id: concat!(stringify!($group), "::", stringify!($name)),
                group: stringify!($group),
                catalogue: &[$($catalogue),+],
                promises: &[$(stringify!($promise)),+],
                pace: register!(@$pace),
                run: |store| cases::$group::$name(store).boxed(),
            },
        )+)+];
    };
    (@quick) => { Pace::Quick };
    (@long) => { Pace::Long };
    (@slow) => { Pace::Slow };
}

__cases! { [register] {} }

impl Case {
    /// The case called `id`, where there is one.
    pub fn find(id: &str) -> Option<&'static Case> {
        CASES.iter().find(|case| case.id == id)
    }

    /// Whether `filter` chooses this case: by its id or a part of it (`range::`), or by the whole
    /// name of a catalogue entry (`RNG-06`) or a promise (`K3`). An empty filter chooses every case.
    pub fn matches(&self, filter: &str) -> bool {
        if Case::find(filter).is_some() {
            return self.id == filter;
        }
        self.id.contains(filter)
            || self.catalogue.contains(&filter)
            || self.promises.contains(&filter)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("id", &self.id)
            .field("catalogue", &self.catalogue)
            .field("promises", &self.promises)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_case_has_an_id_of_its_own() {
        let ids: HashSet<_> = CASES.iter().map(|case| case.id).collect();

        assert_eq!(ids.len(), CASES.len());
    }

    #[test]
    fn a_filter_chooses_by_path_catalogue_entry_or_promise() {
        let case = Case::find("range::beyond_the_end_is_invalid").expect("it is in the list");

        for filter in ["", "range::", "beyond_the_end", "RNG-06", "K3"] {
            assert!(case.matches(filter), "{filter}");
        }
        for filter in ["list::", "RNG-0", "K", "K30"] {
            assert!(!case.matches(filter), "{filter}");
        }
    }
}
