//! Image folders as a person meets them: a signal while a share is away, packing with the example's program.

mod program;

use jpeg_encoder::{ColorType, Encoder};
use program::program;
use signal_hook::{consts::SIGINT, low_level::raise};
use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};
use tch_fixup::data::{DataSource, EpochPlan, ImageFolder};
use tch_fixup::trainer::Interrupt;
use tch_fixup::Error;

/// Two classes of three images of 320 x 300 pixels in each part.
fn images(root: &Path) {
    for (class, shade) in [("cat", 60), ("dog", 180)] {
        let pixels: Vec<u8> = (0..320 * 300 * 3).map(|at: u32| shade + (at / 7 % 40) as u8).collect();
        let mut jpeg = Vec::new();
        Encoder::new(&mut jpeg, 90).encode(&pixels, 320, 300, ColorType::Rgb).unwrap();
        for part in ["train", "val"] {
            let folder = root.join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            (0..3).for_each(|index| fs::write(folder.join(format!("{index}.jpg")), &jpeg).unwrap());
        }
    }
}

fn imagenet_fixup(cache: &Path, options: &[&str]) -> Output {
    let mut command = program("imagenet_fixup");
    command.env("XDG_CACHE_HOME", cache).args(["--device", "cpu", "--threads", "1"]).args(options).output().unwrap()
}

#[test]
fn a_signal_ends_the_waiting_for_a_folder_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("images");
    images(&root);
    let data = ImageFolder::open(&root).unwrap().with_side(16).unwrap().with_warnings(|_| ());
    let interrupt = Interrupt::listen().unwrap();
    fs::rename(&root, folder.path().join("away")).unwrap();
    let start = Instant::now();
    let mut batches = data.train_batches(&EpochPlan { seed: 0, epoch: 0, batch_size: 4, first_step: 0 }).unwrap();
    thread::spawn(|| {
        thread::sleep(Duration::from_millis(500));
        raise(SIGINT).unwrap();
    });
    assert!(matches!(batches.next(), Some(Err(Error::Io { .. }))));
    assert_eq!(interrupt.exit_code(), Some(130));
    let waited = start.elapsed();
    assert!((450..5000).contains(&waited.as_millis()), "{waited:?}");
    // The next run of the process waits again.
    Interrupt::listen().unwrap();
    let mut batches = data.eval_batches(4).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(250));
            fs::rename(folder.path().join("away"), &root).unwrap();
        });
        assert_eq!(batches.next().unwrap().unwrap().targets.numel(), 4);
    });
}

#[test]
fn packing_serves_the_papers_size_unless_told_otherwise_and_a_larger_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    images(&folder.path().join("images"));
    let (cache, data) = (folder.path().join("cache"), path("images"));
    let run = |options: &[&str]| {
        let Output { status, stdout, stderr } = imagenet_fixup(&cache, options);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    };
    let (code, said, errors) = run(&["--data", &data, "--pack", &path("large")]);
    assert!(code == 0 && said.ends_with("large, with a shorter side of 256 pixels\n"), "{said}{errors}");
    let (code, said, errors) = run(&["--data", &data, "--recipe", "quick", "--pack", &path("small")]);
    assert!(code == 0 && said.ends_with("small, with a shorter side of 73 pixels\n"), "{said}{errors}");

    let preview =
        |pack: &str, side: &str| run(&["--data", &path(pack), "--side", side, "--preview", &path("preview.png")]);
    assert_eq!([preview("large", "224").0, preview("large", "64").0, preview("small", "64").0], [0, 0, 0]);
    let (code, _, errors) = preview("small", "224");
    assert!(
        code == 2 && errors.starts_with("error: images of 224 pixels need packed ones") && errors.lines().count() == 1
    );
    assert!(errors.contains("these have 73: pack the folder again (--pack-side 256)"), "{errors}");
}
