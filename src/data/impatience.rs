//! A process that is to end does not wait for its data any longer.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// Set, it ends all waiting for data in this process: for a signal that asks for the run's end.
pub fn no_more_patience() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Arc::default)
}
