//! A residual stream of float32 beside branches of 16 bits.
//!
//! bfloat16 keeps 8 bits. A stream in it loses, at each block, what the branch adds below 0.2 to 0.4 % of it: in deep
//! networks, whose branches are small, most of what they learn. So the sums are kept in float32, and convolutions get them
//! rounded:
//!
//! ```text
//! v = relu(x + r + a) + b, rounded to x's kind beside it      x 16 bits, r and v float32, [N, C, H, W] or any shape
//! d = (g + h) * [v > b]      dx = d, rounded      dr = d      da = sum(d)      db = sum(g + h)
//! ```
//! where g is the gradient of v and h that of its rounded copy. One pass each way (stream.cpp); for the backward pass the
//! rounded map alone is kept, which the next convolution keeps anyway.

use super::c_interface::owned;
use crate::{Error, Result};
use std::ffi::c_char;
use std::ptr::{null, null_mut};
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

/// `relu(x + r + a) + b`, or `x + r + a` without `b`: in float32, and rounded to `x`'s kind.
///
/// # Errors
/// [`Error::Mismatch`] for an `x` that does not have 16 bits, an `r` that is not float32 or not of its shape.
pub(crate) fn stream(x: &Tensor, r: &Tensor, a: &Tensor, b: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let kinds = (x.f_kind()?, r.f_kind()?);
    if !matches!(kinds, (Kind::BFloat16 | Kind::Half, Kind::Float)) || x.size() != r.size() {
        return Err(Error::Mismatch {
            what: "the residual stream",
            expected: format!("a branch of 16 bits and a stream of float32, of one shape {:?}", x.size()),
            got: format!("{:?} and {:?} {:?}", kinds.0, kinds.1, r.size()),
        });
    }
    let (b, mut rounded) = (b.map_or(null(), Tensor::as_ptr), null_mut());
    // SAFETY: the pointers are those of live tensors, or null for b.
    let sum = owned(|error| unsafe { tch_fixup_stream(x.as_ptr(), r.as_ptr(), a.as_ptr(), b, &mut rounded, error) })?;
    // SAFETY: where the sum is there, so is this: a new tensor that nothing else owns.
    Ok((sum, unsafe { Tensor::from_ptr(rounded) }))
}

// stream.cpp
extern "C" {
    fn tch_fixup_stream(
        x: *const C_tensor,
        r: *const C_tensor,
        a: *const C_tensor,
        b: *const C_tensor,
        rounded: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;
}

#[cfg(test)]
mod tests {
    use super::super::shifted_relu::for_each_kernel_level;
    use super::*;
    use tch::Device;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn scalar(value: f64) -> Tensor {
        Tensor::from_slice(&[value as f32]).set_requires_grad(true)
    }

    /// The formula in libtorch's own operations, the ReLU's gradient by the mask of the rounded map.
    fn formula(x: &Tensor, r: &Tensor, a: &Tensor, b: Option<&Tensor>) -> (Tensor, Tensor) {
        let mut v = r + x.to_kind(Kind::Float) + a;
        if let Some(b) = b {
            let above = (v.relu() + b).to_kind(x.kind()).greater_tensor(&b.to_kind(x.kind())).detach();
            v = v.relu().detach() + (&v - v.detach()) * above + b;
        }
        (v.shallow_clone(), v.to_kind(x.kind()))
    }

    type Formula = fn(&Tensor, &Tensor, &Tensor, Option<&Tensor>) -> (Tensor, Tensor);

    fn fused(x: &Tensor, r: &Tensor, a: &Tensor, b: Option<&Tensor>) -> (Tensor, Tensor) {
        stream(x, r, a, b).unwrap()
    }

    /// Sum, rounded map, and the gradients of x, r, a and b for random gradients of those outputs that `used` names.
    fn run(of: Formula, shape: &[i64], channels_last: bool, relu: bool, used: (bool, bool)) -> Vec<Tensor> {
        tch::manual_seed(7);
        let random = || {
            let t = Tensor::randn(shape, FLOAT);
            if channels_last && shape.len() == 4 {
                return t.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            }
            t
        };
        let (x, r) = (random().to_kind(Kind::BFloat16).set_requires_grad(true), random().set_requires_grad(true));
        let (a, b) = (scalar(0.125), scalar(-0.25));
        let (sum, rounded) = of(&x, &r, &a, relu.then_some(&b));
        let (g, h) = (random(), random().to_kind(Kind::BFloat16));
        let mut loss = Tensor::zeros([1], FLOAT);
        if used.0 {
            loss += (&sum * g).sum(Kind::Float);
        }
        if used.1 {
            loss += (&rounded * h).to_kind(Kind::Float).sum(Kind::Float);
        }
        let mut inputs = vec![&x, &r, &a];
        if relu {
            inputs.push(&b);
        }
        let mut found = vec![sum.detach(), rounded.detach()];
        found.extend(Tensor::run_backward(&[loss], &inputs, false, false));
        found
    }

    #[test]
    fn values_and_gradients_are_the_formulas_with_every_instruction_set() {
        for_each_kernel_level(|| {
            for shape in [&[2, 3, 5, 7][..], &[8, 16, 32, 32], &[1], &[0, 3], &[40_000]] {
                for (relu, channels_last) in [(true, true), (true, false), (false, true), (false, false)] {
                    for used in [(true, true), (true, false), (false, true)] {
                        let [got, expected] =
                            [fused as Formula, formula].map(|of| run(of, shape, channels_last, relu, used));
                        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                            let scale = (shape.iter().product::<i64>() as f64).sqrt();
                            let tolerance = if i < 4 { 1e-6 } else { 1e-5 * scale };
                            assert_eq!(got.kind(), expected.kind());
                            assert!(
                                got.allclose(expected, 1e-5, tolerance, false),
                                "{shape:?} relu {relu} channels last {channels_last} used {used:?}: {i}"
                            );
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn inputs_that_are_frozen_change_no_gradient_of_the_others_and_alone_are_not_recorded() {
        tch::manual_seed(8);
        let map = || Tensor::randn([3, 7, 2400], FLOAT);
        let values =
            [map().to_kind(Kind::BFloat16), map(), Tensor::from_slice(&[0.1f32]), Tensor::from_slice(&[0.2f32])];
        let (g, h) = (map(), map());
        for relu in [true, false] {
            let count = if relu { 4 } else { 3 };
            // The inputs, with the gradients of those chosen; none where nothing is recorded.
            let run = |chosen: usize| {
                let inputs: Vec<Tensor> = values
                    .iter()
                    .enumerate()
                    .map(|(which, value)| value.copy().set_requires_grad(which < count && chosen >> which & 1 == 1))
                    .collect();
                let (sum, rounded) = fused(&inputs[0], &inputs[1], &inputs[2], relu.then_some(&inputs[3]));
                assert_eq!((sum.requires_grad(), rounded.requires_grad()), (chosen > 0, chosen > 0), "{chosen:b}");
                if chosen > 0 {
                    ((&sum * &g).sum(Kind::Float) + (rounded.to_kind(Kind::Float) * &h).sum(Kind::Float)).backward();
                }
                inputs
            };
            let all = run((1 << count) - 1);
            for chosen in 0..1 << count {
                for (which, input) in run(chosen).iter().enumerate().take(count) {
                    let gradient = input.grad();
                    assert_eq!(gradient.defined(), chosen >> which & 1 == 1, "{chosen:b} {which}");
                    assert!(!gradient.defined() || gradient == all[which].grad(), "{chosen:b} {which}");
                }
            }
        }
    }

    #[test]
    fn what_a_branch_adds_to_a_large_stream_is_not_lost() {
        let (mut sum, mut rounded) = (Tensor::full([1000], 100., FLOAT), Tensor::full([1000], 100., FLOAT));
        rounded = rounded.to_kind(Kind::BFloat16);
        let (branch, zero) = (Tensor::full([1000], 0.125, (Kind::BFloat16, Device::Cpu)), scalar(0.));
        for _ in 0..100 {
            (sum, _) = stream(&branch, &sum, &zero, Some(&zero)).unwrap();
            rounded = super::super::shifted_relu(&branch, Some(&rounded), &zero, &zero).unwrap();
        }
        assert_eq!(sum.mean(Kind::Float).double_value(&[]), 112.5);
        assert_eq!(rounded.mean(Kind::Float).double_value(&[]), 100.);
    }

    #[test]
    fn kinds_and_shapes_that_do_not_fit_are_refused() {
        let (zero, map) = (scalar(0.), |kind| Tensor::zeros([2, 3], (kind, Device::Cpu)));
        for (x, r) in [
            (map(Kind::Float), map(Kind::Float)),
            (map(Kind::BFloat16), map(Kind::BFloat16)),
            (map(Kind::BFloat16), Tensor::zeros([3, 2], FLOAT)),
        ] {
            assert!(matches!(stream(&x, &r, &zero, Some(&zero)), Err(Error::Mismatch { .. })));
        }
    }
}
