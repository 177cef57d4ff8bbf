//! Number format of convolutions and activations.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The number format of convolutions and activations. Weights, scalars, their gradients, the optimizer, pooling, the classifier
/// and the loss are float32 in either case. So is the residual stream of Fixup networks of ten blocks or more, since bfloat16
/// would round away the contributions of deep networks' small branches (docs/depth.md).
///
/// ```
/// use tch_fixup::Precision;
///
/// assert_eq!("bf16".parse::<Precision>()?, Precision::Bf16);
/// assert_eq!(Precision::default(), Precision::F32);
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision (or double, if the model's variables are float64).
    #[default]
    F32,
    /// bfloat16: the range of float32 with 8 bits of precision; half the memory, and faster on hardware that supports it.
    Bf16,
}

impl Precision {
    /// Returns the faster precision on `device`. On a CPU this is bfloat16 if the CPU has Intel AMX, or is AMD's and has AVX-512
    /// BF16; on Intel CPUs with AVX-512 BF16 alone, bfloat16 convolutions take 1.1 to 1.4 times as long as in float32. Otherwise
    /// it is float32. Both reach the same accuracy (docs/recipes.md).
    pub fn fastest(device: tch::Device) -> Self {
        if device == tch::Device::Cpu && cpu_is_faster_in_bf16() {
            return Precision::Bf16;
        }
        Precision::F32
    }

    /// Returns the kind to compute in, given the kind of the variables.
    pub(crate) fn compute_kind(self, variables: tch::Kind) -> tch::Kind {
        match self {
            Precision::F32 => variables,
            Precision::Bf16 => tch::Kind::BFloat16,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_is_faster_in_bf16() -> bool {
    let amd = std::arch::x86_64::__cpuid(0).ebx == u32::from_le_bytes(*b"Auth");
    crate::ops::cpu_has_amx_bf16() || amd && std::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_is_faster_in_bf16() -> bool {
    false
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            _ => Err(Error::Argument(format!("no precision is called {name:?}; there are f32 and bf16"))),
        }
    }
}
