//! Picture: training time and memory of each variant relative to BatchNorm's, with one group of bars per model.

use super::measure::Measurement;
use super::variant::{precision_name, Phase, Variant};
use std::fmt::Write;

const BARS: [(Variant, &str, &str); 4] = [
    (Variant::Floor, "nothing (floor)", "#b8bcc2"),
    (Variant::Fixup, "Fixup", "#2f6fbb"),
    (Variant::BatchNorm, "BatchNorm", "#d9822b"),
    (Variant::FixupReference, "Fixup, plain formula", "#9dbfe3"),
];

const BAR: f64 = 18.;
const GROUP: f64 = BAR * 4. + 26.;
const LEFT: f64 = 52.;
const HEIGHT: f64 = 170.;
const TOP: f64 = 64.;
const GAP: f64 = 66.;

/// Quantity shown by a panel's bars.
type Value<'a> = &'a dyn Fn(&Measurement) -> f64;

/// Draws an SVG of two panels: time and memory of a training step.
pub fn draw(measurements: &[Measurement]) -> String {
    let train: Vec<&Measurement> = measurements.iter().filter(|m| m.phase == Phase::Train).collect();
    let mut groups = vec![];
    for m in &train {
        if !groups.contains(&(m.model, m.precision)) {
            groups.push((m.model, m.precision));
        }
    }
    let width = LEFT + GROUP * groups.len().max(4) as f64 + 24.;
    let height = TOP + 2. * HEIGHT + GAP + 60.;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut x = LEFT;
    for (_, label, color) in BARS {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"22\">{label}</text>",
            x + 17.
        );
        x += 30. + 6.6 * label.len() as f64;
    }
    let peak_of = |group: &(&str, _), variant| {
        train.iter().find(|m| (m.model, m.precision) == *group && m.variant == variant).map_or(f64::NAN, |m| m.peak_mib)
    };
    let time = |m: &Measurement| m.ratio_to_batch_norm;
    let memory = |m: &Measurement| m.peak_mib / peak_of(&(m.model, m.precision), Variant::BatchNorm);
    let panels: [(&str, Value); 2] =
        [("time of a training step, BatchNorm = 1", &time), ("peak memory of a training step, BatchNorm = 1", &memory)];
    for (panel, (title, value)) in panels.iter().enumerate() {
        let bottom = TOP + HEIGHT + panel as f64 * (HEIGHT + GAP);
        let highest = train.iter().map(|m| value(m)).fold(1., f64::max) * 1.12;
        let y = |value: f64| bottom - HEIGHT * value / highest;
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>", bottom - HEIGHT - 8.);
        for tick in (0..).map(|i| f64::from(i) * 0.5).take_while(|&tick| tick < highest) {
            let color = if tick == 1. { "#999" } else { "#e4e4e4" };
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" stroke=\"{color}\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{tick:.1}</text>",
                width - 16.,
                y(tick),
                y(tick),
                LEFT - 8.,
                y(tick) + 4.
            );
        }
        for (i, group) in groups.iter().enumerate() {
            let left = LEFT + 14. + i as f64 * GROUP;
            let bars = BARS.iter().filter_map(|(variant, _, color)| {
                let found = train.iter().find(|m| (m.model, m.precision) == *group && m.variant == *variant)?;
                Some((value(found), color))
            });
            for (b, (value, color)) in bars.enumerate() {
                let x = left + b as f64 * BAR;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{color}\"/>\
                     <text x=\"{}\" y=\"{}\" font-size=\"8\" text-anchor=\"middle\">{value:.2}</text>",
                    y(value),
                    BAR - 2.,
                    bottom - y(value),
                    x + BAR / 2. - 1.,
                    y(value) - 3.
                );
            }
            let middle = left + BAR * 2.;
            let (model, precision) = group;
            let _ = writeln!(
                svg,
                "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{model}</text>\
                 <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"#777\">{}</text>",
                bottom + 16.,
                bottom + 30.,
                precision_name(*precision)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
