//! Replica clients that own a replica client: retry, verify, throttle, timeout, limit.
