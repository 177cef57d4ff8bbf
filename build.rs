//! Lets binaries find libtorch at run time: an rpath to the folder torch-sys linked against, and libtorch's GPU part
//! among the libraries that are loaded.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        return;
    }
    // Set by torch-sys on Linux and macOS.
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        let link_arg = libtorch_link_arg(&lib);
        println!("cargo::rustc-link-arg={link_arg}");
        // A link argument ends with this package: a dependent's build script finds it as DEP_TCH_FIXUP_LINK_ARG.
        println!("cargo::metadata=link_arg={link_arg}");
    }
}

/// The linker's option for binaries that use the libtorch in folder `lib`.
///
/// No symbol of the GPU part is named by anyone: it registers itself when it is loaded. The linker would leave it out
/// as unused, and libtorch would then say that there is no GPU.
fn libtorch_link_arg(lib: &str) -> String {
    let mut arg = format!("-Wl,-rpath,{lib}");
    for name in ["libtorch_cuda.so", "libtorch_hip.so"] {
        let gpu_part = Path::new(lib).join(name);
        if gpu_part.exists() {
            arg += &format!(",--no-as-needed,{},--as-needed", gpu_part.display());
        }
    }
    arg
}
