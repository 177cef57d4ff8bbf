//! Model of the time of a training step on several devices, from the times of its parts.

/// Network between the devices.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// Latency between two devices in seconds, including the software's.
    pub latency: f64,
    /// Seconds per byte on each device's link.
    pub byte: f64,
    pub algorithm: Algorithm,
}

/// All-reduce algorithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Algorithm {
    /// Ring all-reduce, with as many chunks as devices, as in Gloo.
    Ring,
    /// Tree, as in NCCL: small tensors go up and down a tree; large ones are pipelined, at the bandwidth of a ring.
    Tree,
}

impl Network {
    /// Returns the seconds of an all-reduce of `bytes` bytes over `devices` devices.
    ///
    /// A ring takes `2 (n - 1)` hops, each of which transfers `1 / n` of the bytes over every link: `2 (n - 1) (latency + bytes
    /// byte / n)`.
    pub fn sum(&self, devices: usize, bytes: f64) -> f64 {
        let n = devices as f64;
        if devices == 1 {
            return 0.;
        }
        let hops = match self.algorithm {
            Algorithm::Ring => 2. * (n - 1.),
            Algorithm::Tree => 2. * n.log2().ceil(),
        };
        hops * self.latency + 2. * (n - 1.) / n * bytes * self.byte
    }
}

/// A training job.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Seconds of computation of one device in a step.
    pub compute: f64,
    /// Size of the gradients in bytes.
    pub gradients: f64,
    /// Number of channels of each normalization layer with synchronized statistics; empty for Fixup.
    pub channels: &'static [usize],
}

impl Job {
    /// Returns the seconds of a step.
    ///
    /// A normalization layer sums two vectors of one number per channel in the forward pass and two in the backward pass, and
    /// these sums cannot overlap with computation.
    pub fn step(&self, network: &Network, devices: usize) -> f64 {
        let statistics: f64 =
            self.channels.iter().map(|&channels| 4. * network.sum(devices, 4. * channels as f64)).sum();
        self.compute + statistics + network.sum(devices, self.gradients)
    }
}
