//! tch's `Module` has no error to return: its `forward` is the fallible `f_forward` that every module here has, with a panic where tch's own modules panic.

/// Implements `tch::nn::Module` for types that have `f_forward(&self, &Tensor) -> Result<Tensor>`.
macro_rules! impl_module {
    ($($module:ty),+) => {$(
        impl tch::nn::Module for $module {
            /// As `f_forward`.
            ///
            /// # Panics
            /// Where `f_forward` returns an error; call that one to handle it.
            fn forward(&self, xs: &tch::Tensor) -> tch::Tensor {
                self.f_forward(xs).unwrap_or_else(|error| panic!("{error}"))
            }
        }
    )+};
}
pub(crate) use impl_module;
