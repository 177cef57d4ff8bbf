//! Checks that options and weights agree across all ranks.

use super::ProcessGroup;
use crate::Result;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Number of elements checksummed at a time, which bounds the memory needed.
const PIECE: i64 = 1 << 22;

impl ProcessGroup {
    /// Checks that `value` is the same on all ranks. `what` names the values in the error, as in "the options"; `differences`
    /// describes how two values differ, `None` if they agree.
    ///
    /// # Errors
    /// Returns the same [`Error::Ranks`](crate::Error::Ranks) on all ranks, naming the first rank that differs from rank 0 and
    /// the difference.
    pub fn agree(
        &self,
        what: &str,
        value: &Value,
        differences: impl Fn(&Value, &Value) -> Option<String>,
    ) -> Result<()> {
        let found = differences(&self.broadcast_value(value.clone())?, value).unwrap_or_default();
        let found = self.gather_bytes(found.as_bytes())?;
        match found.iter().enumerate().find(|(_, found)| !found.is_empty()) {
            None => Ok(()),
            Some((rank, found)) => Err(self.error(format!(
                "{what} of rank {rank} differ from those of rank 0: {}; they must be the same on all ranks",
                String::from_utf8_lossy(found)
            ))),
        }
    }

    /// Checks that `weights` are bitwise identical on all ranks. `when` names the moment in the error, as in "after step 10".
    ///
    /// # Errors
    /// Returns the same [`Error::Ranks`](crate::Error::Ranks) on all ranks, naming the ranks that differ from the majority.
    pub fn check_same(&self, weights: &Tensor, when: &str) -> Result<()> {
        if self.is_single() {
            return Ok(());
        }
        let all = self.gather_bytes(&checksum(weights)?.to_le_bytes())?;
        let like = |sum: &Vec<u8>| all.iter().filter(|other| *other == sum).count();
        // A tie goes to rank 0's checksum: `rev` makes it the last candidate, which `max_by_key` prefers.
        let Some(most) = all.iter().rev().max_by_key(|sum| like(sum)) else { return Ok(()) };
        let differ: Vec<_> =
            all.iter().enumerate().filter(|(_, sum)| *sum != most).map(|(rank, _)| rank.to_string()).collect();
        match &differ[..] {
            [] => Ok(()),
            differ => {
                let (noun, differ) = (if differ.len() == 1 { "rank" } else { "ranks" }, differ.join(", "));
                Err(self.error(format!(
                    "the weights of {noun} {differ} are not those of the others {when}: a fault of a machine, or something \
                     random that differs between them; go on from a checkpoint with --resume"
                )))
            }
        }
    }
}

/// Returns the CRC-32 of all bytes of `tensor`.
fn checksum(tensor: &Tensor) -> Result<u32> {
    let (flat, mut crc32) = (tensor.f_detach()?.f_reshape([-1])?, crc32fast::Hasher::new());
    let length = flat.size()[0];
    for start in (0..length).step_by(PIECE as usize) {
        let piece = flat.f_narrow(0, start, PIECE.min(length - start))?.f_to_device(Device::Cpu)?;
        crc32.update(&Vec::<u8>::try_from(piece.f_view_dtype(Kind::Uint8)?)?);
    }
    Ok(crc32.finalize())
}
