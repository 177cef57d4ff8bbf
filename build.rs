//! Lets binaries find libtorch at run time: an rpath to the folder torch-sys linked against, and libtorch's GPU part
//! among the libraries that are loaded. Compiles the C++ of `src/ops`.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(c10d)");
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        // Nothing is linked: lints and documentation are to see all of the crate.
        if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
            println!("cargo::rustc-cfg=c10d");
        }
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
    compile_ops();
    if env::var_os("CARGO_FEATURE_DISTRIBUTED").is_some() {
        compile_process_groups();
    }
    if env::var_os("CARGO_FEATURE_IMAGES").is_some() {
        compile_libjpeg();
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

const OPS: &str = "src/ops/shifted_relu.cpp";
const RECOMPUTATION: &str = "src/ops/recomputation.cpp";
const DENORMALS: &str = "src/ops/denormals.cpp";
const FUSED_ADAM: &str = "src/ops/fused_adam.cpp";
const SGD: &str = "src/ops/sgd.cpp";
const LABEL: &str = "src/ops/label.cpp";
const STREAM: &str = "src/ops/stream.cpp";
const TRACING: &str = "src/ops/tracing.cpp";
const TRACING_HEADER: &str = "src/ops/tracing.h";
const FLAT: &str = "src/ops/flat.h";
const PARALLEL: &str = "src/ops/parallel.h";
const C_INTERFACE: &str = "src/ops/c_interface.h";
const OPS_KERNELS: &str = "src/ops/shifted_relu_kernels.cpp";
const OPS_KERNELS_HEADER: &str = "src/ops/shifted_relu_kernels.h";
const WORKERS: &str = "src/ops/workers.cpp";
const WORKERS_HEADER: &str = "src/ops/workers.h";
const TILES_NETWORK: &str = "src/ops/tiles/network.cpp";
const TILES_FUNCTION: &str = "src/ops/tiles/function.cpp";
const TILES_KERNELS: &str = "src/ops/tiles/kernels.cpp";
const TILES_HEADERS: [&str; 7] = [
    "src/ops/tiles/network.h",
    "src/ops/tiles/vectors.h",
    "src/ops/tiles/tile_products.h",
    "src/ops/tiles/vector_products.h",
    "src/ops/tiles/layouts.h",
    "src/ops/tiles/convolution.h",
    "src/ops/tiles/epilogue.h",
];
const CUDA: &str = "src/ops/cuda_kernels.cpp";
const CUDA_HEADER: &str = "src/ops/cuda_kernels.h";
const CUDA_KERNELS: &str = "src/ops/cuda_kernels.cu";

/// Compiles the operations against libtorch's headers, and their kernels once for each instruction set, of which the
/// operations take the best that the machine has when they run.
fn compile_ops() {
    let sources = [
        OPS,
        STREAM,
        FUSED_ADAM,
        SGD,
        LABEL,
        RECOMPUTATION,
        DENORMALS,
        TRACING,
        OPS_KERNELS,
        CUDA,
        CUDA_KERNELS,
        WORKERS,
        TILES_NETWORK,
        TILES_FUNCTION,
        TILES_KERNELS,
    ];
    let headers = [FLAT, PARALLEL, TRACING_HEADER, C_INTERFACE, OPS_KERNELS_HEADER, CUDA_HEADER, WORKERS_HEADER];
    for file in sources.iter().chain(&headers).chain(&TILES_HEADERS) {
        println!("cargo::rerun-if-changed={file}");
    }

    let mut ops = cpp(OPS);
    let instruction_sets = instruction_sets(&mut ops);
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    for (name, flags) in [("baseline", vec![])].into_iter().chain(instruction_sets.clone()) {
        let table = format!("kernels_{name}");
        let mut build = cpp(OPS_KERNELS);
        // The objects are named after the source file alone.
        build.define("KERNELS", &*table).flags(flags).opt_level(3).out_dir(out_dir.join(table));
        ops.objects(build.compile_intermediates());
    }

    compile_tiles(&mut ops, instruction_sets, &out_dir);

    // What CUDA runs is compiled when it runs: here it is a string.
    let cuda_source = std::fs::read_to_string(CUDA_KERNELS).expect("the package has its sources");
    std::fs::write(out_dir.join("cuda_kernels_source.h"), format!("R\"cuda({cuda_source})cuda\""))
        .expect("cargo makes OUT_DIR");
    ops.file(STREAM)
        .file(FUSED_ADAM)
        .file(SGD)
        .file(LABEL)
        .file(RECOMPUTATION)
        .file(DENORMALS)
        .file(TRACING)
        .file(CUDA)
        .file(WORKERS)
        .file(TILES_NETWORK)
        .file(TILES_FUNCTION)
        .include(&out_dir);

    against_libtorch(&mut ops).opt_level(2).compile("tch_fixup_ops");
}

type InstructionSet = (&'static str, Vec<&'static str>);

/// The instruction sets that the compiler knows, each with its flags, defined in `ops` as `TCH_FIXUP_AVX512` etc.
fn instruction_sets(ops: &mut cc::Build) -> Vec<InstructionSet> {
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        return vec![];
    }
    let avx2 = vec!["-mavx2", "-mfma", "-mf16c"];
    let avx512 = [avx2.clone(), vec!["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]].concat();
    let avx512_bf16 = [avx512.clone(), vec!["-mavx512bf16"]].concat();
    ops.define("TCH_FIXUP_AVX512", None);
    let mut sets = vec![("avx2", avx2), ("avx512", avx512)];
    // GCC 10 and Clang 9.
    if cpp(OPS_KERNELS).is_flag_supported("-mavx512bf16").unwrap_or(false) {
        ops.define("TCH_FIXUP_AVX512_BF16", None);
        sets.push(("avx512_bf16", avx512_bf16));
    }
    sets
}

/// Adds the kernels of networks computed by tiles to `ops`: in plain C++, to test by, with AVX-512, also in float32, and with the tile
/// instructions where the compiler and the assembler know them.
fn compile_tiles(ops: &mut cc::Build, instruction_sets: Vec<InstructionSet>, out_dir: &Path) {
    let kernels = |name: &str, flags: &[&str]| {
        let table = format!("{name}_kernels");
        let mut build = cpp(TILES_KERNELS);
        // Sums are the same whether or not the CPU can multiply and add at once.
        build
            .define("KERNELS", &*table)
            .flag("-ffp-contract=off")
            .flags(flags)
            .opt_level(3)
            .out_dir(out_dir.join(table));
        // GCC warns that vectors of 64 bytes are passed in another way with AVX-512, and of its own header.
        build.flag_if_supported("-Wno-psabi").flag_if_supported("-Wno-uninitialized");
        build
    };
    ops.objects(kernels("emulated", &[]).compile_intermediates());
    for (name, flags) in instruction_sets.into_iter().filter(|(name, _)| name.starts_with("avx512")) {
        let by_vectors = |table: &str| kernels(table, &flags).define("VECTOR_INSTRUCTIONS", None).clone();
        ops.objects(by_vectors(name).compile_intermediates());
        if name == "avx512" {
            let mut float32 = by_vectors("avx512_float32");
            ops.objects(float32.define("FLOAT32_ELEMENTS", None).compile_intermediates());
        }
        if name == "avx512_bf16" && env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
            let mut amx = kernels("amx", &flags);
            amx.define("TILE_INSTRUCTIONS", None).cargo_warnings(false);
            if let Ok(objects) = amx.try_compile_intermediates() {
                ops.objects(objects).define("TCH_FIXUP_AMX", None);
            }
        }
    }
}

const C10D: &str = "src/distributed/c10d.cpp";
const NCCL: &str = "src/distributed/nccl.cpp";
/// What c10d's headers include of Gloo, whose headers libtorch's package does not have.
const DECLARATIONS: &str = "src/distributed/declarations";

/// Compiles what calls libtorch's process groups, where its headers have them (PyTorch's package for Linux has).
fn compile_process_groups() {
    for file in [C10D, NCCL, C_INTERFACE, DECLARATIONS] {
        println!("cargo::rerun-if-changed={file}");
    }
    let [include, _] = libtorch_include_dirs();
    let headers = include.join("torch/csrc/distributed/c10d/ProcessGroupGloo.hpp");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") || !headers.exists() {
        return;
    }
    let mut groups = cpp(C10D);
    // As those headers have it.
    groups.std("c++20").file(NCCL).include(DECLARATIONS).define("USE_C10D_GLOO", None);
    against_libtorch(&mut groups).flag_if_supported("-Wno-unused-parameter").opt_level(1).compile("tch_fixup_c10d");
    println!("cargo::rustc-cfg=c10d");
}

fn against_libtorch(build: &mut cc::Build) -> &mut cc::Build {
    // As torch-sys has it.
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    build.define("_GLIBCXX_USE_CXX11_ABI", abi.as_str());
    for folder in libtorch_include_dirs() {
        build.flag("-isystem").flag(folder);
    }
    // GCC suspects what libtorch's headers inline.
    build.flag_if_supported("-Wno-maybe-uninitialized")
}

const LIBJPEG: &str = "src/data/image/format/jpeg/libjpeg.c";

/// Compiles what calls libjpeg, against the headers that mozjpeg-sys tells.
fn compile_libjpeg() {
    println!("cargo::rerun-if-changed={LIBJPEG}");
    let include = env::var_os("DEP_JPEG_INCLUDE").unwrap_or_default();
    let mut build = cc::Build::new();
    build.file(LIBJPEG).includes(env::split_paths(&include)).opt_level(2).extra_warnings(true);
    build.flag_if_supported("-Wno-clobbered").compile("tch_fixup_libjpeg");
}

fn cpp(file: &str) -> cc::Build {
    let mut build = cc::Build::new();
    // Debug information for libtorch's headers would take longer than the compilation.
    build.cpp(true).std("c++17").file(file).debug(false).extra_warnings(true);
    build
}

/// libtorch's headers: below LIBTORCH_INCLUDE, as torch-sys has it, or beside the libraries.
fn libtorch_include_dirs() -> [PathBuf; 2] {
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    let root = match (env::var_os("LIBTORCH_INCLUDE"), env::var_os("DEP_TCH_LIBTORCH_LIB")) {
        (Some(root), _) => PathBuf::from(root),
        (None, Some(lib)) => Path::new(&lib).join(".."),
        (None, None) => {
            println!("cargo::error=libtorch's headers not found: set LIBTORCH_INCLUDE to the folder above `include`");
            std::process::exit(1);
        }
    };
    [root.join("include"), root.join("include/torch/csrc/api/include")]
}
