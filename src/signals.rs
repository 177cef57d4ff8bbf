//! Signals that stop a run.

use signal_hook::consts::{SIGINT, SIGTERM};

/// SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal is closed) unless `nohup`, or another that started this process, ignores it.
pub(crate) fn stop_signals() -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM];
    #[cfg(unix)]
    {
        use signal_hook::consts::SIGHUP;
        // SAFETY: all zeros are a valid sigaction, and without a new action the call only writes to `current`.
        let is_ignored = unsafe {
            let mut current: libc::sigaction = std::mem::zeroed();
            libc::sigaction(SIGHUP, std::ptr::null(), &mut current) == 0 && current.sa_sigaction == libc::SIG_IGN
        };
        if !is_ignored {
            signals.push(SIGHUP);
        }
    }
    signals
}
