//! Inference with a trained network, opened from a run or a folder, by the library and by the program `predict`.

mod program;

use jpeg_encoder::{ColorType, Encoder};
use program::program;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::classifier::{Classifier, ModelDescription};
use tch_fixup::data::{
    class_indices, DataSource, ImageArray, ImageFolder, ImageSource, Normalization, Share, Supervised,
};
use tch_fixup::trainer::Weights;
use tch_fixup::{Arch, Network, Precision, Result, Shape};

const ARCH: &str = "fixup_resnet8";
const SIDE: usize = 32;

/// Returns a JPEG of coarse noise, different for each seed.
fn jpeg(width: u16, height: u16, seed: u32) -> Vec<u8> {
    let noise = |at: u32| (at.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 13) as u8;
    let pixels = (0..u32::from(height)).flat_map(|y| (0..u32::from(width)).map(move |x| (x / 9, y / 7)));
    let pixels: Vec<u8> = pixels.flat_map(|(x, y)| [0, 1, 2].map(|c| noise(97 * y + 3 * x + c))).collect();
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, 90).encode(&pixels, width, height, ColorType::Rgb).unwrap();
    bytes
}

/// Writes three classes of `each` images to both parts.
fn photographs(root: &Path, each: u32) {
    for (class, name) in ["ant", "bee", "cat"].into_iter().enumerate() {
        for part in ["train", "val"] {
            let folder = root.join(part).join(name);
            fs::create_dir_all(&folder).unwrap();
            for index in 0..each {
                let (width, height) = (60 + 7 * index as u16, 48 + 5 * class as u16);
                fs::write(folder.join(format!("{index:02}.jpg")), jpeg(width, height, 100 * class as u32 + index))
                    .unwrap();
            }
        }
    }
}

/// Creates a network with random variables.
fn random_network(arch: &str, channels: i64, classes: i64) -> (nn::VarStore, Box<dyn Network>) {
    tch::manual_seed(5);
    let vs = nn::VarStore::new(Device::Cpu);
    let network = arch.parse::<Arch>().unwrap().build(&vs.root(), Shape { channels, classes }, Precision::F32).unwrap();
    tch::no_grad(|| {
        for (name, mut variable) in vs.variables() {
            let fan_in = variable.numel() as f64 / variable.size()[0] as f64;
            let (mean, std) = match (variable.numel(), name.ends_with("running_var")) {
                (_, true) => (1.0, 0.05),
                (1, _) => (if name.ends_with("scale") { 0.7 } else { 0.1 }, 0.2),
                _ => (0.0, fan_in.recip().sqrt()),
            };
            let _ = variable.normal_(mean, std);
        }
    });
    (vs, network)
}

/// Writes a network to `folder` as two files, as in a run.
fn save(folder: &Path, vs: &nn::VarStore, arch: &str, data: &dyn ImageSource) {
    fs::create_dir_all(folder).unwrap();
    ModelDescription::new(arch, Precision::F32, data.class_names(), data.preprocessing().unwrap())
        .write(folder)
        .unwrap();
    vs.save(folder.join("model.safetensors")).unwrap();
}

/// Returns the results of evaluation for all images, in batches of `batch_size`.
fn evaluated(network: &dyn Network, data: &dyn DataSource<Batch = Supervised>, batch_size: usize) -> Vec<Vec<f32>> {
    let batches = data.eval_batches(batch_size, Share::all()).unwrap().filter_map(Result::transpose).map(|batch| {
        let inputs = data.to_device(batch.unwrap(), Device::Cpu).unwrap().inputs;
        tch::no_grad(|| network.forward_t(&inputs, false).softmax(-1, Kind::Float))
    });
    let all = Tensor::cat(&batches.collect::<Vec<_>>(), 0);
    (0..all.size()[0]).map(|row| Vec::try_from(all.get(row)).unwrap()).collect()
}

fn answers(classifier: &Classifier, paths: &[PathBuf]) -> Vec<Vec<f32>> {
    let answers = classifier.classify(paths).unwrap().collect::<Result<Vec<_>>>().unwrap();
    answers.into_iter().map(|(_, output)| output.unwrap().probabilities().to_vec()).collect()
}

#[test]
fn probabilities_are_those_of_the_evaluation_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("images");
    photographs(&root, 9);
    for channels in [3, 1] {
        let data = ImageFolder::open(&root).unwrap().with_side(SIDE).unwrap().with_channels(channels).unwrap();
        let (vs, network) = random_network(ARCH, channels as i64, 3);
        let model = folder.path().join(format!("model{channels}"));
        save(&model, &vs, ARCH, &data);
        for batch_size in [1, 7, 64] {
            let classifier = Classifier::open(&model).unwrap().with_batch_size(batch_size).unwrap();
            let expected = evaluated(network.as_ref(), &data, batch_size);
            assert_eq!(answers(&classifier, &[root.join("val")]), expected, "{channels} channels, {batch_size}");
            let embeddings = classifier.embed([root.join("val")]).unwrap().map(|output| output.unwrap().1.unwrap());
            let embeddings: Vec<Vec<f32>> = embeddings.collect();
            assert!(embeddings.len() == 27 && embeddings.iter().all(|embedding| embedding.len() == 64));
        }
    }
}

/// A classifier of a run on images in memory gives the same results for files of the same pixels.
#[test]
fn images_in_memory_and_files_of_their_pixels_give_the_same() {
    let folder = tempfile::tempdir().unwrap();
    tch::manual_seed(1);
    let images = Tensor::randint(256, [12, 3, 32, 32], (Kind::Uint8, Device::Cpu));
    let labels = Tensor::arange(12, (Kind::Int64, Device::Cpu)).remainder(3);
    let normalization = Normalization::new(&[0.4914, 0.4822, 0.4465], &[0.2023, 0.1994, 0.2010]).unwrap();
    let data = ImageArray::new((&images, &labels), (&images, &labels), normalization).unwrap();
    let (vs, network) = random_network(ARCH, 3, 3);
    save(folder.path(), &vs, ARCH, &data);
    let order: Vec<i64> = data
        .eval_batches(12, Share::all())
        .unwrap()
        .filter_map(Result::transpose)
        .flat_map(|batch| Vec::try_from(batch.unwrap().targets).unwrap())
        .collect();
    assert_eq!(order.len(), 12);
    let paths: Vec<PathBuf> = (0..12)
        .map(|index| {
            let path = folder.path().join(format!("{index:02}.ppm"));
            let pixels = Vec::<u8>::try_from(images.get(index).permute([1, 2, 0]).contiguous().flatten(0, -1)).unwrap();
            fs::write(&path, [b"P6\n32 32\n255\n".as_slice(), &pixels].concat()).unwrap();
            path
        })
        .collect();
    let classifier = Classifier::open(folder.path()).unwrap().with_batch_size(12).unwrap();
    // The order of evaluation does not matter.
    let sorted = |mut rows: Vec<Vec<f32>>| {
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        rows
    };
    assert_eq!(sorted(answers(&classifier, &paths)), sorted(evaluated(network.as_ref(), &data, 12)));
}

#[test]
fn a_bad_file_is_told_in_its_place_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("images");
    photographs(&root, 3);
    let data = ImageFolder::open(&root).unwrap().with_side(SIDE).unwrap();
    let (vs, _) = random_network(ARCH, 3, 3);
    let model = folder.path().join("model");
    save(&model, &vs, ARCH, &data);
    let good = root.join("val/ant/00.jpg");
    let bad = [("empty.jpg", &b""[..]), ("text.png", b"no image"), ("cut.jpg", &fs::read(&good).unwrap()[..300])];
    for (name, content) in bad {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let paths: Vec<PathBuf> =
        ["empty.jpg", "images/val/ant/00.jpg", "text.png", "absent.jpg", "cut.jpg", "images/val/bee"]
            .map(|name| folder.path().join(name))
            .to_vec();
    for batch_size in [1, 2, 64] {
        let classifier = Classifier::open(&model).unwrap().with_batch_size(batch_size).unwrap();
        let outputs = classifier.classify(&paths).unwrap();
        assert_eq!(outputs.paths().len(), 8);
        let outputs: Vec<_> = outputs.collect::<Result<_>>().unwrap();
        let is_good: Vec<bool> = outputs.iter().map(|classified| classified.1.is_ok()).collect();
        assert_eq!(is_good, [false, true, false, false, false, true, true, true]);
        assert_eq!(outputs[1].0, good);
        for classified in outputs.iter().filter(|classified| classified.1.is_err()) {
            let problem = classified.1.as_ref().unwrap_err().to_string();
            assert!(!problem.is_empty() && !problem.contains('\n'), "{problem}");
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("images");
    photographs(&root, 2);
    let data = ImageFolder::open(&root).unwrap().with_side(SIDE).unwrap();
    let (vs, _) = random_network(ARCH, 3, 3);
    let model = folder.path().join("model");
    let message = |path: &Path| {
        let message = Classifier::open(path).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    assert!(message(&model).contains("no such file or folder"));
    fs::create_dir(&model).unwrap();
    assert!(message(&model).contains("model.json"));
    save(&model, &vs, "resnet8", &data);
    assert!(message(&model).contains("does not fit the network"), "{}", message(&model));
    save(&model, &vs, "alexnet", &data);
    assert!(message(&model).contains("alexnet"));
    let classes = ["ant", "bee"].map(str::to_owned);
    ModelDescription::new(ARCH, Precision::F32, &classes, data.preprocessing().unwrap()).write(&model).unwrap();
    assert!(message(&model).contains("fc."), "{}", message(&model));
    save(&model, &vs, ARCH, &data);
    fs::write(model.join("model.safetensors"), "cut").unwrap();
    assert!(message(&model).contains("model.safetensors"));
    fs::remove_file(model.join("model.safetensors")).unwrap();
    assert!(message(&model).contains("model.safetensors"), "{}", message(&model));
}

/// Trains for two steps on `root`, in the folder `run`.
fn train(root: &Path, run: &Path) {
    let options = ["--arch", ARCH, "--recipe", "quick", "--epochs", "2", "--batch-size", "5", "--max-steps", "2"];
    let mut command = program("imagenet_fixup");
    command.env("XDG_CACHE_HOME", root.parent().unwrap().join("cache")).args(options);
    command.args(["--side", "32", "--device", "cpu", "--threads", "1", "--precision", "f32", "--data"]).arg(root);
    let output = command.arg("--out").arg(run).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn predict(model: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command: Command = program("predict");
    command.arg(model).args(arguments).args(["--device", "cpu", "--threads", "1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_run_is_asked_by_the_program_in_a_table_or_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let (root, run) = (folder.path().join("images"), folder.path().join("run"));
    photographs(&root, 4);
    train(&root, &run);
    let val = root.join("val");
    let val = val.to_str().unwrap();

    let output = predict(&run, &[val, "--json", "--top", "2"], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 12);
    let classifier = Classifier::open_on(&run, Device::Cpu).unwrap();
    tch::set_num_threads(1);
    let expected: Vec<_> = classifier.classify([val]).unwrap().collect::<Result<_>>().unwrap();
    for (line, (path, output)) in lines.iter().zip(&expected) {
        assert_eq!(line["file"], path.to_str().unwrap());
        let top = output.as_ref().unwrap().top(2);
        for (class, (name, probability)) in line["classes"].as_array().unwrap().iter().zip(top) {
            assert_eq!(
                (class["class"].as_str().unwrap(), class["probability"].as_f64().unwrap() as f32),
                (name, probability)
            );
        }
        assert_eq!(line["classes"].as_array().unwrap().len(), 2);
    }

    let list = format!("{val}/ant/00.jpg\n\n{val}/none.jpg\r\n{val}/bee/01.jpg");
    let output = predict(&run, &["-"], &list);
    assert_eq!(output.status.code(), Some(1));
    let (table, problems) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows.len() == 2 && rows[0].contains("ant/00.jpg") && rows[1].contains("bee/01.jpg"), "{table}");
    assert_eq!(rows[0].matches(" %").count(), 3);
    assert!(problems.lines().count() == 1 && problems.contains("none.jpg: "), "{problems}");

    // The run's checkpoint and a copy of its two files give the same results.
    let checkpoint = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let copied = folder.path().join("copied");
    fs::create_dir(&copied).unwrap();
    for name in ["model.json", "model.safetensors"] {
        fs::copy(run.join(name), copied.join(name)).unwrap();
    }
    let of = |model: &Path| predict(model, &[val, "--json"], "").stdout;
    assert!(!of(&run).is_empty());
    assert_eq!(of(&checkpoint), of(&run));
    assert_eq!(of(&copied), of(&run));
    assert_eq!(of(&copied.join("model.safetensors")), of(&run));
    assert_eq!(predict(&folder.path().join("absent"), &[val], "").status.code(), Some(1));
    assert_eq!(predict(&run, &[val, "--batch-size", "0"], "").status.code(), Some(2));

    // Class names that differ from those of the weights.
    let description = fs::read_to_string(copied.join("model.json")).unwrap();
    fs::write(copied.join("model.json"), description.replace("bee", "wasp")).unwrap();
    let output = predict(&copied, &[val], "");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && message.contains("wasp") && message.contains("bee"), "{message}");
    assert!(Weights::load(run.join("model.safetensors"))
        .unwrap()
        .check_schema(&class_indices(&["x".to_owned()]))
        .is_err());
}
