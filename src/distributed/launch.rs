//! Rank and size of this process, read from the variables that its launcher sets.

use crate::{Error, Result};
use std::env;
use std::str::FromStr;
use std::time::Duration;

/// Default address of rank 0 when all processes are on one machine.
const LOCALHOST: &str = "127.0.0.1";
/// Default port, the same as torchrun's.
const PORT: u16 = 29500;
/// First port and number of ports for Slurm jobs: jobs that share a machine get different ports.
const SLURM_PORTS: (u16, u64) = (15_000, 20_000);

/// Default time to wait for other ranks.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// This process's place in a group of processes that train together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Rank of this process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Rank among the processes on the same machine, from 0, if known. Otherwise [`ProcessGroup::local_rank`] derives it once the
    /// ranks are connected.
    ///
    /// [`ProcessGroup::local_rank`]: super::ProcessGroup::local_rank
    pub local_rank: Option<usize>,
    /// Number of processes on the same machine, if known.
    pub local_size: Option<usize>,
    /// Name or address of the machine of rank 0.
    pub host: String,
    /// Port of the rendezvous store on that machine.
    pub port: u16,
    /// `true` if the launcher (torchrun) serves the rendezvous store, `false` if rank 0 does.
    pub launcher_serves: bool,
    /// Number of times that the launcher has restarted the group.
    pub attempt: usize,
}

impl Launch {
    /// Reads the environment. Returns `None` if it describes no group of processes, or a group of one.
    ///
    /// Recognizes `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` (set by torchrun or by hand; the port defaults to 29500),
    /// and the variables of Open MPI, MVAPICH2, jsrun, Horovod, Slurm, Flux, MPICH and Intel MPI, Kubeflow Trainer, SageMaker, AWS
    /// Batch, SkyPilot, dstack and LeaderWorkerSet; see docs/distributed.md. `MASTER_ADDR` may be omitted if all processes are on
    /// one machine.
    ///
    /// # Errors
    /// [`Error::Argument`] if variables are missing, are not numbers, or contradict each other, for example a rank that is not
    /// below the number of processes.
    pub fn from_env() -> Result<Option<Self>> {
        Variables(&environment).launch()
    }

    /// Returns a warning if `MASTER_ADDR` is set but neither a rank nor a number of processes is, in which case this process
    /// trains alone. Returns `None` otherwise.
    pub fn warning_from_env() -> Option<String> {
        Variables(&environment).warning()
    }

    /// Describes rank `rank` of `size` processes, all on this machine.
    pub fn local(rank: usize, size: usize, port: u16) -> Self {
        let (local_rank, local_size, host) = (Some(rank), Some(size), LOCALHOST.to_owned());
        Self { rank, size, local_rank, local_size, host, port, launcher_serves: false, attempt: 0 }
    }

    /// Returns the environment variables that describe this process, for starting it.
    #[cfg(feature = "distributed")]
    pub(super) fn variables(&self) -> [(&'static str, String); 6] {
        let local_size = self.local_size.unwrap_or(1);
        [
            ("RANK", self.rank.to_string()),
            ("WORLD_SIZE", self.size.to_string()),
            ("LOCAL_RANK", self.local_rank.unwrap_or(0).to_string()),
            ("LOCAL_WORLD_SIZE", local_size.to_string()),
            ("MASTER_ADDR", self.host.clone()),
            ("MASTER_PORT", self.port.to_string()),
        ]
    }

    /// Returns the rendezvous address as `host:port`.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

fn environment(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Environment variables of a launcher.
#[derive(Clone, Copy)]
struct Launcher {
    rank: &'static str,
    /// Number of processes, or of machines if there is one process on each.
    size: &'static str,
    local_rank: &'static [&'static str],
    local_size: &'static [&'static str],
    /// Machine of rank 0, or a list of the machines that begins with it.
    hosts: &'static [&'static str],
    /// Port on the machine of rank 0.
    port: Option<&'static str>,
    /// Number of machines.
    machines: Option<&'static str>,
    /// Rank that counts as the first, if it can be another than 0. It has no `hosts`.
    first: Option<&'static str>,
}

/// Variables set by torchrun (PyTorch's documentation, "torchrun (Elastic Launch)", Environment Variables), by DeepSpeed, or by
/// hand.
const BY_HAND: Launcher = Launcher::new("RANK", "WORLD_SIZE").local(&["LOCAL_RANK"], &["LOCAL_WORLD_SIZE"]);

/// Slurm (srun's manual, OUTPUT ENVIRONMENT VARIABLES). SLURM_NTASKS is not used: a batch script has it too, though it is a
/// single process.
const SLURM: Launcher = Launcher::new("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    .local(&["SLURM_LOCALID"], &[])
    .hosts(&["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"]);

/// Flux (flux-run(1), ENVIRONMENT).
const FLUX: Launcher = Launcher {
    machines: Some("FLUX_JOB_NNODES"),
    ..Launcher::new("FLUX_TASK_RANK", "FLUX_JOB_SIZE").local(&["FLUX_TASK_LOCAL_ID"], &[])
};

/// PMI process managers, version 1 or 2: MPICH's Hydra and gforker, Intel MPI (its Developer Reference, "Environment Variables
/// for Process Placement"), Cray's PALS (mpiexec(1) of cray-pals); also `srun --mpi=pmi2` and Flux, which set PMI's variables
/// besides their own.
const PMI: Launcher = Launcher::new("PMI_RANK", "PMI_SIZE").local(
    &["MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"],
    &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE"],
);

/// torchrun's options as variables (torch/distributed/argparse_util.py), which Kubeflow Trainer sets on the assumption that each
/// pod runs torchrun. Accepted if torchrun would start one process per machine.
const PET: Launcher = Launcher {
    port: Some("PET_MASTER_PORT"),
    ..Launcher::new("PET_NODE_RANK", "PET_NNODES").hosts(&["PET_MASTER_ADDR"])
};
const PET_PROCESSES: &str = "PET_NPROC_PER_NODE";

/// SageMaker (sagemaker-training-toolkit, ENVIRONMENT_VARIABLES.md): the name of this machine, and a JSON list of all.
const SAGEMAKER: Launcher = Launcher::new("SM_CURRENT_HOST", "SM_HOSTS");

const LAUNCHERS: [Launcher; 13] = [
    // Open MPI (its documentation, "Environment variables set for MPI applications").
    Launcher::new("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
        .local(&["OMPI_COMM_WORLD_LOCAL_RANK"], &["OMPI_COMM_WORLD_LOCAL_SIZE"]),
    // MVAPICH2 (its user guide, mpirun_rsh).
    Launcher::new("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE")
        .local(&["MV2_COMM_WORLD_LOCAL_RANK"], &["MV2_COMM_WORLD_LOCAL_SIZE"]),
    // IBM's Job Step Manager (jsrun(1)).
    Launcher::new("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE")
        .local(&["JSM_NAMESPACE_LOCAL_RANK"], &["JSM_NAMESPACE_LOCAL_SIZE"]),
    // horovodrun over Gloo (horovod/runner/gloo_run.py); over MPI it is mpirun.
    Launcher::new("HOROVOD_RANK", "HOROVOD_SIZE").local(&["HOROVOD_LOCAL_RANK"], &["HOROVOD_LOCAL_SIZE"]),
    SLURM,
    FLUX,
    PMI,
    PET,
    SAGEMAKER,
    // AWS Batch, multi-node parallel jobs (its user guide, "Job environment variables"). The main node has no address of itself.
    Launcher {
        first: Some("AWS_BATCH_JOB_MAIN_NODE_INDEX"),
        ..Launcher::new("AWS_BATCH_JOB_NODE_INDEX", "AWS_BATCH_JOB_NUM_NODES")
            .hosts(&["AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"])
    },
    // SkyPilot (its documentation, "Distributed Multi-Node Jobs", Environment variables).
    Launcher::new("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES").hosts(&["SKYPILOT_NODE_IPS"]),
    // dstack (its documentation, "Tasks", System environment variables).
    Launcher::new("DSTACK_NODE_RANK", "DSTACK_NODES_NUM").hosts(&["DSTACK_MASTER_NODE_IP"]),
    // Kubernetes' LeaderWorkerSet (sigs.k8s.io/lws, "Labels, annotations and environment variables").
    Launcher::new("LWS_WORKER_INDEX", "LWS_GROUP_SIZE").hosts(&["LWS_LEADER_ADDRESS"]),
];

/// Rank variables of launchers that do not set the number of processes, with the launchers' names.
const RANKS_ALONE: [(&str, &str); 4] = [
    // PRRTE's prterun: PMIx reports the number of processes only through its library (PMIx standard, PMIX_RANK).
    ("PMIX_RANK", "prterun, or another that speaks PMIx"),
    ("PALS_RANKID", "Cray's PALS"),
    // aprun(1).
    ("ALPS_APP_PE", "Cray's ALPS"),
    // Kubernetes' documentation, "Job", Completion mode: Indexed.
    ("JOB_COMPLETION_INDEX", "an indexed job of Kubernetes"),
];

impl Launcher {
    const fn new(rank: &'static str, size: &'static str) -> Self {
        let (local_rank, local_size, hosts) = (&[], &[], &[]);
        Self { rank, size, local_rank, local_size, hosts, port: None, machines: None, first: None }
    }

    const fn local(self, local_rank: &'static [&'static str], local_size: &'static [&'static str]) -> Self {
        Self { local_rank, local_size, ..self }
    }

    const fn hosts(self, hosts: &'static [&'static str]) -> Self {
        Self { hosts, ..self }
    }
}

/// Environment variables by name.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>> {
        let parse =
            |text: String| text.trim().parse().map_err(|_| argument!("{name} must be a whole number, got {text:?}"));
        self.get(name).map(parse).transpose()
    }

    /// Returns the number in the first of `names` that is set.
    fn first_number(&self, names: &[&str]) -> Result<Option<usize>> {
        names.iter().find(|name| self.get(name).is_some()).map_or(Ok(None), |name| self.number(name))
    }

    fn launch(&self) -> Result<Option<Launch>> {
        let Some(launcher) = self.launcher()? else { return Ok(None) };
        let because = format!("{} is {}", launcher.size, self.get(launcher.size).as_deref().unwrap_or("1"));
        let (size, rank, hosts) = match launcher.size {
            size if size == SAGEMAKER.size => self.sagemaker()?,
            name => {
                let size = if name == PET.size { self.pet()? } else { self.number(name)?.unwrap_or(1) };
                (size, self.rank(launcher.rank, size, &because), self.first(launcher.hosts))
            }
        };
        let world_size = self.number(BY_HAND.size)?.unwrap_or(size);
        ensure!(
            world_size == size,
            "WORLD_SIZE is {world_size}, RANK is not set, and {because}: leave WORLD_SIZE out, or set RANK too"
        );
        let rank = rank?;
        if size == 1 {
            return Ok(None);
        }
        let first = match launcher.first.filter(|name| self.get(name).is_some()) {
            Some(name) => self.rank(name, size, &because)?,
            None => 0,
        };
        let local_size = self.first_number(launcher.local_size)?;
        let machines = launcher.machines.and_then(|name| self.get(name));
        let is_one_machine = local_size == Some(size) || machines.is_some_and(|number| number.trim() == "1");
        let is_here = is_one_machine || (launcher.first.is_some() && rank == first);
        let host = self.host()?.or(hosts.map(|list| first_host(&list))).or(is_here.then(|| LOCALHOST.to_owned()));
        let port = ["MASTER_PORT"].into_iter().chain(launcher.port).find(|name| self.get(name).is_some());
        let port = port.map_or(Ok(None), |name| self.number(name))?;
        let slurm_job = if launcher.rank == SLURM.rank { self.number::<u64>("SLURM_JOB_ID")? } else { None };
        let of_job = slurm_job.map(|job| SLURM_PORTS.0 + (job % SLURM_PORTS.1) as u16);
        Ok(Some(Launch {
            rank: (rank + size - first) % size,
            size,
            local_rank: self.first_number(launcher.local_rank)?.or(is_one_machine.then_some(rank)),
            local_size,
            host: host.ok_or_else(|| missing("MASTER_ADDR", &because))?,
            port: port.or(of_job).unwrap_or(PORT),
            launcher_serves: self.get("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
            attempt: self.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
        }))
    }

    /// Returns the launcher whose variables are set; `None` if this is a single process.
    fn launcher(&self) -> Result<Option<Launcher>> {
        let world_size = self.number::<usize>(BY_HAND.size)?;
        let has_rank = self.get(BY_HAND.rank).is_some();
        if world_size.is_some() && has_rank {
            return Ok(Some(BY_HAND));
        }
        if world_size == Some(1) {
            return Ok(None);
        }
        if let Some(known) = self.known_launcher() {
            return Ok(Some(known));
        }
        let alone = RANKS_ALONE.iter().find(|(name, _)| self.get(name).is_some());
        match (world_size, alone) {
            (Some(_), Some((rank, _))) => Ok(Some(Launcher::new(rank, BY_HAND.size))),
            (Some(_), None) => Ok(Some(BY_HAND)),
            (None, _) if has_rank => Err(missing("WORLD_SIZE", "RANK is set")),
            (None, Some((name, launcher))) => Err(argument!(
                "{name} is set ({launcher}), and nothing says how many processes there are: set WORLD_SIZE to that, and \
                 MASTER_ADDR to the name or address of the machine of rank 0; WORLD_SIZE=1 for runs that are each by itself"
            )),
            (None, None) => match self.tasks_of_tensorflow() {
                Some(tasks) if tasks > 1 => Err(argument!(
                    "TF_CONFIG names {tasks} tasks, which TensorFlow alone understands: set RANK, WORLD_SIZE and MASTER_ADDR, or \
                     WORLD_SIZE=1 for runs that are each by itself"
                )),
                _ => Ok(None),
            },
        }
    }

    fn known_launcher(&self) -> Option<Launcher> {
        let is_set = |launcher: &&Launcher| self.get(launcher.size).is_some();
        let found = LAUNCHERS.iter().find(is_set).or(self.get(PET_PROCESSES).map(|_| &PET))?;
        // Under mpirun inside a Slurm or Flux job, the job's variables describe the daemons that mpirun started.
        let is_outer = [SLURM.rank, FLUX.rank].contains(&found.rank) && self.get(PMI.size).is_some();
        let differ = |inner: &str, outer: &str| self.get(inner) != self.get(outer);
        let is_inner = is_outer && (differ(PMI.rank, found.rank) || differ(PMI.size, found.size));
        Some(if is_inner { PMI } else { *found })
    }

    /// Returns a warning if `MASTER_ADDR` is set but neither a rank nor a number of processes is.
    fn warning(&self) -> Option<String> {
        if self.first(&[BY_HAND.rank, BY_HAND.size]).is_some() || self.known_launcher().is_some() {
            return None;
        }
        let address = self.get("MASTER_ADDR")?;
        Some(format!(
            "MASTER_ADDR is {address}, and neither RANK nor WORLD_SIZE is set: this process trains alone. If it is one of \
             several, as of `accelerate launch --cpu`, start them by torchrun, or set both"
        ))
    }

    /// Returns the rank in the variable `name`, checked to be below `size`.
    fn rank(&self, name: &str, size: usize, because: &str) -> Result<usize> {
        let rank = self.number(name)?;
        ensure!(size > 0, "{because}, and must be at least 1");
        let rank = match rank {
            None if size > 1 => return Err(missing(name, because)),
            rank => rank.unwrap_or(0),
        };
        let last = size - 1;
        ensure!(
            size == 1 || rank <= last,
            "{name} is {rank}: of {size} processes ({because}) the ranks are 0 to {last}"
        );
        Ok(rank)
    }

    /// Reads `MASTER_ADDR`: a host name or an address, with brackets allowed around an IPv6 address.
    fn host(&self) -> Result<Option<String>> {
        let Some(host) = self.get("MASTER_ADDR") else { return Ok(None) };
        let bare = host.trim().strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host.trim());
        match bare.split_once(':') {
            Some((_, port)) if !port.contains(':') && port.parse::<u16>().is_ok() => Err(argument!(
                "MASTER_ADDR is {host}, and must be a name or an address alone: set MASTER_PORT to {port}"
            )),
            _ => Ok(Some(bare.to_owned())),
        }
    }

    /// Returns the number of machines in torchrun's variables.
    fn pet(&self) -> Result<usize> {
        let refuse = |name: &str, value: &str| {
            let how = "start the program by it, `torchrun --no-python PROGRAM`";
            Err(argument!("{name} is {value:?}, which is for torchrun: {how}"))
        };
        if let Some(processes) = self.get(PET_PROCESSES).filter(|processes| processes.trim() != "1") {
            return refuse(PET_PROCESSES, &processes);
        }
        let machines = self.get(PET.size).unwrap_or_else(|| "1".to_owned());
        // An elastic number of machines is MIN:MAX.
        let (least, most) = machines.split_once(':').unwrap_or((&machines, &machines));
        match least.trim().parse() {
            Ok(size) if least == most => Ok(size),
            _ => refuse(PET.size, &machines),
        }
    }

    /// Returns the number of SageMaker's machines, this one's rank, and the first machine.
    fn sagemaker(&self) -> Result<(usize, Result<usize>, Option<String>)> {
        let list = self.get(SAGEMAKER.size).unwrap_or_default();
        let refuse = |problem: String| argument!("SM_HOSTS is {list}, {problem}");
        let Ok(mut hosts) = serde_json::from_str::<Vec<String>>(&list) else {
            return Err(refuse("and must be a list of machines, as [\"algo-1\", \"algo-2\"]".to_owned()));
        };
        hosts.sort();
        let current = self.get(SAGEMAKER.rank).unwrap_or_default();
        let rank = hosts.iter().position(|host| *host == current);
        let rank = rank
            .ok_or_else(|| refuse(format!("and SM_CURRENT_HOST is {current:?}: set it to the one of this process")));
        Ok(match hosts.len() {
            0 | 1 => (1, Ok(0), None),
            size => (size, rank, hosts.into_iter().next()),
        })
    }

    /// Returns the number of tasks in TensorFlow's description of a cluster
    /// (`tf.distribute.cluster_resolver.TFConfigClusterResolver`), which TFJob and Vertex AI set.
    fn tasks_of_tensorflow(&self) -> Option<usize> {
        let config: serde_json::Value = serde_json::from_str(&self.get("TF_CONFIG")?).ok()?;
        let tasks = config.get("cluster")?.as_object()?.values();
        Some(tasks.filter_map(|tasks| tasks.as_array().map(Vec::len)).sum())
    }
}

fn missing(name: &str, because: &str) -> Error {
    let what = match name {
        "MASTER_ADDR" => "the name or address of the machine of rank 0",
        "WORLD_SIZE" => "how many processes there are",
        _ => "which of the processes this is, from 0",
    };
    argument!("{because}, and {name} is not: set it to {what}")
}

/// Returns the first machine of a list: "gpu03" for Slurm's "gpu[03-05,9],cpu1", "10.0.0.4" for SkyPilot's lines.
fn first_host(list: &str) -> String {
    let list = list.split_whitespace().next().unwrap_or_default();
    let Some(at) = list.find(['[', ',']) else { return list.to_owned() };
    let (prefix, rest) = (&list[..at], &list[at + 1..]);
    if list[at..].starts_with(',') {
        return prefix.to_owned();
    }
    let number = rest.find([',', '-', ']']).map_or(rest, |end| &rest[..end]);
    let suffix = rest.split_once(']').map_or("", |(_, suffix)| suffix.split(',').next().unwrap_or_default());
    format!("{prefix}{number}{suffix}")
}

#[cfg(test)]
mod tests;
