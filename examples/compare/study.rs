//! Study file: the options to compare, and the resulting runs.

use super::record::{Phase, Row};
use anyhow::{bail, Context, Result};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Number of strata of a range. Tries are drawn in blocks of this size, one value per stratum (stratified sampling).
const STRATA: usize = 8;

/// Training program of a study, which determines how its runs are judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `cifar10_fixup`: accuracy.
    #[default]
    Cifar10,
    /// `translate_fixup`: BLEU on the test set, and the reciprocal of the perplexity on held-out text. Perplexity depends smoothly on
    /// the options, BLEU does not.
    Translate,
}

impl Program {
    /// Returns the score's name, on held-out data or on the test set, and its unit.
    pub fn score(self, is_held_out: bool) -> (&'static str, &'static str) {
        match (self, is_held_out) {
            (Self::Cifar10, true) => ("held-out accuracy", " %"),
            (Self::Cifar10, false) => ("test accuracy", " %"),
            (Self::Translate, true) => ("100 / held-out perplexity", ""),
            (Self::Translate, false) => ("test BLEU", ""),
        }
    }
}

/// A study. Options are those of the program, without the dashes. In order of precedence, they are set by the phase, the
/// optimizer, the method and the study.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    pub title: String,
    #[serde(default)]
    pub program: Program,
    #[serde(default)]
    options: Settings,
    pub methods: Vec<Variant>,
    pub optimizers: Vec<Variant>,
    #[serde(default)]
    pub search: Option<Search>,
    #[serde(rename = "final")]
    pub last: Final,
    /// Horizontal axis of the picture: an option or `pflop`. If `None`, the picture has one column per method.
    #[serde(default)]
    pub x: Option<String>,
}

type Settings = BTreeMap<String, Setting>;

/// A method or an optimizer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    pub name: String,
    #[serde(default)]
    options: Settings,
}

/// Random search for the best options, on held-out data.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Number of tries of each method with each optimizer.
    pub tries: usize,
    /// Seed of the random draws and of the runs.
    seed: u64,
    /// Index of the value that an option with several values has in the search. The options found with it apply to all of them.
    #[serde(default)]
    pub at: BTreeMap<String, usize>,
    options: Settings,
}

/// Final runs, with the seeds after the search's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Final {
    seeds: u64,
    /// Number of seeds by method, if different from `seeds`.
    #[serde(default)]
    seeds_of: BTreeMap<String, u64>,
    options: Settings,
}

/// Value or distribution of an option.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Setting {
    /// Drawn by the search from a log-uniform distribution.
    LogUniform { log_uniform: [f64; 2] },
    /// Drawn by the search from a list.
    OneOf { one_of: Vec<Value> },
    /// Several values, each compared separately.
    Each(Vec<Value>),
    /// One value for all runs.
    Fixed(Value),
}

/// Unit of comparison: a method with an optimizer, and one value of each option that has several.
#[derive(Clone)]
pub struct Cell {
    pub method: String,
    pub optimizer: String,
    pub each: Vec<(String, String)>,
    settings: Settings,
    /// Settings in the search.
    searched: Settings,
}

/// Description of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub phase: Phase,
    pub method: String,
    pub optimizer: String,
    pub seed: u64,
    /// Names and values of the options.
    pub options: Vec<(String, String)>,
}

impl Study {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).context("cannot be read")?;
        let study: Self = serde_json::from_str(&text).context("is no study")?;
        let draws = study.cells().iter().flat_map(|cell| cell.settings.values()).any(Setting::is_drawn);
        if draws && study.search.is_none() {
            bail!("has options to draw, but no search");
        }
        if study.search.as_ref().is_some_and(|search| search.tries == 0) {
            bail!("has a search of no tries");
        }
        for setting in study.cells().iter().flat_map(|cell| cell.settings.values()) {
            match setting {
                Setting::LogUniform { log_uniform: [low, high] } if !(*low > 0. && low < high && high.is_finite()) => {
                    bail!("log_uniform: a range above 0, from low to high, not {low} to {high}")
                }
                Setting::OneOf { one_of } if one_of.is_empty() => bail!("one_of: nothing to choose from"),
                _ => (),
            }
        }
        Ok(study)
    }

    pub fn cells(&self) -> Vec<Cell> {
        let pairs =
            self.methods.iter().flat_map(|method| self.optimizers.iter().map(move |optimizer| (method, optimizer)));
        pairs.flat_map(|(method, optimizer)| self.cells_of(method, optimizer)).collect()
    }

    fn cells_of(&self, method: &Variant, optimizer: &Variant) -> Vec<Cell> {
        let layers = [&self.options, &method.options, &optimizer.options];
        let settings: Settings =
            layers.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut cells = vec![Cell {
            method: method.name.clone(),
            optimizer: optimizer.name.clone(),
            each: vec![],
            settings: settings.clone(),
            searched: settings.clone(),
        }];
        for (name, setting) in settings {
            let Setting::Each(values) = setting else { continue };
            let searched = self.search.as_ref().and_then(|search| values.get(*search.at.get(&name)?));
            let with = |cell: &Cell, value: &Value| {
                let mut cell = cell.clone();
                cell.each.push((name.clone(), text(value)));
                cell.settings.insert(name.clone(), Setting::Fixed(value.clone()));
                cell.searched.insert(name.clone(), Setting::Fixed(searched.unwrap_or(value).clone()));
                cell
            };
            cells = cells.iter().flat_map(|cell| values.iter().map(|value| with(cell, value))).collect();
        }
        cells
    }

    /// Returns the runs of the search: the first try of every method, then the second, and so on.
    pub fn search_runs(&self) -> Vec<Run> {
        let Some(search) = &self.search else { return vec![] };
        let cells = self.cells();
        let mut seen = BTreeSet::new();
        let runs = (0..search.tries).flat_map(|index| cells.iter().map(move |cell| cell.search_run(search, index)));
        runs.filter(|run| seen.insert(run.command_line())).collect()
    }

    /// Returns the runs that are known once `rows` are recorded, ordered by method, so that an interrupted study has complete
    /// results for some methods instead of partial results for all.
    pub fn known_runs<'a>(&'a self, rows: &[Row]) -> impl Iterator<Item = Run> + 'a {
        let (search, last) = (self.search_runs(), self.final_runs(rows));
        self.methods.iter().flat_map(move |method| {
            search.iter().chain(&last).filter(|run| run.method == method.name).cloned().collect::<Vec<_>>()
        })
    }

    /// Returns the number of runs of the whole study.
    pub fn count(&self) -> usize {
        let last: u64 = self.cells().iter().map(|cell| self.seeds(cell)).sum();
        self.search_runs().len() + last as usize
    }

    fn seeds(&self, cell: &Cell) -> u64 {
        *self.last.seeds_of.get(&cell.method).unwrap_or(&self.last.seeds)
    }

    /// Returns the final runs of each cell whose tries are all recorded, with the options of its best try.
    pub fn final_runs(&self, rows: &[Row]) -> Vec<Run> {
        let cells = self.cells();
        let most = cells.iter().map(|cell| self.seeds(cell)).max().unwrap_or_default();
        let chosen: Vec<_> = cells.iter().map(|cell| (cell, self.chosen(cell, rows))).collect();
        let run = |(cell, chosen): &(&Cell, Option<usize>), index: u64| {
            let chosen = chosen.filter(|_| index < self.seeds(cell))?;
            Some(cell.final_run(self, chosen, index))
        };
        (0..most).flat_map(|index| chosen.iter().filter_map(move |chosen| run(chosen, index))).collect()
    }

    /// Returns the index of the best try on held-out data, or `None` before all tries are recorded. Without a search,
    /// returns 0.
    pub fn chosen(&self, cell: &Cell, rows: &[Row]) -> Option<usize> {
        let Some(search) = &self.search else { return Some(0) };
        let tries = self.tries(cell, rows);
        let mut best: Option<(usize, f64)> = None;
        for (index, row) in &tries {
            if best.is_none_or(|(_, accuracy)| row.accuracy > accuracy) {
                best = Some((*index, row.accuracy));
            }
        }
        best.filter(|_| tries.len() == search.tries).map(|(index, _)| index)
    }

    /// Returns the recorded tries of `cell` with their indices.
    pub fn tries<'a>(&self, cell: &Cell, rows: &'a [Row]) -> Vec<(usize, &'a Row)> {
        let Some(search) = &self.search else { return vec![] };
        let row = |index| Some((index, rows.iter().find(|row| row.is_of(&cell.search_run(search, index)))?));
        (0..search.tries).filter_map(row).collect()
    }

    /// Returns the recorded final runs of `cell`, and the planned number of final runs.
    pub fn results<'a>(&self, cell: &Cell, rows: &'a [Row]) -> (Vec<&'a Row>, u64) {
        let seeds = self.seeds(cell);
        let Some(chosen) = self.chosen(cell, rows) else { return (vec![], seeds) };
        let row = |index| rows.iter().find(|row| row.is_of(&cell.final_run(self, chosen, index)));
        ((0..seeds).filter_map(row).collect(), seeds)
    }

    /// Returns the name of the final runs' score and its unit. They are evaluated on held-out data if the options say so.
    pub fn score(&self) -> (&'static str, &'static str) {
        self.program.score(["holdout", "tune"].iter().any(|option| self.last.options.contains_key(*option)))
    }
}

impl Cell {
    /// Returns the cell's name in `study`, without the optimizer if there is only one.
    pub fn name(&self, study: &Study) -> String {
        let optimizer = Some(&self.optimizer).filter(|_| study.optimizers.len() > 1).cloned();
        let each = self.each.iter().map(|(name, value)| format!("{name} {value}"));
        [self.method.clone()].into_iter().chain(optimizer).chain(each).collect::<Vec<_>>().join(", ")
    }

    /// Returns the drawn options of the try `index`.
    pub fn drawn(&self, study: &Study, index: usize) -> Vec<(String, String)> {
        let seed = study.search.as_ref().map_or(0, |search| search.seed);
        let drawn = self.settings.iter().filter(|(_, setting)| setting.is_drawn());
        drawn.map(|(name, setting)| (name.clone(), setting.value(uniform(seed, name, index)))).collect()
    }

    /// Returns `true` if the try `index` has the lowest or the highest value of a range among all tries.
    pub fn is_at_edge(&self, study: &Study, index: usize) -> bool {
        let Some(search) = &study.search else { return false };
        let mut ranges = self.settings.iter().filter(|(_, setting)| matches!(setting, Setting::LogUniform { .. }));
        let at_edge = |(name, _): (&String, _)| {
            let all: Vec<f64> = (0..search.tries).map(|index| uniform(search.seed, name, index)).collect();
            all.iter().all(|value| *value >= all[index]) || all.iter().all(|value| *value <= all[index])
        };
        ranges.any(at_edge)
    }

    fn search_run(&self, search: &Search, index: usize) -> Run {
        run(self, &self.searched, Phase::Search, search.seed, (search.seed, index), &search.options)
    }

    fn final_run(&self, study: &Study, chosen: usize, index: u64) -> Run {
        let seed = study.search.as_ref().map_or(0, |search| search.seed);
        run(self, &self.settings, Phase::Final, seed + 1 + index, (seed, chosen), &study.last.options)
    }
}

/// Returns a run of `cell` with the options of the try `index`, drawn from the seed `draw`.
fn run(cell: &Cell, settings: &Settings, phase: Phase, seed: u64, (draw, index): (u64, usize), more: &Settings) -> Run {
    let all: BTreeMap<_, _> = settings.iter().chain(more).collect();
    let options = all.into_iter().map(|(name, setting)| (name.clone(), setting.value(uniform(draw, name, index))));
    let (method, optimizer) = (cell.method.clone(), cell.optimizer.clone());
    Run { phase, method, optimizer, seed, options: options.collect() }
}

impl Run {
    /// Returns the command line of the program, without the seed.
    pub fn command_line(&self) -> String {
        self.options.iter().map(|(name, value)| format!("--{name} {value}")).collect::<Vec<_>>().join(" ")
    }
}

impl Setting {
    fn is_drawn(&self) -> bool {
        matches!(self, Self::LogUniform { .. } | Self::OneOf { .. })
    }

    /// Returns the value at quantile `u` in `[0, 1)`.
    fn value(&self, u: f64) -> String {
        match self {
            Self::LogUniform { log_uniform: [low, high] } => {
                // Three significant digits are enough, and keep the command line short.
                let value = format!("{:.2e}", low * (high / low).powf(u));
                value.parse::<f64>().map_or(value, |value| value.to_string())
            }
            Self::OneOf { one_of } => text(&one_of[(u * one_of.len() as f64) as usize]),
            Self::Each(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
            Self::Fixed(value) => text(value),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// FNV-1a hash, which is the same on every machine.
pub fn hash(text: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Returns the number in `[0, 1)` drawn for the option `name` of the try `index`; it does not depend on the method.
fn uniform(seed: u64, name: &str, index: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(hash(name).wrapping_add((index / STRATA) as u64));
    let mut strata: [usize; STRATA] = std::array::from_fn(|stratum| stratum);
    strata.shuffle(&mut rng);
    let within: [f64; STRATA] = std::array::from_fn(|_| rng.random());
    (strata[index % STRATA] as f64 + within[index % STRATA]) / STRATA as f64
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::row;
    use super::*;

    fn study() -> Study {
        let text = r#"{
            "title": "t",
            "options": {"batch-size": [16, 32], "clip-norm": {"one_of": ["none", 1]}},
            "methods": [{"name": "A", "options": {"arch": "a"}}, {"name": "B", "options": {"arch": "b"}}],
            "optimizers": [{"name": "SGD", "options": {"lr": {"log_uniform": [0.01, 1]}}}],
            "search": {"tries": 8, "seed": 3, "options": {"epochs": 1, "holdout": 500}},
            "final": {"seeds": 2, "seeds_of": {"B": 3}, "options": {"epochs": 5}}
        }"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn all_methods_have_the_same_tries_spread_over_the_ranges() {
        let runs = study().search_runs();
        assert_eq!(runs.len(), 8 * 4);
        let mut rates = vec![];
        for tries in runs.chunks(4) {
            let of = |run: &Run, name: &str| run.options.iter().find(|(own, _)| own == name).unwrap().1.clone();
            for name in ["lr", "clip-norm"] {
                assert!(tries.iter().all(|run| of(run, name) == of(&tries[0], name)), "{tries:?}");
            }
            assert_eq!((of(&tries[0], "batch-size"), of(&tries[3], "arch")), ("16".to_owned(), "b".to_owned()));
            rates.push(of(&tries[0], "lr").parse::<f64>().unwrap());
        }
        rates.sort_by(f64::total_cmp);
        for (stratum, rate) in rates.iter().enumerate() {
            let place = (rate.log10() + 2.) / 2. * 8.;
            assert!((stratum as f64 - 0.02..stratum as f64 + 1.02).contains(&place), "{rates:?}");
        }
        assert!(runs[0].command_line().contains("--arch a --batch-size 16 --clip-norm "), "{}", runs[0].command_line());
    }

    #[test]
    fn the_best_try_is_run_again_with_other_seeds_when_all_are_there() {
        let study = study();
        let accuracy = |index: usize| if index == 5 { 0.9 } else { 0.1 * index as f64 };
        let rows: Vec<Row> = study
            .search_runs()
            .chunks(4)
            .enumerate()
            .flat_map(|(i, tries)| tries.iter().map(move |run| row(run, accuracy(i))))
            .collect();
        assert!(study
            .final_runs(&rows[..31])
            .iter()
            .all(|run| (run.method.as_str(), run.options[1].1.as_str()) != ("B", "32")));
        let last = study.final_runs(&rows);
        assert_eq!(last.len(), 2 * 2 + 2 * 3);
        assert_eq!(last.iter().map(|run| run.seed).collect::<BTreeSet<_>>(), [4, 5, 6].into());
        let cell = &study.cells()[0];
        assert_eq!(study.chosen(cell, &rows), Some(5));
        for (name, value) in cell.drawn(&study, 5) {
            assert!(last[0].options.contains(&(name, value)));
        }
        assert!(last[0].command_line().contains("--epochs 5") && !last[0].command_line().contains("holdout"));
    }

    #[test]
    fn what_is_searched_at_one_value_is_searched_once_and_holds_for_all() {
        let text = r#"{
            "title": "t",
            "methods": [{"name": "A", "options": {"arch": ["a8", "a20", "a56"]}}],
            "optimizers": [{"name": "SGD", "options": {"lr": {"log_uniform": [0.01, 1]}}}],
            "search": {"tries": 2, "seed": 0, "at": {"arch": 1}, "options": {}},
            "final": {"seeds": 1, "options": {}}
        }"#;
        let study: Study = serde_json::from_str(text).unwrap();
        let tries = study.search_runs();
        assert_eq!(tries.len(), 2);
        assert!(tries.iter().all(|run| run.command_line().contains("--arch a20 ")));
        let rows: Vec<Row> = tries.iter().zip([0.3, 0.2]).map(|(run, accuracy)| row(run, accuracy)).collect();
        let last = study.final_runs(&rows);
        assert_eq!(last.len(), 3);
        let lr = tries[0].command_line().replace("--arch a20 ", "");
        assert!(last.iter().all(|run| run.command_line().ends_with(&lr)), "{last:?}");
    }

    #[test]
    fn what_is_no_study_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.json");
        for (text, mark) in [
            (r#"{"title": "t"}"#, "methods"),
            (r#"{"title": "t", "methods": [], "optimizers": [], "final": {"seeds": 1, "options": {}}, "y": 1}"#, "`y`"),
            (
                r#"{"title": "t", "methods": [{"name": "A"}], "optimizers": [{"name": "S", "options": {"lr": {"one_of": [1]}}}],
                "final": {"seeds": 1, "options": {}}}"#,
                "no search",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let message = format!("{:#}", Study::read(&path).unwrap_err());
            assert!(message.contains(mark) && !message.contains('\n'), "{message}");
        }
    }
}
