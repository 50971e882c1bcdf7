//! A replica store in memory, with faults on demand, for unit tests.
