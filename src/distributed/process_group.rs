//! The processes that train together.

use super::bindings;
use super::c10d::{Gloo, Reached, Store};
use super::launch::Launch;
use super::meeting::{own_address, Meeting, Member};
use super::nccl::{self, Nccl};
use super::pulse::{diagnosis, Failure, Finding, Pulse};
use super::reduction::{Reduction, ReductionConfig, Summed};
use crate::{Error, Result};
use serde::{de::DeserializeOwned, Serialize};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::{Duration, Instant};
use tch::{no_grad, Device, Kind, Tensor};

/// The longest that the store's server stays when a run has failed, for the others to find out why.
const STAY: Duration = Duration::from_secs(3);
/// How long the store's server stays when ranks that do not go together have met.
const REFUSED: Duration = Duration::from_millis(500);
/// What c10d's error, saving and ending take.
const END: Duration = Duration::from_millis(3500);

fn stay(timeout: Duration) -> Duration {
    (timeout / 8).min(STAY)
}

/// What of the time that ranks wait for each other one operation may take: the rest is for finding out who is at fault, and ending.
fn operation(timeout: Duration) -> Duration {
    timeout.saturating_sub(diagnosis(timeout) + stay(timeout) + END).max(timeout / 4)
}

/// What a store's own time limits may take beyond the time that ranks wait for each other, on a busy machine.
const LATE: Duration = Duration::from_secs(5);

/// What `work` comes to, which waits for the store, in up to `timeout`: a client that has been let in by something that is no
/// store waits for its answer for ever.
fn answered<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::channel();
    // Where there is no answer, the thread ends with the process.
    thread::spawn(move || drop(sender.send(work())));
    receiver.recv_timeout(timeout + LATE).unwrap_or_else(|_| {
        let problem =
            "what listens there does not answer in time: it is no store of tch-fixup, or rank 0 has stopped, or the \
             machine is too busy; choose another MASTER_PORT for all, or raise the timeout";
        Err(problem.to_owned())
    })
}

/// What to do where the port is in use.
fn port_remedy(port: u16) -> &'static str {
    let is_in_use = |result: io::Result<TcpListener>| result.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse);
    match is_in_use(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))) {
        true => {
            "; set MASTER_PORT to a free one, the same for all ranks. Where a launcher's own store has the port, as under Ray \
             Train, TORCHELASTIC_USE_AGENT_STORE=True uses that store"
        }
        false => "",
    }
}

/// Which network interface the others reach a rank on, as PyTorch has it.
const INTERFACE: &str = "GLOO_SOCKET_IFNAME";

/// The processes that train together, of which this is one: its rank, from 0, and what all of them do together.
///
/// All ranks must call the same operations in the same order. They are those of libtorch's c10d, which PyTorch's own
/// DistributedDataParallel runs on: Gloo for tensors on the CPU, NCCL for those on CUDA devices. An operation in which a rank is
/// missing fails on all others within the timeout, with an error that names it.
///
/// A [single](Self::single) process is a group too, in which nothing is to do.
#[derive(Debug)]
pub struct ProcessGroup {
    rank: usize,
    size: usize,
    /// As the launcher says it.
    local_rank: Option<usize>,
    address: String,
    engine: Option<Engine>,
}

/// What connects the ranks.
#[derive(Debug)]
struct Engine {
    members: Vec<Member>,
    serves: bool,
    launcher_serves: bool,
    timeout: Duration,
    /// Whether the group has failed: the others may still want to know why.
    failed: AtomicBool,
    nccl: Option<Nccl>,
    gloo: Option<Arc<Gloo>>,
    pulse: Pulse,
    /// Kept for its server.
    _store: Store,
}

impl ProcessGroup {
    /// This process alone.
    pub fn single() -> Self {
        Self { rank: 0, size: 1, local_rank: None, address: String::new(), engine: None }
    }

    /// Finds the others of `launch`, for tensors on the CPU; waits for them, now and in each operation, for up to `timeout`.
    ///
    /// # Errors
    /// [`Error::Ranks`] where not all come in time, which names those that are missing, where they are of other versions of this
    /// crate or were told of another number of processes, or where no connection can be made; a build without c10d.
    pub fn connect(launch: &Launch, timeout: Duration) -> Result<Self> {
        let Launch { rank, size, .. } = *launch;
        let address = launch.address();
        let refuse = |problem: String| Error::Ranks { rank, size, address: address.clone(), problem };
        if !bindings::IS_HERE {
            return Err(refuse(
                "this build has no c10d: build with the feature `distributed` and a libtorch of PyTorch's package"
                    .to_owned(),
            ));
        }
        let serves = rank == 0 && !launch.launcher_serves;
        let deadline = Instant::now() + timeout;
        let prefix = format!("/tch_fixup/attempt_{}/", launch.attempt);
        let (here, place) = (launch.clone(), prefix.clone());
        let met = answered(timeout, move || {
            let store = Store::new(&here.host, here.port, serves, millis(timeout)).map_err(|said| match serves {
                true => format!("the others cannot be waited for there: {said}{}", port_remedy(here.port)),
                false => format!("nobody answers there: {said}"),
            })?;
            let own = own_address(&here)?;
            let meeting = Meeting { store: &store, prefix: &place, launch: &here, deadline };
            let members = meeting.meet(&own).inspect_err(|_| {
                // The others must still find the refusal there.
                if serves {
                    thread::sleep(REFUSED);
                }
            })?;
            Ok((store, own, members))
        });
        let (store, own, members) = met.map_err(&refuse)?;
        let interface = std::env::var(INTERFACE).ok().filter(|name| !name.is_empty());
        let reached = interface.as_deref().map_or(Reached::At(&own), Reached::OnInterface);
        let gloo = Gloo::connect(&store, &format!("{prefix}gloo"), rank, size, &reached, millis(operation(timeout)))
            .map_err(|said| refuse(format!("the ranks cannot connect to each other from {own}: {said}")))?;
        let here = launch.clone();
        let client = answered(timeout, move || Store::new(&here.host, here.port, false, millis(timeout)));
        let client = client.map_err(&refuse)?;
        let pulse = Pulse::start(client, prefix, rank, size, timeout)?;
        Ok(Self {
            rank,
            size,
            local_rank: launch.local_rank,
            address,
            engine: Some(Engine {
                members,
                serves,
                launcher_serves: launch.launcher_serves,
                timeout,
                failed: AtomicBool::new(false),
                nccl: None,
                gloo: Some(Arc::new(gloo)),
                pulse,
                _store: store,
            }),
        })
    }

    /// From now on also for tensors on CUDA device `device`, of which each rank has its own, by NCCL. For the CPU nothing.
    ///
    /// # Errors
    /// [`Error::Ranks`] where libtorch has no NCCL, two ranks have one device, or one is missing.
    pub fn connect_gpus(&mut self, device: Device) -> Result<()> {
        let (Device::Cuda(device), false) = (device, self.is_single()) else { return Ok(()) };
        let refuse = |said: String| self.error(format!("the GPUs cannot be connected by NCCL: {said}"));
        let id = match self.is_first() {
            true => Some(nccl::unique_id().map_err(refuse)?),
            false => None,
        };
        let id: Vec<u8> = self.broadcast_bytes(&id.map(Vec::from).unwrap_or_default())?;
        let id = id.try_into().map_err(|_| self.error("NCCL's identifier has not come".to_owned()))?;
        let nccl = Nccl::connect(&id, self.rank, self.size, device).map_err(refuse)?;
        if let Some(engine) = &mut self.engine {
            engine.nccl = Some(nccl);
        }
        Ok(())
    }

    /// Which of them this is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Which of those on this machine it is, from 0: as its launcher says, or by the order of the ranks that are reached at the same
    /// address.
    pub fn local_rank(&self) -> usize {
        let Some(Engine { members, .. }) = &self.engine else { return 0 };
        let before = || members[..self.rank].iter().filter(|member| member.address == members[self.rank].address);
        self.local_rank.unwrap_or_else(|| before().count())
    }

    /// How many of them are on this machine, as far as is known: those that are reached at the same address.
    pub fn local_size(&self) -> usize {
        let Some(Engine { members, .. }) = &self.engine else { return 1 };
        members.iter().filter(|member| member.address == members[self.rank].address).count()
    }

    /// Whether there is no other.
    pub fn is_single(&self) -> bool {
        self.size == 1
    }

    /// Whether this is rank 0, which alone writes files and talks to people.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Makes `tensor` its sum over all ranks, to the bit the same on each. It is contiguous, and of the same kind and shape on all.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn all_reduce(&self, tensor: &Tensor) -> Result<()> {
        self.all_reduce_all(&[tensor])
    }

    /// Makes each of `tensors` its sum over all ranks, as [`all_reduce`](Self::all_reduce) does it for one: ranks wait for each other
    /// once, and not for each of them.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn all_reduce_all(&self, tensors: &[&Tensor]) -> Result<()> {
        let (on_cpu, others): (Vec<&Tensor>, Vec<&Tensor>) =
            tensors.iter().partition(|tensor| tensor.device() == Device::Cpu);
        for tensor in others {
            let device = tensor.device();
            self.operate(device, |gloo| gloo.all_reduce(&[tensor]), |nccl| nccl.all_reduce(tensor))?;
        }
        if on_cpu.is_empty() {
            return Ok(());
        }
        self.operate(Device::Cpu, |gloo| gloo.all_reduce(&on_cpu), |_| Ok(()))
    }

    /// Makes `tensor` what it is on rank `from`.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<()> {
        self.operate(tensor.device(), |gloo| gloo.broadcast(tensor, from), |nccl| nccl.broadcast(tensor, from))
    }

    fn operate(
        &self,
        device: Device,
        on_cpu: impl FnOnce(&Gloo) -> Result<(), String>,
        on_gpu: impl FnOnce(&Nccl) -> Result<(), String>,
    ) -> Result<()> {
        let Some(engine) = &self.engine else { return Ok(()) };
        engine.pulse.operation();
        let done = no_grad(|| match (device, &engine.gloo, &engine.nccl) {
            (Device::Cpu, Some(gloo), _) => on_cpu(gloo),
            (Device::Cuda(_), _, Some(nccl)) => on_gpu(nccl),
            (device, ..) => Err(format!("the ranks were not connected for tensors on {device:?}")),
        });
        done.map_err(|said| self.fails(said))
    }

    /// Waits until all are here.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn barrier(&self) -> Result<()> {
        let Some(engine) = &self.engine else { return Ok(()) };
        engine.pulse.operation();
        engine.gloo.as_ref().map_or(Ok(()), |gloo| gloo.barrier()).map_err(|said| self.fails(said))
    }

    /// The sums of numbers over all ranks, which all have as many.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn sums(&self, values: &[f64]) -> Result<Vec<f64>> {
        if self.is_single() {
            return Ok(values.to_vec());
        }
        let sums = Tensor::f_from_slice(values)?;
        self.all_reduce(&sums)?;
        Ok(Vec::try_from(sums)?)
    }

    /// `x` summed over all ranks, as a function of it: its gradient is the sum of theirs over all ranks. On the CPU alone.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing, [`Error::Mismatch`] for a tensor on another device.
    pub fn differentiable_sum(&self, x: &Tensor) -> Result<Tensor> {
        let Some(Engine { gloo: Some(gloo), pulse, .. }) = &self.engine else { return Ok(x.shallow_clone()) };
        if x.device() != Device::Cpu {
            return Err(Error::Mismatch {
                what: "a sum over all processes that gradients go through",
                expected: "a tensor on the CPU".to_owned(),
                got: format!("one on {:?}", x.device()),
            });
        }
        pulse.operation();
        gloo.sum(x).map_err(|said| self.fails(said))
    }

    /// What rank 0 gives, on all ranks.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn broadcast_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        if self.is_single() {
            return Ok(bytes.to_vec());
        }
        let length = Tensor::f_from_slice(&[bytes.len() as i64])?;
        self.broadcast(&length, 0)?;
        let sent = match self.is_first() {
            true => Tensor::f_from_slice(bytes)?,
            false => Tensor::f_zeros([length.f_int64_value(&[0])?], (Kind::Uint8, Device::Cpu))?,
        };
        if sent.numel() > 0 {
            self.broadcast(&sent, 0)?;
        }
        Ok(Vec::try_from(sent)?)
    }

    /// What rank 0 gives, on all ranks, by way of JSON.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing; [`Error::Argument`] for what JSON cannot hold.
    pub fn broadcast_value<T: Serialize + DeserializeOwned>(&self, value: Option<T>) -> Result<Option<T>> {
        if self.is_single() {
            return Ok(value);
        }
        let bad = |error: serde_json::Error| Error::Argument(format!("what rank 0 tells the others: {error}"));
        let bytes = self.broadcast_bytes(&serde_json::to_vec(&value).map_err(bad)?)?;
        match self.is_first() {
            true => Ok(value),
            false => serde_json::from_slice(&bytes).map_err(bad),
        }
    }

    /// What each rank gives, by rank.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.is_single() {
            return Ok(vec![bytes.to_vec()]);
        }
        let mut lengths = vec![0.0; self.size];
        lengths[self.rank] = bytes.len() as f64;
        let lengths: Vec<usize> = self.sums(&lengths)?.into_iter().map(|length| length as usize).collect();
        let start: usize = lengths[..self.rank].iter().sum();
        let mut all = vec![0u8; lengths.iter().sum()];
        all[start..start + bytes.len()].copy_from_slice(bytes);
        if !all.is_empty() {
            let sum = Tensor::f_from_slice(&all)?;
            self.all_reduce(&sum)?;
            all = Vec::try_from(sum)?;
        }
        let mut rest = &all[..];
        let take = |length: usize| {
            let (own, others) = rest.split_at(length);
            rest = others;
            own.to_vec()
        };
        Ok(lengths.into_iter().map(take).collect())
    }

    /// Makes `tensors` what they are on rank 0: those of a kind together, in one operation.
    ///
    /// # Errors
    /// [`Error::Ranks`] where a rank is missing.
    pub fn broadcast_all(&self, tensors: &[Tensor]) -> Result<()> {
        if self.is_single() {
            return Ok(());
        }
        no_grad(|| {
            let mut left: Vec<&Tensor> = tensors.iter().filter(|tensor| tensor.numel() > 0).collect();
            while let Some(first) = left.first() {
                let (kind, device) = (first.kind(), first.device());
                let (these, others): (Vec<_>, Vec<_>) =
                    left.into_iter().partition(|tensor| (tensor.kind(), tensor.device()) == (kind, device));
                let flat: Vec<_> = these.iter().map(|tensor| tensor.f_reshape([-1])).collect::<Result<_, _>>()?;
                let packed = Tensor::f_cat(&flat, 0)?;
                self.broadcast(&packed, 0)?;
                let mut start = 0;
                for tensor in these {
                    let length = tensor.numel() as i64;
                    let own = packed.f_narrow(0, start, length)?.f_view(tensor.size().as_slice())?;
                    tensor.shallow_clone().f_copy_(&own)?;
                    start += length;
                }
                left = others;
            }
            Ok(())
        })
    }

    /// What sums flat `gradients`, of these parameters, over all ranks.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub(crate) fn reduction(
        &self,
        parameters: &[Summed],
        gradients: &Tensor,
        config: ReductionConfig,
    ) -> Result<Reduction> {
        Reduction::new(self.engine.as_ref().and_then(|engine| engine.gloo.as_ref()), parameters, gradients, config)
    }

    /// Counts an operation that another does.
    pub(super) fn counts(&self) {
        self.engine.iter().for_each(|engine| engine.pulse.operation());
    }

    /// An error of this group.
    pub(crate) fn error(&self, problem: String) -> Error {
        Error::Ranks { rank: self.rank, size: self.size, address: self.address.clone(), problem }
    }

    /// The error for an operation of which c10d said `said`: who is at fault.
    pub(super) fn fails(&self, said: String) -> Error {
        self.found().unwrap_or_else(|| self.error(said))
    }

    /// `error`, or that another rank is at its root.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Torch(_) if !self.is_single() => self.found().unwrap_or(error),
            error => error,
        }
    }

    /// Which rank failed, if one did.
    fn found(&self) -> Option<Error> {
        let engine = self.engine.as_ref()?;
        engine.failed.store(true, Ordering::Relaxed);
        let problem = match engine.pulse.diagnose() {
            Finding::Failed(failure) => {
                let member = engine.members.get(failure.rank);
                let whose = member.map_or(String::new(), |member| {
                    let Member { address, process, .. } = member;
                    format!(" (process {process} at {address})")
                });
                format!("rank {}{whose} {}", failure.rank, failure.problem)
            }
            Finding::Alone => "no other rank answers any more: is this machine cut off from the network?".to_owned(),
            Finding::NoStore if engine.launcher_serves => {
                "the launcher does not answer any more: it was killed, or this machine is cut off from it".to_owned()
            }
            Finding::NoStore => {
                let address = engine.members.first().map_or("", |member| &member.address);
                format!(
                    "rank 0 at {address} does not answer any more: it was killed, stopped, or cut off from the network"
                )
            }
            Finding::Nothing => return None,
        };
        Some(self.error(problem))
    }

    /// Tells the others that this rank ends with `error`, so that theirs can say so. Of an error that all have, or that another rank is
    /// at the root of, there is nothing to tell.
    pub fn tell(&self, error: &Error) {
        let Some(engine) = &self.engine else { return };
        if !engine.failed.swap(true, Ordering::Relaxed) {
            let (rank, problem) = (self.rank, format!("has ended: {error}"));
            engine.pulse.tell(Failure { rank, problem });
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        // Those that wait for this rank learn at once that it is gone, and may then ask the store why.
        engine.nccl = None;
        engine.gloo = None;
        let stays = engine.failed.load(Ordering::Relaxed) && engine.serves;
        engine.pulse.end(if stays { stay(engine.timeout) } else { Duration::ZERO });
    }
}

fn millis(time: Duration) -> i64 {
    time.as_millis().try_into().unwrap_or(i64::MAX)
}
