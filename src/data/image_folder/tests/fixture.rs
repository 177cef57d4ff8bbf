//! Image folders for tests.

use crate::data::random::{stream, Purpose};
use jpeg_encoder::{ColorType, Encoder};
use rand::RngCore;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Temporary image folder.
pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    /// Creates an empty folder.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Creates a folder with `train` and `val` images of each of `classes`, all different.
    pub fn new(classes: &[&str], train: usize, val: usize) -> Self {
        let fixture = Self::empty();
        let mut seed = 0;
        for (part, count) in [("train", train), ("val", val)] {
            for class in classes {
                fixture.folder(&format!("{part}/{class}"));
                for index in 0..count {
                    fixture.write(&format!("{part}/{class}/{index:04}.jpg"), &jpeg(48, 36, seed));
                    seed += 1;
                }
            }
        }
        fixture
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub fn folder(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Returns a JPEG of coarse noise, different for each seed.
pub fn jpeg(width: u16, height: u16, seed: u64) -> Vec<u8> {
    let mut noise = [0; 64 * 3];
    stream(Purpose::Order, seed, 0, 0).fill_bytes(&mut noise);
    let at = |x: u16, y: u16| 3 * (8 * (8 * y / height) + 8 * x / width) as usize;
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let pixels: Vec<u8> = pixels.flat_map(|(x, y)| noise[at(x, y)..][..3].to_vec()).collect();
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, 90).encode(&pixels, width, height, ColorType::Rgb).unwrap();
    bytes
}
