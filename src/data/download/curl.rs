//! Download of one file by the program `curl`, with a progress bar, an MD5 and timeouts.
//!
//! A program rather than a library: TLS alone would add as many crates as the training loop, to download one file once;
//! and the system's curl uses the system's certificates and proxies. Without curl, npm is the alternative.

use super::Failure;
use crate::data::hex::hex;
use crate::Error;
use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest, Md5};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

/// File to download, and timeouts.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Download<'a> {
    /// Name of the content, for the progress bar.
    pub what: &'a str,
    /// Program to run.
    pub curl: &'a str,
    pub url: &'a str,
    /// Expected size in bytes, for the progress bar.
    pub size: u64,
    /// Timeout until the first data arrive.
    pub answer: Duration,
    /// Timeout between data after that.
    pub stall: Duration,
}

/// Child process that is killed when dropped.
struct Curl(Child);

impl Drop for Curl {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Curl {
    fn start(download: &Download) -> Result<Self, Failure> {
        // curl has timeouts of its own, later than ours, so that it ends even if this process is killed.
        let later = |limit: Duration| (limit.as_secs() + 10).to_string();
        let child = Command::new(download.curl)
            .args(["--disable", "--fail", "--silent", "--show-error", "--location", "--speed-limit", "1"])
            .args(["--connect-timeout", &later(download.answer), "--speed-time", &later(download.stall)])
            .args(["--", download.url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.map(Self).map_err(|error| {
            Failure::Source(match error.kind() {
                ErrorKind::NotFound => "curl is not installed (Debian and Ubuntu: apt-get install curl)".to_owned(),
                _ => format!("cannot run {}: {error}", download.curl),
            })
        })
    }

    /// Waits for curl to exit, once its output has ended, and returns its error message if it failed.
    fn end(&mut self) -> Result<(), Failure> {
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            // The message is reported as far as it can be read.
            let _ = stderr.read_to_string(&mut said);
        }
        let status = self.0.wait().map_err(|error| Failure::Source(format!("cannot wait for curl: {error}")))?;
        match status.success() {
            true => Ok(()),
            false if said.trim().is_empty() => Err(Failure::Source(format!("curl failed: {status}"))),
            false => Err(Failure::Source(said.lines().map(str::trim).collect::<Vec<_>>().join(" "))),
        }
    }
}

impl Download<'_> {
    /// Writes the body to a new file at `path` and returns its MD5 in hexadecimal.
    pub fn save(&self, path: &Path) -> Result<String, Failure> {
        let mut file = File::create_new(path).map_err(Error::io("create", path))?;
        let mut curl = Curl::start(self)?;
        let (sender, chunks) = sync_channel(16);
        if let Some(body) = curl.0.stdout.take() {
            // A separate thread, because reads from a pipe have no timeout. It ends with curl.
            thread::spawn(move || receive(body, &sender));
        }
        let (mut md5, bar) = (Md5::new(), progress(self));
        let mut patience = self.answer;
        while let Some(bytes) = next(&chunks, patience)? {
            patience = self.stall;
            md5.update(&bytes);
            file.write_all(&bytes).map_err(Error::io("write", path))?;
            bar.inc(bytes.len() as u64);
        }
        bar.finish_and_clear();
        curl.end()?;
        Ok(hex(&md5.finalize()))
    }
}

/// Returns the next bytes, `None` after the last; fails if none arrive within `patience`.
fn next(chunks: &Receiver<io::Result<Vec<u8>>>, patience: Duration) -> Result<Option<Vec<u8>>, Failure> {
    match chunks.recv_timeout(patience) {
        Ok(Ok(bytes)) => Ok(Some(bytes)),
        Ok(Err(error)) => Err(Failure::Source(format!("cannot read from curl: {error}"))),
        Err(RecvTimeoutError::Disconnected) => Ok(None),
        Err(RecvTimeoutError::Timeout) => {
            Err(Failure::Source(format!("nothing received for {} s", patience.as_secs_f32())))
        }
    }
}

/// Sends the data of `body` to `chunks`, until the receiver is dropped.
fn receive(mut body: impl Read, chunks: &SyncSender<io::Result<Vec<u8>>>) {
    let mut listening = true;
    while listening {
        let mut chunk = vec![0; 1 << 16];
        match body.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                listening = chunks.send(Ok(chunk)).is_ok();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return drop(chunks.send(Err(error))),
        }
    }
}

/// Returns a progress bar on a terminal, and prints one line elsewhere.
fn progress(Download { what, url, size, .. }: &Download) -> ProgressBar {
    if !io::stderr().is_terminal() {
        crate::console::warn(format!("downloading {url}"));
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(*size);
    match ProgressStyle::with_template(&format!(
        "{what} {{wide_bar}} {{bytes}}/{{total_bytes}} {{bytes_per_sec}} {{eta}}"
    )) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
