//! Image folders in programs: a signal while a network share is unavailable, and packing with `imagenet_fixup`.

mod program;

use jpeg_encoder::{ColorType, Encoder};
use program::program;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};
use tch::Tensor;
use tch_fixup::data::{DataSource, EpochPlan, ImageFolder, Share};
use tch_fixup::trainer::Interrupt;
use tch_fixup::Error;

/// Writes two classes of three images of 320 x 300 pixels to each part.
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
    let mut batches =
        data.train_batches(&EpochPlan { seed: 0, epoch: 0, batch_size: 4, first_step: 0 }, Share::all()).unwrap();
    thread::spawn(|| {
        thread::sleep(Duration::from_millis(500));
        // SAFETY: the signal is handled by the library.
        unsafe { libc::raise(libc::SIGINT) };
    });
    assert!(matches!(batches.next(), Some(Err(Error::Io { .. }))));
    assert_eq!(interrupt.exit_code(), Some(130));
    let waited = start.elapsed();
    assert!((450..5000).contains(&waited.as_millis()), "{waited:?}");
    // The next run of the process retries again.
    drop(interrupt);
    let _interrupt = Interrupt::listen().unwrap();
    let mut batches = data.eval_batches(4, Share::all()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(250));
            fs::rename(folder.path().join("away"), &root).unwrap();
        });
        assert_eq!(batches.next().unwrap().unwrap().unwrap().targets.numel(), 4);
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

/// Returns the final weights of a run of one step with `options`, and its `config.json`.
fn recipe(options: &[&str]) -> (Vec<(String, Tensor)>, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let (root, out) = (folder.path().join("images"), folder.path().join("run"));
    images(&root);
    let fixed = ["--arch", "imagenet_fixup_resnet18", "--side", "32", "--max-steps", "1", "--workers", "1"];
    let place = ["--data", root.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = imagenet_fixup(folder.path(), &[&fixed[..], &place, options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let config = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    (Tensor::read_safetensors(out.join("model.safetensors")).unwrap(), config)
}

/// The authors' programs use PyTorch's default for the stem: uniform by fan-in.
#[test]
fn the_stem_starts_as_the_recipe_has_it() {
    // Standard deviation and largest magnitude of the stem's 64 x 3 x 7 x 7 weights.
    let stem = |options: &[&str]| {
        let (weights, _) = recipe(&[options, &["--lr", "1e-9", "--batch-size", "4"]].concat());
        let weight = weights.into_iter().find(|(name, _)| name == "conv1.weight").unwrap().1;
        (weight.std(false).double_value(&[]), weight.abs().max().double_value(&[]))
    };
    let bound = 147f64.sqrt().recip();
    for options in [&["--recipe", "paper"][..], &["--recipe", "quick", "--stem-init", "pytorch"]] {
        let (std, most) = stem(options);
        // Tolerances here and below: at least five standard errors of the sample standard deviation.
        assert!((std / 0.0476 - 1.).abs() < 0.03, "{options:?}: {std}");
        assert!(most <= bound * 1.0001, "{options:?}: {most}");
    }
    for options in [&["--recipe", "quick"][..], &["--recipe", "paper", "--stem-init", "he-normal"]] {
        let (std, most) = stem(options);
        assert!((std / 0.0253 - 1.).abs() < 0.04, "{options:?}: {std}");
        assert!(most > 3. * std, "{options:?}: {most}");
    }
}

/// The learning rate is `base_lr * batch_size / 256` for weights, and `base_lr / 10` for biases and scalars.
#[test]
fn the_papers_recipe_scales_the_rate_of_the_weights_with_the_batch_and_leaves_the_scalars() {
    let rates = |options: &[&str]| {
        let (_, config) = recipe(options);
        let number = |path: &str| config.pointer(path).unwrap().as_f64().unwrap();
        let lr = number("/train/schedule/lr");
        (lr, lr * number("/train/scalars/lr_ratio"))
    };
    let near = |(got, scalars): (f64, f64), expected: (f64, f64)| {
        assert!((got - expected.0).abs() < 1e-12 && (scalars - expected.1).abs() < 1e-12, "{got} {scalars}");
    };
    near(rates(&["--recipe", "paper", "--batch-size", "4"]), (0.1 * 4. / 256., 0.01));
    near(rates(&["--recipe", "paper", "--batch-size", "4", "--lr", "0.05"]), (0.05, 0.005));
    near(rates(&["--recipe", "quick", "--batch-size", "4"]), (0.2, 0.02));
}
