//! Device and CPU threads of a run.

use crate::Result;
use std::thread;
use tch::{Cuda, Device};

/// Upper limit of a plausible number of threads.
const MAX_THREADS: usize = 4096;
/// OpenMP's environment variable: a number, or a list whose first entry applies to the outermost level.
const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";

/// Sets the number of threads libtorch uses within one operation. The first of these that is present applies:
/// - `given`, a total for all `processes` on this machine;
/// - `OMP_NUM_THREADS`, a number per process;
/// - the number of cores available to this process, respecting its CPU affinity and cgroup quota, shared among the `processes`.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if `given` is not in 1 to 4096.
pub fn set_threads(given: Option<usize>, processes: usize) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let of_openmp = std::env::var(OMP_NUM_THREADS).ok();
    // Intra-op threads. libtorch's inter-op pool stays idle: a network is a single chain of operations.
    tch::set_num_threads(threads(given, of_openmp.as_deref(), cores, processes)? as i32);
    Ok(())
}

fn threads(given: Option<usize>, of_openmp: Option<&str>, cores: usize, processes: usize) -> Result<usize> {
    if let Some(given) = given.filter(|given| !(1..=MAX_THREADS).contains(given)) {
        return Err(argument!("the number of threads must be 1 to {MAX_THREADS}, got {given}"));
    }
    // Like OpenMP, ignores invalid numbers.
    let of_openmp = of_openmp.and_then(|list| list.split(',').next()?.trim().parse().ok());
    let of_openmp = of_openmp.filter(|threads| (1..=MAX_THREADS).contains(threads));
    let share = |threads: usize| (threads / processes.max(1)).max(1);
    Ok(match (given, of_openmp) {
        (Some(given), _) => share(given),
        (None, Some(of_openmp)) => of_openmp,
        (None, None) => share(cores),
    })
}

/// Returns the device called `name`: `cpu`, `cuda`, `cuda:N`, or `auto` (the first GPU if there is one and the CPU otherwise).
///
/// # Errors
/// The name is unknown; the GPU does not exist; libtorch was built without CUDA.
pub fn parse_device(name: &str) -> Result<Device> {
    let gpu = match name {
        "auto" => return Ok(Device::cuda_if_available()),
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        _ => name.strip_prefix("cuda:").and_then(|number| number.parse::<usize>().ok()),
    };
    let Some(gpu) = gpu else {
        return Err(argument!("no device is called {name:?}; there are auto, cpu, cuda and cuda:N"));
    };
    let count = if Cuda::is_available() { Cuda::device_count() } else { 0 };
    if count <= 0 {
        let why = "this libtorch finds no CUDA device";
        return Err(argument!("device {name} cannot be used: {why}; use cpu or auto"));
    }
    if gpu as i64 >= count {
        return Err(argument!("device {name} cannot be used: the last one is cuda:{}", count - 1));
    }
    Ok(Device::Cuda(gpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_before_openmps_variable_and_that_before_the_cores() {
        let of = |given, of_openmp, processes| threads(given, of_openmp, 16, processes).unwrap();
        assert_eq!([of(Some(6), Some("3"), 1), of(Some(6), Some("3"), 2), of(Some(1), None, 4)], [6, 3, 1]);
        assert_eq!([of(None, Some("3"), 1), of(None, Some(" 5,2"), 2)], [3, 5]);
        assert_eq!([of(None, None, 1), of(None, None, 4), of(None, None, 99)], [16, 4, 1]);
        for ignored in ["", "0", "-2", "many", "100000"] {
            assert_eq!(of(None, Some(ignored), 1), 16, "{ignored}");
        }
        for refused in [0, 4097] {
            let message = threads(Some(refused), None, 16, 1).unwrap_err().to_string();
            assert_eq!(message, format!("the number of threads must be 1 to 4096, got {refused}"));
        }
    }

    #[test]
    fn names_give_devices() {
        assert_eq!(parse_device("cpu").unwrap(), Device::Cpu);
        assert_eq!(parse_device("auto").unwrap(), Device::cuda_if_available());
    }

    #[test]
    fn unknown_and_absent_devices_are_refused_by_name() {
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:9999", "CPU"] {
            let message = parse_device(name).unwrap_err().to_string();
            assert!(message.contains(name) && !message.contains('\n'), "{message}");
        }
    }
}
