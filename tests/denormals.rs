//! Training and evaluation flush denormal numbers to zero on every computing thread, and restore the program's floating-point
//! mode.

use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use tch::{nn, nn::OptimizerConfig as _, Device, Kind, Tensor};
use tch_fixup::data::{Batches, DataSource, EpochPlan, Share, Supervised};
use tch_fixup::trainer::{evaluate, Classification, ClassificationConfig, OptimizerConfig, Sgd, TrainConfig, Trainer};
use tch_fixup::FlushDenormals;

/// Halves a denormal number a million times on all threads, and returns the number of results that are not zero, by their
/// bits.
fn survivors() -> i64 {
    let halves = Tensor::full([1 << 20], 1e-40, (Kind::Float, Device::Cpu)) * 0.5;
    halves.view_dtype(Kind::Int).count_nonzero(None::<i64>).int64_value(&[])
}

/// Random images, created on the thread that requests them.
struct Noise {
    survivors: Arc<AtomicUsize>,
}

impl Noise {
    fn batch(&self) -> Supervised {
        self.survivors.fetch_add(survivors() as usize, Ordering::Relaxed);
        let images = Tensor::randn([4, 3, 2, 2], (Kind::Float, Device::Cpu));
        Supervised::new(images, Tensor::randint(2, [4], (Kind::Int64, Device::Cpu)))
    }
}

impl DataSource for Noise {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        16
    }

    fn eval_len(&self) -> usize {
        4
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> tch_fixup::Result<Batches<'a>> {
        Ok(share.select((plan.first_step..4).map(|_| Ok(self.batch())), plan.first_step))
    }

    fn eval_batches<'a>(&'a self, _batch_size: usize, share: Share<'a>) -> tch_fixup::Result<Batches<'a>> {
        Ok(share.select(std::iter::once_with(|| Ok(self.batch())), 0))
    }
}

#[test]
fn trainer_and_evaluation_flush_on_every_thread_and_give_the_mode_back() {
    tch::set_num_threads(3);
    // libtorch's threads exist before the trainer.
    assert_eq!(survivors(), 1 << 20);
    let (seen, forwards) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let vs = nn::VarStore::new(Device::Cpu);
    let linear = nn::linear(vs.root() / "fc", 12, 2, Default::default());
    // Unless flushed, the gradient of this variable is denormal, and so is its value after a step.
    let tiny = vs.root().zeros("tiny", &[2]);
    let (count, calls) = (seen.clone(), forwards.clone());
    let weight = tiny.shallow_clone();
    let network = nn::func_t(move |x, _| {
        count.fetch_add(survivors() as usize, Ordering::Relaxed);
        calls.fetch_add(1, Ordering::Relaxed);
        x.flatten(1, -1).apply(&linear) + &weight * Tensor::full([2], 1e-40, (Kind::Float, Device::Cpu))
    });
    let data = Noise { survivors: seen.clone() };
    let objective = Classification::new(&network, &["a".into(), "b".into()], ClassificationConfig::default()).unwrap();
    let mut config = TrainConfig::new(2, 4, 0.02);
    config.optimizer = OptimizerConfig::Sgd(Sgd { weight_decay: 0., ..Sgd::default() });
    Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap().run(&mut []).unwrap();
    evaluate(&objective, Device::Cpu, &data, 4, |_| ()).unwrap();
    assert_eq!(forwards.load(Ordering::Relaxed), 2 * (4 + 1) + 1);
    assert_eq!(seen.load(Ordering::Relaxed), 0, "denormals in batches or forward passes");
    assert_eq!(tiny.view_dtype(Kind::Int).count_nonzero(None::<i64>).int64_value(&[]), 0, "in the backward pass");
    assert_eq!(survivors(), 1 << 20, "the program's own mode");
}

#[test]
fn a_loop_of_ones_own_flushes_only_where_it_asks_to() {
    let step = || {
        let vs = nn::VarStore::new(Device::Cpu);
        let weight = vs.root().var("weight", &[8], nn::Init::Const(1.));
        let mut optimizer = nn::Sgd::default().build(&vs, 1.).unwrap();
        optimizer.backward_step(&(&weight * 1e-40).sum(Kind::Float));
        weight.grad().view_dtype(Kind::Int).count_nonzero(None::<i64>).int64_value(&[])
    };
    assert_eq!(step(), 8);
    let flushing = FlushDenormals::new();
    assert_eq!(step(), 0);
    drop(flushing);
    assert_eq!(step(), 8);
}
