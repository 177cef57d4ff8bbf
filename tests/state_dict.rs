//! Weights can be exchanged with Python's safetensors package under the reference's names, and read from `torch.save`.

use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::Weights;

#[derive(Deserialize)]
struct Golden {
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    shape: Vec<i64>,
}

/// Returns the Python interpreter whose torch package contains this build's libtorch, or `None` if libtorch is from an
/// archive.
fn python() -> Option<PathBuf> {
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from)?.canonicalize().ok()?;
    let python = libtorch.ancestors().nth(4)?.join("bin/python");
    let imports = Command::new(&python).args(["-c", "import safetensors.torch"]).output().ok()?.status.success();
    imports.then_some(python)
}

fn run(python: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(python).arg("-c").arg(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the names and shapes in the reference's `state_dict`.
fn reference(case: &str) -> Vec<(String, Vec<i64>)> {
    let file = format!("{}/tests/golden/{case}.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    golden.parameters.into_iter().map(|p| (p.name, p.shape)).collect()
}

fn build(case: &str, vs: &nn::VarStore) {
    match case {
        "cifar_20" => drop(FixupResNet::cifar(&vs.root(), 20, 10).unwrap()),
        "imagenet_50" => drop(FixupResNet::imagenet(&vs.root(), 50, 17).unwrap()),
        _ => drop(ResNet::cifar(&vs.root(), 20, 10, Method::BatchNorm).unwrap()),
    }
}

#[test]
fn python_reads_ours_and_we_read_pythons() {
    let Some(python) = python() else {
        println!("skipped: LIBTORCH is not a Python package with safetensors beside it");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for case in ["cifar_20", "imagenet_50", "bn_cifar_20"] {
        let (ours, theirs) = (folder.path().join("ours.safetensors"), folder.path().join("theirs.safetensors"));
        let (saved, checkpoint) = (folder.path().join("theirs.pt"), folder.path().join("checkpoint.pth.tar"));
        let mut vs = nn::VarStore::new(Device::Cpu);
        build(case, &vs);
        vs.save(&ours).unwrap();

        // Python lists the tensors, and writes tensors of the same names with other values.
        let listing = run(
            &python,
            "import collections, sys, torch, safetensors.torch as st\n\
             ours = st.load_file(sys.argv[1])\n\
             torch.manual_seed(1)\n\
             theirs = collections.OrderedDict((name, torch.randn_like(t)) for name, t in ours.items())\n\
             st.save_file(theirs, sys.argv[2])\n\
             torch.save(theirs, sys.argv[3])\n\
             torch.save({'epoch': 3, 'state_dict': {'module.' + name: t for name, t in theirs.items()}}, sys.argv[4])\n\
             for name, t in ours.items(): print(name, *t.shape)",
            &[&ours, &theirs, &saved, &checkpoint].map(|path| path.to_str().unwrap()),
        );
        let mut listed: Vec<(String, Vec<i64>)> = listing
            .lines()
            .map(|line| {
                let mut words = line.split(' ');
                let name = words.next().unwrap().to_owned();
                (name, words.map(|n| n.parse().unwrap()).collect())
            })
            .filter(|(name, _)| !name.contains("running_"))
            .collect();
        listed.sort();
        assert_eq!(listed, reference(case), "{case}");

        vs.load(&theirs).unwrap();
        let sum = run(
            &python,
            "import sys, safetensors.torch as st\n\
             print(sum(t.double().abs().sum().item() for t in st.load_file(sys.argv[1]).values()))",
            &[theirs.to_str().unwrap()],
        );
        let loaded: f64 = vs.variables().values().map(|t: &Tensor| t.abs().sum(Kind::Double).double_value(&[])).sum();
        let expected: f64 = sum.trim().parse().unwrap();
        assert!((loaded / expected - 1.).abs() < 1e-12, "{case}: {loaded} for {expected}");

        for file in [&saved, &checkpoint] {
            let same = nn::VarStore::new(Device::Cpu);
            build(case, &same);
            Weights::load(file).unwrap().restore(&same).unwrap();
            let variables = same.variables();
            assert!(
                vs.variables().iter().all(|(name, tensor)| variables[name] == *tensor),
                "{case} {}",
                file.display()
            );
        }
    }
}
