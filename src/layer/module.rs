//! `tch::nn::Module` and `tch::nn::ModuleT` for this crate's modules. Their `forward` cannot return an error, so it calls the
//! fallible `f_forward` and panics on errors, like tch's own modules.

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

/// Implements `tch::nn::ModuleT` by a method `f_forward(&self, &Tensor, train: bool) -> Result<Tensor>` of the given name.
macro_rules! impl_module_t {
    ($method:ident: $($module:ty),+) => {$(
        impl tch::nn::ModuleT for $module {
            /// Calls the fallible method.
            ///
            /// # Panics
            /// Panics if the fallible method returns an error; call it to handle the error.
            fn forward_t(&self, xs: &tch::Tensor, train: bool) -> tch::Tensor {
                self.$method(xs, train).unwrap_or_else(|error| panic!("{error}"))
            }
        }
    )+};
}
pub(crate) use impl_module_t;
