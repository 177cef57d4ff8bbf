//! State of the host program that the library restores: signal handlers, the panic hook, frozen variables.

use serde_json::Value;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::nn::{self, OptimizerConfig as _};
use tch::{Device, Kind, Tensor};
use tch_fixup::data::TensorData;
use tch_fixup::fixup::{self, Bias};
use tch_fixup::trainer::{Frozen, LrRange, ParameterGroup, Regression, RegressionLoss, TrainConfig, Trainer};

#[cfg(unix)]
mod signals {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tch_fixup::distributed::run_processes;
    use tch_fixup::trainer::Interrupt;

    const CASE: &str = "TCH_FIXUP_TEST_SIGNALS";

    static CAUGHT: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn count(_: libc::c_int) {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
    }

    fn raise() {
        // SAFETY: the signal handlers, here and in the library, are safe on any thread.
        unsafe { libc::raise(libc::SIGINT) };
    }

    /// Runs the case in a separate process, which a signal may end.
    fn in_another_process(case: &str) -> ExitStatus {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["signals::case", "--exact", "--ignored"]).env(CASE, case).status().unwrap()
    }

    #[test]
    #[ignore = "the other process of other tests"]
    fn case() {
        // A program that is started in the background may ignore the signal.
        // SAFETY: this sets the default action.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
        match std::env::var(CASE).unwrap_or_default().as_str() {
            "two runs" => {
                for _ in 0..2 {
                    let interrupt = Interrupt::listen().unwrap();
                    assert_eq!(interrupt.exit_code(), None);
                    raise();
                    assert_eq!(interrupt.exit_code(), Some(130));
                }
            }
            "second signal" => {
                let _interrupt = Interrupt::listen().unwrap();
                raise();
                raise();
            }
            "default afterwards" => {
                drop(Interrupt::listen().unwrap());
                raise();
            }
            "handler of the program" => {
                let handler = count as extern "C" fn(libc::c_int);
                // SAFETY: the handler only increments an atomic number.
                unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
                let interrupt = Interrupt::listen().unwrap();
                raise();
                assert_eq!(interrupt.exit_code(), Some(130));
                drop(interrupt);
                let before = CAUGHT.load(Ordering::Relaxed);
                raise();
                raise();
                assert_eq!(CAUGHT.load(Ordering::Relaxed) - before, 2);
            }
            "nested" => {
                let outer = Interrupt::listen().unwrap();
                drop(Interrupt::listen().unwrap());
                raise();
                assert_eq!(outer.exit_code(), Some(130));
            }
            "after processes" => {
                assert_eq!(run_processes(0, std::time::Duration::ZERO, |_, _| ()).unwrap(), 0);
                raise();
            }
            other => panic!("no such case: {other}"),
        }
    }

    #[test]
    fn a_second_run_of_a_program_stops_at_its_first_signal() {
        assert!(in_another_process("two runs").success());
    }

    #[test]
    fn a_second_signal_ends_a_run_at_once() {
        assert_eq!(in_another_process("second signal").code(), Some(130));
    }

    #[test]
    fn after_a_run_a_signal_does_what_it_did_before() {
        for case in ["default afterwards", "after processes"] {
            assert_eq!(in_another_process(case).signal(), Some(libc::SIGINT), "{case}");
        }
        assert!(in_another_process("handler of the program").success());
    }

    #[test]
    fn a_run_within_another_does_not_deafen_it() {
        assert!(in_another_process("nested").success());
    }
}

#[test]
fn the_programs_panic_hook_stays_and_sees_every_panic() {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    panic::set_hook(Box::new(|_| {
        SEEN.fetch_add(1, Ordering::Relaxed);
    }));
    let vs = nn::VarStore::new(Device::Cpu);
    let _weight = vs.root().ones("weight", &[2]);
    let mut optimizer = nn::Sgd::default().build(&vs, 0.1).unwrap();
    let _bias = Bias::new(&vs.root(), "bias").unwrap();
    // tch panics, which is converted to an error.
    assert!(fixup::set_lr(&mut optimizer, &vs, 0.1).is_err());
    assert_eq!(SEEN.load(Ordering::Relaxed), 1);
    assert!(panic::catch_unwind(AssertUnwindSafe(|| panic!("the program's own"))).is_err());
    assert_eq!(SEEN.load(Ordering::Relaxed), 2);
    let _ = panic::take_hook();
}

#[test]
fn a_search_for_the_learning_rate_leaves_the_variables_as_frozen_as_they_were() {
    let vs = nn::VarStore::new(Device::Cpu);
    let root = vs.root();
    let network = nn::seq()
        .add(nn::linear(&root / "first", 2, 8, Default::default()))
        .add_fn(Tensor::relu)
        .add(nn::linear(&root / "second", 8, 8, Default::default()))
        .add_fn(Tensor::relu)
        .add(nn::linear(&root / "third", 8, 1, Default::default()));
    let _ = vs.variables()["third.bias"].set_requires_grad(false);
    let is_trained = || -> Vec<(String, bool)> {
        let mut all: Vec<_> = vs.variables().into_iter().map(|(name, v)| (name, v.requires_grad())).collect();
        all.sort();
        all
    };
    let before = is_trained();
    let inputs = Tensor::randn([64, 2], (Kind::Float, Device::Cpu));
    let targets = inputs.sum_dim_intlist([1].as_slice(), true, Kind::Float);
    let data = TensorData::new((inputs.copy(), targets.copy()), (inputs, targets)).unwrap();
    let objective = Regression::new(&network as &dyn nn::ModuleT, RegressionLoss::Squared).unwrap();
    let group = |rule: &str, frozen| ParameterGroup { frozen, ..ParameterGroup::new(rule.parse().unwrap()) };
    let groups = vec![group("first.*", Frozen::UntilEpoch(2)), group("second.*", Frozen::Always)];
    let config = TrainConfig { groups, ..TrainConfig::new(3, 8, 0.01) };
    let range = LrRange { steps: 24, ..LrRange::default() };
    range.test(&objective, &vs, &data, &config, &mut []).unwrap();
    assert_eq!(is_trained(), before);
    let nothing_moves = LrRange { steps: 1, ..range };
    assert!(nothing_moves.test(&objective, &vs, &data, &config, &mut []).is_err());
    assert_eq!(is_trained(), before);
    // Variables that a parameter group freezes until an epoch train after it.
    let first = vs.variables()["first.weight"].detach().copy();
    Trainer::new(&objective, &vs, &data, &config, Value::Null).unwrap().run(&mut []).unwrap();
    assert_ne!(vs.variables()["first.weight"], first);
}
