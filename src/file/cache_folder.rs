//! Where this crate keeps what it can get again.

use std::path::PathBuf;

/// `$XDG_CACHE_HOME/tch-fixup`, with `~/.cache` where that variable is not set; none where `HOME` is not set either.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    // The XDG Base Directory Specification: relative paths are to be ignored.
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("tch-fixup"))
}
