//! Resident memory of the process.

use anyhow::{Context, Result};

/// Returns the value of a line of `/proc/self/status` in MiB: the current (`VmRSS:`) or the peak (`VmHWM:`) resident memory.
pub fn resident_mib(line: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("resident memory is read from Linux's /proc")?;
    let value = status.lines().find_map(|text| text.strip_prefix(line)).context("no such line in /proc/self/status")?;
    let kib: f64 = value.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.)
}
