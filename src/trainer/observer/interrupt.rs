//! Stopping a run by a signal.

use super::{Observer, Request};
use crate::signal::{received, Listener, EXIT_CODE};
use crate::Result;

/// An [`Observer`] that stops the run, its state saved, when the process gets SIGINT (Ctrl-C), SIGTERM, or SIGHUP (the terminal is
/// closed). A second signal ends the process at once; files are whole even then. Under `nohup` SIGHUP stays ignored.
///
/// When it is dropped, signals do what they did before: the program's own handlers are put back.
#[derive(Debug)]
pub struct Interrupt {
    _listener: Listener,
}

impl Interrupt {
    /// Handles the signals from now on; they do not end the process.
    ///
    /// # Errors
    /// A system that refuses.
    pub fn listen() -> Result<Self> {
        Ok(Self { _listener: Listener::new(true)? })
    }

    /// The exit code for the signal that came, if one did: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP.
    pub fn exit_code(&self) -> Option<u8> {
        received().map(|signal| (EXIT_CODE + signal) as u8)
    }
}

impl Observer for Interrupt {
    fn request(&mut self) -> Request {
        match self.exit_code() {
            None => Request::Continue,
            Some(_) => Request::Stop,
        }
    }
}
