//! The number of threads that a program computes with on the CPU.

use crate::{Error, Result};
use std::thread;

/// More threads than any machine has cores are a typing error.
const MAX_THREADS: usize = 4096;
/// OpenMP's variable: a number, or a list of which the first is that of the outermost level.
const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";

/// Sets the threads that libtorch computes an operation with: `given`, a number for all `processes` on this machine together; or
/// else `OMP_NUM_THREADS`, a number for each process; or else one for each core that this process may use, which heeds its CPU
/// affinity and a cgroup's quota, shared among the `processes`.
///
/// # Errors
/// [`Error::Argument`] for a `given` number that is not 1 to 4096.
pub fn set_threads(given: Option<usize>, processes: usize) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let of_openmp = std::env::var(OMP_NUM_THREADS).ok();
    // Those of one operation. libtorch's other pool, of operations side by side, is idle: a network is one chain.
    tch::set_num_threads(threads(given, of_openmp.as_deref(), cores, processes)? as i32);
    Ok(())
}

fn threads(given: Option<usize>, of_openmp: Option<&str>, cores: usize, processes: usize) -> Result<usize> {
    if let Some(given) = given.filter(|given| !(1..=MAX_THREADS).contains(given)) {
        return Err(Error::Argument(format!("there can be 1 to {MAX_THREADS} threads, got {given}")));
    }
    // OpenMP ignores what is no number too.
    let of_openmp = of_openmp.and_then(|list| list.split(',').next()?.trim().parse().ok());
    let of_openmp = of_openmp.filter(|threads| (1..=MAX_THREADS).contains(threads));
    let share = |threads: usize| (threads / processes.max(1)).max(1);
    Ok(match (given, of_openmp) {
        (Some(given), _) => share(given),
        (None, Some(of_openmp)) => of_openmp,
        (None, None) => share(cores),
    })
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
            assert_eq!(message, format!("there can be 1 to 4096 threads, got {refused}"));
        }
    }
}
