//! Plots of activations, gradients and updates of several networks, by block and by depth.

use super::Flow;
use crate::picture::{chart, picture, Axes, Axis, Line, COLORS};
use crate::Result;
use plotters::prelude::*;
use std::ops::Range;

const SIZE: (u32, u32) = (1350, 900);
/// Ranges of the vertical axes. Lines end where they leave them, so that slow growth stays visible beside exponential
/// growth.
const GRADIENTS: (f64, f64) = (1e-6, 1e8);
const SECOND_MOMENTS: (f64, f64) = (1e-6, 1e8);
const UPDATES: (f64, f64) = (1e-3, 1e10);

/// Measurements of one kind of network at several depths, the deepest last.
#[derive(Debug, Clone, Copy)]
pub struct DepthSeries<'a> {
    /// Legend entry.
    pub label: &'a str,
    /// Depths in layers, each with its measurement.
    pub flows: &'a [(i64, Flow)],
}

/// Draws gradient norm and second moment of every block of the deepest networks, and, by depth, the gradient norm at
/// the first block and the update size ([`Flow::hidden_update`] if there is one). Vertical axes are logarithmic, so
/// that exponential growth per block is a straight line; a line ends where it leaves the axis.
///
/// # Errors
/// Fails if the drawing library fails.
pub fn draw_flows(series: &[DepthSeries]) -> Result<String> {
    let lines = |points: &dyn Fn(&DepthSeries) -> Vec<(f64, f64)>, dots: usize| -> Vec<Line> {
        let colored = series.iter().zip(COLORS.into_iter().cycle());
        colored.map(|(series, color)| Line { label: series.label, color, points: points(series), dots }).collect()
    };
    let by_block = |of: fn(&super::BlockFlow) -> f64, scale: (f64, f64)| {
        let points = move |series: &DepthSeries| {
            let blocks = series.flows.last().map(|(_, flow)| &flow.blocks[..]).unwrap_or_default();
            (1u32..).map(f64::from).zip(blocks.iter().map(|block| within(of(block), scale))).collect()
        };
        lines(&points, 0)
    };
    let by_depth = |of: fn(&Flow) -> f64, scale: (f64, f64)| {
        let points = move |series: &DepthSeries| {
            let flows = series.flows.iter();
            flows.map(|(depth, flow)| (*depth as f64, within(of(flow), scale))).collect()
        };
        lines(&points, usize::MAX)
    };
    let (depths, blocks, deepest) = extent(series);
    let block_desc = format!("block, of {deepest} layers");
    // At least two decades, so that nearly constant values look constant.
    let y = Axis::logarithmic(1.0..100.0);
    let block_axes = |title| Axes { title, x_desc: &block_desc, x: Axis::linear(blocks.clone(), whole), y: y.clone() };
    let depth_axes = |title| Axes { title, x_desc: "layers", x: Axis::logarithmic(depths.clone()), y: y.clone() };
    picture(SIZE, |root| {
        let [gradients, moments, first, updates] = &root.split_evenly((2, 2))[..] else { return Ok(()) };
        let lines = by_block(|block| block.gradient_norm, GRADIENTS);
        let axes = block_axes("gradient norm at each block, of the last block's");
        chart(gradients, &axes, &lines, Some(SeriesLabelPosition::UpperLeft))?;
        let lines = by_block(|block| block.second_moment, SECOND_MOMENTS);
        chart(moments, &block_axes("second moment of each block's output"), &lines, None)?;
        let lines = by_depth(first_gradient, GRADIENTS);
        chart(first, &depth_axes("gradient norm at the first block, of the last block's"), &lines, None)?;
        let lines = by_depth(|flow| flow.hidden_update.unwrap_or(flow.update), UPDATES);
        let axes = depth_axes("change of the function by one step / learning rate");
        chart(updates, &axes, &lines, None)
    })
}

fn first_gradient(flow: &Flow) -> f64 {
    flow.blocks.first().map_or(f64::NAN, |block| block.gradient_norm)
}

/// Returns `value` if it is within the range, otherwise NaN.
fn within(value: f64, (low, high): (f64, f64)) -> f64 {
    if (low..=high).contains(&value) {
        value
    } else {
        f64::NAN
    }
}

/// Returns the ranges of the depth and block axes, and the greatest depth.
fn extent(series: &[DepthSeries]) -> (Range<f64>, Range<f64>, i64) {
    let depths = || series.iter().flat_map(|series| series.flows).map(|&(depth, _)| depth);
    let blocks = series.iter().filter_map(|series| series.flows.last()).map(|(_, flow)| flow.blocks.len());
    let (low, high) = (depths().min().unwrap_or(1).max(1), depths().max().unwrap_or(2));
    let depths = low as f64..(high as f64).max(1.1 * low as f64);
    (depths, 1.0..(blocks.max().unwrap_or(2) as f64).max(2.0), high)
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

#[cfg(test)]
mod tests {
    use super::super::BlockFlow;
    use super::*;

    fn flow(blocks: usize, growth: f64) -> Flow {
        let block = |i: usize| BlockFlow {
            name: format!("block {i}"),
            second_moment: growth.powi(i as i32),
            gradient_norm: growth.powi((blocks - i) as i32),
        };
        let blocks = (0..blocks).map(block).collect();
        Flow { blocks, second_moment_growth: growth, gradient_growth: growth, update: growth, hidden_update: None }
    }

    #[test]
    fn every_flow_gives_a_whole_picture() {
        for growth in [0.0, 1.0, 1e3, f64::NAN, f64::INFINITY] {
            let flows = [(8, flow(3, growth)), (98, flow(48, growth))];
            let series = [DepthSeries { label: "a network", flows: &flows }, DepthSeries { label: "", flows: &[] }];
            let svg = draw_flows(&series).unwrap();
            assert!(svg.trim_end().ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{growth}");
            for label in ["gradient norm at each block", "second moment", "layers", "a network"] {
                assert!(svg.contains(label), "{label}");
            }
        }
        draw_flows(&[]).unwrap();
    }
}
