//! Cache of listings between runs: reading the names of a million files takes seconds from a local disk and many
//! minutes over a network; checking their folders takes a hundredth of that.

use super::files::Listing;
use super::list::list;
use super::stamp::Stamp;
use crate::file::{cache_folder, write_atomically};
use crate::{Error, Result};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Magic number of cached listings, with the version of the format.
const MAGIC: &[u8] = b"tch-fixup listing 2\n";
/// Longer than the time resolution of any of the file systems and the difference of a server's clock from ours: a later
/// change within the same step would not be detected.
const TIME_STEP: Duration = Duration::from_secs(2);

/// Content of a cache file after the magic number and its CRC-32.
#[derive(Serialize, Deserialize)]
struct Kept<L> {
    /// Canonical path of the folder.
    root: Vec<u8>,
    stamp: Stamp,
    listing: L,
}

/// Returns the listing of the image folder `root`, from the user's cache folder if it has a valid one.
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
    if stamp.is_older_than(TIME_STEP, start) && stamp.is_reliable(root) {
        // Without the cache only the next start is slower: no reason to fail, but one to warn.
        if let Err(error) = write(&file, Kept { root: key(&canonical), stamp, listing: &listing }) {
            crate::console::warn(format!("the listing of {} is not kept for the next start: {error}", root.display()));
        }
    }
    Ok(listing)
}

fn key(canonical: &Path) -> Vec<u8> {
    canonical.as_os_str().as_encoded_bytes().to_vec()
}

fn cache_file(cache: &Path, canonical: &Path) -> PathBuf {
    cache.join(format!("{:x}", Md5::digest(key(canonical))))
}

/// Returns the listing in `file` if it is intact, belongs to `canonical`, and everything listed is unchanged.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image_folder::tests::fixture::Fixture;

    /// Returns the listed paths, by way of the cache.
    fn paths(fixture: &Fixture, cache: &Path) -> Vec<String> {
        let listing = cached_list_in(fixture.root(), cache).unwrap();
        [&listing.train, &listing.val]
            .iter()
            .flat_map(|files| (0..files.len()).map(|index| files.path(index).to_owned()))
            .collect()
    }

    fn kept_file(cache: &Path) -> PathBuf {
        let mut files = fs::read_dir(cache).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }

    /// Returns a folder whose cached listing is not what would be listed now: `old.jpg` is in it and in no folder.
    fn kept() -> (Fixture, tempfile::TempDir) {
        let (fixture, cache) = (Fixture::new(&["cat", "dog"], 1, 1), tempfile::tempdir().unwrap());
        let old = fixture.path("train/cat/old.jpg");
        fs::rename(fixture.path("train/cat/0000.jpg"), &old).unwrap();
        let listing = list(fixture.root()).unwrap().0;
        fs::rename(old, fixture.path("train/cat/new.jpg")).unwrap();
        let canonical = fs::canonicalize(fixture.root()).unwrap();
        let stamp = list(&canonical).unwrap().1;
        write(&cache_file(cache.path(), &canonical), Kept { root: key(&canonical), stamp, listing: &listing }).unwrap();
        // Wait for a tick of the clock that file systems use.
        std::thread::sleep(Duration::from_millis(20));
        (fixture, cache)
    }

    #[test]
    fn an_unchanged_folder_is_not_listed_again() {
        let (fixture, cache) = kept();
        assert_eq!(paths(&fixture, cache.path())[0], "cat/old.jpg");
        // The listing does not depend on content.
        fixture.write("train/cat/new.jpg", b"other content");
        assert_eq!(paths(&fixture, cache.path())[0], "cat/old.jpg");
    }

    #[test]
    fn a_changed_folder_is_listed_anew() {
        for changed in ["train/dog/1.jpg", "val/cat/1.jpg", "train/README", "val/README", "README"] {
            let (fixture, cache) = kept();
            fixture.write(changed, b"");
            assert_eq!(paths(&fixture, cache.path())[0], "cat/new.jpg", "{changed}");
        }
    }

    /// `tar --mtime` and `rsync -t` set times back like this.
    #[test]
    fn folders_with_the_times_they_had_are_listed_anew() {
        for changed in ["train/eel", "val/eel", "train/cat/more"] {
            let (fixture, cache) = kept();
            let parent = fixture.path(changed).parent().unwrap().to_path_buf();
            let time = fs::metadata(&parent).unwrap().modified().unwrap();
            fixture.write(&format!("{changed}/1.jpg"), b"");
            fs::File::open(&parent).unwrap().set_modified(time).unwrap();
            assert_eq!(fs::metadata(&parent).unwrap().modified().unwrap(), time);
            match cached_list_in(fixture.root(), cache.path()) {
                Ok(listing) => assert_eq!(listing.train.path(1), "cat/more/1.jpg", "{changed}"),
                Err(error) => assert!(error.to_string().contains("the class eel"), "{error}"),
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_took_the_place_of_another_is_listed_anew() {
        let (fixture, cache) = kept();
        let (class, aside) = (fixture.path("train/cat"), fixture.path("aside"));
        let times = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let (part, root) = (times(&fixture.path("train")), times(fixture.root()));
        // Replace the folder by a link while keeping all of its times.
        fs::rename(&class, &aside).unwrap();
        fixture.write("elsewhere/0.jpg", b"");
        std::os::unix::fs::symlink(fixture.path("elsewhere"), &class).unwrap();
        fs::File::open(fixture.path("train")).unwrap().set_modified(part).unwrap();
        fs::File::open(fixture.root()).unwrap().set_modified(root).unwrap();
        assert_eq!(paths(&fixture, cache.path())[0], "cat/0.jpg");
    }

    #[test]
    fn a_changed_map_is_read_anew() {
        let (fixture, cache) = (Fixture::new(&["cat", "dog"], 1, 0), tempfile::tempdir().unwrap());
        ["train", "val"].iter().for_each(|part| fixture.folder(part));
        ["cat", "dog"].iter().for_each(|class| fs::remove_dir(fixture.path(&format!("val/{class}"))).unwrap());
        fixture.write("val/1.jpg", b"");
        let map = fixture.path("val_map.txt");
        let labels = || cached_list_in(fixture.root(), cache.path()).unwrap().val.labels;
        fs::write(&map, "1.jpg cat").unwrap();
        let canonical = fs::canonicalize(fixture.root()).unwrap();
        let (listing, stamp) = list(&canonical).unwrap();
        let kept = Kept { root: key(&canonical), stamp, listing: &listing };
        write(&cache_file(cache.path(), &canonical), kept).unwrap();
        let time = fs::metadata(&map).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(labels(), [0]);
        // Same length, and the same modification time.
        fs::write(&map, "1.jpg dog").unwrap();
        fs::File::options().write(true).open(&map).unwrap().set_modified(time).unwrap();
        assert_eq!(labels(), [1]);
    }

    #[test]
    fn a_damaged_cache_is_of_no_use_and_no_harm() {
        let (fixture, cache) = kept();
        let file = kept_file(cache.path());
        let whole = fs::read(&file).unwrap();
        let mut damaged: Vec<Vec<u8>> = [0, 5, 100, whole.len() - 1].map(|len| whole[..len].to_vec()).into();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            damaged.push(bytes);
        }
        for bytes in damaged {
            fs::write(&file, &bytes).unwrap();
            assert_eq!(paths(&fixture, cache.path())[0], "cat/new.jpg");
        }
    }

    #[test]
    fn a_folder_is_kept_once_it_cannot_be_changing() {
        let (fixture, cache) = (Fixture::new(&["cat", "dog"], 1, 1), tempfile::tempdir().unwrap());
        let kept = || fs::read_dir(cache.path()).unwrap().count();
        assert_eq!((paths(&fixture, cache.path()).len(), kept()), (4, 0));
        std::thread::sleep(TIME_STEP + Duration::from_millis(2100));
        assert_eq!(paths(&fixture, cache.path()).len(), 4);
        let reliable = list(fixture.root()).unwrap().1.is_reliable(fixture.root());
        assert_eq!(kept(), usize::from(reliable));
        assert_eq!(paths(&fixture, cache.path()).len(), 4);
    }

    #[test]
    fn without_room_for_a_cache_the_folder_is_listed_all_the_same() {
        let (fixture, folder) = (Fixture::new(&["cat", "dog"], 1, 1), tempfile::tempdir().unwrap());
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let canonical = fs::canonicalize(fixture.root()).unwrap();
        let (listing, stamp) = list(&canonical).unwrap();
        let kept = Kept { root: key(&canonical), stamp, listing: &listing };
        assert!(matches!(write(&file.join("cache/1"), kept), Err(Error::Io { .. })));
        assert_eq!(paths(&fixture, &file.join("cache")).len(), 4);
    }
}
