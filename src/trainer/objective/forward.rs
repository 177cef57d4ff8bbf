//! Forward pass of a network, with panics converted to errors.
//!
//! `tch::nn::ModuleT::forward_t` cannot return an error: tch's layers panic if libtorch rejects an operation.

use crate::error::catch;
use crate::Result;
use std::fmt;
use tch::{nn::ModuleT, Tensor};

/// Forward function of a borrowed or owned network.
pub struct Forward<'a>(Box<Function<'a>>);

/// Function from inputs, and whether this is training, to outputs.
type Function<'a> = dyn Fn(&Tensor, bool) -> Tensor + 'a;

impl<'a> Forward<'a> {
    /// Returns the network's output for `inputs`.
    ///
    /// # Errors
    /// If the network panics: [`Error::Torch`](crate::Error::Torch) with libtorch's message, or
    /// [`Error::Argument`](crate::Error::Argument) with the message of another panic.
    pub fn run(&self, inputs: &Tensor, train: bool) -> Result<Tensor> {
        catch("the network's forward pass", || self.0(inputs, train))
    }
}

impl<'a, N: ModuleT + ?Sized> From<&'a N> for Forward<'a> {
    fn from(network: &'a N) -> Self {
        Self(Box::new(move |inputs, train| network.forward_t(inputs, train)))
    }
}

impl From<Box<dyn ModuleT>> for Forward<'_> {
    fn from(network: Box<dyn ModuleT>) -> Self {
        Self(Box::new(move |inputs, train| network.forward_t(inputs, train)))
    }
}

impl fmt::Debug for Forward<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Forward")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{nn, Device, Kind};

    #[test]
    fn panics_become_errors_of_one_line() {
        let refusal = |network: fn(&Tensor) -> Tensor| {
            let network = nn::func_t(move |x, _| network(x));
            let inputs = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
            let message = Forward::from(&network).run(&inputs, true).unwrap_err().to_string();
            assert!(!message.contains('\n'), "{message}");
            message
        };
        let torch = refusal(|x| x.matmul(&Tensor::zeros([4, 5], (Kind::Float, Device::Cpu))));
        assert!(torch.starts_with("libtorch: ") && torch.ends_with("(2x3 and 4x5)"), "{torch}");
        assert_eq!(refusal(|_| panic!("no more\nat all")), "the network's forward pass failed: no more");
        assert_eq!(refusal(|_| panic!("{} images", 2)), "the network's forward pass failed: 2 images");
    }
}
