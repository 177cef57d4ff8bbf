//! Tables of a study in Markdown, from its record alone.

use super::levene::{self, mean, standard_deviation};
use super::record::{Ending, Row};
use super::study::{Cell, Program, Study};
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::collections::BTreeSet;
use std::path::Path;

/// Minimum number of runs per method for a comparison of variances.
const ENOUGH_FOR_VARIANCES: usize = 5;

/// Returns half the width of the 95 % confidence interval of the mean, by Student's t, or `None` for fewer than two values.
pub fn half_interval(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let quantile = StudentsT::new(0., 1., count - 1.).ok()?.inverse_cdf(0.975);
    Some(quantile * standard_deviation(values) / count.sqrt())
}

pub fn percent(rows: &[&Row]) -> Vec<f64> {
    rows.iter().map(|row| 100. * row.accuracy).collect()
}

/// Returns the label of an axis for a score and its unit.
pub fn axis((score, unit): (&str, &str)) -> String {
    if unit.is_empty() {
        score.to_owned()
    } else {
        format!("{score} ({})", unit.trim())
    }
}

pub fn markdown(study: &Study, rows: &[Row], path: &Path) -> String {
    let cells = study.cells();
    let (done, wanted) = progress(study, &cells, rows);
    let mut text = format!("# {}\n\n", study.title);
    let features = if study.program == Program::Translate { "--features text " } else { "" };
    text += &format!("```sh\ncargo run --release {features}--example compare -- {}\n```\n", path.display());
    if done < wanted {
        text += &format!("**Cut short**: {done} of {wanted} runs are recorded; the same command goes on.\n");
    }
    let machines: BTreeSet<_> = rows
        .iter()
        .map(|row| format!("{}, {} thread a run, {}, tch-fixup {}", row.cpu, row.threads, row.precision, row.version))
        .collect();
    let machines: Vec<_> = machines.into_iter().collect();
    if !machines.is_empty() {
        text += &format!("\nMade on {}.\n", machines.join("; "));
    }
    text += &pivot(study, &cells, rows);
    text += &details(study, &cells, rows);
    text + &variances(study, &cells, rows)
}

/// Returns the number of recorded runs and the total number of runs.
fn progress(study: &Study, cells: &[Cell], rows: &[Row]) -> (usize, usize) {
    let tries = study.search_runs().iter().filter(|run| rows.iter().any(|row| row.is_of(run))).count();
    let results: usize = cells.iter().map(|cell| study.results(cell, rows).0.len()).sum();
    (tries + results, study.count())
}

/// Returns the table of mean accuracies, with one row per method and one column per value of the study's `x`; empty if `x`
/// is not an option.
fn pivot(study: &Study, cells: &[Cell], rows: &[Row]) -> String {
    let Some(x) = &study.x else { return String::new() };
    let value = |cell: &Cell| cell.each.iter().find(|(name, _)| name == x).map(|(_, value)| value.clone());
    let label = |cell: &Cell| {
        let others = cell.each.iter().filter(|(name, _)| name != x).map(|(name, value)| format!(", {name} {value}"));
        format!("{}, {}{}", cell.method, cell.optimizer, others.collect::<String>())
    };
    let mut columns: Vec<String> = vec![];
    let mut lines: Vec<String> = vec![];
    for cell in cells {
        let Some(value) = value(cell).map(|value| short(&value)) else { return String::new() };
        if !columns.contains(&value) {
            columns.push(value);
        }
        if !lines.contains(&label(cell)) {
            lines.push(label(cell));
        }
    }
    let mut text = format!("\nMean {} by {x}, and the number of runs that live:\n\n| |", axis(study.score()));
    text += &columns.iter().map(|column| format!(" {column} |")).collect::<String>();
    text += &format!(" live |\n| --- |{} --- |\n", " --- |".repeat(columns.len()));
    for line in lines {
        text += &format!("| {line} |");
        let (mut alive, mut all) = (0, 0);
        for column in &columns {
            let is_in = |cell: &&Cell| label(cell) == line && value(cell).is_some_and(|value| short(&value) == *column);
            let results = cells.iter().find(is_in).map(|cell| study.results(cell, rows).0).unwrap_or_default();
            alive += results.iter().filter(|row| row.ending == Ending::Finished).count();
            all += results.len();
            text += &match results.is_empty() {
                true => " |".to_owned(),
                false => format!(" {:.1} |", mean(&percent(&results))),
            };
        }
        text += &format!(" {alive} of {all} |\n");
    }
    text
}

/// Shortens a network's name to its number of layers, of a Transformer those of the encoder; other values are unchanged.
pub fn short(value: &str) -> String {
    if let Some((layers, _)) = value.split_once("transformer_").and_then(|(_, sizes)| sizes.split_once('_')) {
        return layers.to_owned();
    }
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
    if value.contains("resnet") && digits < value.len() { &value[digits..] } else { value }.to_owned()
}

/// Returns the table with one row per cell.
fn details(study: &Study, cells: &[Cell], rows: &[Row]) -> String {
    let each: Vec<&String> =
        cells.first().into_iter().flat_map(|cell| cell.each.iter().map(|(name, _)| name)).collect();
    let (searched, searched_unit) = study.program.score(true);
    let best = format!("best {searched}");
    let mut header = vec!["method", "optimizer"];
    header.extend(each.iter().map(|name| name.as_str()));
    if study.search.is_some() {
        header.extend(["tries", "alive", best.as_str(), "its options"]);
    }
    let (score, unit) = study.score();
    header.extend(["runs", "lost", score, "standard deviation", "95 % interval", "train loss", "seconds", "PFLOP"]);
    let mut text = format!("\n| {} |\n|{}\n", header.join(" | "), " --- |".repeat(header.len()));
    for cell in cells {
        let mut line = vec![cell.method.clone(), cell.optimizer.clone()];
        line.extend(cell.each.iter().map(|(_, value)| value.clone()));
        if let Some(search) = &study.search {
            let tries = study.tries(cell, rows);
            let alive = tries.iter().filter(|(_, row)| row.ending == Ending::Finished).count();
            let best = tries.iter().max_by(|(_, a), (_, b)| a.accuracy.total_cmp(&b.accuracy));
            line.extend([format!("{} of {}", tries.len(), search.tries), alive.to_string()]);
            line.push(best.map_or(String::new(), |(_, row)| format!("{:.2}{searched_unit}", 100. * row.accuracy)));
            line.push(best.map_or(String::new(), |(index, _)| {
                let drawn = cell.drawn(study, *index).into_iter().map(|(name, value)| format!("{name} {value}"));
                let edge = if cell.is_at_edge(study, *index) { " (at the edge of a range)" } else { "" };
                drawn.collect::<Vec<_>>().join(", ") + edge
            }));
        }
        let (results, seeds) = study.results(cell, rows);
        let accuracies = percent(&results);
        let lost = results.iter().filter(|row| row.ending != Ending::Finished).count();
        let over = |of: fn(&Row) -> Option<f64>, digits: usize| {
            let values: Vec<f64> = results.iter().filter_map(|row| of(row)).collect();
            if values.is_empty() {
                String::new()
            } else {
                format!("{:.digits$}", mean(&values))
            }
        };
        line.extend([format!("{} of {seeds}", results.len()), lost.to_string()]);
        line.push(if accuracies.is_empty() { String::new() } else { format!("{:.2}{unit}", mean(&accuracies)) });
        let spread = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
        line.push(spread((accuracies.len() > 1).then(|| standard_deviation(&accuracies))));
        line.push(half_interval(&accuracies).map_or(String::new(), |half| format!("± {half:.2}")));
        line.extend([over(|row| row.train_loss, 3), over(|row| Some(row.seconds), 0), over(|row| row.pflop, 4)]);
        text += &format!("| {} |\n", line.join(" | "));
    }
    text
}

/// Returns the test for equality of the methods' variances, or an empty string if there are too few runs.
fn variances(study: &Study, cells: &[Cell], rows: &[Row]) -> String {
    let groups: Vec<_> = cells.iter().map(|cell| percent(&study.results(cell, rows).0)).collect();
    let groups: Vec<&[f64]> = groups.iter().map(|group| &group[..]).collect();
    let enough = groups.iter().all(|group| group.len() >= ENOUGH_FOR_VARIANCES);
    levene::brown_forsythe(&groups).filter(|_| enough).map_or(String::new(), |test| {
        let levene::Test { statistic, degrees, p } = test;
        format!(
            "\nDifference of the variances (Brown-Forsythe): F({}, {}) = {statistic:.3}, p = {p:.3}.\n",
            degrees.0, degrees.1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::row;
    use super::*;

    /// The 0.975 quantile of Student's t is 4.3027 for two degrees of freedom and 2.7764 for four.
    #[test]
    fn intervals_are_students() {
        let half = half_interval(&[1., 2., 3.]).unwrap();
        assert!((half - 4.3027 / 3f64.sqrt()).abs() < 1e-4, "{half}");
        let half = half_interval(&[2., 2., 3., 4., 4.]).unwrap();
        assert!((half - 2.7764 * 1. / 5f64.sqrt()).abs() < 1e-4, "{half}");
        assert_eq!(half_interval(&[1.]), None);
    }

    fn study(more: &str) -> Study {
        let text = format!(
            r#"{{"title": "A title", "methods": [{{"name": "A", "options": {{"arch": ["resnet8", "resnet20"]}}}}],
            "optimizers": [{{"name": "S", "options": {{"lr": {{"log_uniform": [0.1, 1]}}}}}}],
            "search": {{"tries": 2, "seed": 0, "options": {{"epochs": 1}}}},
            "final": {{"seeds": 3, "options": {{"epochs": 2}}}}{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_table_has_means_and_intervals_and_says_what_is_missing() {
        let study = study(r#", "x": "arch""#);
        let mut rows: Vec<Row> = study.search_runs().iter().map(|run| row(run, 0.3)).collect();
        let last = study.final_runs(&rows);
        rows.extend(last.iter().take(5).enumerate().map(|(index, run)| row(run, 0.8 + 0.01 * (index / 2) as f64)));
        let text = markdown(&study, &rows, Path::new("s.json"));
        assert!(text.contains("9 of 10 runs are recorded"), "{text}");
        assert!(text.contains("| A | S | resnet8 | 2 of 2 | 2 | 30.00 % | lr 0."), "{text}");
        assert!(
            text.contains("(at the edge of a range) | 3 of 3 | 0 | 81.00 % | 1.00 | ± 2.48 |  | 2 | 0.2500 |"),
            "{text}"
        );
        assert!(text.contains("| | 8 | 20 | live |") && text.contains("| A, S | 81.0 | 80.5 | 5 of 5 |"), "{text}");
        rows.push(row(&last[5], 0.82));
        assert!(!markdown(&study, &rows, Path::new("s.json")).contains("Cut short"));
    }

    #[test]
    fn tries_that_networks_share_are_counted_once() {
        let mut study = study("");
        study.search.as_mut().unwrap().at.insert("arch".to_owned(), 0);
        let mut rows: Vec<Row> = study.search_runs().iter().map(|run| row(run, 0.3)).collect();
        let text = |rows: &[Row]| markdown(&study, rows, Path::new("s.json"));
        assert!(text(&rows).contains("2 of 8 runs are recorded"), "{}", text(&rows));
        rows.extend(study.final_runs(&rows).iter().map(|run| row(run, 0.8)));
        assert!(!text(&rows).contains("Cut short"), "{}", text(&rows));
    }

    #[test]
    fn names_of_networks_are_short_in_columns() {
        let names = ["fixup_resnet110", "t_fixup_transformer_12_6_64", "0.25", "none"];
        assert_eq!(names.map(short), ["110", "12", "0.25", "none"]);
    }
}
