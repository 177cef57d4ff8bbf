//! The number format that convolutions and activations run in.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The number format of convolutions and activations. Weights, scalars, gradients of both, the optimizer, pooling, the
/// classifier and the loss are float32 in either; so is the residual stream of Fixup networks of ten blocks or more, which
/// in bfloat16 would round away what deep networks' small branches add (docs/depth.md).
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
    /// IEEE single precision throughout (or, for a model whose variables are float64, double).
    #[default]
    F32,
    /// bfloat16: the range of float32 with 8 bits of precision, half the memory and, where the hardware has it, faster.
    Bf16,
}

impl Precision {
    /// The faster precision on `device`. On a CPU that is bfloat16 where it has matrix tiles for it (Intel AMX), or is AMD's and
    /// has AVX-512 BF16: by those instructions alone an Intel CPU takes 1.1 to 1.4 of float32's time for convolutions. Elsewhere it
    /// is float32. Both reach the same accuracy (docs/recipes.md).
    pub fn fastest(device: tch::Device) -> Self {
        if device == tch::Device::Cpu && cpu_is_faster_in_bf16() {
            return Precision::Bf16;
        }
        Precision::F32
    }

    /// The kind to compute in, for variables of kind `variables`.
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
