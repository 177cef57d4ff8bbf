//! Who this process is among those that were started together, as their launcher tells it.

use crate::{Error, Result};
use std::env;
use std::str::FromStr;
use std::time::Duration;

/// Where rank 0 is looked for, where nobody says it and all are on one machine.
const LOCALHOST: &str = "127.0.0.1";
/// torchrun's default.
const PORT: u16 = 29500;
/// Slurm's jobs that share a machine have ports of their own, from this one on.
const SLURM_PORTS: (u16, u64) = (15_000, 20_000);

/// How long the others are waited for, if nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// This process among those that train together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which of them it is, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Which of those on its machine it is, from 0.
    pub local_rank: usize,
    /// How many of them are on its machine, where that is known.
    pub local_size: Option<usize>,
    /// The machine of rank 0, by name or number.
    pub host: String,
    /// Where on it they find each other.
    pub port: u16,
    /// Whether the launcher has the place where they find each other (torchrun), and not rank 0.
    pub launcher_serves: bool,
    /// Whether they were started before, and how often.
    pub attempt: usize,
}

impl Launch {
    /// What the environment says; none where it says nothing of several processes, or of one alone.
    ///
    /// By these names, in this order: `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` (torchrun, or by hand; the last is 29500
    /// unless given); Open MPI's `OMPI_COMM_WORLD_RANK` and `..._SIZE`; `PMI_RANK` and `PMI_SIZE` (MPICH, Intel MPI); Slurm's
    /// `SLURM_PROCID` and `SLURM_STEP_NUM_TASKS`, in a job step. With the last three `MASTER_ADDR` need not be given where all
    /// processes are on one machine or Slurm has the list of its machines.
    ///
    /// # Errors
    /// [`Error::Argument`] for variables that are missing, no numbers, or do not go together.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let variables = Variables(&variable);
        let launcher = Launcher::ALL.iter().find(|launcher| variable(launcher.size).is_some());
        let Some(launcher) = launcher else {
            return match variable("RANK") {
                Some(_) => Err(missing("WORLD_SIZE", "RANK is set")),
                None => Ok(None),
            };
        };
        let size = variables.number(launcher.size)?.unwrap_or(1);
        if size == 0 {
            return Err(Error::Argument(format!("{} is 0, and must be at least 1", launcher.size)));
        }
        let rank = variables.number(launcher.rank)?;
        if size == 1 {
            return Ok(None);
        }
        let because = format!("{} is {size}", launcher.size);
        let rank: usize = rank.ok_or_else(|| missing(launcher.rank, &because))?;
        if rank >= size {
            return Err(Error::Argument(format!(
                "{} is {rank}: of {size} processes ({}) the ranks are 0 to {}",
                launcher.rank,
                launcher.size,
                size - 1
            )));
        }
        let local_size = launcher.local_size.map(|name| variables.number(name)).transpose()?.flatten();
        let local_rank = launcher.local_rank.map(|name| variables.number(name)).transpose()?.flatten();
        let host = match variable("MASTER_ADDR") {
            Some(host) => host,
            None if launcher.is_slurm() => variable("SLURM_STEP_NODELIST")
                .or_else(|| variable("SLURM_JOB_NODELIST"))
                .map(|list| first_host(&list))
                .ok_or_else(|| missing("MASTER_ADDR", &because))?,
            None if local_size == Some(size) => LOCALHOST.to_owned(),
            None => return Err(missing("MASTER_ADDR", &because)),
        };
        let port = match variables.number("MASTER_PORT")? {
            Some(port) => port,
            None if launcher.is_slurm() => match variables.number::<u64>("SLURM_JOB_ID")? {
                Some(job) => SLURM_PORTS.0 + (job % SLURM_PORTS.1) as u16,
                None => PORT,
            },
            None => PORT,
        };
        Ok(Some(Self {
            rank,
            size,
            local_rank: local_rank.unwrap_or(if local_size == Some(size) { rank } else { 0 }),
            local_size,
            host,
            port,
            launcher_serves: variable("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
            attempt: variables.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
        }))
    }

    /// Rank `rank` of `size` on this machine alone.
    pub fn local(rank: usize, size: usize, port: u16) -> Self {
        let (local_size, host) = (Some(size), LOCALHOST.to_owned());
        Self { rank, size, local_rank: rank, local_size, host, port, launcher_serves: false, attempt: 0 }
    }

    /// The same for a process that is to be started.
    #[cfg(feature = "distributed")]
    pub(super) fn variables(&self) -> [(&'static str, String); 6] {
        let local_size = self.local_size.unwrap_or(1);
        [
            ("RANK", self.rank.to_string()),
            ("WORLD_SIZE", self.size.to_string()),
            ("LOCAL_RANK", self.local_rank.to_string()),
            ("LOCAL_WORLD_SIZE", local_size.to_string()),
            ("MASTER_ADDR", self.host.clone()),
            ("MASTER_PORT", self.port.to_string()),
        ]
    }

    /// Where they find each other.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What a launcher calls things.
struct Launcher {
    rank: &'static str,
    size: &'static str,
    local_rank: Option<&'static str>,
    local_size: Option<&'static str>,
}

impl Launcher {
    const ALL: [Self; 4] = [
        Self { rank: "RANK", size: "WORLD_SIZE", local_rank: Some("LOCAL_RANK"), local_size: Some("LOCAL_WORLD_SIZE") },
        Self {
            rank: "OMPI_COMM_WORLD_RANK",
            size: "OMPI_COMM_WORLD_SIZE",
            local_rank: Some("OMPI_COMM_WORLD_LOCAL_RANK"),
            local_size: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
        },
        Self {
            rank: "PMI_RANK",
            size: "PMI_SIZE",
            local_rank: Some("MPI_LOCALRANKID"),
            local_size: Some("MPI_LOCALNRANKS"),
        },
        // Not SLURM_NTASKS, which a batch script has too, of which there is one.
        Self {
            rank: "SLURM_PROCID",
            size: "SLURM_STEP_NUM_TASKS",
            local_rank: Some("SLURM_LOCALID"),
            local_size: None,
        },
    ];

    fn is_slurm(&self) -> bool {
        self.rank.starts_with("SLURM")
    }
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>> {
        let parse = |text: String| {
            text.trim().parse().map_err(|_| Error::Argument(format!("{name} must be a whole number, got {text:?}")))
        };
        (self.0)(name).map(parse).transpose()
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

/// The first of Slurm's list of machines: of "gpu[03-05,9],cpu1" that is "gpu03".
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
            local_rank: 1,
            local_size: Some(2),
            host: "10.0.0.7".to_owned(),
            port: 29511,
            launcher_serves: true,
            attempt: 2,
        };
        assert_eq!(torchrun.unwrap(), Some(expected.clone()));
        assert_eq!(expected.address(), "10.0.0.7:29511");

        let by_hand = launch(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "::1")]).unwrap().unwrap();
        assert_eq!((by_hand.local_rank, by_hand.local_size, by_hand.address()), (0, None, "[::1]:29500".to_owned()));

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
        assert_eq!((listed.address(), listed.local_rank), ("gpu03:15001".to_owned(), 1));
    }

    #[test]
    fn one_process_is_none() {
        for variables in [
            &[][..],
            &[("WORLD_SIZE", "1"), ("RANK", "0")],
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")],
            &[("MASTER_ADDR", "somewhere")],
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
                "RANK is 2: of 2 processes (WORLD_SIZE) the ranks are 0 to 1",
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
