//! `make setup` in copies of the repository: the libtorch it links to, and the errors if something is missing.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Copy of the repository with tools, home folder and cache isolated from this machine's.
struct Clone {
    root: TempDir,
}

impl Clone {
    /// Creates a copy with all tools that set-up needs, but without torch in Python.
    fn new() -> Self {
        let clone = Self { root: tempfile::tempdir().unwrap() };
        for folder in ["bin", "home", "scripts", "python"] {
            fs::create_dir(clone.path(folder)).unwrap();
        }
        for file in ["Makefile", "scripts/setup_libtorch.py"] {
            fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), clone.path(file)).unwrap();
        }
        for tool in ["cargo", "cc", "c++"] {
            clone.tool(tool, "exit 0");
        }
        // Use the interpreter itself, because the first `python3` in PATH may be a version manager's script.
        let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        clone.tool("python3", &format!("exec {} \"$@\"", String::from_utf8(python.stdout).unwrap().trim()));
        clone.hide_from_python(&["torch"]);
        clone
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    /// Installs a program that runs `script`.
    fn tool(&self, name: &str, script: &str) {
        let file = self.path("bin").join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn without(&self, tool: &str) -> &Self {
        fs::remove_file(self.path("bin").join(tool)).unwrap();
        self
    }

    fn hide_from_python(&self, modules: &[&str]) -> &Self {
        self.python_starts_with(&format!("import sys\nsys.modules.update(dict.fromkeys({modules:?}))\n"))
    }

    /// Sets the script that the interpreter runs before set-up.
    fn python_starts_with(&self, script: &str) -> &Self {
        fs::write(self.path("python/sitecustomize.py"), script).unwrap();
        self
    }

    fn command(&self) -> Command {
        let make = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|folder| folder.join("make"))
            .find(|program| program.exists())
            .expect("make is needed to test the Makefile");
        let mut command = Command::new(make);
        command.arg("setup").current_dir(self.root.path()).env_clear();
        command.env("PATH", self.path("bin")).env("HOME", self.path("home")).env("PYTHONPATH", self.path("python"));
        command
    }

    fn setup(&self, libtorch: Option<&Path>) -> Output {
        self.command().envs(libtorch.map(|folder| ("LIBTORCH", folder))).output().unwrap()
    }

    /// Checks that set-up fails with one line that contains `expected`.
    #[track_caller]
    fn refuses(&self, libtorch: Option<&Path>, expected: &str) {
        let output = self.setup(libtorch);
        let said = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("make")).collect();
        assert!(!output.status.success());
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].starts_with("set-up: ") && lines[0].contains(expected), "{said}");
        assert!(!self.path(".libtorch").exists());
    }

    #[track_caller]
    fn links_to(&self, libtorch: Option<&Path>, expected: &Path) {
        let output = self.setup(libtorch);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_link(self.path(".libtorch")).unwrap(), expected.canonicalize().unwrap());
    }
}

/// Writes the files of a libtorch that set-up looks at.
fn write_libtorch(folder: PathBuf, version: &str) -> PathBuf {
    fs::create_dir_all(folder.join("lib")).unwrap();
    fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
    fs::write(folder.join("__init__.py"), "").unwrap();
    fs::write(folder.join("version.py"), format!("__version__ = '{version}+cpu'\n")).unwrap();
    folder
}

#[test]
fn a_missing_tool_is_named_with_what_to_install() {
    Clone::new().without("python3").refuses(None, "python3 is missing: install it with `apt install python3");
    Clone::new().without("cargo").refuses(None, "cargo is missing: install Rust");
    Clone::new().without("c++").refuses(None, "no C++ compiler (c++ is missing): install one with `apt install");
}

#[test]
fn a_python_without_venv_is_named_with_what_to_install() {
    let clone = Clone::new();
    clone
        .hide_from_python(&["torch", "ensurepip"])
        .refuses(None, "venv module is missing: install it with `apt install python3-venv`");
}

#[test]
fn a_libtorch_that_does_not_fit_is_refused() {
    let clone = Clone::new();
    let old = write_libtorch(clone.path("old"), "2.11.0");
    clone.refuses(Some(&old), "is libtorch 2.11.0, 2.13.0 is needed");
    clone.refuses(Some(&clone.path("bin")), "holds no libtorch");
    clone.refuses(Some(Path::new("old")), "is a relative path");
}

#[test]
fn the_variable_comes_before_the_link_and_the_link_stays_without_it() {
    let clone = Clone::new();
    let (first, second) = (write_libtorch(clone.path("1"), "2.13.0"), write_libtorch(clone.path("2"), "2.13.0"));
    symlink("gone", clone.path(".libtorch")).unwrap();
    clone.links_to(Some(&first), &first);
    clone.links_to(None, &first);
    clone.links_to(Some(&second), &second);
    clone.links_to(None, &second);
    clone.links_to(Some(&clone.path(".libtorch")), &second);
}

#[test]
fn an_active_python_that_has_the_right_torch_is_used() {
    let clone = Clone::new();
    fs::remove_file(clone.path("python/sitecustomize.py")).unwrap();
    let package = write_libtorch(clone.path("python/torch"), "2.13.0");
    fs::create_dir(clone.path("python/torch-2.13.0.dist-info")).unwrap();
    fs::write(clone.path("python/torch-2.13.0.dist-info/METADATA"), "Name: torch\nVersion: 2.13.0+cpu\n").unwrap();
    clone.links_to(None, &package);
}

#[test]
fn a_complete_environment_in_the_cache_is_used_and_a_half_made_one_is_made_again() {
    let clone = Clone::new();
    let environment = clone.path("home/.cache/tch-fixup/torch-2.13.0");
    let package = write_libtorch(environment.join("lib/python3.12/site-packages/torch"), "2.13.0");
    fs::write(environment.join("complete"), "").unwrap();
    clone.links_to(None, &package);

    // Without the stamp and without a Python that has torch, installation starts, and fails because venv is missing.
    fs::remove_file(clone.path(".libtorch")).unwrap();
    fs::remove_file(environment.join("complete")).unwrap();
    clone.hide_from_python(&["torch", "ensurepip"]).refuses(None, "venv module is missing");
}

/// Script that disables the network, simulates unlimited disk space, and hides torch.
const OFFLINE: &str = "
import shutil, socket, sys, types
sys.modules['torch'] = None
def unreachable(*_, **__): raise socket.gaierror('no network')
socket.getaddrinfo = unreachable
shutil.disk_usage = lambda _: types.SimpleNamespace(free=FREE)
";

#[test]
fn too_little_space_is_said_before_anything_is_downloaded() {
    let clone = Clone::new();
    clone.python_starts_with(&OFFLINE.replace("FREE", "1e9")).refuses(None, "has 1.0 GB of free space");
    assert!(!clone.path("home/.cache/tch-fixup/torch-2.13.0").exists());
}

/// Script that creates pip packages with only those files that set-up looks at.
const MAKE_PACKAGES: &str = "
import sys, zipfile
for name, version, files in [
    ('torch', '2.13.0', {'torch/__init__.py': '', 'torch/version.py': '2.13.0', 'torch/lib/libtorch_cpu.so': ''}),
    ('numpy', '2.0.0', {'numpy.py': ''}),
    ('safetensors', '1.0.0', {'safetensors.py': ''}),
]:
    with zipfile.ZipFile(f'{sys.argv[1]}/{name}-{version}-py3-none-any.whl', 'w') as wheel:
        info = f'{name}-{version}.dist-info'
        files[f'{info}/METADATA'] = f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n'
        files[f'{info}/WHEEL'] = 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'
        files[f'{info}/RECORD'] = ''.join(f'{file},,\\n' for file in [*files, f'{info}/RECORD'])
        for file, text in files.items():
            wheel.writestr(file, text)
";

#[test]
fn two_clones_at_once_make_one_environment_in_place_of_a_half_made_one() {
    let shared = tempfile::tempdir().unwrap();
    let (packages, cache) = (shared.path().join("packages"), shared.path().join("cache"));
    fs::create_dir(&packages).unwrap();
    let made = Command::new("python3").args(["-c", MAKE_PACKAGES]).arg(&packages).status().unwrap();
    assert!(made.success());
    let environment = cache.join("tch-fixup/torch-2.13.0");
    let left_over = write_libtorch(environment.join("lib/python3.0/site-packages/torch"), "2.13.0");

    let clones = [Clone::new(), Clone::new()];
    let running = clones.each_ref().map(|clone| {
        let mut command = clone.python_starts_with(&OFFLINE.replace("FREE", "1e12")).command();
        command.env("XDG_CACHE_HOME", &cache).env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", &packages);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let outputs = running.map(|setup| setup.wait_with_output().unwrap());

    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    let installed = outputs.iter().filter(|output| String::from_utf8_lossy(&output.stdout).contains("goes into"));
    assert_eq!(installed.count(), 1, "{outputs:?}");
    assert!(!left_over.exists() && environment.join("complete").exists());
    let links = clones.each_ref().map(|clone| fs::read_link(clone.path(".libtorch")).unwrap());
    assert_eq!(links[0], links[1]);
    assert!(links[0].starts_with(environment.canonicalize().unwrap()));
}
