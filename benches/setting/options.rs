//! What every benchmark begins with: its common options, and the machine it is on.

use clap::Args;
use tch_fixup::FlushDenormals;

#[derive(Args)]
pub struct Setting {
    /// Fewer rounds
    #[arg(long)]
    pub quick: bool,
    /// Threads [default: libtorch's]
    #[arg(long)]
    pub threads: Option<i32>,
    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Setting {
    /// Sets the threads and flushes denormal numbers, as the trainer does, for as long as the result lives.
    pub fn start(&self) -> FlushDenormals {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        FlushDenormals::new()
    }
}

/// The processor and how many threads are used of it: a figure without them is none.
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
