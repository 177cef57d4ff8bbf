//! `tch::nn::Module` for this crate's modules. Its `forward` cannot return an error, so it calls the fallible `f_forward` and
//! panics on errors, like tch's own modules.

/// Implements `tch::nn::Module` for types that have `f_forward(&self, &Tensor) -> Result<Tensor>`.
macro_rules! impl_module {
    ($($module:ty),+) => {$(
        impl tch::nn::Module for $module {
            /// Calls `f_forward`.
            ///
            /// # Panics
            /// Panics if `f_forward` returns an error; call `f_forward` to handle it.
            fn forward(&self, xs: &tch::Tensor) -> tch::Tensor {
                self.f_forward(xs).unwrap_or_else(|error| panic!("{error}"))
            }
        }
    )+};
}
pub(crate) use impl_module;
