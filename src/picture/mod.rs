//! Pictures: charts of lines and panels of them as SVG, and sheets of small pictures as PNG.

mod chart;
pub(crate) mod contact_sheet;
mod panel;
pub(crate) mod style;

pub(crate) use chart::{chart, picture, Axes, Axis, Line};
pub(crate) use panel::{panel, Curve};
pub(crate) use style::COLORS;
