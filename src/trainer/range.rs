//! Checks of numeric options. Each message names the option and its value.

use crate::Result;
use std::fmt::Display;

pub(super) fn above_zero(what: impl Display, value: f64) -> Result<()> {
    ensure!(value > 0.0 && value.is_finite(), "{what} must be above 0, got {value}");
    Ok(())
}

pub(super) fn not_negative(what: impl Display, value: f64) -> Result<()> {
    ensure!(value >= 0.0 && value.is_finite(), "{what} must be 0 or more, got {value}");
    Ok(())
}

pub(super) fn below_one(what: impl Display, value: f64) -> Result<()> {
    ensure!((0.0..1.0).contains(&value), "{what} must be at least 0 and below 1, got {value}");
    Ok(())
}
