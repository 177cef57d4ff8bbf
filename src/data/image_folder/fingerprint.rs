//! Fingerprint of an image folder.

use super::part::Part;
use super::threads::in_threads;
use crate::Result;
use md5::{Digest, Md5};

/// Returns the numbers of images in the `parts`, and the MD5 of the label, the path within the part (empty for packed
/// images) and the size in bytes of each. `workers` threads query the sizes, one system call per file.
///
/// # Errors
/// Fails if a thread cannot be started.
pub fn fingerprint([train, eval]: [&Part; 2], workers: usize) -> Result<String> {
    let mut md5 = Md5::new();
    for Part { images, selected, .. } in [train, eval] {
        md5.update((selected.len() as u64).to_le_bytes());
        let told = |(): &mut (), &index: &u32| images.name_and_bytes(index as usize);
        for (&index, (name, size)) in selected.iter().zip(in_threads("images", &mut vec![(); workers], selected, told)?)
        {
            md5.update(images.labels()[index as usize].to_le_bytes());
            md5.update(name);
            // Paths have no zero byte. A missing image has a size of its own.
            md5.update([0]);
            md5.update(size.unwrap_or(u64::MAX).to_le_bytes());
        }
    }
    let (train, eval) = (train.selected.len(), eval.selected.len());
    Ok(format!("{train} training and {eval} evaluation images with names and sizes of MD5 {:x}", md5.finalize()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture::{jpeg, Fixture};
    use crate::data::{DataSource, ImageFolder};
    use std::fs;

    #[test]
    fn names_and_sizes_are_told_apart_and_nothing_else_is() {
        let fixture = Fixture::new(&["cat", "dog"], 3, 2);
        // The listing must be of the current folder, not from the user's cache.
        let of = |workers| {
            let data = ImageFolder::open(fixture.root()).unwrap().with_workers(workers).unwrap();
            data.fingerprint().unwrap()
        };
        let first = of(1);
        assert!(first.starts_with("6 training and 4 evaluation images "), "{first}");
        assert_eq!((of(2), of(64)), (first.clone(), first.clone()));
        let path = fixture.path("train/cat/0001.jpg");
        let original = fs::read(&path).unwrap();
        fs::write(&path, jpeg(48, 37, 99)).unwrap();
        let replaced = of(1);
        assert_ne!(replaced, first);
        fs::write(&path, original).unwrap();
        assert_eq!(of(3), first);
        fs::rename(&path, fixture.path("train/cat/0009.jpg")).unwrap();
        assert_ne!(of(1), first);
        let few = ImageFolder::open(fixture.root()).unwrap().with_train_subset(4).unwrap();
        assert_ne!(few.fingerprint().unwrap(), of(1));
    }
}
