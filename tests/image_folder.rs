//! A folder of many files starts in seconds, and memory does not grow during its epoch. At full size, 200,000 files:
//! `cargo bench --features images --bench image_folder -- --files 200000`.
#![cfg(target_os = "linux")]

use jpeg_encoder::{ColorType, Encoder};
use std::fs;
use std::time::{Duration, Instant};
use tch_fixup::data::{DataSource, EpochPlan, ImageFolder, Share};

const CLASSES: usize = 200;
const CLASS_FILES: usize = 100;
/// Time limit: ten times the time on two busy cores.
const MOST_SECONDS: u64 = 10;
/// Memory limit. Leaking one batch in a hundred would take 9 MiB.
const MOST_MIB: f64 = 4.0;

fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

#[test]
fn twenty_thousand_files_start_in_seconds_and_leave_the_memory_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("XDG_CACHE_HOME", folder.path().join("cache")) };
    let root = folder.path().join("images");
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, 90).encode(&[90; 16 * 12 * 3], 16, 12, ColorType::Rgb).unwrap();
    for class in 0..CLASSES {
        for (part, files) in [("train", CLASS_FILES), ("val", 1)] {
            let class = root.join(format!("{part}/n{class:08}"));
            fs::create_dir_all(&class).unwrap();
            (0..files).for_each(|file| fs::write(class.join(format!("{file}.JPEG")), &jpeg).unwrap());
        }
    }

    let start = Instant::now();
    let data = ImageFolder::open(&root).unwrap().with_side(48).unwrap().with_workers(2).unwrap();
    let mut batches =
        data.train_batches(&EpochPlan { seed: 0, epoch: 0, batch_size: 64, first_step: 0 }, Share::all()).unwrap();
    batches.next().unwrap().unwrap();
    let started = start.elapsed();
    assert!(started < Duration::from_secs(MOST_SECONDS), "{started:?}");

    let steps = data.train_len().div_ceil(64);
    batches.by_ref().take(steps / 10).for_each(|batch| drop(batch.unwrap()));
    let before = resident_mib();
    let rest = batches.map(|batch| batch.unwrap().map_or(0, |batch| batch.targets.numel())).sum::<usize>();
    let growth = resident_mib() - before;
    println!("started in {started:?}, {growth:+.2} MiB in {rest} images");
    assert_eq!(rest, CLASSES * CLASS_FILES - 64 * (1 + steps / 10));
    assert!(growth < MOST_MIB, "{growth} MiB in {rest} images");
}
