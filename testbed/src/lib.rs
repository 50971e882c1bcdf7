//! Servers and a network that misbehave on demand, in the process of a test.
