//! The replica contract as a test suite that any store can run.
