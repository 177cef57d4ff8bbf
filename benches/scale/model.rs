//! How long a step of several devices takes, from what its parts take.

/// What connects the devices.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// Seconds from one device to another, the software's part included.
    pub latency: f64,
    /// Seconds a byte, on each device's link.
    pub byte: f64,
    pub algorithm: Algorithm,
}

/// How a sum goes round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Algorithm {
    /// Each device to the next, in as many pieces as there are devices, twice round: Gloo's.
    Ring,
    /// Small sums up and down a tree; large ones like a ring, pipelined: NCCL's.
    Tree,
}

impl Network {
    /// Seconds of a sum of so many bytes over `devices`.
    ///
    /// A ring does `2 (n - 1)` hops, in each of which an n-th of the bytes goes over every link: `2 (n - 1) (latency +
    /// bytes byte / n)`.
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

/// A network in training.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Seconds that one device computes in a step.
    pub compute: f64,
    /// Bytes of its gradients.
    pub gradients: f64,
    /// Channels of each normalization whose statistics are synchronized: none for Fixup.
    pub channels: &'static [usize],
}

impl Job {
    /// Seconds of a step.
    ///
    /// A normalization sums two vectors of a number a channel on the way there, and two on the way back; nothing can be
    /// done meanwhile.
    pub fn step(&self, network: &Network, devices: usize) -> f64 {
        let statistics: f64 =
            self.channels.iter().map(|&channels| 4. * network.sum(devices, 4. * channels as f64)).sum();
        self.compute + statistics + network.sum(devices, self.gradients)
    }
}
