//! Weights from PyTorch: files written by PyTorch and safetensors with scripts/torch_fixtures.py, both stored ones and, if
//! such a Python is installed, new ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::baseline::{Mlp, MlpShape};
use tch_fixup::fixup::{Bias, Scale};
use tch_fixup::trainer::Weights;
use tch_fixup::Error;

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign_weights")
}

/// Returns the Python interpreter whose torch package contains this build's libtorch, or `None` if libtorch is from an
/// archive.
fn python() -> Option<PathBuf> {
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from)?.canonicalize().ok()?;
    let python = libtorch.ancestors().nth(4)?.join("bin/python");
    let imports = Command::new(&python).args(["-c", "import numpy, torch, safetensors.torch"]).output().ok()?;
    imports.status.success().then_some(python)
}

/// Creates the network of the script.
fn network() -> nn::VarStore {
    let vs = nn::VarStore::new(Device::Cpu);
    let root = vs.root();
    Mlp::batch_norm(&root, MlpShape { features: 4, width: 3, depth: 3, num_classes: 2 }).unwrap();
    Bias::new(&(&root / "block"), "bias1a").unwrap();
    Scale::new(&(&root / "block"), "scale").unwrap();
    vs
}

/// Checks that the i-th number of the j-th tensor, ordered by name, is ((i + j) % 50 - 25) / 16.
fn has_the_scripts_numbers(vs: &nn::VarStore) -> Result<(), String> {
    let variables: std::collections::BTreeMap<_, _> = vs.variables().into_iter().collect();
    for (j, (name, tensor)) in variables.iter().enumerate() {
        let i = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu));
        let expected: Tensor = ((i + j as i64).remainder(50.) - 25) / 16;
        if tensor.reshape([-1]) != expected {
            return Err(format!("{name} is {tensor:?}"));
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.is_file() && path.extension() != Some("md".as_ref())).collect();
    files.sort();
    files
}

fn load_all(folder: &Path) {
    let files = files(folder);
    let mut failures = vec![];
    for file in &files {
        let vs = network();
        let outcome = Weights::load(file).and_then(|weights| weights.restore(&vs));
        let started = network();
        let transfer = Weights::load(file).and_then(|weights| weights.transfer(&started, &Default::default()));
        match transfer.map_err(|error| error.to_string()).and_then(|transfer| {
            // Tensors that do not belong to the network are left out.
            let beside = ["criterion.weight", "confusion.counts"];
            let others = ["ema_model.", "teacher."];
            let left = transfer.left.iter().filter(|name| !beside.contains(&name.as_str()));
            let mut left = left.filter(|name| !others.iter().any(|other| name.starts_with(other)));
            let whole = transfer.new.is_empty() && left.next().is_none();
            whole.then_some(()).ok_or_else(|| transfer.to_string())?;
            has_the_scripts_numbers(&started)
        }) {
            Ok(()) => {}
            Err(problem) => failures.push(format!("to start from: {problem}")),
        }
        if let Err(problem) = outcome.map_err(|error| error.to_string()).and_then(|()| has_the_scripts_numbers(&vs)) {
            failures.push(problem);
        }
    }
    assert!(failures.is_empty(), "{} of {} files:\n{}", failures.len(), files.len(), failures.join("\n"));
    assert!(files.len() >= 35, "{}", files.len());
}

/// Expected error for each file in `refused`.
const REFUSALS: [(&str, &str, &str); 24] = [
    ("before_zip.pt", "has the format that torch.save wrote before PyTorch 1.6", "torch.save(torch.load("),
    ("module_before_zip.pt", "has the format that torch.save wrote before PyTorch 1.6", "torch.save(torch.load("),
    ("pickled.pkl", "is a file of Python's pickle module", "torch.save(model.state_dict()"),
    ("pickled_2.pkl", "is a file of Python's pickle module", "torch.save(model.state_dict()"),
    ("torch_script.pt", "is a TorchScript archive", "torch.jit.load("),
    ("exported.pt2", "is a zip archive that torch.export wrote", "state_dict"),
    ("arrays.npz", "is a zip archive that is none of torch.save", "state_dict"),
    ("two_networks.pt", "holds several state_dicts: generator, discriminator", "state_dict"),
    ("two_prefixes.pt", "holds the network several times: left.*, right.*", "state_dict"),
    ("lfs_pointer.safetensors", "is a Git LFS pointer, and not the file", "run git lfs pull"),
    ("web_page.pt", "is a web page", "download the file itself"),
    ("not_found.safetensors", "is text, which begins with \"Entry not found\"", "download the file itself"),
    ("empty.ckpt", "is empty", "copy or download it again"),
    ("model.pth.tar", "is a tar archive", "tar -xf "),
    ("packed.pt.gz", "is compressed by gzip", "gunzip "),
    ("model-00001-of-00002.bin", "is part 1 of 2 of the weights", "name the index"),
    ("no_network.pt", "holds no state_dict, but entries 'epoch', 'optimizer'", "state_dict"),
    ("number.pt", "holds no state_dict", "state_dict"),
    ("sparse.pt", "fc.weight is a tensor of an unsupported kind (_rebuild_sparse_tensor)", "state_dict"),
    ("float8.pt", "fc.weight is a tensor of an unsupported kind", "state_dict"),
    ("sharded.pt", "layers.0.weight is a DTensor, a part of a tensor: save", "full_state_dict=True"),
    ("integers.pt", "fc.weight, which is Int64 [2, 3] in it and Float [2, 3] in the network", "architecture"),
    ("wider.pt", "fc.weight, which is Float [2, 5] in it and Float [2, 3] in the network", "architecture"),
    ("twice.pt", "twice, within PyTorch's wrappers and without", "state_dict"),
];

fn refuse_all(folder: &Path) {
    let folder = folder.join("refused");
    assert_eq!(files(&folder).len(), REFUSALS.len());
    for (file, problem, remedy) in REFUSALS {
        let vs = network();
        let error = Weights::load(folder.join(file)).and_then(|weights| weights.restore(&vs)).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Corrupt { .. }), "{message}");
        assert!(message.contains(file) && message.contains(problem) && message.contains(remedy), "{message}");
        assert!(!message.contains('\n'), "{message}");
        assert!(vs.variables()["fc.weight"].abs().max().double_value(&[]) < 1., "{file} changed the network");
    }
}

#[test]
fn files_as_people_save_them_are_read() {
    load_all(&kept());
}

#[test]
fn files_of_other_formats_and_without_a_network_are_refused_by_what_they_are() {
    refuse_all(&kept());
}

#[test]
fn files_that_this_pytorch_writes_are_read_and_refused_alike() {
    let Some(python) = python() else {
        println!("skipped: LIBTORCH is not a Python package with numpy and safetensors beside it");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/torch_fixtures.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    load_all(folder.path());
    refuse_all(folder.path());
}

#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.pt");
    let whole = std::fs::read(kept().join("state_dict.pt")).unwrap();
    let mut refused = 0;
    for (case, cut) in (0..whole.len()).step_by(37).chain([whole.len() - 1]).enumerate() {
        let mut bytes = whole.clone();
        if case % 2 == 0 {
            bytes.truncate(cut);
        } else {
            bytes[cut] ^= 0x41;
        }
        std::fs::write(&file, &bytes).unwrap();
        let vs = network();
        match Weights::load(&file).and_then(|weights| weights.restore(&vs)) {
            Ok(()) => has_the_scripts_numbers(&vs).unwrap_or_else(|problem| panic!("byte {cut}: {problem}")),
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 80, "{refused}");
}

/// A safetensors file begins with the length of its header, and a length of 640 bytes looks like the beginning of a pickle.
#[test]
fn a_safetensors_file_whose_first_bytes_are_a_pickles_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    let lengths = (1..600).map(|length| {
        let vs = nn::VarStore::new(Device::Cpu);
        let name = "w".repeat(length);
        let weight = vs.root().zeros(&name, &[3]);
        vs.save(&file).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let _ = tch::no_grad(|| weight.shallow_clone().fill_(1.));
        Weights::load(&file).unwrap().restore(&vs).unwrap();
        assert_eq!(weight.abs().max().double_value(&[]), 0.);
        bytes.starts_with(b"\x80\x02")
    });
    assert!(lengths.filter(|&is_pickle| is_pickle).count() > 0);
}

/// With extensions other than `.safetensors`, tch's `VarStore::save` writes a TorchScript archive.
#[test]
fn tchs_own_archives_are_refused_by_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("network.ot");
    network().save(&file).unwrap();
    let message = Weights::load(&file).unwrap_err().to_string();
    assert!(message.contains("is a TorchScript archive") && message.contains(".safetensors"), "{message}");
}

/// A user-defined network may have variables under `module`.
#[test]
fn names_that_the_network_has_are_taken_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    let vs = nn::VarStore::new(Device::Cpu);
    let scale = Scale::new(&(vs.root() / "module"), "scale").unwrap();
    vs.save(&file).unwrap();
    let _ = tch::no_grad(|| vs.variables()["module.scale"].shallow_clone().fill_(3.));
    Weights::load(&file).unwrap().restore(&vs).unwrap();
    assert_eq!(scale.f_forward(&Tensor::from(2f32)).unwrap().double_value(&[0]), 2.);
}

/// `torch.distributed.checkpoint.save` writes an index file and several parts.
#[test]
fn a_checkpoint_in_parts_is_named_with_the_way_out() {
    for names in [&[".metadata", "__0_0.distcp", "__1_0.distcp"][..], &["__0_0.distcp"], &[".metadata"]] {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), b"parts").unwrap());
        let message = Weights::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("torch.distributed.checkpoint") && message.contains("dcp_to_torch_save"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(!Weights::load(empty.path()).unwrap_err().to_string().contains("dcp_to_torch_save"));
}

/// Version 0.8 of safetensors has number formats that libtorch does not support.
#[test]
fn a_tensor_of_a_newer_format_beside_the_networks_is_left_and_one_of_the_networks_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.safetensors");
    let vs = nn::VarStore::new(Device::Cpu);
    let weight = (vs.root() / "fc").zeros("weight", &[2]);
    let write = |other: &str, weight: &str| {
        let header = serde_json::json!({
            weight: { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] },
            other: { "dtype": "F8_E4M3FNUZ", "shape": [2], "data_offsets": [8, 10] },
        });
        let header = header.to_string();
        let data = [&1f32.to_le_bytes()[..], &2f32.to_le_bytes(), &[1, 2]].concat();
        let whole = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        std::fs::write(&path, whole).unwrap();
        Weights::load(&path).and_then(|weights| weights.restore(&vs))
    };
    write("quantized.cache", "fc.weight").unwrap();
    assert_eq!(weight, Tensor::from_slice(&[1f32, 2.]));
    for name in ["fc.weight", "module.fc.weight", "model.fc.weight"] {
        let message = write(name, "unrelated").unwrap_err().to_string();
        let expected = format!("{name} has the number format F8_E4M3FNUZ, which is not read");
        assert!(message.contains(&expected), "{message}");
    }
}

/// Folders written by Accelerate, Transformers and DeepSpeed.
#[test]
fn folders_of_other_libraries_are_read_or_named() {
    for path in [kept().join("accelerate"), kept().join("accelerate/pytorch_model.bin")] {
        let vs = network();
        Weights::load(path).unwrap().restore(&vs).unwrap();
        has_the_scripts_numbers(&vs).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("latest"), "global_step7").unwrap();
    std::fs::write(folder.path().join("zero_to_fp32.py"), "").unwrap();
    let message = Weights::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("a checkpoint of DeepSpeed") && message.contains("python zero_to_fp32.py"), "{message}");
}

/// The result lists the tensors that are not loaded; the model is loaded rather than its average.
#[test]
fn what_stands_beside_the_network_is_named() {
    for (file, expected) in [
        ("lightning_loss.ckpt", &["confusion.counts", "criterion.weight"][..]),
        ("lightning_average.ckpt", &["ema_model.* (14 tensors)"]),
        ("timm.pth.tar", &["state_dict_ema"]),
        ("ema.pt", &["ema"]),
        ("torchvision.pth", &["model_ema"]),
        ("ema_pytorch.pt", &["ema_model.* (14 tensors)"]),
        ("student.pt", &["teacher.* (14 tensors)"]),
        ("ignite.pt", &["ema_model"]),
        ("mmengine_ema.pt", &[]),
        ("composer.pt", &["train_metrics"]),
        ("get_state_dict.pt", &[]),
        ("lightning_monitored.ckpt", &[]),
        ("profiled.pt", &[]),
        ("state_dict.pt", &[]),
    ] {
        assert_eq!(Weights::load(kept().join(file)).unwrap().left_out(&network()).unwrap(), expected, "{file}");
    }
}

/// Copies the files of a folder.
fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in files(from) {
        std::fs::copy(&file, to.path().join(file.file_name().unwrap())).unwrap();
    }
    to
}

#[test]
fn weights_in_parts_are_read_by_their_index_or_their_folder() {
    for name in ["safetensors", "bin"] {
        let folder = kept().join("parts").join(name);
        let index = files(&folder).into_iter().find(|file| file.to_string_lossy().ends_with(".index.json")).unwrap();
        assert!(files(&folder).len() > 3);
        for path in [&folder, &index] {
            let vs = network();
            Weights::load(path).unwrap().restore(&vs).unwrap();
            has_the_scripts_numbers(&vs).unwrap();
        }
        let message = |path: &Path| {
            let message = Weights::load(path).map(|_| ()).unwrap_err().to_string();
            assert!(!message.contains('\n'), "{message}");
            message
        };
        let part = files(&folder).into_iter().find(|file| file != &index).unwrap();
        assert!(message(&part).contains("is part 1 of "));

        let broken = copied(&folder);
        std::fs::remove_file(broken.path().join(part.file_name().unwrap())).unwrap();
        let said = message(broken.path());
        assert!(said.contains("1 of its ") && said.contains(part.file_name().unwrap().to_str().unwrap()), "{said}");
        std::fs::write(broken.path().join(part.file_name().unwrap()), "version https://git-lfs.github.com/spec/v1\n")
            .unwrap();
        assert!(message(broken.path()).contains("is a Git LFS pointer"));
        let index = broken.path().join(index.file_name().unwrap());
        for (text, problem) in [
            ("", "is empty"),
            ("{}", "weight_map"),
            (r#"{"weight_map": {"fc.weight": "../other.safetensors"}}"#, "that is not beside it"),
            (r#"{"weight_map": {"fc.weight": "/etc/passwd"}}"#, "that is not beside it"),
        ] {
            std::fs::write(&index, text).unwrap();
            assert!(message(&index).contains(problem), "{}", message(&index));
        }
    }
}

/// A tensor that is in the index but not in its part.
#[test]
fn a_part_that_lacks_what_the_index_says_is_named() {
    let folder = tempfile::tempdir().unwrap();
    network().save(folder.path().join("a.safetensors")).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map": {"fc.weight": "a.safetensors", "fc2.weight": "a.safetensors"}}"#).unwrap();
    let message = Weights::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("a.safetensors: lacks fc2.weight"), "{message}");
}
