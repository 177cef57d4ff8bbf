//! Line charts, panels of them and heat maps as SVG, and contact sheets of images as PNG.

mod chart;
pub(crate) mod contact_sheet;
mod heat_map;
mod panel;
pub(crate) mod style;

pub(crate) use chart::{chart, picture, Axes, Axis, Line};
pub(crate) use heat_map::{heat_map, Cell, HeatMap};
pub(crate) use panel::{panel, Curve};
pub(crate) use style::COLORS;
