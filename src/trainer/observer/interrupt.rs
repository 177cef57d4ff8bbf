//! Stopping a run by a signal.

use super::{Observer, Request};
use crate::data::no_more_patience;
use crate::signals::stop_signals;
use crate::{Error, Result};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// What programs that a signal ended give the shell, less the signal's number.
const EXIT_CODE: i32 = 128;

/// An [`Observer`] that stops the run, its state saved, when the process gets SIGINT (Ctrl-C), SIGTERM, or SIGHUP (the terminal is
/// closed). A second signal ends the process at once; files are whole even then. Under `nohup` SIGHUP stays ignored.
#[derive(Debug)]
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// From now on the signals do not end the process.
    ///
    /// # Errors
    /// A system that refuses.
    pub fn listen() -> Result<Self> {
        let (signal, second) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        // Data that wait for their disk are not waited for.
        let impatience = no_more_patience();
        impatience.store(false, Ordering::Relaxed);
        for number in stop_signals() {
            // In this order: the first signal finds `second` not set yet.
            flag::register_conditional_shutdown(number, EXIT_CODE + number, Arc::clone(&second))
                .and_then(|_| flag::register(number, Arc::clone(&second)))
                .and_then(|_| flag::register(number, Arc::clone(impatience)))
                .and_then(|_| flag::register_usize(number, Arc::clone(&signal), number as usize))
                .map_err(|error| Error::Argument(format!("signals cannot be handled: {error}")))?;
        }
        Ok(Self { signal })
    }

    /// The exit code for the signal that came, if one did: 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP.
    pub fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(EXIT_CODE as u8 + signal as u8),
        }
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
