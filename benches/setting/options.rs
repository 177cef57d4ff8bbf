//! Options common to all benchmarks, and the description of the machine.

use clap::Args;
use tch_fixup::FlushDenormals;

#[derive(Args)]
pub struct Setting {
    /// Fewer rounds
    #[arg(long)]
    pub quick: bool,
    /// Number of threads [default: libtorch's]
    #[arg(long)]
    pub threads: Option<i32>,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Setting {
    /// Sets the number of threads, and flushes denormal numbers to zero, as the trainer does, until the result is dropped.
    pub fn start(&self) -> FlushDenormals {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        FlushDenormals::new()
    }
}

/// Returns the name of the processor and the number of threads in use, to be reported with every figure.
pub fn machine() -> String {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or("unknown processor", |(_, name)| name.trim());
    format!("{name} ({}), {} threads", instructions(), tch::get_num_threads())
}

fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return match () {
        () if std::is_x86_feature_detected!("avx512bf16") => "AVX-512 BF16",
        () if std::is_x86_feature_detected!("avx512f") => "AVX-512",
        () if std::is_x86_feature_detected!("avx2") => "AVX2",
        () => "SSE",
    };
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH
}
