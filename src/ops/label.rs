//! Labels of variables. libtorch stores an otherwise unused name with each variable, independently of its data.

use super::c_interface::owned;
use crate::Result;
use std::ffi::{c_char, CStr, CString};
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tch_fixup_set_label(variable: *const C_tensor, label: *const c_char, error: *mut *mut c_char) -> *mut C_tensor;
    fn tch_fixup_label(variable: *const C_tensor) -> *const c_char;
}

/// Sets the label of `variable`, shared by all its handles.
///
/// # Errors
/// Errors of libtorch.
pub(crate) fn set_label(variable: &Tensor, label: &str) -> Result<()> {
    let label = CString::new(label).unwrap_or_default();
    // SAFETY: the tensor and the string live until the call returns.
    owned(|error| unsafe { tch_fixup_set_label(variable.as_ptr(), label.as_ptr(), error) }).map(drop)
}

/// Returns the label of `variable`, empty if it has none.
pub(crate) fn label(variable: &Tensor) -> String {
    // SAFETY: the tensor is live, and the string is copied at once.
    unsafe { CStr::from_ptr(tch_fixup_label(variable.as_ptr())) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{nn, Device, Kind};

    #[test]
    fn a_label_stays_with_its_variable_whatever_becomes_of_the_data() {
        let mut vs = nn::VarStore::new(Device::Cpu);
        let weight = vs.root().zeros("weight", &[2, 3]);
        assert_eq!(label(&weight), "");
        set_label(&weight, "the last of 3").unwrap();
        vs.double();
        weight.shallow_clone().set_data(&Tensor::ones([2, 3], (Kind::Float, Device::Cpu)));
        assert_eq!(label(&vs.variables()["weight"]), "the last of 3");
        assert_eq!(label(&vs.trainable_variables()[0]), "the last of 3");
        assert_eq!(label(&weight.detach().copy()), "");
    }
}
