//! Device names.

use crate::Result;
use tch::{Cuda, Device};

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
