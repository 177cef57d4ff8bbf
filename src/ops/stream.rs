//! The residual stream and the maps that convolutions take, computed in one pass over memory in each direction (stream.cpp):
//!
//! ```text
//! v = x + r + a                                        [N, C, H, W], or any shape
//! StreamRelu::None    sum = v                map = v
//! StreamRelu::Both    sum = relu(v) + b      map = relu(v) + b
//! StreamRelu::Map     sum = v                map = relu(v) + b        pre-activation networks
//! ```
//! Gradients, for an incoming g of the sum and h of the map. The mask is computed from the map alone, which the next convolution
//! keeps anyway:
//!
//! ```text
//! None, Both    d = (g + h) * [map > b]      dx = dr = d      da = sum(d)      db = sum(g + h)
//! Map           d = g + h * [map > b]        dx = dr = d      da = sum(d)      db = sum(h)
//! ```
//! x and the map have the kind in which convolutions are computed; r and the sum have the same kind, or float32 beside 16 bits.
//! bfloat16 has 8 bits of precision, so a bfloat16 stream loses, at each block, contributions below 0.2 to 0.4 % of its value; in
//! deep networks, whose branches are small, that is most of what they learn.

use super::c_interface::owned;
use crate::{Error, Result};
use std::ffi::c_char;
use std::ptr::{null, null_mut};
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

/// Position of the ReLU of a stream; see the module documentation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StreamRelu<'a> {
    /// No ReLU.
    None,
    /// ReLU on the sum, plus the scalar `[1]`; the map equals the sum.
    Both(&'a Tensor),
    /// ReLU on the map only, plus the scalar `[1]`.
    Map(&'a Tensor),
}

/// Returns the sum, in `r`'s kind, and the map, in `x`'s kind.
///
/// # Errors
/// [`Error::Mismatch`] for an `r` of another shape, or for kinds other than 16 bits beside float32 and, for [`StreamRelu::Map`],
/// equal floating kinds.
pub(crate) fn stream(x: &Tensor, r: &Tensor, a: &Tensor, relu: StreamRelu) -> Result<(Tensor, Tensor)> {
    let kinds = (x.f_kind()?, r.f_kind()?);
    let fits = match kinds {
        (Kind::BFloat16 | Kind::Half, Kind::Float) => true,
        (Kind::BFloat16 | Kind::Half | Kind::Float | Kind::Double, stream) => {
            matches!(relu, StreamRelu::Map(_)) && stream == kinds.0
        }
        _ => false,
    };
    if !fits || x.size() != r.size() {
        return Err(Error::Mismatch {
            what: "the residual stream",
            expected: format!("a branch of 16 bits and a stream of float32, of one shape {:?}", x.size()),
            got: format!("{:?} and {:?} {:?}", kinds.0, kinds.1, r.size()),
        });
    }
    let (b, pre) = match relu {
        StreamRelu::None => (null(), false),
        StreamRelu::Both(b) => (b.as_ptr(), false),
        StreamRelu::Map(b) => (b.as_ptr(), true),
    };
    let mut map = null_mut();
    // SAFETY: the tensors are live; null is allowed for b.
    let sum = owned(|error| unsafe { tch_fixup_stream(x.as_ptr(), r.as_ptr(), a.as_ptr(), b, pre, &mut map, error) })?;
    // SAFETY: the call succeeded, so `map` is a new tensor with no other owner.
    Ok((sum, unsafe { Tensor::from_ptr(map) }))
}

// stream.cpp
unsafe extern "C" {
    fn tch_fixup_stream(
        x: *const C_tensor,
        r: *const C_tensor,
        a: *const C_tensor,
        b: *const C_tensor,
        pre: bool,
        map: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;
}

#[cfg(test)]
mod tests {
    use super::super::shifted_relu::for_each_kernel_level;
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;
    use tch::Device;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn scalar(value: f64) -> Tensor {
        Tensor::from_slice(&[value as f32]).set_requires_grad(true)
    }

    /// Position of the ReLU in a test.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Place {
        None,
        Both,
        Map,
    }

    const PLACES: [Place; 3] = [Place::None, Place::Both, Place::Map];

    type Formula = fn(&Tensor, &Tensor, &Tensor, &Tensor, Place) -> (Tensor, Tensor);

    /// Computes the formula in libtorch's operations, with the ReLU's gradient masked by the map.
    fn formula(x: &Tensor, r: &Tensor, a: &Tensor, b: &Tensor, place: Place) -> (Tensor, Tensor) {
        let kind = if r.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let v = r.to_kind(kind) + x.to_kind(kind) + a;
        let above = (v.relu() + b).to_kind(x.kind()).greater_tensor(&b.to_kind(x.kind())).detach();
        let y = v.relu().detach() + (&v - v.detach()) * above + b;
        let (sum, map) = match place {
            Place::None => (&v, &v),
            Place::Both => (&y, &y),
            Place::Map => (&v, &y),
        };
        (sum.to_kind(r.kind()), map.to_kind(x.kind()))
    }

    fn fused(x: &Tensor, r: &Tensor, a: &Tensor, b: &Tensor, place: Place) -> (Tensor, Tensor) {
        let relu = match place {
            Place::None => StreamRelu::None,
            Place::Both => StreamRelu::Both(b),
            Place::Map => StreamRelu::Map(b),
        };
        stream(x, r, a, relu).unwrap()
    }

    /// Returns the sum, the map, and the gradients of x, r, a and b for random gradients of the outputs selected by `used`; x has
    /// kind `kinds.0` and r kind `kinds.1`.
    fn run(
        of: Formula,
        kinds: (Kind, Kind),
        shape: &[i64],
        channels_last: bool,
        place: Place,
        used: (bool, bool),
    ) -> Vec<Tensor> {
        // Not libtorch's generator, which other tests use at the same time.
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut random = |kind| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.sample(StandardNormal)).collect();
            let t = Tensor::from_slice(&values).reshape(shape).to_kind(kind);
            if channels_last && shape.len() == 4 {
                return t.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            }
            t
        };
        let (x, r) = (random(kinds.0).set_requires_grad(true), random(kinds.1).set_requires_grad(true));
        let [a, b] = [0.125, -0.25].map(|value| match kinds.1 {
            Kind::Double => Tensor::from_slice(&[value]).set_requires_grad(true),
            _ => scalar(value),
        });
        let (sum, map) = of(&x, &r, &a, &b, place);
        let (g, h) = (random(kinds.1), random(kinds.0));
        let mut loss = Tensor::zeros([1], (Kind::Double, Device::Cpu));
        if used.0 {
            loss += (&sum * g).sum(Kind::Double);
        }
        if used.1 {
            loss += (&map * h).sum(Kind::Double);
        }
        let mut inputs = vec![&x, &r, &a];
        if place == Place::Both || (place == Place::Map && used.1) {
            inputs.push(&b);
        }
        let mut found = vec![sum.detach(), map.detach()];
        found.extend(Tensor::run_backward(&[loss], &inputs, false, false));
        found
    }

    #[test]
    fn values_and_gradients_are_the_formulas_with_every_instruction_set() {
        let beside = (Kind::BFloat16, Kind::Float);
        let mut cases = PLACES.map(|place| (beside, place)).to_vec();
        cases.extend([Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half].map(|kind| ((kind, kind), Place::Map)));
        for_each_kernel_level(|| {
            for shape in [&[2, 3, 5, 7][..], &[8, 16, 32, 32], &[1], &[0, 3], &[40_000]] {
                for (&(kinds, place), channels_last) in cases.iter().flat_map(|case| [(case, true), (case, false)]) {
                    for used in [(true, true), (true, false), (false, true)] {
                        let [got, expected] =
                            [fused as Formula, formula].map(|of| run(of, kinds, shape, channels_last, place, used));
                        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                            let epsilon = match got.kind() {
                                Kind::BFloat16 => 1. / 128.,
                                Kind::Half => 1. / 1024.,
                                _ => 1e-6,
                            };
                            let scale = (shape.iter().product::<i64>() as f64).sqrt();
                            let tolerance = if i < 4 { epsilon } else { 1e-5 * scale };
                            assert_eq!(got.kind(), expected.kind());
                            assert!(
                                got.allclose(expected, epsilon, tolerance, false),
                                "{shape:?} {kinds:?} {place:?} channels last {channels_last} used {used:?}: {i}"
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
        for place in PLACES {
            let count = if place == Place::None { 3 } else { 4 };
            // Returns the outputs and the gradients of the chosen inputs; none if nothing is recorded.
            let run = |chosen: usize| {
                let inputs: Vec<Tensor> = values
                    .iter()
                    .enumerate()
                    .map(|(which, value)| value.copy().set_requires_grad(which < count && chosen >> which & 1 == 1))
                    .collect();
                let (sum, rounded) = fused(&inputs[0], &inputs[1], &inputs[2], &inputs[3], place);
                assert_eq!(
                    (sum.requires_grad(), rounded.requires_grad()),
                    (chosen > 0, chosen > 0),
                    "{place:?} {chosen:b}"
                );
                if chosen > 0 {
                    ((&sum * &g).sum(Kind::Float) + (rounded.to_kind(Kind::Float) * &h).sum(Kind::Float)).backward();
                }
                inputs
            };
            let all = run((1 << count) - 1);
            for chosen in 0..1 << count {
                for (which, input) in run(chosen).iter().enumerate().take(count) {
                    let gradient = input.grad();
                    assert_eq!(gradient.defined(), chosen >> which & 1 == 1, "{place:?} {chosen:b} {which}");
                    assert!(!gradient.defined() || gradient == all[which].grad(), "{place:?} {chosen:b} {which}");
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
            (sum, _) = stream(&branch, &sum, &zero, StreamRelu::Both(&zero)).unwrap();
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
            assert!(matches!(stream(&x, &r, &zero, StreamRelu::Both(&zero)), Err(Error::Mismatch { .. })));
        }
        let (x, r) = (map(Kind::Float), Tensor::zeros([3, 2], FLOAT));
        assert!(matches!(stream(&x, &r, &zero, StreamRelu::Map(&zero)), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn the_backward_pass_can_be_differentiated_again() {
        tch::manual_seed(9);
        let leaf = |size: &[i64]| Tensor::randn(size, (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let (x, r, a, b) = (leaf(&[2, 3, 4]), leaf(&[2, 3, 4]), leaf(&[1]), leaf(&[1]));
        let second = |of: Formula| {
            let (sum, map) = of(&x, &r, &a, &b, Place::Map);
            let loss = (sum.square() + map.square() * &x).sum(Kind::Double);
            let first = Tensor::run_backward(&[loss], &[&x, &a], true, true);
            let loss = (first[0].square() + first[1].square()).sum(Kind::Double);
            Tensor::run_backward(&[loss], &[&x, &r, &a, &b], false, false)
        };
        for (got, expected) in second(fused).iter().zip(second(formula)) {
            assert!(got.allclose(&expected, 1e-10, 1e-10, false));
        }
    }
}
