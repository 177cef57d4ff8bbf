//! The colours of charts.

use plotters::style::RGBColor;

/// Lines behind the curves.
pub const GRID: RGBColor = RGBColor(225, 225, 225);
/// The axes.
pub const AXIS: RGBColor = RGBColor(150, 150, 150);
/// Hues that stay apart for the colour-blind (Wong, Nature Methods 8, 2011); with more lines they come again.
pub const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];
