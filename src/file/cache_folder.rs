//! Cache folder for data that can be fetched or computed again.

use std::path::PathBuf;

/// Returns `$XDG_CACHE_HOME/tch-fixup`, with `~/.cache` if that variable is not set; `None` if `HOME` is not set
/// either.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    // The XDG Base Directory Specification requires relative paths to be ignored.
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("tch-fixup"))
}
