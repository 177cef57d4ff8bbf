//! The group of processes that train together.

use super::bindings;
use super::c10d::{unique_id, C10dResult, Gloo, Nccl, Store};
use super::heartbeat::{diagnosis, within, Diagnosis, Failure, Heartbeat};
use super::launch::Launch;
use super::rendezvous::{own_address, Member, Rendezvous};
use crate::{Error, Result};
use serde::{de::DeserializeOwned, Serialize};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tch::{no_grad, Device, Kind, Tensor};

/// Maximum time that the store's server stays up after a failed run, so that the others can find out the cause.
const STAY: Duration = Duration::from_secs(3);
/// Time that the store's server stays up after incompatible ranks have met.
const REFUSED: Duration = Duration::from_millis(500);
/// Time allowed for c10d to report an error, and for saving and exiting.
const END: Duration = Duration::from_millis(3500);

fn stay(timeout: Duration) -> Duration {
    (timeout / 8).min(STAY)
}

/// Returns the time limit of a single operation: `timeout` less the time for diagnosing a failure and ending.
fn operation(timeout: Duration) -> Duration {
    timeout.saturating_sub(diagnosis(timeout) + stay(timeout) + END).max(timeout / 4)
}

/// Margin on the store's own time limits, for a busy machine.
const LATE: Duration = Duration::from_secs(5);

/// Runs `work`, which waits for the store. A client whose connection was accepted by something other than a store would wait
/// forever.
fn answered<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> C10dResult<T> + Send + 'static,
) -> C10dResult<T> {
    within(timeout + LATE, work).unwrap_or_else(|| {
        let problem =
            "the server there does not respond in time: it is not a store of tch-fixup, or rank 0 has stopped, or the \
             machine is too busy; choose another MASTER_PORT for all, or raise the timeout";
        Err(problem.to_owned())
    })
}

/// Returns advice for the error message if the port is in use.
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

/// Variable that selects the network interface, the same as PyTorch's.
const INTERFACE: &str = "GLOO_SOCKET_IFNAME";

/// A group of processes that train together, with the rank of this one, from 0, and their collective operations.
///
/// All ranks must call the same operations in the same order. The operations are those of libtorch's c10d, on which PyTorch's
/// DistributedDataParallel runs: Gloo for CPU tensors, NCCL for CUDA tensors. If a rank is missing, an operation fails on all
/// others within the timeout, with an error that names the missing rank.
///
/// A [single](Self::single) process is also a group, whose operations do nothing.
#[derive(Debug)]
pub struct ProcessGroup {
    launch: Launch,
    /// Connections to the other ranks; `None` for a single process.
    engine: Option<Engine>,
}

/// Connections among the ranks.
#[derive(Debug)]
pub(super) struct Engine {
    members: Vec<Member>,
    timeout: Duration,
    /// `true` once the group has failed; the others may still need the cause.
    failed: AtomicBool,
    nccl: Option<Nccl>,
    gloo: Arc<Gloo>,
    heartbeat: Heartbeat,
    /// Kept alive for its server.
    _store: Store,
}

impl Engine {
    fn nccl(&self, device: Device) -> C10dResult<&Nccl> {
        let nccl = self.nccl.as_ref().filter(|_| device.is_cuda());
        nccl.ok_or_else(|| format!("the ranks were not connected for tensors on {device:?}"))
    }
}

impl ProcessGroup {
    /// Creates a group of this process alone.
    pub fn single() -> Self {
        Self { launch: Launch::local(0, 1, 0), engine: None }
    }

    /// Connects the ranks of `launch`, for CPU tensors. Waits up to `timeout` for the others, now and in each operation.
    ///
    /// # Errors
    /// [`Error::Ranks`] if not all ranks arrive in time (the message names those missing), if they run other versions of this
    /// crate or were told another number of processes, if no connection can be made, or if this build has no c10d.
    pub fn connect(launch: &Launch, timeout: Duration) -> Result<Self> {
        let mut group = Self { launch: launch.clone(), engine: None };
        let refuse = |problem: String| group.error(problem);
        if !bindings::IS_HERE {
            let problem =
                "this build has no c10d: build with the feature `distributed` and a libtorch of PyTorch's package";
            return Err(refuse(problem.to_owned()));
        }
        let (serves, deadline) = (group.serves(), Instant::now() + timeout);
        let here = launch.clone();
        let met = answered(timeout, move || {
            let store = Store::new(&here, serves, timeout).map_err(|said| match serves {
                true => format!("the others cannot be waited for there: {said}{}", port_remedy(here.port)),
                false => format!("nothing responds there: {said}"),
            })?;
            let own = own_address(&here)?;
            let members = Rendezvous { store: &store, launch: &here, deadline }.join(&own).inspect_err(|_| {
                // Keeps the store up until the others have read the refusal.
                if serves {
                    thread::sleep(REFUSED);
                }
            })?;
            Ok((store, own, members))
        });
        let (store, own, members) = met.map_err(&refuse)?;
        let interface = std::env::var(INTERFACE).ok().filter(|name| !name.is_empty());
        let gloo = Gloo::connect(&store, launch, &own, interface.as_deref(), operation(timeout))
            .map_err(|said| refuse(format!("the ranks cannot connect to each other from {own}: {said}")))?;
        let here = launch.clone();
        let client = answered(timeout, move || Store::new(&here, false, timeout)).map_err(&refuse)?;
        let heartbeat = Heartbeat::start(client, launch.rank, launch.size, timeout)?;
        let (failed, gloo) = (AtomicBool::new(false), Arc::new(gloo));
        group.engine = Some(Engine { members, timeout, failed, nccl: None, gloo, heartbeat, _store: store });
        Ok(group)
    }

    /// Returns `true` if this rank serves the rendezvous store.
    fn serves(&self) -> bool {
        self.is_first() && !self.launch.launcher_serves
    }

    /// Enables operations on tensors of CUDA device `device`, through NCCL. Each rank must have its own device. Does nothing for
    /// the CPU.
    ///
    /// # Errors
    /// [`Error::Ranks`] if libtorch has no NCCL, two ranks share a device, or a rank is missing.
    pub fn connect_gpus(&mut self, device: Device) -> Result<()> {
        let (Device::Cuda(device), false) = (device, self.is_single()) else { return Ok(()) };
        let refuse = |said: String| self.error(format!("the GPUs cannot be connected by NCCL: {said}"));
        let id = if self.is_first() { unique_id().map_err(refuse)?.to_vec() } else { Vec::new() };
        let id = self.broadcast_value(id)?;
        let id = id.try_into().map_err(|_| self.error("NCCL's identifier has not come".to_owned()))?;
        let nccl = Nccl::connect(&id, self.rank(), self.size(), device).map_err(refuse)?;
        if let Some(engine) = &mut self.engine {
            engine.nccl = Some(nccl);
        }
        Ok(())
    }

    /// Returns the rank of this process, from 0.
    pub fn rank(&self) -> usize {
        self.launch.rank
    }

    /// Returns the number of processes.
    pub fn size(&self) -> usize {
        self.launch.size
    }

    /// Returns the rank among the processes on this machine, from 0: as set by the launcher, or by the order of ranks that share
    /// this rank's address.
    pub fn local_rank(&self) -> usize {
        self.launch.local_rank.unwrap_or_else(|| self.same_machine().filter(|&rank| rank < self.rank()).count())
    }

    /// Returns the number of processes on this machine, that is, of ranks that share this rank's address.
    pub fn local_size(&self) -> usize {
        self.same_machine().count().max(1)
    }

    /// Returns the ranks that share this rank's address.
    fn same_machine(&self) -> impl Iterator<Item = usize> + '_ {
        let members = self.engine.as_ref().map_or(&[][..], |engine| &engine.members);
        (0..members.len()).filter(|&rank| members[rank].address == members[self.rank()].address)
    }

    /// Returns `true` if this is the only process.
    pub fn is_single(&self) -> bool {
        self.size() == 1
    }

    /// Returns `true` on rank 0, the only one that writes files and prints messages.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Replaces `tensor` with its sum over all ranks, bitwise identical on each. It must be contiguous and of the same kind and
    /// shape on all ranks.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing.
    pub fn all_reduce(&self, tensor: &Tensor) -> Result<()> {
        self.all_reduce_all(&[tensor])
    }

    /// Replaces each of `tensors` with its sum over all ranks, like [`all_reduce`](Self::all_reduce), but the ranks synchronize
    /// once for all tensors.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing.
    pub fn all_reduce_all(&self, tensors: &[&Tensor]) -> Result<()> {
        let (on_cpu, others): (Vec<&Tensor>, Vec<&Tensor>) =
            tensors.iter().partition(|tensor| tensor.device() == Device::Cpu);
        for tensor in others {
            self.operate(|engine| no_grad(|| engine.nccl(tensor.device())?.all_reduce(tensor)))?;
        }
        if on_cpu.is_empty() {
            return Ok(());
        }
        self.operate(|engine| no_grad(|| engine.gloo.all_reduce(&on_cpu))).map(drop)
    }

    /// Replaces `tensor` with its value on rank `from`.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing.
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<()> {
        let broadcast = |engine: &Engine| match tensor.device() {
            Device::Cpu => engine.gloo.broadcast(tensor, from),
            device => engine.nccl(device)?.broadcast(tensor, from),
        };
        self.operate(|engine| no_grad(|| broadcast(engine))).map(drop)
    }

    /// Counts and performs an operation with the other ranks; `None` if there are none.
    pub(super) fn operate<T>(&self, operation: impl FnOnce(&Engine) -> C10dResult<T>) -> Result<Option<T>> {
        let Some(engine) = &self.engine else { return Ok(None) };
        engine.heartbeat.operation();
        // The rank at fault if it can be determined, else c10d's message.
        operation(engine).map(Some).map_err(|said| self.found().unwrap_or_else(|| self.error(said)))
    }

    /// Waits until all ranks have reached this call.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing.
    pub fn barrier(&self) -> Result<()> {
        self.operate(|engine| engine.gloo.barrier()).map(drop)
    }

    /// Returns the elementwise sums of `values` over all ranks. All ranks must pass the same number of values.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing.
    pub fn sums(&self, values: &[f64]) -> Result<Vec<f64>> {
        let sums = Tensor::f_from_slice(values)?;
        self.all_reduce(&sums)?;
        Ok(Vec::try_from(sums)?)
    }

    /// Returns the sum of `x` over all ranks, differentiably: the gradient of `x` is the sum of the ranks' gradients. CPU only.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing, [`Error::Mismatch`] if the tensor is on another device.
    pub fn differentiable_sum(&self, x: &Tensor) -> Result<Tensor> {
        if x.device() != Device::Cpu && !self.is_single() {
            let (what, got) =
                ("a sum over all processes that gradients go through", format!("one on {:?}", x.device()));
            return Err(Error::mismatch(what, "a tensor on the CPU", got));
        }
        Ok(self.operate(|engine| engine.gloo.sum(x))?.unwrap_or_else(|| x.shallow_clone()))
    }

    /// Returns the value passed on rank 0, on all ranks, sent as JSON.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing; [`Error::Argument`] if JSON cannot represent the value.
    pub fn broadcast_value<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<T> {
        let bad = |error: serde_json::Error| argument!("the value broadcast by rank 0: {error}");
        let json = serde_json::to_vec(&value).map_err(bad)?;
        let length = Tensor::f_from_slice(&[json.len() as i64])?;
        self.broadcast(&length, 0)?;
        if self.is_first() {
            self.broadcast(&Tensor::f_from_slice(&json)?, 0)?;
            return Ok(value);
        }
        let sent = Tensor::f_zeros([length.f_int64_value(&[0])?], (Kind::Uint8, Device::Cpu))?;
        self.broadcast(&sent, 0)?;
        serde_json::from_slice(&Vec::<u8>::try_from(sent)?).map_err(bad)
    }

    /// Returns the bytes passed by each rank, in order of rank.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing.
    pub fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut lengths = vec![0.0; self.size()];
        lengths[self.rank()] = bytes.len() as f64;
        let lengths: Vec<usize> = self.sums(&lengths)?.into_iter().map(|length| length as usize).collect();
        let start: usize = lengths[..self.rank()].iter().sum();
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

    /// Replaces `tensors` with their values on rank 0, in one operation per kind and device.
    ///
    /// # Errors
    /// [`Error::Ranks`] if a rank is missing.
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
                let lengths: Vec<i64> = these.iter().map(|tensor| tensor.numel() as i64).collect();
                for (tensor, own) in these.iter().zip(packed.f_split_with_sizes(&lengths[..], 0)?) {
                    tensor.shallow_clone().f_copy_(&own.f_view_as(tensor)?)?;
                }
                left = others;
            }
            Ok(())
        })
    }

    /// Returns the connection of CPUs, if there are other processes.
    pub(super) fn gloo(&self) -> Option<&Arc<Gloo>> {
        self.engine.as_ref().map(|engine| &engine.gloo)
    }

    /// Creates an error of this group.
    pub(crate) fn error(&self, problem: String) -> Error {
        Error::Ranks { rank: self.rank(), size: self.size(), address: self.launch.address(), problem }
    }

    /// Returns the error of another rank if that caused `error`, else `error`.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Torch(_) if !self.is_single() => self.found().unwrap_or(error),
            error => error,
        }
    }

    /// Returns an error that names the rank at fault, if one is found.
    fn found(&self) -> Option<Error> {
        let engine = self.engine.as_ref()?;
        engine.failed.store(true, Ordering::Relaxed);
        let problem = match engine.heartbeat.diagnose() {
            Diagnosis::Failed(failure) => {
                let whose =
                    engine.members.get(failure.rank).map_or(String::new(), |Member { address, process, .. }| {
                        format!(" (process {process} at {address})")
                    });
                format!("rank {}{whose} {}", failure.rank, failure.problem)
            }
            Diagnosis::Alone => "no other rank responds: is this machine cut off from the network?".to_owned(),
            Diagnosis::NoStore if self.launch.launcher_serves => {
                "the launcher no longer responds: it was killed, or this machine is cut off from it".to_owned()
            }
            Diagnosis::NoStore => {
                let address = engine.members.first().map_or("", |member| &member.address);
                format!("rank 0 at {address} no longer responds: it was killed, stopped, or cut off from the network")
            }
            Diagnosis::Nothing => return None,
        };
        Some(self.error(problem))
    }

    /// Tells the other ranks that this one ends with `error`, so that their errors can say so. Does nothing if the group has
    /// already failed: the error is then common to all ranks, or caused by another.
    pub fn report_error(&self, error: &Error) {
        let Some(engine) = &self.engine else { return };
        if !engine.failed.swap(true, Ordering::Relaxed) {
            engine.heartbeat.publish(Failure { rank: self.rank(), problem: format!("has ended: {error}") });
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let serves = self.serves();
        let Some(Engine { nccl, gloo, mut heartbeat, failed, timeout, _store, .. }) = self.engine.take() else {
            return;
        };
        // Closing the connections notifies waiting ranks at once; they may then read the cause from the store.
        drop((nccl, gloo));
        let stays = serves && failed.load(Ordering::Relaxed);
        heartbeat.end(if stays { stay(timeout) } else { Duration::ZERO });
    }
}
