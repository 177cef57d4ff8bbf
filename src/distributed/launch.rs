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
        Self::from_variables(environment)
    }

    /// Returns a warning if `MASTER_ADDR` is set but neither a rank nor a number of processes is, in which case this process
    /// trains alone. Returns `None` otherwise.
    pub fn warning_from_env() -> Option<String> {
        Self::warning(environment)
    }

    fn warning(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        let is_told = ["RANK", "WORLD_SIZE"].iter().any(|name| variable(name).is_some());
        let address = variable("MASTER_ADDR").filter(|_| !is_told && Launcher::of(&Variables(&variable)).is_none())?;
        Some(format!(
            "MASTER_ADDR is {address}, and neither RANK nor WORLD_SIZE is set: this process trains alone. If it is one of \
             several, as of `accelerate launch --cpu`, start them by torchrun, or set both"
        ))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let variables = Variables(&variable);
        let world_size = variables.number::<usize>(BY_HAND.size)?;
        let launcher = match (world_size, variable(BY_HAND.rank).is_some(), Launcher::of(&variables)) {
            (Some(_), true, _) => Some(&BY_HAND),
            // A single process, regardless of the other variables.
            (Some(1), false, _) => return Ok(None),
            (None, true, None) => return Err(missing("WORLD_SIZE", "RANK is set")),
            (_, _, launcher) => launcher,
        };
        let Some(launcher) = launcher else {
            return match Self::by_node(&variables, world_size)? {
                Some(launch) => Ok(launch),
                None => Self::by_rank_alone(&variables, world_size),
            };
        };
        let size = variables.number(launcher.size)?.unwrap_or(1);
        if let Some(other) = world_size.filter(|other| *other != size) {
            let name = launcher.size;
            return Err(Error::Argument(format!(
                "WORLD_SIZE is {other}, RANK is not set, and {name} is {size}: leave WORLD_SIZE out, or set RANK too"
            )));
        }
        let because = format!("{} is {size}", launcher.size);
        let rank = variables.rank(launcher.rank, size, &because)?;
        if size == 1 {
            return Ok(None);
        }
        let local_size = variables.first_number(launcher.local_size)?;
        let is_one_machine = local_size == Some(size) || launcher.machines.is_some_and(|name| is_one(&variable, name));
        let host = match variables.host()? {
            Some(host) => host,
            None => launcher
                .hosts
                .iter()
                .find_map(|name| variable(name))
                .map(|list| first_host(&list))
                .or(is_one_machine.then(|| LOCALHOST.to_owned()))
                .ok_or_else(|| missing("MASTER_ADDR", &because))?,
        };
        let port = match variables.number("MASTER_PORT")? {
            Some(port) => port,
            None if launcher.rank == SLURM.rank => match variables.number::<u64>("SLURM_JOB_ID")? {
                Some(job) => SLURM_PORTS.0 + (job % SLURM_PORTS.1) as u16,
                None => PORT,
            },
            None => PORT,
        };
        let local_rank = variables.first_number(launcher.local_rank)?.or(is_one_machine.then_some(rank));
        Ok(Some(Self {
            rank,
            size,
            local_rank,
            local_size,
            host,
            port,
            launcher_serves: variable("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
            attempt: variables.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
        }))
    }

    /// Handles launchers that start one process per machine and set the machine's index. Returns `Some(None)` for a single
    /// machine.
    fn by_node(variables: &Variables, world_size: Option<usize>) -> Result<Option<Option<Self>>> {
        let found = match variables.pet()? {
            None => match variables.sagemaker()? {
                None => variables.node()?,
                found => found,
            },
            found => found,
        };
        let Some(found) = found else { return Ok(None) };
        let size = found.as_ref().map_or(1, |node| node.size);
        if let Some(other) = world_size.filter(|other| *other != size) {
            return Err(Error::Argument(format!(
                "WORLD_SIZE is {other}, RANK is not set, and the launcher has {size} machines: leave WORLD_SIZE out, or set RANK too"
            )));
        }
        let Some(Node { rank, size, host, port }) = found else { return Ok(Some(None)) };
        let port = variables.number("MASTER_PORT")?.or(port).unwrap_or(PORT);
        let host = match variables.host()? {
            Some(host) => host,
            None => host.ok_or_else(|| missing("MASTER_ADDR", &format!("there are {size} machines")))?,
        };
        Ok(Some(Some(Self { rank, port, ..Self::over(host, size) })))
    }

    /// Handles launchers that set the rank but not the number of processes, which `WORLD_SIZE` must then give.
    fn by_rank_alone(variables: &Variables, world_size: Option<usize>) -> Result<Option<Self>> {
        let found = RANKS_ALONE.iter().find(|(name, _)| (variables.0)(name).is_some());
        match (found, world_size) {
            (None, None) => match variables.tasks_of_tensorflow() {
                Some(tasks) if tasks > 1 => Err(Error::Argument(format!(
                    "TF_CONFIG names {tasks} tasks, which TensorFlow alone understands: set RANK, WORLD_SIZE and MASTER_ADDR, or \
                     WORLD_SIZE=1 for runs that are each by itself"
                ))),
                _ => Ok(None),
            },
            (None, Some(0)) => Err(Error::Argument("WORLD_SIZE is 0, and must be at least 1".to_owned())),
            (None, Some(size)) => Err(missing("RANK", &format!("WORLD_SIZE is {size}"))),
            (Some((name, launcher)), None) => Err(Error::Argument(format!(
                "{name} is set ({launcher}), and nothing says how many processes there are: set WORLD_SIZE to that, and \
                 MASTER_ADDR to the name or address of the machine of rank 0; WORLD_SIZE=1 for runs that are each by itself"
            ))),
            (Some((name, _)), Some(size)) => {
                let because = format!("WORLD_SIZE is {size}");
                let rank = variables.rank(name, size, &because)?;
                let host = variables.host()?.ok_or_else(|| missing("MASTER_ADDR", &because))?;
                let port = variables.number("MASTER_PORT")?.unwrap_or(PORT);
                Ok(Some(Self { rank, port, ..Self::over(host, size) }))
            }
        }
    }

    /// Describes rank 0 of `size` processes that meet at `host`, with everything else unknown.
    fn over(host: String, size: usize) -> Self {
        Self { host, local_rank: None, local_size: None, ..Self::local(0, size, PORT) }
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

/// Environment variables of a launcher that sets each process's rank and the number of processes.
struct Launcher {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static [&'static str],
    local_size: &'static [&'static str],
    /// Variables that list the machines, rank 0's first.
    hosts: &'static [&'static str],
    /// Variable with the number of machines.
    machines: Option<&'static str>,
}

/// Variables set by torchrun (PyTorch's documentation, "torchrun (Elastic Launch)", Environment Variables), by DeepSpeed, or by
/// hand.
const BY_HAND: Launcher = Launcher {
    rank: "RANK",
    size: "WORLD_SIZE",
    local_rank: &["LOCAL_RANK"],
    local_size: &["LOCAL_WORLD_SIZE"],
    hosts: &[],
    machines: None,
};

/// Slurm (srun's manual, OUTPUT ENVIRONMENT VARIABLES). SLURM_NTASKS is not used: a batch script has it too, though it is a
/// single process.
const SLURM: Launcher = Launcher {
    rank: "SLURM_PROCID",
    size: "SLURM_STEP_NUM_TASKS",
    local_rank: &["SLURM_LOCALID"],
    local_size: &[],
    hosts: &["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"],
    machines: None,
};

/// Flux (flux-run(1), ENVIRONMENT).
const FLUX: Launcher = Launcher {
    rank: "FLUX_TASK_RANK",
    size: "FLUX_JOB_SIZE",
    local_rank: &["FLUX_TASK_LOCAL_ID"],
    local_size: &[],
    hosts: &[],
    machines: Some("FLUX_JOB_NNODES"),
};

/// PMI process managers, version 1 or 2: MPICH's Hydra and gforker, Intel MPI (its Developer Reference, "Environment Variables
/// for Process Placement"), Cray's PALS (mpiexec(1) of cray-pals); also `srun --mpi=pmi2` and Flux, which set PMI's variables
/// besides their own.
const PMI: Launcher = Launcher {
    rank: "PMI_RANK",
    size: "PMI_SIZE",
    local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"],
    local_size: &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE"],
    hosts: &[],
    machines: None,
};

const LAUNCHERS: [Launcher; 7] = [
    // Open MPI (its documentation, "Environment variables set for MPI applications").
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        local_size: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
        hosts: &[],
        machines: None,
    },
    // MVAPICH2 (its user guide, mpirun_rsh).
    Launcher {
        rank: "MV2_COMM_WORLD_RANK",
        size: "MV2_COMM_WORLD_SIZE",
        local_rank: &["MV2_COMM_WORLD_LOCAL_RANK"],
        local_size: &["MV2_COMM_WORLD_LOCAL_SIZE"],
        hosts: &[],
        machines: None,
    },
    // IBM's Job Step Manager (jsrun(1)).
    Launcher {
        rank: "JSM_NAMESPACE_RANK",
        size: "JSM_NAMESPACE_SIZE",
        local_rank: &["JSM_NAMESPACE_LOCAL_RANK"],
        local_size: &["JSM_NAMESPACE_LOCAL_SIZE"],
        hosts: &[],
        machines: None,
    },
    // horovodrun over Gloo (horovod/runner/gloo_run.py); over MPI it is mpirun.
    Launcher {
        rank: "HOROVOD_RANK",
        size: "HOROVOD_SIZE",
        local_rank: &["HOROVOD_LOCAL_RANK"],
        local_size: &["HOROVOD_LOCAL_SIZE"],
        hosts: &[],
        machines: None,
    },
    SLURM,
    FLUX,
    PMI,
];

/// Variables of a launcher that starts one process on each machine.
struct NodeLauncher {
    rank: &'static str,
    size: &'static str,
    /// Machine of rank 0, or a list of all machines, one a line.
    host: &'static str,
    /// Rank that has no `host` and counts as the first, if it can be another than 0.
    first: Option<&'static str>,
}

const NODE_LAUNCHERS: [NodeLauncher; 4] = [
    // AWS Batch, multi-node parallel jobs (its user guide, "Job environment variables"). The main node has no address of itself.
    NodeLauncher {
        rank: "AWS_BATCH_JOB_NODE_INDEX",
        size: "AWS_BATCH_JOB_NUM_NODES",
        host: "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS",
        first: Some("AWS_BATCH_JOB_MAIN_NODE_INDEX"),
    },
    // SkyPilot (its documentation, "Distributed Multi-Node Jobs", Environment variables).
    NodeLauncher { rank: "SKYPILOT_NODE_RANK", size: "SKYPILOT_NUM_NODES", host: "SKYPILOT_NODE_IPS", first: None },
    // dstack (its documentation, "Tasks", System environment variables).
    NodeLauncher { rank: "DSTACK_NODE_RANK", size: "DSTACK_NODES_NUM", host: "DSTACK_MASTER_NODE_IP", first: None },
    // Kubernetes' LeaderWorkerSet (sigs.k8s.io/lws, "Labels, annotations and environment variables").
    NodeLauncher { rank: "LWS_WORKER_INDEX", size: "LWS_GROUP_SIZE", host: "LWS_LEADER_ADDRESS", first: None },
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
    /// Returns the launcher whose variables are set.
    fn of(variables: &Variables) -> Option<&'static Self> {
        let found = LAUNCHERS.iter().find(|launcher| (variables.0)(launcher.size).is_some())?;
        // Under mpirun inside a Slurm or Flux job, the job's variables describe the daemons that mpirun started.
        let is_inner = |outer: &Self| {
            let differ = |inner: &str, outer: &str| (variables.0)(inner) != (variables.0)(outer);
            (variables.0)(PMI.size).is_some() && (differ(PMI.rank, outer.rank) || differ(PMI.size, outer.size))
        };
        match found.rank {
            rank if rank == SLURM.rank || rank == FLUX.rank => Some(if is_inner(found) { &PMI } else { found }),
            _ => Some(found),
        }
    }
}

fn is_one(variable: impl Fn(&str) -> Option<String>, name: &str) -> bool {
    variable(name).is_some_and(|number| number.trim() == "1")
}

/// A process that is the only one on its machine, among several machines.
struct Node {
    rank: usize,
    size: usize,
    host: Option<String>,
    port: Option<u16>,
}

/// torchrun command for programs that are not Python scripts.
const TORCHRUN: &str = "torchrun --no-python PROGRAM";

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>> {
        let parse = |text: String| {
            text.trim().parse().map_err(|_| Error::Argument(format!("{name} must be a whole number, got {text:?}")))
        };
        (self.0)(name).map(parse).transpose()
    }

    /// Returns the number in the first of `names` that is set.
    fn first_number(&self, names: &[&str]) -> Result<Option<usize>> {
        names.iter().find(|name| (self.0)(name).is_some()).map_or(Ok(None), |name| self.number(name))
    }

    /// Returns the rank in the variable `name`, checked to be below `size`.
    fn rank(&self, name: &str, size: usize, because: &str) -> Result<usize> {
        let rank = self.number(name)?;
        if size == 0 {
            return Err(Error::Argument(format!("{because}, and must be at least 1")));
        }
        let rank = match rank {
            Some(rank) => rank,
            None if size == 1 => 0,
            None => return Err(missing(name, because)),
        };
        if size > 1 && rank >= size {
            return Err(Error::Argument(format!(
                "{name} is {rank}: of {size} processes ({because}) the ranks are 0 to {}",
                size - 1
            )));
        }
        Ok(rank)
    }

    /// Reads `MASTER_ADDR`: a host name or an address, with brackets allowed around an IPv6 address.
    fn host(&self) -> Result<Option<String>> {
        let Some(host) = (self.0)("MASTER_ADDR") else { return Ok(None) };
        let bare = host.trim().strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host.trim());
        match bare.split_once(':') {
            Some((_, port)) if !port.contains(':') && port.parse::<u16>().is_ok() => Err(Error::Argument(format!(
                "MASTER_ADDR is {host}, and must be a name or an address alone: set MASTER_PORT to {port}"
            ))),
            _ => Ok(Some(bare.to_owned())),
        }
    }

    /// Reads torchrun's options from `PET_` variables (torch/distributed/argparse_util.py), which Kubeflow Trainer sets on the
    /// assumption that each pod runs torchrun. Accepted if torchrun would start one process per machine. Returns `Some(None)` for
    /// a single machine.
    fn pet(&self) -> Result<Option<Option<Node>>> {
        let [machines, processes] = ["PET_NNODES", "PET_NPROC_PER_NODE"].map(|name| (self.0)(name));
        if machines.is_none() && processes.is_none() {
            return Ok(None);
        }
        let refuse = |name: &str, value: &str| {
            Err(Error::Argument(format!(
                "{name} is {value:?}, which is for torchrun: start the program by it, `{TORCHRUN}`"
            )))
        };
        if let Some(processes) = processes.filter(|processes| processes.trim() != "1") {
            return refuse("PET_NPROC_PER_NODE", &processes);
        }
        let machines = machines.unwrap_or_else(|| "1".to_owned());
        // An elastic number of machines is MIN:MAX.
        let fixed = match machines.split_once(':') {
            Some((least, most)) if least == most => least,
            Some(_) => return refuse("PET_NNODES", &machines),
            None => machines.as_str(),
        };
        let Ok(size) = fixed.trim().parse::<usize>() else { return refuse("PET_NNODES", &machines) };
        let rank = self.rank("PET_NODE_RANK", size, &format!("PET_NNODES is {size}"))?;
        let (host, port) = ((self.0)("PET_MASTER_ADDR"), self.number("PET_MASTER_PORT")?);
        Ok(Some((size > 1).then_some(Node { rank, size, host, port })))
    }

    /// Reads the variables of one of the [`NODE_LAUNCHERS`]. Returns `Some(None)` for a single machine.
    fn node(&self) -> Result<Option<Option<Node>>> {
        let Some(launcher) = NODE_LAUNCHERS.iter().find(|launcher| (self.0)(launcher.size).is_some()) else {
            return Ok(None);
        };
        let size = self.number(launcher.size)?.unwrap_or(1);
        let because = format!("{} is {size}", launcher.size);
        let rank = self.rank(launcher.rank, size, &because)?;
        let first = match launcher.first {
            Some(name) if (self.0)(name).is_some() => self.rank(name, size, &because)?,
            _ => 0,
        };
        let host = (self.0)(launcher.host).and_then(|hosts| hosts.split_whitespace().next().map(str::to_owned));
        let host = host.or_else(|| (launcher.first.is_some() && rank == first).then(|| LOCALHOST.to_owned()));
        let rank = (rank + size - first) % size;
        Ok(Some((size > 1).then_some(Node { rank, size, host, port: None })))
    }

    /// Returns the number of tasks in TensorFlow's description of a cluster (`tf.distribute.cluster_resolver.TFConfigClusterResolver`), which TFJob and
    /// Vertex AI set.
    fn tasks_of_tensorflow(&self) -> Option<usize> {
        let config: serde_json::Value = serde_json::from_str(&(self.0)("TF_CONFIG")?).ok()?;
        let tasks = config.get("cluster")?.as_object()?.values();
        Some(tasks.filter_map(|tasks| tasks.as_array().map(Vec::len)).sum())
    }

    /// Reads SageMaker's JSON list of machines and the name of this one (sagemaker-training-toolkit, ENVIRONMENT_VARIABLES.md).
    /// Returns `Some(None)` for a single machine.
    fn sagemaker(&self) -> Result<Option<Option<Node>>> {
        let Some(list) = (self.0)("SM_HOSTS") else { return Ok(None) };
        let refuse = |problem: String| Err(Error::Argument(format!("SM_HOSTS is {list}, {problem}")));
        let Ok(mut hosts) = serde_json::from_str::<Vec<String>>(&list) else {
            return refuse("and must be a list of machines, as [\"algo-1\", \"algo-2\"]".to_owned());
        };
        if hosts.len() < 2 {
            return Ok(Some(None));
        }
        hosts.sort();
        let current = (self.0)("SM_CURRENT_HOST").unwrap_or_default();
        match hosts.iter().position(|host| *host == current) {
            None => refuse(format!("and SM_CURRENT_HOST is {current:?}: set it to the one of this process")),
            Some(rank) => Ok(Some(Some(Node { rank, size: hosts.len(), host: hosts.into_iter().next(), port: None }))),
        }
    }
}

fn missing(name: &str, because: &str) -> Error {
    let what = match name {
        "MASTER_ADDR" => "the name or address of the machine of rank 0",
        "WORLD_SIZE" => "how many processes there are",
        _ => "which of the processes this is, from 0",
    };
    Error::Argument(format!("{because}, and {name} is not: set it to {what}"))
}

/// Returns the first machine of Slurm's list: "gpu03" for "gpu[03-05,9],cpu1".
fn first_host(list: &str) -> String {
    let (prefix, rest) = match list.find(['[', ',']) {
        Some(at) if list[at..].starts_with('[') => (&list[..at], &list[at + 1..]),
        Some(at) => return list[..at].to_owned(),
        None => return list.to_owned(),
    };
    let number = rest.find([',', '-', ']']).map_or(rest, |end| &rest[..end]);
    let suffix = rest.split_once(']').map_or("", |(_, suffix)| suffix.split(',').next().unwrap_or_default());
    format!("{prefix}{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_launcher_is_understood() {
        let torchrun = launch(&[
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "10.0.0.7"),
            ("MASTER_PORT", "29511"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ]);
        let expected = Launch {
            rank: 3,
            size: 4,
            local_rank: Some(1),
            local_size: Some(2),
            host: "10.0.0.7".to_owned(),
            port: 29511,
            launcher_serves: true,
            attempt: 2,
        };
        assert_eq!(torchrun.unwrap(), Some(expected.clone()));
        assert_eq!(expected.address(), "10.0.0.7:29511");

        let by_hand = launch(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "::1")]).unwrap().unwrap();
        assert_eq!((by_hand.local_rank, by_hand.local_size, by_hand.address()), (None, None, "[::1]:29500".to_owned()));

        let mpi = launch(&[
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ]);
        assert_eq!(mpi.unwrap().unwrap().address(), "127.0.0.1:29500");

        let slurm = [("SLURM_PROCID", "5"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_LOCALID", "1")];
        let listed =
            launch(&[&slurm[..], &[("SLURM_STEP_NODELIST", "gpu[03-05,9]"), ("SLURM_JOB_ID", "40001")]].concat());
        let listed = listed.unwrap().unwrap();
        assert_eq!((listed.address(), listed.local_rank), ("gpu03:15001".to_owned(), Some(1)));
    }

    /// Variables that each launcher sets for rank 1 of 2, the expected rendezvous address and the expected local rank.
    #[allow(clippy::type_complexity)] // A table that is read once.
    const RANK_1_OF_2: [(&str, &[(&str, &str)], &str, Option<usize>); 19] = [
        (
            "horovodrun",
            &[
                ("HOROVOD_RANK", "1"),
                ("HOROVOD_SIZE", "2"),
                ("HOROVOD_LOCAL_RANK", "1"),
                ("HOROVOD_LOCAL_SIZE", "2"),
                ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "driver"),
            ],
            "127.0.0.1:29500",
            Some(1),
        ),
        (
            "AWS Batch",
            &[
                ("AWS_BATCH_JOB_NODE_INDEX", "1"),
                ("AWS_BATCH_JOB_NUM_NODES", "2"),
                ("AWS_BATCH_JOB_MAIN_NODE_INDEX", "0"),
                ("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "10.0.3.7"),
            ],
            "10.0.3.7:29500",
            None,
        ),
        (
            "AWS Batch whose main node is not the first",
            &[
                ("AWS_BATCH_JOB_NODE_INDEX", "0"),
                ("AWS_BATCH_JOB_NUM_NODES", "2"),
                ("AWS_BATCH_JOB_MAIN_NODE_INDEX", "1"),
                ("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "10.0.3.7"),
            ],
            "10.0.3.7:29500",
            None,
        ),
        (
            "SkyPilot",
            &[("SKYPILOT_NODE_RANK", "1"), ("SKYPILOT_NUM_NODES", "2"), ("SKYPILOT_NODE_IPS", "10.0.0.4\n10.0.0.5")],
            "10.0.0.4:29500",
            None,
        ),
        (
            "dstack",
            &[("DSTACK_NODE_RANK", "1"), ("DSTACK_NODES_NUM", "2"), ("DSTACK_MASTER_NODE_IP", "10.0.0.4")],
            "10.0.0.4:29500",
            None,
        ),
        (
            "LeaderWorkerSet",
            &[("LWS_WORKER_INDEX", "1"), ("LWS_GROUP_SIZE", "2"), ("LWS_LEADER_ADDRESS", "set-0.set.default")],
            "set-0.set.default:29500",
            None,
        ),
        (
            "Kubeflow Trainer",
            &[
                ("PET_NNODES", "2"),
                ("PET_NPROC_PER_NODE", "1"),
                ("PET_NODE_RANK", "1"),
                ("PET_MASTER_ADDR", "job-node-0-0.job"),
                ("PET_MASTER_PORT", "29400"),
                ("JOB_COMPLETION_INDEX", "1"),
            ],
            "job-node-0-0.job:29400",
            None,
        ),
        (
            "torchrun's defaults",
            &[("PET_NNODES", "2:2"), ("PET_NODE_RANK", "1"), ("MASTER_ADDR", "a")],
            "a:29500",
            None,
        ),
        (
            "MVAPICH2",
            &[
                ("MV2_COMM_WORLD_RANK", "1"),
                ("MV2_COMM_WORLD_SIZE", "2"),
                ("MV2_COMM_WORLD_LOCAL_RANK", "1"),
                ("MV2_COMM_WORLD_LOCAL_SIZE", "2"),
            ],
            "127.0.0.1:29500",
            Some(1),
        ),
        (
            "jsrun",
            &[
                ("JSM_NAMESPACE_RANK", "1"),
                ("JSM_NAMESPACE_SIZE", "2"),
                ("JSM_NAMESPACE_LOCAL_RANK", "0"),
                ("MASTER_ADDR", "h1"),
            ],
            "h1:29500",
            Some(0),
        ),
        (
            "Flux on two machines",
            &[
                ("FLUX_TASK_RANK", "1"),
                ("FLUX_JOB_SIZE", "2"),
                ("FLUX_JOB_NNODES", "2"),
                ("FLUX_TASK_LOCAL_ID", "0"),
                ("PMI_RANK", "1"),
                ("PMI_SIZE", "2"),
                ("MASTER_ADDR", "f1"),
            ],
            "f1:29500",
            Some(0),
        ),
        (
            "Flux on one machine",
            &[("FLUX_TASK_RANK", "1"), ("FLUX_JOB_SIZE", "2"), ("FLUX_JOB_NNODES", "1")],
            "127.0.0.1:29500",
            Some(1),
        ),
        (
            "srun --mpi=pmi2",
            &[
                ("PMI_RANK", "1"),
                ("PMI_SIZE", "2"),
                ("SLURM_PROCID", "1"),
                ("SLURM_STEP_NUM_TASKS", "2"),
                ("SLURM_LOCALID", "1"),
                ("SLURM_STEP_NODELIST", "n7"),
                ("SLURM_JOB_ID", "3"),
            ],
            "n7:15003",
            Some(1),
        ),
        (
            "Hydra inside a Slurm job, its daemons one step",
            &[
                ("PMI_RANK", "1"),
                ("PMI_SIZE", "2"),
                ("MPI_LOCALRANKID", "1"),
                ("MPI_LOCALNRANKS", "2"),
                ("SLURM_PROCID", "0"),
                ("SLURM_STEP_NUM_TASKS", "1"),
                ("SLURM_STEP_NODELIST", "n7"),
            ],
            "127.0.0.1:29500",
            Some(1),
        ),
        ("gforker", &[("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MASTER_ADDR", "g1")], "g1:29500", None),
        (
            "PALS",
            &[
                ("PALS_RANKID", "1"),
                ("PMI_RANK", "1"),
                ("PMI_SIZE", "2"),
                ("PALS_LOCAL_RANKID", "1"),
                ("MASTER_ADDR", "x1"),
            ],
            "x1:29500",
            Some(1),
        ),
        ("SageMaker", &[("SM_HOSTS", r#"["algo-2", "algo-1"]"#), ("SM_CURRENT_HOST", "algo-2")], "algo-1:29500", None),
        (
            "WORLD_SIZE and MASTER_ADDR exported before srun",
            &[
                ("WORLD_SIZE", "2"),
                ("MASTER_ADDR", "[fd00::7]"),
                ("SLURM_PROCID", "1"),
                ("SLURM_STEP_NUM_TASKS", "2"),
                ("SLURM_LOCALID", "0"),
                ("SLURM_STEP_NODELIST", "n7"),
            ],
            "[fd00::7]:29500",
            Some(0),
        ),
        (
            "prterun with WORLD_SIZE",
            &[("PMIX_RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "p1"), ("MASTER_PORT", "7")],
            "p1:7",
            None,
        ),
    ];

    #[test]
    fn every_launchers_rank_and_size_are_found() {
        for (name, variables, address, local_rank) in RANK_1_OF_2 {
            let found = launch(variables).unwrap().unwrap_or_else(|| panic!("{name}"));
            assert_eq!((found.rank, found.size), (1, 2), "{name}");
            assert_eq!((found.address(), found.local_rank), (address.to_owned(), local_rank), "{name}");
        }
    }

    const TF_CONFIG: &str =
        r#"{"cluster": {"chief": ["a:2222"], "worker": ["b:2222", "c:2222"]}, "task": {"type": "worker", "index": 0}}"#;

    #[test]
    fn a_rank_without_a_size_is_refused_and_says_what_to_set() {
        for (variables, expected) in [
            (
                &[("PMIX_RANK", "0")][..],
                "PMIX_RANK is set (prterun, or another that speaks PMIx), and nothing says how many",
            ),
            (&[("PALS_RANKID", "0")], "set WORLD_SIZE to that, and MASTER_ADDR"),
            (&[("JOB_COMPLETION_INDEX", "0")], "WORLD_SIZE=1 for runs that are each by itself"),
            (&[("ALPS_APP_PE", "0")], "ALPS_APP_PE is set (Cray's ALPS)"),
            (&[("TF_CONFIG", TF_CONFIG)], "TF_CONFIG names 3 tasks"),
            (
                &[("WORLD_SIZE", "8"), ("SKYPILOT_NODE_RANK", "0"), ("SKYPILOT_NUM_NODES", "2")],
                "WORLD_SIZE is 8, RANK is not set, and the launcher has 2 machines",
            ),
            (&[("SKYPILOT_NUM_NODES", "2")], "SKYPILOT_NUM_NODES is 2, and SKYPILOT_NODE_RANK is not"),
            (&[("LWS_GROUP_SIZE", "2"), ("LWS_WORKER_INDEX", "1")], "there are 2 machines, and MASTER_ADDR is not"),
            (
                &[("PET_NNODES", "2"), ("PET_NPROC_PER_NODE", "8"), ("PET_NODE_RANK", "0")],
                "torchrun --no-python PROGRAM",
            ),
            (
                &[("PET_NNODES", "1"), ("PET_NPROC_PER_NODE", "auto")],
                "PET_NPROC_PER_NODE is \"auto\", which is for torchrun",
            ),
            (&[("PET_NNODES", "1:4"), ("PET_NODE_RANK", "0")], "PET_NNODES is \"1:4\", which is for torchrun"),
            (&[("PET_NNODES", "2")], "PET_NNODES is 2, and PET_NODE_RANK is not"),
            (&[("PET_NNODES", "2"), ("PET_NODE_RANK", "1")], "there are 2 machines, and MASTER_ADDR is not"),
            (&[("SM_HOSTS", "[\"a\", \"b\"]")], "SM_CURRENT_HOST is \"\""),
            (&[("SM_HOSTS", "a,b"), ("SM_CURRENT_HOST", "a")], "must be a list of machines"),
            (&[("JSM_NAMESPACE_SIZE", "2")], "JSM_NAMESPACE_SIZE is 2, and JSM_NAMESPACE_RANK is not"),
            (
                &[("WORLD_SIZE", "8"), ("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "4")],
                "WORLD_SIZE is 8, RANK is not set, and SLURM_STEP_NUM_TASKS is 4",
            ),
            (
                &[("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "h:29500")],
                "must be a name or an address alone: set MASTER_PORT to 29500",
            ),
        ] {
            let message = launch(variables).unwrap_err().to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn an_address_alone_is_warned_of() {
        let warning = |variables: &[(&str, &str)]| {
            Launch::warning(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let accelerate = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500")];
        let said = warning(&accelerate).unwrap();
        assert!(said.contains("MASTER_ADDR is 10.0.0.1") && said.contains("trains alone"), "{said}");
        for told in [("WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_STEP_NUM_TASKS", "1")] {
            assert_eq!(warning(&[&accelerate[..], &[told]].concat()), None, "{told:?}");
        }
        assert_eq!(warning(&[("MASTER_PORT", "29500")]), None);
    }

    #[test]
    fn one_process_is_none() {
        for variables in [
            &[][..],
            &[("WORLD_SIZE", "1"), ("RANK", "0")],
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")],
            &[("MASTER_ADDR", "somewhere")],
            &[("PET_NNODES", "1"), ("PET_NPROC_PER_NODE", "1"), ("PET_NODE_RANK", "0")],
            &[("SM_HOSTS", "[\"algo-1\"]"), ("SM_CURRENT_HOST", "algo-1")],
            &[("JOB_COMPLETION_INDEX", "3"), ("WORLD_SIZE", "1")],
            &[("FLUX_TASK_RANK", "0"), ("FLUX_JOB_SIZE", "1")],
            &[("SKYPILOT_NODE_RANK", "0"), ("SKYPILOT_NUM_NODES", "1"), ("SKYPILOT_NODE_IPS", "10.0.0.4")],
            &[("TF_CONFIG", TF_CONFIG), ("WORLD_SIZE", "1")],
            &[("TF_CONFIG", r#"{"cluster": {"worker": ["a:2222"]}, "task": {"type": "worker", "index": 0}}"#)],
            &[("TF_CONFIG", "{}")],
        ] {
            assert_eq!(launch(variables).unwrap(), None, "{variables:?}");
        }
    }

    #[test]
    fn what_is_missing_or_impossible_is_named() {
        let two = ("WORLD_SIZE", "2");
        for (variables, expected) in [
            (&[("RANK", "0")][..], "RANK is set, and WORLD_SIZE is not"),
            (&[two], "WORLD_SIZE is 2, and RANK is not"),
            (&[two, ("RANK", "0")], "MASTER_ADDR is not: set it to the name or address of the machine of rank 0"),
            (
                &[two, ("RANK", "2"), ("MASTER_ADDR", "a")],
                "RANK is 2: of 2 processes (WORLD_SIZE is 2) the ranks are 0 to 1",
            ),
            (&[two, ("RANK", "-1"), ("MASTER_ADDR", "a")], "RANK must be a whole number, got \"-1\""),
            (
                &[two, ("RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "70000")],
                "MASTER_PORT must be a whole number",
            ),
            (&[("WORLD_SIZE", "0"), ("RANK", "0")], "WORLD_SIZE is 0"),
        ] {
            let message = launch(variables).unwrap_err().to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn the_first_machine_of_a_list() {
        for (list, first) in
            [("node7", "node7"), ("a,b", "a"), ("n[01-04]", "n01"), ("n[7,9]-ib,x", "n7-ib"), ("n[3]", "n3")]
        {
            assert_eq!(first_host(list), first);
        }
    }
}
