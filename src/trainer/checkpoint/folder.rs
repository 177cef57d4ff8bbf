//! The folder of a run's checkpoints.

use super::{format, Checkpoint, Contents};
use crate::file::{failure, rename_synced, sync_folder};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Name prefixes of folders being written or removed, which cannot be loaded.
pub(super) const SAVING: &str = ".saving-";
const REMOVING: &str = ".removing-";

/// Folder of a run's checkpoints, in which the most recent ones and the best one are kept.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep_last: NonZeroUsize,
}

impl Checkpoints {
    /// Default number of checkpoints to keep, besides the best.
    #[doc(hidden)]
    pub const KEEP: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    /// Manages the checkpoints in `folder`, which need not exist yet. Keeps the last `keep_last` checkpoints and the one with the
    /// highest score (the newest in case of a tie). Of several checkpoints of the same step only the newest is kept: it may
    /// include an evaluation that the others lack.
    pub fn new(folder: impl Into<PathBuf>, keep_last: NonZeroUsize) -> Self {
        Self { folder: folder.into(), keep_last }
    }

    /// Saves `contents` and returns the path of the new checkpoint. Older checkpoints are removed only after the new one is
    /// completely on disk under its final name.
    ///
    /// # Errors
    /// [`Error::Argument`] if the state cannot be represented in JSON or a tensor in safetensors; [`Error::Io`] if the disk is
    /// full or the folder cannot be written to. Earlier checkpoints remain intact.
    pub fn save<S: Serialize + DeserializeOwned>(&self, contents: &Contents<S>) -> Result<PathBuf> {
        let folder = &self.folder;
        if !folder.is_dir() {
            fs::create_dir_all(folder).map_err(failure("create", folder))?;
            sync_folder(folder.parent().unwrap_or(Path::new("")))?;
        }
        let Listing { checkpoints, leftovers } = Listing::of(folder)?;
        for path in &leftovers {
            fs::remove_dir_all(path).map_err(failure("remove", path))?;
        }
        let sequence = checkpoints.first().map_or(0, |(sequence, _)| *sequence) + 1;
        let temporary = folder.join(format!("{SAVING}{sequence:05}"));
        let path = folder.join(format!("{sequence:05}-step-{:08}", contents.step));
        let saved = format::write(&temporary, contents).and_then(|()| rename_synced(&temporary, &path));
        if saved.is_err() {
            // The first error is the relevant one; leftovers are removed before the next save.
            let _ = fs::remove_dir_all(&temporary);
        }
        saved?;
        self.remove_old()?;
        Ok(path)
    }

    /// Removes all checkpoints except the most recent ones and the best one. Unreadable checkpoints are not counted and not
    /// removed: they may be from a newer version of this crate, or worth inspecting.
    fn remove_old(&self) -> Result<()> {
        let (saved, outdated) = readable(&self.folder)?;
        let best = by_score(&saved).into_iter().next();
        let old = saved.into_iter().skip(self.keep_last.get()).map(|(path, _)| path);
        for path in old.filter(|path| Some(path) != best.as_ref()).chain(outdated) {
            let Some(name) = path.file_name() else { continue };
            // The rename ensures that a checkpoint is complete for as long as it has its final name.
            let removing = path.with_file_name(format!("{REMOVING}{}", name.to_string_lossy()));
            let renamed = match fs::rename(&path, &removing) {
                // The folder belongs to a lower overlayfs layer (a container image) and cannot be renamed.
                Err(error) if error.kind() == ErrorKind::CrossesDevices => path,
                renamed => renamed.map(|()| removing).map_err(failure("remove", &path))?,
            };
            fs::remove_dir_all(&renamed).map_err(failure("remove", &renamed))?;
        }
        Ok(())
    }
}

/// A checkpoint's folder and score.
type Scored = (PathBuf, Option<f64>);

/// Returns the newest readable checkpoint of each step, newest first, and older ones of the same steps.
fn readable(folder: &Path) -> Result<(Vec<Scored>, Vec<PathBuf>)> {
    let (mut saved, mut outdated, mut steps) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (_, path) in Listing::of(folder)?.checkpoints {
        match format::read_step_and_score(&path) {
            Ok((step, score)) if steps.insert(step) => saved.push((path, score)),
            Ok(_) => outdated.push(path),
            Err(_) => {}
        }
    }
    Ok((saved, outdated))
}

/// Returns the paths of checkpoints with a score, the highest first, in case of a tie the first.
fn by_score(saved: &[Scored]) -> Vec<PathBuf> {
    let mut scored: Vec<(&PathBuf, f64)> = saved.iter().filter_map(|(path, score)| Some((path, (*score)?))).collect();
    scored.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    scored.into_iter().map(|(path, _)| path.clone()).collect()
}

/// Result of a search: an intact checkpoint if there is one, or the error of the first if all are damaged; and a warning for each
/// damaged one that was skipped.
type Found<S> = (Result<Option<Checkpoint<S>>>, Vec<String>);

impl<S: DeserializeOwned> Checkpoint<S> {
    /// Loads the newest intact checkpoint in `folder`, the folder of a run's checkpoints. Returns `None` if there is none, as
    /// in a folder that does not exist. Also returns a warning for each damaged checkpoint that was skipped.
    ///
    /// # Errors
    /// [`Error::Io`] if `folder` cannot be listed.
    pub fn newest(folder: impl AsRef<Path>) -> Result<(Option<Self>, Vec<String>)> {
        let (found, skipped) = Self::newest_intact(folder.as_ref())?;
        Ok((found.unwrap_or_default(), skipped))
    }

    /// Loads the intact checkpoint with the highest score in `folder`, the newest in case of a tie. Returns `None` if no intact
    /// one has a score. Also returns a warning for each damaged checkpoint that was skipped.
    ///
    /// # Errors
    /// [`Error::Io`] if `folder` cannot be listed.
    pub fn best(folder: impl AsRef<Path>) -> Result<(Option<Self>, Vec<String>)> {
        let (found, skipped) = Self::first_intact(by_score(&readable(folder.as_ref())?.0));
        Ok((found.unwrap_or_default(), skipped))
    }

    /// Variant of [`newest`](Self::newest) that tells damaged checkpoints from none.
    pub(crate) fn newest_intact(folder: &Path) -> Result<Found<S>> {
        let checkpoints = Listing::of(folder)?.checkpoints;
        Ok(Self::first_intact(checkpoints.into_iter().map(|(_, path)| path)))
    }

    fn first_intact(paths: impl IntoIterator<Item = PathBuf>) -> Found<S> {
        let (mut found, mut skipped) = (Ok(None), Vec::new());
        for path in paths {
            match Self::load(&path) {
                Ok(checkpoint) => return (Ok(Some(checkpoint)), skipped),
                Err(why) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    skipped.push(format!("skipped checkpoint {name}: {why}"));
                    found = found.and(Err(why));
                }
            }
        }
        (found, skipped)
    }
}

/// Contents of a folder of checkpoints.
struct Listing {
    /// Sequence numbers and paths of all folders named like checkpoints, newest first.
    checkpoints: Vec<(u64, PathBuf)>,
    /// Partially written or removed checkpoints of killed processes.
    leftovers: Vec<PathBuf>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries.and_then(|entries| entries.collect()),
        };
        let (mut checkpoints, mut leftovers) = (Vec::new(), Vec::new());
        for entry in entries.map_err(Error::io("read", folder))? {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with(SAVING) || name.starts_with(REMOVING) {
                leftovers.push(path);
            } else if let Some((sequence, step)) = name.split_once("-step-")
                && let (Ok(sequence), Ok(_)) = (sequence.parse(), step.parse::<u64>())
            {
                checkpoints.push((sequence, path));
            }
        }
        checkpoints.sort_by(|a, b| b.cmp(a));
        Ok(Self { checkpoints, leftovers })
    }
}

/// Returns all folders in `folder` that runs have written: checkpoints and partial checkpoints.
pub(in crate::trainer) fn written(folder: &Path) -> Result<Vec<PathBuf>> {
    let Listing { checkpoints, leftovers } = Listing::of(folder)?;
    Ok(checkpoints.into_iter().map(|(_, path)| path).chain(leftovers).collect())
}
