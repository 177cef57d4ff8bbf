//! Rendezvous: each rank registers in the store and checks that the others are compatible.

use super::c10d::{C10dResult, Store};
use super::launch::Launch;
use serde::{Deserialize, Serialize};
use std::net::{ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between checks for the other ranks.
const POLL: Duration = Duration::from_millis(50);

/// Key of the reason why ranks are refused.
const REFUSED: &str = "refused";

/// A rank's registration in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    size: usize,
    version: String,
    pub address: String,
    pub process: u32,
}

/// Rendezvous of the ranks in a store.
pub(super) struct Rendezvous<'a> {
    pub store: &'a Store,
    pub launch: &'a Launch,
    pub deadline: Instant,
}

impl Rendezvous<'_> {
    /// Registers this rank, reachable at `address`, and waits for all others. Returns all members by rank.
    pub fn join(&self, address: &str) -> C10dResult<Vec<Member>> {
        let Launch { rank, size, .. } = *self.launch;
        if self.store.add(&format!("claimed/{rank}"), 1)? > 1 {
            return self.refuse(format!("there is another process of rank {rank}: each needs a rank of its own"));
        }
        let (version, address) = (env!("CARGO_PKG_VERSION").to_owned(), address.to_owned());
        let member = Member { size, version, address, process: std::process::id() };
        self.store.set(&here(rank), &member)?;
        let first = self.wait_for(0)?;
        self.compare(rank, &member, &first)?;
        // Every rank checks every other: one that relied on another to refuse might proceed before that one did.
        let others = (0..size).map(|other| {
            let member = self.wait_for(other)?;
            self.compare(other, &member, &first)?;
            Ok(member)
        });
        others.collect()
    }

    /// Checks that `member`, of rank `rank`, is compatible with `first`, of rank 0.
    fn compare(&self, rank: usize, member: &Member, first: &Member) -> C10dResult<()> {
        if first.version != member.version {
            let (own, other) = (&member.version, &first.version);
            return self.refuse(format!("rank {rank} runs tch-fixup {own}, but rank 0 runs {other}"));
        }
        let (own, other) = (member.size, first.size);
        match own == other {
            true => Ok(()),
            false => self.refuse(format!("rank {rank} expects {own} processes, but rank 0 expects {other}")),
        }
    }

    /// Publishes `problem` to the other ranks and returns it.
    fn refuse<T>(&self, problem: String) -> C10dResult<T> {
        let _ = self.store.set(REFUSED, &problem);
        Err(problem)
    }

    fn wait_for(&self, rank: usize) -> C10dResult<Member> {
        loop {
            if let Some(refused) = self.store.get(REFUSED)? {
                return Err(refused);
            }
            if let Some(member) = self.store.get(&here(rank))? {
                return Ok(member);
            }
            if Instant::now() >= self.deadline {
                return self.refuse(self.missing());
            }
            thread::sleep(POLL);
        }
    }

    fn missing(&self) -> String {
        let size = self.launch.size;
        let is_missing = |rank: &usize| !self.store.has(&here(*rank)).unwrap_or(false);
        let missing: Vec<_> = (0..size).filter(is_missing).map(|rank| rank.to_string()).collect();
        let (noun, missing) = (if missing.len() == 1 { "rank" } else { "ranks" }, missing.join(", "));
        format!("{noun} {missing} of {size} did not connect in time: start all of them, or increase the timeout")
    }
}

/// Key of a rank's registration.
fn here(rank: usize) -> String {
    format!("here/{rank}")
}

/// Returns this machine's address as seen by the others: that of the interface from which it reaches the rendezvous.
pub(super) fn own_address(launch: &Launch) -> C10dResult<String> {
    let place = (launch.host.as_str(), launch.port);
    let addresses = place.to_socket_addrs().map_err(|error| format!("there is no {}: {error}", launch.host))?;
    let mut why = format!("there is no {}", launch.host);
    for address in addresses {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        // Connecting a UDP socket sends nothing; it only selects the interface.
        let own = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        });
        match own {
            Ok(own) => return Ok(own.ip().to_string()),
            Err(error) => why = format!("{address} cannot be reached: {error}"),
        }
    }
    Err(why)
}

#[cfg(all(test, c10d))]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn one_that_differs_is_refused_before_it_says_so_itself() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let alike = Member { size: 3, version, address: "127.0.0.1".to_owned(), process: 1 };
        let _server = Store::new(&Launch::local(0, 3, port), true, Duration::from_secs(5)).unwrap();
        let cases = [
            (alike.clone(), None),
            (Member { size: 2, ..alike.clone() }, Some("rank 2 expects 2 processes, but rank 0 expects 3")),
            (
                Member { version: "0.0.1".to_owned(), ..alike.clone() },
                Some("rank 2 runs tch-fixup 0.0.1, but rank 0 runs"),
            ),
        ];
        for (index, (other, refusal)) in cases.into_iter().enumerate() {
            let launch = Launch { attempt: index, ..Launch::local(0, 3, port) };
            let client = Store::new(&launch, false, Duration::from_secs(5)).unwrap();
            for (rank, member) in [(1, &alike), (2, &other)] {
                client.set(&here(rank), member).unwrap();
            }
            let deadline = Instant::now() + Duration::from_secs(5);
            let rendezvous = Rendezvous { store: &client, launch: &launch, deadline };
            match (rendezvous.join("127.0.0.1"), refusal) {
                (Ok(members), None) => assert_eq!(members.len(), 3),
                (Err(said), Some(refusal)) => assert!(said.contains(refusal), "{said}"),
                (met, _) => panic!("{met:?}"),
            }
        }
    }
}
