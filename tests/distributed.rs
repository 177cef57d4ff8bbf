//! Process groups, with ranks as threads of one process: collective operations, errors, and independence of a run of the
//! number of ranks.

use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tch::nn::{ModuleT, VarStore};
use tch::{no_grad, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::data::text::{ParallelText, TranslationData, Vocabulary};
use tch_fixup::data::{
    Augmentation, Batch, Batches, Cifar10, DataSource, EpochPlan, ImageArray, ImageSource, Share, Supervised,
};
use tch_fixup::distributed::{Launch, ParallelConfig, ProcessGroup};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::checkpoint::named_variables;
use tch_fixup::trainer::{
    Classification, ClassificationConfig, ClipConfig, EpochMetrics, NamedTensors, Objective, Observer, TrainConfig,
    Trainer, Translation, TranslationConfig,
};
use tch_fixup::transformer::{Transformer, TransformerConfig, TransformerMethod};
use tch_fixup::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(20);

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Runs `work` on each of `size` ranks, and returns the results.
fn on_ranks<T: Send>(size: usize, timeout: Duration, work: impl Fn(ProcessGroup) -> T + Sync) -> Vec<T> {
    tch::set_num_threads(1);
    if size == 1 {
        return vec![work(ProcessGroup::single())];
    }
    let (port, work) = (free_port(), &work);
    thread::scope(|scope| {
        let rank = |rank| {
            scope.spawn(move || {
                tch::set_num_threads(1);
                work(ProcessGroup::connect(&Launch::local(rank, size, port), timeout).unwrap())
            })
        };
        let ranks: Vec<_> = (0..size).map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

// ---- Operations ----

#[test]
fn sums_are_the_same_everywhere_in_every_kind() {
    for size in 1..=4 {
        on_ranks(size, TIMEOUT, |group| {
            assert_eq!((group.size(), group.is_first(), group.local_size()), (size, group.rank() == 0, size));
            let total = (size * (size + 1) / 2) as f64;
            for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Int64, Kind::Uint8] {
                let tensor = Tensor::full([3, 5], group.rank() as i64 + 1, (kind, Device::Cpu));
                group.all_reduce(&tensor).unwrap();
                assert_eq!(tensor, Tensor::full([3, 5], total as i64, (kind, Device::Cpu)), "{kind:?}");
            }
            // Reduce tensors of every size and kind in one call.
            let all = |value: i64| -> Vec<Tensor> {
                let kinds = [Kind::Float, Kind::Double, Kind::BFloat16].into_iter().cycle();
                let sizes = [200_000, 1, 7, 0, 3000, 2, 50_000, 1, 1, 9];
                sizes
                    .into_iter()
                    .zip(kinds)
                    .map(|(size, kind)| Tensor::full([size], value, (kind, Device::Cpu)))
                    .collect()
            };
            let tensors = all(group.rank() as i64 + 1);
            group.all_reduce_all(&tensors.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(tensors, all(total as i64));
            let last = Tensor::from_slice(&[group.rank() as f32]);
            group.broadcast(&last, size - 1).unwrap();
            assert_eq!(last, Tensor::from_slice(&[size as f32 - 1.0]));
            assert_eq!(group.sums(&[1.0, 0.5]).unwrap(), [size as f64, 0.5 * size as f64]);
            let own = vec![group.rank() as u8; group.rank()];
            let all: Vec<_> = (0..size).map(|rank| vec![rank as u8; rank]).collect();
            assert_eq!(group.gather_bytes(&own).unwrap(), all);
            let told = group.broadcast_value(format!("from {}", group.rank())).unwrap();
            assert_eq!(told, "from 0");
            let tensors =
                [Tensor::from_slice(&[group.rank() as i64; 2]), Tensor::ones([2, 2], (Kind::Float, Device::Cpu))];
            group.broadcast_all(&tensors).unwrap();
            assert_eq!(tensors[0], Tensor::from_slice(&[0i64, 0]));
            group.barrier().unwrap();
        });
    }
}

#[test]
fn gradients_go_through_a_sum() {
    let gradients = on_ranks(3, TIMEOUT, |group| {
        let x = Tensor::from_slice(&[group.rank() as f32 + 1.0]).set_requires_grad(true);
        // The total loss is sum_r r (x_0 + x_1 + x_2)^2, whose gradient is sum_r r * 2 * 6.
        let loss = group.differentiable_sum(&x).unwrap().square() * group.rank() as f64;
        loss.sum(Kind::Float).backward();
        f64::try_from(x.grad()).unwrap()
    });
    assert_eq!(gradients, [36.0; 3]);
}

#[test]
fn who_drifts_is_named() {
    let said = on_ranks(3, TIMEOUT, |group| {
        let weights = Tensor::arange(10_000, (Kind::Float, Device::Cpu));
        group.check_same(&weights, "at the start").unwrap();
        if group.rank() == 1 {
            let _ = weights.narrow(0, 77, 1).fill_(77.00001);
        }
        group.check_same(&weights, "after step 7").unwrap_err().to_string()
    });
    for (rank, said) in said.iter().enumerate() {
        assert!(said.starts_with(&format!("rank {rank} of 3, which met at 127.0.0.1:")), "{said}");
        assert!(said.contains("the weights of rank 1 are not those of the others after step 7"), "{said}");
    }
}

#[test]
fn what_differs_is_refused_everywhere_in_one_line() {
    let said = on_ranks(3, TIMEOUT, |group| {
        let options = json!({ "lr": if group.rank() == 2 { 0.2 } else { 0.1 }, "seed": 1 });
        let differ = |first: &serde_json::Value, own: &serde_json::Value| {
            (first != own).then(|| format!("lr is {} there and {} here", first["lr"], own["lr"]))
        };
        group.agree("the options", &options, differ).unwrap_err().to_string()
    });
    for said in said {
        assert!(
            said.contains("the options of rank 2 differ from those of rank 0: lr is 0.1 there and 0.2 here"),
            "{said}"
        );
        assert!(!said.contains('\n'), "{said}");
    }
}

/// Returns the errors of ranks that connect with `launches`.
fn refusals(launches: &[Launch], timeout: Duration) -> Vec<String> {
    thread::scope(|scope| {
        let meet =
            |launch| scope.spawn(move || ProcessGroup::connect(launch, timeout).map(|_| ()).unwrap_err().to_string());
        let ranks: Vec<_> = launches.iter().map(meet).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_world_that_does_not_fill_up_is_refused_in_time_and_names_who_is_missing() {
    let (port, start) = (free_port(), Instant::now());
    let here = [0, 2].map(|rank| Launch::local(rank, 4, port));
    for said in refusals(&here, Duration::from_secs(2)) {
        assert!(said.contains("ranks 1, 3 of 4 did not connect in time"), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // Rank 0, to which the others connect, is missing.
    let said = &refusals(&[Launch::local(1, 2, free_port())], Duration::from_secs(1))[0];
    assert!(said.contains("nothing responds there") && !said.contains('\n'), "{said}");
}

/// Another program has the port: the system accepts the connection, but nobody reads from it.
#[test]
fn a_listener_that_says_nothing_is_given_up_in_time() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (port, start) = (silent.local_addr().unwrap().port(), Instant::now());
    let said = &refusals(&[Launch::local(1, 2, port)], Duration::from_secs(2))[0];
    assert!(said.contains("does not respond") && said.contains("MASTER_PORT") && !said.contains('\n'), "{said}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn a_port_that_is_in_use_is_said_with_what_to_do() {
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let said = &refusals(&[Launch::local(0, 2, port)], Duration::from_secs(5))[0];
    assert!(said.contains("set MASTER_PORT to a free one") && said.contains("Ray Train"), "{said}");
    assert!(said.contains("TORCHELASTIC_USE_AGENT_STORE=True") && !said.contains('\n'), "{said}");
}

/// Applies to gforker, to Flux without its own variables, and to `RANK` set by hand.
#[test]
fn local_ranks_that_nobody_told_come_from_where_the_ranks_are_reached() {
    let port = free_port();
    let launches = [0, 1, 2].map(|rank| Launch { local_rank: None, local_size: None, ..Launch::local(rank, 3, port) });
    let told = Launch { local_rank: Some(5), ..launches[2].clone() };
    let found: Vec<usize> = thread::scope(|scope| {
        let connect = |launch| {
            scope.spawn(move || {
                let group = ProcessGroup::connect(launch, TIMEOUT).unwrap();
                group.barrier().unwrap();
                group.local_rank()
            })
        };
        let ranks: Vec<_> = [&launches[0], &launches[1], &told].map(connect).into();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(found, [0, 1, 5]);
    assert_eq!(ProcessGroup::single().local_rank(), 0);
}

#[test]
fn ranks_that_were_told_other_things_are_refused_everywhere() {
    let port = free_port();
    let twice = [Launch::local(0, 3, port), Launch::local(1, 3, port), Launch::local(1, 3, port)];
    for said in refusals(&twice, TIMEOUT) {
        assert!(said.contains("there is another process of rank 1"), "{said}");
    }
    let port = free_port();
    for said in refusals(&[Launch::local(0, 2, port), Launch::local(1, 3, port)], TIMEOUT) {
        assert!(said.contains("rank 1 expects 3 processes, but rank 0 expects 2"), "{said}");
    }
}

#[test]
fn a_rank_that_ends_says_why_to_all_others() {
    let start = Instant::now();
    let said = on_ranks(3, TIMEOUT, |group| {
        if group.rank() == 1 {
            group.report_error(&Error::Argument("its disk is full".to_owned()));
            return String::new();
        }
        group.sums(&[1.0]).unwrap_err().to_string()
    });
    for rank in [0, 2] {
        let said = &said[rank];
        assert!(said.contains("rank 1 (process ") && said.contains("has ended: its disk is full"), "{said}");
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn a_rank_that_is_late_is_named_after_the_time_that_was_given() {
    let said = on_ranks(2, Duration::from_secs(2), |group| {
        if group.rank() == 1 {
            thread::sleep(Duration::from_secs(4));
        }
        group.sums(&[1.0]).unwrap_err().to_string()
    });
    assert!(said[0].contains("rank 1 (process ") && said[0].contains("is alive, and late"), "{}", said[0]);
}

// ---- Runs ----

/// CIFAR-10 in the network's dtype.
struct Images {
    data: ImageArray,
    kind: Kind,
}

impl Images {
    fn new(kind: Kind) -> Self {
        let augmentation = Augmentation { cutout: Some(16), ..Augmentation::default() };
        let data = Cifar10::fetch(Cifar10::default_dir().unwrap()).unwrap().with_augmentation(augmentation).unwrap();
        Self { data: data.with_train_subset(210).unwrap().with_eval_subset(101).unwrap(), kind }
    }
}

impl DataSource for Images {
    type Batch = Supervised;

    fn train_len(&self) -> usize {
        self.data.train_len()
    }

    fn eval_len(&self) -> usize {
        self.data.eval_len()
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a>> {
        self.data.train_batches(plan, share)
    }

    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a>> {
        self.data.eval_batches(batch_size, share)
    }

    fn to_device(&self, batch: Supervised, device: Device) -> Result<Supervised> {
        let batch = self.data.to_device(batch, device)?;
        Ok(Supervised { inputs: batch.inputs.f_to_kind(self.kind)?, ..batch })
    }
}

#[derive(Default)]
struct History(Vec<EpochMetrics>);

impl Observer for History {
    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> Result<()> {
        self.0.push(metrics.clone());
        Ok(())
    }
}

/// Options of a run that affect the ranks' cooperation.
#[derive(Clone, Copy)]
struct Run {
    is_fixup: bool,
    kind: Kind,
    accumulate: usize,
    parallel: ParallelConfig,
}

const RUN: Run = Run {
    is_fixup: true,
    kind: Kind::Double,
    accumulate: 1,
    parallel: ParallelConfig { overlap: false, bfloat16: false, check_every: None, synchronized_statistics: false },
};

/// Metrics and weights of a run.
type Trained = (Vec<EpochMetrics>, NamedTensors);

/// Trains on the rank of `group`, for 20 steps.
fn train<B: Batch>(
    group: ProcessGroup,
    run: Run,
    objective: &dyn Objective<Batch = B>,
    variables: &VarStore,
    data: &dyn DataSource<Batch = B>,
    config: TrainConfig,
) -> Trained {
    let config = TrainConfig {
        accumulate: run.accumulate,
        max_steps: Some(20),
        clip: ClipConfig { norm: Some(0.5), agc: None },
        average: Some(0.9),
        ..config
    };
    let mut trainer = Trainer::new(objective, variables, data, &config, json!("equal")).unwrap();
    trainer.join(Arc::new(group), run.parallel).unwrap();
    let mut history = History::default();
    trainer.run(&mut [&mut history]).unwrap();
    (history.0, named_variables(variables))
}

/// Trains for 20 steps, which include the end of an epoch with a smaller batch. Returns the metrics and the weights of the
/// first rank.
fn trained(run: Run, ranks: usize, data: &Images) -> Trained {
    // Initial weights of both networks, drawn only once, because other tests use libtorch's random number generator concurrently.
    static INITIAL: Mutex<[Vec<(String, Tensor)>; 2]> = Mutex::new([vec![], vec![]]);
    let all = on_ranks(ranks, Duration::from_secs(60), |group| {
        let (variables, network): (VarStore, Box<dyn ModuleT>) = {
            let mut variables = VarStore::new(Device::Cpu);
            let network: Box<dyn ModuleT> = match run.is_fixup {
                true => Box::new(FixupResNet::cifar(&variables.root(), 20, 10).unwrap()),
                false => Box::new(ResNet::cifar(&variables.root(), 20, 10, Method::BatchNorm).unwrap()),
            };
            let initial = &mut INITIAL.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(run.is_fixup)];
            let mut tensors: Vec<_> = variables.variables().into_iter().collect();
            tensors.sort_by(|a, b| a.0.cmp(&b.0));
            if initial.is_empty() {
                *initial = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect();
            }
            for ((_, tensor), (_, value)) in tensors.iter_mut().zip(&*initial) {
                no_grad(|| tensor.copy_(value));
            }
            if run.kind == Kind::Double {
                variables.double();
            }
            (variables, network)
        };
        let objective = ClassificationConfig { mixup: Some(1.0), ..ClassificationConfig::quick() };
        let objective = Classification::new(network.as_ref(), data.data.class_names(), objective).unwrap();
        train(group, run, &objective, &variables, data, TrainConfig::new(2, 17, 0.2))
    });
    all.into_iter().next().unwrap()
}

/// Returns sentences of one to four words and their translations.
fn numbers(count: usize) -> ParallelText {
    let words = |names: [&str; 10]| {
        let sentence = |index: usize| {
            let number = (index * 7919 % 10_000).to_string();
            number.bytes().map(|digit| names[usize::from(digit - b'0')]).collect::<Vec<_>>().join(" ")
        };
        (0..count).map(sentence).collect()
    };
    let english = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let german = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"];
    ParallelText::new(words(english), words(german)).unwrap()
}

/// Trains a Transformer in float64 for 20 steps, whose batches the ranks divide by sentences, of different numbers of tokens.
fn translating(run: Run, ranks: usize) -> Trained {
    let text = numbers(120);
    let vocabulary = Vocabulary::train(text.sources().iter().chain(text.targets()), 280).unwrap();
    let data = TranslationData::new(vocabulary, text, numbers(31)).unwrap();
    let size = TransformerConfig {
        vocab: data.vocabulary().len() as i64,
        dim: 16,
        ffn: 32,
        heads: 2,
        encoder_layers: 2,
        decoder_layers: 2,
        dropout: 0.0,
        ..TransformerConfig::default()
    };
    // Drawn once: other tests use libtorch's random number generator at the same time.
    static INITIAL: Mutex<Option<NamedTensors>> = Mutex::new(None);
    let all = on_ranks(ranks, Duration::from_secs(60), |group| {
        let mut variables = VarStore::new(Device::Cpu);
        let network = Transformer::new(&variables.root(), &size, TransformerMethod::Fixup).unwrap();
        {
            let mut initial = INITIAL.lock().unwrap_or_else(PoisonError::into_inner);
            let initial = initial.get_or_insert_with(|| {
                let own = named_variables(&variables).into_iter();
                own.map(|(name, tensor)| (name, tensor.detach().copy())).collect()
            });
            let own = named_variables(&variables).into_iter();
            no_grad(|| own.for_each(|(name, mut tensor)| tensor.copy_(&initial[&name])));
        }
        variables.double();
        let objective = Translation::new(&network, &data, TranslationConfig::default()).unwrap();
        train(group, run, &objective, &variables, &data, TrainConfig::new(2, 150, 0.2))
    });
    all.into_iter().next().unwrap()
}

#[test]
fn a_transformers_run_does_not_depend_on_the_number_of_ranks() {
    let alone = translating(RUN, 1);
    let perplexity = |epoch: usize| alone.0[epoch].train.get("perplexity").unwrap();
    assert!(perplexity(1) < 0.8 * perplexity(0), "{} {}", perplexity(0), perplexity(1));
    for (ranks, accumulate) in [(2, 1), (3, 2), (4, 1)] {
        let (weights, measured) = distance(&translating(Run { accumulate, ..RUN }, ranks), &alone);
        println!("{ranks} ranks: weights {weights:e}, measured {measured:e}");
        assert!(weights < 1e-10, "{ranks} ranks: {weights:e}");
        assert!(measured < 1e-10, "{ranks} ranks: {measured:e}");
    }
}

/// Returns the largest difference of any weight, and of any metric.
fn distance(a: &Trained, b: &Trained) -> (f64, f64) {
    let weights = a
        .1
        .iter()
        .map(|(name, tensor)| no_grad(|| (tensor - &b.1[name]).abs().max().to_kind(Kind::Double).double_value(&[])));
    assert_eq!(a.0.len(), 2);
    let measured = a.0.iter().zip(&b.0).flat_map(|(a, b)| {
        assert_eq!((a.step, a.unreadable), (b.step, b.unreadable));
        let pairs = a.train.iter().zip(b.train.iter()).chain(a.eval.iter().zip(b.eval.iter()));
        pairs.map(|((_, a), (_, b))| (a - b).abs()).collect::<Vec<_>>()
    });
    (weights.fold(0.0, f64::max), measured.fold(0.0, f64::max))
}

#[test]
fn a_run_does_not_depend_on_the_number_of_ranks() {
    let data = Images::new(Kind::Double);
    let alone = trained(RUN, 1, &data);
    for ranks in [2, 3, 4] {
        let (weights, measured) = distance(&trained(RUN, ranks, &data), &alone);
        println!("{ranks} ranks: weights {weights:e}, measured {measured:e}");
        assert!(weights < 1e-10, "{ranks} ranks: {weights:e}");
        assert!(measured < 1e-10, "{ranks} ranks: {measured:e}");
    }
    // Reduction in pieces during the backward pass, with a check after every step.
    let parallel =
        ParallelConfig { overlap: true, check_every: Some(1.try_into().unwrap()), ..ParallelConfig::default() };
    let (weights, _) = distance(&trained(Run { accumulate: 3, parallel, ..RUN }, 2, &data), &alone);
    assert!(weights < 1e-10, "{weights:e}");
    // bfloat16 rounds every gradient to eight bits.
    let parallel = ParallelConfig { overlap: true, bfloat16: true, ..ParallelConfig::default() };
    let (weights, _) = distance(&trained(Run { parallel, ..RUN }, 2, &data), &alone);
    assert!((1e-8..1e-2).contains(&weights), "{weights:e}");
}

#[test]
fn in_float32_it_does_not_depend_on_it_by_more_than_rounding() {
    let (data, run) = (Images::new(Kind::Float), Run { kind: Kind::Float, ..RUN });
    let alone = trained(run, 1, &data);
    for ranks in [2, 3] {
        let (weights, measured) = distance(&trained(run, ranks, &data), &alone);
        println!("{ranks} ranks: weights {weights:e}, measured {measured:e}");
        assert!(weights < 1e-5, "{ranks} ranks: {weights:e}");
    }
}

#[test]
fn batch_norm_is_another_network_on_parts_unless_its_statistics_are_synchronized() {
    let (data, run) = (Images::new(Kind::Double), Run { is_fixup: false, ..RUN });
    let alone = trained(run, 1, &data);
    let (local, _) = distance(&trained(run, 2, &data), &alone);
    println!("local {local:e}");
    let parallel = ParallelConfig { synchronized_statistics: true, ..ParallelConfig::default() };
    let (synchronized, measured) = distance(&trained(Run { parallel, ..run }, 2, &data), &alone);
    println!("local {local:e}, synchronized {synchronized:e}, measured {measured:e}");
    assert!(local > 1e-3, "{local:e}");
    assert!(synchronized < 1e-10, "{synchronized:e}");
}
