//! What parses as a name or a time prints the same, and parses again to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ltx::{Timestamp, Txid, TxidRange};

fuzz_target!(|text: &str| {
    if let Ok(txids) = text.parse::<TxidRange>() {
        assert_eq!(txids.to_string(), text);
        assert!(txids.min() <= txids.max());
    }
    if let Ok(txid) = text.parse::<Txid>() {
        assert_eq!(txid.to_string(), text);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse(), Ok(time));
    }
});
