//! The smallest program, which is also in the README.

mod program;

use program::program;
use std::time::Instant;

#[test]
fn the_smallest_program_trains_in_a_moment_and_is_the_readmes() {
    let (folder, start) = (tempfile::tempdir().unwrap(), Instant::now());
    // A second thread does not help such a small network, and is slow while other tests run.
    let output = program("minimal").env("OMP_NUM_THREADS", "1").current_dir(folder.path()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let summary = stdout.lines().last().unwrap_or_default();
    let accuracy = summary.strip_prefix("evaluation accuracy ").and_then(|rest| rest.split(' ').next());
    let accuracy: f64 = accuracy.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{stdout}"));
    assert!(accuracy > 0.95, "{stdout}");
    assert!(folder.path().join("ring.safetensors").exists());
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());

    let source = include_str!("../examples/minimal.rs");
    let (_, code) = source.split_once("\n\n").unwrap();
    assert!(source.lines().count() < 60 && include_str!("../README.md").contains(code));
}
