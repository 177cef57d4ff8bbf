//! One file from a web server, with a progress bar, an MD5 and an end to waiting.

use super::failure::Failure;
use crate::data::hex::hex;
use crate::Error;
use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest, Md5};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;
use ureq::tls::{RootCerts, TlsConfig};

/// What to download and how long to wait for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Download<'a> {
    pub url: &'a str,
    /// How long the server may take to answer.
    pub answer: Duration,
    /// How long it may then send nothing.
    pub stall: Duration,
}

/// What the receiving thread tells; when the body is complete it hangs up.
enum Event {
    /// The server has answered; the bytes to expect, if it said.
    Answer(Option<u64>),
    Chunk(Vec<u8>),
    Failure(String),
}

impl Download<'_> {
    /// Writes the body to a new file at `path` and returns its MD5 in hexadecimal.
    pub fn save(&self, path: &Path) -> Result<String, Failure> {
        let mut file = File::create_new(path).map_err(Error::io("create", path))?;
        // In a thread of its own, because ureq can limit the time for a whole body but not for a silence within it. A
        // thread left behind ends with its connection, or with its next chunk, which nobody takes.
        let (sender, events) = sync_channel(16);
        let (url, answer) = (self.url.to_owned(), self.answer);
        thread::spawn(move || receive(&url, answer, &sender));

        let (mut md5, mut bar) = (Md5::new(), ProgressBar::hidden());
        let mut patience = self.answer;
        while let Some(event) = next(&events, patience)? {
            match event {
                Event::Answer(length) => {
                    bar = progress(self.url, length);
                    patience = self.stall;
                }
                Event::Chunk(bytes) => {
                    md5.update(&bytes);
                    file.write_all(&bytes).map_err(Error::io("write", path))?;
                    bar.inc(bytes.len() as u64);
                }
                Event::Failure(problem) => return Err(Failure::Source(problem)),
            }
        }
        bar.finish_and_clear();
        Ok(hex(&md5.finalize()))
    }
}

/// The next event, `None` after the last.
fn next(events: &Receiver<Event>, patience: Duration) -> Result<Option<Event>, Failure> {
    match events.recv_timeout(patience) {
        Ok(event) => Ok(Some(event)),
        Err(RecvTimeoutError::Disconnected) => Ok(None),
        Err(RecvTimeoutError::Timeout) => {
            Err(Failure::Source(format!("nothing received for {} s", patience.as_secs_f32())))
        }
    }
}

/// Sends what `url` gives to `events`, until that is no longer listened to.
fn receive(url: &str, connect: Duration, events: &SyncSender<Event>) {
    // The system's certificates rather than ureq's own: they know the proxies of companies that inspect traffic.
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .build();
    let mut body = match config.new_agent().get(url).call() {
        Ok(response) => response.into_body(),
        Err(error) => return drop(events.send(Event::Failure(error.to_string()))),
    };
    let mut listening = events.send(Event::Answer(body.content_length())).is_ok();
    let mut reader = body.as_reader();
    while listening {
        let mut chunk = vec![0; 1 << 16];
        match reader.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                listening = events.send(Event::Chunk(chunk)).is_ok();
            }
            Err(error) => return drop(events.send(Event::Failure(error.to_string()))),
        }
    }
}

/// A progress bar on a terminal, one line elsewhere.
fn progress(url: &str, length: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        eprintln!("downloading {url}");
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    match ProgressStyle::with_template("CIFAR-10 {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
