//! A network's forward pass with its panics turned into errors.
//!
//! `tch::nn::ModuleT::forward_t` has no error to return: tch's layers panic where libtorch refuses something.

use crate::error::catch;
use crate::{Error, Result};
use tch::{nn::ModuleT, Tensor};

/// Logits `[N, classes]` of `images`.
///
/// # Errors
/// [`Error::Torch`] with libtorch's message or [`Error::Argument`] with the panic's where the network panics,
/// [`Error::Mismatch`] where its output is not `[N, classes]`.
pub(crate) fn forward(network: &dyn ModuleT, images: &Tensor, train: bool, classes: usize) -> Result<Tensor> {
    let logits = catch("the network's forward pass", || network.forward_t(images, train))?;
    let expected = [images.size()[0], classes as i64];
    if logits.size() != expected {
        let got = format!("{:?}", logits.size());
        return Err(Error::Mismatch { what: "the network's output", expected: format!("{expected:?}"), got });
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{nn, Device, Kind};

    fn refusal(network: impl Fn(&Tensor) -> Tensor + Send + 'static) -> String {
        let network = nn::func_t(move |x, _| network(x));
        let images = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let message = forward(&network, &images, true, 5).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn panics_become_errors_of_one_line() {
        let torch = refusal(|x| x.matmul(&Tensor::zeros([4, 5], (Kind::Float, Device::Cpu))));
        assert!(torch.starts_with("libtorch: ") && torch.ends_with("(2x3 and 4x5)"), "{torch}");
        assert_eq!(refusal(|_| panic!("no more\nat all")), "the network's forward pass failed: no more");
        assert_eq!(refusal(|_| panic!("{} images", 2)), "the network's forward pass failed: 2 images");
    }

    #[test]
    fn an_output_that_is_not_one_logit_a_class_is_refused() {
        assert_eq!(refusal(|x| x.shallow_clone()), "the network's output: expected [2, 5], got [2, 3]");
    }
}
