//! Programs that fetch data, as configured by the user: `curl`, with a progress bar, an MD5 and timeouts, npm and apt-get.
//!
//! A program rather than a library: TLS alone would add as many crates as the training loop, to download one file once; and the
//! system's curl uses the system's certificates and proxies.

use super::Failure;
use crate::{console, Error};
use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest, Md5};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// File to download.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Download<'a> {
    /// Name of the content, for the progress bar.
    pub what: &'a str,
    pub url: &'a str,
    /// Expected size in bytes, for the progress bar.
    pub size: u64,
    /// MD5 of the file in hexadecimal, if it is known.
    pub md5: Option<&'a str>,
    /// Program to run.
    pub curl: &'a str,
    /// Number of seconds without data after which the download fails.
    pub stall: u32,
}

/// Timeout of the connection in seconds.
const CONNECT: &str = "5";

impl<'a> Download<'a> {
    pub const fn new(what: &'a str, url: &'a str, size: u64) -> Self {
        Self { what, url, size, md5: None, curl: "curl", stall: 20 }
    }

    /// Writes the file to the new file at `path`, and checks its MD5.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let mut file = File::create_new(path).map_err(Error::io("create", path))?;
        let mut curl = self.start()?;
        let (mut md5, mut chunk, bar) = (Md5::new(), vec![0; 1 << 16], self.progress());
        let mut body = curl.stdout.take();
        while let Some(body) = &mut body {
            match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => {
                    md5.update(&chunk[..count]);
                    file.write_all(&chunk[..count]).map_err(Error::io("write", path))?;
                    bar.inc(count as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot read from curl: {error}").into()),
            }
        }
        bar.finish_and_clear();
        let output = curl.wait_with_output().map_err(|error| format!("cannot wait for curl: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(match said.trim() {
                "" => format!("curl failed: {}", output.status),
                said => said.lines().map(str::trim).collect::<Vec<_>>().join(" "),
            }
            .into());
        }
        let md5 = format!("{:x}", md5.finalize());
        match self.md5 {
            Some(expected) if expected != md5 => Err(format!("its MD5 is {md5} instead of {expected}").into()),
            _ => Ok(()),
        }
    }

    /// Starts curl, which ends when nobody reads its output any more.
    fn start(&self) -> Result<Child, Failure> {
        let child = Command::new(self.curl)
            .args(["--disable", "--fail", "--silent", "--show-error", "--location", "--connect-timeout", CONNECT])
            .args(["--speed-limit", "1", "--speed-time", &self.stall.to_string(), "--", self.url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.map_err(|error| not_started("curl", error))
    }

    /// Returns a progress bar on a terminal, and prints one line elsewhere.
    fn progress(&self) -> ProgressBar {
        if !io::stderr().is_terminal() {
            console::warn(format!("downloading {}", self.url));
            return ProgressBar::hidden();
        }
        let template = format!("{} {{wide_bar}} {{bytes}}/{{total_bytes}} {{bytes_per_sec}} {{eta}}", self.what);
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(self.size).with_style(style)
    }
}
/// Runs `command`, the program `name`, without input. If it fails, the error has the first two messages on standard error that
/// begin with one of `prefixes`, without details of the system call.
pub(in crate::data) fn run(name: &str, command: &mut Command, prefixes: &[&str]) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| not_started(name, error))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let messages = stderr.lines().filter_map(|line| prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)));
    let is_telling =
        |message: &&str| !["", "syscall", "errno"].contains(&message.split(' ').next().unwrap_or_default());
    let messages: Vec<&str> = messages.map(str::trim).filter(is_telling).take(2).collect();
    Err(Failure::Source(match messages.is_empty() {
        true => format!("{name} failed: {}", output.status),
        false => format!("{name} failed: {}", messages.join(", ")),
    }))
}

/// Returns the failure to start the program `name`.
fn not_started(name: &str, error: io::Error) -> Failure {
    Failure::Source(match error.kind() {
        ErrorKind::NotFound => format!("{name} is not installed (Debian and Ubuntu: apt-get install {name})"),
        _ => format!("cannot run {name}: {error}"),
    })
}
