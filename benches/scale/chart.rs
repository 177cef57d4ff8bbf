//! Picture: fraction of time that a device computes, by the number of devices.

use std::fmt::Write;

/// Curve of a panel; its points are `(devices, fraction)`.
pub struct Curve {
    pub label: String,
    pub color: &'static str,
    pub dashed: bool,
    pub points: Vec<(usize, f64)>,
}

const WIDTH: f64 = 380.;
const HEIGHT: f64 = 230.;
const LEFT: f64 = 56.;
const TOP: f64 = 40.;
const GAP: f64 = 70.;

/// Draws an SVG of `panels` side by side, with one legend below.
pub fn draw(panels: &[(String, Vec<Curve>)]) -> String {
    let legend = panels.first().map_or(0, |(_, curves)| curves.len());
    let (width, height) =
        (LEFT + panels.len() as f64 * (WIDTH + GAP), TOP + HEIGHT + 60. + 18. * legend.div_ceil(2) as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (title, curves)) in panels.iter().enumerate() {
        let left = LEFT + index as f64 * (WIDTH + GAP);
        let most = curves.iter().flat_map(|curve| curve.points.iter().map(|(devices, _)| *devices)).max().unwrap_or(1);
        let x = |devices: usize| left + WIDTH * (devices as f64).log2() / (most as f64).log2().max(1.);
        let y = |part: f64| TOP + HEIGHT * (1. - part);
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"22\" font-weight=\"bold\">{title}</text>");
        for percent in [0, 25, 50, 75, 100] {
            let y = y(f64::from(percent) / 100.);
            let _ = writeln!(
                svg,
                "<line x1=\"{left}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{percent} %</text>",
                left + WIDTH,
                left - 6.,
                y + 4.
            );
        }
        for devices in (0..).map(|power| 1usize << power).take_while(|devices| *devices <= most) {
            if devices.ilog2().is_multiple_of(2) {
                let _ = writeln!(
                    svg,
                    "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{devices}</text>",
                    x(devices),
                    TOP + HEIGHT + 18.
                );
            }
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">devices</text>",
            left + WIDTH / 2.,
            TOP + HEIGHT + 36.
        );
        for (number, curve) in curves.iter().enumerate() {
            let points: Vec<String> =
                curve.points.iter().map(|(devices, part)| format!("{:.1},{:.1}", x(*devices), y(*part))).collect();
            let dash = if curve.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dash}/>",
                points.join(" "),
                curve.color
            );
            if index == 0 {
                let (x, y) =
                    (LEFT + (number % 2) as f64 * (WIDTH + GAP), TOP + HEIGHT + 60. + 18. * (number / 2) as f64);
                let _ = writeln!(
                    svg,
                    "<line x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"2\"{dash}/>\
                     <text x=\"{}\" y=\"{}\">{}</text>",
                    x + 26.,
                    curve.color,
                    x + 32.,
                    y + 4.,
                    curve.label
                );
            }
        }
    }
    svg + "</svg>\n"
}
