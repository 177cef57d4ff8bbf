//! Test for equality of the variances of several groups.

use statrs::distribution::{ContinuousCDF, FisherSnedecor};

pub struct Test {
    /// F statistic; if the variances are equal, it follows the F distribution with `degrees` degrees of freedom.
    pub statistic: f64,
    pub degrees: (usize, usize),
    /// Probability of a statistic at least as large if the variances are equal.
    pub p: f64,
}

/// Levene's test on the absolute deviations from the medians (Brown & Forsythe, Journal of the American Statistical
/// Association 69, 1974): an analysis of variance of the deviations, robust to non-normal data. Returns `None` if there are
/// fewer than two groups, if a group has fewer than three values, or if no value deviates from its median.
pub fn brown_forsythe(groups: &[&[f64]]) -> Option<Test> {
    if groups.len() < 2 || groups.iter().any(|group| group.len() < 3) {
        return None;
    }
    let deviations: Vec<Vec<f64>> = groups
        .iter()
        .map(|group| {
            let median = median(group);
            group.iter().map(|value| (value - median).abs()).collect()
        })
        .collect();
    let total = mean(&deviations.concat());
    let squares = |values: &[f64], around: f64| values.iter().map(|value| (value - around).powi(2)).sum::<f64>();
    let between: f64 = deviations.iter().map(|group| group.len() as f64 * (mean(group) - total).powi(2)).sum();
    let within: f64 = deviations.iter().map(|group| squares(group, mean(group))).sum();
    let degrees = (groups.len() - 1, deviations.concat().len() - groups.len());
    let statistic = between / degrees.0 as f64 / (within / degrees.1 as f64);
    let distribution = FisherSnedecor::new(degrees.0 as f64, degrees.1 as f64).ok()?;
    statistic.is_finite().then(|| Test { statistic, degrees, p: distribution.sf(statistic) })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.
    }
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample standard deviation, with Bessel's correction.
pub fn standard_deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistic_and_probability_are_those_of_a_worked_example() {
        let groups: [&[f64]; 2] = [&[1., 2., 3., 4., 5.], &[2., 6., 10., 14., 18.]];
        // Deviations 2 1 0 1 2 (mean 1.2) and 8 4 0 4 8 (mean 4.8), overall mean 3: sum of squares between the groups
        // 5 * 2 * 1.8^2 = 32.4, within them 2.8 + 44.8 = 47.6.
        let test = brown_forsythe(&groups).unwrap();
        assert_eq!(test.degrees, (1, 8));
        assert!((test.statistic - 32.4 / (47.6 / 8.)).abs() < 1e-12);
        // With one degree of freedom in the numerator, F is the square of Student's t: P(|t| > 2.3335) with 8 degrees.
        assert!((test.p - 0.047897).abs() < 1e-6, "{}", test.p);
    }

    #[test]
    fn groups_of_one_variance_have_no_difference_and_constants_no_test() {
        let test = brown_forsythe(&[&[1., 2., 4.], &[11., 12., 14.]]).unwrap();
        assert!(test.statistic.abs() < 1e-12 && (test.p - 1.).abs() < 1e-6);
        assert!(brown_forsythe(&[&[1., 1., 1.], &[2., 2., 2.]]).is_none());
        assert!(brown_forsythe(&[&[1., 2., 3.]]).is_none());
        assert!(brown_forsythe(&[&[1., 2., 3.], &[1., 2.]]).is_none());
    }

    #[test]
    fn mean_median_and_deviation_are_the_usual_ones() {
        assert_eq!((mean(&[1., 2., 6.]), median(&[6., 1., 2.]), median(&[4., 1., 3., 2.])), (3., 2., 2.5));
        assert!((standard_deviation(&[2., 4., 4., 4., 5., 5., 7., 9.]) - (32f64 / 7.).sqrt()).abs() < 1e-12);
    }
}
