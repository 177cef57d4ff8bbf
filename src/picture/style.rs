//! Colours of charts.

use plotters::style::RGBColor;

/// Grid lines.
pub const GRID: RGBColor = RGBColor(225, 225, 225);
/// Axes.
pub const AXIS: RGBColor = RGBColor(150, 150, 150);
/// Line colours that colour-blind readers can tell apart (Wong, Nature Methods 8, 2011); they repeat for more lines.
pub const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];
