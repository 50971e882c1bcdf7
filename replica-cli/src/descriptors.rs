//! How many files this process may have open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::status::{Failure, Status};

/// How many a database takes: two connections with a log each, the memory they share, and one to
/// read the log with.
const DATABASE: u64 = 6;
/// How many everything else takes: connections to stores, files of a folder, the runtime.
const OTHERS: u64 = 400;

/// Sees to it that so many databases can be open, if that is allowed. What is run by this process
/// later on may have as many.
pub(crate) fn provide_for(databases: usize) -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    match raised(limit, databases) {
        Ok(None) => Ok(()),
        Ok(Some(raised)) => setrlimit(Resource::Nofile, raised).map_err(|error| {
            let message = "can't raise the limit of open files";
            Failure::new(Status::Failed, message).because_of(Some(&io::Error::from(error)))
        }),
        Err(needed) => {
            let allowed = limit.maximum.unwrap_or(u64::MAX);
            let message = format!(
                "{databases} databases take up to {needed} open files, and this process may have {allowed}"
            );
            let failure = Failure::new(Status::Usage, message);
            Err(failure.hint("raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd)"))
        }
    }
}

/// The limit that it takes, where that is another one, or how many it takes where that is not
/// allowed.
fn raised(limit: Rlimit, databases: usize) -> Result<Option<Rlimit>, u64> {
    let needed = (databases as u64)
        .saturating_mul(DATABASE)
        .saturating_add(OTHERS);
    let reaches = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if reaches(limit.current) {
        return Ok(None);
    }
    match reaches(limit.maximum) {
        true => Ok(Some(Rlimit {
            current: Some(needed),
            maximum: limit.maximum,
        })),
        false => Err(needed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(current: u64, maximum: Option<u64>) -> Rlimit {
        Rlimit {
            current: Some(current),
            maximum,
        }
    }

    #[test]
    fn a_limit_that_is_enough_is_left_alone() {
        assert_eq!(raised(limit(1024, Some(4096)), 100), Ok(None));
        assert_eq!(raised(limit(406, Some(406)), 1), Ok(None));
    }

    #[test]
    fn a_limit_is_raised_as_far_as_it_takes() {
        let most = limit(6400, Some(1_048_576));
        assert_eq!(raised(limit(1024, Some(1_048_576)), 1000), Ok(Some(most)));

        let unlimited = limit(6400, None);
        assert_eq!(raised(limit(1024, None), 1000), Ok(Some(unlimited)));
    }

    #[test]
    fn a_limit_that_nobody_may_raise_so_far_is_told() {
        assert_eq!(raised(limit(1024, Some(4096)), 1000), Err(6400));
    }
}
