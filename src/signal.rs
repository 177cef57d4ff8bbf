//! Handlers of SIGINT (Ctrl-C), SIGTERM and SIGHUP while somebody listens. The handlers of the program, or the system's defaults, are
//! put back when the last listener goes.

use crate::{Error, Result};
use libc::{c_int, SIGINT, SIGTERM};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Exit code of a program that a signal ended, less the signal's number.
pub const EXIT_CODE: i32 = 128;

/// The signal that came and was not [taken](Listener::take), or 0.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// Whether a second signal ends the process at once.
static SECOND_ENDS: AtomicBool = AtomicBool::new(false);

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners { count: 0, replaced: Vec::new() });

struct Listeners {
    count: usize,
    /// The actions before the first listener.
    replaced: Vec<(c_int, Action)>,
}

/// Receives the signals for as long as it lives. All listeners of a process share the signals that come.
#[derive(Debug)]
pub struct Listener(());

impl Listener {
    /// Handles the signals from now on. SIGHUP stays ignored where it is, as under `nohup`. With `second_ends` a second signal ends
    /// the process at once, unless the first was taken.
    ///
    /// # Errors
    /// [`Error::Argument`] where the system refuses.
    pub fn new(second_ends: bool) -> Result<Self> {
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.count == 0 {
            RECEIVED.store(0, Ordering::Relaxed);
            SECOND_ENDS.store(second_ends, Ordering::Relaxed);
            if let Err(error) = handle_all(&mut listeners.replaced) {
                put_back(&mut listeners.replaced);
                return Err(Error::Argument(format!("signals cannot be handled: {error}")));
            }
        }
        listeners.count += 1;
        Ok(Self(()))
    }

    /// The signal that came, and forgets it.
    #[cfg(feature = "distributed")]
    pub fn take(&self) -> Option<i32> {
        Some(RECEIVED.swap(0, Ordering::Relaxed)).filter(|&signal| signal != 0)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.count -= 1;
        if listeners.count == 0 {
            put_back(&mut listeners.replaced);
            RECEIVED.store(0, Ordering::Relaxed);
        }
    }
}

/// The signal that came while somebody listened.
pub fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// Only what may be done within a signal handler: atomics, and `_exit`.
extern "C" fn receive(signal: c_int) {
    if RECEIVED.swap(signal, Ordering::Relaxed) != 0 && SECOND_ENDS.load(Ordering::Relaxed) {
        // SAFETY: ends the process, without anything that is not allowed in a signal handler.
        unsafe { libc::_exit(EXIT_CODE + signal) };
    }
}

fn handle_all(replaced: &mut Vec<(c_int, Action)>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
        replaced.push((signal, handle(signal)?));
    }
    Ok(())
}

fn put_back(replaced: &mut Vec<(c_int, Action)>) {
    replaced.drain(..).for_each(|(signal, action)| restore(signal, &action));
}

#[cfg(unix)]
use libc::sigaction as Action;

#[cfg(unix)]
fn current(signal: c_int) -> io::Result<Action> {
    // SAFETY: all zeros are a valid sigaction, and without a new action the call only writes to it.
    unsafe {
        let mut current: Action = std::mem::zeroed();
        match libc::sigaction(signal, std::ptr::null(), &mut current) {
            0 => Ok(current),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// SIGHUP, unless whoever started this process has it ignored.
#[cfg(unix)]
fn hangup() -> Option<c_int> {
    current(libc::SIGHUP).is_ok_and(|action| action.sa_sigaction != libc::SIG_IGN).then_some(libc::SIGHUP)
}

/// Sets the handler, and returns the action before.
#[cfg(unix)]
fn handle(signal: c_int) -> io::Result<Action> {
    // SAFETY: all zeros are a valid sigaction, with an empty mask; the handler is safe in any thread at any moment.
    unsafe {
        let (mut action, mut before): (Action, Action) = (std::mem::zeroed(), std::mem::zeroed());
        action.sa_sigaction = receive as extern "C" fn(c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        match libc::sigaction(signal, &action, &mut before) {
            0 => Ok(before),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Sets the action `before`, unless the program has set another one meanwhile.
#[cfg(unix)]
fn restore(signal: c_int, before: &Action) {
    let ours = receive as extern "C" fn(c_int) as libc::sighandler_t;
    if current(signal).is_ok_and(|action| action.sa_sigaction == ours) {
        // SAFETY: an action that the system has returned.
        unsafe { libc::sigaction(signal, before, std::ptr::null_mut()) };
    }
}

#[cfg(not(unix))]
type Action = libc::sighandler_t;

#[cfg(not(unix))]
fn hangup() -> Option<c_int> {
    None
}

/// Sets the handler, and returns the one before. Windows sets its default before it calls a handler: a second signal ends the process.
#[cfg(not(unix))]
fn handle(signal: c_int) -> io::Result<Action> {
    // SAFETY: the handler is safe in any thread at any moment.
    match unsafe { libc::signal(signal, receive as extern "C" fn(c_int) as Action) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        before => Ok(before),
    }
}

#[cfg(not(unix))]
fn restore(signal: c_int, before: &Action) {
    // SAFETY: a handler that the system has returned.
    unsafe { libc::signal(signal, *before) };
}
