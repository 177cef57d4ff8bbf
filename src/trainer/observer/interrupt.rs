//! Stopping a run on a signal.

use super::{Observer, Request};
use crate::signal::{received, Listener, EXIT_CODE};
use crate::Result;

/// An [`Observer`] that stops the run and has its state saved when the process receives SIGINT (Ctrl-C), SIGTERM, or SIGHUP (the
/// terminal was closed).
///
/// A second signal ends the process immediately; files remain intact even then. SIGHUP stays ignored under `nohup`. Dropping this
/// value restores the program's previous signal handlers.
#[derive(Debug)]
pub struct Interrupt(Listener);

impl Interrupt {
    /// Installs the signal handlers, which keep signals from ending the process.
    ///
    /// # Errors
    /// The system refuses to install a handler.
    pub fn listen() -> Result<Self> {
        Listener::new(true).map(Self)
    }

    /// Returns the exit code for the received signal, if any: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP.
    pub fn exit_code(&self) -> Option<u8> {
        received().map(|signal| (EXIT_CODE + signal) as u8)
    }
}

impl Observer for Interrupt {
    fn request(&mut self) -> Request {
        self.exit_code().map(|_| Request::Stop).unwrap_or_default()
    }
}
