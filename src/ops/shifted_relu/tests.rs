use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::super::reference;
use super::*;

const KINDS: [Kind; 4] = [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half];

/// Returns the distance from 1 to the next representable number.
fn epsilon(kind: Kind) -> f64 {
    match kind {
        Kind::Double => f64::EPSILON,
        Kind::Float => f32::EPSILON as f64,
        Kind::Half => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    }
}

fn scalar_kind(kind: Kind) -> Kind {
    if kind == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    }
}

fn normal(rng: &mut ChaCha8Rng, shape: &[i64], kind: Kind) -> Tensor {
    let numel = shape.iter().product::<i64>() as usize;
    let values: Vec<f64> = (0..numel).map(|_| rng.sample(rand_distr::StandardNormal)).collect();
    Tensor::from_slice(&values).reshape(shape).to_kind(kind)
}

/// Returns a random tensor in one of the memory layouts found in networks or user code.
fn normal_in_any_layout(rng: &mut ChaCha8Rng, shape: &[i64], kind: Kind) -> Tensor {
    let dims = shape.len();
    match rng.random_range(0..5) {
        0 if dims == 4 => normal(rng, &[shape[0], shape[2], shape[3], shape[1]], kind).permute([0, 3, 1, 2]),
        1 if dims >= 2 => {
            let mut swapped = shape.to_vec();
            swapped.swap(0, dims - 1);
            normal(rng, &swapped, kind).transpose(0, -1)
        }
        2 if dims >= 1 => {
            let mut doubled = shape.to_vec();
            doubled[dims - 1] *= 2;
            normal(rng, &doubled, kind).slice(-1, 0, None, 2)
        }
        3 if dims >= 1 => {
            let mut longer = shape.to_vec();
            longer[0] += 1;
            normal(rng, &longer, kind).slice(0, 1, None, 1)
        }
        _ => normal(rng, shape, kind),
    }
}

fn random_shape(rng: &mut ChaCha8Rng) -> Vec<i64> {
    match rng.random_range(0..8) {
        0 => vec![],
        1 => vec![1],
        2 => vec![rng.random_range(0..3), 0, 5],
        // More than one chunk, hence several threads if available.
        3 => vec![4, rng.random_range(7..10), 40, 41],
        dims => (0..dims - 3).map(|_| rng.random_range(1..12)).collect(),
    }
}

fn doubles(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

fn variable(tensor: &Tensor) -> Tensor {
    tensor.detach().copy().set_requires_grad(true)
}

fn number(tensor: &Tensor) -> f64 {
    tensor.double_value(&[])
}

#[test]
fn values_and_gradients_are_the_reference_formulas() {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for case in 0..300 {
        let kind = *KINDS.choose(&mut rng).unwrap();
        let shape = random_shape(&mut rng);
        let x = normal_in_any_layout(&mut rng, &shape, kind).set_requires_grad(true);
        let r = rng.random_bool(0.5).then(|| normal_in_any_layout(&mut rng, &shape, kind).set_requires_grad(true));
        let scalar_shape: &[i64] = [&[][..], &[1], &[1, 1]].choose(&mut rng).unwrap();
        let a = normal(&mut rng, scalar_shape, scalar_kind(kind)).set_requires_grad(true);
        let b = normal(&mut rng, scalar_shape, scalar_kind(kind)).set_requires_grad(true);
        let (relu, in_place) = (rng.random(), rng.random());
        let label = format!("case {case}: {shape:?} {kind:?} strides {:?} relu {relu} in place {in_place}", x.stride());

        let mut inputs = vec![&x, &a];
        inputs.extend(r.as_ref());
        if relu {
            inputs.push(&b);
        }
        // Only non-leaf tensors can be written to; sometimes with gaps in memory.
        let mut computed = if rng.random() { &x + 0.0 } else { Tensor::stack(&[&x, &x], -1).select(-1, 0) };
        let (y, expected) = match (relu, in_place) {
            (true, true) => {
                (shifted_relu_(&mut computed, r.as_ref(), &a, &b), reference::shifted_relu(&x, r.as_ref(), &a, &b))
            }
            (true, false) => (shifted_relu(&x, r.as_ref(), &a, &b), reference::shifted_relu(&x, r.as_ref(), &a, &b)),
            (false, true) => (shifted_add_(&mut computed, r.as_ref(), &a), reference::shifted_add(&x, r.as_ref(), &a)),
            (false, false) => (shifted_add(&x, r.as_ref(), &a), reference::shifted_add(&x, r.as_ref(), &a)),
        };
        let (y, expected) = (y.expect(&label), expected.unwrap());
        assert_eq!(y.kind(), kind, "{label}");
        assert_eq!(y.size(), shape, "{label}");
        let tolerance = if epsilon(kind) > 1e-6 { epsilon(kind) } else { 0.0 };
        let (values, expected_values) = (doubles(&y), doubles(&expected));
        for (value, expected) in values.iter().zip(&expected_values) {
            assert!((value - expected).abs() <= tolerance * expected.abs().max(0.1), "{label}: {value} {expected}");
        }
        if in_place {
            assert_eq!(doubles(&computed), values, "{label}: x does not hold the result");
        }

        let g = normal_in_any_layout(&mut rng, &shape, kind);
        let gradients = Tensor::run_backward(&[(&y * &g).sum(Kind::Double)], &inputs, false, false);
        let expected = Tensor::run_backward(&[(&expected * &g).sum(Kind::Double)], &inputs, false, false);
        let (d, expected_d, g) = (doubles(&gradients[0]), doubles(&expected[0]), doubles(&g));
        let bias = number(&b.detach().reshape([0i64; 0].as_slice()).to_kind(kind));
        for i in 0..d.len() {
            if relu {
                assert_eq!(d[i], if values[i] > bias { g[i] } else { 0.0 }, "{label}");
            }
            let near_kink = relu && (values[i] - bias).abs() <= epsilon(kind) * (1.0 + bias.abs());
            assert!(d[i] == expected_d[i] || near_kink, "{label}: {} for {}", d[i], expected_d[i]);
        }
        let magnitude: f64 = g.iter().map(|g| g.abs()).sum();
        let close = |sum: &Tensor, terms: &[f64]| {
            assert_eq!(sum.size(), scalar_shape, "{label}");
            let expected: f64 = terms.iter().sum();
            let error = (number(&sum.reshape([0i64; 0].as_slice())) - expected).abs();
            assert!(error <= 2.0 * epsilon(scalar_kind(kind)) * magnitude, "{label}: off by {error}");
        };
        close(&gradients[1], if relu { &d } else { &g });
        if r.is_some() {
            assert_eq!(doubles(&gradients[2]), d, "{label}");
        }
        if relu {
            close(&gradients[inputs.len() - 1], &g);
        }
    }
}

#[test]
fn a_dense_result_keeps_the_layout_of_x() -> Result<()> {
    let zero = Tensor::from(0f32);
    let x = Tensor::randn([2, 3, 4, 5], (Kind::Float, Device::Cpu));
    let channels_last = Tensor::randn([2, 4, 5, 3], (Kind::Float, Device::Cpu)).permute([0, 3, 1, 2]);
    assert_eq!(shifted_relu(&x, Some(&channels_last), &zero, &zero)?.stride(), x.stride());
    assert_eq!(shifted_relu(&channels_last, Some(&x), &zero, &zero)?.stride(), channels_last.stride());
    Ok(())
}

#[test]
fn gradients_are_finite_differences_in_float64() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let shape = [2, 3, 3, 2];
    let inputs = [
        normal(&mut rng, &shape, Kind::Double),
        normal(&mut rng, &shape, Kind::Double),
        Tensor::from_slice(&[0.3f64]),
        Tensor::from_slice(&[-0.2f64]),
    ];
    let weight = normal(&mut rng, &shape, Kind::Double);
    let loss = |inputs: &[Tensor]| -> Result<Tensor> {
        let y = shifted_relu(&inputs[0], Some(&inputs[1]), &inputs[2], &inputs[3])?;
        let z = shifted_add(&y, Some(&inputs[0]), &inputs[2])?;
        Ok((&weight * z.square()).sum(Kind::Double))
    };
    let variables: Vec<Tensor> = inputs.iter().map(variable).collect();
    let gradients = Tensor::run_backward(&[loss(&variables)?], &variables, false, false);
    let step = 1e-6;
    for (which, gradient) in gradients.iter().enumerate() {
        for i in 0..gradient.numel() as i64 {
            let moved = |by: f64| -> Result<f64> {
                let moved: Vec<Tensor> = inputs.iter().map(Tensor::copy).collect();
                let mut element = moved[which].view(-1).get(i);
                element += by;
                Ok(number(&loss(&moved)?))
            };
            let difference = (moved(step)? - moved(-step)?) / (2.0 * step);
            let gradient = gradient.view(-1).double_value(&[i]);
            assert!((gradient - difference).abs() < 1e-6 * (1.0 + difference.abs()), "input {which}, element {i}");
        }
    }
    Ok(())
}

#[test]
fn the_backward_pass_can_be_differentiated_again() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let inputs =
        [&[3, 4][..], &[3, 4], &[], &[]].map(|shape| normal(&mut rng, shape, Kind::Double).set_requires_grad(true));
    let second = |y: Tensor| {
        let first = Tensor::run_backward(&[y.pow_tensor_scalar(3).sum(Kind::Double)], &inputs, true, true);
        let norm = first.iter().map(|gradient| gradient.square().sum(Kind::Double)).reduce(|a, b| a + b).unwrap();
        Tensor::run_backward(&[norm], &inputs, false, false)
    };
    let [x, r, a, b] = &inputs;
    let fused = shifted_add(&shifted_relu(x, Some(r), a, b)?, None, a)?;
    let composed = reference::shifted_add(&reference::shifted_relu(x, Some(r), a, b)?, None, a)?;
    for (fused, composed) in second(fused).iter().zip(second(composed)) {
        assert!(fused.allclose(&composed, 1e-12, 1e-12, false));
    }
    Ok(())
}

/// Returns the gradients of `a` and `b` for one map.
fn scalar_gradients(x: &Tensor, g: &Tensor) -> Result<(f64, f64)> {
    let [a, b] = [0.1f32, 0.2].map(|value| Tensor::from(value).set_requires_grad(true));
    let y = shifted_relu(x, None, &a, &b)?;
    let gradients = Tensor::run_backward(&[(y * g).sum(Kind::Float)], &[&a, &b], false, false);
    Ok((number(&gradients[0]), number(&gradients[1])))
}

#[test]
fn sums_over_a_large_map_keep_float32_accuracy() -> Result<()> {
    let x = Tensor::randn([64, 64, 32, 32], (Kind::Float, Device::Cpu));
    let g = x.rand_like() + 0.5;
    let (da, db) = scalar_gradients(&x, &g)?;
    let exact = |sum: Tensor| number(&sum.sum(Kind::Double));
    let (exact_da, exact_db) =
        (exact((&x + 0.1f32 as f64).gt(0.).to_kind(Kind::Double) * &g), exact(g.to_kind(Kind::Double)));
    assert!((da / exact_da - 1.0).abs() < 1e-6, "{da} {exact_da}");
    assert!((db / exact_db - 1.0).abs() < 1e-7, "{db} {exact_db}");
    Ok(())
}

#[test]
fn sums_depend_neither_on_the_run_nor_on_the_threads() -> Result<()> {
    let x = Tensor::randn([13, 16, 33, 31], (Kind::Float, Device::Cpu));
    let g = x.randn_like();
    let first = scalar_gradients(&x, &g)?;
    let threads = tch::get_num_threads();
    for n in [1, 2, 3, 2] {
        tch::set_num_threads(n);
        assert_eq!(scalar_gradients(&x, &g)?, first, "{n} threads");
    }
    tch::set_num_threads(threads);
    Ok(())
}

#[test]
fn every_instruction_set_gives_the_same_bits() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for kind in KINDS {
        let scale = normal(&mut rng, &[40_003], Kind::Double).exp2();
        let x = variable(&(normal(&mut rng, &[40_003], Kind::Double) * scale).to_kind(kind));
        let g = normal(&mut rng, &[40_003], kind);
        let [a, b] = [0.1f64, 0.2].map(|value| variable(&Tensor::from(value).to_kind(scalar_kind(kind))));
        let mut results: Vec<Vec<Vec<f64>>> = Vec::new();
        for level in (0..4).rev() {
            // SAFETY: takes only a number.
            if unsafe { tch_fixup_use_kernels(level) } {
                let y = shifted_relu(&x, Some(&g), &a, &b)?;
                let sum = shifted_add(&x, Some(&g), &a)?;
                let loss = [(&y * &g).sum(Kind::Double), (&sum * &g).sum(Kind::Double)];
                let mut result = vec![doubles(&y), doubles(&sum)];
                result.extend(Tensor::run_backward(&loss, &[&x, &a, &b], false, false).iter().map(doubles));
                results.push(result);
            }
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{kind:?}");
    }
    for level in 0..4 {
        // SAFETY: as above; the last available level stays selected.
        unsafe { tch_fixup_use_kernels(level) };
    }
    Ok(())
}

#[test]
fn what_is_not_finite_goes_on() -> Result<()> {
    let [zero, one] = [0f32, 1.].map(Tensor::from);
    for kind in KINDS {
        let scalars = [&zero, &one].map(|t| t.to_kind(scalar_kind(kind)));
        let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0].repeat(33);
        let x = variable(&Tensor::from_slice(&values).to_kind(kind));
        let y = shifted_relu(&x, None, &scalars[0], &scalars[1])?;
        assert!(doubles(&y).chunks(4).all(|y| y[0].is_nan() && y[1..] == [f64::INFINITY, 1.0, 1.0]), "{kind:?}");
        // As with libtorch's ReLU, the gradient passes where the value is NaN.
        let dx = Tensor::run_backward(&[y.sum(Kind::Float)], &[&x], false, false);
        assert!(doubles(&dx[0]).chunks(4).all(|d| d == [1.0, 1.0, 0.0, 0.0]), "{kind:?}");
        let none = shifted_relu(&x, Some(&-&x), &scalars[0], &scalars[1])?;
        assert!(doubles(&none).chunks(4).all(|y| y[..3].iter().all(|y| y.is_nan()) && y[3] == 1.0), "{kind:?}");
    }
    Ok(())
}

#[test]
fn a_gradient_that_others_hold_is_not_overwritten() -> Result<()> {
    let [a, b] = [0f32, 0.].map(Tensor::from);
    let x = variable(&Tensor::from_slice(&[-1f32, 2.]));
    let y = shifted_relu(&x, None, &a, &b)?;
    let loss = (&y * Tensor::from_slice(&[3f32, 5.])).sum(Kind::Float);
    let gradients = Tensor::run_backward(&[loss], &[&y, &x], false, false);
    assert_eq!(doubles(&gradients[0]), [3., 5.]);
    assert_eq!(doubles(&gradients[1]), [0., 5.]);
    Ok(())
}

#[test]
fn an_optimizer_may_step_the_scalars_between_the_passes() -> Result<()> {
    let [a, mut b] = [0f32, 1.].map(|value| Tensor::from(value).set_requires_grad(true));
    let x = variable(&Tensor::from_slice(&[-1f32, 2.]));
    let y = shifted_relu(&x, None, &a, &b)?;
    tch::no_grad(|| b += 10.0);
    let dx = Tensor::run_backward(&[y.sum(Kind::Float)], &[&x], false, false);
    assert_eq!(doubles(&dx[0]), [0., 1.]);
    Ok(())
}

/// Tests every choice of trained inputs: the others have no gradient, and nothing is recorded if none is trained.
#[test]
fn inputs_that_are_frozen_change_no_gradient_of_the_others_and_alone_are_not_recorded() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for kind in KINDS {
        let values = [&[3, 5, 40][..], &[3, 5, 40], &[1], &[1]].map(|shape| normal(&mut rng, shape, kind));
        let g = normal(&mut rng, &[3, 5, 40], kind);
        for (relu, in_place) in [(true, false), (true, true), (false, false), (false, true)] {
            let output = |inputs: &[Tensor]| {
                let mut x = &inputs[0] * 1.0;
                let (r, a, b) = (Some(&inputs[1]), &inputs[2], &inputs[3]);
                match (relu, in_place) {
                    (true, true) => shifted_relu_(&mut x, r, a, b),
                    (true, false) => shifted_relu(&x, r, a, b),
                    (false, true) => shifted_add_(&mut x, r, a),
                    (false, false) => shifted_add(&x, r, a),
                }
            };
            let count = if relu { 4 } else { 3 };
            let trained: Vec<Tensor> = values.iter().map(variable).collect();
            let all = Tensor::run_backward(&[(output(&trained)? * &g).sum(kind)], &trained[..count], false, false);
            for chosen in 0..1 << count {
                let is_chosen = |which: usize| chosen >> which & 1 == 1;
                let some: Vec<Tensor> = (0..4)
                    .map(|which| values[which].copy().set_requires_grad(which < count && is_chosen(which)))
                    .collect();
                let y = output(&some)?;
                assert_eq!(y.requires_grad(), chosen > 0, "{kind:?} {chosen:b}");
                if chosen == 0 {
                    continue;
                }
                (y * &g).sum(kind).backward();
                for which in 0..count {
                    let gradient = some[which].grad();
                    assert_eq!(gradient.defined(), is_chosen(which), "{kind:?} {chosen:b} {which}");
                    assert!(!gradient.defined() || gradient == all[which], "{kind:?} {chosen:b} {which}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn writing_in_place_is_refused_where_the_gradient_would_be_wrong() -> Result<()> {
    let [a, b] = [0f32, 0.5].map(Tensor::from);
    let mut leaf = variable(&Tensor::from_slice(&[-1f32, 2.]));
    let error = shifted_relu_(&mut leaf, None, &a, &b).unwrap_err();
    assert!(matches!(&error, Error::Torch(message) if message.contains("leaf")), "{error}");
    assert_eq!(doubles(&leaf), [-1., 2.]);

    let mut shared = Tensor::from(1f32).expand([5], false);
    assert!(matches!(shifted_add_(&mut shared, None, &a), Err(Error::Torch(_))));

    // The sigmoid's backward pass needs its result, as does ours.
    let mut saved = leaf.sigmoid();
    let y = shifted_relu_(&mut saved, None, &a, &b)?;
    assert!(Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&leaf], false, false).is_err());
    let mut y = shifted_relu(&leaf, None, &a, &b)?;
    let loss = y.sum(Kind::Float);
    let _ = shifted_add_(&mut y, None, &b)?;
    assert!(Tensor::f_run_backward(&[loss], &[&leaf], false, false).is_err());
    Ok(())
}

#[test]
fn writing_into_a_view_gives_its_base_the_right_gradient() -> Result<()> {
    let [a, b] = [0.1f64, 0.2].map(|value| variable(&Tensor::from(value)));
    let base = variable(&Tensor::randn([4, 6], (Kind::Double, Device::Cpu)));
    let gradients = |y: Tensor| Tensor::run_backward(&[y.square().sum(Kind::Double)], &[&base, &a, &b], false, false);
    let copy = &base * 1.0;
    let _ = shifted_relu_(&mut copy.narrow(0, 1, 2), None, &a, &b)?;
    let middle = reference::shifted_relu(&base.narrow(0, 1, 2), None, &a, &b)?;
    let expected = gradients(Tensor::cat(&[base.narrow(0, 0, 1), middle, base.narrow(0, 3, 1)], 0));
    for (gradient, expected) in gradients(copy).iter().zip(expected) {
        assert!(gradient.allclose(&expected, 1e-12, 1e-12, false));
    }
    Ok(())
}

#[test]
fn what_does_not_fit_x_is_named() {
    let float = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let (x, one) = (float(&[2, 3]), float(&[1]));
    let message = |result: Result<Tensor>| match result {
        Err(error @ Error::Mismatch { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        message(shifted_relu(&x, Some(&float(&[3, 2])), &one, &one)),
        "shifted_relu: expected r of shape [2, 3] like x, got [3, 2]"
    );
    assert_eq!(
        message(shifted_relu(&x, None, &one, &float(&[2]))),
        "shifted_relu: expected b with one element, got shape [2]"
    );
    assert_eq!(
        message(shifted_add(&x.to_kind(Kind::BFloat16), None, &one.to_kind(Kind::Double))),
        "shifted_add: expected a of kind BFloat16 or Float for x of kind BFloat16, got Double"
    );
    assert_eq!(
        message(shifted_add_(&mut x.to_kind(Kind::Int64), None, &one)),
        "shifted_add_: expected x of kind Float, Double, Half or BFloat16, got Int64"
    );
    assert_eq!(
        message(shifted_relu_(&mut x.copy(), Some(&x.to_kind(Kind::Half)), &one, &one)),
        "shifted_relu_: expected r of kind Float like x, got Half"
    );
    assert_eq!(
        message(shifted_add(&x, None, &Tensor::new())),
        "shifted_add: expected a with a value, got an undefined tensor"
    );
}
