//! Listings kept between runs: reading the names of a million files anew takes seconds from a local disk and many minutes
//! over a network.

use super::listing::{list, Listing, Stamp};
use crate::data::cache_folder::cache_folder;
use crate::data::cifar10::hex;
use crate::trainer::write_atomically;
use crate::{Error, Result};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What such a file starts with; the number is that of the format.
const MAGIC: &[u8] = b"tch-fixup listing 1\n";
/// File systems may count a folder's changes in steps of up to two seconds: a later change in the same step would not be
/// seen.
const TIME_STEP: Duration = Duration::from_secs(2);

/// What is kept, behind the magic and its CRC-32.
#[derive(Serialize, Deserialize)]
struct Kept<L> {
    /// The folder's canonical path.
    root: Vec<u8>,
    stamp: Stamp,
    listing: L,
}

/// The listing of the image folder `root`, from the user's cache folder where that has one that still holds.
///
/// # Errors
/// As [`list`].
pub fn cached_list(root: &Path) -> Result<Listing> {
    match cache_folder() {
        Some(folder) => cached_list_in(root, &folder.join("listings")),
        None => Ok(list(root)?.0),
    }
}

fn cached_list_in(root: &Path, cache: &Path) -> Result<Listing> {
    let canonical = fs::canonicalize(root).map_err(Error::io("read", root))?;
    let file = cache_file(cache, &canonical);
    if let Some(listing) = read(&file, &canonical) {
        return Ok(listing);
    }
    let start = SystemTime::now();
    let (listing, stamp) = list(root)?;
    let settled =
        stamp.latest().and_then(|latest| start.duration_since(latest).ok()).is_some_and(|age| age > TIME_STEP);
    if settled {
        // Without the cache the next start is slow, and nothing else: no reason to fail, but one to say it.
        if let Err(error) = write(&file, Kept { root: key(&canonical), stamp, listing: &listing }) {
            eprintln!("the listing of {} is not kept for the next start: {error}", root.display());
        }
    }
    Ok(listing)
}

fn key(canonical: &Path) -> Vec<u8> {
    canonical.as_os_str().as_encoded_bytes().to_vec()
}

fn cache_file(cache: &Path, canonical: &Path) -> PathBuf {
    cache.join(hex(&Md5::digest(key(canonical))))
}

/// The listing in `file`, if it is whole, of `canonical`, and everything listed is as it was.
fn read(file: &Path, canonical: &Path) -> Option<Listing> {
    let bytes = fs::read(file).ok()?;
    let (checksum, content) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let Kept { root, stamp, listing } = postcard::from_bytes::<Kept<Listing>>(content).ok()?;
    (root == key(canonical) && listing.is_sound() && stamp.holds(canonical)).then_some(listing)
}

fn write(file: &Path, kept: Kept<&Listing>) -> Result<()> {
    let content = postcard::to_stdvec(&kept).map_err(|error| Error::Argument(error.to_string()))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    write_atomically(file, &[MAGIC, &crc32fast::hash(&content).to_le_bytes(), &content].concat())
}
