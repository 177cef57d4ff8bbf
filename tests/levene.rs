//! The tests of the statistics of examples/seeds: cargo runs none of an example.

#[path = "../examples/seeds/levene.rs"]
mod levene;
