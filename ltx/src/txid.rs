//! Transaction ids, and the file names made of them.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The number of one transaction of a database: from 1, without gaps.
///
/// Its text form is Litestream's: 16 lower-case hex digits. [`FromStr`] takes exactly that form
/// and nothing else, so that formatting a parsed name gives the name back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(NonZeroU64);

impl Txid {
    /// The first transaction, 1.
    pub const FIRST: Txid = Txid(NonZeroU64::MIN);
    /// The highest transaction that can be named.
    pub const MAX: Txid = Txid(NonZeroU64::MAX);

    /// The transaction numbered `txid`, or `None` for 0, which numbers no transaction.
    pub const fn new(txid: u64) -> Option<Txid> {
        match NonZeroU64::new(txid) {
            Some(txid) => Some(Txid(txid)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The transaction after this one, or `None` after [`Txid::MAX`].
    pub const fn next(self) -> Option<Txid> {
        match self.0.checked_add(1) {
            Some(next) => Some(Txid(next)),
            None => None,
        }
    }

    /// The transaction before this one, or `None` before [`Txid::FIRST`].
    pub const fn previous(self) -> Option<Txid> {
        Txid::new(self.get() - 1)
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn as_text(name: &[u8]) -> &str {
    std::str::from_utf8(name).expect("digits, a dash and .ltx are ASCII")
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(as_text(&self.digits()))
    }
}

impl FromStr for Txid {
    type Err = ParseTxidError;

    fn from_str(text: &str) -> Result<Txid, ParseTxidError> {
        Txid::parse(text.as_bytes()).ok_or_else(|| ParseTxidError::new(text, "a transaction id"))
    }
}

impl Txid {
    /// The text form. The formatting machinery takes several times as long for it, and a listing
    /// formats two of them a file.
    fn digits(self) -> [u8; 16] {
        let txid = self.get();
        std::array::from_fn(|place| HEX[(txid >> (60 - 4 * place) & 0xf) as usize])
    }

    /// Parses 16 lower-case hex digits that are not all zero. No allocation.
    fn parse(text: &[u8]) -> Option<Txid> {
        let digits: &[u8; 16] = text.try_into().ok()?;
        let mut txid = 0u64;
        for digit in digits {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            txid = txid << 4 | u64::from(value);
        }
        Txid::new(txid)
    }
}

/// The transactions that one LTX file holds: `min..=max`, never empty.
///
/// Its text form is the file's name, `<min>-<max>.ltx`, which [`FromStr`] takes back and nothing
/// else. Ranges sort by `min`, then by `max`, which is the order of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxidRange {
    min: Txid,
    max: Txid,
}

impl TxidRange {
    /// The length of a file name in bytes: two ids, a dash and `.ltx`.
    pub const NAME_LEN: usize = 16 + 1 + 16 + 4;

    /// The range `min..=max`, or `None` where `min > max`.
    pub const fn new(min: Txid, max: Txid) -> Option<TxidRange> {
        if min.get() <= max.get() {
            Some(TxidRange { min, max })
        } else {
            None
        }
    }

    /// The range that holds `txid` alone.
    pub const fn single(txid: Txid) -> TxidRange {
        TxidRange {
            min: txid,
            max: txid,
        }
    }

    /// The first transaction of the range.
    pub const fn min(self) -> Txid {
        self.min
    }

    /// The last transaction of the range.
    pub const fn max(self) -> Txid {
        self.max
    }

    /// Whether `txid` is one of these transactions.
    pub const fn contains(self, txid: Txid) -> bool {
        self.min.get() <= txid.get() && txid.get() <= self.max.get()
    }
}

impl fmt::Display for TxidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = [0; TxidRange::NAME_LEN];
        name[..16].copy_from_slice(&self.min.digits());
        name[16] = b'-';
        name[17..33].copy_from_slice(&self.max.digits());
        name[33..].copy_from_slice(b".ltx");
        f.write_str(as_text(&name))
    }
}

impl FromStr for TxidRange {
    type Err = ParseTxidError;

    fn from_str(name: &str) -> Result<TxidRange, ParseTxidError> {
        TxidRange::parse(name.as_bytes())
            .ok_or_else(|| ParseTxidError::new(name, "an LTX file name"))
    }
}

impl TxidRange {
    fn parse(name: &[u8]) -> Option<TxidRange> {
        let stem = name.strip_suffix(b".ltx")?;
        let (min, rest) = stem.split_at_checked(16)?;
        let max = rest.strip_prefix(b"-")?;
        TxidRange::new(Txid::parse(min)?, Txid::parse(max)?)
    }
}

/// A text that is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}: {}", self.rule())]
pub struct ParseTxidError {
    text: String,
    wanted: &'static str,
}

impl ParseTxidError {
    /// Keeps only as much of a long text as a message needs.
    fn new(text: &str, wanted: &'static str) -> ParseTxidError {
        ParseTxidError {
            text: text.chars().take(80).collect(),
            wanted,
        }
    }

    fn rule(&self) -> &'static str {
        "a transaction id is 16 lower-case hex digits, not all zero, and a file name is \
         <min>-<max>.ltx with min at most max"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_is_named_as_litestream_names_it() {
        let range = TxidRange::new(Txid::FIRST, Txid::new(0xff).unwrap()).unwrap();

        assert_eq!(range.to_string(), "0000000000000001-00000000000000ff.ltx");
        assert_eq!(range.to_string().len(), TxidRange::NAME_LEN);
    }

    #[test]
    fn only_the_exact_form_is_a_name() {
        for name in [
            "",
            ".ltx",
            "0000000000000001-0000000000000001",
            "0000000000000001-0000000000000001.ltx.tmp",
            "0000000000000001-0000000000000001.LTX",
            "000000000000000A-000000000000000a.ltx",
            "000000000000001-0000000000000001.ltx",
            "00000000000000001-0000000000000001.ltx",
            "0000000000000001_0000000000000001.ltx",
            "+000000000000001-0000000000000001.ltx",
            "0000000000000000-0000000000000001.ltx",
            "0000000000000002-0000000000000001.ltx",
            "é000000000000001-0000000000000001.ltx",
        ] {
            assert!(name.parse::<TxidRange>().is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn neighbours_stop_at_the_ends() {
        assert_eq!(Txid::MAX.next(), None);
        assert_eq!(Txid::FIRST.previous(), None);
        assert_eq!(
            Txid::FIRST.next().and_then(Txid::previous),
            Some(Txid::FIRST)
        );
    }

    proptest! {
        #[test]
        fn a_name_parses_back_to_its_range(a in 1u64.., b in 1u64..) {
            let (min, max) = (Txid::new(a.min(b)).unwrap(), Txid::new(a.max(b)).unwrap());
            let range = TxidRange::new(min, max).unwrap();

            prop_assert_eq!(range.to_string().parse::<TxidRange>(), Ok(range));
        }

        #[test]
        fn what_parses_prints_the_same(name in "[0-9a-fA-F]{15,17}-[0-9a-f]{16}\\.ltx") {
            if let Ok(range) = name.parse::<TxidRange>() {
                prop_assert_eq!(range.to_string(), name);
            }
        }
    }
}
