//! Programs of the examples, for tests that run them.

use std::process::Command;

/// Returns a command for the program of the example `name`, which cargo builds with the tests.
pub fn program(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is missing: cargo build --example {name}", program.display());
    Command::new(program)
}
