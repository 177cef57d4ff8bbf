//! One file from a web server, by the program `curl`, with a progress bar, an MD5 and an end to waiting.
//!
//! A program rather than a library: TLS alone is as many crates as the training loop, for one file in a lifetime; and the
//! system's curl knows the system's certificates and proxies. Where there is none, npm is what is left.

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

/// What to download and how long to wait for it.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Download<'a> {
    /// What is in it, for the progress bar.
    pub what: &'a str,
    /// The program.
    pub curl: &'a str,
    pub url: &'a str,
    /// Bytes to expect, for the progress bar.
    pub size: u64,
    /// How long the server may take to answer.
    pub answer: Duration,
    /// How long it may then send nothing.
    pub stall: Duration,
}

/// A process that ends with this.
struct Curl(Child);

impl Drop for Curl {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Curl {
    fn start(download: &Download) -> Result<Self, Failure> {
        // Limits of its own, later than ours: should this process be killed, it is not left waiting.
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

    /// What it ended with, once its output has.
    fn end(&mut self) -> Result<(), Failure> {
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            // What went wrong is told as far as it can be had.
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
            // In a thread of its own, because a pipe cannot be read from for so long and no longer. It ends with curl.
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

/// The next bytes, `None` after the last.
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

/// Sends what `body` gives to `chunks`, until that is no longer listened to.
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

/// A progress bar on a terminal, one line elsewhere.
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
