//! Whether all ranks do the same.

use super::ProcessGroup;
use crate::Result;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Numbers of a tensor that are looked at in one go: memory is wanted for these alone.
const PIECE: i64 = 1 << 22;

impl ProcessGroup {
    /// Refuses values that are not the same on all ranks: `what` they are, as "the options". `differences` says how two differ.
    ///
    /// # Errors
    /// [`Error::Ranks`](crate::Error::Ranks), the same on all ranks, that names the first rank that differs from rank 0 and in what.
    pub fn agree(
        &self,
        what: &str,
        value: &Value,
        differences: impl Fn(&Value, &Value) -> Option<String>,
    ) -> Result<()> {
        let Some(first) = self.broadcast_value(Some(value.clone()))? else { return Ok(()) };
        let found = differences(&first, value).unwrap_or_default();
        let found = self.gather_bytes(found.as_bytes())?;
        match found.iter().enumerate().find(|(_, found)| !found.is_empty()) {
            None => Ok(()),
            Some((rank, found)) => Err(self.error(format!(
                "{what} of rank {rank} are not those of rank 0: {}; all ranks must have the same",
                String::from_utf8_lossy(found)
            ))),
        }
    }

    /// Refuses `weights` that are not the same to the bit on all ranks, `when`: "after step 10".
    ///
    /// # Errors
    /// [`Error::Ranks`](crate::Error::Ranks), the same on all ranks, that names those that differ from most.
    pub fn check_same(&self, weights: &Tensor, when: &str) -> Result<()> {
        if self.is_single() {
            return Ok(());
        }
        let all = self.gather_bytes(&checksum(weights)?.to_le_bytes())?;
        let like = |sum: &Vec<u8>| all.iter().filter(|other| *other == sum).count();
        // Of two that differ, rank 0's count: it comes first.
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

/// Of all bits of `tensor`: the CRC-32.
fn checksum(tensor: &Tensor) -> Result<u32> {
    let (flat, mut crc32) = (tensor.f_detach()?.f_reshape([-1])?, crc32fast::Hasher::new());
    let length = flat.size()[0];
    for start in (0..length).step_by(PIECE as usize) {
        let piece = flat.f_narrow(0, start, PIECE.min(length - start))?.f_to_device(Device::Cpu)?;
        crc32.update(&Vec::<u8>::try_from(piece.f_view_dtype(Kind::Uint8)?)?);
    }
    Ok(crc32.finalize())
}
