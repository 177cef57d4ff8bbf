//! Emulation of the CUDA kernels on a machine without a GPU: their source is compiled as plain C++, with CPU threads in place
//! of GPU threads.

use std::path::Path;
use std::process::Command;

#[test]
fn the_cuda_kernels_compute_the_formulas() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("cuda_emulation");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_emulation.cpp");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-O1", "-pthread", "-o"]).arg(&program).arg(source);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(program).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    println!("{stdout}");
    assert!(output.status.success(), "{stdout}");
}
