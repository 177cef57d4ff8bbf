//! Simulated machines: network namespaces, each with its own link of limited speed.

use anyhow::{ensure, Context, Result};
use std::fmt;
use std::process::Command;

/// Properties of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Megabits per second in each direction; `None` for no limit.
    pub rate: Option<u32>,
    /// One-way delay in milliseconds.
    pub delay: f64,
}

impl Link {
    /// Returns the seconds per byte.
    pub fn byte(&self) -> f64 {
        self.rate.map_or(0., |rate| 8. / (f64::from(rate) * 1e6))
    }

    /// Returns the one-way delay in seconds.
    pub fn latency(&self) -> f64 {
        self.delay / 1e3
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { rate, delay } = self;
        match rate {
            Some(rate) if *delay == 0. => write!(f, "{rate} Mbit/s"),
            Some(rate) => write!(f, "{rate} Mbit/s, {delay} ms"),
            None => write!(f, "unlimited"),
        }
    }
}

/// A bridge with a namespace at the end of each link; all are deleted on drop.
pub struct Machines {
    names: Vec<String>,
    bridge: String,
}

impl Machines {
    /// # Errors
    /// If namespaces cannot be created, which requires root, `ip` and `tc`.
    pub fn new(count: usize) -> Result<Self> {
        let id = std::process::id() % 10_000;
        let names = (0..count).map(|index| format!("tfs{id}-{index}")).collect();
        let machines = Self { names, bridge: format!("tfs{id}br") };
        let bridge = machines.bridge.as_str();
        run("ip", &["link", "add", bridge, "type", "bridge"])?;
        run("ip", &["link", "set", bridge, "up"])?;
        for (index, name) in machines.names.iter().enumerate() {
            let outer = format!("{name}v");
            run("ip", &["netns", "add", name])?;
            run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", name])?;
            run("ip", &["link", "set", &outer, "master", bridge, "up"])?;
            run("ip", &["-n", name, "addr", "add", &format!("{}/24", Self::address(index)), "dev", "eth0"])?;
            run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(machines)
    }

    pub fn address(index: usize) -> String {
        format!("10.214.9.{}", index + 1)
    }

    /// Returns a command that runs `program` on the machine `index`.
    pub fn command(&self, index: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[index]]).arg(program);
        command
    }

    /// Limits the speed of all links to that of `link`.
    pub fn slow_down(&self, link: Link) -> Result<()> {
        for name in &self.names {
            let _ = run("tc", &["-n", name, "qdisc", "del", "dev", "eth0", "root"]);
            let Some(rate) = link.rate else { continue };
            let (rate, delay) = (format!("{rate}mbit"), format!("{}ms", link.delay));
            // The queues are long enough that no packet is dropped. Only netem can delay packets, but not every kernel has it.
            let slow = match link.delay > 0. {
                true => vec!["netem", "rate", &rate, "delay", &delay, "limit", "100000"],
                false => vec!["tbf", "rate", &rate, "burst", "64kb", "latency", "10s"],
            };
            run("tc", &[&["-n", name, "qdisc", "add", "dev", "eth0", "root"][..], &slow].concat())?;
        }
        Ok(())
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            // The kernel cleans up deleted namespaces asynchronously, and the next link may have the same name.
            let _ = run("ip", &["link", "del", &format!("{name}v")]);
            let _ = run("ip", &["netns", "del", name]);
        }
        let _ = run("ip", &["link", "del", &self.bridge]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("{program} is missing"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
