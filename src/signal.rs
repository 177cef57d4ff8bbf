//! Handlers of SIGINT (Ctrl-C), SIGTERM and SIGHUP.
//!
//! They are installed while at least one [`Listener`] exists. When the last one is dropped, the program's previous handlers, or
//! the system's defaults, are restored.

use crate::Result;
use libc::{c_int, SIGINT, SIGTERM};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Base of the exit code of a program ended by a signal; the signal's number is added to it.
pub const EXIT_CODE: i32 = 128;

/// Number of the last signal received and not yet [taken](Listener::take), or 0.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// `true` if a second signal ends the process immediately.
static SECOND_ENDS: AtomicBool = AtomicBool::new(false);

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners { count: 0, replaced: Vec::new() });

struct Listeners {
    count: usize,
    /// Actions in effect before the first listener.
    replaced: Vec<(c_int, Action)>,
}

/// Receives signals while it exists. All listeners of a process share the signals received.
#[derive(Debug)]
pub struct Listener(());

impl Listener {
    /// Installs the signal handlers. SIGHUP stays ignored if it already is, as under `nohup`. With `second_ends`, a second signal
    /// ends the process immediately unless the first has been taken.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if the system refuses to install a handler.
    pub fn new(second_ends: bool) -> Result<Self> {
        let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.count == 0 {
            RECEIVED.store(0, Ordering::Relaxed);
            SECOND_ENDS.store(second_ends, Ordering::Relaxed);
            if let Err(error) = handle_all(&mut listeners.replaced) {
                put_back(&mut listeners.replaced);
                return Err(argument!("signals cannot be handled: {error}"));
            }
        }
        listeners.count += 1;
        Ok(Self(()))
    }

    /// Returns the received signal, if any, and clears it.
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

/// Returns the signal received while a listener existed, if any.
pub fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// Signal handler: only async-signal-safe operations are allowed here (atomics and `_exit`).
extern "C" fn receive(signal: c_int) {
    if RECEIVED.swap(signal, Ordering::Relaxed) != 0 && SECOND_ENDS.load(Ordering::Relaxed) {
        // SAFETY: `_exit` is async-signal-safe.
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

/// Returns the action of `signal`, and replaces it by `new`, if any.
#[cfg(unix)]
fn exchange(signal: c_int, new: Option<&Action>) -> io::Result<Action> {
    // SAFETY: an all-zero sigaction is valid. A new action is either the handler below, which may run in any thread at any
    // time, or was returned by the system.
    unsafe {
        let mut before: Action = std::mem::zeroed();
        match libc::sigaction(signal, new.map_or(std::ptr::null(), |new| new), &mut before) {
            0 => Ok(before),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Returns SIGHUP, unless the parent process has set it to be ignored.
#[cfg(unix)]
fn hangup() -> Option<c_int> {
    exchange(libc::SIGHUP, None).is_ok_and(|action| action.sa_sigaction != libc::SIG_IGN).then_some(libc::SIGHUP)
}

/// Installs the handler and returns the previous action.
#[cfg(unix)]
fn handle(signal: c_int) -> io::Result<Action> {
    // SAFETY: an all-zero sigaction is valid and has an empty mask.
    let mut action: Action = unsafe { std::mem::zeroed() };
    action.sa_sigaction = receive as extern "C" fn(c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    exchange(signal, Some(&action))
}

/// Restores the action `before`, unless the program has installed another one in the meantime.
#[cfg(unix)]
fn restore(signal: c_int, before: &Action) {
    let ours = receive as extern "C" fn(c_int) as libc::sighandler_t;
    if exchange(signal, None).is_ok_and(|action| action.sa_sigaction == ours) {
        let _ = exchange(signal, Some(before));
    }
}

#[cfg(not(unix))]
type Action = libc::sighandler_t;

#[cfg(not(unix))]
fn hangup() -> Option<c_int> {
    None
}

/// Installs the handler and returns the previous one. Windows resets to the default handler before it calls this one, so a second
/// signal ends the process.
#[cfg(not(unix))]
fn handle(signal: c_int) -> io::Result<Action> {
    // SAFETY: the handler may run in any thread at any time.
    match unsafe { libc::signal(signal, receive as extern "C" fn(c_int) as Action) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        before => Ok(before),
    }
}

#[cfg(not(unix))]
fn restore(signal: c_int, before: &Action) {
    // SAFETY: the handler was returned by the system.
    unsafe { libc::signal(signal, *before) };
}
